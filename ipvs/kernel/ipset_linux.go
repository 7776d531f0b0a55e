package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// From linux/netfilter/ipset/ip_set.h.
const (
	setProtocol = 6 // the oldest that kernels still speak; 7 adds lookups by number

	setCreate  = 2
	setDestroy = 3
	setSwap    = 6
	setList    = 7
	setAdd     = 9
	setDel     = 10
	setType    = 13

	setAttrProtocol = 1
	setAttrName     = 2
	setAttrType     = 3 // of swap: the other name
	setAttrRevision = 4
	setAttrFamily   = 5
	setAttrFlags    = 6
	setAttrData     = 7
	setAttrElements = 8
	setAttrOldest   = 10 // revision

	elemIP      = 1
	elemPort    = 4
	elemPortTo  = 5
	elemProto   = 7
	elemMax     = 19
	elemIP2     = 20
	elemCIDR2   = 21
	elemIPv4    = 1
	elemIPv6    = 2
	headersOnly = 1 << 2
)

// What ipset refuses with, where no errno fits it.
const (
	setErrProtocol = 4097
	setErrType     = 4098
	setErrMax      = 4099
	setErrBusy     = 4100
	setErrName2    = 4101
	setErrMismatch = 4102
	setErrExist    = 4103
	setErrInUse    = 4108
	setErrFull     = 4352 // of a hash; bitmaps use it for a port out of range
)

// A typeKey names a type of set for one family.
type typeKey struct {
	typ SetType
	fam uint8
}

// A revision is one of a type of set: which options it has.
type revision uint8

// beginSet starts a message about the set.
func (b *batch) beginSet(op int, command uint16, name string, meaning verdict) {
	var flags uint16
	if command == setDestroy {
		flags = unix.NLM_F_EXCL // or one that is not there is fine, see addSet
	}
	b.begin(op, unix.NFNL_SUBSYS_IPSET<<8|command, flags, meaning)
	b.buf = append(b.buf, unix.AF_INET, unix.NFNETLINK_V0, 0, 0)
	b.u8(setAttrProtocol, setProtocol)
	if name != "" {
		b.text(setAttrName, name)
	}
}

// addSet encodes the ops on sets. Messages without NLM_F_EXCL ask for what the
// contract says: a set or an element that is there already is fine, and so is
// the removal of an element that is not.
func (t *transaction) addSet(i int) error {
	b := t.batch
	switch op := t.ops[i].(type) {
	case NewSet:
		rev, err := t.l.revision(t.ctx, typeKey{op.Set.Type, setFamily(op.Set)})
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			t.fail(i, setError(errno))
			return nil
		}
		if err != nil {
			return err
		}
		b.newSet(i, op.Set, rev)
	case DelSet:
		b.beginSet(i, setDestroy, op.Name, setError)
		b.end()
	case SwapSets:
		b.beginSet(i, setSwap, op.A, setError)
		b.text(setAttrType, op.B)
		b.end()
	case AddElem:
		meaning := verdict(setError)
		if op.Type != BitmapPort {
			meaning = hashError
		}
		b.element(i, setAdd, op.Set, op.Type, op.Elem, meaning)
	case DelElem:
		b.element(i, setDel, op.Set, op.Type, op.Elem, setError)
	}
	return nil
}

func (b *batch) newSet(op int, s Set, rev revision) {
	b.beginSet(op, setCreate, s.Name, setError)
	b.text(setAttrType, string(s.Type))
	b.u8(setAttrRevision, uint8(rev))
	b.u8(setAttrFamily, setFamily(s))
	at := b.nest(setAttrData | unix.NLA_F_NESTED)
	if s.Type == BitmapPort {
		b.big16(elemPort|unix.NLA_F_NET_BYTEORDER, 0)
		b.big16(elemPortTo|unix.NLA_F_NET_BYTEORDER, 65535)
	} else {
		b.big32(elemMax|unix.NLA_F_NET_BYTEORDER, s.MaxElem)
	}
	b.close(at)
	b.end()
}

func (b *batch) element(op int, command uint16, set string, typ SetType, e Element, meaning verdict) {
	b.beginSet(op, command, set, meaning)
	at := b.nest(setAttrData | unix.NLA_F_NESTED)
	if typ != BitmapPort {
		b.setAddr(elemIP, e.Addr)
	}
	if typ != HashIP {
		b.big16(elemPort|unix.NLA_F_NET_BYTEORDER, e.Port)
	}
	if typ == HashIPPort || typ == HashIPPortNet {
		b.u8(elemProto, protocolNumber(e.Protocol))
	}
	if typ == HashIPPortNet {
		b.setAddr(elemIP2, e.Net.Addr())
		b.u8(elemCIDR2, uint8(e.Net.Bits())) //nolint:gosec // at most 128
	}
	b.close(at)
	b.end()
}

func (b *batch) setAddr(typ uint16, a netip.Addr) {
	at := b.nest(typ | unix.NLA_F_NESTED)
	if a.Is4() {
		b.addr(elemIPv4|unix.NLA_F_NET_BYTEORDER, a)
	} else {
		b.addr(elemIPv6|unix.NLA_F_NET_BYTEORDER, a)
	}
	b.close(at)
}

// setFamily returns the family a set is created with. One without a family fits
// the rules of both.
func setFamily(s Set) uint8 {
	switch {
	case s.Type == BitmapPort:
		return unix.AF_UNSPEC
	case s.Family == service.IPv6:
		return unix.AF_INET6
	default:
		return unix.AF_INET
	}
}

// revision returns which revision of a type to create sets with. The kernel is
// asked what it has, and loads the module for that. All of them do what we need;
// the newest would hide our sets from an ipset(8) that is older than the kernel
// and cannot read it, so those are preferred that programs have known for years.
func (l *Linux) revision(ctx context.Context, key typeKey) (revision, error) {
	if rev, ok := l.types[key]; ok {
		return rev, nil
	}
	var b batch
	b.beginSet(0, setType, "", setError)
	b.text(setAttrType, string(key.typ))
	b.u8(setAttrFamily, key.fam)
	b.end()
	var newest, oldest uint8
	err := l.ipset.get(ctx, &b, func(m message) {
		m.after(4).each(func(typ uint16, data []byte) {
			switch {
			case len(data) == 0:
			case typ == setAttrRevision:
				newest = data[0]
			case typ == setAttrOldest:
				oldest = data[0]
			}
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look for set type %s: %w", key.typ, err)
	}
	rev := revision(max(oldest, min(newest, familiar(key.typ))))
	l.types[key] = rev
	return rev, nil
}

// familiar returns the revision that ipset(8) has known since 6.22, of 2014.
func familiar(t SetType) uint8 {
	switch t {
	case HashIP:
		return 4
	case HashIPPort:
		return 5
	case HashIPPortNet:
		return 7
	default:
		return 3
	}
}

// setError is the verdict of messages about sets: it turns the numbers that only
// ipset knows into the errnos of the contract.
func setError(e syscall.Errno) error {
	switch e {
	case setErrExist:
		return unix.EEXIST
	case setErrBusy, setErrInUse:
		return unix.EBUSY
	case setErrName2:
		return unix.ENOENT
	case setErrMax:
		return unix.ENOSPC
	case setErrType, setErrProtocol:
		return unix.EOPNOTSUPP
	}
	if e >= setErrProtocol {
		return unix.EINVAL
	}
	return e
}

// hashError is the verdict of an element added to a hash.
func hashError(e syscall.Errno) error {
	if e == setErrFull {
		return ErrSetFull
	}
	return setError(e)
}

// Sets implements Kernel. In a kernel without ipset there are none.
func (l *Linux) Sets(ctx context.Context, prefix string) ([]Set, error) {
	var b batch
	b.beginSet(0, setList, "", setError)
	b.big32(setAttrFlags|unix.NLA_F_NET_BYTEORDER, headersOnly)
	b.end()
	var sets []Set
	err := l.ipset.dump(ctx, &b, func() { sets = nil }, func(m message) {
		if s, ok := readSet(m); ok && strings.HasPrefix(s.Name, prefix) {
			sets = append(sets, s)
		}
	})
	if errors.Is(err, unix.EINVAL) { // nobody takes such messages
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	return sets, nil
}

// Elements implements Kernel.
func (l *Linux) Elements(ctx context.Context, name string) ([]Element, error) {
	var b batch
	b.beginSet(0, setList, name, setError)
	b.end()
	var list []Element
	err := l.ipset.dump(ctx, &b, func() { list = nil }, func(m message) {
		m.after(4).each(func(typ uint16, data []byte) {
			if typ != setAttrElements {
				return
			}
			attrs(data).each(func(_ uint16, data []byte) { list = append(list, readElement(data)) })
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list set %s: %w", name, err)
	}
	return list, nil
}

// readSet reads the header of a set; it is not ok for the rest of the elements
// of one.
func readSet(m message) (s Set, ok bool) {
	m.after(4).each(func(typ uint16, data []byte) {
		switch typ {
		case setAttrName:
			s.Name = zeroEnded(data)
		case setAttrType:
			s.Type, ok = SetType(zeroEnded(data)), true
		case setAttrFamily:
			if len(data) > 0 && data[0] == unix.AF_INET6 {
				s.Family = service.IPv6
			}
		case setAttrData:
			attrs(data).each(func(typ uint16, data []byte) {
				if typ == elemMax {
					s.MaxElem = network32(data)
				}
			})
		}
	})
	return s, ok
}

func readElement(data []byte) (e Element) {
	var net netip.Addr
	bits := -1
	attrs(data).each(func(typ uint16, data []byte) {
		switch typ {
		case elemIP:
			e.Addr = readSetAddr(data)
		case elemPort:
			e.Port = network16(data)
		case elemProto:
			if len(data) > 0 {
				e.Protocol, _ = protocolOf(uint16(data[0]))
			}
		case elemIP2:
			net = readSetAddr(data)
		case elemCIDR2:
			if len(data) > 0 {
				bits = int(data[0])
			}
		}
	})
	if net.IsValid() {
		if bits < 0 { // a single address
			bits = net.BitLen()
		}
		e.Net = netip.PrefixFrom(net, bits)
	}
	return e
}

func readSetAddr(data []byte) (a netip.Addr) {
	attrs(data).each(func(typ uint16, data []byte) {
		af := uint16(unix.AF_INET)
		if typ == elemIPv6 {
			af = unix.AF_INET6
		}
		a, _ = address(af, data)
	})
	return a
}
