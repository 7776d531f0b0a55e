package ipvs

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A State is what the kernel must have for a Snapshot. It can follow the
// Snapshot from one to the next at a cost of what has changed.
type State struct {
	planner *planner

	ports  map[*service.Port][]*unit
	units  map[kernel.ServerKey]*unit
	rivals map[kernel.ServerKey][]*unit // want a key that another unit has
	uses   map[netip.Addr]useCount
	health [service.NumFamilies][]uint16 // sorted

	why map[service.PortID][]string // what is not served as told
}

// A useCount says how many units need an address for each use.
type useCount [numUses]int32

func (c *useCount) use() use {
	var u use
	for i, n := range c {
		if n > 0 {
			u |= 1 << i
		}
	}
	return u
}

// Plan returns what puts snap in force, and what of snap cannot be. It is pure:
// equal Snapshots give equal States.
func Plan(snap *service.Snapshot, cfg Config) (*State, []service.Deviation) {
	st := newState(cfg, &snap.Node)
	st.advance(nil, snap, nil)
	return st, st.deviations()
}

func newState(cfg Config, node *service.Node) *State {
	return &State{
		planner: newPlanner(cfg, node),
		ports:   make(map[*service.Port][]*unit),
		units:   make(map[kernel.ServerKey]*unit),
		rivals:  make(map[kernel.ServerKey][]*unit),
		uses:    make(map[netip.Addr]useCount),
		why:     make(map[service.PortID][]string),
	}
}

// A touched is what a step may have changed.
type touched struct {
	keys  map[kernel.ServerKey]struct{}
	addrs map[netip.Addr]struct{}

	before func(kernel.ServerKey) // is told of a key before it changes; may be nil
}

func newTouched() *touched {
	return &touched{keys: make(map[kernel.ServerKey]struct{}), addrs: make(map[netip.Addr]struct{})}
}

func (t *touched) key(k kernel.ServerKey) {
	if t == nil {
		return
	}
	if t.before != nil {
		t.before(k)
	}
	t.keys[k] = struct{}{}
}

func (t *touched) addr(a netip.Addr) {
	if t != nil {
		t.addrs[a] = struct{}{}
	}
}

// advance takes st from prev, which it is the State of, to next. Nil is nothing.
// What may have changed is added to t, which may be nil.
func (st *State) advance(prev, next *service.Snapshot, t *touched) {
	for old, now := range next.Changed(prev) {
		if old != nil {
			for _, u := range st.ports[old] {
				st.remove(u, t)
			}
			delete(st.ports, old)
			delete(st.why, old.ID)
		}
		if now != nil {
			st.add(now, t)
		}
	}
	for f := range st.health {
		st.health[f] = st.health[f][:0:0]
	}
	for _, h := range next.Health {
		if st.planner.cfg.serves(h.Family) {
			st.health[h.Family] = append(st.health[h.Family], h.Port)
		}
	}
	for f := range st.health {
		slices.Sort(st.health[f])
		st.health[f] = slices.Compact(st.health[f])
	}
}

func (st *State) add(p *service.Port, t *touched) {
	units, why := st.planner.port(p)
	if len(units) > 0 {
		st.ports[p] = units
	}
	if len(why) > 0 {
		st.why[p.ID] = why
	}
	for _, u := range units {
		st.use(u.key.Addr.Addr(), u.use, 1, t)
		t.key(u.key)
		winner := st.units[u.key]
		switch {
		case winner == nil:
			st.units[u.key] = u
		case u.before(winner):
			st.units[u.key] = u
			st.rivals[u.key] = append(st.rivals[u.key], winner)
		default:
			st.rivals[u.key] = append(st.rivals[u.key], u)
		}
	}
}

func (st *State) remove(u *unit, t *touched) {
	t.key(u.key)
	st.use(u.key.Addr.Addr(), u.use, -1, t)
	rivals := st.rivals[u.key]
	if st.units[u.key] != u {
		st.setRivals(u.key, slices.DeleteFunc(rivals, func(r *unit) bool { return r == u }))
		return
	}
	if len(rivals) == 0 {
		delete(st.units, u.key)
		return
	}
	next := slices.MinFunc(rivals, func(a, b *unit) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	st.units[u.key] = next
	st.setRivals(u.key, slices.DeleteFunc(rivals, func(r *unit) bool { return r == next }))
}

func (st *State) setRivals(key kernel.ServerKey, rivals []*unit) {
	if len(rivals) == 0 {
		delete(st.rivals, key)
	} else {
		st.rivals[key] = rivals
	}
}

// use counts n more units that need an address for u.
func (st *State) use(a netip.Addr, u use, n int32, t *touched) {
	if u == 0 {
		return
	}
	t.addr(a)
	c := st.uses[a]
	for i := range c {
		if u&(1<<i) != 0 {
			c[i] += n
		}
	}
	if c == (useCount{}) {
		delete(st.uses, a)
	} else {
		st.uses[a] = c
	}
}

func (st *State) usesOf(a netip.Addr) use {
	c := st.uses[a]
	return c.use()
}

// deviations lists what is not served as told, by Port.
func (st *State) deviations() []service.Deviation {
	var out []service.Deviation
	add := func(id service.PortID, why string) {
		out = append(out, service.Deviation{Port: id, Reason: why})
	}
	for id, reasons := range st.why {
		for _, why := range reasons {
			add(id, why)
		}
	}
	for key, rivals := range st.rivals {
		for _, u := range rivals {
			if u.alias {
				add(u.port.ID, "the alias "+key.String()+" is taken; callers on this node are served like those from outside")
			}
		}
	}
	slices.SortFunc(out, func(a, b service.Deviation) int {
		return cmp.Or(a.Port.Compare(b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(out)
}

// Owner says whose virtual server is at key.
type Owner struct {
	Port  service.PortID
	Kind  service.Kind
	Alias bool
}

// Owner returns whose virtual server, or address and port without one, is at
// key, and false if it is nobody's.
func (st *State) Owner(key kernel.ServerKey) (Owner, bool) {
	u := st.units[key]
	if u == nil {
		return Owner{}, false
	}
	return Owner{Port: u.port.ID, Kind: u.kind, Alias: u.alias}, true
}

// keys returns the keys of all units, sorted.
func (st *State) keys() []kernel.ServerKey {
	return slices.SortedFunc(maps.Keys(st.units), kernel.ServerKey.Compare)
}

// Rules returns the rules beside the virtual servers in one family: a fixed
// number, whatever the Services.
func (st *State) Rules(f xt.Family) *xt.Ruleset { return st.planner.rules(f) }

// Balance returns where IPVS may send a packet to key, nil if there is no such
// virtual server. It exists for tests and for explanations.
func (st *State) Balance(key kernel.ServerKey) []netip.AddrPort {
	u := st.units[key]
	if u == nil || !u.serves {
		return nil
	}
	out := make([]netip.AddrPort, 0, len(u.pool))
	for _, ep := range u.pool {
		out = append(out, ep.Addr)
	}
	return out
}

// Routes reports whether a packet to a with the mark of a routed packet is
// delivered to the node.
func (st *State) Routes(a netip.Addr) bool {
	return st.planner.cfg.VIPMode == Routed &&
		(st.usesOf(a)&useRoute != 0 || aliasPrefix(service.FamilyOf(a)).Contains(a))
}

// Local reports whether a is an ordinary local address because of us.
func (st *State) Local(a netip.Addr) bool {
	return st.planner.cfg.VIPMode == Device && st.usesOf(a)&useDevice != 0
}

// RouteMark returns the mark that has a packet routed to the node.
func (st *State) RouteMark() uint32 { return st.planner.cfg.routeMark() }

// Holds reports whether a packet from src to key is in the named set of ours, as
// far as dirs say what is looked at.
func (st *State) Holds(set string, src netip.Addr, key kernel.ServerKey) bool {
	f := service.FamilyOf(key.Addr.Addr())
	for i := range numMembers {
		if set == memberSet(f, i) {
			u := st.units[key]
			return u != nil && u.in&(1<<i) != 0
		}
	}
	for i, name := range useNames() {
		if set == setName(f, name) {
			return st.usesOf(key.Addr.Addr())&(1<<i) != 0
		}
	}
	switch set {
	case setName(f, allowedSet):
		u := st.units[key]
		return u != nil && slices.ContainsFunc(u.sources, func(p netip.Prefix) bool { return p.Contains(src) })
	case setName(f, healthSet):
		_, ok := slices.BinarySearch(st.health[f], key.Addr.Port())
		return ok
	}
	return false
}
