package takeover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Rehome has connections that the node begins to one of its own virtual addresses come
// from another address: kube-proxy's way has given them the virtual address for a
// source, so that it never falls out of use. What is open is not affected.
func Rehome(virtual, source netip.Addr) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("look for the interface %s: %w", device, err)
	}
	dst := &net.IPNet{IP: virtual.AsSlice(), Mask: net.CIDRMask(virtual.BitLen(), virtual.BitLen())}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: dst, Src: source.AsSlice(),
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if virtual.Is4() {
		route.Protocol = unix.RTPROT_KERNEL
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("replace the local route to %s: %w", virtual, err)
		}
		return nil
	}
	// The kernel's own route is better than any that can be written, so it goes when
	// the other is there.
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a local route to %s: %w", virtual, err)
	}
	own := &netlink.Route{LinkIndex: route.LinkIndex, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL}
	if err := netlink.RouteDel(own); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the kernel's route to %s: %w", virtual, err)
	}
	return nil
}
