package ipvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// TestIPVSWalk is TestWalk on the running kernel, in a network namespace of its
// own. What must be there is what a fresh dataplane leaves in a kernel.Fake.
func TestIPVSWalk(t *testing.T) {
	for _, mode := range []VIPMode{Routed, Device} {
		t.Run(mode.String(), func(t *testing.T) {
			k := ownKernel(t)
			cfg := testConfig()
			cfg.VIPMode = mode
			cfg.Available = service.Schedulers()
			for _, s := range []string{"twos", "lblc", "lblcr"} { // not everywhere
				cfg.Available = slices.DeleteFunc(cfg.Available, func(a string) bool { return a == s })
			}
			flaky := &flakyKernel{Kernel: k, rng: rand.New(rand.NewPCG(1, 5))}
			d, err := New(cfg, flaky, xt.NewFake(), nil)
			if err != nil {
				t.Fatal(err)
			}
			fresh := func(snap *service.Snapshot) []byte {
				b := newBed()
				if _, err := b.dataplane(t, cfg).Sync(t.Context(), snap); err != nil {
					t.Fatal(err)
				}
				return everything(t, b.kernel)
			}
			servicetest.WalkSeed(t, 1, &patient{Dataplane: d}, func(p float64) { flaky.p = p }, func() []byte { return everything(t, k) }, fresh)
		})
	}
}

// ownKernel moves the test to a network namespace of its own and opens the
// kernel there.
func ownKernel(t *testing.T) kernel.Kernel {
	t.Helper()
	unable := func(err error) {
		t.Helper()
		if os.Getenv("FAIRLEAD_E2E_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if os.Geteuid() != 0 {
		unable(errors.New("needs root"))
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if _, err := netns.New(); err != nil {
		unable(fmt.Errorf("needs network namespaces: %w", err))
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := k.HasScheduler("rr"); err != nil {
		unable(fmt.Errorf("needs IPVS: %w", err))
	}
	return k
}

// A flakyKernel fails with probability p: before what it is asked to do, after a
// part of it, or after all of it; or single ops are refused.
type flakyKernel struct {
	kernel.Kernel
	rng *rand.Rand
	p   float64
}

func (f *flakyKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	if len(ops) == 0 || f.rng.Float64() >= 2*f.p {
		return f.Kernel.Apply(ctx, ops)
	}
	if n := f.rng.IntN(len(ops) + 1); f.rng.IntN(2) == 0 {
		_, err := f.Kernel.Apply(ctx, ops[:n])
		return nil, errors.Join(kernel.ErrInjected, err)
	}
	skip := f.rng.IntN(len(ops))
	refused, err := f.Kernel.Apply(ctx, slices.Delete(slices.Clone(ops), skip, skip+1))
	for _, e := range refused {
		if e.Index >= skip {
			e.Index++
		}
	}
	mine := &kernel.OpError{Index: skip, Op: ops[skip], Err: syscall.ENOBUFS}
	refused = append(refused, mine)
	slices.SortFunc(refused, func(a, b *kernel.OpError) int { return a.Index - b.Index })
	return refused, err
}

func (f *flakyKernel) Servers(ctx context.Context) (map[kernel.ServerKey]*kernel.ServerState, error) {
	if f.rng.Float64() < f.p {
		return nil, kernel.ErrInjected
	}
	return f.Kernel.Servers(ctx)
}

// everything is what a kernel has of all that the dataplane writes.
func everything(t *testing.T, k kernel.Kernel) []byte {
	t.Helper()
	var out bytes.Buffer
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	servers, err := k.Servers(ctx)
	check(err)
	for _, key := range slices.SortedFunc(maps.Keys(servers), kernel.ServerKey.Compare) {
		fmt.Fprintf(&out, "server %s %v\n", key, servers[key].Server)
		for _, d := range servers[key].Dests {
			fmt.Fprintf(&out, "  %s weight %d\n", d.Addr, d.Weight)
		}
	}
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		all, err := k.Sets(ctx, setName(f, ""))
		check(err)
		slices.SortFunc(all, func(a, b kernel.Set) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
		for _, s := range all {
			fmt.Fprintf(&out, "set %s %s\n", s.Name, s.Type)
			elems, err := k.Elements(ctx, s.Name)
			check(err)
			var lines []string
			for _, e := range elems {
				lines = append(lines, fmt.Sprintf("  %s %s\n", elementText(e), e.Protocol))
			}
			slices.Sort(lines)
			for _, l := range lines {
				out.WriteString(l)
			}
		}
	}
	dev, err := k.Device(ctx, deviceName)
	check(err)
	fmt.Fprintf(&out, "device %t up %t\n", dev.Exists, dev.Up)
	for _, a := range slices.SortedFunc(maps.Keys(dev.Addrs), netip.Addr.Compare) {
		fmt.Fprintf(&out, "  %s local %t\n", a, dev.Addrs[a].Local)
	}
	routes, err := k.Routes(ctx, routeTable)
	check(err)
	slices.SortFunc(routes, netip.Prefix.Compare)
	rules, err := k.Rules(ctx, routeTable)
	check(err)
	slices.SortFunc(rules, func(a, b kernel.Rule) int { return int(a.Family) - int(b.Family) })
	fmt.Fprintf(&out, "routes %v\nrules %v\n", routes, rules)
	return out.Bytes()
}
