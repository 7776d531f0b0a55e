package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// These tests change the network of a namespace of their own. They need root and
// a kernel with IPVS, ipset and IPv6, and are skipped without. With
// FAIRLEAD_E2E_REQUIRE=1 they fail instead.

// unable ends a test that cannot run here.
func unable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("FAIRLEAD_E2E_REQUIRE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// newLinux moves the test to a network namespace of its own and opens Linux there.
func newLinux(t testing.TB) *Linux {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "needs root")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	away, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		unable(t, "needs network namespaces: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Set(home), away.Close(), home.Close()); err != nil {
			t.Error(err) // the thread stays locked and ends with the test
			return
		}
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := l.ipvsFamily(t.Context()); err != nil {
		unable(t, "needs IPVS: %v", err)
	}
	if _, err := l.revision(t.Context(), typeKey{HashIPPort, unix.AF_INET}); err != nil {
		unable(t, "needs ipset: %v", err)
	}
	if fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0); err != nil {
		unable(t, "needs IPv6: %v", err)
	} else if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	return l
}

// must applies ops that the kernel has to take.
func must(t testing.TB, k Kernel, ops ...Op) {
	t.Helper()
	refused, err := k.Apply(t.Context(), ops)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range refused[:min(3, len(refused))] {
		t.Errorf("of %d refused: op %d: %v", len(refused), e.Index, e)
	}
	if len(refused) > 0 {
		t.FailNow()
	}
}

// TestLinuxContract runs the contract on the kernel, op by op and at once, and
// compares what the kernel makes of it with what Fake does.
func TestLinuxContract(t *testing.T) {
	want := checkContract(t, NewFake("rr", "wrr", "lc", "sh", "mh"), true)
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprintf("atOnce=%v", atOnce), func(t *testing.T) {
			l := newLinux(t)
			got := checkContract(t, l, atOnce)
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("state: got-want+\n%s", d)
			}
			if _, err := l.Elements(t.Context(), "FL4-NONE"); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("elements of a set that is not there: got error %v, want ENOENT", err)
			}
			one, err := l.Server(t.Context(), serverKey(service.TCP, "10.96.99.99:1"))
			if one != nil || err != nil {
				t.Errorf("a server that is not there: got %v, %v", one, err)
			}
			dev, err := l.Device(t.Context(), "none0")
			if dev.Exists || err != nil {
				t.Errorf("a device that is not there: got %+v, %v", dev, err)
			}
		})
	}
}

// bulk returns the ops that make n servers with m destinations each.
func bulk(n, m int) (ops []Op) {
	for i := range n {
		key := ServerKey{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}
		ops = append(ops, NewServer{key, Server{Scheduler: "rr"}})
		for j := range m {
			a := netip.AddrFrom4([4]byte{10, 244, byte(j), byte(i)})
			ops = append(ops, NewDest{key, netip.AddrPortFrom(a, uint16(1000+i)), 1})
		}
	}
	return ops
}

func TestLinuxBulk(t *testing.T) {
	l := newLinux(t)
	const n, m = 1000, 10
	ops := bulk(n, m)
	must(t, l, ops...)
	servers, err := l.Servers(t.Context())
	if err != nil || len(servers) != n {
		t.Fatalf("got %d servers, %v; want %d", len(servers), err, n)
	}
	for key, s := range servers {
		if len(s.Dests) != m || s.Scheduler != "rr" {
			t.Fatalf("%v: got %+v", key, s)
		}
	}
	// All of it again is refused, each by itself.
	refused, err := l.Apply(t.Context(), ops)
	if err != nil || len(refused) != len(ops) {
		t.Fatalf("a second time: %d of %d refused, %v", len(refused), len(ops), err)
	}
	for i, e := range refused {
		if e.Index != i || e.Err != syscall.EEXIST {
			t.Fatalf("a second time: op %d: got %v at %d, want EEXIST", i, e.Err, e.Index)
		}
	}
	// Errors in the middle leave the rest in force.
	var mixed []Op
	for _, op := range ops {
		if op, ok := op.(NewDest); ok {
			mixed = append(mixed, SetDest{op.Key, op.Addr, 7}, SetDest{op.Key, netip.AddrPortFrom(op.Addr.Addr(), 1), 7})
		}
	}
	refused, err = l.Apply(t.Context(), mixed)
	if err != nil || len(refused) != n*m {
		t.Fatalf("every other op bad: %d refused, %v; want %d", len(refused), err, n*m)
	}
	for i, e := range refused {
		if e.Index != 2*i+1 || e.Err != syscall.ENOENT {
			t.Fatalf("every other op bad: got %v at %d, want ENOENT at %d", e.Err, e.Index, 2*i+1)
		}
	}
	if servers, err = l.Servers(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, s := range servers {
		if slices.ContainsFunc(s.Dests, func(d Dest) bool { return d.Weight != 7 }) {
			t.Fatalf("%v: got %+v, want weight 7", key, s)
		}
	}
}

// TestLinuxBesideOthers has two network namespaces with servers, which is when
// /proc/net/ip_vs leaves some out.
func TestLinuxBesideOthers(t *testing.T) {
	const n, m = 200, 3
	t.Run("other", func(t *testing.T) {
		must(t, newLinux(t), bulk(n, m)...)
		t.Run("ours", func(t *testing.T) { // while the other namespace is there
			l := newLinux(t)
			must(t, l, bulk(n, m)...)
			servers, err := l.Servers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dests := 0
			for _, s := range servers {
				dests += len(s.Dests)
			}
			if len(servers) != n || dests != n*m {
				t.Errorf("got %d servers with %d destinations, want %d with %d", len(servers), dests, n, n*m)
			}
			if text, err := os.ReadFile(procFile); err == nil {
				t.Logf("%s has %d of %d servers", procFile, strings.Count(string(text), "TCP"), n)
			}
		})
	})
}

// TestLinuxSetBulk fails many elements in the middle of batches, and reads a set
// that takes many messages.
func TestLinuxSetBulk(t *testing.T) {
	l := newLinux(t)
	const n = 20000
	must(t, l, NewSet{Set{"FL4-A", HashIPPort, service.IPv4, 1 << 20}})
	var ops []Op
	want := map[Element]bool{}
	for i := range n {
		e := Element{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: uint16(i), Protocol: service.UDP}
		want[e] = true
		ops = append(ops, AddElem{"FL4-A", HashIPPort, e}, AddElem{"FL4-B", HashIPPort, e})
	}
	refused, err := l.Apply(t.Context(), ops)
	if err != nil || len(refused) != n {
		t.Fatalf("%d refused, %v; want %d", len(refused), err, n)
	}
	for i, e := range refused {
		if e.Index != 2*i+1 || e.Err != syscall.ENOENT {
			t.Fatalf("got %v at %d, want ENOENT at %d", e.Err, e.Index, 2*i+1)
		}
	}
	elems, err := l.Elements(t.Context(), "FL4-A")
	if err != nil {
		t.Fatal(err)
	}
	got := map[Element]bool{}
	for _, e := range elems {
		got[e] = true
	}
	if len(elems) != n {
		t.Errorf("got %d elements, want %d", len(elems), n)
	}
	if d := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("got-want+ %.2000s", d)
	}
}

// TestLinuxRouting has ops of all kinds alternate, and many addresses.
func TestLinuxRouting(t *testing.T) {
	l := newLinux(t)
	const n = 2000
	ops := []Op{NewDevice{"kube-ipvs0"}, NewSet{Set{"FL4-A", HashIP, service.IPv4, n}}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		ops = append(ops, AddAddr{"kube-ipvs0", a, i%2 == 0}, AddRoute{17996, netip.PrefixFrom(a, 32)})
		if i%100 == 0 {
			ops = append(ops, AddElem{"FL4-A", HashIP, Element{Addr: a}}, NewServer{ServerKey{Addr: netip.AddrPortFrom(a, 80)}, Server{Scheduler: "rr"}})
		}
	}
	must(t, l, ops...)
	must(t, l, ops[2], ops[3], ops[4]) // there already
	dev, err := l.Device(t.Context(), "kube-ipvs0")
	if err != nil || len(dev.Addrs) != n || dev.Up {
		t.Fatalf("device: got %d addresses, up %v, %v; want %d", len(dev.Addrs), dev.Up, err, n)
	}
	for a, s := range dev.Addrs {
		if odd := a.As4()[3]%2 == 1; s.Local != odd {
			t.Fatalf("%v: local %v, want %v", a, s.Local, odd)
		}
	}
	routes, err := l.Routes(t.Context(), 17996)
	if err != nil || len(routes) != n {
		t.Errorf("got %d routes, %v; want %d", len(routes), err, n)
	}
	elems, err := l.Elements(t.Context(), "FL4-A")
	if err != nil || len(elems) != n/100 {
		t.Errorf("got %d elements, %v; want %d", len(elems), err, n/100)
	}
	// A local route is there once only.
	local, err := l.localRoutes(t.Context(), unix.AF_INET, unix.RT_TABLE_LOCAL, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Prefix]bool{}
	for _, r := range local {
		if seen[r.to] {
			t.Fatalf("two local routes to %v", r.to)
		}
		seen[r.to] = true
	}
	must(t, l, DelDevice{"kube-ipvs0"})
}

// TestLinuxRoutedAddr looks a route up all the time while its address is given to
// the device again and again: it must not be local for one moment. One CPU may see
// nothing of it; of two, the second does.
func TestLinuxRoutedAddr(t *testing.T) {
	l := newLinux(t)
	const name = "kube-ipvs0"
	a := netip.MustParseAddr("203.0.113.9")
	lo := AddRoute{17996, netip.MustParsePrefix("240.0.0.0/4")}
	must(t, l, NewDevice{name}, lo, AddRule{Rule{service.IPv4, 90, 0x8000, 0x8000, 17996}})
	// The route that the address has: it is another machine's.
	dummy := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}}
	if err := errors.Join(netlink.LinkAdd(dummy), netlink.LinkSetUp(dummy)); err != nil {
		t.Fatal(err)
	}
	to := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: dummy.Index, Dst: to, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle() // of this namespace
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	stop, asked := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { asked <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			routes, err := h.RouteGet(a.AsSlice())
			if err != nil || len(routes) != 1 || routes[0].LinkIndex != dummy.Index {
				t.Errorf("lookup %d: got %v, %v; want the route over %s", n, routes, err, dummy.Name)
				return
			}
		}
	}()
	const rounds = 2000
	for range rounds {
		must(t, l, AddAddr{name, a, true})
		must(t, l, AddAddr{name, a, true}) // it is there
		must(t, l, DelAddr{name, a})
	}
	close(stop)
	t.Logf("%d lookups, the address added %d times", <-asked, rounds)
	var left []string
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		if r.Type == unix.RTN_THROW || r.Dst != nil && r.Dst.IP.Equal(a.AsSlice()) {
			left = append(left, r.String())
		}
	}
	if err != nil || left != nil {
		t.Errorf("left in the table local: %v, %v", left, err)
	}
}

// TestLinuxReferences refuses to destroy a set that another one refers to.
func TestLinuxReferences(t *testing.T) {
	l := newLinux(t)
	must(t, l, NewSet{Set{"FL4-A", HashIP, service.IPv4, 9}})
	var b batch
	b.beginSet(0, setCreate, "FL-LIST", refused)
	b.text(setAttrType, "list:set")
	b.u8(setAttrRevision, 3)
	b.u8(setAttrFamily, 0)
	b.close(b.nest(setAttrData | unix.NLA_F_NESTED))
	b.end()
	b.beginSet(0, setAdd, "FL-LIST", refused)
	at := b.nest(setAttrData | unix.NLA_F_NESTED)
	b.text(18, "FL4-A") // IPSET_ATTR_NAME
	b.close(at)
	b.end()
	err := l.ipset.exchange(t.Context(), &b, func(place int, e syscall.Errno) { t.Fatalf("message %d: %v", place, e) })
	if err != nil {
		t.Fatal(err)
	}
	refused, err := l.Apply(t.Context(), []Op{DelSet{"FL4-A"}})
	if err != nil || len(refused) != 1 || refused[0].Err != syscall.EBUSY {
		t.Errorf("got %v, %v; want EBUSY", refused, err)
	}
}

// TestLinuxSchedulers makes a server with every scheduler that kernels come with,
// except those that are not loaded and must not be by us.
func TestLinuxSchedulers(t *testing.T) {
	l := newLinux(t)
	for i, name := range []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"} {
		has, err := l.HasScheduler(name)
		if want := !risky(name); has != want || err != nil {
			t.Errorf("HasScheduler(%s): got %v, %v; want %v", name, has, err, want)
		}
		key := ServerKey{Addr: netip.AddrPortFrom(netip.MustParseAddr("10.96.0.1"), uint16(i+1))}
		if !has {
			refused, err := l.Apply(t.Context(), []Op{NewServer{key, Server{Scheduler: name}}})
			if len(refused) != 1 || refused[0].Err != syscall.ENOENT || err != nil {
				t.Errorf("%s: got %v, %v; want ENOENT", name, refused, err)
			}
			continue
		}
		must(t, l, NewServer{key, Server{Scheduler: name}}, NewDest{key, endpoint("10.244.1.2:80"), 1})
		s, err := l.Server(t.Context(), key)
		if err != nil || s == nil || s.Scheduler != name {
			t.Errorf("%s: got %v, %v", name, s, err)
		}
	}
	for _, name := range []string{"nosuch", "none", "", "a-name-that-is-too-long"} {
		if has, err := l.HasScheduler(name); has || err != nil {
			t.Errorf("HasScheduler(%q): got %v, %v; want none", name, has, err)
		}
	}
}

// TestLinuxProbe leaves the probe of HasScheduler in place, as a process that was
// killed does, beside a mark of somebody else.
func TestLinuxProbe(t *testing.T) {
	l := newLinux(t)
	id, err := l.ipvsFamily(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b batch
	b.probe(id, ipvsNewService, "wrr")
	if err := l.ipvs.exchange(t.Context(), &b, func(_ int, e syscall.Errno) { t.Fatal(e) }); err != nil {
		t.Fatal(err)
	}
	text := func() string {
		b, err := os.ReadFile(procFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if line := fmt.Sprintf("FWM  %08X wrr", ProbeMark); !strings.Contains(text(), line) {
		t.Fatalf("no %q in\n%s", line, text())
	}
	if servers, err := l.Servers(t.Context()); err != nil || len(servers) != 0 {
		t.Errorf("Servers: got %v, %v; want none by address", servers, err)
	}
	if has, err := l.HasScheduler("rr"); !has || err != nil {
		t.Errorf("with a left-over: got %v, %v", has, err)
	}
	if strings.Contains(text(), "FWM") {
		t.Errorf("a probe is left:\n%s", text())
	}
}

func TestLinuxTimeouts(t *testing.T) {
	l := newLinux(t)
	_, fin, _, err := l.Timeouts()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetTimeouts(24*time.Hour, 0, 77*time.Second); err != nil {
		t.Fatal(err)
	}
	tcp, fin2, udp, err := l.Timeouts()
	if err != nil || tcp != 24*time.Hour || fin2 != fin || udp != 77*time.Second {
		t.Errorf("got %v %v %v, %v; want 24h0m0s %v 1m17s", tcp, fin2, udp, err, fin)
	}
}

// TestLinuxCancelled ends calls, and expects the next ones to work.
func TestLinuxCancelled(t *testing.T) {
	l := newLinux(t)
	must(t, l, bulk(200, 5)...)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Apply(gone, bulk(1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: got %v", err)
	}
	if _, err := l.Servers(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("Servers: got %v", err)
	}
	// In the middle of a dump: the rest of the answers must not show up later.
	id, err := l.ipvsFamily(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var b batch
	b.beginGeneric(0, id, ipvsGetService, refused)
	b.end()
	err = l.ipvs.dump(ctx, &b, func() {}, func(message) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("dump: got %v", err)
	}
	if servers, err := l.Servers(t.Context()); err != nil || len(servers) != 200 {
		t.Errorf("then: got %d servers, %v; want 200", len(servers), err)
	}
}
