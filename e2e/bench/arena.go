//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// arenaPods is the number of endpoints that there are to choose from.
const arenaPods = 4

// Ports of pods in an arena, and of their Services.
const (
	pingPort    = 8080 // load.Ping; load.Connect and load.Bulk are the next ones
	talkPort    = 9000 // servers of package netns, TCP and UDP
	readyWithin = 20 * time.Second
)

// arena is a network for the data path, with one proxy in it:
//
//	client ──veth── router ──veth── n1: the proxy ──veth── pod 10.244.1.2, a client too
//	                                              ├─veth── pod 10.244.1.3, an endpoint
//	                                              └─ …     up to 10.244.1.6
type arena struct {
	cluster *netns.Cluster
	node    *netns.Node
	caller  *netns.Pod
	pods    []*netns.Pod
	server  *load.Server
	dir     string
	proxy   *netns.Process
}

// newArena builds one without a proxy. On error nothing is left.
func newArena() (*arena, error) {
	cluster, err := netns.New(netns.Config{Nodes: 1, Prefix: "fairlead-bench"})
	if err != nil {
		return nil, fmt.Errorf("build an arena: %w", err)
	}
	a := &arena{cluster: cluster, node: cluster.Nodes[0]}
	if err := a.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("build an arena: %w", err), a.close())
	}
	return a, nil
}

func (a *arena) build() (err error) {
	if a.dir, err = os.MkdirTemp("", "fairlead-bench"); err != nil {
		return err
	}
	if err := os.Mkdir(a.manifests(), 0o755); err != nil {
		return err
	}
	if a.caller, err = a.cluster.AddPod(a.node, netns.PodAddr(1, 2).V4); err != nil {
		return err
	}
	// The side that ends a connection last keeps no port; but there are many of them
	// within the minute that the other side remembers each.
	for _, ns := range []*netns.NS{a.node.NS, a.caller.NS, a.cluster.Client} {
		if err := ns.SetSysctl("net/ipv4/ip_local_port_range", "11000 65535"); err != nil {
			return err
		}
	}
	// Connections that have ended are remembered for two minutes by default, which fills
	// the table within a round: then the kernel looks for what it could forget with each
	// new one, and drops packets. There are two for each, if a proxy is tracked.
	if err := a.node.SetSysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "2"); err != nil {
		return err
	}
	listeners := map[load.Kind][]net.Listener{}
	for m := range arenaPods {
		pod, err := a.cluster.AddPod(a.node, netns.PodAddr(1, 3+m).V4)
		if err != nil {
			return err
		}
		a.pods = append(a.pods, pod)
		for _, k := range []load.Kind{load.Ping, load.Connect, load.Bulk} {
			l, err := pod.Listen(netip.AddrPortFrom(pod.Addrs[0], pingPort+uint16(k)))
			if err != nil {
				return err
			}
			listeners[k] = append(listeners[k], l)
		}
	}
	a.server, err = load.NewServer(listeners)
	return err
}

func (a *arena) manifests() string { return filepath.Join(a.dir, "manifests") }

// start runs a proxy on the node.
func (a *arena) start(ctx context.Context, path string, args ...string) error {
	a.proxy = a.node.Command(ctx, path, args...)
	a.proxy.Cmd.Dir = a.dir
	a.proxy.Cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + a.dir, "TMPDIR=" + a.dir,
		"XTABLES_LOCKFILE=" + filepath.Join(a.dir, "xtables.lock"),
	}
	return a.proxy.Start()
}

// startFairlead runs fairlead on the manifests, and waits for its first sync.
func (a *arena) startFairlead(ctx context.Context, path, mode string, extra ...string) error {
	args := append([]string{
		"--manifests=" + a.manifests(), "--proxy-mode=" + mode, "--iptables-variant=" + string(nft),
		"--hostname-override=n1", "--cluster-cidr=10.244.0.0/16",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}, extra...)
	if err := a.start(ctx, path, args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return a.proxy.WaitOutput(ctx, "first sync done")
}

func (a *arena) pid() int { return a.proxy.Cmd.Process.Pid }

// ended reports that the proxy is no longer there, and why, or nil.
func (a *arena) ended() error { return (&running{process: a.proxy}).ended() }

func (a *arena) close() error {
	var errs []error
	if a.server != nil {
		errs = append(errs, a.server.Close())
	}
	errs = append(errs, a.cluster.Close())
	if a.dir != "" {
		errs = append(errs, os.RemoveAll(a.dir))
	}
	return errors.Join(errs...)
}

// arenaService is a Service with its slice.
type arenaService struct {
	name     string
	cluster  netip.Addr
	external netip.Addr
	ports    []arenaPort
	ready    []netip.Addr
	leaving  []netip.Addr // terminating
}

type arenaPort struct {
	name, protocol string
	number         uint16
}

func (s arenaService) manifest() string {
	var ports, slice, endpoints strings.Builder
	for _, p := range s.ports {
		fmt.Fprintf(&ports, "  - {name: %s, protocol: %s, port: %d, targetPort: %d}\n", p.name, p.protocol, p.number, p.number)
		fmt.Fprintf(&slice, "- {name: %s, protocol: %s, port: %d}\n", p.name, p.protocol, p.number)
	}
	for _, e := range s.ready {
		fmt.Fprintf(&endpoints, "- {addresses: [%s], nodeName: n1, conditions: {ready: true, serving: true, terminating: false}}\n", e)
	}
	for _, e := range s.leaving {
		fmt.Fprintf(&endpoints, "- {addresses: [%s], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}\n", e)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: bench}
spec:
  type: ClusterIP
  clusterIP: %[2]s
  clusterIPs: [%[2]s]
  externalIPs: [%[3]s]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
%[4]s---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s
  namespace: bench
  labels: {kubernetes.io/service-name: %[1]s}
addressType: IPv4
ports:
%[5]sendpoints:
%[6]s`, s.name, s.cluster, s.external, ports.String(), slice.String(), endpoints.String())
}

// put writes a Service the way an editor does: a new file, renamed.
func (a *arena) put(s arenaService) error {
	draft := filepath.Join(a.manifests(), "."+s.name)
	if err := os.WriteFile(draft, []byte(s.manifest()), 0o644); err != nil {
		return fmt.Errorf("write a manifest: %w", err)
	}
	return os.Rename(draft, filepath.Join(a.manifests(), s.name+".yaml"))
}

// podAddrs are the addresses of the first n pods.
func (a *arena) podAddrs(n int) []netip.Addr {
	var list []netip.Addr
	for _, p := range a.pods[:n] {
		list = append(list, p.Addrs[0])
	}
	return list
}
