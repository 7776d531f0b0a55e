package iptables

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Log = slog.New(slog.DiscardHandler)
	return cfg
}

func newDataplane(t testing.TB, run xt.Runner) *Dataplane {
	t.Helper()
	d, err := New(testConfig(), run, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGolden(t *testing.T) {
	for _, f := range []xt.Family{xt.IPv4, xt.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			servicetest.Golden(t, "testdata/"+strings.ToLower(f.String()), func(snap *service.Snapshot) ([]byte, error) {
				return Plan(snap, DefaultConfig(), f).AppendText(nil)
			})
		})
	}
}

var errInjected = errors.New("injected")

func TestWalk(t *testing.T) {
	kernel := xt.NewFake()
	rng := rand.New(rand.NewPCG(1, 1))
	servicetest.Walk(t, newDataplane(t, kernel),
		func(p float64) {
			kernel.Fail = func(op string) error {
				if rng.Float64() < p {
					return fmt.Errorf("%s: %w", op, errInjected)
				}
				return nil
			}
		},
		func() []byte { return []byte(kernel.Dump()) },
		func(snap *service.Snapshot) []byte {
			empty := xt.NewFake()
			if _, err := newDataplane(t, empty).Sync(t.Context(), snap); err != nil {
				t.Fatal(err)
			}
			return []byte(empty.Dump())
		})
}

// TestOneChangeIsSmall shows that the work is in proportion to the change, and
// that the kernel is not read for it.
func TestOneChangeIsSmall(t *testing.T) {
	kernel := xt.NewFake()
	d := newDataplane(t, kernel)
	st, move := large(1000, 5)
	sync := func() service.Report {
		t.Helper()
		r, err := d.Sync(t.Context(), st.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	sync()
	kernel.ResetStats()
	move(500)
	r := sync()
	// One endpoint: the pool that holds it, and the frontend that goes there.
	if r.Added != 1 || r.Changed != 1 || r.Removed != 1 || r.Resynced {
		t.Errorf("got %+v, want 1 chain added, 1 changed, 1 removed", r)
	}
	if got := kernel.Stats(); got.Saves != 0 || got.Chains != 2 || got.Tables != 1 {
		t.Errorf("got %+v, want 2 chains in 1 table and nothing read", got)
	}
	kernel.ResetStats()
	sync()
	if got := kernel.Stats(); got.Restores != 0 || got.Saves != 0 {
		t.Errorf("got %+v for no change, want nothing", got)
	}
}

// TestAdopt starts a second Dataplane on what the first has left.
func TestAdopt(t *testing.T) {
	kernel := xt.NewFake()
	st, move := large(100, 20)
	snap := st.Snapshot()
	if _, err := newDataplane(t, kernel).Sync(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	want := kernel.Dump()
	kernel.ResetStats()
	if _, err := newDataplane(t, kernel).Sync(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	if got := kernel.Dump(); got != want {
		t.Error("the second Dataplane changed what was right")
	}
	if got := kernel.Stats(); got.Rules != 0 || got.Deleted != 0 {
		t.Errorf("got %+v, want that nothing is written again", got)
	}
	move(3)
	if _, err := newDataplane(t, kernel).Sync(t.Context(), st.Snapshot()); err != nil {
		t.Fatal(err)
	}
	if got := kernel.Stats(); got.Deleted == 0 {
		t.Error("the third Dataplane did not remove what only the second needed")
	}
}

func TestAuditRepairs(t *testing.T) {
	vip := netip.MustParseAddr("10.96.0.7")
	tampers := map[string]func(*xt.Fake){
		"flush of nat":    func(k *xt.Fake) { k.Flush(xt.IPv4, xt.NAT) },
		"flush of filter": func(k *xt.Fake) { k.Flush(xt.IPv4, xt.Filter) },
		"hook removed":    func(k *xt.Fake) { k.RemoveRule(xt.IPv4, xt.NAT, "PREROUTING", 0) },
		"rule removed":    func(k *xt.Fake) { k.RemoveRule(xt.IPv4, xt.NAT, chainPostrouting, 0) },
		"hook behind a foreign rule": func(k *xt.Fake) {
			k.RemoveRule(xt.IPv4, xt.Filter, "FORWARD", 0)
			if err := k.AddForeign(xt.IPv4, xt.Filter, "-A FORWARD -j ACCEPT"); err != nil {
				t.Error(err)
			}
		},
	}
	for name, tamper := range tampers {
		t.Run(name, func(t *testing.T) {
			kernel := xt.NewFake()
			d := newDataplane(t, kernel)
			st, _ := large(50, 3)
			snap := st.Snapshot()
			if _, err := d.Sync(t.Context(), snap); err != nil {
				t.Fatal(err)
			}
			if r, err := d.Audit(t.Context()); err != nil || r.Repaired {
				t.Fatalf("audit of an intact kernel: %+v, %v", r, err)
			}
			want := ours(kernel.Dump())
			tamper(kernel)
			if ours(kernel.Dump()) == want {
				t.Fatal("nothing was tampered with")
			}
			if !strings.HasPrefix(name, "flush") { // which is noticed at once
				for _, p := range d.planes {
					p.auditDue = time.Time{}
				}
			}
			r, err := d.Audit(t.Context())
			if err != nil || !r.Repaired {
				t.Errorf("audit: %+v, %v; want a repair", r, err)
			}
			if got := ours(kernel.Dump()); got != want {
				t.Errorf("after the repair for %v\n%s\nwant\n%s", vip, got, want)
			}
		})
	}
}

// TestQuietTablesAreNotRead requires that tables that were found right cost
// nothing until somebody changes them.
func TestQuietTablesAreNotRead(t *testing.T) {
	kernel := xt.NewFake()
	d := newDataplane(t, kernel)
	st, move := large(10, 3)
	audit := func(what string, saves int) {
		t.Helper()
		for _, p := range d.planes {
			p.auditDue = time.Time{}
		}
		kernel.ResetStats()
		if r, err := d.Audit(t.Context()); err != nil || r.Repaired {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if got := kernel.Stats(); got.Saves != saves || saves == 0 && got.Probes > 0 {
			t.Errorf("%s: %d looks and %d readings, want %d readings", what, got.Probes, got.Saves, saves)
		}
	}
	sync := func() {
		t.Helper()
		if _, err := d.Sync(t.Context(), st.Snapshot()); err != nil {
			t.Fatal(err)
		}
	}
	sync()
	audit("after the first sync", 2)
	audit("nothing happened", 0)
	if err := kernel.AddForeign(xt.IPv4, xt.NAT, "-A PREROUTING -j ACCEPT"); err != nil {
		t.Fatal(err)
	}
	audit("somebody added a rule", 2)
	audit("and nothing after that", 0)
	move(3)
	sync()
	audit("after a change of our own", 2)
}

// TestTrust: how long a fingerprint that does not tell every change is enough.
func TestTrust(t *testing.T) {
	tests := []struct {
		period, reading, want time.Duration
	}{
		{time.Second, 5 * time.Millisecond, 10 * time.Second},
		{time.Second, 20 * time.Millisecond, 20 * time.Second},
		{30 * time.Second, 20 * time.Millisecond, 300 * time.Second},
		{30 * time.Second, 400 * time.Millisecond, 1800 * time.Second},
		{0, 50 * time.Millisecond, 50 * time.Second},
	}
	for _, tt := range tests {
		p := plane{Dataplane: &Dataplane{cfg: Config{SyncPeriod: tt.period}}}
		if got := p.trust(tt.reading); got != tt.want {
			t.Errorf("period %s, reading %s: got %s, want %s", tt.period, tt.reading, got, tt.want)
		}
	}
}

// TestFirstReading: a large table is not read at once after a change, churn does not
// put the reading off, and meanwhile looks at the hooks are not repeated for nothing.
func TestFirstReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := xt.NewFake()
		cfg := DefaultConfig()
		cfg.Log, cfg.Families = slog.New(slog.DiscardHandler), []xt.Family{xt.IPv4}
		d, err := New(cfg, kernel, nil)
		if err != nil {
			t.Fatal(err)
		}
		st, move := large(300, 3)
		var saves, probes []int
		for range 10 {
			move(7)
			if _, err := d.Sync(t.Context(), st.Snapshot()); err != nil {
				t.Fatal(err)
			}
			kernel.ResetStats()
			for range 3 {
				time.Sleep(100 * time.Millisecond)
				if r, err := d.Audit(t.Context()); err != nil || r.Repaired {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			got := kernel.Stats()
			saves, probes = append(saves, got.Saves), append(probes, got.Probes)
		}
		t.Logf("readings %v, looks %v", saves, probes)
		// 300 Services are more than 2,000 rules, to be read after about two seconds.
		if saves[0] != 0 || probes[0] != 1 {
			t.Errorf("at first %d readings and %d looks, want none and one", saves[0], probes[0])
		}
		if slices.Max(saves) == 0 {
			t.Errorf("readings %v, want some in spite of changes", saves)
		}
	})
}

// ours leaves out of a dump what a test added for somebody else.
func ours(dump string) string {
	var out []string
	for line := range strings.Lines(dump) {
		if !strings.Contains(line, "-A FORWARD -j ACCEPT") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"defaults", func(*Config) {}, ""},
		{"bit too high", func(c *Config) { c.MasqueradeBit = 32 }, "iptables.masqueradeBit: 32 is not between 0 and 31"},
		{"bit negative", func(c *Config) { c.MasqueradeBit = -1 }, "iptables.masqueradeBit: -1 is not between 0 and 31"},
		{"no such family", func(c *Config) { c.Families = []xt.Family{7} }, "iptables.families: 7 is no address family"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			tt.edit(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHostileDepth makes the deepest rules there can be: load-balancer IPs each
// one digit longer alike, allowed callers, more endpoints than one chain picks
// from. AppendText refuses what nf_tables would.
func TestHostileDepth(t *testing.T) {
	name := service.Name{Namespace: "default", Name: "deep"}
	svc := &service.Service{
		Name: name, Families: []service.Family{service.IPv6},
		ClusterIPs:   []netip.Addr{netip.MustParseAddr("fd00:10:96::1")},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("2001:db8:51::/64")}, Restricted: true,
		Affinity: time.Hour,
	}
	base := netip.MustParseAddr("2001:db8::").As16()
	svc.LoadBalancerIPs = append(svc.LoadBalancerIPs, netip.AddrFrom16(base))
	for digit := 8; digit < 32; digit++ {
		a := base
		a[digit/2] |= 1 << (4 * (1 - digit%2))
		svc.LoadBalancerIPs = append(svc.LoadBalancerIPs, netip.AddrFrom16(a))
	}
	slice := &service.Slice{Service: name, Name: "deep", Family: service.IPv6}
	for i := range uint16(2 * leafSize) {
		port := service.ServicePort{Name: fmt.Sprint(i), Port: 1000 + i, NodePort: 30000 + i}
		svc.Ports = append(svc.Ports, port)
		slice.Ports = append(slice.Ports, service.SlicePort{Name: port.Name, Port: 8080})
		addr := netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)})
		slice.Endpoints = append(slice.Endpoints, service.NewSliceEndpoint(addr, &service.EndpointState{Ready: true, Serving: true}))
	}
	st := service.NewStore()
	st.SetNode(service.Node{Name: "n1", PortAddrs: [2][]netip.Prefix{1: {netip.MustParsePrefix("::/0")}}})
	st.SetService(svc)
	st.SetSlice(slice)
	snap := st.Snapshot()
	for _, bpf := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.BPF = bpf
		if _, err := Plan(snap, cfg, xt.IPv6).AppendText(nil); err != nil {
			t.Errorf("bpf=%v: %v", bpf, err)
		}
	}
}

// TestOrderOfTables shows that what filter gains is committed before nat, and
// what it loses after: between two tables no packet may pass that neither before
// nor after the change would.
func TestOrderOfTables(t *testing.T) {
	kernel := xt.NewFake()
	d := newDataplane(t, kernel)
	st, _ := large(2, 2)
	name := func(i int) service.Name { return service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", i)} }
	for i := range 2 {
		st.SetService(&service.Service{
			Name: name(i), Families: []service.Family{service.IPv4},
			ClusterIPs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})},
			ExternalIPs: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})},
			Ports:       []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80}},
		})
	}
	full := func(i int) *service.Slice {
		return &service.Slice{
			Service: name(i), Name: name(i).Name,
			Ports: []service.SlicePort{{Name: "http", Protocol: service.TCP, Port: 8080}},
			Endpoints: []service.SliceEndpoint{
				service.NewSliceEndpoint(netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}), &service.EndpointState{Ready: true, Serving: true}),
			},
		}
	}
	steps := []struct {
		name   string
		change func()
		want   string
	}{
		{"start with two served", func() { st.SetSlice(full(0)); st.SetSlice(full(1)) }, "*nat *filter"},
		{"one loses its endpoint", func() { st.DeleteSlice(name(0), name(0).Name) }, "*filter *nat"},
		{"the other loses its own, the first gets it back", func() {
			st.SetSlice(full(0))
			st.DeleteSlice(name(1), name(1).Name)
		}, "*filter *nat *filter"},
		{"both served again", func() { st.SetSlice(full(1)) }, "*nat *filter"},
	}
	for _, step := range steps {
		step.change()
		if _, err := d.Sync(t.Context(), st.Snapshot()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var tables []string
		for line := range strings.Lines(kernel.LastRestore()) {
			if strings.HasPrefix(line, "*") {
				tables = append(tables, strings.TrimSpace(line))
			}
		}
		if got := strings.Join(tables, " "); got != step.want {
			t.Errorf("%s: got %s, want %s", step.name, got, step.want)
		}
	}
}

// TestRenewal has everything written again when it is time, which heals a pool
// that was edited before any Audit had seen it.
func TestRenewal(t *testing.T) {
	kernel := xt.NewFake()
	d := newDataplane(t, kernel)
	st, _ := large(1, 3)
	snap := st.Snapshot()
	if _, err := d.Sync(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	want := kernel.Dump()
	var pool string
	for name := range d.planes[0].state.pieces {
		if contentNamed(name) {
			pool = name
		}
	}
	kernel.RemoveRule(xt.IPv4, xt.NAT, pool, 0)
	if err := kernel.AddForeign(xt.IPv4, xt.NAT, "-A "+pool+" -j ACCEPT"); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.planes {
		p.renewal = time.Now().Add(-time.Second)
	}
	if r, err := d.Audit(t.Context()); err != nil || !r.Resynced || r.Changed == 0 {
		t.Errorf("audit: %+v, %v; want everything written", r, err)
	}
	if got := kernel.Dump(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r, err := d.Audit(t.Context()); err != nil || r.Resynced {
		t.Errorf("the next audit: %+v, %v; want nothing to do", r, err)
	}
}
