package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel gives an IPv6 address its local route a moment later, from a work
// queue (addrconf_dad_work), even without duplicate address detection. So the
// route cannot be removed in the same buffer, as that of IPv4 can. It also adds
// no local route over a device that is down except with a new address. Settling
// sees to both after the addresses are there.

// maxSettle is how long to wait for the routes of new addresses.
const maxSettle = 5 * time.Second

// errThere is the verdict on an address that was there already.
var errThere = errors.New("the address is there")

func there(e syscall.Errno) error {
	if e == unix.EEXIST {
		return errThere
	}
	return e
}

// A place is an address of a device.
type place struct {
	device string
	addr   netip.Addr
}

// An unsettled is what is to become of an IPv6 address.
type unsettled struct {
	op     int // the last one about it
	fresh  bool
	routed bool
}

// settle brings the local routes of IPv6 addresses to what AddAddr promises.
func (t *transaction) settle() error {
	if len(t.unsettled) == 0 {
		return nil
	}
	open := t.takeUnsettled()
	pause := time.Millisecond
	for start := time.Now(); len(open) > 0; pause = min(2*pause, 50*time.Millisecond) {
		if err := t.settleSome(open); err != nil {
			return err
		}
		maps.DeleteFunc(open, func(_ place, u *unsettled) bool { return t.refused(u.op) })
		if len(open) == 0 {
			return nil
		}
		if time.Since(start) > maxSettle {
			break
		}
		select {
		case <-t.ctx.Done():
			return t.ctx.Err()
		case <-time.After(pause):
		}
	}
	for _, u := range open {
		t.fail(u.op, unix.ETIMEDOUT)
	}
	return nil
}

// takeUnsettled returns the addresses added since the last call. An address is
// fresh if it was not there before the first op about it.
func (t *transaction) takeUnsettled() map[place]*unsettled {
	open := map[place]*unsettled{}
	for _, i := range t.unsettled {
		op, ok := t.ops[i].(AddAddr)
		if !ok || t.refused(i) {
			continue
		}
		p := place{op.Device, op.Addr}
		if open[p] == nil {
			open[p] = &unsettled{}
		}
		open[p].op, open[p].routed = i, op.Routed
		open[p].fresh = open[p].fresh || !t.there[i]
	}
	t.unsettled = nil
	clear(t.there)
	return open
}

// settleSome looks once, does what can be done, and removes what is settled.
func (t *transaction) settleSome(open map[place]*unsettled) error {
	have := map[string]map[netip.Addr]bool{}
	for p, u := range open {
		dev, err := t.link(p.device)
		if err != nil {
			return err
		}
		if have[p.device] == nil {
			if have[p.device], err = t.l.localAddrs(t.ctx, unix.AF_INET6, dev.index); err != nil {
				return fmt.Errorf("addresses of %s: %w", p.device, err)
			}
		}
		if t.conn.full(t.batch) {
			if err := t.flush(); err != nil {
				return err
			}
		}
		local := have[p.device][p.addr]
		switch {
		case local && u.routed:
			host := netip.PrefixFrom(p.addr, p.addr.BitLen())
			t.batch.route(u.op, unix.RTM_DELROUTE, 0, host, unix.RT_TABLE_LOCAL, dev.index, unless(unix.ESRCH))
			delete(open, p)
		case local, u.routed && !u.fresh: // as it should be
			delete(open, p)
		case !u.fresh: // it lacks its route: again, in one go
			t.batch.address(u.op, unix.RTM_DELADDR, dev.index, p.addr, unless(unix.EADDRNOTAVAIL))
			t.batch.address(u.op, unix.RTM_NEWADDR, dev.index, p.addr, refused)
			u.fresh = true
		}
	}
	return t.flush()
}
