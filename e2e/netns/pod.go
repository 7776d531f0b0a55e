//go:build linux

package netns

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Pod is a pod's namespace.
type Pod struct {
	*NS
	Node  *Node
	Addrs []netip.Addr
	// HostLink is the node's interface towards the pod.
	HostLink string
}

// Addr returns the pod's first address of the family of a. The zero address
// means that it has none.
func (p *Pod) Addr(a netip.Addr) netip.Addr {
	i := slices.IndexFunc(p.Addrs, func(mine netip.Addr) bool { return mine.Is4() == a.Is4() })
	if i < 0 {
		return netip.Addr{}
	}
	return p.Addrs[i]
}

// AddPod makes a pod with the given addresses on a node. It needs at least one
// address; all must be in the node's pod CIDR and not in use. The pod can be
// reached when AddPod returns.
func (c *Cluster) AddPod(n *Node, addrs ...netip.Addr) (*Pod, error) {
	if len(addrs) == 0 {
		return nil, errors.New("add pod: no address")
	}
	p := &Pod{Node: n, Addrs: slices.Clone(addrs)}
	if err := c.claim(p); err != nil {
		return nil, fmt.Errorf("add pod %v: %w", addrs[0], err)
	}
	if err := c.buildPod(p); err != nil {
		return nil, errors.Join(fmt.Errorf("add pod %v: %w", addrs[0], err), c.RemovePod(p))
	}
	return p, nil
}

// claim reserves the pod's addresses.
func (c *Cluster) claim(p *Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	for _, a := range p.Addrs {
		if !p.Node.PodCIDR.Contains(a) || a == p.Node.Gateway.Like(a) {
			return fmt.Errorf("%v is not for pods of %s", a, p.Node.name)
		}
		if _, taken := c.pods[a]; taken {
			return fmt.Errorf("%v is taken", a)
		}
	}
	for _, a := range p.Addrs {
		c.pods[a] = p
	}
	return nil
}

func (c *Cluster) buildPod(p *Pod) error {
	name := p.Addrs[0].String()
	ns, err := newNS(c.start+name, name, c.spawn)
	if err != nil {
		return err
	}
	p.NS = ns
	if err := ns.up("lo"); err != nil {
		return err
	}
	hostMAC, podMAC := stableMAC("host "+name), stableMAC("pod "+name)
	w := wire{
		end: PodLinkPrefix + hex.EncodeToString(podMAC[2:]), endMAC: hostMAC, endNS: p.Node.NS,
		peer: Uplink, peerMAC: podMAC, peerNS: ns, mtu: c.cfg.MTU,
	}
	if err := w.connect(); err != nil {
		return err
	}
	p.HostLink = w.end
	for _, a := range p.Node.Gateway.Slice() {
		if err := p.Node.AddAddr(p.HostLink, alone(a)); err != nil {
			return err
		}
		if err := ns.addNeighbour(Uplink, a, hostMAC); err != nil {
			return err
		}
	}
	for _, a := range p.Addrs {
		if err := p.assign(a, podMAC); err != nil {
			return err
		}
	}
	return nil
}

// assign gives the pod an address, and both sides the routes to go with it.
func (p *Pod) assign(a netip.Addr, mac net.HardwareAddr) error {
	if err := p.AddAddr(Uplink, alone(a)); err != nil {
		return err
	}
	everywhere := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if a.Is4() {
		everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return errors.Join(
		p.SetRoute(Route{Dst: everywhere, Via: p.Node.Gateway.Like(a), Dev: Uplink, Src: p.Addr(a)}),
		p.Node.addNeighbour(p.HostLink, a, mac),
		p.Node.SetRoute(Route{Dst: alone(a), Dev: p.HostLink}),
	)
}

// RemovePod ends everything in a pod and removes it. Its addresses are free
// again, and the node has no route to them, when RemovePod returns. Removing a
// pod twice does nothing.
func (c *Cluster) RemovePod(p *Pod) error {
	c.mu.Lock()
	if c.pods[p.Addrs[0]] != p {
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	err := p.remove()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range p.Addrs {
		delete(c.pods, a)
	}
	return err
}

// remove deletes the link first, so that the pod vanishes at once rather than
// when the kernel gets round to the namespace.
func (p *Pod) remove() error {
	if p.NS == nil {
		return nil // AddPod failed early
	}
	var err error
	if p.HostLink != "" {
		err = p.Node.deleteLink(p.HostLink)
	}
	return errors.Join(err, p.close())
}
