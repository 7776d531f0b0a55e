//go:build linux

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// Names of interfaces that tests may want to refer to.
const (
	// Uplink is the interface of a node, a pod or the client towards the rest.
	Uplink = "eth0"
	// NodesBridge is the router's interface towards the nodes.
	NodesBridge = "br-nodes"
	// ClientLink is the router's interface towards the client.
	ClientLink = "to-client"
	// PodLinkPrefix starts the names of a node's interfaces towards its pods.
	PodLinkPrefix = "veth"
)

// maxNodes keeps the node's number within one byte of an IPv4 address.
const maxNodes = 200

// Config says what to build. The zero value is the usual cluster.
type Config struct {
	// Nodes is the number of nodes. 0 means 3; at most 200.
	Nodes int
	// Prefix starts the names of all namespaces. Empty means "fairlead".
	Prefix string
	// MTU of all links. 0 means 1500.
	MTU int
}

func (c Config) withDefaults() Config {
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Prefix == "" {
		c.Prefix = "fairlead"
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	return c
}

// Validate reports every value that New would refuse.
func (c Config) Validate() error {
	var errs []error
	if c.Nodes < 0 || c.Nodes > maxNodes {
		errs = append(errs, fmt.Errorf("config.Nodes: %d is not between 0 and %d", c.Nodes, maxNodes))
	}
	if strings.ContainsAny(c.Prefix, "/ \t\n") {
		errs = append(errs, fmt.Errorf("config.Prefix: %q contains a slash or a space", c.Prefix))
	}
	if c.MTU != 0 && c.MTU < 1280 {
		errs = append(errs, fmt.Errorf("config.MTU: %d is less than the 1280 that IPv6 needs", c.MTU))
	}
	return errors.Join(errs...)
}

// Cluster is a set of connected namespaces; see the package comment for a
// picture. Its methods may be called concurrently.
type Cluster struct {
	Router *NS
	Client *NS
	Nodes  []*Node // Nodes[0] is n1

	cfg   Config
	start string // of the names of the namespaces
	spawn *spawner

	mu     sync.Mutex
	all    []*NS // in the order made, without pods
	pods   map[netip.Addr]*Pod
	closed bool
}

// Node is a node's namespace.
type Node struct {
	*NS
	Number  int        // counted from 1
	Primary Dual       // on Uplink
	Gateway Dual       // the node's address towards its pods; there once it has one
	PodCIDR DualPrefix // routed to the node
}

// New builds a cluster, after removing what dead processes have left of theirs.
// On error nothing is left behind.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cluster config: %w", err)
	}
	cfg = cfg.withDefaults()
	loadIPv6()
	if err := errors.Join(prepareRunDir(), sweep(cfg.Prefix)); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", runDir, err)
	}
	c := &Cluster{cfg: cfg, spawn: newSpawner(), pods: map[netip.Addr]*Pod{}}
	if err := c.build(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) build() error {
	if err := c.addRouter(); err != nil {
		return err
	}
	if err := c.Router.addBridge(NodesBridge, c.cfg.MTU); err != nil {
		return err
	}
	if err := c.addClient(); err != nil {
		return err
	}
	for k := 1; k <= c.cfg.Nodes; k++ {
		if err := c.addNode(k); err != nil {
			return err
		}
	}
	if err := c.openFabric(); err != nil {
		return err
	}
	if err := c.routeBetweenNodes(); err != nil {
		return err
	}
	return c.RouteTo(c.Nodes[0], append(ServiceCIDR().Slice(), VIPRange().Slice()...)...)
}

// addRouter makes the first namespace. Its name tells this cluster from others
// of the process, so the first free number is taken.
func (c *Cluster) addRouter() error {
	for number := 0; ; number++ {
		c.start = namePrefix(c.cfg.Prefix, os.Getpid(), number)
		router, err := c.add("router")
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		c.Router = router
		return router.Do(forwarding)
	}
}

// add makes a namespace of this cluster, with loopback up.
func (c *Cluster) add(name string) (*NS, error) {
	ns, err := newNS(c.start+name, name, c.spawn)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.all = append(c.all, ns)
	c.mu.Unlock()
	return ns, ns.up("lo")
}

func (c *Cluster) addClient() error {
	client, err := c.add("client")
	if err != nil {
		return err
	}
	c.Client = client
	w := wire{end: ClientLink, endNS: c.Router, peer: Uplink, peerNS: client, mtu: c.cfg.MTU}
	if err := w.connect(); err != nil {
		return err
	}
	for _, a := range clientGateway().Slice() {
		if err := c.Router.AddAddr(ClientLink, onLink(a)); err != nil {
			return err
		}
	}
	for i := range 5 {
		for _, a := range ClientAddr(1 + i).Slice() {
			if err := client.AddAddr(Uplink, onLink(a)); err != nil {
				return err
			}
		}
	}
	return client.setDefaultRoutes(clientGateway(), ClientAddr(1))
}

func (c *Cluster) addNode(k int) error {
	ns, err := c.add(fmt.Sprintf("n%d", k))
	if err != nil {
		return err
	}
	n := &Node{NS: ns, Number: k, Primary: NodeAddr(k), Gateway: gatewayAddr(k), PodCIDR: PodCIDR(k)}
	c.Nodes = append(c.Nodes, n)
	if err := n.Do(forwarding); err != nil {
		return err
	}
	w := wire{
		end: "to-" + ns.name, endNS: c.Router, bridge: NodesBridge,
		peer: Uplink, peerNS: ns, mtu: c.cfg.MTU,
	}
	if err := w.connect(); err != nil {
		return err
	}
	for _, a := range n.Primary.Slice() {
		if err := n.AddAddr(Uplink, onLink(a)); err != nil {
			return err
		}
	}
	return n.setDefaultRoutes(RouterAddr(), n.Primary)
}

// openFabric sets the nodes' bridge up, now that it has ports.
func (c *Cluster) openFabric() error {
	if err := c.Router.up(NodesBridge); err != nil {
		return err
	}
	for _, a := range RouterAddr().Slice() {
		if err := c.Router.AddAddr(NodesBridge, onLink(a)); err != nil {
			return err
		}
	}
	return c.Router.awaitReady(NodesBridge)
}

func (ns *NS) setDefaultRoutes(via, src Dual) error {
	return errors.Join(
		ns.SetRoute(Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via.V4, Src: src.V4}),
		ns.SetRoute(Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: via.V6, Src: src.V6}),
	)
}

// routeBetweenNodes tells the router and every node where the pods are.
func (c *Cluster) routeBetweenNodes() error {
	var errs []error
	for _, to := range c.Nodes {
		errs = append(errs, c.RouteTo(to, to.PodCIDR.Slice()...))
		for _, from := range c.Nodes {
			if from == to {
				continue
			}
			for _, p := range to.PodCIDR.Slice() {
				errs = append(errs, from.SetRoute(Route{Dst: p, Via: to.Primary.Like(p.Addr())}))
			}
		}
	}
	return errors.Join(errs...)
}

// RouteTo makes the router send the prefixes to a node. Prefixes it sent
// elsewhere change over; longer and shorter ones are not affected.
func (c *Cluster) RouteTo(n *Node, prefixes ...netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		errs = append(errs, c.Router.SetRoute(Route{Dst: p, Via: n.Primary.Like(p.Addr())}))
	}
	return errors.Join(errs...)
}

// Node returns a node by name, as in "n1". It panics if there is none: the test
// is wrong.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.name == name {
			return n
		}
	}
	panic(fmt.Sprintf("netns: no node %q among %d", name, len(c.Nodes)))
}

// Close ends all processes, servers and watches of the cluster and removes its
// namespaces. Closing twice does nothing. It must not run beside AddPod.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	all := c.all
	pods := c.pods
	c.pods = map[netip.Addr]*Pod{}
	c.mu.Unlock()

	var errs []error
	for _, p := range pods {
		if p.NS != nil { // nil: AddPod has failed and is about to say so
			errs = append(errs, p.close())
		}
	}
	for _, ns := range slices.Backward(all) { // the first last: its name keeps the others for us
		errs = append(errs, ns.close())
	}
	c.spawn.close()
	return errors.Join(errs...)
}
