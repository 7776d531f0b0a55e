package xt

import (
	"cmp"
	"maps"
	"slices"
)

// commitOrder is the order in which Diff commits tables: addresses are
// rewritten before what is not rewritten any more gets filtered, so a Service
// that gains its first endpoint is never both un-rejected and unreachable.
func commitOrder(a, b Table) int {
	rank := map[Table]int{Mangle: 1, NAT: 2, Filter: 3}
	return cmp.Or(rank[a]-rank[b], cmp.Compare(a, b))
}

// Diff returns the restore that turns have, as Save reported it, into want. It
// writes the chains that are missing, whose number of rules differs, or that differ
// in their text and whose name trust does not vouch for (chains named by their contents
// need no second look; a nil trust vouches for none). Some rules the tools print
// otherwise than they were given: chains of these are written though they are the same.
// It deletes own chains that are not
// wanted, adds missing hooks and removes surplus and unwanted ones, along with
// stray rules that would keep a chain from being deleted.
//
// A nil have means that nothing is known: everything is written, every hook
// added, nothing deleted. Unlike a wrong have, that cannot fail; but if hooks
// were there, they are now there twice, until the next Diff of a Save.
//
// The result is sorted: equal arguments give equal results. Chains are written
// before those that jump to them.
func Diff(have *State, want *Ruleset, trust func(chain string) bool) *Restore {
	have = cmp.Or(have, &State{})
	tables := map[Table]*TableRestore{}
	table := func(t Table) *TableRestore {
		if tables[t] == nil {
			tables[t] = &TableRestore{Table: t}
		}
		return tables[t]
	}
	for _, ref := range want.leavesFirst() {
		rules := want.Chains[ref]
		was, ok := have.Chains[ref]
		if !ok || was.Rules != len(rules) || (trust == nil || !trust(ref.Name)) && was.Sum != textSum(want.Family, rules) {
			t := table(ref.Table)
			t.Write = append(t.Write, Chain{Name: ref.Name, Rules: rules})
		}
	}
	gone := map[ChainRef]bool{}
	for ref := range have.Chains {
		if _, ok := want.Chains[ref]; !ok {
			gone[ref] = true
			t := table(ref.Table)
			t.Delete = append(t.Delete, ref.Name)
		}
	}
	for _, s := range have.Strays {
		if gone[ChainRef{s.Table, s.Chain}] {
			t := table(s.Table)
			t.DelStrays = append(t.DelStrays, s)
		}
	}
	diffHooks(have.Hooks, want.Hooks, table)

	r := &Restore{Family: want.Family}
	for _, t := range slices.SortedFunc(maps.Keys(tables), commitOrder) {
		slices.Sort(tables[t].Delete)
		r.Tables = append(r.Tables, *tables[t])
	}
	return r
}

func diffHooks(have map[Hook]int, want []Hook, table func(Table) *TableRestore) {
	want = slices.Compact(slices.SortedFunc(slices.Values(want), Hook.compare))
	for _, h := range want {
		if have[h] == 0 {
			t := table(h.Table)
			t.AddHooks = append(t.AddHooks, h)
		}
	}
	for _, h := range slices.SortedFunc(maps.Keys(have), Hook.compare) {
		surplus := have[h]
		if slices.Contains(want, h) {
			surplus--
		}
		for range surplus {
			t := table(h.Table)
			t.DelHooks = append(t.DelHooks, h)
		}
	}
}

// leavesFirst returns every chain of r after the chains it jumps to, otherwise
// sorted.
func (r *Ruleset) leavesFirst() []ChainRef {
	d := depths{r: r, depth: make(map[ChainRef]int, len(r.Chains)), order: make([]ChainRef, 0, len(r.Chains))}
	for _, t := range r.tables() {
		for _, ref := range r.sorted(t) {
			d.of(ref)
		}
	}
	return d.order
}
