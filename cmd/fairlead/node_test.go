package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube"
)

// knownNode is a node of both families as the API server and the machine see it.
func knownNode() nodeState {
	return nodeState{
		Name:   "n1",
		Config: nodeConfig{Detect: detectClusterCIDR, PortAddrs: everywhere(), LocalhostPorts: true},
		Info: kube.NodeInfo{
			Name: "n1", Zone: "a",
			Addrs:    addrs("172.18.0.11", "fd00:172:18::11", "192.0.2.1"),
			PodCIDRs: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		},
		Addrs: localAddrs{
			All:     addrs("10.244.1.1", "172.18.0.11", "fd00:172:18::11"),
			Outward: [2]netip.Addr(addrs("10.244.1.1", "fd00:10:244:1::1")),
		},
	}
}

func TestNodeState(t *testing.T) {
	both := [2]netip.Addr(addrs("172.18.0.11", "fd00:172:18::11"))
	for _, c := range []struct {
		name   string
		change func(*nodeState)
		want   func(*service.Node)
	}{
		{"as it is", func(*nodeState) {}, func(*service.Node) {}},
		{"bind address", func(s *nodeState) { s.Config.Bind = addrs("10.0.0.1")[0] }, func(n *service.Node) {
			n.Primary[service.IPv4] = addrs("10.0.0.1")[0]
		}},
		{"no Node object", func(s *nodeState) { s.Info = kube.NodeInfo{} }, func(n *service.Node) {
			n.Zone, n.Primary = "", [2]netip.Addr(addrs("10.244.1.1", "fd00:10:244:1::1"))
		}},
		{"Node object of one family", func(s *nodeState) { s.Info.Addrs = s.Info.Addrs[:1] }, func(n *service.Node) {
			n.Primary[service.IPv6] = netip.Addr{}
		}},
		{"primary node ports", func(s *nodeState) { s.Config.PortPrimary = true }, func(n *service.Node) {
			n.PortAddrs = [2][]netip.Prefix{prefixes("172.18.0.11/32"), prefixes("fd00:172:18::11/128")}
			n.LocalhostPorts = false
		}},
		{"primary node ports, one family", func(s *nodeState) {
			s.Config.PortPrimary, s.Info.Addrs = true, s.Info.Addrs[1:2]
		}, func(n *service.Node) {
			n.Primary[service.IPv4] = netip.Addr{}
			n.PortAddrs = [2][]netip.Prefix{nil, prefixes("fd00:172:18::11/128")}
			n.LocalhostPorts = false
		}},
		{"node ports with loopback", func(s *nodeState) { s.Config.PortAddrs[0] = prefixes("127.0.0.1/32") }, func(n *service.Node) {
			n.PortAddrs[0] = prefixes("127.0.0.1/32")
		}},
		{"node ports of IPv6 only", func(s *nodeState) { s.Config.PortAddrs[0] = nil }, func(n *service.Node) {
			n.PortAddrs[0], n.LocalhostPorts = nil, false
		}},
		{"no localhost", func(s *nodeState) { s.Config.LocalhostPorts = false }, func(n *service.Node) { n.LocalhostPorts = false }},
		{"cluster CIDR", func(s *nodeState) { s.Config.ClusterCIDRs[0] = prefixes("10.244.0.0/16")[0] }, func(n *service.Node) {
			n.Pods.Prefixes[0] = prefixes("10.244.0.0/16")[0]
		}},
		{"node CIDRs", func(s *nodeState) { s.Config.Detect = detectNodeCIDR }, func(n *service.Node) {
			n.Pods.Prefixes = [2]netip.Prefix(prefixes("10.244.1.0/24", "fd00:10:244:1::/64"))
		}},
		{"bridge", func(s *nodeState) { s.Config.Detect, s.Config.Interface = detectBridge, "cni0" }, func(n *service.Node) {
			n.Pods = service.Detector{Interface: "cni0"}
		}},
		{"prefix", func(s *nodeState) { s.Config.Detect, s.Config.Interface = detectPrefix, "veth" }, func(n *service.Node) {
			n.Pods = service.Detector{Interface: "veth", IsPrefix: true}
		}},
		{"masquerade all", func(s *nodeState) { s.Config.MasqueradeAll = true }, func(n *service.Node) { n.MasqueradeAll = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := knownNode()
			c.change(&s)
			want := service.Node{
				Name: "n1", Zone: "a", Primary: both, PortAddrs: everywhere(), LocalhostPorts: true,
				Addrs: addrs("10.244.1.1", "172.18.0.11", "fd00:172:18::11"),
			}
			c.want(&want)
			if d := cmp.Diff(s.build(), want, comparable()); d != "" {
				t.Errorf("node (-got +want):\n%s", d)
			}
		})
	}
}

func TestPrimaryFamily(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*nodeState)
		want   service.Family
		known  bool
	}{
		{"first address of the Node", func(*nodeState) {}, service.IPv4, true},
		{"IPv6 first", func(s *nodeState) { s.Info.Addrs = s.Info.Addrs[1:] }, service.IPv6, true},
		{"bind address", func(s *nodeState) { s.Config.Bind = addrs("::1")[0] }, service.IPv6, true},
		{"machine", func(s *nodeState) { s.Info.Addrs, s.Addrs.Outward[0] = nil, netip.Addr{} }, service.IPv6, true},
		{"nothing", func(s *nodeState) { s.Info.Addrs, s.Addrs = nil, localAddrs{} }, service.IPv4, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := knownNode()
			c.change(&s)
			if got, known := s.primaryFamily(); got != c.want || known != c.known {
				t.Errorf("got %s, %v, want %s, %v", got, known, c.want, c.known)
			}
		})
	}
}

func TestSortAddrs(t *testing.T) {
	var found []ifaceAddr
	for i, s := range []string{"127.0.0.1", "::1", "203.0.113.7", "172.17.0.1", "172.18.0.11", "fe80::1", "fd00:172:18::11", "172.18.0.11", "10.244.1.1"} {
		found = append(found, ifaceAddr{Addr: netip.MustParseAddr(s), Index: []int{1, 1, 1, 2, 3, 3, 3, 4, 4}[i]})
	}
	got := sortAddrs(found, [2]uplink{{Index: 3}, {Index: 3}})
	want := localAddrs{
		All:     addrs("10.244.1.1", "172.17.0.1", "172.18.0.11", "203.0.113.7", "fd00:172:18::11", "fe80::1"),
		Outward: [2]netip.Addr(addrs("172.18.0.11", "fd00:172:18::11")),
	}
	if d := cmp.Diff(got, want, comparable()); d != "" {
		t.Errorf("addresses (-got +want):\n%s", d)
	}
	if got := sortAddrs(found[:3], [2]uplink{}).Outward[service.IPv4].String(); got != "203.0.113.7" {
		t.Errorf("without a default route the outward address is %s, want 203.0.113.7", got)
	}
	prefers := [2]uplink{{Index: 3, Source: netip.MustParseAddr("10.244.1.1")}}
	if got := sortAddrs(found, prefers).Outward[service.IPv4].String(); got != "10.244.1.1" {
		t.Errorf("the outward address is %s, want 10.244.1.1, which the default route prefers", got)
	}
	fewer := sortAddrs(found, prefers).keep(got)
	if fewer.Outward != got.Outward {
		t.Errorf("the outward addresses have changed to %v while %v were still there", fewer.Outward, got.Outward)
	}
	gone := sortAddrs(found[:4], [2]uplink{}).keep(got)
	if got := gone.Outward[service.IPv4].String(); got != "203.0.113.7" {
		t.Errorf("after the outward address went it is %s, want 203.0.113.7", got)
	}
}

// nodeAfter is a nodeGetter whose Node says what it says only after some time.
type nodeAfter struct {
	start time.Time
	after time.Duration
	node  corev1.Node
}

func (n nodeAfter) Get(context.Context, string, metav1.GetOptions) (*corev1.Node, error) {
	if time.Since(n.start) < n.after {
		return nil, errors.New("not found")
	}
	return &n.node, nil
}

func TestAwaitNode(t *testing.T) {
	full := corev1.Node{}
	full.Name = "n1"
	full.Spec.PodCIDRs = []string{"10.244.1.0/24"}
	full.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.18.0.11"}}
	bare := full
	bare.Spec.PodCIDRs = nil
	lost := full
	lost.Status.Addresses = nil
	for _, c := range []struct {
		name   string
		detect string
		node   corev1.Node
		after  time.Duration
		took   time.Duration
		addrs  int
		fails  bool
	}{
		{"at once", detectClusterCIDR, full, 0, 0, 1, false},
		{"soon", detectClusterCIDR, full, 5 * time.Second, 5 * time.Second, 1, false},
		{"too late", detectClusterCIDR, full, time.Minute, addressWait, 0, false},
		{"pod CIDRs are not asked for", detectClusterCIDR, bare, 0, 0, 1, false},
		{"pod CIDRs late", detectNodeCIDR, full, 4 * time.Minute, 4 * time.Minute, 1, false},
		{"no pod CIDRs", detectNodeCIDR, bare, 0, podCIDRWait, 1, true},
		{"pod CIDRs and no address", detectNodeCIDR, lost, 0, addressWait, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				info, err := awaitNode(t.Context(), nodeAfter{start, c.after, c.node}, "n1", c.detect, slog.New(slog.DiscardHandler))
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if len(info.Addrs) != c.addrs || (err != nil) != c.fails {
					t.Errorf("got %v, %v", info, err)
				}
			})
		})
	}
}

func TestTracker(t *testing.T) {
	sink := newCollector()
	var ended error
	state := knownNode()
	state.Config.Detect = detectNodeCIDR
	track := &tracker{
		sink: sink, health: control.NewHealth(time.Minute, nil), log: slog.New(slog.DiscardHandler),
		stop: func(err error) { ended = err }, state: state, known: true,
	}
	info := state.Info
	info.Zone = "b"
	track.setInfo(t.Context(), &info)
	track.setAddrs(t.Context(), localAddrs{All: addrs("10.0.0.1")})
	track.setInfo(t.Context(), nil) // keeps what is in force
	got := sink.store.Node()
	if got.Zone != "b" || len(got.Addrs) != 1 || got.Primary[service.IPv4].String() != "172.18.0.11" || ended != nil {
		t.Errorf("got %+v, ended with %v", got, ended)
	}
	moved := info
	moved.PodCIDRs = prefixes("10.244.9.0/24")
	track.setInfo(t.Context(), &moved)
	if !errors.Is(ended, errPodCIDRs) {
		t.Errorf("after the pod CIDRs changed: ended with %v, want %v", ended, errPodCIDRs)
	}
}
