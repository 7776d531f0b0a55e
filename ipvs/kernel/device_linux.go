package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// Device implements Kernel. It leaves link-local IPv6 addresses out, which the
// kernel gives to whatever is up.
func (l *Linux) Device(ctx context.Context, name string) (DeviceState, error) {
	dev, err := l.link(ctx, name)
	if err != nil || dev.index == 0 {
		return DeviceState{}, err
	}
	state := DeviceState{Exists: true, Up: dev.up}
	if state.Addrs, err = l.addrs(ctx, dev.index); err != nil {
		return DeviceState{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, af := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		local, err := l.localAddrs(ctx, af, dev.index)
		if err != nil {
			return DeviceState{}, err
		}
		for a := range local {
			if _, ok := state.Addrs[a]; ok {
				state.Addrs[a] = AddrState{Local: true}
			}
		}
	}
	return state, nil
}

// addrs reads the addresses of a device.
func (l *Linux) addrs(ctx context.Context, dev uint32) (map[netip.Addr]AddrState, error) {
	var b batch
	b.begin(0, unix.RTM_GETADDR, 0, refused)
	b.buf = append(b.buf, unix.AF_UNSPEC, 0, 0, 0)
	b.word(dev)
	b.end()
	var addrs map[netip.Addr]AddrState
	err := l.route.dump(ctx, &b, func() { addrs = map[netip.Addr]AddrState{} }, func(m message) {
		if m.typ != unix.RTM_NEWADDR || len(m.data) < unix.SizeofIfAddrmsg || native32(m.data[4:]) != dev {
			return
		}
		a := readAddr(m)
		if a.IsValid() && !(a.Is6() && a.IsLinkLocalUnicast()) {
			addrs[a] = AddrState{}
		}
	})
	return addrs, err
}

// readAddr returns the address of RTM_NEWADDR on our side, or the zero Addr.
func readAddr(m message) netip.Addr {
	var local, peer netip.Addr
	af := uint16(m.data[0])
	m.after(unix.SizeofIfAddrmsg).each(func(typ uint16, data []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = address(af, data)
		case unix.IFA_ADDRESS: // of the peer, if there is one
			peer, _ = address(af, data)
		}
	})
	if local.IsValid() {
		return local
	}
	return peer
}

// A foundRoute is a route of type local that was read.
type foundRoute struct {
	to  netip.Prefix
	dev uint32
}

// localRoutes reads the routes of type local of one family in a table, over one
// device if dev is not 0.
func (l *Linux) localRoutes(ctx context.Context, af uint8, table, dev uint32) ([]foundRoute, error) {
	var b batch
	b.begin(0, unix.RTM_GETROUTE, 0, refused)
	b.buf = append(b.buf, af, 0, 0, 0, shortTable(table), 0, 0, unix.RTN_LOCAL, 0, 0, 0, 0)
	b.u32(unix.RTA_TABLE, table)
	if dev != 0 {
		b.u32(unix.RTA_OIF, dev)
	}
	b.end()
	var list []foundRoute
	err := l.route.dump(ctx, &b, func() { list = nil }, func(m message) {
		if r, in, ok := readRoute(m, af); ok && in == table && (dev == 0 || r.dev == dev) {
			list = append(list, r)
		}
	})
	if missing(err) || errors.Is(err, unix.ENOENT) { // there is no such table
		return nil, nil
	}
	return list, err
}

// missing reports whether the kernel does not have the family at all.
func missing(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// readRoute reads RTM_NEWROUTE, and is ok with routes of type local of a family.
func readRoute(m message, af uint8) (r foundRoute, table uint32, ok bool) {
	if m.typ != unix.RTM_NEWROUTE || len(m.data) < unix.SizeofRtMsg || m.data[0] != af || m.data[7] != unix.RTN_LOCAL {
		return r, 0, false
	}
	dst, _ := address(uint16(af), make([]byte, 16)) // there is no attribute for 0.0.0.0/0
	m.after(unix.SizeofRtMsg).each(func(typ uint16, data []byte) {
		if typ == unix.RTA_DST {
			dst, _ = address(uint16(af), data)
		}
	})
	r.to = netip.PrefixFrom(dst, int(m.data[1]))
	r.dev, table = routeTarget(m)
	return r, table, r.to.IsValid()
}

// routeTarget returns the device and the table of a route.
func routeTarget(m message) (dev, table uint32) {
	table = uint32(m.data[4])
	m.after(unix.SizeofRtMsg).each(func(typ uint16, data []byte) {
		switch typ {
		case unix.RTA_TABLE:
			table = native32(data)
		case unix.RTA_OIF:
			dev = native32(data)
		}
	})
	return dev, table
}

// localAddrs reads the addresses of a family with a local route to a device.
func (l *Linux) localAddrs(ctx context.Context, af uint8, dev uint32) (map[netip.Addr]bool, error) {
	list, err := l.localRoutes(ctx, af, unix.RT_TABLE_LOCAL, dev)
	if err != nil {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	addrs := make(map[netip.Addr]bool, len(list))
	for _, r := range list {
		if r.to.IsSingleIP() {
			addrs[r.to.Addr()] = true
		}
	}
	return addrs, nil
}

// Routes implements Kernel. Routes over other devices than the loopback are left
// out; AddRoute would replace them.
func (l *Linux) Routes(ctx context.Context, table uint32) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, af := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := l.localRoutes(ctx, af, table, loopback)
		if err != nil {
			return nil, fmt.Errorf("list routes of table %d: %w", table, err)
		}
		for _, r := range list {
			prefixes = append(prefixes, r.to)
		}
	}
	return prefixes, nil
}

// Rules implements Kernel. Rules that look at more than the mark are left out,
// since a Rule cannot say so.
func (l *Linux) Rules(ctx context.Context, table uint32) ([]Rule, error) {
	var rules []Rule
	for _, f := range [...]service.Family{service.IPv4, service.IPv6} {
		var b batch
		b.begin(0, unix.RTM_GETRULE, 0, refused)
		b.buf = append(b.buf, addressFamily(f), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		b.end()
		var list []Rule
		err := l.route.dump(ctx, &b, func() { list = nil }, func(m message) {
			if r, ok := readRule(m, f); ok && r.Table == table {
				list = append(list, r)
			}
		})
		if err != nil && !missing(err) {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		rules = append(rules, list...)
	}
	return rules, nil
}

// ruleHeader is the size of struct fib_rule_hdr.
const ruleHeader = 12

// readRule reads RTM_NEWRULE, and is ok with rules that a Rule can tell.
func readRule(m message, f service.Family) (r Rule, ok bool) {
	const invert = 1 << 1 // FIB_RULE_INVERT
	if m.typ != unix.RTM_NEWRULE || len(m.data) < ruleHeader || m.data[0] != addressFamily(f) {
		return r, false
	}
	tos, action, flags := m.data[3], m.data[7], native32(m.data[8:])
	ok = tos == 0 && action == unix.FR_ACT_TO_TBL && flags&invert == 0
	r = Rule{Family: f, Table: ruleTable(m)}
	m.after(ruleHeader).each(func(typ uint16, data []byte) {
		switch typ {
		case unix.FRA_PRIORITY:
			r.Priority = native32(data)
		case unix.FRA_FWMARK:
			r.Mark = native32(data)
		case unix.FRA_FWMASK:
			r.Mask = native32(data)
		case unix.FRA_SRC, unix.FRA_DST, unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_UID_RANGE,
			unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
			ok = false
		}
	})
	return r, ok
}

// ruleTable returns the table that a rule looks at.
func ruleTable(m message) uint32 {
	if len(m.data) < ruleHeader {
		return 0
	}
	table := uint32(m.data[4])
	m.after(ruleHeader).each(func(typ uint16, data []byte) {
		if typ == unix.FRA_TABLE {
			table = native32(data)
		}
	})
	return table
}
