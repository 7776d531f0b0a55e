package kernel

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

func fakeKey(s string) ServerKey { return ServerKey{Addr: netip.MustParseAddrPort(s)} }

// fakeOps brings a Fake to a state with one of everything.
func fakeOps() []Op {
	key, dest := fakeKey("10.96.0.1:80"), netip.MustParseAddrPort("10.244.1.2:8080")
	return []Op{
		NewServer{key, Server{Scheduler: "rr"}},
		NewDest{key, dest, 1},
		NewServer{ServerKey{netip.MustParseAddrPort("[fd00:10:96::1]:53"), service.UDP}, Server{"wrr", Persistent, time.Hour}},
		NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 2}},
		NewSet{Set{"FL4-FWSRC", HashIPPortNet, service.IPv4, 2}},
		NewSet{Set{"FL4-OLD", HashIPPort, service.IPv4, 9}},
		NewSet{Set{"FL6-HC", BitmapPort, service.IPv6, 0}},
		AddElem{"FL4-VIP", HashIPPort, Element{Addr: key.Addr.Addr(), Port: 80}},
		AddElem{"FL4-FWSRC", HashIPPortNet, Element{Addr: key.Addr.Addr(), Port: 80, Net: netip.MustParsePrefix("198.51.100.0/24")}},
		AddElem{"FL6-HC", BitmapPort, Element{Port: 30900}},
		NewDevice{"kube-ipvs0"},
		AddAddr{"kube-ipvs0", key.Addr.Addr(), true},
		AddAddr{"kube-ipvs0", netip.MustParseAddr("fd00:10:96::1"), false},
		AddRoute{17996, netip.MustParsePrefix("10.96.0.1/32")},
		AddRule{Rule{service.IPv4, 90, 0x8000, 0x8000, 17996}},
	}
}

const fakeDump = `server tcp 10.96.0.1:80 rr
  -> 10.244.1.2:8080 weight 1
server udp [fd00:10:96::1]:53 wrr persistent 1h0m0s
set FL4-FWSRC hash:ip,port,net IPv4 maxelem 2
  10.96.0.1,tcp:80,198.51.100.0/24
set FL4-OLD hash:ip,port IPv4 maxelem 9
set FL4-VIP hash:ip,port IPv4 maxelem 2
  10.96.0.1,tcp:80
set FL6-HC bitmap:port
  30900
device kube-ipvs0 up=false
  10.96.0.1 local=false
  fd00:10:96::1 local=true
route table 17996 local 10.96.0.1/32
rule IPv4 pref 90 fwmark 0x8000/0x8000 lookup 17996
`

func newFullFake(t *testing.T) *Fake {
	t.Helper()
	f := NewFake("rr", "wrr")
	if refused, err := f.Apply(t.Context(), fakeOps()); err != nil || len(refused) > 0 {
		t.Fatalf("Apply: %v, %v", refused, err)
	}
	return f
}

func TestFakeDump(t *testing.T) {
	f := newFullFake(t)
	if d := cmp.Diff(string(f.Dump()), fakeDump); d != "" {
		t.Errorf("got-want+:\n%s", d)
	}
	c := f.Clone()
	if err := c.Tamper(DelSet{"FL4-OLD"}, DelRoute{17996, netip.MustParsePrefix("10.96.0.1/32")}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(string(f.Dump()), fakeDump); d != "" || string(c.Dump()) == fakeDump {
		t.Errorf("after a change of the clone, got-want+:\n%s\nand of the clone\n%s", d, c.Dump())
	}
	if d := NewFake().Dump(); len(d) > 0 {
		t.Errorf("a new kernel has\n%s", d)
	}
	f.Up("kube-ipvs0")
	if d, err := f.Device(t.Context(), "kube-ipvs0"); err != nil || !d.Up || !d.Addrs[netip.MustParseAddr("10.96.0.1")].Local {
		t.Errorf("after Up: %+v, %v; want the local route back", d, err)
	}
}

// TestFakeRefuses tries each op on a full kernel: it is refused and changes
// nothing, or a nil error says that it is allowed.
func TestFakeRefuses(t *testing.T) {
	key, other := fakeKey("10.96.0.1:80"), fakeKey("10.96.0.9:80")
	dest := netip.MustParseAddrPort("10.244.1.2:8080")
	vip := Element{Addr: key.Addr.Addr(), Port: 80}
	for _, c := range []struct {
		name string
		op   Op
		want error
	}{
		{"server again", NewServer{key, Server{Scheduler: "rr"}}, syscall.EEXIST},
		{"no such scheduler", NewServer{other, Server{Scheduler: "mh"}}, syscall.ENOENT},
		{"change to no such scheduler", SetServer{key, Server{Scheduler: "mh"}}, syscall.ENOENT},
		{"persistent for no time", NewServer{other, Server{"rr", Persistent, 0}}, syscall.EINVAL},
		{"half a second", NewServer{other, Server{"rr", Persistent, time.Second / 2}}, syscall.EINVAL},
		{"time without persistence", NewServer{other, Server{"rr", 0, time.Second}}, syscall.EINVAL},
		{"server for ping", NewServer{ServerKey{other.Addr, service.ICMP}, Server{Scheduler: "rr"}}, syscall.EINVAL},
		{"change no server", SetServer{other, Server{Scheduler: "rr"}}, syscall.ESRCH},
		{"delete no server", DelServer{other}, syscall.ESRCH},
		{"destination of no server", NewDest{other, dest, 1}, syscall.ESRCH},
		{"destination again", NewDest{key, dest, 1}, syscall.EEXIST},
		{"destination of the other family", NewDest{key, netip.MustParseAddrPort("[fd00::1]:80"), 1}, syscall.EINVAL},
		{"change a destination of no server", SetDest{other, dest, 1}, syscall.ESRCH},
		{"change no destination", SetDest{key, other.Addr, 1}, syscall.ENOENT},
		{"delete a destination of no server", DelDest{other, dest}, syscall.ESRCH},
		{"delete no destination", DelDest{key, other.Addr}, syscall.ENOENT},
		{"set again", NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 2}}, nil},
		{"bitmap again", NewSet{Set{"FL6-HC", BitmapPort, service.IPv4, 0}}, nil},
		{"set of another size", NewSet{Set{"FL4-VIP", HashIPPort, service.IPv4, 3}}, syscall.EEXIST},
		{"set of another type", NewSet{Set{"FL4-VIP", HashIP, service.IPv4, 2}}, syscall.EEXIST},
		{"long name", NewSet{Set{strings.Repeat("x", 32), HashIP, service.IPv4, 2}}, syscall.EINVAL},
		{"destroy no set", DelSet{"FL4-NOPE"}, syscall.ENOENT},
		{"destroy a set in use", DelSet{"FL4-VIP"}, syscall.EBUSY},
		{"swap with no set", SwapSets{"FL4-VIP", "FL4-NOPE"}, syscall.ENOENT},
		{"swap with another type", SwapSets{"FL4-VIP", "FL4-FWSRC"}, syscall.EINVAL},
		{"element of no set", AddElem{"FL4-NOPE", HashIPPort, vip}, syscall.ENOENT},
		{"remove from no set", DelElem{"FL4-NOPE", HashIPPort, vip}, syscall.ENOENT},
		{"element again", AddElem{"FL4-VIP", HashIPPort, vip}, nil},
		{"element of another type", AddElem{"FL4-VIP", HashIP, Element{Addr: vip.Addr}}, syscall.EINVAL},
		{"element of the other family", AddElem{"FL4-VIP", HashIPPort, Element{Addr: netip.MustParseAddr("fd00::1"), Port: 80}}, syscall.EINVAL},
		{"element with too much", AddElem{"FL6-HC", BitmapPort, vip}, syscall.EINVAL},
		{"net of length 0", AddElem{"FL4-FWSRC", HashIPPortNet, Element{Addr: vip.Addr, Port: 80, Net: netip.MustParsePrefix("0.0.0.0/0")}}, syscall.EINVAL},
		{"remove what is not there", DelElem{"FL4-VIP", HashIPPort, Element{Addr: vip.Addr, Port: 81}}, nil},
		{"device again", NewDevice{"kube-ipvs0"}, syscall.EEXIST},
		{"delete no device", DelDevice{"dummy1"}, syscall.ENODEV},
		{"address of no device", AddAddr{"dummy1", vip.Addr, true}, syscall.ENODEV},
		{"address again", AddAddr{"kube-ipvs0", vip.Addr, true}, nil},
		{"take from no device", DelAddr{"dummy1", vip.Addr}, syscall.ENODEV},
		{"take what is not there", DelAddr{"kube-ipvs0", other.Addr.Addr()}, nil},
		{"route again", AddRoute{17996, netip.MustParsePrefix("10.96.0.1/32")}, nil},
		{"route with host bits", AddRoute{17996, netip.MustParsePrefix("10.96.0.1/24")}, syscall.EINVAL},
		{"delete no route", DelRoute{17996, netip.MustParsePrefix("10.96.0.2/32")}, nil},
		{"rule again", AddRule{Rule{service.IPv4, 90, 0x8000, 0x8000, 17996}}, syscall.EEXIST},
		{"delete no rule", DelRule{Rule{service.IPv6, 90, 0x8000, 0x8000, 17996}}, syscall.ENOENT},
	} {
		f := newFullFake(t)
		f.Refer = func(set string) bool { return set == "FL4-VIP" }
		refused, err := f.Apply(t.Context(), []Op{c.op})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got error
		if len(refused) > 0 {
			got = refused[0].Err
		}
		if got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		if d := cmp.Diff(string(f.Dump()), fakeDump); d != "" {
			t.Errorf("%s: changed, got-want+:\n%s", c.name, d)
		}
	}
}

// TestFakeGoesOn: what is refused does not keep the rest from being tried, and
// is told in order. A set takes as many elements as it was made for.
func TestFakeGoesOn(t *testing.T) {
	f := newFullFake(t)
	key := fakeKey("10.96.0.1:80")
	elem := func(port uint16) Op {
		return AddElem{"FL4-VIP", HashIPPort, Element{Addr: key.Addr.Addr(), Port: port}}
	}
	f.ResetStats()
	refused, err := f.Apply(t.Context(), []Op{elem(81), elem(82), SwapSets{"FL4-VIP", "FL4-OLD"}, elem(82), DelServer{key}, DelServer{key}, DelSet{"FL4-OLD"}})
	if err != nil || len(refused) != 2 || refused[0].Index != 1 || refused[0].Err != ErrSetFull || refused[1].Index != 5 || refused[1].Err != syscall.ESRCH {
		t.Errorf("got %v, %v", refused, err)
	}
	got, err := f.Elements(t.Context(), "FL4-VIP")
	if d := cmp.Diff(got, []Element{{Addr: key.Addr.Addr(), Port: 82}}, cmp.Comparer(func(a, b Element) bool { return a == b })); d != "" || err != nil {
		t.Errorf("after the swap, got-want+:\n%s%v", d, err)
	}
	if s, err := f.Server(t.Context(), key); s != nil || err != nil {
		t.Errorf("after DelServer: %v, %v", s, err)
	}
	if got, want := f.Stats(), (FakeStats{Applies: 1, Ops: 7, Refused: 2, Reads: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestFakeFails: every kind of fault happens, none after Fail(0), and equal seeds
// have equal faults.
func TestFakeFails(t *testing.T) {
	kinds := map[string]int{}
	run := func(p float64, seed uint64) (dumps string) {
		for i := range uint64(40) {
			f := NewFake("rr", "wrr")
			f.Fail(p, seed+i)
			refused, err := f.Apply(t.Context(), fakeOps())
			switch {
			case err == nil && len(refused) == 0:
				kinds["success"]++
			case err == nil:
				kinds["some refused"]++
			case !errors.Is(err, ErrInjected):
				t.Errorf("got %v, want %v", err, ErrInjected)
			case len(f.Dump()) == 0:
				kinds["nothing done"]++
			case string(f.Dump()) == fakeDump:
				kinds["all done"]++
			default:
				kinds["half done"]++
			}
			if _, err := f.Servers(t.Context()); err != nil {
				kinds["read failed"]++
			}
			dumps += string(f.Dump())
		}
		return dumps
	}
	if a, b := run(0.5, 1), run(0.5, 1); a != b {
		t.Error("equal seeds have different faults")
	}
	for _, kind := range []string{"success", "some refused", "nothing done", "half done", "all done", "read failed"} {
		if kinds[kind] == 0 {
			t.Errorf("%q never happened: %v", kind, kinds)
		}
	}
	clear(kinds)
	run(0, 1)
	if d := cmp.Diff(kinds, map[string]int{"success": 40}); d != "" {
		t.Errorf("without faults, got-want+:\n%s", d)
	}
}
