//go:build linux

package netns_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// short is how long a test waits for a packet that is not to come.
const short = 400 * time.Millisecond

func newCluster(t *testing.T, cfg netns.Config) *netns.Cluster {
	t.Helper()
	if err := netns.Usable(); err != nil {
		t.Skip(err)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "fairleadtest"
	}
	c, err := netns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func addPod(t *testing.T, c *netns.Cluster, k, m int) *netns.Pod {
	t.Helper()
	p, err := c.AddPod(c.Nodes[k-1], netns.PodAddr(k, m).Slice()...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve starts servers on one port of all addresses, for both protocols.
func serve(t *testing.T, ns *netns.NS, port uint16, addrs ...netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		_, err := ns.ServeAll([]netns.Proto{netns.TCP, netns.UDP}, netip.AddrPortFrom(a, port))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, prefix string) []string {
	t.Helper()
	found, err := filepath.Glob("/run/netns/" + prefix + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestReach has every kind of client talk to every kind of server.
func TestReach(t *testing.T) {
	c := newCluster(t, netns.Config{})
	pod, near, far := addPod(t, c, 1, 2), addPod(t, c, 1, 3), addPod(t, c, 2, 2)
	servers := map[string]*netns.NS{"near": near.NS, "far": far.NS, "n2": c.Node("n2").NS, "client": c.Client}
	addrs := map[string]netns.Dual{
		"near": netns.PodAddr(1, 3), "far": netns.PodAddr(2, 2), "n2": netns.NodeAddr(2), "client": netns.ClientAddr(3),
	}
	for name, ns := range servers {
		serve(t, ns, 8080, addrs[name].Slice()...)
	}
	tests := []struct {
		name   string
		from   *netns.NS
		to     string
		source netns.Dual // as seen by the server
	}{
		{"pod to pod of its node", pod.NS, "near", netns.PodAddr(1, 2)},
		{"pod to pod of another node", pod.NS, "far", netns.PodAddr(1, 2)},
		{"pod to node", pod.NS, "n2", netns.PodAddr(1, 2)},
		{"pod to client", pod.NS, "client", netns.PodAddr(1, 2)},
		{"node to its pod", c.Node("n1").NS, "near", netns.PodAddr(1, 1)},
		{"node to pod of another node", c.Node("n1").NS, "far", netns.NodeAddr(1)},
		{"node to node", c.Node("n1").NS, "n2", netns.NodeAddr(1)},
		{"client to pod", c.Client, "far", netns.ClientAddr(1)},
		{"client to node", c.Client, "n2", netns.ClientAddr(1)},
		{"router to pod", c.Router, "far", netns.RouterAddr()},
	}
	for _, tt := range tests {
		for _, proto := range []netns.Proto{netns.TCP, netns.UDP} {
			for i, dst := range addrs[tt.to].Slice() {
				t.Run(tt.name+"/"+proto.String()+"/"+[]string{"v4", "v6"}[i], func(t *testing.T) {
					to := netip.AddrPortFrom(dst, 8080)
					got := tt.from.Probe(t.Context(), netns.Request{Proto: proto, Dst: to})
					want := netns.Identity{Name: servers[tt.to].Name(), Addr: to}
					if got.Class != netns.Reply || got.From != want {
						t.Fatalf("got %v, want a reply from %v", got, want)
					}
					if got.SeenSource != got.Local || got.SeenSource.Addr() != tt.source.Like(dst) {
						t.Errorf("source: got %v of %v, want %v kept", got.SeenSource, got.Local, tt.source.Like(dst))
					}
				})
			}
		}
	}
}

// TestMovedRoutes sends the load-balancer range to another node.
func TestMovedRoutes(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	for i, vip := range []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:113::7")} {
		for k, dev := range []string{"lo", netns.Uplink} {
			if err := c.Nodes[k].AddAddr(dev, netip.PrefixFrom(vip, vip.BitLen())); err != nil {
				t.Fatal(err)
			}
			serve(t, c.Nodes[k].NS, 80, vip)
		}
		for _, want := range []string{"n1", "n2"} {
			if err := c.RouteTo(c.Node(want), netns.VIPRange().Slice()[i]); err != nil {
				t.Fatal(err)
			}
			got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.AddrPortFrom(vip, 80)})
			if got.Class != netns.Reply || got.From.Name != want {
				t.Errorf("got %v, want a reply from %s", got, want)
			}
		}
		if err := c.Node("n2").RemoveAddr(netns.Uplink, netip.PrefixFrom(vip, vip.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	addrs, err := c.Node("n2").Addrs()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(netns.NodeAddr(2).Slice(), addrs, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("addresses of n2 (-want +got):\n%s", diff)
	}
}

// TestPods adds and removes pods, and wrong ones.
func TestPods(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	n1 := c.Node("n1")
	pod := addPod(t, c, 1, 9)
	dst := netns.PodAddr(1, 9).V4
	if !strings.HasPrefix(pod.HostLink, netns.PodLinkPrefix) {
		t.Errorf("host link: got %q, want prefix %q", pod.HostLink, netns.PodLinkPrefix)
	}
	for name, addr := range map[string]netip.Addr{
		"taken": dst, "of another node": netns.PodAddr(2, 9).V4, "gateway": netns.PodAddr(1, 1).V6,
	} {
		if p, err := c.AddPod(n1, addr); err == nil {
			t.Errorf("add pod with address %v (%s): got %v, want an error", addr, name, p.Name())
		}
	}
	if _, err := c.AddPod(n1); err == nil {
		t.Error("add pod without address: got no error")
	}
	before := names(t, "fairleadtest")
	for range 2 {
		if err := c.RemovePod(pod); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := len(names(t, "fairleadtest")), len(before)-1; got != want {
		t.Errorf("names after removal: got %d, want %d", got, want)
	}
	if _, err := pod.Serve(netns.TCP, netip.AddrPortFrom(dst, 80)); err == nil {
		t.Error("serve in a removed pod: got no error")
	}
	if err := pod.SetRoute(netns.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Kind: netns.RouteBlackhole}); err == nil {
		t.Error("set route in a removed pod: got no error")
	}
	again, err := c.AddPod(n1, dst) // IPv4 only this time
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Addr(netip.IPv6Unspecified()); got.IsValid() {
		t.Errorf("IPv6 address of an IPv4 pod: got %v", got)
	}
	if got := c.Client.Ping(t.Context(), dst, 0); got.Class != netns.Reply {
		t.Errorf("ping the new pod: got %v, want a reply", got)
	}
}

// TestManyPods makes pods at once, as a test would for a large Service.
func TestManyPods(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	var wg sync.WaitGroup
	for m := 2; m < 22; m++ {
		for k := 1; k <= 2; k++ {
			wg.Go(func() {
				p, err := c.AddPod(c.Nodes[k-1], netns.PodAddr(k, m).Slice()...)
				if err != nil {
					t.Error(err)
					return
				}
				if got := p.Ping(t.Context(), netns.RouterAddr().V6, 0); got.Class != netns.Reply {
					t.Errorf("ping router from %s: got %v, want a reply", p.Name(), got)
				}
			})
		}
	}
	wg.Wait()
}

// TestClose looks for what a cluster, and a process that was killed, leave.
func TestClose(t *testing.T) {
	const prefix = "fairleadclose"
	// The id of a process that certainly is no more: beyond the kernel's maximum.
	leftover := filepath.Join("/run/netns", prefix+"-99999999-0-n1")
	one := newCluster(t, netns.Config{Nodes: 1, Prefix: prefix})
	if err := os.WriteFile(leftover, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	two := newCluster(t, netns.Config{Nodes: 1, Prefix: prefix})
	if _, err := os.Stat(leftover); !os.IsNotExist(err) {
		t.Errorf("leftover of a dead process: got %v, want it gone", err)
	}
	addPod(t, one, 1, 2)
	addPod(t, two, 1, 2) // the same addresses: clusters do not see each other
	serve(t, one.Client, 80, netns.ClientAddr(1).V4)
	p := one.Node("n1").Command(context.Background(), "sleep", "1000")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if got, want := len(names(t, prefix)), 8; got != want {
		t.Errorf("names: got %d, want %d", got, want)
	}
	for range 2 {
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Wait(); err == nil {
		t.Error("process of a closed cluster: ended well, want it killed")
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, prefix); len(got) != 0 {
		t.Errorf("names after Close: got %v, want none", got)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), prefix) {
		t.Error("something is still mounted after Close")
	}
	if err := one.Client.Do(func() error { return nil }); err == nil {
		t.Error("enter a closed namespace: got no error")
	}
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		name string
		cfg  netns.Config
		want []string // parts of the error; none for no error
	}{
		{"zero", netns.Config{}, nil},
		{"full", netns.Config{Nodes: 5, Prefix: "x", MTU: 1400}, nil},
		{"all wrong", netns.Config{Nodes: -1, Prefix: "a/b", MTU: 576}, []string{"Nodes", "Prefix", "MTU"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.Validate()
			if (err != nil) != (len(tt.want) > 0) {
				t.Fatalf("got %v, want an error about %v", err, tt.want)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("got %v, want it to mention %s", err, part)
				}
			}
		})
	}
}
