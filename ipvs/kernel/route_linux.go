package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// loopback is the index of the loopback device, the first of every namespace
// (LOOPBACK_IFINDEX of the kernel).
const loopback = 1

// A link is what is known of a device; one without an index is not there.
type link struct {
	index uint32
	up    bool
}

// addRoute encodes the ops on devices, addresses, routes and rules.
func (t *transaction) addRoute(i int) error {
	b := t.batch
	switch op := t.ops[i].(type) {
	case NewDevice:
		b.newDevice(i, op.Name)
		return t.renumbered()
	case DelDevice:
		b.delDevice(i, op.Name)
		return t.renumbered()
	case AddAddr:
		return t.addAddr(i, op)
	case DelAddr:
		return t.delAddr(i, op)
	case AddRoute:
		// What has the same destination here without being the same is replaced:
		// the table is ours.
		b.route(i, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, op.To, op.Table, loopback, refused)
	case DelRoute:
		b.route(i, unix.RTM_DELROUTE, 0, op.To, op.Table, loopback, unless(unix.ESRCH))
	case AddRule:
		b.rule(i, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, op.Rule)
	case DelRule:
		b.rule(i, unix.RTM_DELRULE, 0, op.Rule)
	}
	return nil
}

// renumbered sends what the index of a device depends on.
func (t *transaction) renumbered() error {
	clear(t.links)
	return t.finish()
}

// link looks a device up by name.
func (t *transaction) link(name string) (link, error) {
	if l, ok := t.links[name]; ok {
		return l, nil
	}
	l, err := t.l.link(t.ctx, name)
	if err == nil {
		t.links[name] = l
	}
	return l, err
}

func (t *transaction) addAddr(i int, op AddAddr) error {
	dev, err := t.link(op.Device)
	if err != nil {
		return err
	}
	if dev.index == 0 {
		t.fail(i, unix.ENODEV)
		return nil
	}
	b := t.batch
	if !op.Addr.Is4() {
		t.unsettled = append(t.unsettled, i)
		b.address(i, unix.RTM_NEWADDR, dev.index, op.Addr, there)
		return nil
	}
	host := netip.PrefixFrom(op.Addr, op.Addr.BitLen())
	if !op.Routed {
		b.address(i, unix.RTM_NEWADDR, dev.index, op.Addr, unless(unix.EEXIST))
		// Beside those of other devices, if there are any.
		b.route(i, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, host, unix.RT_TABLE_LOCAL, dev.index, unless(unix.EEXIST))
		return nil
	}
	// The kernel appends its local route to what is there for the same address
	// (fib_magic in net/ipv4/fib_frontend.c). A route of type throw before it sees
	// to it that no packet ever takes it: the address may be another machine's,
	// whose connections pass here. (That is so once there is a routing rule beside
	// the kernel's own. Without one the tables local and main are searched as one,
	// and for that moment the address is unreachable.)
	b.throw(i, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, host, unless(unix.EEXIST))
	b.address(i, unix.RTM_NEWADDR, dev.index, op.Addr, unless(unix.EEXIST))
	b.route(i, unix.RTM_DELROUTE, 0, host, unix.RT_TABLE_LOCAL, dev.index, unless(unix.ESRCH))
	b.throw(i, unix.RTM_DELROUTE, 0, host, unless(unix.ESRCH))
	return nil
}

func (t *transaction) delAddr(i int, op DelAddr) error {
	if len(t.unsettled) > 0 { // maybe the same address
		if err := t.finish(); err != nil {
			return err
		}
	}
	dev, err := t.link(op.Device)
	if err != nil {
		return err
	}
	if dev.index == 0 {
		t.fail(i, unix.ENODEV)
		return nil
	}
	t.batch.address(i, unix.RTM_DELADDR, dev.index, op.Addr, unless(unix.EADDRNOTAVAIL))
	return nil
}

// beginLink starts a message about a device given by name.
func (b *batch) beginLink(op int, typ, flags uint16, name string) {
	b.begin(op, typ, flags, refused)
	b.buf = append(b.buf, make([]byte, unix.SizeofIfInfomsg)...)
	b.text(unix.IFLA_IFNAME, name)
}

func (b *batch) newDevice(op int, name string) {
	b.beginLink(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, name)
	at := b.nest(unix.IFLA_LINKINFO)
	b.text(unix.IFLA_INFO_KIND, "dummy")
	b.close(at)
	b.end()
}

func (b *batch) delDevice(op int, name string) {
	b.beginLink(op, unix.RTM_DELLINK, 0, name)
	b.end()
}

// address adds a message about an address of the length of its family.
func (b *batch) address(op int, typ uint16, dev uint32, a netip.Addr, meaning verdict) {
	var flags uint16
	if typ == unix.RTM_NEWADDR {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	b.begin(op, typ, flags, meaning)
	b.buf = append(b.buf, family(a), uint8(a.BitLen()), unix.IFA_F_PERMANENT, unix.RT_SCOPE_HOST) //nolint:gosec // 32 or 128
	b.word(dev)
	b.addr(unix.IFA_LOCAL, a)
	if !a.Is4() && typ == unix.RTM_NEWADDR {
		// Usable at once, and without a route in the table main to a device
		// that is down.
		b.u32(unix.IFA_FLAGS, unix.IFA_F_PERMANENT|unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)
	}
	b.end()
}

// route adds a message about a route of type local. It says that it is the
// kernel's, since there are programs that remove what is not.
func (b *batch) route(op int, typ, flags uint16, to netip.Prefix, table, dev uint32, meaning verdict) {
	b.beginRoute(op, typ, flags, unix.RTN_LOCAL, to, table, meaning)
	b.u32(unix.RTA_OIF, dev)
	if table == unix.RT_TABLE_LOCAL && typ == unix.RTM_NEWROUTE && to.Addr().Is4() {
		b.addr(unix.RTA_PREFSRC, to.Addr()) // as that of an address has it
	}
	b.end()
}

// throw adds a message about a route in the table local that ends the search there,
// and lets the next routing rule decide.
func (b *batch) throw(op int, typ, flags uint16, to netip.Prefix, meaning verdict) {
	b.beginRoute(op, typ, flags, unix.RTN_THROW, to, unix.RT_TABLE_LOCAL, meaning)
	b.end()
}

// beginRoute starts a message about a route. To remove it, it need not be the
// kernel's.
func (b *batch) beginRoute(op int, typ, flags uint16, kind uint8, to netip.Prefix, table uint32, meaning verdict) {
	b.begin(op, typ, flags, meaning)
	scope, origin := uint8(unix.RT_SCOPE_HOST), uint8(unix.RTPROT_KERNEL)
	if typ == unix.RTM_DELROUTE {
		scope, origin = unix.RT_SCOPE_NOWHERE, unix.RTPROT_UNSPEC // any
	}
	b.buf = append(b.buf, family(to.Addr()), uint8(to.Bits()), 0, 0, shortTable(table), origin, scope, kind, 0, 0, 0, 0) //nolint:gosec // at most 128
	b.addr(unix.RTA_DST, to.Addr())
	b.u32(unix.RTA_TABLE, table)
}

// rule adds a message about a rule. To remove it, it need not be the kernel's.
func (b *batch) rule(op int, typ, flags uint16, r Rule) {
	b.begin(op, typ, flags, refused)
	b.buf = append(b.buf, addressFamily(r.Family), 0, 0, 0, shortTable(r.Table), 0, 0, unix.FR_ACT_TO_TBL, 0, 0, 0, 0)
	b.u32(unix.FRA_PRIORITY, r.Priority)
	b.u32(unix.FRA_FWMARK, r.Mark)
	b.u32(unix.FRA_FWMASK, r.Mask)
	b.u32(unix.FRA_TABLE, r.Table)
	if typ == unix.RTM_NEWRULE {
		b.u8(unix.FRA_PROTOCOL, unix.RTPROT_KERNEL)
	}
	b.end()
}

// shortTable is what stands in the byte for the table in old headers.
func shortTable(table uint32) uint8 {
	if table > 255 {
		return unix.RT_TABLE_COMPAT
	}
	return uint8(table)
}

func addressFamily(f service.Family) uint8 {
	if f == service.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// link looks a device up by name.
func (l *Linux) link(ctx context.Context, name string) (link, error) {
	var b batch
	b.beginLink(0, unix.RTM_GETLINK, 0, name)
	b.end()
	var found link
	err := l.route.get(ctx, &b, func(m message) {
		if m.typ == unix.RTM_NEWLINK && len(m.data) >= unix.SizeofIfInfomsg {
			found.index = native32(m.data[4:])
			found.up = native32(m.data[8:])&unix.IFF_UP != 0
		}
	})
	if errors.Is(err, unix.ENODEV) {
		return link{}, nil
	}
	if err != nil {
		return link{}, fmt.Errorf("look up device %s: %w", name, err)
	}
	return found, nil
}
