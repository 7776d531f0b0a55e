package xt

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Match is a closed set: each match can print itself and test a packet, so a
// plan can be both written and simulated. Only this package implements it.
type Match interface {
	appendArgs(b []byte) []byte
	matches(p *Packet) bool
	check(f Family) error
	slot() slot
}

// A slot is where iptables-save prints a match: header fields first, in this
// order, whatever order they were given in, then extensions as given.
type slot uint8

const (
	slotSource slot = iota
	slotDest
	slotIn
	slotOut
	slotProto
	slotExtension // any number of them; at most one of each slot above
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols this package can match.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

// String returns the name iptables prints, or the number of a protocol this
// package does not know.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "ipv6-icmp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

func (p Protocol) hasPorts() bool { return p == TCP || p == UDP || p == SCTP }

func (p Protocol) check(f Family) error {
	if p.hasPorts() || p == ICMP && f == IPv4 || p == ICMPv6 && f == IPv6 {
		return nil
	}
	return fmt.Errorf("protocol %v is not for %v", p, f)
}

// Source matches packets from Prefix, or from elsewhere if Not.
type Source struct {
	Prefix netip.Prefix
	Not    bool
}

func (m Source) appendArgs(b []byte) []byte { return appendPrefix(b, "-s ", m.Prefix, m.Not) }
func (m Source) matches(p *Packet) bool     { return m.Prefix.Contains(p.Src.Addr()) != m.Not }
func (m Source) check(f Family) error       { return checkPrefix(m.Prefix, f) }
func (Source) slot() slot                   { return slotSource }

// Dest matches packets to Prefix, or to elsewhere if Not.
type Dest struct {
	Prefix netip.Prefix
	Not    bool
}

func (m Dest) appendArgs(b []byte) []byte { return appendPrefix(b, "-d ", m.Prefix, m.Not) }
func (m Dest) matches(p *Packet) bool     { return m.Prefix.Contains(p.Dst.Addr()) != m.Not }
func (m Dest) check(f Family) error       { return checkPrefix(m.Prefix, f) }
func (Dest) slot() slot                   { return slotDest }

func appendPrefix(b []byte, opt string, p netip.Prefix, not bool) []byte {
	b = appendNot(b, not)
	b = append(b, opt...)
	return p.Masked().AppendTo(b)
}

func checkPrefix(p netip.Prefix, f Family) error {
	if !p.IsValid() {
		return errors.New("invalid prefix")
	}
	if FamilyOf(p.Addr()) != f {
		return fmt.Errorf("prefix %v is not %v", p, f)
	}
	return nil
}

func appendNot(b []byte, not bool) []byte {
	if not {
		return append(b, "! "...)
	}
	return b
}

// InIface matches packets that arrived on the interface Name; a trailing "+"
// makes it a prefix. A packet generated here arrived on none.
type InIface struct {
	Name string
	Not  bool
}

func (m InIface) appendArgs(b []byte) []byte {
	return append(append(appendNot(b, m.Not), "-i "...), m.Name...)
}
func (m InIface) matches(p *Packet) bool { return ifaceIs(m.Name, p.In) != m.Not }
func (m InIface) check(Family) error     { return checkIface(m.Name) }
func (InIface) slot() slot               { return slotIn }

// OutIface matches packets about to leave by the interface Name; a trailing
// "+" makes it a prefix. Before routing there is none.
type OutIface struct {
	Name string
	Not  bool
}

func (m OutIface) appendArgs(b []byte) []byte {
	return append(append(appendNot(b, m.Not), "-o "...), m.Name...)
}
func (m OutIface) matches(p *Packet) bool { return ifaceIs(m.Name, p.Out) != m.Not }
func (m OutIface) check(Family) error     { return checkIface(m.Name) }
func (OutIface) slot() slot               { return slotOut }

func ifaceIs(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// checkIface refuses what would not survive as one word of the restore input.
// The limit is IFNAMSIZ; the kernel also refuses slashes and white space.
func checkIface(name string) error {
	if name == "" || len(name) > 15 {
		return fmt.Errorf("interface name %q: want 1 to 15 bytes", name)
	}
	if name[0] == '!' || name[0] == '-' || !isWord(name) {
		return fmt.Errorf("interface name %q has characters that cannot be written", name)
	}
	return nil
}

// isWord reports whether s passes through the restore parser unquoted.
func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"'\/`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// Proto matches packets of one protocol.
type Proto struct{ Protocol Protocol }

func (m Proto) appendArgs(b []byte) []byte {
	return append(append(b, "-p "...), m.Protocol.String()...)
}
func (m Proto) matches(p *Packet) bool { return p.Proto == m.Protocol }
func (m Proto) check(f Family) error   { return m.Protocol.check(f) }
func (Proto) slot() slot               { return slotProto }

// DPort matches packets of Protocol (TCP, UDP or SCTP) to Port. It includes
// [Proto]: a rule may have both only if they agree.
type DPort struct {
	Protocol Protocol
	Port     uint16
}

func (m DPort) appendArgs(b []byte) []byte {
	b = append(b, "-m "...)
	b = append(b, m.Protocol.String()...)
	b = append(b, " --dport "...)
	return strconv.AppendUint(b, uint64(m.Port), 10)
}

func (m DPort) matches(p *Packet) bool { return p.Proto == m.Protocol && p.Dst.Port() == m.Port }

func (m DPort) check(Family) error {
	if !m.Protocol.hasPorts() {
		return fmt.Errorf("protocol %v has no ports", m.Protocol)
	}
	return nil
}

func (DPort) slot() slot { return slotExtension }

// TCPSyn matches the first packet of a TCP connection, or any other if Not. The
// rule must match TCP too.
type TCPSyn struct{ Not bool }

func (m TCPSyn) appendArgs(b []byte) []byte {
	return append(appendNot(append(b, "-m tcp "...), m.Not), "--tcp-flags FIN,SYN,RST,ACK SYN"...)
}

// matches takes a NEW packet for the first of a connection, which is what the
// evaluator is asked about.
func (m TCPSyn) matches(p *Packet) bool {
	return p.Proto == TCP && (p.State&CTNew != 0) != m.Not
}

func (TCPSyn) check(Family) error { return nil }
func (TCPSyn) slot() slot         { return slotExtension }

// CTStates is a set of connection states.
type CTStates uint8

// The connection states.
const (
	CTNew CTStates = 1 << iota
	CTEstablished
	CTRelated
	CTInvalid
	CTDNAT // the destination of the connection was rewritten
)

// CTState matches packets whose connection is in any of States, or in none of
// them if Not.
type CTState struct {
	States CTStates
	Not    bool
}

func (m CTState) appendArgs(b []byte) []byte {
	b = append(appendNot(append(b, "-m conntrack "...), m.Not), "--ctstate "...)
	for _, s := range [...]struct {
		states CTStates
		name   string
	}{{CTInvalid, "INVALID"}, {CTNew, "NEW"}, {CTRelated, "RELATED"}, {CTEstablished, "ESTABLISHED"}, {CTDNAT, "DNAT"}} { // as the tools print them
		if m.States&s.states != 0 {
			b = append(append(b, s.name...), ',')
		}
	}
	return b[:len(b)-1]
}

func (m CTState) matches(p *Packet) bool { return (m.States&p.State != 0) != m.Not }

func (m CTState) check(Family) error {
	if m.States == 0 || m.States >= CTDNAT<<1 {
		return fmt.Errorf("connection states %#x", m.States)
	}
	return nil
}

func (CTState) slot() slot { return slotExtension }

// CTReply matches packets that answer: the other end began the connection, as far as
// connection tracking knows.
type CTReply struct{}

func (CTReply) appendArgs(b []byte) []byte { return append(b, "-m conntrack --ctdir REPLY"...) }
func (CTReply) matches(p *Packet) bool     { return p.Reply }
func (CTReply) check(Family) error         { return nil }
func (CTReply) slot() slot                 { return slotExtension }

// AddrType is a kind of address to the routing table.
type AddrType uint8

// Local is an address of this node. It is the zero AddrType, and so far the
// only one.
const Local AddrType = 0

// SrcType matches packets whose source address is of the type, or is not.
type SrcType struct {
	Type AddrType
	Not  bool
}

func (m SrcType) appendArgs(b []byte) []byte {
	return append(appendNot(append(b, "-m addrtype "...), m.Not), "--src-type LOCAL"...)
}

func (m SrcType) matches(p *Packet) bool { return p.local(p.Src.Addr()) != m.Not }
func (m SrcType) check(Family) error     { return m.Type.check() }
func (SrcType) slot() slot               { return slotExtension }

// DstType matches packets whose destination address is of the type, or is not.
type DstType struct {
	Type AddrType
	Not  bool
}

func (m DstType) appendArgs(b []byte) []byte {
	return append(appendNot(append(b, "-m addrtype "...), m.Not), "--dst-type LOCAL"...)
}

func (m DstType) matches(p *Packet) bool { return p.local(p.Dst.Addr()) != m.Not }
func (m DstType) check(Family) error     { return m.Type.check() }
func (DstType) slot() slot               { return slotExtension }

func (t AddrType) check() error {
	if t != Local {
		return fmt.Errorf("address type %d", t)
	}
	return nil
}

// MarkIs matches packets whose mark, under Mask, is Value, or is not. A zero
// Mask stands for all bits.
type MarkIs struct {
	Value, Mask uint32
	Not         bool
}

func (m MarkIs) mask() uint32 {
	if m.Mask == 0 {
		return math.MaxUint32
	}
	return m.Mask
}

func (m MarkIs) appendArgs(b []byte) []byte {
	b = append(appendNot(append(b, "-m mark "...), m.Not), "--mark "...)
	b = appendHex(b, m.Value)
	if m.mask() == math.MaxUint32 {
		return b
	}
	return appendHex(append(b, '/'), m.Mask)
}

func (m MarkIs) matches(p *Packet) bool { return (p.Mark&m.mask() == m.Value) != m.Not }

func (m MarkIs) check(Family) error {
	if m.Value&^m.mask() != 0 {
		return fmt.Errorf("mark %#x can never be under mask %#x", m.Value, m.Mask)
	}
	return nil
}

func (MarkIs) slot() slot { return slotExtension }

func appendHex(b []byte, v uint32) []byte {
	return strconv.AppendUint(append(b, "0x"...), uint64(v), 16)
}

// Random matches with probability P, which is above 0 and at most 1. The
// kernel keeps 31 bits of it.
type Random struct{ P float64 }

func (m Random) appendArgs(b []byte) []byte {
	b = append(b, "-m statistic --mode random --probability "...)
	return strconv.AppendFloat(b, m.P, 'f', 10, 64)
}

// matches only says what can happen; the evaluator follows both branches.
func (m Random) matches(*Packet) bool { return m.P > 0 }

func (m Random) check(Family) error {
	if !(m.P > 0 && m.P <= 1) {
		return fmt.Errorf("probability %v", m.P)
	}
	return nil
}

func (Random) slot() slot { return slotExtension }

// RecentCheck matches packets whose source was put in the list Name by
// [RecentSet] no longer than Seconds ago. It drops older entries from the list
// while it is there, and with Refresh notes that the source was seen again.
type RecentCheck struct {
	Name    string
	Seconds int
	Refresh bool
}

func (m RecentCheck) appendArgs(b []byte) []byte {
	if m.Refresh {
		b = append(b, "-m recent --update --seconds "...)
	} else {
		b = append(b, "-m recent --rcheck --seconds "...)
	}
	b = strconv.AppendInt(b, int64(m.Seconds), 10)
	b = append(b, " --reap --name "...)
	b = append(b, m.Name...)
	return append(b, " --rsource"...)
}

func (m RecentCheck) matches(p *Packet) bool { return p.Recent != nil && p.Recent(m.Name, m.Seconds) }

func (m RecentCheck) check(Family) error {
	if m.Seconds <= 0 || m.Seconds > math.MaxInt32 {
		return fmt.Errorf("recent list %q: %d seconds", m.Name, m.Seconds)
	}
	return checkRecent(m.Name)
}

func (RecentCheck) slot() slot { return slotExtension }

// RecentSet puts the packet's source in the list Name. It always matches.
type RecentSet struct{ Name string }

func (m RecentSet) appendArgs(b []byte) []byte {
	return append(append(append(b, "-m recent --set --name "...), m.Name...), " --rsource"...)
}

func (RecentSet) matches(*Packet) bool { return true }
func (m RecentSet) check(Family) error { return checkRecent(m.Name) }
func (RecentSet) slot() slot           { return slotExtension }

// checkRecent knows that the list becomes a file in /proc/net/xt_recent: the
// kernel refuses a slash, and names of 200 bytes.
func checkRecent(name string) error {
	if len(name) >= 200 || !isWord(name) || name[0] == '-' || name[0] == '!' || name == "." || name == ".." {
		return fmt.Errorf("recent list name %q", name)
	}
	return nil
}
