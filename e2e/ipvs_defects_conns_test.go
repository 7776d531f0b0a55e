//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestIPVSDefectConnections is about what becomes of connections when endpoints
// come and go.
func TestIPVSDefectConnections(t *testing.T) {
	inRouted(t, []defect{
		{name: "a source port can be used again at once", see: "70747, 90854, 81775, 93297, kube-router 544", test: portReuse},
		{name: "an endpoint that left keeps its connections, and after its return", see: "57841, 99162", test: graceful},
		{name: "so it does over SCTP", see: "by its source, graceful_termination.go", test: gracefulSCTP},
		{name: "clients of a deleted pod are told", see: "84322, 89392, 105505", test: func(t *testing.T, b *bed) { deletedPod(t, b, 50, podsOf(3)) }},
		{name: "so are those of the last pod", see: "84322, 89392, 105505", test: func(t *testing.T, b *bed) { deletedPod(t, b, 51, nil) }},
		{name: "a UDP flow moves to another endpoint", see: "71514, 76664, 125467, kube-router 899", test: movesUDP},
		{name: "clients with affinity stay, and leave with their endpoint", see: "71809, 89358", test: sticky},
		{name: "a deleted Service keeps its connections", see: "by its source, proxier.go", test: deletedService},
	})
}

// TestIPVSDefectRestarts is about drains and weights that a process was to take
// care of that is no more.
func TestIPVSDefectRestarts(t *testing.T) {
	inRouted(t, []defect{
		{name: "a weight of 0 that was left behind is repaired", see: "92019, 108319", test: weightLeft},
		{name: "a drain goes on after a restart", see: "92019, 108319", test: drainGoesOn},
		{name: "a drain ends when it must", see: "84322, 105505", test: drainTimeout},
	})
}

// dial opens a connection to each address, from each caller.
func (b *bed) dial(t *testing.T, proto netns.Proto, from []*netns.NS, to []netip.AddrPort) []*netns.Conn {
	t.Helper()
	var out []*netns.Conn
	for _, ns := range from {
		for _, dst := range to {
			c, r := ns.Dial(t.Context(), netns.Request{Proto: proto, Dst: dst, Timeout: 4 * time.Second})
			if c == nil {
				t.Fatalf("%s to %v: %v", ns.Name(), dst, r)
			}
			t.Cleanup(func() { c.Close() })
			out = append(out, c)
		}
	}
	return out
}

// talk has every connection exchange a line, and wants the same of all.
func talkOver(conns []*netns.Conn, want netns.Class) error {
	var errs []error
	for i, c := range conns {
		if r := c.Exchange(context.Background(), "hello"); r.Class != want {
			errs = append(errs, fmt.Errorf("connection %d: got %v, want %v", i, r, want))
		}
	}
	return errors.Join(errs...)
}

// reset ends connections so that the kernel forgets them soon.
func reset(conns []*netns.Conn) {
	for _, c := range conns {
		c.Reset()
	}
}

// portReuse closes a connection, which IPVS remembers for two minutes, and opens
// another from the same port when the endpoint has left.
func portReuse(t *testing.T, b *bed) {
	s := site(40, pod(2))
	b.offer(t, s)
	// So that the client, who is the first to close, may use the port again.
	if err := b.Client.SetSysctl("net/ipv4/tcp_max_tw_buckets", "0"); err != nil {
		t.Fatal(err)
	}
	ports := at(s.ip, 80)
	dial := func(i int) *netns.Conn {
		t.Helper()
		c, r := b.Client.Dial(t.Context(), netns.Request{Dst: ports[i], SrcPort: uint16(45001 + i), Timeout: 4 * time.Second})
		if c == nil {
			t.Fatalf("%v: %v", ports[i], r)
		}
		if r.Elapsed > 500*time.Millisecond {
			t.Errorf("%v: took %v", ports[i], r.Elapsed)
		}
		return c
	}
	before := netstat(t, b.Client, "TcpExt", "TCPSynRetrans")
	for i := range ports {
		c := dial(i)
		if r := c.Finish(t.Context()); r.Class != netns.Reply {
			t.Fatalf("%v: %v", ports[i], r)
		}
		c.Close()
	}
	s.endpoints = podsOf(3)
	b.offer(t, s)
	for i, dst := range ports {
		c := dial(i)
		if err := answeredBy(pod(3), 8080)(c.Exchange(t.Context(), "again")); err != nil {
			t.Errorf("%v: %v", dst, err)
		}
		c.Reset()
	}
	if n := netstat(t, b.Client, "TcpExt", "TCPSynRetrans") - before; n > 0 {
		t.Errorf("%d SYNs had to be sent again", n)
	}
}

func graceful(t *testing.T, b *bed) {
	s := site(41, pod(2))
	b.offer(t, s)
	conns := b.dial(t, netns.TCP, b.everyone(t), at(s.ip, 80))
	conns = append(conns, b.dial(t, netns.TCP, []*netns.NS{b.Client}, at(netns.NodeAddr(1), s.nodePort))...)
	b.leaveAndReturn(t, s, conns)
}

func gracefulSCTP(t *testing.T, b *bed) {
	if !netns.HasSCTP() {
		t.Skip("the kernel has no sockets for SCTP")
	}
	b.serve(t, netns.SCTP, 8080, pod(2), pod(3))
	s := site(42, pod(2))
	s.protocol = corev1.ProtocolSCTP
	b.offer(t, s)
	b.leaveAndReturn(t, s, b.dial(t, netns.SCTP, b.everyone(t), at(s.ip, 80)))
}

// leaveAndReturn has pod 3 take the place of pod 2, who has connections, and pod 2
// return. All that time it has them.
func (b *bed) leaveAndReturn(t *testing.T, s offer, conns []*netns.Conn) {
	t.Helper()
	old, new := netip.AddrPortFrom(pod(2).V4, 8080).String(), netip.AddrPortFrom(pod(3).V4, 8080).String()
	for _, step := range []struct {
		when string
		pods []int
		want map[string]string
	}{
		{"when the endpoint has left", []int{3}, map[string]string{old: "0", new: "1"}},
		{"when it has returned", []int{2, 3}, map[string]string{old: "1", new: "1"}},
	} {
		s.endpoints = podsOf(step.pods...)
		b.offer(t, s)
		if err := talkOver(conns, netns.Reply); err != nil {
			t.Errorf("%s: %v", step.when, err)
		}
		if got := b.weights(t, netip.AddrPortFrom(s.ip.V4, 80)); !maps.Equal(got, step.want) {
			t.Errorf("%s: got weights %v, want %v", step.when, got, step.want)
		}
	}
	reset(conns)
}

// deletedPod has a pod terminate and vanish, without a word to its clients, and
// leave others or nobody.
func deletedPod(t *testing.T, b *bed, number int, others []endpoint) {
	doomed, err := b.AddPod(b.N1, pod(number).Slice()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range doomed.Addrs {
		if _, err := doomed.Serve(netns.TCP, netip.AddrPortFrom(a, 8080)); err != nil {
			t.Fatal(err)
		}
	}
	s := site(number, pod(number))
	b.offer(t, s)
	conns := b.dial(t, netns.TCP, b.everyone(t), at(s.ip, 80))
	s.endpoints = append(slices.Clone(others), endpoint{pod(number), true})
	b.offer(t, s)
	if err := talkOver(conns, netns.Reply); err != nil {
		t.Errorf("while it terminates: %v", err)
	}
	if err := b.RemovePod(doomed); err != nil {
		t.Fatal(err)
	}
	for _, a := range doomed.Addrs { // or the router would send packets for it back
		if err := b.N1.SetRoute(netns.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Kind: netns.RouteBlackhole}); err != nil {
			t.Fatal(err)
		}
	}
	s.endpoints = others
	b.offer(t, s)
	start := time.Now()
	for _, c := range conns {
		for r := c.Exchange(t.Context(), "hello"); r.Class != netns.Closed; r = c.Exchange(t.Context(), "hello") {
			if took := time.Since(start); took > 6*time.Second {
				t.Errorf("after %v: %v, want the connection to be reset", took, r)
				break
			}
		}
	}
	t.Logf("all have been told within %v", time.Since(start).Round(10*time.Millisecond))
}

// movesUDP has clients who never close their socket, by all ways to a Service:
// also by that which only callers on the node take.
func movesUDP(t *testing.T, b *bed) {
	s := site(44, pod(2))
	s.protocol, s.edit = corev1.ProtocolUDP, externalLocal
	b.offer(t, s)
	var talkers []*talker
	for i := range 2 {
		for _, d := range []netns.Dual{s.ip, vip(44)} {
			for _, from := range b.everyone(t) {
				talkers = append(talkers, talk(t, from.Name(), from, at(d, 80)[i]))
			}
		}
		talkers = append(talkers, talk(t, "client", b.Client, at(netns.NodeAddr(1), s.nodePort)[i]))
		talkers = append(talkers, talk(t, "pod", b.pod9(t), at(netns.NodeAddr(1), s.nodePort)[i]))
	}
	for _, next := range []int{2, 3, 4} {
		var marks []int
		for _, k := range talkers {
			marks = append(marks, k.mark())
		}
		s.endpoints = podsOf(next)
		b.offer(t, s)
		took := within(t, 3*time.Second, func() error {
			for i, k := range talkers {
				if err := k.settle(marks[i], answeredBy(pod(next), 8080)); err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("all %d flows go to pod %d within %v", len(talkers), next, took.Round(10*time.Millisecond))
	}
}

// sticky has clients with affinity, whose endpoint then drains.
func sticky(t *testing.T, b *bed) {
	s := site(45, pod(2), pod(3), pod(4))
	s.edit = func(o *corev1.Service) {
		seconds := int32(600)
		o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	b.offer(t, s)
	chosen := make(map[netip.Addr]netip.Addr)
	clients := slices.Concat(netns.ClientAddr(1).Slice(), netns.ClientAddr(2).Slice(), netns.ClientAddr(3).Slice())
	ask := func(src netip.Addr) netip.Addr {
		t.Helper()
		dst := netip.AddrPortFrom(s.ip.Like(src), 80)
		r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: dst, Src: src, Timeout: 3 * time.Second})
		if r.Class != netns.Reply {
			t.Fatalf("%v to %v: %v", src, dst, r)
		}
		return r.From.Addr.Addr()
	}
	for _, src := range clients {
		chosen[src] = ask(src)
		for range 4 {
			if now := ask(src); now != chosen[src] {
				t.Errorf("%v came to %v and then to %v", src, chosen[src], now)
			}
		}
	}
	gone := pod(2)
	s.endpoints = []endpoint{{gone, true}, {pod: pod(3)}, {pod: pod(4)}}
	for i := range 2 { // drains, and is no more
		s.endpoints = s.endpoints[i:]
		b.offer(t, s)
		for _, src := range clients {
			now := ask(src)
			if was := chosen[src]; now == gone.Like(src) || was != gone.Like(src) && now != was {
				t.Errorf("%v came to %v and then to %v", src, was, now)
			}
			chosen[src] = now
		}
	}
}

func deletedService(t *testing.T, b *bed) {
	s := site(46, pod(2), remote(2))
	b.offer(t, s)
	conns := b.dial(t, netns.TCP, b.everyone(t), at(s.ip, 80))
	conns = append(conns, b.dial(t, netns.TCP, []*netns.NS{b.Client},
		slices.Concat(at(netns.NodeAddr(1), s.nodePort), at(vip(46), 80), at(vip(146), 80)))...)
	b.offer(t)
	if err := talkOver(conns, netns.Reply); err != nil {
		t.Error(err)
	}
	call(t, netns.TCP, b.everyone(t), at(s.ip, 80), refused)
	if err := talkOver(conns, netns.Reply); err != nil {
		t.Error(err)
	}
	reset(conns)
}

// again kills the proxy and starts it once more.
func (b *bed) again(t *testing.T, between func(), args ...string) {
	t.Helper()
	if err := b.proxy.Kill(); err != nil {
		t.Fatal(err)
	}
	if between != nil {
		between()
	}
	b.launch(t, args...)
	b.inForce(t)
}

func weightLeft(t *testing.T, b *bed) {
	s := site(47, pod(2), pod(3))
	b.offer(t, s)
	server := netip.AddrPortFrom(s.ip.V4, 80)
	one, two := netip.AddrPortFrom(pod(2).V4, 8080).String(), netip.AddrPortFrom(pod(3).V4, 8080).String()
	want := map[string]string{one: "1", two: "1"}
	b.again(t, func() { b.run(t, fmt.Sprintf("ipvsadm -e -t %v -r %s -m -w 0", server, one)) })
	within(t, quick, func() error {
		if got := b.weights(t, server); !maps.Equal(got, want) {
			return fmt.Errorf("got weights %v, want %v", got, want)
		}
		return nil
	})
}

func drainGoesOn(t *testing.T, b *bed) {
	s := site(48, pod(2))
	b.offer(t, s)
	conns := b.dial(t, netns.TCP, b.everyone(t), at(s.ip, 80))
	s.endpoints = podsOf(3)
	b.offer(t, s)
	b.again(t, nil)
	if err := talkOver(conns, netns.Reply); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	server := netip.AddrPortFrom(s.ip.V4, 80)
	old, new := netip.AddrPortFrom(pod(2).V4, 8080).String(), netip.AddrPortFrom(pod(3).V4, 8080).String()
	if got, want := b.weights(t, server), (map[string]string{old: "0", new: "1"}); !maps.Equal(got, want) {
		t.Errorf("after the restart: got weights %v, want %v", got, want)
	}
	reset(conns)
	// The kernel remembers for ten seconds that they were reset.
	took := within(t, 20*time.Second, func() error {
		if got, want := b.weights(t, server), (map[string]string{new: "1"}); !maps.Equal(got, want) {
			return fmt.Errorf("got weights %v, want %v", got, want)
		}
		return nil
	})
	t.Logf("the drain has ended after %v", took.Round(100*time.Millisecond))
}

func drainTimeout(t *testing.T, b *bed) {
	onlyFairlead(t)
	const limit = 2 * time.Second
	s := site(49, pod(2))
	b.lay(t, s)
	b.again(t, nil, "--ipvs-drain-timeout="+limit.String())
	conns := b.dial(t, netns.TCP, b.everyone(t), at(s.ip, 80))
	s.endpoints = podsOf(3)
	b.offer(t, s)
	start := time.Now()
	if err := talkOver(conns, netns.Reply); err != nil && time.Since(start) < limit/2 {
		t.Errorf("before the drain has ended: %v", err)
	}
	within(t, 3*limit, func() error { return talkOver(conns, netns.Closed) })
}
