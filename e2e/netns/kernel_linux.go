package netns

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file is the edge to the netlink library; net.IPNet stays in here.

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setSysctl writes a sysctl of the namespace of the calling thread.
func setSysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", key), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// The newline makes an empty value a write of one byte; of none would do nothing.
	if _, err := f.WriteString(value + "\n"); err != nil {
		return fmt.Errorf("set %s to %q: %w", key, value, err)
	}
	return nil
}

// loadIPv6 has the kernel load IPv6 if that is a module, before a namespace is
// made without its sysctls. Where there is no IPv6, these are missed.
func loadIPv6() {
	if fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	}
}

type sysctl struct{ key, value string }

// baseline is what every namespace gets before it has any interface; the values
// of conf/default are inherited by interfaces made later.
func baseline() error {
	settings := []sysctl{
		// Rejections are probed by the hundred: the kernel must not rate-limit
		// the ICMP errors that answer them, or "refused" turns into "dropped".
		{"net/ipv4/icmp_ratemask", "0"},
		{"net/ipv6/icmp/ratemask", ""},
		{"net/ipv4/ping_group_range", "0 2147483647"},
	}
	for _, scope := range []string{"all", "default"} {
		settings = append(settings,
			sysctl{"net/ipv4/conf/" + scope + "/rp_filter", "0"},
			sysctl{"net/ipv4/conf/" + scope + "/send_redirects", "0"},
			sysctl{"net/ipv4/conf/" + scope + "/accept_redirects", "0"},
			sysctl{"net/ipv6/conf/" + scope + "/disable_ipv6", "0"},
			sysctl{"net/ipv6/conf/" + scope + "/accept_redirects", "0"},
			sysctl{"net/ipv6/conf/" + scope + "/accept_ra", "0"},
			// No duplicate address detection: addresses work at once.
			sysctl{"net/ipv6/conf/" + scope + "/accept_dad", "0"},
		)
	}
	settings = append(settings,
		sysctl{"net/ipv6/conf/default/dad_transmits", "0"},
		sysctl{"net/ipv6/conf/default/router_solicitations", "0"},
	)
	return setAll(settings)
}

// forwarding makes the namespace of the calling thread a router. Frames that a
// bridge carries must not also pass the netfilter hooks of IP, as they would by
// default once any program on the machine has loaded br_netfilter.
func forwarding() error {
	err := setAll([]sysctl{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
	})
	for _, s := range []sysctl{
		{"net/bridge/bridge-nf-call-iptables", "0"},
		{"net/bridge/bridge-nf-call-ip6tables", "0"},
		{"net/bridge/bridge-nf-call-arptables", "0"},
	} {
		if berr := setSysctl(s.key, s.value); !errors.Is(berr, fs.ErrNotExist) {
			err = errors.Join(err, berr)
		}
	}
	return err
}

func setAll(settings []sysctl) error {
	var errs []error
	for _, s := range settings {
		errs = append(errs, setSysctl(s.key, s.value))
	}
	return errors.Join(errs...)
}

// configure runs fn with the namespace's netlink handle, which is not to be used
// otherwise: after its Close, the library's handle would quietly act on the
// namespace of the calling thread.
func (ns *NS) configure(what string, fn func(h *netlink.Handle) error) error {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	err := errClosed
	if ns.fd >= 0 {
		err = fn(ns.link)
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w", what, ns.name, err)
	}
	return nil
}

// wire is a veth pair: an end in one namespace and a peer in another.
type wire struct {
	end, peer       string // interface names
	endNS, peerNS   *NS
	endMAC, peerMAC net.HardwareAddr // nil lets the kernel choose
	bridge          string           // in endNS, to attach end to; empty for none
	mtu             int
}

// connect makes the pair, sets both ends up and waits until they can be used.
func (w wire) connect() error {
	err := w.endNS.configure("connect "+w.end+" to "+w.peerNS.name, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = w.end, w.mtu, w.endMAC
		if w.bridge != "" {
			bridge, err := h.LinkByName(w.bridge)
			if err != nil {
				return err
			}
			attrs.MasterIndex = bridge.Attrs().Index
		}
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerHardwareAddr = w.peer, w.peerMAC
		veth.PeerNamespace = netlink.NsFd(w.peerNS.fd)
		return h.LinkAdd(veth)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(w.endNS.up(w.end), w.peerNS.up(w.peer)); err != nil {
		return err
	}
	if w.bridge == "" {
		err = w.endNS.awaitReady(w.end)
	}
	return errors.Join(err, w.peerNS.awaitReady(w.peer))
}

func (ns *NS) up(dev string) error {
	return ns.configure("set up "+dev, func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
}

// awaitReady waits until IPv6 has taken note that an interface has a carrier, of
// which a working link-local address is the sign. That happens behind our back,
// and until then the interface can neither be used as a source nor resolve
// neighbours: early packets would be lost.
func (ns *NS) awaitReady(dev string) error {
	return ns.configure("wait for "+dev, func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return poll("link-local address", func() (bool, error) {
			addrs, err := h.AddrList(link, netlink.FAMILY_V6)
			if errors.Is(err, netlink.ErrDumpInterrupted) {
				return false, nil // changed while it was read
			}
			i := slices.IndexFunc(addrs, isLinkLocal)
			if i < 0 || err != nil {
				return false, err
			}
			return isLocal(h, link, addrs[i].IP)
		})
	})
}

func isLinkLocal(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }

// isLocal reports whether packets to an address are delivered. For IPv6, a work
// queue sees to that, some time after the address was accepted and is listed.
func isLocal(h *netlink.Handle, link netlink.Link, addr []byte) (bool, error) {
	routes, err := h.RouteGetWithOptions(addr, &netlink.RouteGetOptions{OifIndex: link.Attrs().Index})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, err
}

// poll waits until ready says yes. Asking again costs less than a socket for
// notifications. The limit is high because the kernel's link watcher may hold
// back for a second, and serves all namespaces of the machine.
func poll(what string, ready func() (bool, error)) error {
	const limit = 10 * time.Second
	for deadline := time.Now().Add(limit); ; time.Sleep(500 * time.Microsecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no %s after %v", what, limit)
		}
	}
}

// addBridge makes a bridge that floods multicast: with snooping and no querier,
// neighbour discovery would depend on the timing of MLD reports. It is to be set
// up once it has a port with a carrier: the kernel reports that of a bridge
// without hurry, up to a second late.
func (ns *NS) addBridge(dev string, mtu int) error {
	return ns.configure("add bridge "+dev, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		// With an address of its own, it does not change with those of its ports.
		attrs.Name, attrs.MTU, attrs.HardwareAddr = dev, mtu, stableMAC(dev)
		snoop := false
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop})
	})
}

func (ns *NS) deleteLink(dev string) error {
	return ns.configure("delete "+dev, func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
}

// AddAddr adds an address to an interface that is up, usable at once. The interface also
// gets a route to the prefix, so give /32 or /128 for an address that is to be
// local and nothing more. Adding an address twice is not an error.
func (ns *NS) AddAddr(dev string, p netip.Prefix) error {
	return ns.configure(fmt.Sprintf("add address %v to %s", p, dev), func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is4() {
			return h.AddrReplace(link, addr)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := h.AddrReplace(link, addr); err != nil {
			return err
		}
		return poll("local route to it", func() (bool, error) { return isLocal(h, link, addr.IP) })
	})
}

// RemoveAddr removes an address from an interface. That it is not there is an
// error.
func (ns *NS) RemoveAddr(dev string, p netip.Prefix) error {
	return ns.configure(fmt.Sprintf("remove address %v from %s", p, dev), func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return h.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
	})
}

// Addrs lists the addresses of all interfaces, except loopback and link-local
// ones. A flow was masqueraded by a node if its source is among the node's.
func (ns *NS) Addrs() ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := ns.configure("list addresses", func(h *netlink.Handle) error {
		list, err := h.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range list {
			addr, ok := netip.AddrFromSlice(a.IP)
			if addr = addr.Unmap(); ok && addr.IsGlobalUnicast() {
				addrs = append(addrs, addr)
			}
		}
		return err
	})
	return addrs, err
}

// addNeighbour pins the link-layer address of a neighbour, so that no packet
// ever waits for it.
func (ns *NS) addNeighbour(dev string, a netip.Addr, mac net.HardwareAddr) error {
	return ns.configure(fmt.Sprintf("add neighbour %v to %s", a, dev), func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return h.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: unix.NUD_PERMANENT,
		})
	})
}

// SetRoute adds a route, or replaces the one to the same destination.
func (ns *NS) SetRoute(r Route) error {
	return ns.configure(fmt.Sprintf("set route to %v", r.Dst), func(h *netlink.Handle) error {
		nr, err := r.netlink(h)
		if err != nil {
			return err
		}
		return h.RouteReplace(nr)
	})
}

// DeleteRoute removes the route to dst. That there is none is an error.
func (ns *NS) DeleteRoute(dst netip.Prefix) error {
	return ns.configure(fmt.Sprintf("delete route to %v", dst), func(h *netlink.Handle) error {
		nr, err := Route{Dst: dst}.netlink(h)
		if err != nil {
			return err
		}
		return h.RouteDel(nr)
	})
}

func (r Route) netlink(h *netlink.Handle) (*netlink.Route, error) {
	nr := &netlink.Route{Dst: ipNet(r.Dst.Masked()), Type: int(r.Kind)}
	if r.Src.IsValid() {
		nr.Src = r.Src.AsSlice()
	}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	}
	if r.Dev == "" {
		return nr, nil
	}
	link, err := h.LinkByName(r.Dev)
	if err != nil {
		return nil, err
	}
	nr.LinkIndex = link.Attrs().Index
	if r.Via.IsValid() {
		nr.Flags = int(netlink.FLAG_ONLINK)
	} else {
		nr.Scope = unix.RT_SCOPE_LINK
	}
	return nr, nil
}

// stableMAC derives a locally administered MAC address from a text.
func stableMAC(text string) net.HardwareAddr {
	h := fnv.New32a()
	h.Write([]byte(text))
	return h.Sum([]byte{0x0a, 0x58})
}
