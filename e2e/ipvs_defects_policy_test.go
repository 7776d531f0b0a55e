//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestIPVSDefectPolicy is about traffic policies and filters, which one virtual
// server for everybody cannot express, and about what ICMP has to get through.
func TestIPVSDefectPolicy(t *testing.T) {
	inRouted(t, []defect{
		{name: "internalTrafficPolicy Local without a local endpoint drops", see: "121371", test: internalNone},
		{name: "externalTrafficPolicy Local without a local endpoint drops from outside only", test: externalNone,
			see: "71596, 66062, 97073, 125167, 97081, 75262, 93456, 92857, 115931"},
		{name: "externalTrafficPolicy Local shows the address of the client", see: "89869, 97073, 104755", test: clientAddress},
		{name: "source ranges bind the node and pods too", see: "119656, 119791, 62638, 88698", test: sourceRangesOfAll},
		{name: "source ranges are of a port", see: "88698, 119791", test: sourceRangesOfPort},
		{name: "SCTP has node ports", see: "73300, 81474, 74341, 104755", test: nodePortSCTP},
		{name: "the path MTU of an endpoint is learnt", see: "none: what virtual addresses that are routed would break", test: pathMTU},
		{name: "the path MTU of a client is learnt", see: "none: as before", test: clientMTU},
	})
}

// internalNone has a Service with a remote endpoint only, and a node port.
func internalNone(t *testing.T, b *bed) {
	s := site(20, remote(2))
	s.edit = internalLocal
	b.offer(t, s)
	call(t, netns.TCP, b.everyone(t), at(s.ip, 80), dropped)
	ports := slices.Concat(at(netns.NodeAddr(1), s.nodePort), at(vip(20), 80))
	call(t, netns.TCP, []*netns.NS{b.Client}, ports, answeredByAny(remote(2)))
}

// externalNone has no endpoint on the node for callers from outside.
func externalNone(t *testing.T, b *bed) {
	s := site(21, remote(2))
	s.edit = externalLocal
	b.offer(t, s)
	ports := slices.Concat(at(netns.NodeAddr(1), s.nodePort), at(vip(21), 80))
	call(t, netns.TCP, []*netns.NS{b.Client}, ports, dropped)
	call(t, netns.TCP, b.inside(t), ports, answeredByAny(remote(2)))
	call(t, netns.TCP, b.everyone(t), at(s.ip, 80), answeredByAny(remote(2)))
}

// clientAddress has endpoints here and elsewhere, over every protocol.
func clientAddress(t *testing.T, b *bed) {
	protocols := map[netns.Proto]corev1.Protocol{netns.TCP: corev1.ProtocolTCP, netns.UDP: corev1.ProtocolUDP}
	if netns.HasSCTP() {
		protocols[netns.SCTP] = corev1.ProtocolSCTP
		b.serve(t, netns.SCTP, 8080, pod(2), pod(3), remote(2))
	}
	var offers []offer
	for p, protocol := range protocols {
		s := site(22+int(p), pod(2), pod(3), remote(2))
		s.protocol, s.edit = protocol, externalLocal
		offers = append(offers, s)
	}
	b.offer(t, offers...)
	for p := range protocols {
		s := site(22 + int(p))
		for range 4 { // more than endpoints
			ports := slices.Concat(at(netns.NodeAddr(1), s.nodePort), at(vip(22+int(p)), 80), at(vip(122+int(p)), 80))
			call(t, p, []*netns.NS{b.Client}, ports, unmasqueraded(pod(2), pod(3)))
		}
	}
}

// sourceRangesOfAll lets one client have a load balancer, and in a second step
// those on the node too.
func sourceRangesOfAll(t *testing.T, b *bed) {
	s := site(30, pod(2), remote(2))
	s.external = nil
	allow := func(ranges ...string) {
		s.edit = func(o *corev1.Service) { o.Spec.LoadBalancerSourceRanges = ranges }
		b.offer(t, s)
	}
	from := func(i int, check want) {
		t.Helper()
		for _, dst := range at(vip(30), 80) {
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: dst, Src: netns.ClientAddr(i).Like(dst.Addr()), Timeout: time.Second})
			if err := check(r); err != nil {
				t.Errorf("client %d to %v: %v", i, dst, err)
			}
		}
	}
	served := answeredByAny(pod(2), remote(2))
	allow("198.51.100.2/32", "2001:db8:51::2/128")
	from(1, dropped)
	from(2, served)
	call(t, netns.TCP, b.inside(t), at(vip(30), 80), dropped)
	call(t, netns.TCP, b.everyone(t), at(s.ip, 80), served)
	allow("198.51.100.2/32", "2001:db8:51::2/128", "172.18.0.11/32", "fd00:172:18::11/128", "10.244.1.9/32", "fd00:10:244:1::9/128")
	from(1, dropped)
	from(2, served)
	call(t, netns.TCP, b.inside(t), at(vip(30), 80), served)
}

// sourceRangesOfPort has two Services share an address, one of them with ranges.
func sourceRangesOfPort(t *testing.T, b *bed) {
	closed, open := site(31, pod(2)), site(32, pod(3))
	closed.external, open.external = nil, nil
	open.lb, open.port = closed.lb, 81
	closed.edit = func(o *corev1.Service) {
		o.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "2001:db8:ffff::/48"}
	}
	b.offer(t, closed, open)
	call(t, netns.TCP, b.everyone(t), at(vip(31), 80), dropped)
	call(t, netns.TCP, b.everyone(t), at(vip(31), 81), answeredByAny(pod(3)))
}

func nodePortSCTP(t *testing.T, b *bed) {
	if !netns.HasSCTP() {
		t.Skip("the kernel has no sockets for SCTP")
	}
	b.serve(t, netns.SCTP, 8080, pod(2))
	s := site(33, pod(2))
	s.protocol, s.external, s.lb = corev1.ProtocolSCTP, nil, nil
	b.offer(t, s)
	call(t, netns.SCTP, b.everyone(t), slices.Concat(at(netns.NodeAddr(1), s.nodePort), at(s.ip, 80)), answeredByAny(pod(2)))
}

// narrow is an MTU that IPv6 still allows.
const narrow = 1300

// pathMTU sends datagrams that are too long for the link of the pod: their sender
// must be told, and the next gets through in pieces.
func pathMTU(t *testing.T, b *bed) {
	b.serve(t, netns.UDP, 8080, pod(8))
	words := strings.Fields(b.run(t, "ip -o route show "+pod(8).V4.String()))
	link := words[slices.Index(words, "dev")+1]
	b.run(t, fmt.Sprintf("ip link set %s mtu %d", link, narrow))
	if _, err := b.place(t, pod(8)).Output(t.Context(), "ip", "link", "set", netns.Uplink, "mtu", fmt.Sprint(narrow)); err != nil {
		t.Fatal(err)
	}
	s := site(34, pod(8))
	s.protocol = corev1.ProtocolUDP
	b.offer(t, s)
	for _, d := range []netns.Dual{s.ip, vip(34), vip(134)} {
		for _, from := range []*netns.NS{b.pod9(t), b.Client} {
			for _, dst := range at(d, 80) {
				b.learns(t, from, dst)
			}
		}
	}
}

// learns sends a datagram of nearly 1500 bytes until it is answered, and then
// wants the sender to know that the path is narrow.
func (b *bed) learns(t *testing.T, from *netns.NS, dst netip.AddrPort) {
	t.Helper()
	session, err := from.OpenSession(netns.Request{Proto: netns.UDP, Dst: dst, Size: 1400})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var r netns.Result
	for range 3 {
		if r = session.Exchange(t.Context()); r.Class == netns.Reply {
			break
		}
	}
	if r.Class != netns.Reply {
		t.Errorf("%s to %v: %v", from.Name(), dst, r)
	}
	b.knowsNarrow(t, from, dst.Addr())
}

// knowsNarrow looks up what somebody has learnt about a path.
func (b *bed) knowsNarrow(t *testing.T, ns *netns.NS, to netip.Addr) {
	t.Helper()
	route, err := ns.Output(t.Context(), "ip", "route", "get", to.String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(route, fmt.Sprintf("mtu %d", narrow)) {
		t.Errorf("%s has not learnt of the narrow path to %v: %s", ns.Name(), to, route)
	}
}

// clientMTU has a client behind a narrow link: what the server sends is too long,
// and it has to be told although it was sent by a virtual address.
func clientMTU(t *testing.T, b *bed) {
	s, l := site(35, pod(2), remote(2)), site(36, pod(3))
	l.edit = externalLocal
	b.offer(t, s, l)
	const i = 5
	for _, a := range netns.ClientAddr(i).Slice() {
		route := []string{"route", "replace", netip.PrefixFrom(a, a.BitLen()).String(), "dev", netns.ClientLink, "mtu", "lock", fmt.Sprint(narrow)}
		if _, err := b.Router.Output(t.Context(), "ip", route...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := b.Router.Output(context.Background(), "ip", "route", "del", route[2]); err != nil {
				t.Error(err)
			}
		})
	}
	ports := slices.Concat(at(s.ip, 80), at(vip(35), 80), at(vip(135), 80), at(netns.NodeAddr(1), s.nodePort),
		at(vip(36), 80), at(vip(136), 80), at(netns.NodeAddr(1), l.nodePort))
	for _, dst := range ports {
		for range 2 { // endpoints
			r := b.Client.Probe(t.Context(), netns.Request{
				Proto: netns.TCP, Dst: dst, Src: netns.ClientAddr(i).Like(dst.Addr()), Size: 6000, Timeout: 3 * time.Second,
			})
			if r.Class != netns.Reply {
				t.Errorf("%v: %v, want all of a long answer", dst, r)
			}
		}
	}
	for _, a := range netns.ClientAddr(i).Slice() {
		b.knowsNarrow(t, b.place(t, pod(3)), a)
	}
}
