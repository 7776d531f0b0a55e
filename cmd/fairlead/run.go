package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/conntrack"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube/manifests"
	"github.com/fairlead-project/fairlead/service/kube/watch"
	"github.com/fairlead-project/fairlead/service/sysctl"
)

const runUsage = `fairlead puts the Services of a Kubernetes cluster in force on this node.

Usage:
  fairlead [flags]           follow an API server, as kube-proxy does
  fairlead --manifests DIR   follow a folder of manifests
  fairlead plan -f FILE      print the rules for manifests
  fairlead trace -f FILE --from ADDR --to ADDR:PORT
                             explain what happens to a packet
  fairlead ipvs              show virtual servers and the Services they are for
  fairlead cleanup           remove everything fairlead put in the kernel`

// run is fairlead without a subcommand.
func (c command) run(ctx context.Context, args []string) error {
	var f flags
	fs, err := c.parse(runUsage, args, f.addRun)
	if err != nil {
		return err
	}
	if f.Version {
		_, err := fmt.Fprintln(c.out, "fairlead", buildVersion())
		return err
	}
	f.complete(fs)
	cfg, err := f.config()
	if err != nil {
		return usageError(err)
	}
	log := c.logger(f.Verbosity)
	log.Info("fairlead starts", append([]any{"version", buildVersion()}, attrs(fs)...)...)
	p := newProcess(&f, cfg, log)
	err = p.run(ctx, engines()[cfg.Mode])
	if err == nil {
		log.Info("told to stop; the rules stay in place")
	}
	return err
}

// A process is fairlead while it runs.
type process struct {
	flags *flags
	cfg   config
	log   *slog.Logger
	reg   *prometheus.Registry
	root  string // of /proc and /sys

	client   kubernetes.Interface // nil with a folder of manifests
	reporter *reporter
	events   *watch.Recorder // nil with a folder of manifests

	tasks  sync.WaitGroup
	cancel context.CancelCauseFunc
}

func newProcess(f *flags, cfg config, log *slog.Logger) *process {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &process{flags: f, cfg: cfg, log: log, reg: reg, root: "/"}
}

// start runs a task until it ends or ctx does. A task that fails ends the
// process.
func (p *process) start(ctx context.Context, task func(context.Context) error) {
	p.tasks.Go(func() {
		if err := task(ctx); err != nil {
			p.cancel(err)
		}
	})
}

// run finds the dataplane, sets up everything around it, and stays until ctx is
// done, which is no error, or something fails that it cannot do without. Rules
// stay in place either way.
func (p *process) run(ctx context.Context, find findFunc) error {
	inner, cancel := context.WithCancelCause(ctx)
	p.cancel = cancel
	defer p.tasks.Wait()
	defer cancel(nil)
	err := p.setUp(inner, find)
	if err == nil {
		<-inner.Done()
		err = context.Cause(inner)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (p *process) setUp(ctx context.Context, find findFunc) error {
	name, err := p.nodeName()
	if err != nil {
		return err
	}
	if err := p.connect(name); err != nil {
		return err
	}
	eng, err := find(ctx, engineConfig{Flags: p.flags, Config: p.cfg, Root: p.root, Log: p.log, Registry: p.reg})
	if err != nil {
		return err
	}
	state, err := p.nodeState(ctx, name)
	if err != nil {
		return err
	}
	families, err := p.families(state, eng)
	if err != nil {
		return err
	}
	node := state.build()
	if err := p.sysctls(eng.sysctls(&node, families)); err != nil {
		return err
	}
	plane, err := eng.open(families)
	if err != nil {
		return err
	}
	local, err := p.openLocalhost(families)
	if err != nil {
		return err
	}
	// First, so that there is somebody else already when rules do not serve any more
	// what they did before.
	loop, err := p.assemble(ctx, state, families, append(local.planes(), plane))
	if err != nil {
		return errors.Join(err, local.close())
	}
	p.start(ctx, local.run)
	p.start(ctx, func(ctx context.Context) error { return eng.watch(ctx, loop.AuditSoon) })
	if p.flags.L7.Enabled {
		task, err := p.child(name)
		if err != nil {
			return err
		}
		p.start(ctx, task)
	}
	return nil
}

// nodeName returns the name this node has among Nodes.
func (p *process) nodeName() (string, error) {
	if p.cfg.Node.Name != "" {
		return p.cfg.Node.Name, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the name of this node, since --hostname-override is not given: %w", err)
	}
	return strings.ToLower(strings.TrimSpace(host)), nil
}

// connect prepares the way to the API server, without using it yet.
func (p *process) connect(name string) error {
	if p.flags.Manifests == "" {
		rc, err := watch.Config(p.flags.Kubeconfig, p.flags.Master, p.flags.QPS, p.flags.Burst)
		if err != nil {
			return err
		}
		if p.client, err = kubernetes.NewForConfig(rc); err != nil {
			return fmt.Errorf("connect to the API server: %w", err)
		}
		p.events = watch.NewRecorder(p.client, name, p.log)
	}
	p.reporter = newReporter(p.log, p.events)
	return nil
}

// nodeState gathers what is known of this node at start.
func (p *process) nodeState(ctx context.Context, name string) (nodeState, error) {
	s := nodeState{Config: p.cfg.Node, Name: name}
	var err error
	if s.Addrs, err = readAddrs(); err != nil {
		return s, err
	}
	if p.client != nil {
		s.Info, err = awaitNode(ctx, p.client.CoreV1().Nodes(), name, p.cfg.Node.Detect, p.log)
		return s, err
	}
	// The source reports what is wrong with the manifests.
	objects, _ := manifests.Load(p.flags.Manifests)
	s.Info = nodes(objects)[name]
	if p.cfg.Node.Detect == detectNodeCIDR && len(s.Info.PodCIDRs) == 0 {
		return s, fmt.Errorf("--detect-local-mode=NodeCIDR: no manifest in %s is of a Node %s with pod CIDRs", p.flags.Manifests, name)
	}
	return s, nil
}

// families decides what to serve, and says so if it is less than both.
func (p *process) families(s nodeState, eng engine) ([]service.Family, error) {
	unusable := eng.unusable()
	primary, known := s.primaryFamily()
	if !known && unusable[primary] != nil {
		primary = 1 - primary
	}
	families, err := chooseFamilies(primary, unusable)
	if err == nil && len(families) == 1 {
		p.log.Warn("only one address family is served", "family", families[0], "because", unusable[1-families[0]])
	}
	return families, err
}

// sysctls sets kernel parameters: those of connection tracking and more.
func (p *process) sysctls(more []sysctl.Setting) error {
	ct := p.flags.conntrack()
	ncpu := 0
	if ct.MaxPerCore > 0 {
		var err error
		if ncpu, err = sysctl.OnlineCPUs(p.root); err != nil {
			return fmt.Errorf("count CPUs for --conntrack-max-per-core: %w", err)
		}
	}
	skipped, err := sysctl.Apply(p.root, append(more, sysctl.ConntrackSettings(ct, ncpu)...))
	for _, s := range skipped {
		p.log.Warn("a kernel parameter of the whole machine was left alone", "err", s)
	}
	return err
}

// assemble builds the loop and everything that talks to it, and starts it all.
func (p *process) assemble(ctx context.Context, state nodeState, families []service.Family, planes []service.Dataplane) (*control.Loop, error) {
	metrics := control.NewMetrics(p.reg, buildVersion())
	health := control.NewHealth(2*p.cfg.SyncPeriod, families)
	cleaner, err := p.cleaner(ctx, families, metrics)
	if err != nil {
		return nil, err
	}
	store := service.NewStore()
	store.SetNode(state.build())
	loop, err := control.New(control.Config{
		Log:           p.log,
		SyncPeriod:    p.cfg.SyncPeriod,
		MinSyncPeriod: max(p.cfg.MinSyncPeriod, 1), // to the loop, 0 is not given; to the operator, no wait
		Families:      families,
		Health:        health,
		Metrics:       metrics,
		HealthPorts:   control.NewHealthPorts(health, p.log),
		Problems:      p.reporter.decided,
		Stale:         p.stale(cleaner),
	}, store, planes)
	if err != nil {
		return nil, err
	}
	track := &tracker{sink: loop, health: health, log: p.log, stop: p.cancel, state: state, known: state.Info.Name != ""}
	p.serve(ctx, state, health.Handler(metrics))
	p.start(ctx, func(ctx context.Context) error {
		return watchAddrs(ctx, p.log, state.Addrs, func(a localAddrs) { track.setAddrs(ctx, a) })
	})
	p.start(ctx, p.source(loop, track))
	p.start(ctx, loop.Run)
	return loop, nil
}

// stale returns what is told of UDP flows that rules have left behind.
func (p *process) stale(c *conntrack.Cleaner) func(*service.Stale) {
	if p.cfg.Mode != modeUserspace {
		return c.Enqueue
	}
	return func(s *service.Stale) {
		s.Untranslated() // what is not is ours
		c.Enqueue(s)
	}
}

// cleaner returns what deletes stale UDP flows, and starts it.
func (p *process) cleaner(ctx context.Context, families []service.Family, m *control.Metrics) (*conntrack.Cleaner, error) {
	kernel, err := conntrack.Open()
	if err != nil {
		return nil, fmt.Errorf("open the connection-tracking table: %w", err)
	}
	cleaner := conntrack.New(conntrack.Config{Families: families, Log: p.log, Observe: m.ObserveConntrack}, kernel)
	p.start(ctx, func(ctx context.Context) error {
		return errors.Join(cleaner.Run(ctx), kernel.Close())
	})
	return cleaner, nil
}

// serve starts the two HTTP servers.
func (p *process) serve(ctx context.Context, state nodeState, health http.Handler) {
	for _, s := range []struct {
		name, addr, event string
		handler           http.Handler
	}{
		{"healthz", p.cfg.Healthz, "FailedToStartProxierHealthcheck", health},
		{"metrics", p.cfg.Metrics, "FailedToStartMetricServer", control.MetricsHandler(control.MetricsConfig{
			Gatherer: p.reg, ProxyMode: p.cfg.Mode, Profiling: p.flags.Profiling,
		})},
	} {
		server := control.Server{
			Name: s.name, Addr: s.addr, Handler: s.handler, Log: p.log,
			HardFail: p.flags.BindAddressHardFail,
			Failed: func(err error) {
				p.reporter.node(state.Name, state.Info, s.event, err.Error())
			},
		}
		if p.flags.Profiling && s.name == "metrics" {
			server.WriteTimeout = profileTimeout
		}
		p.start(ctx, server.Run)
	}
}

// profileTimeout leaves time for a CPU profile or trace of some length.
const profileTimeout = 5 * time.Minute

// source returns the task that feeds the loop.
func (p *process) source(loop *control.Loop, track *tracker) func(context.Context) error {
	if p.client == nil {
		src := &manifests.Source{
			Dir: p.flags.Manifests, Sink: loop, Log: p.log,
			NodeName: track.state.Name, Node: track.setFolderInfo, Report: p.reporter.report,
		}
		return src.Run
	}
	src := &watch.Source{
		Client: p.client, Sink: loop, Log: p.log,
		NodeName: track.state.Name, Node: track.setInfo, Report: p.reporter.report,
	}
	return func(ctx context.Context) error {
		var events sync.WaitGroup
		events.Go(func() { p.events.Run(ctx) })
		src.Run(ctx)
		events.Wait()
		return nil
	}
}
