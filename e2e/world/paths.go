//go:build linux

package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// overN1 is the routing table of n2 and n3 in which everything goes to n1.
const overN1 = 100

// routeAllOverN1 makes n1 the hub of the world.
func (w *World) routeAllOverN1() error {
	n1, n2, n3 := w.N1, w.Nodes[1], w.Nodes[2]
	var errs []error
	for _, n := range []*netns.Node{n2, n3} {
		errs = append(errs, w.RouteTo(n1, append(n.PodCIDR.Slice(), alone(n.Primary.V4), alone(n.Primary.V6))...))
	}
	for _, from := range w.Nodes[1:] {
		for _, to := range []*netns.Node{n2, n3} {
			if from != to {
				errs = append(errs, via(from, n1, alone(to.Primary.V4), alone(to.Primary.V6), to.PodCIDR.V4, to.PodCIDR.V6))
			}
		}
		errs = append(errs, via(from, n1, onLink(netns.ClientAddr(1).V4), onLink(netns.ClientAddr(1).V6)))
	}
	leaks := append(netns.ServiceCIDR().Slice(), netns.VIPRange().Slice()...)
	errs = append(errs, via(n1, w.Elsewhere, leaks...))
	for _, p := range leaks {
		// What is not there yet must not come back to n1 by the default route.
		errs = append(errs, w.Elsewhere.SetRoute(netns.Route{Dst: p, Kind: netns.RouteUnreachable}))
	}
	for _, n := range []*netns.Node{n2, n3} {
		// A packet of n2 that n1 sends back to n2 unmasqueraded has the source
		// address of the node it comes to.
		errs = append(errs, n.SetSysctl("net/ipv4/conf/all/accept_local", "1"))
		errs = append(errs, via(n, n1, leaks...))
		if err := n.Do(func() error { return detour(n.PodCIDR, n1.Primary) }); err != nil {
			errs = append(errs, fmt.Errorf("route pods of %s over n1: %w", n.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func via(from, to *netns.Node, prefixes ...netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		errs = append(errs, from.SetRoute(netns.Route{Dst: p, Via: to.Primary.Like(p.Addr())}))
	}
	return errors.Join(errs...)
}

// detour sends what pods of a node send to n1, even if it is for another pod of
// the same node or for the node: it may be the answer to a translated packet.
// What arrives at the uplink goes the usual way.
func detour(pods netns.DualPrefix, n1 netns.Dual) error {
	for _, p := range pods.Slice() {
		family := unix.AF_INET
		if p.Addr().Is6() {
			family = unix.AF_INET6
		}
		link, err := netlink.LinkByName(netns.Uplink)
		if err != nil {
			return fmt.Errorf("find %s: %w", netns.Uplink, err)
		}
		err = netlink.RouteReplace(&netlink.Route{
			Family: family, Table: overN1, LinkIndex: link.Attrs().Index,
			Dst: ipNet(netip.PrefixFrom(p.Addr(), 0).Masked()), Gw: n1.Like(p.Addr()).AsSlice(),
		})
		if err != nil {
			return fmt.Errorf("add route to table %d: %w", overN1, err)
		}
		// The table of local addresses comes first by default: see the last two.
		for _, r := range []rule{
			{priority: 10, iif: netns.Uplink, table: unix.RT_TABLE_LOCAL},
			{priority: 11, iif: netns.Uplink, table: unix.RT_TABLE_MAIN},
			{priority: 20, from: p, table: overN1},
			{priority: 30, table: unix.RT_TABLE_LOCAL},
		} {
			if err := r.add(family); err != nil {
				return err
			}
		}
		first := netlink.NewRule()
		first.Family, first.Priority, first.Table = family, 0, unix.RT_TABLE_LOCAL
		if err := netlink.RuleDel(first); err != nil {
			return fmt.Errorf("delete rule 0: %w", err)
		}
	}
	return nil
}

// A rule says which packets use a routing table.
type rule struct {
	priority, table int
	iif             string
	from            netip.Prefix
}

func (r rule) add(family int) error {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.IifName = family, r.priority, r.table, r.iif
	if r.from.IsValid() {
		n.Src = ipNet(r.from)
	}
	if err := netlink.RuleAdd(n); err != nil {
		return fmt.Errorf("add rule %d: %w", r.priority, err)
	}
	return nil
}

// addBridge makes the bridge n1's pods are to be behind.
func (w *World) addBridge() error {
	err := w.N1.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: w.cfg.Bridge}}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	})
	if err != nil {
		return fmt.Errorf("add bridge %s: %w", w.cfg.Bridge, err)
	}
	return nil
}

// enslave moves a pod of n1 behind the bridge, and everything n1 knows of it.
func (w *World) enslave(p *netns.Pod) error {
	mac, err := hardwareAddr(p)
	if err != nil {
		return err
	}
	for _, g := range w.N1.Gateway.Slice() {
		if err := w.N1.AddAddr(w.cfg.Bridge, alone(g)); err != nil {
			return err
		}
	}
	return w.N1.Do(func() error {
		br, err := netlink.LinkByName(w.cfg.Bridge)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		end, err := netlink.LinkByName(p.HostLink)
		if err != nil {
			return fmt.Errorf("find link to %s: %w", p.Name(), err)
		}
		if err := netlink.LinkSetMaster(end, br); err != nil {
			return fmt.Errorf("put %s behind the bridge: %w", p.Name(), err)
		}
		for _, a := range p.Addrs {
			if err := moveTo(br, a, mac); err != nil {
				return fmt.Errorf("move the route to %s: %w", a, err)
			}
		}
		for _, g := range w.N1.Gateway.Slice() {
			if err := netlink.AddrDel(end, &netlink.Addr{IPNet: ipNet(alone(g))}); err != nil {
				return fmt.Errorf("remove %s from %s: %w", g, p.HostLink, err)
			}
		}
		return nil
	})
}

func moveTo(br netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	index := br.Attrs().Index
	old, err := netlink.RouteListFiltered(familyOf(a), &netlink.Route{Dst: ipNet(alone(a))}, netlink.RT_FILTER_DST)
	if err != nil {
		return err
	}
	for i := range old {
		if err := netlink.RouteDel(&old[i]); err != nil {
			return err
		}
	}
	return errors.Join(
		netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(alone(a))}),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, Family: familyOf(a), IP: a.AsSlice(),
			HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		}),
	)
}

func hardwareAddr(p *netns.Pod) (mac net.HardwareAddr, err error) {
	err = p.Do(func() error {
		link, err := netlink.LinkByName(netns.Uplink)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find the hardware address of %s: %w", p.Name(), err)
	}
	return mac, nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
