package userspace

import (
	"iter"
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

	places map[Place]claim    // who has it
	rivals map[Place][]claim  // who else wants it, the next to have it first
	addrs  map[netip.Addr]int // cluster IPs, by how many places they are at
	health [service.NumFamilies][]uint16
	why    map[service.PortID]string // what is not served as told
}

// A claim is what one frontend wants of a place. What that means is worked out when
// it is asked for: there are as many claims as addresses and ports.
type claim struct {
	port     *service.Port
	frontend *service.Frontend
}

// before orders claims to the same place: an address of its own goes before a node
// port, as in every dataplane.
func (c claim) before(o claim) bool {
	if (c.frontend.Kind == service.NodePort) != (o.frontend.Kind == service.NodePort) {
		return o.frontend.Kind == service.NodePort
	}
	return c.port.ID.Compare(o.port.ID) < 0
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
		places: make(map[Place]claim),
		rivals: make(map[Place][]claim),
		addrs:  make(map[netip.Addr]int),
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
	members map[member]bool // whether the sets have held them before; nil if nobody asks
	places  map[Place]struct{}
}

func newTouched() *touched {
	return &touched{make(map[member]bool), make(map[Place]struct{})}
}

// note notes a member, and whether it was wanted before.
func (t *touched) note(m member, was bool) {
	if t == nil || t.members == nil {
		return
	}
	if _, known := t.members[m]; !known {
		t.members[m] = was
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
			for at, c := range st.claims(old) {
				st.remove(at, c, t)
			}
			delete(st.why, old.ID)
		}
		if now == nil {
			continue
		}
		if why := complaint(now); why != "" && len(now.Frontends) > 0 && st.cfg.serves(now.ID.Family) {
			st.why[now.ID] = why
		}
		for at, c := range st.claims(now) {
			st.add(at, c, t)
		}
	}
	st.setHealth(next, t)
}

// add adds a claim.
func (st *State) add(at Place, c claim, t *touched) {
	t.at(at)
	has, taken := st.places[at]
	switch {
	case !taken:
		st.give(at, c, t)
		return
	case c.before(has):
		st.take(at, has, t)
		st.give(at, c, t)
		c = has
	}
	i, _ := slices.BinarySearchFunc(st.rivals[at], c, func(r, c claim) int {
		if r.before(c) {
			return -1
		}
		return 1
	})
	st.rivals[at] = slices.Insert(st.rivals[at], i, c)
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

// remove takes a claim back.
func (st *State) remove(at Place, c claim, t *touched) {
	t.at(at)
	rivals := st.rivals[at]
	if st.places[at] == c {
		st.take(at, c, t)
		if len(rivals) > 0 {
			st.give(at, rivals[0], t)
			c = rivals[0]
		}
	}
	rivals = slices.DeleteFunc(rivals, func(r claim) bool { return r == c })
	if len(rivals) == 0 {
		delete(st.rivals, at)
		return
	}
	st.rivals[at] = rivals
}

// give gives a place that nobody has to c.
func (st *State) give(at Place, c claim, t *touched) {
	st.places[at] = c
	for _, m := range c.members(at) {
		t.note(m, m.set == setCluster && st.addrs[m.elem.Addr] > 0)
		if m.set == setCluster {
			st.addrs[m.elem.Addr]++
		}
	}
}

// take takes it from c.
func (st *State) take(at Place, c claim, t *touched) {
	delete(st.places, at)
	for _, m := range c.members(at) {
		t.note(m, true)
		if m.set != setCluster {
			continue
		}
		if st.addrs[m.elem.Addr]--; st.addrs[m.elem.Addr] == 0 {
			delete(st.addrs, m.elem.Addr)
		}
	}
}

// wants reports whether a set is to hold m.
func (st *State) wants(m member) bool {
	switch m.set {
	case setCluster:
		return st.addrs[m.elem.Addr] > 0
	case setHealth:
		return slices.Contains(st.health[m.family], m.elem.Port)
	}
	at := Place{m.elem.Protocol, netip.AddrPortFrom(m.elem.Addr, m.elem.Port)}
	c, ok := st.places[at]
	return ok && slices.Contains(c.members(at), m)
}

// members yields what the sets are to hold, some of it more than once.
func (st *State) members() iter.Seq[member] {
	return func(yield func(member) bool) {
		for f := range st.health {
			for _, p := range st.health[f] {
				if !yield(healthMember(service.Family(f), p)) {
					return
				}
			}
		}
		for at, c := range st.places {
			for _, m := range c.members(at) {
				if !yield(m) {
					return
				}
			}
		}
	}
}

func healthMember(f service.Family, port uint16) member {
	return member{f, setHealth, kernel.Element{Port: port}}
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
		for _, p := range st.health[f] {
			t.note(healthMember(service.Family(f), p), true)
		}
		for _, p := range now[f] {
			t.note(healthMember(service.Family(f), p), false)
		}
		st.health[f] = now[f]
	}
}

// claims yields what the frontends of p want, always the same as long as st plans for
// one node. Nil and a family that is not served want nothing.
func (st *State) claims(p *service.Port) iter.Seq2[Place, claim] {
	return func(yield func(Place, claim) bool) {
		if p == nil || !st.cfg.serves(p.ID.Family) {
			return
		}
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
				if !yield(Place{p.ID.Protocol, netip.AddrPortFrom(a, fe.Addr.Port())}, claim{p, fe}) {
					return
				}
			}
		}
	}
}

// has reports whether the node has an address on some interface.
func (st *State) has(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(st.node.Addrs, a, netip.Addr.Compare)
	return ok
}

// members says in which sets a place is whose claim c is.
func (c claim) members(at Place) []member {
	p, fe := c.port, c.frontend
	out := make([]member, 0, 3+len(fe.Sources))
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
