package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
  fairlead status            ask the running fairlead how it is
  fairlead trace --from ADDR --to ADDR:PORT
                             explain what happens to a packet
  fairlead plan -f FILE      print the rules for manifests
  fairlead ipvs              show virtual servers and the Services they are for
  fairlead l7                serve the Ingresses of a cluster
  fairlead check --migrate   say what becomes of Ingresses made for ingress-nginx
  fairlead cleanup           remove everything fairlead put in the kernel
  fairlead completion SHELL  print a script that completes command lines`

// run is fairlead without a subcommand.
func (c command) run(ctx context.Context, args []string) error {
	var f flags
	fs, err := c.parse(runUsage, args, f.addRun)
	if err != nil {
		return err
	}
	if done, err := c.printVersion(f.Files.Version); done || err != nil {
		return err
	}
	set, cfgs, err := understand(&f, fs)
	if err != nil {
		return err
	}
	f.sampleMemory()
	log := newLogger(c.err, &f.Log, f.Verbosity)
	set.tell(log)
	if done, err := c.instead(ctx, set); done || err != nil {
		return err
	}
	log.Info("fairlead starts", append([]any{"version", buildVersion()}, attrs(fs)...)...)
	p := newProcess(&f, cfgs[0], log)
	p.settle(set, cfgs, func() (*loader, error) { return c.again(args) })
	p.takesOver = f.Takeover.Enabled
	p.flagz = func() map[string]string { return flagValues(fs) }
	err = p.run(ctx, engines()[cfgs[0].Mode])
	if errors.Is(err, errInitialized) {
		log.Info("kernel parameters are set; --init-only asks for nothing else")
		return nil
	}
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
	compact  *watch.Compact       // nil if objects are decoded the long way
	reporter *reporter
	events   *watch.Recorder // nil with a folder of manifests
	teller   *teller

	// What the servers tell.
	started time.Time
	flagz   func() map[string]string // nil: nobody asks
	pages   map[string]http.Handler  // more of the metrics server

	featureGates map[string]bool // that are set
	verbosity    adjustable
	health       atomic.Pointer[control.Health] // nil until there is one
	successor    atomic.Pointer[relief]         // nil where there can be none

	tasks  sync.WaitGroup
	cancel context.CancelCauseFunc

	takesOver bool // from other proxies

	settled *settled // nil in tests that set flags themselves
	why     string   // this mode
}

func newProcess(f *flags, cfg config, log *slog.Logger) *process {
	t := newTeller()
	v := newAdjustable(log.Handler())
	return &process{
		flags: f, cfg: cfg, log: slog.New(t.book.Handler(v)), reg: prometheus.NewRegistry(), root: "/",
		teller: t, verbosity: v, started: t.started,
	}
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
func (p *process) run(ctx context.Context, find findFunc) (err error) {
	inner, cancel := p.lingering(ctx)
	p.cancel = cancel
	defer func() {
		cancel(nil)
		p.tasks.Wait()
		if err != nil && p.events != nil { // what is wrong may be waiting to be told
			p.events.Flush(lastWords)
		}
	}()
	p.oomScore()
	err = p.setUp(inner, find)
	if err == nil {
		<-inner.Done()
		err = context.Cause(inner)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// lastWords is how long the end is put off for Events that are still to be sent.
const lastWords = 2 * time.Second

func (p *process) setUp(ctx context.Context, find findFunc) error {
	name, err := p.nodeName()
	if err != nil {
		return err
	}
	if err := p.connect(name); err != nil {
		return err
	}
	eng, state, families, err := p.choose(ctx, name, find)
	if err != nil {
		return err
	}
	if err := p.checkFamilies(state, families); err != nil {
		return err
	}
	p.describe(name, families, eng)
	node := state.build()
	if err := p.sysctls(eng.sysctls(&node, families)); err != nil {
		return err
	}
	if p.flags.Files.InitOnly {
		return errInitialized
	}
	plane, err := eng.open(families)
	if err != nil {
		return err
	}
	plane, takeOver, err := p.takeOver(plane, eng, state)
	if err != nil {
		return err
	}
	local, err := p.openLocalhost(families)
	if err != nil {
		return err
	}
	gc := paceGC(p.cfg.Mode)
	// First, so that there is somebody else already when rules do not serve any more
	// what they did before.
	duty := p.onDuty(ctx, eng)
	p.followSettings(duty)
	loop, err := p.assemble(duty, state, families, p.observe(append(local.planes(), newFrugal(plane, gc, p.log))))
	if err != nil {
		return errors.Join(err, local.close())
	}
	p.start(ctx, local.run)
	if takeOver != nil {
		p.start(duty, takeOver)
	}
	p.start(ctx, func(ctx context.Context) error { return eng.watch(ctx, loop.AuditSoon) })
	if p.flags.L7.Enabled {
		task, err := p.child(name)
		if err != nil {
			return err
		}
		p.start(duty, task)
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
		if rc.ContentType = p.flags.Compat.ContentType; rc.ContentType != protobuf {
			rc.AcceptContentTypes = rc.ContentType
		}
		if p.client, err = kubernetes.NewForConfig(rc); err != nil {
			return fmt.Errorf("connect to the API server: %w", err)
		}
		if p.compact, err = p.flags.API.compact(rc); err != nil {
			return err
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
		if ncpu, err = sysctl.OnlineCPUs(p.root); err != nil { // as kube-proxy does
			ncpu = runtime.NumCPU()
			p.log.Warn("cannot count the CPUs of the machine for --conntrack-max-per-core; counting those of this process", "cpus", ncpu, "err", err)
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
	control.NewBuildInfo(p.reg, buildInfo())
	control.NewFeatureInfo(p.reg, features(p.featureGates))
	health := control.NewHealth(2*p.cfg.SyncPeriod, families)
	if p.client != nil { // without a cluster, nobody needs a Node object
		health.SetNodeEligible(state.Info.Name != "" && state.Info.Eligible())
	}
	p.health.Store(health)
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
	p.serve(ctx, state, health, metrics)
	p.serveStatus(ctx, health)
	p.start(ctx, func(ctx context.Context) error {
		return watchAddrs(ctx, p.log, state.Addrs, func(a localAddrs) { track.setAddrs(ctx, a) })
	})
	p.start(ctx, p.source(loop, track))
	p.start(ctx, loop.Run)
	p.reporter.starting(state.Name, state.Info)
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

// source returns the task that feeds the loop.
func (p *process) source(loop *control.Loop, track *tracker) func(context.Context) error {
	if p.client == nil {
		src := &manifests.Source{
			Dir: p.flags.Manifests, Sink: loop, Log: p.log,
			NodeName: track.state.Name, Node: track.setFolderInfo, Report: p.teller.book.Objects(p.reporter.report),
		}
		return src.Run
	}
	src := &watch.Source{
		Client: p.client, Compact: p.compact, Sink: loop, Log: p.log,
		NodeName: track.state.Name, Node: track.setInfo, Report: p.teller.book.Objects(p.reporter.report),
	}
	return func(ctx context.Context) error {
		var events sync.WaitGroup
		events.Go(func() { p.events.Run(ctx) })
		src.Run(ctx)
		events.Wait()
		return nil
	}
}
