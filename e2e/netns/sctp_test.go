//go:build linux

package netns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// sctpCluster is a cluster for tests of SCTP, which not every kernel has.
func sctpCluster(t *testing.T, cfg netns.Config) *netns.Cluster {
	t.Helper()
	c := newCluster(t, cfg)
	if !netns.HasSCTP() {
		t.Skip("the kernel has no sockets for SCTP")
	}
	return c
}

func serveSCTP(t *testing.T, ns *netns.NS, addrs ...netip.AddrPort) []*netns.Server {
	t.Helper()
	servers, err := ns.ServeAll([]netns.Proto{netns.SCTP}, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return servers
}

// TestSCTPClasses provokes each kind of outcome.
func TestSCTPClasses(t *testing.T) {
	c := sctpCluster(t, netns.Config{Nodes: 2})
	pod, n2 := addPod(t, c, 2, 2), c.Node("n2")
	for _, a := range pod.Addrs {
		serveSCTP(t, pod.NS, netip.AddrPortFrom(a, 80))
	}
	for m, kind := range map[int]netns.RouteKind{51: netns.RouteBlackhole, 52: netns.RouteUnreachable, 53: netns.RouteProhibit} {
		for _, a := range netns.PodAddr(2, m).Slice() {
			if err := n2.SetRoute(netns.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Kind: kind}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tool := range []string{"iptables-legacy", "ip6tables-legacy"} {
		if _, err := n2.Output(t.Context(), tool, "-A", "FORWARD", "-p", "sctp", "--dport", "82", "-j", "REJECT"); err != nil {
			t.Skipf("rules cannot be made: %v", err)
		}
	}
	for _, tt := range []struct {
		name string
		dst  netns.Dual
		port uint16
		want netns.Class
	}{
		{"served", netns.PodAddr(2, 2), 80, netns.Reply},
		{"no listener", netns.PodAddr(2, 2), 81, netns.Refused},
		{"rejected by a rule", netns.PodAddr(2, 2), 82, netns.Refused},
		{"dropped", netns.PodAddr(2, 51), 80, netns.Dropped},
		{"unreachable", netns.PodAddr(2, 52), 80, netns.Unreachable},
		{"prohibited", netns.PodAddr(2, 53), 80, netns.Unreachable},
	} {
		for _, dst := range tt.dst.Slice() {
			t.Run(fmt.Sprintf("%s/%v", tt.name, dst), func(t *testing.T) {
				t.Parallel()
				got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.SCTP, Dst: netip.AddrPortFrom(dst, tt.port), Timeout: short})
				if got.Class != tt.want {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			})
		}
	}
}

// TestSCTPConn keeps an association while its server accepts no others, and sees
// who is at its ends.
func TestSCTPConn(t *testing.T) {
	c := sctpCluster(t, netns.Config{Nodes: 1})
	pod := addPod(t, c, 1, 2)
	for i, a := range pod.Addrs {
		server := serveSCTP(t, pod.NS, netip.AddrPortFrom(a, 80))[0]
		src := netip.AddrPortFrom(netns.ClientAddr(4).Slice()[i], 5555)
		conn, res := c.Client.Dial(t.Context(), netns.Request{
			Proto: netns.SCTP, Dst: netip.AddrPortFrom(a, 80), Src: src.Addr(), SrcPort: src.Port(),
		})
		if res.Class != netns.Reply || res.From != server.Identity() || res.SeenSource != src || conn.Local() != src {
			t.Fatalf("dial: got %v, want a reply of %v, seen as %v", res, server.Identity(), src)
		}
		if err := server.StopAccepting(); err != nil {
			t.Fatal(err)
		}
		if got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.SCTP, Dst: netip.AddrPortFrom(a, 80)}); got.Class != netns.Refused {
			t.Errorf("new association with a server that stopped accepting: got %v, want refused", got)
		}
		for _, line := range []string{"one", "", "three with spaces", strings.Repeat("x", 100_000)} {
			if got := conn.Exchange(t.Context(), line); got.Class != netns.Reply || got.SeenSource != src {
				t.Errorf("exchange %.20q: got %v, want a reply", line, got)
			}
		}
		if got := conn.Finish(t.Context()); got.Class != netns.Failed {
			t.Errorf("finish: got %v, want failed", got)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if got := conn.Exchange(t.Context(), "more"); got.Class != netns.Closed {
			t.Errorf("exchange after the server has gone: got %v, want closed", got)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if got, want := server.Hits(), 1; got != want {
			t.Errorf("hits: got %d, want %d", got, want)
		}
		serveSCTP(t, pod.NS, netip.AddrPortFrom(a, 80)) // the port is free again
	}
}
