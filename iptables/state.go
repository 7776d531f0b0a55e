package iptables

import (
	"cmp"
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// A state is what we want, or believe to be, in the kernel in one family: enough
// to say what the next Snapshot changes, without the rules of the many chains
// that never change.
type state struct {
	planner
	plans map[*service.Port]*memo

	// pieces are the chains of Ports, all in the nat table.
	pieces map[string]piece

	// fixed are the chains that are rewritten in place: frontends, and those that are
	// not a Port's.
	fixed map[xt.ChainRef]content
	seed  maphash.Seed // of the hashes in fixed

	nat, filter, ports, closed, hairpin *tree

	branches map[xt.ChainRef]int // chains of the trees, with their number of rules

	totals map[xt.Table]int // rules in all chains
}

// A memo is what a Port needs, less the rules.
type memo struct {
	chains  []string // sorted, each once
	nat     []*entry
	filter  []*entry
	ports   []*entry
	closed  []*entry
	hairpin []*entry
}

// A piece is a chain that Ports share.
type piece struct {
	users int // Ports that need it
	rules int // how many rules it has
}

// A content tells the rules of a chain from others.
type content struct {
	hash  uint64
	rules int
}

func (st *state) content(rules []xt.Rule) content {
	var h maphash.Hash
	h.SetSeed(st.seed)
	for i := range rules {
		_, _ = h.WriteString(rules[i].Text()) // never fails
		_ = h.WriteByte('\n')
	}
	return content{h.Sum64(), len(rules)}
}

// A delta is what a step from one Snapshot to the next asks of the kernel.
type delta struct {
	write  map[xt.ChainRef][]xt.Rule
	remove []xt.ChainRef // sorted
	added  int           // chains in write that are new

	// first is what the filter table gains, to be committed before everything
	// else where filter also loses rules; nil otherwise. A Service that loses
	// its last endpoint must be refused before its translation goes, and one
	// that gains one must be translated before it is let through.
	first *delta

	// filterFirst says that filter only gains rules, so that to commit it
	// before nat is enough for that.
	filterFirst bool
}

// rules returns how many rules d writes to a table.
func (d *delta) rules(table xt.Table) int {
	n := 0
	for ref, rules := range d.write {
		if ref.Table == table {
			n += len(rules)
		}
	}
	return n
}

// restore returns d as one run of iptables-restore.
func (d *delta) restore(f xt.Family) *xt.Restore {
	order := []xt.Table{xt.NAT, xt.Filter}
	if d.filterFirst {
		slices.Reverse(order)
	}
	r := &xt.Restore{Family: f}
	if d.first != nil {
		r.Tables = d.first.tables(xt.Filter)
	}
	r.Tables = append(r.Tables, d.tables(order...)...)
	return r
}

// tables returns what d does to each of some tables, in that order.
func (d *delta) tables(order ...xt.Table) []xt.TableRestore {
	var out []xt.TableRestore
	for _, table := range order {
		t := xt.TableRestore{Table: table}
		for _, ref := range slices.SortedFunc(maps.Keys(d.write), compareRefs) {
			if ref.Table == table {
				t.Write = append(t.Write, xt.Chain{Name: ref.Name, Rules: d.write[ref]})
			}
		}
		for _, ref := range d.remove {
			if ref.Table == table {
				t.Delete = append(t.Delete, ref.Name)
			}
		}
		if len(t.Write)+len(t.Delete) > 0 {
			out = append(out, t)
		}
	}
	return out
}

func newDelta() *delta { return &delta{write: make(map[xt.ChainRef][]xt.Rule)} }

func newState(cfg Config, f xt.Family, node *service.Node) *state {
	st := &state{
		planner:  planner{cfg: cfg, family: f, node: node},
		plans:    make(map[*service.Port]*memo),
		pieces:   make(map[string]piece),
		fixed:    make(map[xt.ChainRef]content),
		seed:     maphash.MakeSeed(),
		nat:      &tree{space: addrSpace(f, prefixTree)},
		filter:   &tree{space: addrSpace(f, prefixTree)},
		ports:    &tree{space: portSpace()},
		closed:   &tree{space: portSpace()},
		hairpin:  &tree{space: addrSpace(f, prefixHairpin)},
		branches: make(map[xt.ChainRef]int),
		totals:   make(map[xt.Table]int),
	}
	st.written = func(chain string) bool { return st.pieces[chain].users > 0 }
	return st
}

// renders reports whether Ports look the same on node as on the node of st, so
// that what is known of them can be kept.
func (st *state) renders(node *service.Node) bool {
	return reflect.DeepEqual(st.node.Pods, node.Pods)
}

// A step gathers what differs between two Snapshots.
type step struct {
	users       map[string]int       // chain: change in the number of Ports that need it
	rules       map[string][]xt.Rule // chains of new Ports
	gone, added memo                 // entries only

	// moved are entries of the nat table that stay, with another target.
	moved struct{ nat, ports []*entry }
}

// advance turns the state for prev, nil for none, into the state for snap, and
// says what to change. It costs in proportion to what differs.
func (st *state) advance(prev, snap *service.Snapshot) *delta {
	s := step{users: make(map[string]int), rules: make(map[string][]xt.Rule)}
	for old, port := range snap.Changed(prev) {
		if id := cmp.Or(old, port).ID; xt.Family(id.Family) != st.family {
			continue
		}
		st.replace(old, port, &s)
	}
	was := *st
	st.node = &snap.Node
	d := newDelta()
	loses, gains := len(s.gone.filter)+len(s.gone.closed) > 0, len(s.added.filter)+len(s.added.closed) > 0
	d.filterFirst = !loses
	if loses && gains {
		d.first = newDelta()
		st.filter = st.updateTree(xt.Filter, st.filter, nil, s.added.filter, d.first)
		st.closed = st.updateTree(xt.Filter, st.closed, nil, s.added.closed, d.first)
		st.fixStatic(snap, d.first, xt.Filter)
		s.added.filter, s.added.closed = nil, nil
	}
	st.updatePieces(&s, d)
	st.nat = st.updateTree(xt.NAT, st.nat, s.gone.nat, s.added.nat, d)
	st.retarget(st.nat, s.moved.nat, d)
	st.filter = st.updateTree(xt.Filter, st.filter, s.gone.filter, s.added.filter, d)
	st.ports = st.updateTree(xt.NAT, st.ports, s.gone.ports, s.added.ports, d)
	st.retarget(st.ports, s.moved.ports, d)
	st.closed = st.updateTree(xt.Filter, st.closed, s.gone.closed, s.added.closed, d)
	st.hairpin = st.updateTree(xt.NAT, st.hairpin, s.gone.hairpin, s.added.hairpin, d)
	if prev == nil || !st.sameStatic(&was, prev, snap) {
		st.fixStatic(snap, d, xt.NAT, xt.Filter)
	}
	slices.SortFunc(d.remove, compareRefs)
	return d
}

// sameStatic reports whether everything is what it was that the chains follow from
// which are not a Port's.
func (st *state) sameStatic(was *state, prev, snap *service.Snapshot) bool {
	return st.nat == was.nat && st.filter == was.filter && st.ports == was.ports && st.closed == was.closed &&
		st.hairpin == was.hairpin && slices.Equal(prev.Health, snap.Health) && reflect.DeepEqual(was.node, st.node)
}

// fixStatic notes what changes in the chains of some tables that are not a
// Port's.
func (st *state) fixStatic(snap *service.Snapshot, d *delta, tables ...xt.Table) {
	for ref, rules := range st.static(snap) {
		if slices.Contains(tables, ref.Table) {
			st.fix(ref, rules, d)
		}
	}
}

func compareRefs(a, b xt.ChainRef) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), strings.Compare(a.Name, b.Name))
}

// replace notes what changes when port takes the place of old; either may be nil.
func (st *state) replace(old, port *service.Port, s *step) {
	was := st.plans[old]
	delete(st.plans, old)
	if was == nil {
		was = &memo{}
	}
	now := &memo{}
	if port != nil {
		plan := st.port(port)
		for _, c := range plan.chains {
			now.chains = append(now.chains, c.Name)
			if !contentNamed(c.Name) || !st.written(c.Name) {
				s.rules[c.Name] = c.Rules
			}
		}
		slices.Sort(now.chains)
		now.chains = slices.Clip(slices.Compact(now.chains))
		now.nat, now.filter, now.ports, now.closed, now.hairpin = plan.nat, plan.filter, plan.ports, plan.closed, plan.hairpin
		st.plans[port] = now
	}
	for _, name := range was.chains {
		s.users[name]--
	}
	for _, name := range now.chains {
		s.users[name]++
	}
	s.moved.nat = append(s.moved.nat, retarget(was.nat, now.nat)...)
	s.moved.ports = append(s.moved.ports, retarget(was.ports, now.ports)...)
	swap(&was.nat, &now.nat, &s.gone.nat, &s.added.nat)
	swap(&was.filter, &now.filter, &s.gone.filter, &s.added.filter)
	swap(&was.ports, &now.ports, &s.gone.ports, &s.added.ports)
	swap(&was.closed, &now.closed, &s.gone.closed, &s.added.closed)
	swap(&was.hairpin, &now.hairpin, &s.gone.hairpin, &s.added.hairpin)
}

// retarget gives entries of was, in their place in a tree, the targets that they have in
// now, and returns those that had another. As a rule all are in the same order.
func retarget(was, now []*entry) (moved []*entry) {
	for i := range min(len(was), len(now)) {
		like := *was[i]
		like.target = now[i].target
		if like == *now[i] && like != *was[i] {
			*was[i] = like
			moved = append(moved, was[i])
		}
	}
	return moved
}

// swap notes entries that go and come. Those that stay the same, as all do when
// only endpoints changed, stay the same pointers.
func swap(was, now, gone, added *[]*entry) {
	olds := make(map[entry]*entry, len(*was))
	for _, old := range *was {
		if olds[*old] != nil {
			*gone = append(*gone, old) // there twice: no entry of now takes its place
			continue
		}
		olds[*old] = old
	}
	for i, e := range *now {
		old := olds[*e]
		if old == nil {
			*added = append(*added, e)
			continue
		}
		(*now)[i] = old
		delete(olds, *e)
	}
	for _, old := range *was { // in this order
		if olds[*old] == old {
			*gone = append(*gone, old)
		}
	}
}

// updatePieces counts the users of chains anew and finds those to write and to
// remove.
func (st *state) updatePieces(s *step, d *delta) {
	for name, change := range s.users {
		ref := xt.ChainRef{Table: xt.NAT, Name: name}
		p := st.pieces[name]
		rules, fresh := s.rules[name]
		switch before := p.users; {
		case before+change == 0:
			delete(st.pieces, name)
			delete(st.fixed, ref)
			if before > 0 {
				d.remove = append(d.remove, ref)
				st.totals[ref.Table] -= p.rules
			}
			continue
		case !fresh:
		case !contentNamed(name):
			p.rules = len(rules)
			st.fix(ref, rules, d)
		case before == 0:
			p.rules = len(rules)
			d.put(ref, rules, true)
			st.totals[ref.Table] += len(rules)
		}
		p.users += change
		st.pieces[name] = p
	}
}

// fix notes the rules of a chain that is rewritten in place when they change.
func (st *state) fix(ref xt.ChainRef, rules []xt.Rule, d *delta) {
	old, ok := st.fixed[ref]
	now := st.content(rules)
	if ok && old == now {
		return
	}
	st.fixed[ref] = now
	st.totals[ref.Table] += now.rules - old.rules
	d.put(ref, rules, !ok)
}

func (d *delta) put(ref xt.ChainRef, rules []xt.Rule, added bool) {
	d.write[ref] = rules
	if added {
		d.added++
	}
}

// updateTree replaces entries of a tree and notes the chains that this changes.
func (st *state) updateTree(table xt.Table, t *tree, gone, added []*entry, d *delta) *tree {
	if len(gone)+len(added) == 0 {
		return t
	}
	next, write, remove := t.update(gone, added)
	for name, rules := range write {
		ref := xt.ChainRef{Table: table, Name: name}
		was, ok := st.branches[ref]
		st.branches[ref] = len(rules)
		st.totals[table] += len(rules) - was
		d.put(ref, rules, !ok)
	}
	for _, name := range remove {
		ref := xt.ChainRef{Table: table, Name: name}
		st.totals[table] -= st.branches[ref]
		delete(st.branches, ref)
		d.remove = append(d.remove, ref)
	}
	return next
}

// retarget notes the chains of a tree that lead elsewhere now.
func (st *state) retarget(t *tree, moved []*entry, d *delta) {
	write := make(map[string][]xt.Rule)
	t.retargeted(moved, write)
	for name, rules := range write {
		ref := xt.ChainRef{Table: xt.NAT, Name: name}
		if _, ok := d.write[ref]; !ok {
			d.put(ref, rules, false)
		}
	}
}

// chains returns every chain of the state with its number of rules.
func (st *state) chains() map[xt.ChainRef]int {
	out := maps.Clone(st.branches)
	for ref, c := range st.fixed {
		out[ref] = c.rules
	}
	for name, p := range st.pieces {
		out[xt.ChainRef{Table: xt.NAT, Name: name}] = p.rules
	}
	return out
}
