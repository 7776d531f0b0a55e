package ipvs

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A watchedRunner is iptables that is looked at after every write.
type watchedRunner struct {
	*xt.Fake
	look func()
}

// Restore implements [xt.Runner].
func (w watchedRunner) Restore(ctx context.Context, r *xt.Restore) error {
	err := w.Fake.Restore(ctx, r)
	w.look()
	return err
}

// reachable checks that packets to the cluster IPs of n Services reach the node, and that
// an address that the node has as a whole is guarded against what is not declared.
func reachable(t *testing.T, b *bed, n int) {
	t.Helper()
	rules, err := b.kernel.Rules(t.Context(), routeTable)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := b.kernel.Device(t.Context(), deviceName)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := b.kernel.Routes(t.Context(), routeTable)
	if err != nil {
		t.Fatal(err)
	}
	routed := make(map[netip.Addr]bool)
	for _, r := range routes {
		routed[r.Addr()] = true
	}
	marks, guards := false, false
	for line := range strings.Lines(b.tables.Dump()) {
		marks = marks || strings.Contains(line, "-A "+chainPre+" ") && strings.Contains(line, "FL4-VIP") && strings.Contains(line, "0x8000")
		guards = guards || strings.Contains(line, "-A "+chainIn+" ") && strings.Contains(line, "! --match-set FL4-VIP")
	}
	for i := range n {
		a := clusterIP(i)
		local := dev.Addrs[a].Local
		if !local && !(marks && len(rules) > 0 && routed[a]) {
			t.Fatalf("packets to %s do not reach the node: marked %v, routing rules %d, route %v, local %v", a, marks, len(rules), routed[a], local)
		}
		if local && !guards {
			t.Fatalf("the node has %s as a whole, and nothing refuses what is not declared", a)
		}
	}
}

// TestModeTurns changes the VIPMode to and fro, and looks after every change of the
// kernel and of the tables.
func TestModeTurns(t *testing.T) {
	const n = 3
	tn, b := newTown(n, 2), newBed()
	look, looks := func() {}, 0
	start := func(mode VIPMode) *Dataplane {
		cfg := testConfig()
		cfg.VIPMode = mode
		d, err := New(cfg, &cut{Kernel: b.kernel, fake: b.kernel, left: -1, look: func() { look() }}, watchedRunner{b.tables, func() { look() }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	var want [2]string
	for _, mode := range []VIPMode{Device, Routed} {
		tn, b = newTown(n, 2), newBed()
		mustSync(t, start(mode), tn)
		want[mode] = string(b.kernel.Dump()) + b.tables.Dump()
	}
	for _, mode := range []VIPMode{Device, Routed, Device, Routed} { // begins with what Routed has left
		look = func() { published(t, b.kernel); reachable(t, b, n); looks++ }
		d := start(mode)
		mustSync(t, d, tn)
		if got := string(b.kernel.Dump()) + b.tables.Dump(); got != want[mode] {
			t.Fatalf("changed to %v: the end differs (-want +got)\n%s", mode, cmp.Diff(want[mode], got))
		}
		looks = 0
		mustSync(t, start(mode), tn)
		if looks > 0 {
			t.Errorf("%v: a restart changed something %d times", mode, looks)
		}
	}
}

// TestDeclaredFirst: where the node has virtual addresses already, from another proxy, no
// port is refused for a moment because only its address is known.
func TestDeclaredFirst(t *testing.T) {
	const n = 3
	tn, b := newTown(n, 2), newBed()
	ops := []kernel.Op{kernel.NewDevice{Name: deviceName}}
	for i := range n {
		ops = append(ops, kernel.AddAddr{Device: deviceName, Addr: clusterIP(i)}, kernel.NewServer{Key: key(i), Server: kernel.Server{Scheduler: "rr"}})
	}
	if err := b.kernel.Tamper(ops...); err != nil {
		t.Fatal(err)
	}
	looks := 0
	look := func() {
		known, err := b.kernel.Elements(t.Context(), setName(service.IPv4, "ADDR"))
		if err != nil {
			return // not there yet
		}
		declared, err := b.kernel.Elements(t.Context(), setName(service.IPv4, "VIP"))
		if err != nil {
			t.Fatal(err)
		}
		has := make(map[kernel.Element]bool)
		for _, e := range declared {
			has[e] = true
		}
		for _, e := range known {
			for i := range n {
				if e.Addr == clusterIP(i) && !has[element(key(i))] {
					t.Fatalf("%s is known and %s is not declared", e.Addr, key(i))
				}
			}
			looks++
		}
	}
	cfg := testConfig()
	cfg.VIPMode, cfg.Follows = Device, func(context.Context) bool { return true }
	d, err := New(cfg, &cut{Kernel: b.kernel, fake: b.kernel, left: -1, look: look}, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustSync(t, d, tn)
	if looks == 0 {
		t.Error("no moment was looked at")
	}
}
