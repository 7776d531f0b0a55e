package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-project/fairlead/service"
)

const (
	// addrsSettle is how long to wait for more after an address came or went:
	// an interface brings several.
	addrsSettle = 100 * time.Millisecond
	// addrsRetry is the pause before listening again after a failure.
	addrsRetry = time.Second
)

// An ifaceAddr is an address of this machine and where it is.
type ifaceAddr struct {
	Addr  netip.Addr
	Index int // of the interface
}

// vipDevice holds virtual addresses in ipvs mode, ours and kube-proxy's. They are
// on every node, so they are no addresses of this one: nobody can reach it there,
// and node ports must not answer there.
const vipDevice = "kube-ipvs0"

// readAddrs returns the addresses of the network namespace we are in.
func readAddrs() (localAddrs, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return localAddrs{}, fmt.Errorf("list local addresses: %w", err)
	}
	vips, err := vipIndex() // after the addresses, so that it is not older than they are
	if err != nil {
		return localAddrs{}, err
	}
	var found []ifaceAddr
	for i := range list {
		if list[i].LinkIndex == vips {
			continue
		}
		if a, ok := netip.AddrFromSlice(list[i].IP); ok {
			found = append(found, ifaceAddr{Addr: a.Unmap(), Index: list[i].LinkIndex})
		}
	}
	var way [service.NumFamilies]uplink
	for family, id := range [service.NumFamilies]int{service.IPv4: netlink.FAMILY_V4, service.IPv6: netlink.FAMILY_V6} {
		way[family] = defaultRoute(id)
	}
	return sortAddrs(found, way), nil
}

// vipIndex returns the index of the interface called vipDevice, zero if there is
// none.
func vipIndex() (int, error) {
	link, err := netlink.LinkByName(vipDevice)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the interface %s: %w", vipDevice, err)
	}
	return link.Attrs().Index, nil
}

// An uplink is how the default route leaves this machine.
type uplink struct {
	Index  int        // of the interface; zero if there is no default route
	Source netip.Addr // that the route prefers; the zero Addr if it does not say
}

// defaultRoute returns the uplink of a family, the zero uplink if there is none
// or it cannot be told.
func defaultRoute(family int) uplink {
	routes, err := netlink.RouteList(nil, family)
	if err != nil {
		return uplink{}
	}
	var best *netlink.Route
	for i := range routes {
		r := &routes[i]
		if r.LinkIndex == 0 || r.Dst != nil && !isDefault(r) {
			continue
		}
		if best == nil || r.Priority < best.Priority {
			best = r
		}
	}
	if best == nil {
		return uplink{}
	}
	src, _ := netip.AddrFromSlice(best.Src) // the zero Addr if there is none
	return uplink{Index: best.LinkIndex, Source: src.Unmap()}
}

func isDefault(r *netlink.Route) bool {
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// sortAddrs makes localAddrs of what the kernel lists. Loopback addresses are
// left out by their value, not by their interface: an address that somebody put
// on lo is as local as any other.
func sortAddrs(found []ifaceAddr, way [service.NumFamilies]uplink) localAddrs {
	var out localAddrs
	slices.SortStableFunc(found, func(a, b ifaceAddr) int { return cmp.Compare(a.Index, b.Index) })
	for f := range out.Outward {
		out.Outward[f] = outward(found, service.Family(f), way[f])
	}
	for _, a := range found {
		if !a.Addr.IsLoopback() {
			out.All = append(out.All, a.Addr)
		}
	}
	slices.SortFunc(out.All, netip.Addr.Compare)
	out.All = slices.Compact(out.All)
	return out
}

// outward chooses the address by which the machine is most likely known: the one
// its default route prefers, else the first where that leaves, else the first of
// all.
func outward(found []ifaceAddr, f service.Family, way uplink) netip.Addr {
	var first, onUplink netip.Addr
	for _, a := range found {
		switch {
		case service.FamilyOf(a.Addr) != f || !a.Addr.IsGlobalUnicast():
		case a.Addr == way.Source:
			return a.Addr
		case a.Index == way.Index && !onUplink.IsValid():
			onUplink = a.Addr
		case !first.IsValid():
			first = a.Addr
		}
	}
	if onUplink.IsValid() {
		return onUplink
	}
	return first
}

// keep returns a with the outward addresses of old, as far as they are still
// there: an address that comes does not change what the machine is known by.
func (a localAddrs) keep(old localAddrs) localAddrs {
	for f, addr := range old.Outward {
		if _, there := slices.BinarySearchFunc(a.All, addr, netip.Addr.Compare); there {
			a.Outward[f] = addr
		}
	}
	return a
}

// watchAddrs calls changed with the addresses of this machine whenever they have
// changed from last, until ctx is done. It is the only goroutine to call it.
func watchAddrs(ctx context.Context, log *slog.Logger, last localAddrs, changed func(localAddrs)) error {
	for failing := false; ctx.Err() == nil; {
		err := followAddrs(ctx, &last, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			log.Error("cannot follow the addresses of this machine; trying again", "err", err, "every", addrsRetry)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(addrsRetry):
		}
	}
	return nil
}

// followAddrs subscribes to changes, reads the list, which may have changed
// before, and then again after every change. It returns when the kernel ends the
// subscription, which it does when changes come faster than they are read.
func followAddrs(ctx context.Context, last *localAddrs, changed func(localAddrs)) error {
	updates := make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	defer func() {
		close(done)
		for range updates { // the library's goroutine may be waiting to send
		}
	}()
	if err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{}); err != nil {
		close(updates)
		return fmt.Errorf("subscribe to local addresses: %w", err)
	}
	for {
		now, err := readAddrs()
		if err != nil {
			return err
		}
		now = now.keep(*last)
		if !slices.Equal(now.All, last.All) || now.Outward != last.Outward {
			*last = now
			changed(now)
		}
		vips, err := vipIndex()
		if err != nil {
			return err
		}
		if !settle(ctx, updates, vips) {
			return nil
		}
	}
}

// settle waits for an update and for the others that come with it, but for those
// of the interface with the index vips, where thousands come and go. It reports
// false if there will be no more.
func settle(ctx context.Context, updates <-chan netlink.AddrUpdate, vips int) bool {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-quiet:
			return true
		case u, ok := <-updates:
			if !ok {
				return false
			}
			if quiet == nil && u.LinkIndex != vips {
				quiet = time.After(addrsSettle)
			}
		}
	}
}
