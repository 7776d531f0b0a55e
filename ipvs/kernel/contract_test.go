package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// A step is an op and the error that every Kernel refuses it with.
type step struct {
	op   Op
	want error
}

func serverKey(p service.Protocol, addr string) ServerKey {
	return ServerKey{Addr: netip.MustParseAddrPort(addr), Protocol: p}
}

func endpoint(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// contract is the whole of what Kernel promises of ops, as one list. What comes
// later needs what came before.
func contract() []step {
	return slices.Concat(serverSteps(), setSteps(), deviceSteps(), routeSteps())
}

func serverSteps() []step {
	key4 := serverKey(service.TCP, "10.96.0.1:80")
	key6 := serverKey(service.TCP, "[fd00:10:96::1]:80")
	udp, sctp := serverKey(service.UDP, "10.96.0.1:80"), serverKey(service.SCTP, "10.96.0.1:80")
	sctp6, none := serverKey(service.SCTP, "[fd00:10:96::1]:80"), serverKey(service.TCP, "10.96.0.9:80")
	rr := Server{Scheduler: "rr"}
	d1, d2, d9 := endpoint("10.244.1.2:8080"), endpoint("10.244.1.3:8080"), endpoint("10.244.1.9:8080")
	e1, e2 := endpoint("[fd00:10:244:1::2]:8080"), endpoint("[fd00:10:244:1::3]:8080")
	return []step{
		{NewServer{key4, rr}, nil},
		{NewServer{key4, rr}, syscall.EEXIST},
		{NewServer{none, Server{Scheduler: "nosuch"}}, syscall.ENOENT},
		{NewServer{key6, Server{"wrr", Persistent, 3 * time.Hour}}, nil},
		{NewServer{key6, rr}, syscall.EEXIST},
		{NewServer{udp, Server{"rr", OnePacket, 0}}, nil},
		{NewServer{sctp, Server{"mh", Sched1 | Sched2, 0}}, nil},
		{NewServer{sctp6, Server{"sh", Persistent | Sched2, 77 * time.Second}}, nil},
		{SetServer{none, rr}, syscall.ESRCH},
		{SetServer{key4, Server{"wrr", Persistent, time.Hour}}, nil},
		{SetServer{key6, Server{"lc", 0, 0}}, nil},
		{SetServer{key4, Server{Scheduler: "nosuch"}}, syscall.ENOENT},
		{DelServer{none}, syscall.ESRCH},

		{NewDest{none, d1, 1}, syscall.ESRCH},
		{NewDest{key4, d1, 1}, nil},
		{NewDest{key4, d1, 2}, syscall.EEXIST},
		{NewDest{key4, d2, 70000}, nil},
		{NewDest{key6, e1, 1}, nil},
		{NewDest{key6, e2, 1}, nil},
		{NewDest{sctp, d1, 3}, nil},
		{NewDest{sctp6, e1, 0}, nil},
		{NewDest{udp, d1, 1}, nil},
		{SetDest{none, d1, 1}, syscall.ESRCH},
		{SetDest{key4, d9, 1}, syscall.ENOENT},
		{SetDest{key4, d1, 0}, nil},
		{SetDest{key6, e2, 5}, nil},
		{DelDest{none, d1}, syscall.ESRCH},
		{DelDest{key4, d9}, syscall.ENOENT},
		{DelDest{key6, e1}, nil},
		{DelServer{udp}, nil},
		{NewDest{udp, d1, 1}, syscall.ESRCH},
		{NewServer{ServerKey{}, rr}, syscall.EINVAL},
		{NewDest{key4, netip.AddrPort{}, 1}, syscall.EINVAL},
	}
}

func setSteps() []step {
	ip4, ip6 := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")
	net4, net6 := netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/64")
	return []step{
		{NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 1 << 20}}, nil},
		{NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 1 << 20}}, nil},
		{NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 1 << 19}}, syscall.EEXIST},
		{NewSet{Set{"FL4-VIP", HashIP, service.IPv4, 1 << 20}}, syscall.EEXIST},
		{NewSet{Set{"FL6-VIP", HashIPPort, service.IPv6, 1 << 20}}, nil},
		{NewSet{Set{"FL4-ADDR", HashIP, service.IPv4, 1 << 20}}, nil},
		{NewSet{Set{"FL6-ADDR", HashIP, service.IPv6, 1 << 20}}, nil},
		{NewSet{Set{"FL4-FWSRC", HashIPPortNet, service.IPv4, 1 << 20}}, nil},
		{NewSet{Set{"FL6-FWSRC", HashIPPortNet, service.IPv6, 1 << 20}}, nil},
		{NewSet{Set{"FL-HC", BitmapPort, service.IPv4, 0}}, nil},
		{NewSet{Set{"FL-HC", BitmapPort, service.IPv4, 0}}, nil},
		{NewSet{Set{"FL4-SMALL", HashIPPort, service.IPv4, 2}}, nil},
		{NewSet{Set{"FL4-OTHER", HashIPPort, service.IPv4, 2}}, nil},
		{NewSet{Set{"FL4-GONE", HashIPPort, service.IPv4, 2}}, nil},
		{DelSet{"FL4-GONE"}, nil},
		{DelSet{"FL4-GONE"}, syscall.ENOENT},
		{NewSet{Set{strings.Repeat("n", 31), HashIPPort, service.IPv4, 2}}, nil},
		{NewSet{Set{strings.Repeat("n", 32), HashIPPort, service.IPv4, 2}}, syscall.EINVAL},

		{AddElem{"FL4-GONE", HashIPPort, Element{Addr: ip4, Port: 80}}, syscall.ENOENT},
		{DelElem{"FL4-GONE", HashIPPort, Element{Addr: ip4, Port: 80}}, syscall.ENOENT},
		{AddElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 80}}, nil},
		{AddElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 80}}, nil},
		{AddElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 80, Protocol: service.SCTP}}, nil},
		{AddElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 443, Protocol: service.UDP}}, nil},
		{DelElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 443, Protocol: service.UDP}}, nil},
		{DelElem{"FL4-VIP", HashIPPort, Element{Addr: ip4, Port: 443, Protocol: service.UDP}}, nil},
		{AddElem{"FL6-VIP", HashIPPort, Element{Addr: ip6, Port: 80, Protocol: service.SCTP}}, nil},
		{AddElem{"FL4-VIP", HashIPPort, Element{Port: 80}}, syscall.EINVAL},
		{AddElem{"FL4-ADDR", HashIP, Element{Addr: ip4}}, nil},
		{AddElem{"FL6-ADDR", HashIP, Element{Addr: ip6}}, nil},
		{AddElem{"FL4-FWSRC", HashIPPortNet, Element{Addr: ip4, Port: 80, Net: net4}}, nil},
		{AddElem{"FL4-FWSRC", HashIPPortNet, Element{Addr: ip4, Port: 80, Net: netip.MustParsePrefix("198.51.100.7/32")}}, nil},
		{AddElem{"FL6-FWSRC", HashIPPortNet, Element{Addr: ip6, Port: 80, Net: net6, Protocol: service.UDP}}, nil},
		{AddElem{"FL-HC", BitmapPort, Element{Port: 32000}}, nil},
		{AddElem{"FL-HC", BitmapPort, Element{Port: 32000}}, nil},
		{AddElem{"FL-HC", BitmapPort, Element{Port: 65535}}, nil},
		{DelElem{"FL-HC", BitmapPort, Element{Port: 65535}}, nil},

		{AddElem{"FL4-SMALL", HashIPPort, Element{Addr: ip4, Port: 1}}, nil},
		{AddElem{"FL4-SMALL", HashIPPort, Element{Addr: ip4, Port: 2}}, nil},
		{AddElem{"FL4-SMALL", HashIPPort, Element{Addr: ip4, Port: 3}}, ErrSetFull},
		{AddElem{"FL4-SMALL", HashIPPort, Element{Addr: ip4, Port: 2}}, nil},
		{SwapSets{"FL4-SMALL", "FL4-OTHER"}, nil},
		{SwapSets{"FL4-SMALL", "FL4-GONE"}, syscall.ENOENT},
		{SwapSets{"FL4-GONE", "FL4-SMALL"}, syscall.ENOENT},
		{SwapSets{"FL4-SMALL", "FL4-ADDR"}, syscall.EINVAL},
		{AddElem{"FL4-SMALL", HashIPPort, Element{Addr: ip4, Port: 3}}, nil},
	}
}

func deviceSteps() []step {
	const dev = "kube-ipvs0"
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}) }
	addr6 := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:10:96::1:%x", i)) }
	steps := []step{
		{AddAddr{dev, addr(1), true}, syscall.ENODEV},
		{DelAddr{dev, addr(1)}, syscall.ENODEV},
		{DelDevice{dev}, syscall.ENODEV},
		{NewDevice{dev}, nil},
		{NewDevice{dev}, syscall.EEXIST},
		{DelDevice{dev}, nil},
		{AddAddr{dev, addr(1), false}, syscall.ENODEV},
		{NewDevice{dev}, nil},
	}
	for _, at := range []func(int) netip.Addr{addr, addr6} {
		steps = append(steps,
			step{AddAddr{dev, at(1), true}, nil}, // remains so
			step{AddAddr{dev, at(2), false}, nil},
			step{AddAddr{dev, at(3), true}, nil}, // the other way round
			step{AddAddr{dev, at(3), false}, nil},
			step{AddAddr{dev, at(4), false}, nil},
			step{AddAddr{dev, at(4), true}, nil},
			step{AddAddr{dev, at(5), true}, nil}, // again
			step{AddAddr{dev, at(5), true}, nil},
			step{AddAddr{dev, at(6), false}, nil},
			step{AddAddr{dev, at(6), false}, nil},
			step{AddAddr{dev, at(7), true}, nil}, // removed
			step{DelAddr{dev, at(7)}, nil},
			step{DelAddr{dev, at(7)}, nil},
			step{AddAddr{dev, at(8), false}, nil},
			step{AddAddr{dev, at(8), false}, nil},
			step{DelAddr{dev, at(8)}, nil},
		)
	}
	return append(steps, step{AddAddr{Device: dev}, syscall.EINVAL})
}

func routeSteps() []step {
	const table = 17996
	to := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	rule := Rule{service.IPv4, 90, 0x8000, 0x8000, table}
	rule6 := Rule{service.IPv6, 90, 0x8000, 0x8000, table}
	other := Rule{service.IPv4, 91, 0x4000, 0xffffffff, table}
	return []step{
		{DelRoute{table, to("10.96.0.1/32")}, nil},
		{DelRoute{table, to("fd00:10:96::1/128")}, nil},
		{AddRoute{table, to("10.96.0.1/32")}, nil},
		{AddRoute{table, to("10.96.0.1/32")}, nil},
		{AddRoute{table, to("10.96.8.0/24")}, nil},
		{AddRoute{table, to("fd00:10:96::1/128")}, nil},
		{AddRoute{table, to("fd00:10:96::1/128")}, nil},
		{AddRoute{table, to("fd00:10:97::/64")}, nil},
		{AddRoute{table, to("10.96.0.2/32")}, nil},
		{DelRoute{table, to("10.96.0.2/32")}, nil},
		{AddRoute{table, netip.Prefix{}}, syscall.EINVAL},
		{DelRule{rule}, syscall.ENOENT},
		{AddRule{rule}, nil},
		{AddRule{rule}, syscall.EEXIST},
		{AddRule{rule6}, nil},
		{AddRule{rule6}, syscall.EEXIST},
		{AddRule{other}, nil},
		{DelRule{other}, nil},
		{DelRule{other}, syscall.ENOENT},
		{DelRule{Rule{service.IPv6, 92, 0x8000, 0x8000, table}}, syscall.ENOENT},
	}
}

// contractState is everything that the steps of the contract leave behind, as
// text, by what a Kernel reads.
func contractState(t *testing.T, k Kernel) string {
	t.Helper()
	var b strings.Builder
	note := func(err error, format string, args ...any) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, format+"\n", args...)
	}
	servers, err := k.Servers(t.Context())
	note(err, "servers %d", len(servers))
	for _, key := range sortedKeys(servers, ServerKey.Compare) {
		note(nil, "%v: %v", key, *servers[key])
		one, err := k.Server(t.Context(), key)
		note(err, "%v: %v", key, *one)
	}
	sets, err := k.Sets(t.Context(), "FL")
	note(err, "sets %d", len(sets))
	slices.SortFunc(sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range sets {
		elems, err := k.Elements(t.Context(), s.Name)
		note(err, "%v", s)
		var lines []string
		for _, e := range elems {
			lines = append(lines, fmt.Sprintf("  %+v", e))
		}
		slices.Sort(lines)
		note(nil, "%s", strings.Join(lines, "\n"))
	}
	dev, err := k.Device(t.Context(), "kube-ipvs0")
	note(err, "device %v %v", dev.Exists, dev.Up)
	for _, a := range sortedKeys(dev.Addrs, netip.Addr.Compare) {
		note(nil, "  %v %v", a, dev.Addrs[a].Local)
	}
	routes, err := k.Routes(t.Context(), 17996)
	slices.SortFunc(routes, netip.Prefix.Compare)
	note(err, "routes %v", routes)
	rules, err := k.Rules(t.Context(), 17996)
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Family, b.Family) })
	note(err, "rules %v", rules)
	return b.String()
}

func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	var keys []K
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// checkContract runs the contract on a new Kernel, one op at a time or all in one
// call, and returns what it leaves.
func checkContract(t *testing.T, k Kernel, atOnce bool) string {
	t.Helper()
	steps := contract()
	got := make([]error, len(steps))
	apply := func(first int, ops []Op) {
		refused, err := k.Apply(t.Context(), ops)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(refused, func(a, b *OpError) int { return a.Index - b.Index }) {
			t.Errorf("errors are not sorted: %v", refused)
		}
		for _, e := range refused {
			if e.Op != ops[e.Index] {
				t.Errorf("error %d is about %v, want %v", e.Index, e.Op, ops[e.Index])
			}
			got[first+e.Index] = e.Err
		}
	}
	if atOnce {
		var ops []Op
		for _, s := range steps {
			ops = append(ops, s.op)
		}
		apply(0, ops)
	} else {
		for i, s := range steps {
			apply(i, []Op{s.op})
		}
	}
	for i, s := range steps {
		if got[i] != s.want {
			t.Errorf("step %d: %v: got error %v, want %v", i, s.op, got[i], s.want)
		}
	}
	return contractState(t, k)
}

// TestContract holds Fake to what Linux is held to by TestLinuxContract.
func TestContract(t *testing.T) {
	fake := func() *Fake { return NewFake("rr", "wrr", "lc", "sh", "mh") }
	one, all := checkContract(t, fake(), false), checkContract(t, fake(), true)
	if d := gocmp.Diff(one, all); d != "" {
		t.Errorf("one by one, and at once:\n%s", d)
	}
	if _, err := fake().Elements(t.Context(), "FL4-NONE"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("elements of a set that is not there: got error %v, want ENOENT", err)
	}
}
