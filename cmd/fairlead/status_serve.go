package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/control/status"
)

// A teller tells about this process. Its book is open from the beginning; the rest
// is set before the socket is.
type teller struct {
	book    *status.Book
	started time.Time

	about    status.Document // what does not change
	health   *control.Health
	gather   prometheus.Gatherer
	log      *slog.Logger
	simulate simulator
}

// newTeller returns a teller for a process that starts now.
func newTeller() *teller { return &teller{book: new(status.Book), started: time.Now()} }

// observe returns planes with the book between them and the loop. The last of them
// is that of the mode.
func (p *process) observe(planes []service.Dataplane) []service.Dataplane {
	out := make([]service.Dataplane, 0, len(planes))
	for i, dp := range planes {
		name := p.cfg.Mode
		if i < len(planes)-1 {
			name = "localhost"
		}
		out = append(out, p.teller.book.Observe(name, dp))
	}
	return out
}

// describe notes what is decided at start.
func (p *process) describe(node string, families []service.Family, eng engine) {
	d := &p.teller.about
	d.Version, d.PID, d.Started = buildVersion(), os.Getpid(), p.teller.started
	d.Node, d.Source = node, p.sourceName()
	d.Mode, d.ModeReason = p.cfg.Mode, p.modeReason()
	if e, ok := eng.(interface{ describe() []string }); ok {
		d.Tools = e.describe()
	}
	d.Unserved = make(map[string]string)
	for f, err := range eng.unusable() {
		if err != nil {
			d.Unserved[service.Family(f).String()] = err.Error()
		}
	}
	for _, f := range families {
		d.Families = append(d.Families, f.String())
		delete(d.Unserved, f.String())
	}
}

func (p *process) sourceName() string {
	if p.client == nil {
		return "manifests in " + p.flags.Manifests
	}
	if rest := p.client.CoreV1().RESTClient(); rest != nil {
		return "API server " + rest.Get().URL().Host
	}
	return "API server"
}

// modeReason says why it is this mode.
func (p *process) modeReason() string {
	switch {
	case p.why != "":
		return p.why
	case p.flags.ProxyMode == "":
		return "the default, since no proxy mode is asked for"
	default:
		return "it is asked for"
	}
}

// serveStatus starts to answer at the socket. That it cannot be had is a warning:
// what it is for can be had without.
func (p *process) serveStatus(ctx context.Context, health *control.Health) {
	if p.flags.Status.Socket == "" {
		return
	}
	t := p.teller
	t.health, t.gather, t.log = health, p.reg, p.log
	r := request{dataplane: p.cfg.Mode, ipvs: p.cfg.IPVS, userspace: p.cfg.Userspace.Config, localhost: p.cfg.LocalhostProxy}
	t.simulate = r.simulator(p.flags)
	l, err := status.Listen(p.flags.Status.Socket)
	if err != nil {
		p.log.Warn("fairlead status and fairlead trace cannot ask us; --status-socket= silences this", "err", err)
		return
	}
	p.start(ctx, func(ctx context.Context) error { return status.Serve(ctx, l, t.handler(), p.log) })
}

// handler answers those who have been let in.
func (t *teller) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, t.document(), nil) })
	mux.HandleFunc("POST /trace", func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			answer(w, nil, usageError(err))
			return
		}
		a, err := t.trace(q)
		answer(w, a, err)
	})
	return mux
}

// answer writes what is asked for, or an error: one of the question if it is
// errUsage.
func answer(w http.ResponseWriter, what any, err error) {
	var text bytes.Buffer
	if err == nil {
		err = json.NewEncoder(&text).Encode(what)
	}
	code := http.StatusOK
	if err != nil {
		code = http.StatusInternalServerError
		if errors.Is(err, errUsage) {
			code = http.StatusBadRequest
		}
		text.Reset()
		text.WriteString(strings.TrimSuffix(err.Error(), " ("+errUsage.Error()+")"))
	}
	w.WriteHeader(code)
	_, _ = w.Write(text.Bytes()) // who has gone away meanwhile misses it
}

// document says how we are.
func (t *teller) document() status.Document {
	d := t.about
	d.Now = time.Now()
	d.Healthy, d.Eligible = t.health.Healthy(), t.health.NodeEligible()
	d = t.book.Document(d)
	d.Objects = kernelObjects(t.gather, t.log) // afterwards, so that what is in force is counted
	return d
}

// trace explains what is in force for a packet.
func (t *teller) trace(q question) (traceAnswer, error) {
	snap := t.book.Snapshot()
	if snap == nil {
		return traceAnswer{}, errors.New("nothing is in force yet from the running fairlead; fairlead status tells why")
	}
	flow, err := q.flow(&snap.Node)
	if err != nil {
		return traceAnswer{}, usageError(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "asked    fairlead on %s, pid %d, mode %s, revision %d\n", t.about.Node, t.about.PID, t.about.Mode, snap.Rev)
	err = command{out: &out, err: &out}.explain(snap, t.simulate, flow, q.All)
	if err != nil && !errors.Is(err, errReported) {
		return traceAnswer{}, err
	}
	return traceAnswer{Text: out.String(), Bad: err != nil}, nil
}

// kernelObjects counts what is in the kernel, as the metrics do.
func kernelObjects(g prometheus.Gatherer, log *slog.Logger) []status.Count {
	families, err := g.Gather()
	if err != nil {
		log.Warn("some of what is in the kernel could not be counted", "err", err)
	}
	sums := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetGauge().GetValue()
		}
	}
	var out []status.Count
	for _, known := range []struct{ metric, name string }{
		{"kubeproxy_sync_proxy_rules_iptables_total", "iptables rules"},
		{"fairlead_ipvs_virtual_servers", "virtual servers"},
		{"fairlead_ipvs_destinations", "destinations"},
		{"fairlead_ipvs_draining_destinations", "draining"},
		{"fairlead_userspace_connections", "proxied connections"},
		{"fairlead_userspace_udp_sessions", "UDP sessions"},
		{"fairlead_userspace_ejected_endpoints", "ejected endpoints"},
	} {
		if n, ok := sums[known.metric]; ok {
			out = append(out, status.Count{Name: known.name, Number: int64(n)})
		}
	}
	return out
}
