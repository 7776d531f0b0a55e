//go:build linux

package netns_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestClasses provokes each kind of outcome.
func TestClasses(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	pod := addPod(t, c, 2, 2)
	serve(t, pod.NS, 80, pod.Addrs...)
	// What the second node does with packets to addresses behind it.
	behind := map[netns.RouteKind]netns.Dual{
		netns.RouteBlackhole: netns.PodAddr(2, 51), netns.RouteUnreachable: netns.PodAddr(2, 52), netns.RouteProhibit: netns.PodAddr(2, 53),
	}
	for kind, addrs := range behind {
		for _, a := range addrs.Slice() {
			if err := c.Node("n2").SetRoute(netns.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Kind: kind}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name string
		dst  netns.Dual
		port uint16
		want netns.Class
		icmp netns.Class // ICMP knows no ports
	}{
		{"served", netns.PodAddr(2, 2), 80, netns.Reply, netns.Reply},
		{"no listener", netns.PodAddr(2, 2), 81, netns.Refused, netns.Reply},
		{"dropped", behind[netns.RouteBlackhole], 80, netns.Dropped, netns.Dropped},
		{"unreachable", behind[netns.RouteUnreachable], 80, netns.Unreachable, netns.Unreachable},
		{"prohibited", behind[netns.RouteProhibit], 80, netns.Unreachable, netns.Unreachable},
		{"leaked to the router", netns.Dual{V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8:bad::1")},
			80, netns.Unreachable, netns.Unreachable},
	}
	// A client each, because of the limit described at RouteKind.
	clients := map[netns.Proto]*netns.NS{netns.TCP: c.Node("n1").NS, netns.UDP: addPod(t, c, 1, 2).NS, netns.ICMP: c.Client}
	for _, tt := range tests {
		for proto, from := range clients {
			for _, dst := range tt.dst.Slice() {
				t.Run(fmt.Sprintf("%s/%v/%v", tt.name, proto, dst), func(t *testing.T) {
					t.Parallel()
					got := from.Probe(t.Context(), netns.Request{Proto: proto, Dst: netip.AddrPortFrom(dst, tt.port), Timeout: short})
					want := tt.want
					if proto == netns.ICMP {
						want = tt.icmp
					}
					if got.Class != want {
						t.Errorf("got %v, want %v", got, want)
					}
					if (got.Err == nil) != (want == netns.Reply) {
						t.Errorf("error: got %v for %v", got.Err, want)
					}
				})
			}
		}
	}
}

// TestFailed makes probes that cannot be made.
func TestFailed(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	serve(t, pod.NS, 80, pod.Addrs...)
	dst := netip.AddrPortFrom(pod.Addrs[0], 80)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		r    netns.Request
	}{
		{"cancelled tcp", ended, netns.Request{Proto: netns.TCP, Dst: dst}},
		{"cancelled udp", ended, netns.Request{Proto: netns.UDP, Dst: dst}},
		{"no protocol", t.Context(), netns.Request{Dst: dst}},
		{"too large", t.Context(), netns.Request{Proto: netns.UDP, Dst: dst, Size: 1 << 20}},
		{"other family", t.Context(), netns.Request{Proto: netns.TCP, Dst: dst, Src: netip.IPv6Loopback()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.Client.Probe(tt.ctx, tt.r); got.Class != netns.Failed || got.Err == nil {
				t.Errorf("got %v, want failed", got)
			}
		})
	}
}

// TestSource binds addresses and ports of the client's choice.
func TestSource(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	serve(t, pod.NS, 80, pod.Addrs...)
	for _, proto := range []netns.Proto{netns.TCP, netns.UDP} {
		for _, dst := range pod.Addrs {
			src := netip.AddrPortFrom(netns.ClientAddr(4).Like(dst), 5555)
			for i := range 3 { // again and again: nothing must linger
				got := c.Client.Probe(t.Context(), netns.Request{
					Proto: proto, Dst: netip.AddrPortFrom(dst, 80), Src: src.Addr(), SrcPort: src.Port(),
				})
				if got.Class != netns.Reply || got.SeenSource != src || got.Local != src {
					t.Errorf("%v attempt %d: got %v, want a reply seen as %v", proto, i, got, src)
				}
			}
		}
	}
}

// TestSizes sends payloads that need several packets.
func TestSizes(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2, MTU: 1400})
	from, to := addPod(t, c, 1, 2), addPod(t, c, 2, 2)
	serve(t, to.NS, 80, to.Addrs...)
	for _, proto := range []netns.Proto{netns.TCP, netns.UDP, netns.ICMP} {
		for _, size := range []int{0, 1, 2000, 8000} {
			for _, dst := range to.Addrs {
				r := netns.Request{Proto: proto, Dst: netip.AddrPortFrom(dst, 80), Size: size}
				if got := from.Probe(t.Context(), r); got.Class != netns.Reply {
					t.Errorf("%v %v with %d bytes: got %v, want a reply", proto, dst, size, got)
				}
			}
		}
	}
}

// TestConn keeps a TCP connection through changes, and closes it by halves.
func TestConn(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	dst := netip.AddrPortFrom(netns.PodAddr(1, 2).V6, 80)
	server, err := pod.Serve(netns.TCP, dst)
	if err != nil {
		t.Fatal(err)
	}
	conn, res := c.Client.Dial(t.Context(), netns.Request{Dst: dst, Timeout: short})
	if res.Class != netns.Reply || res.From != server.Identity() {
		t.Fatalf("dial: got %v, want a reply from %v", res, server.Identity())
	}
	if err := server.StopAccepting(); err != nil {
		t.Fatal(err)
	}
	if got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: dst}); got.Class != netns.Refused {
		t.Errorf("new connection to a server that stopped accepting: got %v, want refused", got)
	}
	for _, line := range []string{"one", "", "three with spaces", strings.Repeat("x", 100_000)} {
		if got := conn.Exchange(t.Context(), line); got.Class != netns.Reply || got.SeenSource != conn.Local() {
			t.Errorf("exchange %.20q: got %v, want a reply", line, got)
		}
	}
	blackhole := netns.Route{Dst: netip.PrefixFrom(dst.Addr(), 128), Kind: netns.RouteBlackhole}
	if err := c.Router.SetRoute(blackhole); err != nil {
		t.Fatal(err)
	}
	if got := conn.Exchange(t.Context(), "lost"); got.Class != netns.Dropped {
		t.Errorf("exchange over a broken path: got %v, want dropped", got)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if got, want := server.Hits(), 1; got != want {
		t.Errorf("hits: got %d, want %d", got, want)
	}
}

// TestHalfClose hears from a server to which nothing can be said any more.
func TestHalfClose(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	serve(t, pod.NS, 80, pod.Addrs...)
	conn, res := c.Client.Dial(t.Context(), netns.Request{Dst: netip.AddrPortFrom(pod.Addrs[0], 80)})
	if conn == nil {
		t.Fatal(res)
	}
	defer conn.Close()
	if got := conn.Finish(t.Context()); got.Class != netns.Reply || got.From.Name != pod.Name() {
		t.Errorf("finish: got %v, want a reply from %v", got, pod.Name())
	}
	if got := conn.Exchange(t.Context(), "more"); got.Class != netns.Closed {
		t.Errorf("exchange after finish: got %v, want closed", got)
	}
	if _, err := pod.Serve(netns.TCP, netip.AddrPortFrom(pod.Addrs[0], 80)); err == nil {
		t.Error("second server on a port: got no error")
	}
}

// TestClosed meets a server that hangs up without a word.
func TestClosed(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	l, err := c.Router.Listen(netip.AddrPortFrom(netns.RouterAddr().V4, 6443))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	})
	got := c.Nodes[0].Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.AddrPortFrom(netns.RouterAddr().V4, 6443)})
	if got.Class != netns.Closed {
		t.Errorf("got %v, want closed", got)
	}
}

// TestSession sends along one UDP flow while its server goes and comes back.
func TestSession(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	for _, addr := range pod.Addrs {
		dst := netip.AddrPortFrom(addr, 53)
		s, err := c.Client.OpenSession(netns.Request{Proto: netns.UDP, Dst: dst, SrcPort: 7777, Timeout: short})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i, up := range []bool{true, false, false, true} {
			want, server := netns.Refused, (*netns.Server)(nil)
			if up {
				want = netns.Reply
				if server, err = pod.Serve(netns.UDP, dst); err != nil {
					t.Fatal(err)
				}
			}
			got := s.Exchange(t.Context())
			if got.Class != want || got.Local.Port() != 7777 {
				t.Errorf("%v step %d: got %v, want %v", dst, i, got, want)
			}
			if !up {
				continue
			}
			if got.SeenSource != s.Local() || server.Hits() != 1 {
				t.Errorf("%v step %d: got %v and %d hits, want source %v and one hit", dst, i, got, server.Hits(), s.Local())
			}
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestConcurrency makes 200 probes at once, half of which wait for nothing.
func TestConcurrency(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	serve(t, pod.NS, 80, pod.Addrs...)
	lost := netns.PodAddr(1, 50)
	for _, a := range lost.Slice() {
		if err := c.Nodes[0].SetRoute(netns.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Kind: netns.RouteBlackhole}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			dst, want := pod.Addrs[i/2%2], netns.Reply
			if i%2 == 1 {
				dst, want = lost.Slice()[i/2%2], netns.Dropped
			}
			r := netns.Request{Proto: netns.TCP + netns.Proto(i/4%2), Dst: netip.AddrPortFrom(dst, 80)}
			if got := c.Client.Probe(t.Context(), r); got.Class != want {
				t.Errorf("%v %v: got %v, want %v", r.Proto, r.Dst, got, want)
			}
		})
	}
	wg.Wait()
	// One after the other they would take 100 s.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("200 probes took %v", took)
	}
}

// TestManyRefusals must not run into the kernel's limits on ICMP errors.
func TestManyRefusals(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r := netns.Request{Proto: netns.UDP, Dst: netip.AddrPortFrom(pod.Addrs[i%2], 80), Timeout: 5 * time.Second}
			if got := c.Client.Probe(t.Context(), r); got.Class != netns.Refused {
				t.Errorf("%v: got %v, want refused", r.Dst, got)
			}
		})
	}
	wg.Wait()
}

// TestManyServers listens on many ports of one pod.
func TestManyServers(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	var ports []netip.AddrPort
	for i := range 200 {
		ports = append(ports, netip.AddrPortFrom(pod.Addrs[i%2], uint16(30000+i)))
	}
	servers, err := pod.ServeAll([]netns.Proto{netns.TCP, netns.UDP}, ports...)
	if err != nil {
		t.Fatal(err)
	}
	last := servers[len(servers)-1]
	got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.UDP, Dst: last.Identity().Addr})
	if got.From != last.Identity() {
		t.Errorf("got %v, want a reply from %v", got, last.Identity())
	}
	if _, err := pod.ServeAll([]netns.Proto{netns.TCP}, netip.AddrPortFrom(pod.Addrs[0], 99), ports[0]); err == nil {
		t.Fatal("serve a port twice: got no error")
	}
	if got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.AddrPortFrom(pod.Addrs[0], 99)}); got.Class != netns.Refused {
		t.Errorf("port of a failed ServeAll: got %v, want refused", got)
	}
	if _, err := pod.Serve(netns.UDP, netip.AddrPortFrom(netip.IPv4Unspecified(), 99)); err == nil {
		t.Error("UDP server on the unspecified address: got no error")
	}
}

// TestNetfilter has rules of a node act on its own packets and on those between
// two of its pods.
func TestNetfilter(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	n1 := c.Nodes[0]
	for _, tool := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	a, b := addPod(t, c, 1, 2), addPod(t, c, 1, 3)
	serve(t, b.NS, 80, b.Addrs...)
	rules := []string{
		"-A FORWARD -p %s --dport 80 -j DROP",
		"-A OUTPUT -p %s --dport 81 -j DROP",
		"-A OUTPUT -p %s --dport 82 -j REJECT",
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, tool := range []string{"iptables", "ip6tables"} {
		for _, proto := range []netns.Proto{netns.TCP, netns.UDP} {
			for _, rule := range rules {
				args := append([]string{"-w"}, strings.Fields(fmt.Sprintf(rule, proto))...)
				if _, err := n1.Output(t.Context(), tool, args...); err != nil {
					t.Fatal(err)
				}
			}
			for name, tt := range map[string]struct {
				from *netns.NS
				port uint16
				want netns.Class
			}{
				"forwarded between pods": {a.NS, 80, netns.Dropped},
				"not forwarded":          {n1.NS, 80, netns.Reply},
				"dropped on output":      {n1.NS, 81, netns.Dropped},
				"rejected on output":     {n1.NS, 82, netns.Refused},
			} {
				wg.Go(func() {
					r := netns.Request{Proto: proto, Dst: netip.AddrPortFrom(b.Addrs[i], tt.port), Timeout: short}
					if got := tt.from.Probe(t.Context(), r); got.Class != tt.want {
						t.Errorf("%s %v %v: got %v, want %v", name, proto, r.Dst, got, tt.want)
					}
				})
			}
		}
	}
}

// TestWatch counts what reaches the router.
func TestWatch(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	pod, other := addPod(t, c, 1, 2), addPod(t, c, 2, 2)
	for i, text := range []string{"10.96.0.0/16", "fd00:10:96::/108"} {
		w, err := c.Watch(netip.MustParsePrefix(text))
		if err != nil {
			t.Fatal(err)
		}
		// Not via n1: its default route would send them round until they expire.
		inside := netip.MustParsePrefix(text)
		if err := c.Router.SetRoute(netns.Route{Dst: netns.ServiceCIDR().Slice()[i], Kind: netns.RouteUnreachable}); err != nil {
			t.Fatal(err)
		}
		dst := inside.Addr().Next()
		for n, send := range []struct {
			from *netns.NS
			to   netip.Addr
			want int // in all, so far
		}{
			{pod.NS, dst, 1},
			{c.Nodes[1].NS, dst, 2},
			{pod.NS, other.Addrs[i], 2}, // elsewhere
			{c.Client, dst, 2},          // not from a node
			{c.Router, dst, 2},          // does not arrive
			{pod.NS, dst.Next(), 3},
		} {
			send.from.Ping(t.Context(), send.to, short)
			got, err := w.Count()
			if err != nil {
				t.Fatal(err)
			}
			if got != send.want {
				t.Errorf("%s after step %d: got %d packets, want %d", text, n, got, send.want)
			}
		}
		for range 2 {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		if got, err := w.Count(); got != 3 || err != nil {
			t.Errorf("after Close: got %d, %v, want 3", got, err)
		}
	}
	if _, err := c.Router.Watch("nowhere", netns.ServiceCIDR().V4); err == nil {
		t.Error("watch an interface that is not there: got no error")
	}
}
