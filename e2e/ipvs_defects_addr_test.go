//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestIPVSDefectAddresses is about what comes of it when virtual addresses are the
// node's own.
func TestIPVSDefectAddresses(t *testing.T) {
	whole := []world.Mode{world.IPVSDevice} // there, the node has all of an address
	inEveryIPVS(t, []defect{
		{name: "undeclared ports do not reach processes of the host", see: "72236, 108460", test: hostDaemon},
		{name: "undeclared ports are their owner's", see: "59976, 79976, 115931", not: whole, test: undeclaredPorts},
		{name: "a node whose address is an external IP stays what it is", not: whole, test: otherNode,
			see: "93175, 104679, 127410, 85741, 75290, 80738"},
		{name: "ARP is not answered", see: "metallb 153, kubermatic 7309", not: whole, test: noARP},
		{name: "a port of a host does not catch a virtual address", see: "72522, 61938, 62718", not: whole, test: hostPort},
		{name: "a cluster IP is not masqueraded because its port is a node port", see: "by its source, proxier.go", test: nodePortNumber},
		{name: "the node calls as itself", see: "63241, 65158, 63319", test: ownSource},
		{name: "a cache on the node takes over a cluster IP", see: "website 18716, rke2 10103", test: nodeLocalDNS},
		{name: "virtual addresses answer ping", see: "in device mode they do, in others none did", test: pings},
	})
}

// hostDaemon has a process of the node listen at every address there is.
func hostDaemon(t *testing.T, b *bed) {
	s := site(1, pod(2))
	b.offer(t, s)
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		d, err := b.N1.Serve(netns.TCP, netip.AddrPortFrom(any, 2222))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
	}
	call(t, netns.TCP, b.everyone(t), at(netns.NodeAddr(1), 2222), answeredIn(b.N1.NS))
	notTheNode := func(r netns.Result) error {
		if r.Class == netns.Reply && r.From.Name == b.N1.Name() {
			return fmt.Errorf("got %v, want no answer of the node", r)
		}
		return nil
	}
	call(t, netns.TCP, b.everyone(t), at(s.ip, 2222), refused)
	call(t, netns.TCP, b.everyone(t), parse(t, 2222, slices.Concat(s.lb, s.external)...), notTheNode)
}

// undeclaredPorts has something else behind the addresses of a load balancer, in the network of the node. It has to find
// the node there: over IPv6 it asks from the very address that it answers from (RFC 4861, 7.2.2).
func undeclaredPorts(t *testing.T, b *bed) {
	s := site(2, pod(2))
	b.offer(t, s)
	b.serve(t, netns.TCP, 9443, vip(2), vip(102))
	b.serve(t, netns.UDP, 80, vip(2), vip(102))
	for _, lb := range []netns.Dual{vip(2), vip(102)} {
		call(t, netns.TCP, b.everyone(t), at(lb, 80), answeredByAny(pod(2)))
		if out, err := b.Elsewhere.Output(t.Context(), "ip", "-6", "neigh", "flush", "dev", netns.Uplink); err != nil {
			t.Fatalf("forget neighbours: %v\n%s", err, out)
		}
		call(t, netns.TCP, b.everyone(t), at(lb, 9443), answeredIn(b.Elsewhere.NS))
		call(t, netns.UDP, b.everyone(t), at(lb, 80), answeredIn(b.Elsewhere.NS))
	}
}

// otherNode gives a Service the address of n2.
func otherNode(t *testing.T, b *bed) {
	n2 := netns.NodeAddr(2)
	s := site(3, pod(2))
	s.external = texts(n2)
	b.serve(t, netns.TCP, 22, n2)
	b.serve(t, netns.TCP, 10250, n2)
	b.offer(t, s)
	call(t, netns.TCP, b.everyone(t), at(n2, 80), answeredByAny(pod(2)))
	call(t, netns.TCP, b.everyone(t), slices.Concat(at(n2, 22), at(n2, 10250)), answeredIn(b.Nodes[1].NS))
	for _, a := range n2.Slice() {
		for _, from := range b.everyone(t) {
			came, err := b.Nodes[1].Watch(netns.Uplink, netip.PrefixFrom(a, a.BitLen()))
			if err != nil {
				t.Fatal(err)
			}
			r := from.Ping(t.Context(), a, 3*time.Second)
			n, err := came.Count()
			if err = errors.Join(err, came.Close()); err != nil {
				t.Fatal(err)
			}
			if r.Class != netns.Reply || n == 0 {
				t.Errorf("ping %v from %s: %v, %d packets have come to it", a, from.Name(), r, n)
			}
		}
	}
}

// noARP asks for virtual addresses on the network of the nodes.
func noARP(t *testing.T, b *bed) {
	s := site(4, pod(2))
	b.offer(t, s)
	for _, dev := range []string{"all", netns.Uplink} {
		if v, err := b.N1.Sysctl("net/ipv4/conf/" + dev + "/arp_ignore"); v != "0" {
			t.Fatalf("arp_ignore of %s: %q, %v, want 0", dev, v, err)
		}
	}
	own := netip.MustParseAddr("203.0.113.99")
	if err := b.N1.AddAddr("lo", netip.PrefixFrom(own, 32)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.N1.RemoveAddr("lo", netip.PrefixFrom(own, 32)) })
	n2 := b.Nodes[1]
	found := func(a netip.Addr) bool {
		t.Helper()
		p := netip.PrefixFrom(a, 32)
		if err := n2.SetRoute(netns.Route{Dst: p, Dev: netns.Uplink}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n2.Output(context.Background(), "ip", "route", "del", p.String()) })
		for range 2 { // a second each
			n2.Probe(t.Context(), netns.Request{Proto: netns.UDP, Dst: netip.AddrPortFrom(a, 9)})
			out, err := n2.Output(t.Context(), "ip", "neigh", "show", a.String())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, "lladdr") {
				return true
			}
		}
		return false
	}
	if !found(own) {
		t.Errorf("the node does not answer for %v, which is its own: this test shows nothing", own)
	}
	for _, a := range []netip.Addr{s.ip.V4, vip(4).V4, vip(104).V4} {
		if found(a) {
			t.Errorf("the node answers for %v", a)
		}
	}
}

// hostPort does what the CNI plugin portmap does for a port of a host.
func hostPort(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 7777, pod(7))
	s := site(5, pod(2))
	b.offer(t, s)
	for i, name := range []string{"iptables-", "ip6tables-"} {
		to := netip.AddrPortFrom(pod(7).Slice()[i], 7777).String()
		for _, chain := range []string{"PREROUTING", "OUTPUT"} {
			rule := "-p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination " + to
			b.run(t, name+b.variant+" -w -t nat -I "+chain+" "+rule)
			b.undo(t, name+b.variant+" -w -t nat -D "+chain+" "+rule)
		}
	}
	call(t, netns.TCP, b.everyone(t), at(netns.NodeAddr(1), 80), answeredBy(pod(7), 7777))
	for _, a := range []netns.Dual{s.ip, vip(5), vip(105)} {
		call(t, netns.TCP, b.everyone(t), at(a, 80), answeredByAny(pod(2)))
	}
}

// nodePortNumber has one Service whose port is the node port of another.
func nodePortNumber(t *testing.T, b *bed) {
	s, other := site(6, pod(2), remote(2)), site(7, pod(3))
	s.port = other.nodePort
	b.offer(t, s, other)
	caller := []*netns.NS{b.pod9(t)}
	for range 2 { // endpoints
		call(t, netns.TCP, caller, at(s.ip, s.port), unmasqueraded(pod(2), remote(2)))
	}
	call(t, netns.TCP, []*netns.NS{b.Client}, at(netns.NodeAddr(1), s.port), answeredByAny(pod(3)))
}

// ownSource looks at what the node's own connections come from.
func ownSource(t *testing.T, b *bed) {
	s := site(8, pod(2), remote(2))
	b.offer(t, s)
	own, err := b.N1.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	own = slices.DeleteFunc(own, isVirtual)
	for _, d := range []netns.Dual{s.ip, vip(8), vip(108)} {
		for range 2 { // endpoints
			call(t, netns.TCP, []*netns.NS{b.N1.NS}, at(d, 80), func(r netns.Result) error {
				if err := answeredByAny(pod(2), remote(2))(r); err != nil {
					return err
				}
				if !slices.Contains(own, r.SeenSource.Addr()) {
					return fmt.Errorf("seen as %v, want one of %v", r.SeenSource, own)
				}
				if b.mode == world.IPVS && !slices.Contains(own, r.Local.Addr()) {
					return fmt.Errorf("called from %v, want one of %v", r.Local, own)
				}
				return nil
			})
		}
	}
}

// nodeLocalDNS gives an interface of the node a cluster IP, as the DNS cache of
// Kubernetes does, and takes it away.
func nodeLocalDNS(t *testing.T, b *bed) {
	s := offer{fixture: dns(8080, endpoint{pod: pod(2)})}
	s.ip, s.nodePort = clusterIP(0x60), 0
	b.offer(t, s)
	ports := at(s.ip, 53)
	call(t, netns.UDP, b.inside(t), ports, answeredByAny(pod(2)))
	b.run(t, "ip link add nodelocaldns type dummy")
	b.run(t, "ip link set nodelocaldns up")
	for _, a := range ports {
		if err := b.N1.AddAddr("nodelocaldns", netip.PrefixFrom(a.Addr(), a.Addr().BitLen())); err != nil {
			t.Fatal(err)
		}
		cache, err := b.N1.Serve(netns.UDP, a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cache.Close() })
	}
	b.all(t, "taken over", b.inside(t), ports, answeredIn(b.N1.NS))
	b.run(t, "ip link del nodelocaldns")
	b.all(t, "given back", b.inside(t), ports, answeredByAny(pod(2)))
}

// quick is how long the node may take with what the kernel tells of, and the test
// to see it.
const quick = 2 * time.Second

// all waits until every caller gets the same answer by UDP, in both families.
func (b *bed) all(t *testing.T, what string, from []*netns.NS, to []netip.AddrPort, check want) {
	t.Helper()
	took := within(t, quick, func() error {
		for _, ns := range from {
			for _, dst := range to {
				r := ns.Probe(t.Context(), netns.Request{Proto: netns.UDP, Dst: dst, Timeout: 300 * time.Millisecond})
				if err := check(r); err != nil {
					return fmt.Errorf("%s: %s to %v: %w", what, ns.Name(), dst, err)
				}
			}
		}
		return nil
	})
	t.Logf("%s within %v", what, took.Round(10*time.Millisecond))
}

// pings sends echo requests, and looks whether they leave the node.
func pings(t *testing.T, b *bed) {
	s := site(9, pod(2))
	none := site(10) // without endpoints
	b.offer(t, s, none)
	for _, a := range slices.Concat(s.ip.Slice(), vip(9).Slice(), none.ip.Slice()) {
		for _, from := range b.everyone(t) {
			left, err := b.Elsewhere.Watch(netns.Uplink, netip.PrefixFrom(a, a.BitLen()))
			if err != nil {
				t.Fatal(err)
			}
			r := from.Ping(t.Context(), a, 3*time.Second)
			n, err := left.Count()
			if err = errors.Join(err, left.Close()); err != nil {
				t.Fatal(err)
			}
			if r.Class != netns.Reply || n > 0 {
				t.Errorf("ping %v from %s: %v, and %d packets have left the node", a, from.Name(), r, n)
			}
		}
	}
}
