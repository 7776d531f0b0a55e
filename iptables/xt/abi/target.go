package abi

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// EncodeTarget returns what t is to the kernel: a verdict, the chain of Jump and Goto,
// and the target of Call. A nil t is Continue.
func EncodeTarget(f xt.Family, t xt.Target) (v Verdict, chain string, target Info, err error) {
	switch t := t.(type) {
	case nil:
		return Continue, "", Info{}, nil
	case xt.Jump:
		return Jump, t.Chain, Info{}, nil
	case xt.Goto:
		return Goto, t.Chain, Info{}, nil
	case xt.Return:
		return Return, "", Info{}, nil
	case xt.Accept:
		return Accept, "", Info{}, nil
	case xt.DropPacket:
		return Drop, "", Info{}, nil
	}
	target, err = extension(f, t)
	return Call, "", target, err
}

func extension(f xt.Family, t xt.Target) (Info, error) {
	if err := known(); err != nil {
		return Info{}, err
	}
	switch t := t.(type) {
	case xt.Reject:
		return reject(f, 3, 4), nil // ICMP_PORT_UNREACHABLE of either family
	case xt.Reset:
		return reject(f, 7, 6), nil // TCP_RESET
	case xt.DNAT:
		return dnat(t.To.Addr(), t.To.Port()), nil
	case xt.DNATAddr:
		return dnat(t.To, 0), nil
	case xt.NetMap:
		return netMap(t.To.Masked()), nil
	case xt.Masquerade:
		return masquerade(f, t.RandomFully), nil
	case xt.OrMark:
		return mark(t.Bits, t.Bits), nil
	case xt.ClearMark:
		return mark(0, t.Bits), nil
	case xt.XorMark:
		return mark(t.Bits, 0), nil
	case xt.OrConnMark:
		return connMark(t.Bits, t.Bits), nil
	case xt.TProxy:
		return tproxy(t), nil
	}
	return Info{}, fmt.Errorf("%w: target %T", ErrNotEncodable, t)
}

// reject is struct ipt_reject_info and ip6t_reject_info.
func reject(f xt.Family, with4, with6 uint32) Info {
	b := newBlock(4)
	b.u32(0, with4)
	if f == xt.IPv6 {
		b.u32(0, with6)
	}
	return Info{"REJECT", 0, b}
}

// What struct nf_nat_range has (NF_NAT_RANGE_*).
const (
	mapAddrs    = 1 << 0
	mapPorts    = 1 << 1
	randomFully = 1 << 4
)

// Offsets in struct nf_nat_range2, which begins like nf_nat_range.
const (
	rangeMin     = 4
	rangeMax     = 20
	rangeMinPort = 36
	rangeMaxPort = 38
	rangeSize    = 40
	range2Size   = 42
)

// dnat is struct nf_nat_range2; port zero leaves the port alone.
func dnat(to netip.Addr, port uint16) Info {
	b := newBlock(range2Size)
	flags := uint32(mapAddrs)
	b.addr(rangeMin, to)
	b.addr(rangeMax, to)
	if port != 0 {
		flags |= mapPorts
		b.be16(rangeMinPort, port)
		b.be16(rangeMaxPort, port)
	}
	b.u32(0, flags)
	return Info{"DNAT", 2, b}
}

// Offsets in struct nf_nat_ipv4_multi_range_compat, which holds a number of ranges
// and one range.
const (
	multiFlags = 4
	multiMin   = 8
	multiMax   = 12
	multiSize  = 20
)

func netMap(to netip.Prefix) Info {
	last := to.Addr().AsSlice()
	for i := range last {
		if n := to.Bits() - 8*i; n <= 0 {
			last[i] = 0xff
		} else if n < 8 {
			last[i] |= 0xff >> n
		}
	}
	if to.Addr().Is4() {
		b := newBlock(multiSize)
		b.u32(0, 1)
		b.u32(multiFlags, mapAddrs)
		b.addr(multiMin, to.Addr())
		copy(b[multiMax:], last)
		return Info{"NETMAP", 0, b}
	}
	b := newBlock(rangeSize)
	b.u32(0, mapAddrs)
	b.addr(rangeMin, to.Addr())
	copy(b[rangeMax:], last)
	return Info{"NETMAP", 0, b}
}

func masquerade(f xt.Family, random bool) Info {
	var flags uint32
	if random {
		flags = randomFully
	}
	if f == xt.IPv6 {
		b := newBlock(rangeSize)
		b.u32(0, flags)
		return Info{"MASQUERADE", 0, b}
	}
	b := newBlock(multiSize)
	b.u32(0, 1)
	b.u32(multiFlags, flags)
	return Info{"MASQUERADE", 0, b}
}

// mark is struct xt_mark_tginfo2.
func mark(value, mask uint32) Info {
	b := newBlock(8)
	b.u32(0, value)
	b.u32(4, mask)
	return Info{"MARK", 2, b}
}

// connMark is struct xt_connmark_tginfo2; mode 0 is "set".
func connMark(value, mask uint32) Info {
	b := newBlock(15)
	b.u32(0, value)
	b.u32(4, mask)
	b.u32(8, math.MaxUint32)
	return Info{"CONNMARK", 2, b}
}

// tproxy is struct xt_tproxy_target_info_v1.
func tproxy(t xt.TProxy) Info {
	b := newBlock(26)
	b.u32(0, t.MarkBits)
	b.u32(4, t.MarkBits)
	b.addr(8, t.On.Addr())
	b.be16(24, t.On.Port())
	return Info{"TPROXY", 1, b}
}
