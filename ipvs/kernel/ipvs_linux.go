package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// From linux/ip_vs.h.
const (
	ipvsVersion   = 1
	genericHeader = 4 // bytes of struct genlmsghdr

	ipvsNewService = 1
	ipvsSetService = 2
	ipvsDelService = 3
	ipvsGetService = 4
	ipvsNewDest    = 5
	ipvsSetDest    = 6
	ipvsDelDest    = 7
	ipvsGetDest    = 8

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	destAddr     = 1
	destPort     = 2
	destForward  = 3
	destWeight   = 4
	destUpper    = 5
	destLower    = 6
	destActive   = 7
	destInactive = 8
	destFamily   = 11

	forwardMask = 7
	masquerade  = 0

	allFlags = Persistent | OnePacket | Sched1 | Sched2 | Sched3
)

// From linux/genetlink.h: the family that knows of the others.
const (
	controlFamily    = 0x10
	controlGetFamily = 3
	controlID        = 1
	controlName      = 2
)

// errNoIPVS says that the kernel has no IPVS, not even as a module.
var errNoIPVS = fmt.Errorf("the kernel has no IPVS: %w", errors.ErrUnsupported)

// beginGeneric starts a message of generic netlink.
func (b *batch) beginGeneric(op int, typ uint16, command uint8, meaning verdict) {
	b.begin(op, typ, 0, meaning)
	b.buf = append(b.buf, command, ipvsVersion, 0, 0)
}

// ipvsFamily asks for the number of IPVS in generic netlink, which makes the
// kernel load the module. The number is another after the module was unloaded
// and loaded, and messages to the old one are refused like those about a
// scheduler that is missing (ENOENT). So it is not kept for longer than a call.
func (l *Linux) ipvsFamily(ctx context.Context) (uint16, error) {
	var b batch
	b.beginGeneric(0, controlFamily, controlGetFamily, refused)
	b.text(controlName, "IPVS")
	b.end()
	var id uint16
	err := l.ipvs.get(ctx, &b, func(m message) {
		m.after(genericHeader).each(func(typ uint16, data []byte) {
			if typ == controlID {
				id = native16(data)
			}
		})
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, errNoIPVS
	}
	if err != nil {
		return 0, fmt.Errorf("look for IPVS: %w", err)
	}
	return id, nil
}

func (t *transaction) addIPVS(i int) error {
	if t.family == 0 {
		id, err := t.l.ipvsFamily(t.ctx)
		if err != nil {
			return err
		}
		t.family = id
	}
	b := t.batch
	switch op := t.ops[i].(type) {
	case NewServer:
		if risky(op.Scheduler) {
			t.fail(i, unix.ENOENT)
			return nil
		}
		b.server(i, t.family, ipvsNewService, op.Key, &op.Server)
	case SetServer:
		if risky(op.Scheduler) {
			t.fail(i, unix.ENOENT)
			return nil
		}
		b.server(i, t.family, ipvsSetService, op.Key, &op.Server)
	case DelServer:
		b.server(i, t.family, ipvsDelService, op.Key, nil)
	case NewDest:
		b.dest(i, t.family, ipvsNewDest, op.Key, op.Addr, op.Weight)
	case SetDest:
		b.dest(i, t.family, ipvsSetDest, op.Key, op.Addr, op.Weight)
	case DelDest:
		b.dest(i, t.family, ipvsDelDest, op.Key, op.Addr, 0)
	}
	return nil
}

// server adds a message about a virtual server; s is nil if the key says all.
func (b *batch) server(op int, fam uint16, command uint8, key ServerKey, s *Server) {
	b.beginGeneric(op, fam, command, refused)
	at := b.nest(attrService | unix.NLA_F_NESTED)
	b.serverKey(key)
	if s != nil {
		each := ^uint32(0) // address is a client of its own
		if key.Addr.Addr().Is6() {
			each = 128
		}
		b.serverOptions(s, each)
	}
	b.close(at)
	b.end()
}

// serverOptions adds how a virtual server balances. The mask, which IPv6 has as a
// length, makes one client of many for persistence.
func (b *batch) serverOptions(s *Server, mask uint32) {
	b.text(svcScheduler, s.Scheduler)
	flags := b.nest(svcFlags)
	b.word(uint32(s.Flags))
	b.word(^uint32(0)) // which of them count
	b.close(flags)
	b.u32(svcTimeout, uint32(s.Timeout/time.Second)) //nolint:gosec // hours
	b.u32(svcNetmask, mask)
}

func (b *batch) serverKey(key ServerKey) {
	b.u16(svcFamily, uint16(family(key.Addr.Addr())))
	b.u16(svcProtocol, uint16(protocolNumber(key.Protocol)))
	b.addr(svcAddr, key.Addr.Addr())
	b.big16(svcPort, key.Addr.Port())
}

// dest adds a message about a destination.
func (b *batch) dest(op int, fam uint16, command uint8, key ServerKey, addr netip.AddrPort, weight uint32) {
	b.beginGeneric(op, fam, command, refused)
	at := b.nest(attrService | unix.NLA_F_NESTED)
	b.serverKey(key)
	b.close(at)
	at = b.nest(attrDest | unix.NLA_F_NESTED)
	b.addr(destAddr, addr.Addr())
	b.big16(destPort, addr.Port())
	b.u16(destFamily, uint16(family(addr.Addr()))) // kernels before 3.18 skip it
	if command != ipvsDelDest {
		b.u32(destForward, masquerade)
		b.u32(destWeight, weight)
		b.u32(destUpper, 0) // no limits of connections
		b.u32(destLower, 0)
	}
	b.close(at)
	b.end()
}

func protocolNumber(p service.Protocol) uint8 {
	switch p {
	case service.UDP:
		return unix.IPPROTO_UDP
	case service.SCTP:
		return unix.IPPROTO_SCTP
	default:
		return unix.IPPROTO_TCP
	}
}

func protocolOf(number uint16) (service.Protocol, bool) {
	switch number {
	case unix.IPPROTO_TCP:
		return service.TCP, true
	case unix.IPPROTO_UDP:
		return service.UDP, true
	case unix.IPPROTO_SCTP:
		return service.SCTP, true
	default:
		return 0, false
	}
}

// readServer reads what the kernel says of a virtual server; it is not ok for one
// on a firewall mark.
func readServer(m message) (key ServerKey, s Server, ok bool) {
	var af, port uint16
	var proto service.Protocol
	var raw []byte
	var timeout uint32
	known := false
	each := func(typ uint16, data []byte) {
		switch typ {
		case svcFamily:
			af = native16(data)
		case svcProtocol:
			proto, known = protocolOf(native16(data))
		case svcAddr:
			raw = data
		case svcPort:
			port = network16(data)
		case svcScheduler:
			s.Scheduler = zeroEnded(data)
		case svcFlags:
			s.Flags = Flags(native32(data)) & allFlags
		case svcTimeout:
			timeout = native32(data)
		}
	}
	m.after(genericHeader).each(func(typ uint16, data []byte) {
		if typ == attrService {
			attrs(data).each(each)
		}
	})
	if s.Flags&Persistent != 0 {
		s.Timeout = time.Duration(timeout) * time.Second
	}
	addr, valid := address(af, raw)
	return ServerKey{netip.AddrPortFrom(addr, port), proto}, s, known && valid
}

// readDest reads what the kernel says of a destination of a virtual server with
// an address of the family.
func readDest(m message, af uint16) (d Dest, ok bool) {
	var port uint16
	var raw []byte
	each := func(typ uint16, data []byte) {
		switch typ {
		case destAddr:
			raw = data
		case destPort:
			port = network16(data)
		case destForward:
			d.Other = native32(data)&forwardMask != masquerade
		case destWeight:
			d.Weight = native32(data)
		case destActive:
			d.Conns.Active = native32(data)
		case destInactive:
			d.Conns.Inactive = native32(data)
		case destFamily:
			af = native16(data)
		}
	}
	m.after(genericHeader).each(func(typ uint16, data []byte) {
		if typ == attrDest {
			attrs(data).each(each)
		}
	})
	addr, ok := address(af, raw)
	d.Addr = netip.AddrPortFrom(addr, port)
	return d, ok
}
