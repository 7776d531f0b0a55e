package takeover

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Rehome has connections that the node begins to one of its own virtual addresses come
// from another address: kube-proxy's way has given them the virtual address for a
// source, so that it never falls out of use. What is open is not affected. It does
// nothing for IPv6, whose kernel takes no such route over a device that is down.
func Rehome(virtual, source netip.Addr) error {
	if !virtual.Is4() {
		return nil
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("look for the interface %s: %w", device, err)
	}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index, Src: source.AsSlice(), Protocol: unix.RTPROT_KERNEL,
		Dst:   &net.IPNet{IP: virtual.AsSlice(), Mask: net.CIDRMask(virtual.BitLen(), virtual.BitLen())},
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
	if err != nil {
		return fmt.Errorf("replace the local route to %s: %w", virtual, err)
	}
	return nil
}
