package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/l7"
	"github.com/fairlead-project/fairlead/l7/ingress"
	l7kube "github.com/fairlead-project/fairlead/l7/kube"
	l7watch "github.com/fairlead-project/fairlead/l7/kube/watch"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube/manifests"
	"github.com/fairlead-project/fairlead/service/kube/watch"
)

const l7Usage = `fairlead l7 serves the Ingresses of a Kubernetes cluster.

Usage:
  fairlead l7 [flags]           follow an API server
  fairlead l7 --manifests DIR   follow a folder of manifests`

// l7 is fairlead l7.
func (c command) l7(ctx context.Context, args []string) error {
	var f l7Flags
	fs, err := c.parse(l7Usage, args, f.add)
	if err != nil {
		return err
	}
	if f.Version {
		_, err := fmt.Fprintln(c.out, "fairlead", buildVersion())
		return err
	}
	cfg, err := f.configL7(os.Getenv)
	if err != nil {
		return usageError(err)
	}
	log := c.logger(f.Verbosity)
	log.Info("fairlead l7 starts", append([]any{"version", buildVersion()}, attrs(fs)...)...)
	p := &l7Process{flags: &f, cfg: cfg, log: log, out: c.out, reg: prometheus.NewRegistry()}
	p.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	err = p.run(ctx)
	if err == nil {
		log.Info("told to stop, and done")
	}
	return err
}

// An l7Process is fairlead l7 while it runs.
type l7Process struct {
	flags *l7Flags
	cfg   l7Config
	log   *slog.Logger
	out   io.Writer
	reg   *prometheus.Registry

	node     string
	client   kubernetes.Interface // nil with a folder of manifests
	compact  *watch.Compact       // the same
	elect    kubernetes.Interface // with a limit of its own
	announce *l7watch.Announcer
	greeter  *l7watch.Greeter  // nil with a folder of manifests
	statuses *l7watch.Statuses // the same
	server   *l7.Server
	draining sync.Once
	drained  chan struct{} // closed when it is time to send nobody here

	tasks  sync.WaitGroup
	cancel context.CancelCauseFunc
}

// start runs a task until it ends or ctx does. A task that fails ends the process.
func (p *l7Process) start(ctx context.Context, task func(context.Context) error) {
	p.tasks.Go(func() {
		if err := task(ctx); err != nil {
			p.cancel(err)
		}
	})
}

// run serves until ctx is done; then it sends clients elsewhere, answers the requests under way, and
// returns nil.
func (p *l7Process) run(ctx context.Context) error {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	p.cancel, p.drained = cancel, make(chan struct{})
	defer p.tasks.Wait()
	defer cancel(nil)
	listeners, err := p.listen(inner)
	if err != nil {
		return err
	}
	if err := p.setUp(inner); err != nil {
		listeners.close()
		return err
	}
	defer p.server.Close()
	select {
	case <-p.server.Complete():
		p.log.Info("everything is in force")
		listeners.serve(inner, p)
	case <-ctx.Done():
	case <-inner.Done():
	}
	select {
	case <-ctx.Done():
	case <-inner.Done():
	case <-listeners.successor():
		p.log.Info("another process has taken over the listeners")
		return p.drain(inner, listeners, 0) // somebody else serves in our place: the status stays
	}
	if err := context.Cause(inner); err != nil && ctx.Err() == nil {
		listeners.close()
		return err
	}
	p.leave()
	err = p.drain(inner, listeners, p.flags.ShutdownDelay)
	p.left(inner)
	return err
}

// drain is the end in good order.
func (p *l7Process) drain(ctx context.Context, l *l7Listeners, wait time.Duration) error {
	p.draining.Do(func() { close(p.drained) })
	if wait > 0 && l.serving {
		p.log.Info("no new clients, please", "for", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	engine := p.server.Engine()
	engine.Stop()
	l.close()
	limit := p.server.DrainTime()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := engine.Shutdown(ctx); err != nil {
		p.log.Warn("not every client was done in time", "limit", limit, "err", err)
	}
	return nil
}

func (p *l7Process) setUp(ctx context.Context) error {
	p.node = cmp.Or(p.flags.HostnameOverride, os.Getenv("NODE_NAME"))
	if p.node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the name of this node, since --hostname-override is not given: %w", err)
		}
		p.node = strings.ToLower(strings.TrimSpace(host))
	}
	if err := p.connect(); err != nil {
		return err
	}
	c := p.cfg.server
	c.Log = p.log
	if p.flags.AccessLog {
		c.AccessLog = p.out
	}
	c.Problems = newSettler(settleTime, func(list []service.Problem) { p.announce.All("l7", list) }).all
	if p.statuses != nil {
		c.Served, c.InForce = p.statuses.Serve, p.greeter.InForce
	}
	var err error
	if p.server, err = l7.New(c); err != nil {
		return err
	}
	p.server.Register(p.reg)
	p.start(ctx, p.server.Run)
	p.serveAbout(ctx)
	if err := p.follow(ctx); err != nil {
		return err
	}
	p.lead(ctx)
	return nil
}

// connect prepares the ways to the API server, without using them yet.
func (p *l7Process) connect() error {
	if p.flags.Manifests == "" {
		var rc *rest.Config
		for _, to := range []*kubernetes.Interface{&p.client, &p.elect} {
			var err error
			rc, err = watch.Config(p.flags.Kubeconfig, p.flags.Master, p.flags.QPS, p.flags.Burst)
			if err != nil {
				return err
			}
			if *to, err = kubernetes.NewForConfig(rc); err != nil {
				return fmt.Errorf("connect to the API server: %w", err)
			}
		}
		var err error
		if p.compact, err = watch.NewCompact(rc); err != nil {
			return err
		}
		p.statuses = l7watch.NewStatuses(p.client, p.cfg.lease, p.log)
		p.greeter = l7watch.NewGreeter(p.client, p.node, p.log)
	}
	p.announce = l7watch.NewAnnouncer(p.client, p.node, p.log)
	return nil
}

// follow starts what feeds the server: Services through a loop as at L4, the rest directly.
func (p *l7Process) follow(ctx context.Context) error {
	store := service.NewStore()
	store.SetNode(service.Node{Name: p.node})
	loop, err := control.New(control.Config{
		Log: p.log, SyncPeriod: time.Hour, MinSyncPeriod: 10 * time.Millisecond, Problems: func([]service.Problem) {},
	}, store, []service.Dataplane{p.server})
	if err != nil {
		return err
	}
	track := &zoneTracker{loop: loop, node: service.Node{Name: p.node}}
	p.start(ctx, loop.Run)
	if p.client == nil {
		folder := &l7kube.Folder{Sink: p.server, Report: p.announce.From("manifests")}
		src := &manifests.Source{
			Dir: p.flags.Manifests, Sink: loop, Log: p.log, NodeName: p.node, Node: track.set, All: true,
			Report: p.announce.From("services"), More: l7kube.Kinds(), Others: folder.Others,
		}
		p.start(ctx, src.Run)
		return nil
	}
	services := &watch.Source{
		Client: p.client, Compact: p.compact, Sink: loop, Log: p.log, NodeName: p.node, Node: track.set, All: true, Report: p.announce.From("services"),
	}
	objects := &l7watch.Source{
		Client: p.client, Sink: p.server, Log: p.log, Namespace: p.flags.WatchNamespace,
		Serves: func(v *ingress.Ingress, classes map[string]*ingress.Class) bool {
			return l7kube.Serves(&p.cfg.server.Ingress, v, classes)
		},
		Always:  l7kube.References{Secrets: p.always()},
		Globals: p.cfg.server.Globals, Report: p.announce.From("objects"), Statuses: p.statuses,
	}
	p.start(ctx, func(ctx context.Context) error { services.Run(ctx); return nil })
	p.start(ctx, objects.Run)
	return nil
}

// always are the Secrets that no Ingress names.
func (p *l7Process) always() []service.Name {
	var list []service.Name
	for _, n := range []service.Name{p.cfg.server.DefaultCertificate, p.cfg.server.Keys} {
		if n.Name != "" {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, service.Name.Compare)
	return slices.Compact(list)
}

// serveAbout starts the servers for who looks after us.
func (p *l7Process) serveAbout(ctx context.Context) {
	health := http.NewServeMux()
	health.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	health.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	health.HandleFunc("/readyz", p.readyz)
	for _, s := range []control.Server{
		{Name: "healthz", Addr: p.flags.HealthzBindAddress, Handler: health},
		{Name: "metrics", Addr: p.flags.MetricsBindAddress, Handler: control.MetricsHandler(control.MetricsConfig{
			Gatherer: p.reg, ProxyMode: "l7", Profiling: p.flags.Profiling,
		})},
		{Name: "status", Addr: p.flags.Status, Handler: p.server.StatusPage(p.cfg.allow)},
	} {
		s.Log = p.log
		if p.flags.Profiling {
			s.WriteTimeout = profileTimeout
		}
		p.start(ctx, s.Run)
	}
}

// readyz says whether clients may be sent here.
func (p *l7Process) readyz(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-p.drained:
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	default:
	}
	select {
	case <-p.server.Complete():
		fmt.Fprintln(w, "ok")
	default:
		http.Error(w, "not everything is in force yet", http.StatusServiceUnavailable)
	}
}
