package userspace

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/balance"
)

// A State is what the kernel must have for a Snapshot. It can follow the Snapshot
// from one to the next at a cost of what has changed.
type State struct {
	cfg   Config
	node  *service.Node
	nodes [service.NumFamilies][]netip.Addr // at which node ports answer

	ports  map[service.PortID][]*unit
	places map[Place][]*unit // who want it; the first has it
	want   map[member]int    // how many want it
	health [service.NumFamilies][]uint16
	why    map[service.PortID]string // what is not served as told
}

// A unit is what one frontend means at one address.
type unit struct {
	place    Place
	port     *service.Port
	frontend *service.Frontend
	members  []member
}

// before orders units that want the same place: an address of its own goes before
// a node port, as in every dataplane.
func (u *unit) before(o *unit) bool {
	if (u.frontend.Kind == service.NodePort) != (o.frontend.Kind == service.NodePort) {
		return o.frontend.Kind == service.NodePort
	}
	return u.port.ID.Compare(o.port.ID) < 0
}

// Plan returns what the kernel must have for snap, and what of snap cannot be. It
// is pure: equal Snapshots give equal States.
func Plan(snap *service.Snapshot, cfg Config) (*State, []service.Deviation) {
	st := newState(cfg, &snap.Node)
	st.advance(nil, snap, nil)
	return st, st.deviations()
}

func newState(cfg Config, node *service.Node) *State {
	st := &State{
		cfg: cfg, node: node,
		ports:  make(map[service.PortID][]*unit),
		places: make(map[Place][]*unit),
		want:   make(map[member]int),
		why:    make(map[service.PortID]string),
	}
	for _, a := range node.Addrs {
		if !a.IsLinkLocalUnicast() && !a.IsLoopback() && node.AnswersNodePorts(a) {
			st.nodes[service.FamilyOf(a)] = append(st.nodes[service.FamilyOf(a)], a)
		}
	}
	for f, lo := range [service.NumFamilies]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		within := func(p netip.Prefix) bool { return p.Contains(lo) }
		if node.LocalhostPorts && slices.ContainsFunc(node.PortAddrs[f], within) {
			st.nodes[f] = append(st.nodes[f], lo)
		}
	}
	return st
}

// plans reports whether st makes the same of every Port on node n.
func (st *State) plans(n *service.Node) bool {
	if st.node == n {
		return true
	}
	other := newState(st.cfg, n)
	return st.node.Pods == n.Pods && slices.Equal(st.node.Addrs, n.Addrs) &&
		slices.Equal(st.nodes[service.IPv4], other.nodes[service.IPv4]) &&
		slices.Equal(st.nodes[service.IPv6], other.nodes[service.IPv6])
}

// A touched is what a step may have changed.
type touched struct {
	members map[member]struct{}
	places  map[Place]struct{}
}

func newTouched() *touched {
	return &touched{make(map[member]struct{}), make(map[Place]struct{})}
}

func (t *touched) note(m member) {
	if t != nil {
		t.members[m] = struct{}{}
	}
}

func (t *touched) at(p Place) {
	if t != nil {
		t.places[p] = struct{}{}
	}
}

// advance takes st from prev, which it is the State of, to next. Nil is nothing.
// What may have changed is added to t, which may be nil.
func (st *State) advance(prev, next *service.Snapshot, t *touched) {
	for old, now := range next.Changed(prev) {
		if old != nil {
			for _, u := range st.ports[old.ID] {
				st.remove(u, t)
			}
			delete(st.ports, old.ID)
			delete(st.why, old.ID)
		}
		if now != nil && st.cfg.serves(now.ID.Family) {
			st.add(now, t)
		}
	}
	st.setHealth(next, t)
}

func (st *State) add(p *service.Port, t *touched) {
	if why := complaint(p); why != "" && len(p.Frontends) > 0 {
		st.why[p.ID] = why
	}
	units := st.units(p)
	if len(units) > 0 {
		st.ports[p.ID] = units
	}
	for _, u := range units {
		t.at(u.place)
		rivals := st.places[u.place]
		i, _ := slices.BinarySearchFunc(rivals, u, func(r, u *unit) int {
			if r.before(u) {
				return -1
			}
			return 1
		})
		if i == 0 {
			if len(rivals) > 0 {
				st.count(rivals[0], -1, t)
			}
			st.count(u, 1, t)
		}
		st.places[u.place] = slices.Insert(rivals, i, u)
	}
}

// complaint says what of a Port is not served as told.
func complaint(p *service.Port) string {
	if p.ID.Protocol == service.SCTP {
		return "the userspace proxy speaks TCP and UDP only; SCTP is refused"
	}
	if asked := p.Scheduling.Algorithm; asked != "" && !slices.Contains(balance.Algorithms(), asked) {
		return "the userspace proxy has no scheduler " + asked + "; the default is used"
	}
	return ""
}

func (st *State) remove(u *unit, t *touched) {
	t.at(u.place)
	rivals := st.places[u.place]
	i := slices.Index(rivals, u)
	rivals = slices.Delete(rivals, i, i+1)
	st.places[u.place] = rivals
	if len(rivals) == 0 {
		delete(st.places, u.place)
	}
	if i == 0 {
		st.count(u, -1, t)
		if len(rivals) > 0 {
			st.count(rivals[0], 1, t)
		}
	}
}

// count notes that n more units want the members of u.
func (st *State) count(u *unit, n int, t *touched) {
	for _, m := range u.members {
		st.want[m] += n
		if st.want[m] == 0 {
			delete(st.want, m)
		}
		t.note(m)
	}
}

func (st *State) setHealth(snap *service.Snapshot, t *touched) {
	var now [service.NumFamilies][]uint16
	for _, h := range snap.Health {
		if st.cfg.serves(h.Family) {
			now[h.Family] = append(now[h.Family], h.Port)
		}
	}
	for f := range now {
		slices.Sort(now[f])
		now[f] = slices.Compact(now[f])
		if slices.Equal(now[f], st.health[f]) {
			continue
		}
		port := func(p uint16) member {
			return member{service.Family(f), setHealth, kernel.Element{Port: p}}
		}
		for _, p := range st.health[f] {
			delete(st.want, port(p))
			t.note(port(p))
		}
		for _, p := range now[f] {
			st.want[port(p)] = 1
			t.note(port(p))
		}
		st.health[f] = now[f]
	}
}

// units returns what the frontends of p mean.
func (st *State) units(p *service.Port) []*unit {
	var out []*unit
	for i := range p.Frontends {
		fe := &p.Frontends[i]
		addrs := []netip.Addr{fe.Addr.Addr()}
		if fe.Kind == service.NodePort {
			addrs = st.nodes[p.ID.Family]
		}
		for _, a := range addrs {
			if fe.Kind == service.ClusterIP && st.has(a) {
				continue // a DNS cache on the node takes the place of the Service
			}
			at := Place{p.ID.Protocol, netip.AddrPortFrom(a, fe.Addr.Port())}
			out = append(out, &unit{place: at, port: p, frontend: fe, members: st.members(p, fe, at)})
		}
	}
	return out
}

// has reports whether the node has an address on some interface.
func (st *State) has(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(st.node.Addrs, a, netip.Addr.Compare)
	return ok
}

// members says in which sets a frontend is at one place.
func (st *State) members(p *service.Port, fe *service.Frontend, at Place) []member {
	var out []member
	if fe.Kind == service.ClusterIP {
		out = append(out, member{p.ID.Family, setCluster, kernel.Element{Addr: at.Addr.Addr()}})
	}
	if fe.Sources != nil && fe.Leftover() != service.Reject {
		out = append(out, at.in(setLimited))
		for _, prefix := range fe.Sources {
			m := at.in(setAllowed)
			m.elem.Net = prefix.Masked()
			out = append(out, m)
		}
	}
	near, outside := fe.Routes[service.FromHost].Verdict, fe.Routes[service.FromOutside].Verdict
	switch {
	case outside == service.Reject || p.ID.Protocol == service.SCTP && outside == service.Forward:
		out = append(out, at.in(setRefuse))
	case outside == service.Forward:
		out = append(out, at.in(setVIP))
	default:
		out = append(out, at.in(setDrop))
		if near == service.Forward && p.ID.Protocol == service.SCTP {
			break // dropped from everywhere
		}
		if near == service.Forward {
			out = append(out, at.in(setShort))
		}
	}
	return out
}

// deviations are sorted by Port.
func (st *State) deviations() []service.Deviation {
	var out []service.Deviation
	for id, why := range st.why {
		out = append(out, service.Deviation{Port: id, Reason: why})
	}
	slices.SortFunc(out, func(a, b service.Deviation) int { return a.Port.Compare(b.Port) })
	return out
}

// Rules returns the rules of a family. They depend on nothing but the Config and
// on how pods are told from others.
func (st *State) Rules(f xt.Family) *xt.Ruleset { return rules(st.cfg, st.node.Pods, f) }
