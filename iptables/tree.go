package iptables

import (
	"cmp"
	"encoding/hex"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// leafSize is how many rules a node of a tree may hold before it is split into
// sixteen. It bounds what one packet walks, and what one change rewrites.
const leafSize = 16

// maxLevels bounds the way through a tree, which hardly any addresses reach. nf_tables
// refuses a ruleset in which a packet could be nested in more than 16 chains
// (NFT_JUMP_STACK_SIZE), gotos included, and seven others are around the tree.
// Without the bound a few dozen hostile addresses, each one digit longer alike,
// would make the whole ruleset unacceptable. A chain on the last level is a list,
// however long.
const maxLevels = 8

// An entry is a leaf rule of a tree: what to do with packets to one address and
// port.
type entry struct {
	key      string     // hex digits, most significant first; see addrKey and portKey
	addr     netip.Addr // invalid for a node port: any address
	protocol service.Protocol
	port     uint16
	rest     bool // every protocol and port of addr that no entry before it took
	source   bool // packets from addr to addr, rather than to it
	target   xt.Target
	comment  string
}

func (e *entry) rule() xt.Rule {
	m := make([]xt.Match, 0, 2)
	if e.addr.IsValid() {
		self := netip.PrefixFrom(e.addr, e.addr.BitLen())
		if e.source {
			m = append(m, xt.Source{Prefix: self})
		}
		m = append(m, xt.Dest{Prefix: self})
	}
	if !e.rest {
		m = append(m, xt.DPort{Protocol: protocol(e.protocol), Port: e.port})
	}
	return xt.Rule{Match: m, Target: e.target, Comment: e.comment}
}

// order puts the entries of one key in order, the rest last.
func (e *entry) order() int {
	if e.rest {
		return 1 << 24
	}
	return int(e.protocol)<<16 | int(e.port)
}

func (e *entry) compare(o *entry) int {
	return cmp.Or(strings.Compare(e.key, o.key), cmp.Compare(e.order(), o.order()), strings.Compare(e.comment, o.comment))
}

func addrKey(a netip.Addr) string { return hex.EncodeToString(a.AsSlice()) }

// portKey has a digit for the protocol and four for the port.
func portKey(p service.Protocol, port uint16) string {
	return hex.EncodeToString([]byte{byte(p), byte(port >> 8), byte(port)})[1:]
}

// A tree dispatches on an address, or a node port, in a number of rules that
// hardly grows with the number of entries: each chain holds at most sixteen
// rules, for the sixteen values of the next four bits, and chains of nothing but
// one way on are left out. Chains are named by the prefix they stand for, so the
// set of chains follows from the set of entries and nothing else.
//
// Every jump but the one to the root is a goto: a packet that fits nowhere
// returns to where the root was called from.
type tree struct {
	space   space
	entries []*entry // sorted
}

// A space says how prefixes of keys look as names and matches.
type space struct {
	prefix string // of chain names
	match  func(key string) []xt.Match
}

func addrSpace(f xt.Family, prefix string) space {
	return space{prefix: prefix, match: func(key string) []xt.Match {
		if key == "" {
			return nil
		}
		return []xt.Match{xt.Dest{Prefix: keyPrefix(key, f)}}
	}}
}

// keyPrefix turns the leading digits of an address key into a prefix.
func keyPrefix(key string, f xt.Family) netip.Prefix {
	size := 4
	if f == xt.IPv6 {
		size = 16
	}
	raw, err := hex.DecodeString(key + strings.Repeat("0", 2*size-len(key)))
	if err != nil {
		panic("iptables: tree key is not hexadecimal: " + key)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, 4*len(key))
}

func portSpace() space {
	return space{prefix: prefixPortTree, match: func(key string) []xt.Match {
		if key == "" {
			return nil
		}
		proto := protocol(service.Protocol(key[0] - '0'))
		if len(key) == 1 {
			return []xt.Match{xt.Proto{Protocol: proto}}
		}
		digits := key[1:] + "0000"
		raw, err := hex.DecodeString(digits[:4])
		if err != nil {
			panic("iptables: tree key is not hexadecimal: " + key)
		}
		low := uint16(raw[0])<<8 | uint16(raw[1])
		high := low | uint16(1<<(4*(5-len(key)))-1)
		return []xt.Match{xt.DPortRange{Protocol: proto, Low: low, High: high}}
	}}
}

// name returns the chain for a prefix; long ones are hashed to fit.
func (s space) name(key string) string {
	if key == "" {
		return s.prefix + "root"
	}
	if len(s.prefix)+len(key) <= 28 {
		return s.prefix + key
	}
	return hashed(s.prefix, key)
}

// root returns the rules that enter the tree, none if it is empty. The jump
// returns if the packet fits no entry.
func (t *tree) root() []xt.Rule {
	if len(t.entries) == 0 {
		return nil
	}
	key := common(t.entries)
	return []xt.Rule{{Match: t.space.match(key), Target: xt.Jump{Chain: t.space.name(key)}}}
}

// common returns the longest prefix of the keys of a sorted, non-empty list.
func common(list []*entry) string {
	a, b := list[0].key, list[len(list)-1].key
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return a[:i]
}

// branches splits a list at the digit behind its common prefix. A leaf has none.
// The root is on level 1.
func branches(list []*entry, level int) [][]*entry {
	if isLeaf(list, level) {
		return nil
	}
	at := len(common(list))
	var out [][]*entry
	for len(list) > 0 {
		n := within(list, at)
		out = append(out, list[:n])
		list = list[n:]
	}
	return out
}

// isLeaf reports whether the chain for a list is not split.
func isLeaf(list []*entry, level int) bool {
	return len(list) <= leafSize || level == maxLevels || len(common(list)) == len(list[0].key)
}

// within returns how many entries of a list have the first one's digit at a place, up to
// which all are alike.
func within(list []*entry, at int) int {
	digit := list[0].key[at]
	return sort.Search(len(list), func(i int) bool { return list[i].key[at] > digit })
}

// holder returns the list of the chain that has the rule of e, an entry of t, and its
// level.
func (t *tree) holder(e *entry) (list []*entry, level int) {
	list, level = t.entries, 1
	for !isLeaf(list, level) {
		at := len(common(list))
		part := list[sort.Search(len(list), func(i int) bool { return list[i].key[at] >= e.key[at] }):]
		part = part[:within(part, at)]
		if len(part) == 1 {
			break
		}
		list, level = part, level+1
	}
	return list, level
}

// retargeted adds to write the chains that have the rules of some entries of t.
func (t *tree) retargeted(entries []*entry, write map[string][]xt.Rule) {
	for _, e := range entries {
		list, level := t.holder(e)
		if name := t.space.name(common(list)); write[name] == nil {
			write[name] = t.rules(list, level)
		}
	}
}

// rules returns the rules of the chain for a list.
func (t *tree) rules(list []*entry, level int) []xt.Rule {
	var out []xt.Rule
	parts := branches(list, level)
	if parts == nil {
		for i, e := range list {
			if i > 0 && e.rest && list[i-1].rest && e.key == list[i-1].key {
				continue // one for each port of a Service, or each pool of an endpoint
			}
			out = append(out, e.rule())
		}
		return out
	}
	for _, part := range parts {
		if len(part) == 1 {
			out = append(out, part[0].rule())
			continue
		}
		key := common(part)
		out = append(out, xt.Rule{Match: t.space.match(key), Target: xt.Goto{Chain: t.space.name(key)}})
	}
	return out
}

// span returns the entries whose key begins with prefix.
func (t *tree) span(prefix string) []*entry {
	lo := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].key >= prefix })
	hi := lo + sort.Search(len(t.entries)-lo, func(i int) bool {
		return !strings.HasPrefix(t.entries[lo+i].key, prefix)
	})
	return t.entries[lo:hi]
}

// has reports whether t has a chain for prefix: it is the root, or a branch of
// more than one entry of a chain that is split.
func (t *tree) has(prefix string) bool {
	list := t.span(prefix)
	if len(list) == 0 || common(list) != prefix {
		return false
	}
	if len(list) == len(t.entries) {
		return true
	}
	if len(list) == 1 {
		return false
	}
	level, parent, seen := 1, 0, len(list)
	for cut := len(prefix) - 1; cut >= 0; cut-- {
		up := len(t.span(prefix[:cut]))
		if up == seen {
			continue
		}
		if level == 1 {
			parent = up
		}
		level, seen = level+1, up
	}
	return parent > leafSize && level <= maxLevels
}

// update returns the tree without gone and with added, what chains to write to
// get there and what chains to delete then. The receiver is not changed.
func (t *tree) update(gone, added []*entry) (next *tree, write map[string][]xt.Rule, remove []string) {
	next = &tree{space: t.space, entries: merged(t.entries, gone, added)}
	touched := make([]string, 0, len(gone)+len(added))
	for _, e := range gone {
		touched = append(touched, e.key)
	}
	for _, e := range added {
		touched = append(touched, e.key)
	}
	slices.Sort(touched)
	write = make(map[string][]xt.Rule)
	next.walk(t, touched, func(key string, list []*entry, level int) {
		write[t.space.name(key)] = next.rules(list, level)
	})
	t.walk(next, touched, func(key string, _ []*entry, _ int) {
		if !next.has(key) {
			remove = append(remove, t.space.name(key))
		}
	})
	return next, write, remove
}

// merged returns sorted without gone and with added, as a new list. It looks at no
// other entries than those nearby.
func merged(sorted, gone, added []*entry) []*entry {
	slices.SortFunc(added, (*entry).compare)
	leaving := slices.SortedFunc(slices.Values(gone), (*entry).compare)
	out := make([]*entry, 0, len(sorted)+len(added)-len(gone))
	for len(leaving)+len(added) > 0 {
		if len(leaving) == 0 || len(added) > 0 && added[0].compare(leaving[0]) < 0 {
			n := sort.Search(len(sorted), func(i int) bool { return sorted[i].compare(added[0]) > 0 })
			out = append(append(out, sorted[:n]...), added[0])
			sorted, added = sorted[n:], added[1:]
			continue
		}
		// Several may be alike; those that leave are told by their pointers.
		alike := 1
		for alike < len(leaving) && leaving[alike].compare(leaving[0]) == 0 {
			alike++
		}
		n := sort.Search(len(sorted), func(i int) bool { return sorted[i].compare(leaving[0]) >= 0 })
		out, sorted = append(out, sorted[:n]...), sorted[n:]
		for len(sorted) > 0 && sorted[0].compare(leaving[0]) == 0 {
			if !slices.Contains(leaving[:alike], sorted[0]) {
				out = append(out, sorted[0])
			}
			sorted = sorted[1:]
		}
		leaving = leaving[alike:]
	}
	return append(out, sorted...)
}

// walk visits the chains of t that can differ from those of other: the ones on
// the way to a touched key, and the ones that other does not have.
func (t *tree) walk(other *tree, touched []string, visit func(key string, list []*entry, level int)) {
	var down func(list []*entry, level int)
	down = func(list []*entry, level int) {
		visit(common(list), list, level)
		for _, part := range branches(list, level) {
			if key := common(part); len(part) > 1 && (touches(touched, key) || !other.has(key)) {
				down(part, level+1)
			}
		}
	}
	if len(t.entries) > 0 {
		down(t.entries, 1)
	}
}

// touches reports whether one of the sorted keys begins with prefix.
func touches(keys []string, prefix string) bool {
	i := sort.SearchStrings(keys, prefix)
	return i < len(keys) && strings.HasPrefix(keys[i], prefix)
}
