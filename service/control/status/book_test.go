package status_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control/status"
)

// A fake is a dataplane that answers what it is told to, after a while.
type fake struct {
	rep  service.Report
	err  error
	took time.Duration
}

func (f *fake) Sync(context.Context, *service.Snapshot) (service.Report, error) {
	time.Sleep(f.took)
	return f.rep, f.err
}

func (f *fake) Audit(context.Context) (service.Report, error) {
	time.Sleep(f.took)
	return f.rep, f.err
}

func (f *fake) Cleanup(context.Context) error { return nil }

// web is a Service with a cluster IP, a node port and two endpoints.
func web(rev uint64) *service.Snapshot {
	pool := service.Pool{{Addr: netip.MustParseAddrPort("10.244.1.2:8080")}, {Addr: netip.MustParseAddrPort("10.244.2.2:8080")}}
	id := service.PortID{Service: service.Name{Namespace: "shop", Name: "web"}, Port: "http"}
	six := id
	six.Family = service.IPv6
	return &service.Snapshot{Rev: rev, Ports: service.NewPortList(
		&service.Port{ID: id, Frontends: make([]service.Frontend, 2), Serving: pool},
		&service.Port{ID: six, Frontends: make([]service.Frontend, 1), Serving: pool[:1]},
		&service.Port{ID: service.PortID{Service: service.Name{Namespace: "shop", Name: "zz-headless"}}, Serving: pool},
	)}
}

func TestBookOfDataplanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b status.Book
		port := service.PortID{Service: service.Name{Namespace: "shop", Name: "web"}}
		local, main := &fake{}, &fake{took: time.Second, rep: service.Report{
			Resynced: true, Added: 3, Changed: 2, Removed: 1,
			Deviations: []service.Deviation{{Port: port, Reason: "cannot", Here: true}},
		}}
		planes := []service.Dataplane{b.Observe("localhost", local), b.Observe("ipvs", main)}
		sync := func(rev uint64) (service.Report, error) {
			var rep service.Report
			var errs []error
			for _, p := range planes {
				r, err := p.Sync(t.Context(), web(rev))
				rep, errs = r, append(errs, err)
			}
			return rep, errors.Join(errs...)
		}
		if b.Snapshot() != nil || b.Document(status.Document{}).Revision != 0 {
			t.Error("something is in force before the first sync")
		}
		rep, err := sync(7)
		if d := cmp.Diff(rep, main.rep); d != "" || err != nil {
			t.Errorf("the report came through as (-got +want), error %v:\n%s", err, d)
		}
		first := time.Now()
		doc := b.Document(status.Document{Healthy: true})
		want := status.Counts{Services: 1, Ports: map[string]int{"IPv4": 1, "IPv6": 1}, Addresses: 3, Endpoints: 2}
		if d := cmp.Diff(doc.Counts, want); d != "" || doc.Revision != 7 || !doc.Well() {
			t.Errorf("revision %d, well %v, counts (-got +want):\n%s", doc.Revision, doc.Well(), d)
		}
		wantPlane := status.Dataplane{
			Name: "ipvs", Revision: 7, Attempted: 7, Syncs: 1,
			LastSync:   &status.Call{At: first, Took: time.Second, Added: 3, Changed: 2, Removed: 1, Resynced: true},
			Deviations: []status.Deviation{{Port: "shop/web/tcp/IPv4", Reason: "cannot", Here: true}},
		}
		if d := cmp.Diff(doc.Dataplanes[1], wantPlane); d != "" {
			t.Errorf("dataplane (-got +want):\n%s", d)
		}

		// A failure, twice, and an end to it.
		main.err, main.rep = errors.New("kernel says no"), service.Report{}
		for range 2 {
			if _, err := sync(8); err == nil {
				t.Error("the error was swallowed")
			}
		}
		doc = b.Document(status.Document{Healthy: true})
		failing := &status.Failure{Since: first.Add(time.Second), Last: first.Add(2 * time.Second), Times: 2, What: "sync", Error: "kernel says no"}
		if d := cmp.Diff(doc.Dataplanes[1].Failing, failing); d != "" || doc.Revision != 7 || doc.Well() {
			t.Errorf("revision %d, well %v, failing (-got +want):\n%s", doc.Revision, doc.Well(), d)
		}
		if got := b.Snapshot(); got == nil || got.Rev != 7 {
			t.Errorf("in force: %+v, want revision 7, which is in force in both", got)
		}
		main.err = nil
		if _, err := sync(9); err != nil {
			t.Error(err)
		}
		doc = b.Document(status.Document{Healthy: true})
		if p := doc.Dataplanes[1]; p.Failing != nil || p.LastError == nil || p.Failures != 2 || p.Revision != 9 || !doc.Well() {
			t.Errorf("after it worked again: %+v", p)
		}
		if len(doc.Dataplanes[1].Deviations) != 0 {
			t.Error("a deviation outlives the report that no longer has it")
		}

		main.rep = service.Report{Repaired: true, Changed: 4, Deviations: []service.Deviation{{Port: port, Reason: "taken"}}}
		if _, err := planes[1].Audit(t.Context()); err != nil {
			t.Error(err)
		}
		p := b.Document(status.Document{}).Dataplanes[1]
		if p.Repairs != 1 || !p.LastAudit.Repaired || p.LastAudit.Changed != 4 || len(p.Deviations) != 1 {
			t.Errorf("after a repair: %+v", p)
		}
	})
}

// TestBookIgnoresTheEnd holds that being told to stop is no error.
func TestBookIgnoresTheEnd(t *testing.T) {
	var b status.Book
	dp := b.Observe("iptables", &fake{err: context.Canceled})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dp.Sync(ctx, web(1)); err == nil {
		t.Error("the error was swallowed")
	}
	if p := b.Document(status.Document{}).Dataplanes[0]; p.Failing != nil || p.Failures != 0 {
		t.Errorf("noted as a failure: %+v", p)
	}
}

func TestBookOfProblems(t *testing.T) {
	var b status.Book
	seen := 0
	report := b.Objects(func(service.Object, []service.Problem) { seen++ })
	dp := b.Observe("iptables", &fake{})
	object := func(name string) service.Object {
		return service.Object{Kind: "Service", Name: service.Name{Namespace: "shop", Name: name}}
	}
	problem := func(name, message string) service.Problem {
		return service.Problem{Object: object(name), Reason: "Bad", Message: message}
	}
	report(object("b"), []service.Problem{problem("b", "odd"), problem("b", "ends")})
	report(object("c"), []service.Problem{problem("c", "gone soon")})
	report(object("c"), nil)
	snap := web(1)
	snap.Problems = []service.Problem{problem("a", "conflict"), problem("b", "odd")}
	if _, err := dp.Sync(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	got := b.Document(status.Document{}).Problems
	want := []string{"Bad: Service shop/a: conflict", "Bad: Service shop/b: ends", "Bad: Service shop/b: odd"}
	if d := cmp.Diff(got, want); d != "" || seen != 3 {
		t.Errorf("%d reports passed on, problems (-got +want):\n%s", seen, d)
	}
}

func TestBookOfTheLog(t *testing.T) {
	var b status.Book
	var out strings.Builder
	log := slog.New(b.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	log.Info("said to nobody")
	log.With("port", "shop/web").WithGroup("g").Warn("odd", "err", errors.New("no way"))
	log.Error("again")
	log.Error("again")
	doc := b.Document(status.Document{})
	want := []status.Note{
		{Level: "warn", Text: `msg=odd port=shop/web g.err="no way"`, Times: 1},
		{Level: "error", Text: "msg=again", Times: 2},
	}
	if d := cmp.Diff(doc.Notes, want, cmpopts.IgnoreFields(status.Note{}, "At")); d != "" {
		t.Errorf("notes (-got +want):\n%s", d)
	}
	if got := strings.Count(out.String(), "\n"); got != 2 || strings.Contains(out.String(), "odd") {
		t.Errorf("the log itself has another level now:\n%s", out.String())
	}
	for i := range 100 {
		log.Warn("many", "n", i)
	}
	notes := b.Document(status.Document{}).Notes
	if len(notes) != 16 || notes[15].Text != "msg=many n=99" {
		t.Errorf("%d notes, the last %+v; want 16 and the last one written", len(notes), notes[len(notes)-1])
	}
}

func TestBookOfL7(t *testing.T) {
	var b status.Book
	if b.Document(status.Document{}).L7 != nil {
		t.Error("a child before one was started")
	}
	b.SetL7(10)
	b.SetL7(0)
	b.SetL7(11)
	if l7 := b.Document(status.Document{}).L7; l7.PID != 11 || l7.Starts != 2 {
		t.Errorf("got %+v, want pid 11, started twice", l7)
	}
}

func TestText(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	doc := status.Document{
		Version: "v1", PID: 77, Started: ago(75 * time.Hour), Now: now, Node: "n1", Source: "manifests in /m",
		Mode: "ipvs", ModeReason: "it is asked for", Tools: []string{"iptables 1.8.9, nft"},
		Families: []string{"IPv4"}, Unserved: map[string]string{"IPv6": "no ip6tables"},
		Healthy: false, Eligible: false, Revision: 7,
		Counts:  status.Counts{Services: 1, Ports: map[string]int{"IPv4": 2}, Addresses: 3, Endpoints: 4},
		Objects: []status.Count{{Name: "virtual servers", Number: 3}},
		Dataplanes: []status.Dataplane{{
			Name: "ipvs", Revision: 7, Attempted: 8, Syncs: 3, Failures: 2,
			LastSync:   &status.Call{At: ago(90 * time.Second), Took: 1234567, Added: 1},
			LastAudit:  &status.Call{At: ago(5 * time.Second), Took: time.Millisecond, Repaired: true, Changed: 9},
			Failing:    &status.Failure{Since: ago(time.Minute), Last: ago(time.Second), Times: 2, What: "sync", Error: "no\nway"},
			Deviations: []status.Deviation{{Port: "shop/web/tcp/IPv4", Reason: "cannot", Here: true}},
		}},
		Problems: []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"},
		Notes:    []status.Note{{At: ago(time.Hour), Level: "warn", Text: "msg=odd", Times: 3}},
		L7:       &status.L7{Since: ago(2 * time.Second), Starts: 4},
	}
	var out strings.Builder
	if err := status.WriteText(&out, &doc); err != nil {
		t.Fatal(err)
	}
	want := `fairlead   v1 on n1, pid 77, running for 3d
mode       ipvs: it is asked for
           iptables 1.8.9, nft
source     manifests in /m
families   IPv4
           IPv6 is not served: no ip6tables
health     NOT healthy: changes have been waiting for too long; load balancers are told to use other nodes, by the Node object
in force   revision 7
services   1; ports: 2 IPv4; addresses with a port: 3; endpoints: 4
kernel     virtual servers: 3
ipvs       synced 2026-03-01T11:58:30Z, 2m ago; took 1.23ms; 1 added, 0 changed, 0 removed
           FAILING since 2026-03-01T11:59:00Z, 1m ago, 2 times: sync of revision 8: no; way
           audited 2026-03-01T11:59:55Z, 5s ago; took 1ms; REPAIRED what others had changed: 0 added, 9 changed, 0 removed
           since start: 3 syncs, 2 failures, 0 repairs
deviations shop/web/tcp/IPv4: cannot (on this node)
l7         NOT running since 2026-03-01T11:59:58Z, 2s ago; started 4 times
problems   1
           2
           3
           4
           5
           6
           7
           8
           9
           10
           and 2 more; see them with -o json
log        2026-03-01T11:00:00Z warn msg=odd (3 times)
`
	if d := cmp.Diff(out.String(), want); d != "" {
		t.Errorf("text (-got +want):\n%s", d)
	}
}
