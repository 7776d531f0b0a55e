package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/ipvs/modules"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
	"github.com/fairlead-project/fairlead/takeover"
)

// An ipvsKernel is what ipvs mode needs of the kernel: [kernel.Linux].
type ipvsKernel interface {
	kernel.Kernel
	ipvs.Watcher
	HasScheduler(name string) (bool, error)
	SetTimeouts(tcp, tcpFin, udp time.Duration) error
}

// ipvsEngine is the IPVS dataplane. It lives in the network namespace of the
// process, which has to be the node's.
type ipvsEngine struct {
	cfg       engineConfig
	tools     iptables.Tools
	run       xt.Runner
	kernel    ipvsKernel
	noted     *notedKernel // the same, for the dataplane
	available []string     // schedulers
	settings  []sysctl.Setting
	missing   [service.NumFamilies]error
	plane     *ipvs.Dataplane // once open
}

func findIPVS(ctx context.Context, c engineConfig) (engine, error) {
	tools, err := c.detect(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range modules.Schedulers() {
		if err := modules.Load(ctx, m); err != nil {
			c.Log.Debug("a module of IPVS was not loaded; its scheduler is there only if somebody else loads it", "err", err)
		}
	}
	k, err := kernel.Open()
	if err != nil {
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	cfg := tools.Config()
	cfg.Tables = ipvsTables()
	run, err := c.writer(ctx, tools, cfg)
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	e, err := newIPVSEngine(ctx, c, tools, k, run)
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return e, nil
}

func newIPVSEngine(ctx context.Context, c engineConfig, tools iptables.Tools, k ipvsKernel, run xt.Runner) (*ipvsEngine, error) {
	e := &ipvsEngine{cfg: c, tools: tools, run: run, kernel: k}
	e.noted = &notedKernel{Kernel: k, counted: e.counted}
	if err := errors.Join(e.schedulers(), e.parameters()); err != nil {
		return nil, err
	}
	e.probe(ctx)
	return e, nil
}

// ipvsTables are the tables that the rules of ipvs mode are in.
func ipvsTables() []xt.Table { return []xt.Table{xt.Mangle, xt.NAT, xt.Filter} }

// schedulers finds out which the kernel has. Asking loads their modules, and that
// of IPVS.
func (e *ipvsEngine) schedulers() error {
	for _, name := range service.Schedulers() {
		has, err := e.kernel.HasScheduler(name)
		if err != nil {
			return fmt.Errorf("reach IPVS; perhaps the kernel lacks ip_vs, or it could not be loaded (modprobe ip_vs): %w", err)
		}
		if has {
			e.available = append(e.available, name)
		}
	}
	want := e.cfg.Config.IPVS.Scheduler
	if !slices.Contains(e.available, want) {
		return fmt.Errorf("--ipvs-scheduler: the kernel has no scheduler %s (modprobe ip_vs_%s); it has: %s",
			want, want, strings.Join(e.available, ", "))
	}
	e.cfg.Log.Info("IPVS found", "schedulers", strings.Join(e.available, ","))
	return nil
}

// parameters decides on the kernel parameters of the mode.
func (e *ipvsEngine) parameters() (err error) {
	e.settings, err = sysctl.IPVSSettings(e.cfg.Root, sysctl.IPVS{StrictARP: e.cfg.Flags.IPVS.StrictARP})
	return err
}

// probe notes what each family lacks.
func (e *ipvsEngine) probe(ctx context.Context) {
	e.missing = missingFamilies(e.tools)
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		if e.missing[f] == nil {
			e.missing[f] = ipvs.Probe(ctx, e.kernel, e.run, f, e.tools.RandomFully)
		}
	}
}

func (e *ipvsEngine) unusable() [service.NumFamilies]error { return e.missing }

func (e *ipvsEngine) sysctls(*service.Node, []service.Family) []sysctl.Setting { return e.settings }

func (e *ipvsEngine) open(families []service.Family) (service.Dataplane, error) {
	e.timeouts()
	cfg := e.cfg.Config.IPVS.plan(e.cfg.Flags.MasqueradeBit)
	cfg.RandomFully = e.tools.RandomFully
	cfg.Available = e.available
	cfg.AuditEvery = e.cfg.Config.SyncPeriod
	cfg.Families = families
	cfg.Held = takeover.SocketAddrs
	cfg.Follows = e.cfg.follows(modeIPVS, e.tools.Variant)
	cfg.Assert = func() (bool, error) { return sysctl.Reassert(e.cfg.Root, e.settings) }
	cfg.Log = e.cfg.Log
	var err error
	e.plane, err = ipvs.New(cfg, e.noted, e.run, ipvs.NewMetrics(e.cfg.Registry))
	if err != nil {
		return nil, err // not e.plane: a nil one in an interface is not nil
	}
	return e.plane, nil
}

// timeouts tells IPVS how long to remember connections. Like kube-proxy it goes on
// if that fails: a connection that is idle for long is lost then, but no new one.
func (e *ipvsEngine) timeouts() {
	tcp, udp, err := sysctl.IdleTimeouts(e.cfg.Root)
	if err != nil {
		e.cfg.Log.Warn("cannot read the timeouts of connection tracking; those of IPVS are left alone unless given", "err", err)
	}
	t := e.cfg.Flags.IPVS.timeouts(tcp, udp)
	if err := e.kernel.SetTimeouts(t.TCP, t.TCPFin, t.UDP); err != nil {
		e.cfg.Log.Error("cannot set the timeouts of IPVS", "err", err)
		return
	}
	e.cfg.Log.Info("timeouts of IPVS set", "tcp", t.TCP, "tcpfin", t.TCPFin, "udp", t.UDP)
}

// ipvsTimeouts are how long IPVS remembers connections, in whole seconds; zero
// leaves one alone.
type ipvsTimeouts struct{ TCP, TCPFin, UDP time.Duration }

// timeouts returns what the command line says, or else those of connection
// tracking, which are given. They are rounded up, since zero means something else.
func (v *ipvsFlags) timeouts(tcp, udp time.Duration) ipvsTimeouts {
	pick := func(given, other time.Duration) time.Duration {
		if given == 0 {
			given = min(other, maxIPVSTimeout)
		}
		return (given + time.Second - 1).Truncate(time.Second)
	}
	return ipvsTimeouts{TCP: pick(v.TCPTimeout, tcp), TCPFin: pick(v.TCPFinTimeout, 0), UDP: pick(v.UDPTimeout, udp)}
}

// crowd is how many rates may be estimated, of virtual servers and destinations on
// each CPU: at some 80 ns each, more would hold packets up for over 8 ms every two
// seconds, on kernels that estimate in a timer.
const crowd = 100_000

// counted is told how many virtual servers and destinations there are. It puts
// their estimates out of the way of packets if there are very many.
func (e *ipvsEngine) counted(n int) {
	cpus, err := sysctl.OnlineCPUs(e.cfg.Root)
	if err != nil || n*cpus < crowd {
		return
	}
	changed, err := sysctl.EaseEstimation(e.cfg.Root)
	if err != nil {
		e.cfg.Log.Warn("cannot put the estimates of IPVS out of the way of packets", "err", err)
	}
	if changed {
		e.cfg.Log.Info("estimates of IPVS are put out of the way of packets; before Linux 6.2 rates and byte counts stand still from now on",
			"servers and destinations", n, "cpus", cpus)
	}
}

// watch reports changes of our device, addresses, routes and rules, which the
// kernel announces. What it says while we change them ourselves is taken to be
// about that; others' changes at that time are found by the next regular audit.
func (e *ipvsEngine) watch(ctx context.Context, audit func()) error {
	return ipvs.Watch(ctx, e.kernel, func() {
		if !e.noted.changing() {
			e.plane.Suspect()
			audit()
		}
	})
}

// ownEcho is how long after a change of ours the kernel may still announce it.
const ownEcho = 250 * time.Millisecond

// A notedKernel is a kernel that knows when it was changed last, as far as the
// kernel announces such changes. Changing may be called from any goroutine.
type notedKernel struct {
	kernel.Kernel
	counted func(n int) // told the number of servers and destinations when all were read

	busy atomic.Bool
	last atomic.Pointer[time.Time] // end of the last change; nil for none
}

// Apply implements [kernel.Kernel].
func (k *notedKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	if slices.ContainsFunc(ops, announced) {
		k.busy.Store(true)
		defer func() {
			now := time.Now()
			k.last.Store(&now)
			k.busy.Store(false)
		}()
	}
	return k.Kernel.Apply(ctx, ops)
}

// Servers implements [kernel.Kernel].
func (k *notedKernel) Servers(ctx context.Context) (map[kernel.ServerKey]*kernel.ServerState, error) {
	servers, err := k.Kernel.Servers(ctx)
	n := len(servers)
	for _, s := range servers {
		n += len(s.Dests)
	}
	if err == nil {
		k.counted(n)
	}
	return servers, err
}

// changing reports whether an announcement may be of a change of ours.
func (k *notedKernel) changing() bool {
	last := k.last.Load()
	return k.busy.Load() || last != nil && time.Since(*last) < ownEcho
}

// announced reports whether rtnetlink announces an op. IPVS and ipset are silent.
func announced(op kernel.Op) bool {
	switch op.(type) {
	case kernel.NewDevice, kernel.DelDevice, kernel.AddAddr, kernel.DelAddr,
		kernel.AddRoute, kernel.DelRoute, kernel.AddRule, kernel.DelRule:
		return true
	default:
		return false
	}
}
