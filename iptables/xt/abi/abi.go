// Package abi is rules as the kernel takes them: header fields, and a block of
// bytes with a name and a revision for each match and target, as iptables 1.8.9
// makes them. Both variants of iptables use the same blocks: the legacy one in its
// table of entries, the nft one in compat expressions (for what it has no
// expressions of its own).
//
// The layouts are those of linux/netfilter/xt_*.h on a machine of 64 bits, in the
// byte order of the machine. Which revision is used is what the tool decides when
// the kernel has them all. Nothing here talks to the kernel.
package abi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// ErrNotEncodable is why a rule has to be left to the tools.
var ErrNotEncodable = errors.New("not encodable")

// Align is what the size of every block is a multiple of (XT_ALIGN).
const Align = 8

// An Info is one match or target.
type Info struct {
	Name string
	Rev  uint8
	Data []byte // of a length that is a multiple of Align, zero where nothing is said
}

// An Addr is what the source or destination address of a packet is compared with.
// The zero Addr is any address.
type Addr struct {
	Prefix netip.Prefix // masked
	Not    bool
}

// An Iface is what the name of an interface is compared with. The zero Iface is any.
type Iface struct {
	Name string // without the "+" at its end that Any stands for
	Any  bool   // any name that begins with Name
	Not  bool
}

// Verdict says what the kernel does with a packet without a target.
type Verdict uint8

// The verdicts.
const (
	Continue Verdict = iota // with the next rule; the rule has no target
	Accept
	Drop
	Return
	Jump // to Chain
	Goto // Chain
	Call // Target
)

// A Rule is a rule as the kernel takes it.
type Rule struct {
	Src, Dst Addr
	In, Out  Iface
	Proto    uint8  // zero for any
	Matches  []Info // in the order of iptables-save; the comment is the last

	Verdict Verdict
	Chain   string // of Jump and Goto
	Target  Info   // of Call
}

// Sets finds the index that the kernel has given to the ipset of a name. Nil means that
// rules with sets are not encodable.
type Sets func(name string) (index uint16, err error)

// Encode returns r for the family f. r has to be one that [xt.Ruleset.Check]
// passes. The error wraps [ErrNotEncodable] if this package does not know how, and
// that of sets if that fails.
func Encode(f xt.Family, r *xt.Rule, sets Sets) (Rule, error) {
	var out Rule
	out.Proto = uint8(r.Protocol())
	for _, m := range r.Match {
		if out.header(m) {
			continue
		}
		info, err := EncodeMatch(f, m, sets)
		if err != nil {
			return Rule{}, err
		}
		out.Matches = append(out.Matches, info)
	}
	if r.Comment != "" {
		out.Matches = append(out.Matches, Comment(r))
	}
	var err error
	out.Verdict, out.Chain, out.Target, err = EncodeTarget(f, r.Target)
	return out, err
}

// header takes m if it is about a field of the header.
func (r *Rule) header(m xt.Match) bool {
	switch m := m.(type) {
	case xt.Source:
		r.Src = addr(m.Prefix, m.Not)
	case xt.Dest:
		r.Dst = addr(m.Prefix, m.Not)
	case xt.InIface:
		r.In = iface(m.Name, m.Not)
	case xt.OutIface:
		r.Out = iface(m.Name, m.Not)
	case xt.Proto:
	default:
		return false
	}
	return true
}

func addr(p netip.Prefix, not bool) Addr {
	if p.Bits() == 0 && !not {
		return Addr{}
	}
	return Addr{p.Masked(), not}
}

func iface(name string, not bool) Iface {
	if n := len(name) - 1; n >= 0 && name[n] == '+' {
		return Iface{name[:n], true, not}
	}
	return Iface{name, false, not}
}

// Comment returns the match that holds the comment of r.
func Comment(r *xt.Rule) Info {
	const size = 256 // XT_MAX_COMMENT_LEN
	b := make([]byte, 0, size)
	return Info{"comment", 0, r.AppendComment(b)[:size]}
}

// A block is a structure of the kernel that is being filled.
type block []byte

// newBlock returns a structure of size bytes, aligned.
func newBlock(size int) block { return make(block, (size+Align-1)&^(Align-1)) }

func (b block) u16(at int, v uint16)      { binary.NativeEndian.PutUint16(b[at:], v) }
func (b block) u32(at int, v uint32)      { binary.NativeEndian.PutUint32(b[at:], v) }
func (b block) be16(at int, v uint16)     { binary.BigEndian.PutUint16(b[at:], v) }
func (b block) addr(at int, a netip.Addr) { copy(b[at:], a.AsSlice()) }

// known refuses what is laid out in another way here.
func known() error {
	if strconv.IntSize != 64 {
		return fmt.Errorf("%w: only for machines of 64 bits", ErrNotEncodable)
	}
	return nil
}
