package abi

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// EncodeMatch returns one match that is not about a header field.
func EncodeMatch(f xt.Family, m xt.Match, sets Sets) (Info, error) {
	if err := known(); err != nil {
		return Info{}, err
	}
	switch m := m.(type) {
	case xt.DPort:
		return ports(m.Protocol, m.Port, m.Port)
	case xt.DPortRange:
		return ports(m.Protocol, m.Low, m.High)
	case xt.TCPSyn:
		return tcpSyn(m), nil
	case xt.CTState:
		return ctState(m), nil
	case xt.CTReply:
		return ctReply(), nil
	case xt.SrcType:
		return addrType(0, m.Type, m.Not)
	case xt.DstType:
		return addrType(1, m.Type, m.Not)
	case xt.MarkIs:
		return markIs(m), nil
	case xt.ConnMarkIs:
		return valueMask("connmark", m.Bits, m.Bits, false), nil
	case xt.Random:
		return random(m)
	case xt.RecentCheck:
		return recentCheck(m), nil
	case xt.RecentSet:
		return recent(m.Name, 0, recentSet), nil
	case xt.SameAddr:
		return program(m.Program())
	case xt.InSet:
		return inSet(m, sets)
	case xt.ViaIPVS:
		return viaIPVS(), nil
	case xt.ToSocket:
		b := newBlock(1)
		b[0] = 1 // XT_SOCKET_TRANSPARENT
		return Info{"socket", 3, b}, nil
	}
	return Info{}, fmt.Errorf("%w: match %T", ErrNotEncodable, m)
}

// ports are struct xt_tcp, xt_udp and xt_sctp_info.
func ports(p xt.Protocol, low, high uint16) (Info, error) {
	switch p {
	case xt.TCP, xt.UDP:
		size, name := 12, "tcp"
		if p == xt.UDP {
			size, name = 10, "udp"
		}
		b := newBlock(size)
		b.u16(2, math.MaxUint16) // any source port
		b.u16(4, low)
		b.u16(6, high)
		return Info{name, 0, b}, nil
	case xt.SCTP:
		const flagInfo, flags = 4 + 4 + 256 + 4, 4 + 4 + 256 + 4 + 12 + 4
		b := newBlock(flags + 4 + 4)
		b.u16(0, low)
		b.u16(2, high)
		for i := range 4 {
			b[flagInfo+3*i] = math.MaxUint8 // no chunk type
		}
		b.u32(flags, 2) // XT_SCTP_DEST_PORTS
		return Info{"sctp", 0, b}, nil
	}
	return Info{}, fmt.Errorf("%w: ports of protocol %v", ErrNotEncodable, p)
}

func tcpSyn(m xt.TCPSyn) Info {
	b := newBlock(12)
	b.u16(2, math.MaxUint16)
	b.u16(6, math.MaxUint16)
	b[9] = 0x17  // of FIN, SYN, RST and ACK
	b[10] = 0x02 // only SYN
	if m.Not {
		b[11] = 0x04 // XT_TCP_INV_FLAGS
	}
	return Info{"tcp", 0, b}
}

// Offsets in struct xt_conntrack_mtinfo3: eight addresses, two timeouts, the protocol
// and four ports go before.
const (
	ctSize        = 164
	ctMatchFlags  = 128 + 8 + 2 + 8
	ctInvertFlags = ctMatchFlags + 2
	ctStateMask   = ctMatchFlags + 4

	ctByState     = 1 << 0
	ctByDirection = 1 << 12
)

// The bits of xt_conntrack for the bits of [xt.CTStates], in their order.
var ctBits = [...]uint16{8, 2, 4, 1, 128}

func ctState(m xt.CTState) Info {
	b := newBlock(ctSize)
	b.u16(ctMatchFlags, ctByState)
	if m.Not {
		b.u16(ctInvertFlags, ctByState)
	}
	var mask uint16
	for i, bit := range ctBits {
		if m.States&(1<<i) != 0 {
			mask |= bit
		}
	}
	b.u16(ctStateMask, mask)
	return Info{"conntrack", 3, b}
}

// ctReply is "the direction is not that of the original".
func ctReply() Info {
	b := newBlock(ctSize)
	b.u16(ctMatchFlags, ctByDirection)
	b.u16(ctInvertFlags, ctByDirection)
	return Info{"conntrack", 3, b}
}

// addrType is struct xt_addrtype_info_v1; side is 0 for the source.
func addrType(side int, t xt.AddrType, not bool) (Info, error) {
	if t != xt.Local {
		return Info{}, fmt.Errorf("%w: address type %d", ErrNotEncodable, t)
	}
	b := newBlock(8)
	b.u16(2*side, 1<<2) // RTN_LOCAL
	if not {
		b.u32(4, 1<<side)
	}
	return Info{"addrtype", 1, b}, nil
}

func markIs(m xt.MarkIs) Info {
	mask := m.Mask
	if mask == 0 {
		mask = math.MaxUint32
	}
	return valueMask("mark", m.Value, mask, m.Not)
}

// valueMask is struct xt_mark_mtinfo1 and xt_connmark_mtinfo1.
func valueMask(name string, value, mask uint32, not bool) Info {
	b := newBlock(12)
	b.u32(0, value)
	b.u32(4, mask)
	if not {
		b[8] = 1
	}
	return Info{name, 1, b}
}

// random is struct xt_statistic_info, with the place for a pointer of the kernel. The
// tools read the probability from ten digits, and so it is here.
func random(m xt.Random) (Info, error) {
	var digits [24]byte
	p, err := strconv.ParseFloat(string(strconv.AppendFloat(digits[:0], m.P, 'f', 10, 64)), 64)
	if err != nil {
		return Info{}, fmt.Errorf("%w: probability %v: %w", ErrNotEncodable, m.P, err)
	}
	b := newBlock(24)
	share := uint32(math.Round(p * (1 << 31)))
	b.u32(4, share)
	b.u32(12, share) // nobody reads it; the tools fill in what it would be for "nth"
	return Info{"statistic", 0, b}, nil
}

// What xt_recent does.
const (
	recentRcheck = 1 << 0
	recentSet    = 1 << 1
	recentUpdate = 1 << 2
	recentReap   = 1 << 5
)

func recentCheck(m xt.RecentCheck) Info {
	do := byte(recentRcheck)
	if m.Refresh {
		do = recentUpdate
	}
	return recent(m.Name, uint32(m.Seconds), do|recentReap)
}

// recent is struct xt_recent_mtinfo_v1. The source is looked at, and all its bits.
func recent(list string, seconds uint32, do byte) Info {
	const name, mask = 10, 212
	b := newBlock(mask + 16)
	b.u32(0, seconds)
	b[8] = do
	copy(b[name:name+199], list)
	for i := range 16 {
		b[mask+i] = 0xff
	}
	return Info{"recent", 1, b}
}

// program is struct xt_bpf_info_v1 with the place for a pointer of the kernel. The
// text is that of the option --bytecode.
func program(text string) (Info, error) {
	count, rest, _ := strings.Cut(text, ",")
	n, err := strconv.ParseUint(count, 10, 16)
	lines := strings.Split(rest, ",")
	if err != nil || int(n) != len(lines) || n > 64 {
		return Info{}, fmt.Errorf("%w: program of %s instructions", ErrNotEncodable, count)
	}
	const code = 8
	b := newBlock(code + 64*8 + 8)
	b.u16(2, uint16(n))
	for i, line := range lines {
		var op uint16
		var jt, jf uint8
		var k uint32
		if _, err := fmt.Sscan(line, &op, &jt, &jf, &k); err != nil {
			return Info{}, fmt.Errorf("%w: instruction %q: %w", ErrNotEncodable, line, err)
		}
		at := b[code+8*i:]
		binary.NativeEndian.PutUint16(at, op)
		at[2], at[3] = jt, jf
		binary.NativeEndian.PutUint32(at[4:], k)
	}
	return Info{"bpf", 1, b}, nil
}

// inSet is struct xt_set_info_match_v4.
func inSet(m xt.InSet, sets Sets) (Info, error) {
	if sets == nil {
		return Info{}, fmt.Errorf("%w: set %s", ErrNotEncodable, m.Set)
	}
	index, err := sets(m.Set)
	if err != nil {
		return Info{}, fmt.Errorf("set %s: %w", m.Set, err)
	}
	b := newBlock(48)
	b.u16(0, index)
	dirs := strings.Split(m.Dirs, ",")
	var flags byte
	for i, d := range dirs {
		if d == "src" {
			flags |= 1 << (i + 1)
		}
	}
	if m.Not {
		flags |= 1 // IPSET_INV_MATCH
	}
	b[2], b[3] = byte(len(dirs)), flags
	return Info{"set", 4, b}, nil
}

// viaIPVS is struct xt_ipvs_mtinfo.
func viaIPVS() Info {
	const bitmask = 32 + 2 + 1 + 1 + 2 + 1
	b := newBlock(bitmask + 1)
	b[bitmask] = 1 // XT_IPVS_IPVS_PROPERTY
	return Info{"ipvs", 0, b}
}
