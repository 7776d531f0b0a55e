package ipvs

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A phase is a step of a transaction. What attracts packets comes last, and what
// goes is gone from there first: at every moment a packet meets either what was
// or what is to be, and a process that is killed in between has lost nothing.
type phase uint8

// The phases, in order.
const (
	phaseCallers    phase = iota // who may come, before it is said that only they may
	phaseAttributes              // ownership, who is masqueraded, refusals
	phaseNames                   // sets of addresses, which say that they are ours
	phaseAddresses               // addresses and their routes
	phaseAliases                 // virtual servers of aliases
	phaseShort                   // callers on this node may be sent to aliases
	phaseServers                 // virtual servers and new destinations
	phasePublish                 // packets are routed to the node
	phaseWithdraw                // packets are not routed to the node any more
	phaseUnset                   // other elements that are not wanted any more
	phaseDrain                   // destinations that take no more connections
	phaseDelete                  // virtual servers
	phaseRelease                 // addresses, routes, ownership of servers
	phaseDisown                  // ownership of addresses
	numPhases
)

// An actual is what the kernel has for a key.
type actual struct {
	serves  bool
	server  kernel.Server
	dests   dests
	in      member
	sources []netip.Prefix // in the set of allowed callers
}

func (a *actual) empty() bool { return !a.serves && a.in == 0 && len(a.sources) == 0 }

// A target is what the kernel should have for a key: what its unit says, and
// what still drains there.
type target struct {
	serves  bool
	server  kernel.Server
	pool    service.Pool
	leaving map[netip.AddrPort]*leaving
	in      member
	sources []netip.Prefix
	alias   bool
}

// A batch gathers the ops of one transaction. Its memory is used again by the next.
type batch struct {
	node     string // its name, which decides the order of new destinations
	declares bool   // what is in inVIP is declared first, see Dataplane.declares
	phases   [numPhases][]kernel.Op

	added, changed, removed int

	all   []kernel.Op // of before
	fresh []dest      // of dests
	text  []byte      // of order
	ranks []ranked    // of order
}

// reset empties b. What one batch of unusual size has needed is not kept.
func (b *batch) reset() {
	const keep = 16 * portionKeys
	if cap(b.all) > keep {
		*b = batch{}
	}
	b.added, b.changed, b.removed = 0, 0, 0
	for i := range b.phases {
		clear(b.phases[i])
		b.phases[i] = b.phases[i][:0]
	}
	clear(b.all)
}

// before returns the ops of all phases before p, until the next call.
func (b *batch) before(p phase) []kernel.Op {
	b.all = b.all[:0]
	for _, ops := range b.phases[:p] {
		b.all = append(b.all, ops...)
	}
	return b.all
}

func (b *batch) add(p phase, op kernel.Op) {
	b.phases[p] = append(b.phases[p], op)
	b.added++
}

func (b *batch) change(p phase, op kernel.Op) {
	b.phases[p] = append(b.phases[p], op)
	b.changed++
}

func (b *batch) remove(p phase, op kernel.Op) {
	b.phases[p] = append(b.phases[p], op)
	b.removed++
}

// unit adds what turns have into t, and returns what the kernel has then.
func (b *batch) unit(key kernel.ServerKey, have *actual, t target) *actual {
	if have == nil {
		have = &actual{}
	}
	b.members(key, have, t)
	out := &actual{serves: t.serves, server: t.server, in: t.in, sources: t.sources}
	switch {
	case t.serves && !have.serves:
		p := phaseServers
		if t.alias {
			p = phaseAliases
		}
		b.add(p, kernel.NewServer{Key: key, Server: t.server})
		out.dests = b.dests(key, p, dests{}, t)
	case t.serves:
		if have.server != t.server {
			b.change(phaseServers, kernel.SetServer{Key: key, Server: t.server})
		}
		out.dests = b.dests(key, phaseServers, have.dests, t)
	case have.serves:
		b.remove(phaseDelete, kernel.DelServer{Key: key})
	}
	if out.empty() {
		return nil
	}
	return out
}

// members adds and removes elements of sets.
func (b *batch) members(key kernel.ServerKey, have *actual, t target) {
	f := service.FamilyOf(key.Addr.Addr())
	for i := range numMembers {
		bit := member(1) << i
		if (have.in^t.in)&bit == 0 {
			continue
		}
		set := memberSet(f, i)
		if t.in&bit != 0 {
			p := phaseAttributes
			switch bit {
			case inShort:
				p = phaseShort
			case inVIP:
				p = phasePublish
				if b.declares {
					p = phaseAttributes
				}
			}
			b.add(p, kernel.AddElem{Set: set, Type: kernel.HashIPPort, Elem: element(key)})
			continue
		}
		p := phaseUnset
		switch bit {
		case inVIP:
			p = phaseWithdraw
		case inOwn:
			p = phaseRelease
		}
		b.remove(p, kernel.DelElem{Set: set, Type: kernel.HashIPPort, Elem: element(key)})
	}
	b.sources(key, have.sources, t.sources)
}

// sources changes who may call. The new come before the set says that only they
// may, the old go after.
func (b *batch) sources(key kernel.ServerKey, have, want []netip.Prefix) {
	if slices.Equal(have, want) {
		return
	}
	set := setName(service.FamilyOf(key.Addr.Addr()), allowedSet)
	e := element(key)
	for _, p := range want {
		if !slices.Contains(have, p) {
			e.Net = p
			b.add(phaseCallers, kernel.AddElem{Set: set, Type: kernel.HashIPPortNet, Elem: e})
		}
	}
	for _, p := range have {
		if !slices.Contains(want, p) {
			e.Net = p
			b.remove(phaseRelease, kernel.DelElem{Set: set, Type: kernel.HashIPPortNet, Elem: e})
		}
	}
}

// dests changes destinations, and returns those the kernel has then.
func (b *batch) dests(key kernel.ServerKey, p phase, have dests, t target) dests {
	if have.are(t.pool) {
		return dests{pool: t.pool}
	}
	fresh := b.fresh[:0]
	var stay []dest // what leaves, and is still there
	i := 0
	for _, ep := range t.pool {
		for ; i < have.len() && have.at(i).addr.Compare(ep.Addr) < 0; i++ {
			stay = b.leave(key, have.at(i), t, stay)
		}
		d := destOf(ep)
		if i < have.len() && have.at(i).addr == ep.Addr {
			if have.at(i).weight != d.weight {
				b.change(p, kernel.SetDest{Key: key, Addr: d.addr, Weight: d.weight})
			}
			i++
		} else {
			fresh = append(fresh, d)
		}
	}
	for ; i < have.len(); i++ {
		stay = b.leave(key, have.at(i), t, stay)
	}
	b.order(key, t.server.Scheduler, fresh)
	for _, d := range fresh {
		b.add(p, kernel.NewDest{Key: key, Addr: d.addr, Weight: d.weight})
	}
	b.fresh = fresh
	return merged(t.pool, stay)
}

// merged returns the destinations of a pool, and more, which are sorted too.
func merged(p service.Pool, more []dest) dests {
	if len(more) == 0 {
		return dests{pool: p}
	}
	out := make([]dest, 0, len(p)+len(more))
	for _, ep := range p {
		out = append(out, destOf(ep))
	}
	out = append(out, more...)
	slices.SortFunc(out, func(a, b dest) int { return a.addr.Compare(b.addr) })
	return dests{list: out}
}

// leave has a destination that is not wanted any more drain, if it is leaving in
// peace, or go.
func (b *batch) leave(key kernel.ServerKey, d dest, t target, stay []dest) []dest {
	if t.leaving[d.addr] == nil {
		b.remove(phaseDrain, kernel.DelDest{Key: key, Addr: d.addr})
		return stay
	}
	if d.weight != 0 {
		b.change(phaseDrain, kernel.SetDest{Key: key, Addr: d.addr})
	}
	return append(stay, dest{addr: d.addr})
}

// order sorts new destinations as they are to be added. The kernel's round robin
// starts at the last one added, so that with one order everywhere all nodes would
// send their first connections to one endpoint: the order is another on each node.
// Schedulers that hash depend on the order; they get one and the same, so that
// nodes agree.
func (b *batch) order(key kernel.ServerKey, scheduler string, fresh []dest) {
	switch scheduler {
	case "dh", "sh", "mh", "lblc", "lblcr":
		return
	}
	if len(fresh) < 2 {
		return
	}
	text := append(b.text[:0], b.node...)
	text = append(key.Addr.AppendTo(append(text, ' ')), byte(key.Protocol))
	seed := len(text)
	b.ranks = b.ranks[:0]
	for _, d := range fresh {
		text = d.addr.AppendTo(text[:seed])
		b.ranks = append(b.ranks, ranked{mix(fnv1a(text)), d})
	}
	b.text = text
	slices.SortFunc(b.ranks, func(x, y ranked) int { return cmp.Compare(x.rank, y.rank) })
	for i, r := range b.ranks {
		fresh[i] = r.dest
	}
}

// A ranked destination has a place in an order.
type ranked struct {
	rank uint64
	dest dest
}

// fnv1a is the hash of that name, of 64 bits (RFC 9923).
func fnv1a(text []byte) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range text {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h
}

// mix spreads the bits of a hash (the finalizer of MurmurHash3, in the public
// domain): FNV alone leaves the order of addresses that differ in their end.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// uses changes what an address is used for.
func (b *batch) uses(a netip.Addr, mode VIPMode, have, want use) {
	f := service.FamilyOf(a)
	for i, name := range useNames() {
		bit := use(1) << i
		switch set := setName(f, name); {
		case want&^have&bit != 0:
			b.add(phaseNames, kernel.AddElem{Set: set, Type: kernel.HashIP, Elem: kernel.Element{Addr: a}})
		case have&^want&bit != 0:
			b.remove(phaseDisown, kernel.DelElem{Set: set, Type: kernel.HashIP, Elem: kernel.Element{Addr: a}})
		}
	}
	route := netip.PrefixFrom(a, a.BitLen())
	switch { // first: what was an address of the node as a whole is not, behind it
	case want&^have&useRoute != 0:
		b.add(phaseAddresses, kernel.AddRoute{Table: routeTable, To: route})
	case have&^want&useRoute != 0:
		b.remove(phaseRelease, kernel.DelRoute{Table: routeTable, To: route})
	}
	switch {
	case want&^have&useDevice != 0:
		b.add(phaseAddresses, kernel.AddAddr{Device: deviceName, Addr: a, Routed: mode == Routed})
	case have&^want&useDevice != 0:
		b.remove(phaseRelease, kernel.DelAddr{Device: deviceName, Addr: a})
	}
}

// healthPorts changes the health-check node ports of a family.
func (b *batch) healthPorts(f service.Family, have, want []uint16) {
	set := setName(f, healthSet)
	for _, p := range want {
		if !slices.Contains(have, p) {
			b.add(phaseAttributes, kernel.AddElem{Set: set, Type: kernel.BitmapPort, Elem: kernel.Element{Port: p}})
		}
	}
	for _, p := range have {
		if !slices.Contains(want, p) {
			b.remove(phaseUnset, kernel.DelElem{Set: set, Type: kernel.BitmapPort, Elem: kernel.Element{Port: p}})
		}
	}
}
