package main

import (
	"cmp"
	"context"
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

// readAddrs returns the addresses of the network namespace we are in.
func readAddrs() (localAddrs, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return localAddrs{}, fmt.Errorf("list local addresses: %w", err)
	}
	var found []ifaceAddr
	for i := range list {
		if a, ok := netip.AddrFromSlice(list[i].IP); ok {
			found = append(found, ifaceAddr{Addr: a.Unmap(), Index: list[i].LinkIndex})
		}
	}
	var uplink [service.NumFamilies]int
	for family, id := range [service.NumFamilies]int{service.IPv4: netlink.FAMILY_V4, service.IPv6: netlink.FAMILY_V6} {
		uplink[family] = defaultRoute(id)
	}
	return sortAddrs(found, uplink), nil
}

// defaultRoute returns the index of the interface the default route leaves by,
// zero if there is none or it cannot be told.
func defaultRoute(family int) int {
	routes, err := netlink.RouteList(nil, family)
	if err != nil {
		return 0
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
		return 0
	}
	return best.LinkIndex
}

func isDefault(r *netlink.Route) bool {
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// sortAddrs makes localAddrs of what the kernel lists. Loopback addresses are
// left out by their value, not by their interface: an address that somebody put
// on lo is as local as any other.
func sortAddrs(found []ifaceAddr, uplink [service.NumFamilies]int) localAddrs {
	var out localAddrs
	slices.SortStableFunc(found, func(a, b ifaceAddr) int { return cmp.Compare(a.Index, b.Index) })
	for _, on := range []bool{true, false} { // on the uplink first
		for _, a := range found {
			f := service.FamilyOf(a.Addr)
			if out.Outward[f].IsValid() || (a.Index == uplink[f]) != on || !a.Addr.IsGlobalUnicast() {
				continue
			}
			out.Outward[f] = a.Addr
		}
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
		if !slices.Equal(now.All, last.All) || now.Outward != last.Outward {
			*last = now
			changed(now)
		}
		if !settle(ctx, updates) {
			return nil
		}
	}
}

// settle waits for an update and for the others that come with it. It reports
// false if there will be no more.
func settle(ctx context.Context, updates <-chan netlink.AddrUpdate) bool {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-quiet:
			return true
		case _, ok := <-updates:
			if !ok {
				return false
			}
			if quiet == nil {
				quiet = time.After(addrsSettle)
			}
		}
	}
}
