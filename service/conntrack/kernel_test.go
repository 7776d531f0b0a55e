package conntrack_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/conntrack"
)

// A flow is an entry of the kernel's table, as the test makes and reads it by
// way of a library that shares no code with this package.
type flow struct {
	Proto             uint8
	Src, Dst          string // as the client sees it
	ReplySrc, Comment string
}

func udp(src, dst, replySrc, comment string) flow {
	return flow{Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, ReplySrc: replySrc, Comment: comment}
}

func TestPurge(t *testing.T) {
	tests := []struct {
		family       service.Family
		prev, cur    *service.Snapshot
		stays, leave []flow
	}{
		{
			family: service.IPv4,
			prev: world("172.18.0.11", port("dns", "10.96.0.10:53", "0.0.0.0:30053", "10.244.1.2:53", "10.244.2.2:53"),
				port("gone", "10.96.0.11:514", "", "10.244.1.3:514")),
			cur: world("172.18.0.11", port("dns", "10.96.0.10:53", "0.0.0.0:30053", "10.244.2.2:53"),
				port("late", "10.96.0.12:123", "", "10.244.2.4:123")),
			stays: []flow{
				udp("10.244.1.9:4001", "10.96.0.10:53", "10.244.2.2:53", "endpoint that stays"),
				udp("10.244.1.9:4002", "172.18.0.11:30053", "10.244.2.2:53", "node port, endpoint that stays"),
				udp("10.244.1.9:4003", "192.0.2.1:53", "192.0.2.1:53", "not ours"),
				udp("10.244.1.9:4004", "192.0.2.1:30053", "192.0.2.1:30053", "number of a node port elsewhere"),
				{unix.IPPROTO_TCP, "10.244.1.9:4001", "10.96.0.10:53", "10.244.1.2:53", "TCP"},
			},
			leave: []flow{
				udp("10.244.1.9:5001", "10.96.0.10:53", "10.244.1.2:53", "endpoint that left"),
				udp("10.244.1.9:5002", "172.18.0.11:30053", "10.244.1.2:53", "node port, endpoint that left"),
				udp("10.244.1.9:5003", "10.96.0.11:514", "10.244.1.3:514", "Service that left"),
				udp("10.244.1.9:5004", "10.96.0.12:123", "10.96.0.12:123", "sent before there was a Service"),
				udp("10.96.0.12:123", "10.244.1.9:5005", "10.244.1.9:5005", "begun by an answer, before there was a Service"),
			},
		},
		{
			family: service.IPv6,
			prev:   world("fd00:172:18::11", port("dns", "[fd00:10:96::10]:53", "[::]:30053", "[fd00:10:244:1::2]:53", "[fd00:10:244:2::2]:53")),
			cur:    world("fd00:172:18::11", port("dns", "[fd00:10:96::10]:53", "[::]:30053", "[fd00:10:244:2::2]:53")),
			stays: []flow{
				udp("[fd00:10:244:1::9]:4001", "[fd00:10:96::10]:53", "[fd00:10:244:2::2]:53", "endpoint that stays"),
				udp("[fd00:10:244:1::9]:4002", "[2001:db8::1]:30053", "[2001:db8::1]:30053", "number of a node port elsewhere"),
			},
			leave: []flow{
				udp("[fd00:10:244:1::9]:5001", "[fd00:10:96::10]:53", "[fd00:10:244:1::2]:53", "endpoint that left"),
				udp("[fd00:10:244:1::9]:5002", "[fd00:172:18::11]:30053", "[fd00:10:244:1::2]:53", "node port, endpoint that left"),
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.family.String(), func(t *testing.T) {
			k := namespace(t)
			create(t, tt.family, tt.leave)
			create(t, tt.family, tt.stays)
			n, err := k.Purge(t.Context(), tt.family, service.NewStale(tt.prev, tt.cur).Orphan)
			if n != len(tt.leave) || err != nil {
				t.Errorf("Purge = %d, %v, want %d", n, err, len(tt.leave))
			}
			got, want := list(t, tt.family), keys(tt.stays)
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("entries left (-got +want):\n%s", d)
			}
		})
	}
}

// TestPurgeMany deletes more than fits a batch or an answer of the kernel.
func TestPurgeMany(t *testing.T) {
	k := namespace(t)
	const n = 3000
	var flows []flow
	for i := range n {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i%200)}), uint16(1024+i))
		flows = append(flows, udp(src.String(), "10.96.0.10:53", "10.244.1.2:53", ""))
	}
	create(t, service.IPv4, flows)
	got, err := k.Purge(t.Context(), service.IPv4, func(f service.ConntrackFlow) bool { return true })
	if got != n || err != nil {
		t.Errorf("Purge = %d, %v, want %d", got, err, n)
	}
	if left := list(t, service.IPv4); len(left) > 0 {
		t.Errorf("%d entries left, want none", len(left))
	}
}

// TestPurgeMeetsGoneEntry has the entry go between being listed and deleted.
func TestPurgeMeetsGoneEntry(t *testing.T) {
	k := namespace(t)
	create(t, service.IPv4, []flow{udp("10.244.1.9:4001", "10.96.0.10:53", "10.244.1.2:53", "")})
	n, err := k.Purge(t.Context(), service.IPv4, func(service.ConntrackFlow) bool {
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Error(err)
		}
		return true
	})
	if n != 1 || err != nil {
		t.Errorf("Purge = %d, %v, want 1", n, err)
	}
}

func TestPurgeStopsWithContext(t *testing.T) {
	k := namespace(t)
	flows := []flow{udp("10.244.1.9:4001", "10.96.0.10:53", "10.244.1.2:53", "")}
	create(t, service.IPv4, flows)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n, err := k.Purge(ctx, service.IPv4, func(service.ConntrackFlow) bool { return true })
	if n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Purge = %d, %v, want 0 and context.Canceled", n, err)
	}
	if d := cmp.Diff(list(t, service.IPv4), keys(flows)); d != "" {
		t.Errorf("entries left (-got +want):\n%s", d)
	}
	if n, err := k.Purge(t.Context(), service.IPv4, func(service.ConntrackFlow) bool { return true }); n != 1 || err != nil {
		t.Errorf("the next Purge = %d, %v, want 1", n, err)
	}
}

// namespace moves the test's thread, for good, to a network namespace of its own.
func namespace(t *testing.T) *conntrack.Kernel {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a network namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	k, err := conntrack.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func family(f service.Family) netlink.InetFamily {
	if f == service.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func create(t *testing.T, f service.Family, flows []flow) {
	t.Helper()
	for _, fl := range flows {
		src, dst := netip.MustParseAddrPort(fl.Src), netip.MustParseAddrPort(fl.Dst)
		reply := netip.MustParseAddrPort(fl.ReplySrc)
		ct := &netlink.ConntrackFlow{
			FamilyType: uint8(family(f)),
			Forward:    ipTuple(fl.Proto, src, dst),
			Reverse:    ipTuple(fl.Proto, reply, src),
			TimeOut:    300,
		}
		if fl.Proto == unix.IPPROTO_TCP {
			ct.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
		}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, family(f), ct); err != nil {
			t.Fatalf("create entry %+v: %v", fl, err)
		}
	}
}

func ipTuple(proto uint8, src, dst netip.AddrPort) netlink.IPTuple {
	return netlink.IPTuple{
		Protocol: proto,
		SrcIP:    src.Addr().AsSlice(), SrcPort: src.Port(),
		DstIP: dst.Addr().AsSlice(), DstPort: dst.Port(),
	}
}

// list reads the table with the other library.
func list(t *testing.T, f service.Family) []string {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family(f))
	if err != nil {
		t.Fatal(err)
	}
	var out []flow
	for _, ct := range flows {
		out = append(out, flow{
			Proto:    ct.Forward.Protocol,
			Src:      addrPort(ct.Forward.SrcIP, ct.Forward.SrcPort),
			Dst:      addrPort(ct.Forward.DstIP, ct.Forward.DstPort),
			ReplySrc: addrPort(ct.Reverse.SrcIP, ct.Reverse.SrcPort),
		})
	}
	return keys(out)
}

func addrPort(ip net.IP, port uint16) string {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a, port).String()
}

func keys(flows []flow) []string {
	var out []string
	for _, f := range flows {
		proto := "udp "
		if f.Proto == unix.IPPROTO_TCP {
			proto = "tcp "
		}
		out = append(out, proto+f.Src+" -> "+f.Dst+", answered by "+f.ReplySrc)
	}
	slices.Sort(out)
	return out
}

// world returns a Snapshot of a node with one address.
func world(node string, ports ...*service.Port) *service.Snapshot {
	return &service.Snapshot{
		Node:  service.Node{Addrs: []netip.Addr{netip.MustParseAddr(node)}},
		Ports: service.NewPortList(ports...),
	}
}

// port returns a UDP port of Service default/name; nodePort may be empty.
func port(name, clusterIP, nodePort string, serving ...string) *service.Port {
	vip := netip.MustParseAddrPort(clusterIP)
	p := &service.Port{
		ID: service.PortID{
			Service:  service.Name{Namespace: "default", Name: name},
			Protocol: service.UDP, Family: service.FamilyOf(vip.Addr()),
		},
		Frontends: []service.Frontend{{Kind: service.ClusterIP, Addr: vip}},
	}
	if nodePort != "" {
		p.Frontends = append(p.Frontends, service.Frontend{Kind: service.NodePort, Addr: netip.MustParseAddrPort(nodePort)})
	}
	for _, ep := range serving {
		p.Serving = append(p.Serving, service.Endpoint{Addr: netip.MustParseAddrPort(ep)})
	}
	return p
}
