package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// A virtualKernel is an ipvsKernel in memory that can be looked at while the
// program runs, and that announces what is done to it by others.
type virtualKernel struct {
	mu         sync.Mutex
	fake       *kernel.Fake
	schedulers []string
	unreached  error // what IPVS fails with

	timeouts [3]time.Duration
	changed  func() // set while somebody watches
	applied  chan struct{}
	watching chan struct{}
}

func newVirtualKernel(schedulers ...string) *virtualKernel {
	return &virtualKernel{
		fake: kernel.NewFake(schedulers...), schedulers: schedulers,
		applied: make(chan struct{}, 1), watching: make(chan struct{}),
	}
}

func (k *virtualKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	refused, err := k.fake.Apply(ctx, ops)
	select {
	case k.applied <- struct{}{}:
	default:
	}
	return refused, err
}

func (k *virtualKernel) Servers(ctx context.Context) (map[kernel.ServerKey]*kernel.ServerState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Servers(ctx)
}

func (k *virtualKernel) Server(ctx context.Context, key kernel.ServerKey) (*kernel.ServerState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Server(ctx, key)
}

func (k *virtualKernel) Sets(ctx context.Context, prefix string) ([]kernel.Set, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Sets(ctx, prefix)
}

func (k *virtualKernel) Elements(ctx context.Context, name string) ([]kernel.Element, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Elements(ctx, name)
}

func (k *virtualKernel) Device(ctx context.Context, name string) (kernel.DeviceState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Device(ctx, name)
}

func (k *virtualKernel) Routes(ctx context.Context, table uint32) ([]netip.Prefix, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Routes(ctx, table)
}

func (k *virtualKernel) Rules(ctx context.Context, table uint32) ([]kernel.Rule, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fake.Rules(ctx, table)
}

func (k *virtualKernel) HasScheduler(name string) (bool, error) {
	return slices.Contains(k.schedulers, name), k.unreached
}

func (k *virtualKernel) SetTimeouts(tcp, tcpFin, udp time.Duration) error {
	k.timeouts = [...]time.Duration{tcp, tcpFin, udp}
	return nil
}

func (k *virtualKernel) Watch(ctx context.Context, _ string, _ uint32, changed func()) error {
	k.changed = changed
	close(k.watching)
	<-ctx.Done()
	return nil
}

// vsRoot is the /proc of a kernel with IPVS.
func vsRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, value := range map[string]string{
		"kernel/osrelease": "6.1.0", "net/ipv4/ip_forward": "0",
		"net/ipv4/vs/conntrack": "0", "net/ipv4/vs/conn_reuse_mode": "1",
		"net/ipv4/vs/expire_nodest_conn": "0", "net/ipv4/vs/expire_quiescent_template": "0",
		"net/netfilter/nf_conntrack_tcp_timeout_established": "432000",
		"net/netfilter/nf_conntrack_udp_timeout_stream":      "120",
	} {
		full := filepath.Join(root, "proc/sys", path)
		if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, full, value+"\n")
	}
	return root
}

// virtualEngine finds the engine over k, and says which it is.
func virtualEngine(k *virtualKernel, rules *xt.Fake, found chan<- *ipvsEngine) findFunc {
	return func(ctx context.Context, c engineConfig) (engine, error) {
		e, err := newIPVSEngine(ctx, c, iptables.Tools{RandomFully: true}, k, rules)
		if err != nil {
			return nil, err
		}
		found <- e
		return e, nil
	}
}

// await waits until ok is true of what k has.
func (k *virtualKernel) await(t *testing.T, ended <-chan error, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-k.applied:
		case err := <-ended:
			t.Fatalf("%s: the program has ended: %v", what, err)
		case <-deadline:
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}

func TestRunIPVS(t *testing.T) {
	k, rules := newVirtualKernel("rr", "wlc"), xt.NewFake()
	rules.Fail = func(op string) error {
		if strings.HasPrefix(op, "restored ") { // tables have been written
			select {
			case k.applied <- struct{}{}:
			default:
			}
		}
		return nil
	}
	p := testProcess(t, examples, "--proxy-mode=ipvs", "--ipvs-scheduler=wlc", "--ipvs-udp-timeout=1500ms", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48")
	p.root = vsRoot(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	found := make(chan *ipvsEngine, 1)
	go func() { ended <- p.run(ctx, virtualEngine(k, rules, found)) }()

	web := serverKey(service.TCP, "10.96.0.10:80")
	published := func() bool {
		vips, err := k.Elements(ctx, "FL6-VIP")
		return err == nil && len(vips) > 0
	}
	// Rules are written last when the mode is new to the kernel.
	inForce := func() bool { return published() && strings.Contains(rules.Dump(), "FL4-VIP dst,dst") }
	k.await(t, ended, "the examples are put in force", inForce)
	servers, err := k.Servers(ctx)
	if err != nil || servers[web] == nil || servers[web].Scheduler != "wlc" || len(servers[web].Dests) != 2 {
		t.Errorf("virtual servers %v, %v, want %s", slices.Collect(maps.Keys(servers)), err, web)
	}
	if d := cmp.Diff(k.timeouts, [3]time.Duration{120 * time.Hour, 0, 2 * time.Second}); d != "" {
		t.Errorf("timeouts (-got +want):\n%s", d)
	}
	if !strings.Contains(rules.Dump(), "FL4-VIP dst,dst") || strings.Contains(rules.Dump(), "PROBE") {
		t.Errorf("rules, want those of the mode and no probe:\n%s", rules.Dump())
	}
	conntrack := filepath.Join(p.root, "proc/sys/net/ipv4/vs/conntrack")
	if got, err := os.ReadFile(conntrack); string(got) != "1\n" || err != nil {
		t.Errorf("vs/conntrack is %q, %v, want 1", got, err)
	}

	// Somebody takes a route away, and a kernel parameter with it.
	<-k.watching
	for e := <-found; e.noted.changing(); { // what is announced now is taken for an echo of our own
		time.Sleep(time.Millisecond)
	}
	write(t, conntrack, "0\n")
	route := netip.MustParsePrefix("10.96.0.10/32")
	k.mu.Lock()
	err = k.fake.Tamper(kernel.DelRoute{Table: 17996, To: route})
	k.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	k.changed()
	k.await(t, ended, "damage is repaired soon", func() bool {
		routes, err := k.Routes(ctx, 17996)
		return err == nil && slices.Contains(routes, route)
	})
	if got, err := os.ReadFile(conntrack); string(got) != "1\n" || err != nil {
		t.Errorf("vs/conntrack is %q, %v after the repair, want 1", got, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("told to stop, it ended with %v", err)
	}
	if servers, err := k.Servers(t.Context()); len(servers) == 0 || err != nil {
		t.Errorf("virtual servers did not stay in place: %v", err)
	}
}

func TestIPVSEngineFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		kernel func(*virtualKernel)
		root   func(t *testing.T) string
		args   []string
		want   string
	}{
		{"no IPVS", func(k *virtualKernel) { k.unreached = errors.New("no family") }, vsRoot, nil, "modprobe ip_vs): no family"},
		{"no scheduler", func(*virtualKernel) {}, vsRoot, []string{"--ipvs-scheduler=mh"}, "--ipvs-scheduler: the kernel has no scheduler mh (modprobe ip_vs_mh); it has: rr"},
		{"no kernel release", func(*virtualKernel) {}, func(t *testing.T) string { return t.TempDir() }, nil, "osrelease"},
		{"no sets", func(k *virtualKernel) { k.fake.Fail(1, 1) }, vsRoot, nil, "make ipsets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newVirtualKernel("rr")
			c.kernel(k)
			p := testProcess(t, examples, append([]string{"--proxy-mode=ipvs"}, c.args...)...)
			p.root = c.root(t)
			err := p.run(t.Context(), virtualEngine(k, xt.NewFake(), make(chan *ipvsEngine, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ended with %v, want something with %q", err, c.want)
			}
		})
	}
}

func TestIPVSTimeouts(t *testing.T) {
	const tracked, stream = 24 * time.Hour, 2 * time.Minute
	for _, c := range []struct {
		name  string
		flags ipvsFlags
		tcp   time.Duration
		want  ipvsTimeouts
	}{
		{"as connection tracking", ipvsFlags{}, tracked, ipvsTimeouts{TCP: tracked, UDP: stream}},
		{"given", ipvsFlags{TCPTimeout: time.Hour, TCPFinTimeout: time.Minute, UDPTimeout: 30 * time.Second}, tracked, ipvsTimeouts{time.Hour, time.Minute, 30 * time.Second}},
		{"rounded up", ipvsFlags{TCPTimeout: time.Millisecond, TCPFinTimeout: 1001 * time.Millisecond}, tracked, ipvsTimeouts{time.Second, 2 * time.Second, stream}},
		{"unknown", ipvsFlags{}, 0, ipvsTimeouts{UDP: stream}},
		{"more than IPVS can", ipvsFlags{}, 5_000_000 * time.Second, ipvsTimeouts{TCP: maxIPVSTimeout, UDP: stream}},
	} {
		if got := c.flags.timeouts(c.tcp, stream); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestNotedKernel(t *testing.T) {
	k := &notedKernel{Kernel: kernel.NewFake()}
	apply := func(op kernel.Op) {
		t.Helper()
		if _, err := k.Apply(t.Context(), []kernel.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	apply(kernel.NewServer{Key: serverKey(service.TCP, "10.96.0.1:443"), Server: kernel.Server{Scheduler: "rr"}})
	if k.changing() {
		t.Error("a change of IPVS, which is not announced, counts")
	}
	apply(kernel.NewDevice{Name: vipDevice})
	if !k.changing() {
		t.Error("a device that was just made does not count")
	}
	past := time.Now().Add(-time.Minute)
	k.last.Store(&past)
	if k.changing() {
		t.Error("a change still counts after a minute")
	}
}

func TestNotedKernelCounts(t *testing.T) {
	root := vsRoot(t)
	online := filepath.Join(root, "sys/devices/system/cpu/online")
	if err := os.MkdirAll(filepath.Dir(online), 0o777); err != nil {
		t.Fatal(err)
	}
	estimation := filepath.Join(root, "proc/sys/net/ipv4/vs/run_estimation")
	e := &ipvsEngine{cfg: engineConfig{Root: root, Log: slog.New(slog.DiscardHandler)}}
	total := 0
	k := &notedKernel{Kernel: shownKernel(t), counted: func(n int) { total = n }}
	if _, err := k.Servers(t.Context()); err != nil || total != 14 {
		t.Errorf("%d counted, %v, want 7 servers and 7 destinations", total, err)
	}
	for _, c := range []struct {
		n    int
		cpus string
		want string
	}{
		{crowd - 1, "0", "1\n"},
		{crowd, "0", "0\n"},
		{crowd/64 + 1, "0-63", "0\n"},
		{crowd/64 - 1, "0-63", "1\n"},
	} {
		write(t, online, c.cpus)
		write(t, estimation, "1\n")
		e.counted(c.n)
		if got, err := os.ReadFile(estimation); string(got) != c.want || err != nil {
			t.Errorf("%d on CPUs %s: run_estimation %q, %v, want %q", c.n, c.cpus, got, err, c.want)
		}
	}
}

// TestIPVSBits makes sure that the two marks never are the same bit.
func TestIPVSBits(t *testing.T) {
	for bit, want := range map[int]int{14: 15, 15: 14, 0: 15, 31: 15} {
		cfg := ipvsConfig{Scheduler: "rr"}.plan(bit)
		if err := cfg.Validate(); err != nil || cfg.MasqueradeBit != bit || cfg.RouteBit != want {
			t.Errorf("bits %d and %d, %v, want %d and %d", cfg.MasqueradeBit, cfg.RouteBit, err, bit, want)
		}
	}
}

func TestLoadedKernel(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "sys/module"), 0o777); err != nil {
		t.Fatal(err)
	}
	fake := kernel.NewFake()
	fake.Fail(1, 1) // whoever asks
	k := &loadedKernel{Kernel: fake, root: root}
	ask := func() (servers, sets, elements error) {
		_, servers = k.Servers(t.Context())
		_, sets = k.Sets(t.Context(), "FL")
		_, elements = k.Elements(t.Context(), "FL4-OWN")
		return servers, sets, elements
	}
	if servers, sets, elements := ask(); servers != nil || sets != nil || errors.Is(elements, kernel.ErrInjected) {
		t.Errorf("without modules the kernel was asked: %v, %v, %v", servers, sets, elements)
	}
	for _, dir := range []string{"proc/net/ip_vs", "sys/module/ip_set"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if servers, sets, elements := ask(); servers == nil || sets == nil || !errors.Is(elements, kernel.ErrInjected) {
		t.Errorf("with modules the kernel was not asked: %v, %v, %v", servers, sets, elements)
	}
	k.root = filepath.Join(root, "nowhere") // no /sys: nobody knows
	if _, sets, elements := ask(); sets == nil || elements == nil {
		t.Error("without /sys the sets were not looked for")
	}
}

// TestCleanKernel removes what a running program has left, and nothing else.
func TestCleanKernel(t *testing.T) {
	k, foreign := shownKernel(t), serverKey(service.TCP, "192.0.2.80:80")
	cfg := ipvsConfig{Scheduler: "rr"}.plan(14)
	cfg.Log = slog.New(slog.DiscardHandler)
	proxy := userspace.DefaultConfig()
	proxy.Log = cfg.Log
	held := 3
	k.Refer = func(string) bool { held--; return held > 0 }
	counted := &loadedKernel{Kernel: k, root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(counted.root, "proc/net/ip_vs"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := cleanKernel(t.Context(), cfg, proxy, counted); err != nil {
		t.Fatal(err)
	}
	servers, err := k.Servers(t.Context())
	if err != nil || len(servers) != 2 || servers[foreign] == nil {
		t.Errorf("servers left: %v, %v, want the two of somebody else", servers, err)
	}
	if sets, err := k.Sets(t.Context(), ""); len(sets) > 0 || err != nil {
		t.Errorf("sets left: %v, %v", sets, err)
	}
	if counted.removed < 5 {
		t.Errorf("%d objects removed, want four servers and two sets", counted.removed)
	}
}

func TestToolSetTables(t *testing.T) {
	root := t.TempDir()
	legacy := toolSet{variant: iptables.Legacy, family: xt.IPv6}
	if got := legacy.tables(root); !slices.Contains(got, xt.Mangle) {
		t.Errorf("tables %v where the kernel does not tell, want mangle too", got)
	}
	if err := os.MkdirAll(filepath.Join(root, "proc/net"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "proc/net/ip6_tables_names"), "filter\nnat\n")
	if got := legacy.tables(root); slices.Contains(got, xt.Mangle) {
		t.Errorf("tables %v, want no mangle, which would be loaded", got)
	}
	write(t, filepath.Join(root, "proc/net/ip6_tables_names"), "mangle\nfilter\nnat\n")
	for _, set := range []toolSet{legacy, {variant: iptables.NFT, family: xt.IPv6}} {
		if got := set.tables(root); !slices.Contains(got, xt.Mangle) {
			t.Errorf("tables %v of %s, want mangle too", got, set.variant)
		}
	}
}
