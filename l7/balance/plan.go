package balance

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// A plan is what one Balancer derives from a set. It is immutable but for memo.
type plan struct {
	set        *set
	equal      bool     // all usable weights are
	sums       []uint64 // running sums of the usable weights; nil if they are equal
	meanWeight float64
	turns      []int32 // round robin: one cycle; nil if weights are equal or have no short one

	ring      []member // hashing: all, and those leaving for their sessions
	ringEqual bool
	memo      []atomic.Int32       // winner of each slot, from 1; nil if the ring is small
	sessions  map[string]*Endpoint // persistent sessions
}

// current returns the plan for the set of the Pool as it is now.
func (b *Balancer) current() *plan {
	s := b.pool.current.Load()
	if pl := b.plan.Load(); pl != nil && pl.set == s {
		return pl
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s = b.pool.current.Load()
	old := b.plan.Load()
	if old != nil && old.set == s {
		return old
	}
	pl := b.newPlan(s, old)
	b.plan.Store(pl)
	return pl
}

// newPlan makes the plan for s, with what can be kept of old, which may be nil.
func (b *Balancer) newPlan(s *set, old *plan) *plan {
	pl := &plan{set: s, equal: equalWeights(s.usable), meanWeight: 1}
	if !pl.equal {
		pl.sums = make([]uint64, len(s.usable))
		sum := uint64(0)
		for i := range s.usable {
			sum += s.usable[i].weight
			pl.sums[i] = sum
		}
		pl.meanWeight = float64(sum) / float64(len(s.usable))
		if b.cfg.Algorithm == RoundRobin {
			pl.turns = cycle(s.usable, sum)
		}
	}
	sticky := b.cfg.Sticky
	switch {
	case sticky != nil && sticky.Mode == Persistent:
		pl.sessions = make(map[string]*Endpoint, len(s.all)+len(s.leaving)+len(s.others))
		for _, list := range [][]member{s.others, s.leaving, s.all} {
			for i := range list {
				pl.sessions[list[i].ep.name()] = list[i].ep
			}
		}
		fallthrough
	case sticky != nil, b.cfg.Algorithm == Hash, b.cfg.Algorithm == IPHash:
		pl.setRing(sticky != nil, old)
	}
	return pl
}

// setRing makes what hashing goes by. Winners are kept if the ring is as it was: that
// somebody is out does not change them.
func (pl *plan) setRing(sessions bool, old *plan) {
	pl.ring = pl.set.all
	if sessions && len(pl.set.leaving) > 0 {
		pl.ring = append(slices.Clone(pl.ring), pl.set.leaving...)
		slices.SortFunc(pl.ring, member.compare)
	}
	pl.ringEqual = equalWeights(pl.ring)
	if len(pl.ring) < memoFrom {
		return
	}
	same := func(a, b member) bool { return a.ep == b.ep && a.weight == b.weight }
	if old != nil && old.memo != nil && slices.EqualFunc(pl.ring, old.ring, same) {
		pl.memo = old.memo
		return
	}
	pl.memo = make([]atomic.Int32, slots)
}

func equalWeights(members []member) bool {
	for i := range members {
		if members[i].weight != members[0].weight {
			return false
		}
	}
	return true
}

// maxCycle is the longest cycle that is written down.
const maxCycle = 4096

// cycle returns the order of turns in one cycle, in which each member has as many as its
// weight, spread out evenly: the k-th, from 0, at (2k+1)/(2·weight) of it. Nil if that is too long.
func cycle(members []member, sum uint64) []int32 {
	divisor := sum
	for i := range members {
		for a := members[i].weight; a != 0; {
			divisor, a = a, divisor%a
		}
	}
	if sum/divisor > maxCycle {
		return nil
	}
	type turn struct {
		member   int32
		num, den uint64
	}
	var turns []turn
	for i := range members {
		w := members[i].weight / divisor
		for k := range w {
			turns = append(turns, turn{int32(i), 2*k + 1, 2 * w})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.num*b.den, b.num*a.den), cmp.Compare(a.member, b.member))
	})
	out := make([]int32, len(turns))
	for i := range turns {
		out[i] = turns[i].member
	}
	return out
}

// at returns the member whose turn the nth is. Without a cycle that is by the
// multiples of the golden ratio, which spread over the weights more evenly than anything
// drawn at random (the three-gap theorem).
func (pl *plan) at(n uint64) int {
	switch {
	case pl.equal:
		return int(n % uint64(len(pl.set.usable)))
	case pl.turns != nil:
		return int(pl.turns[n%uint64(len(pl.turns))])
	default:
		return pl.search(n * 0x9e3779b97f4a7c15)
	}
}

// search returns the member for a number drawn from all of 64 bits, in
// proportion to weights.
func (pl *plan) search(random uint64) int {
	if pl.equal {
		return int(below(random, uint64(len(pl.set.usable))))
	}
	at := below(random, pl.sums[len(pl.sums)-1])
	i, _ := slices.BinarySearch(pl.sums, at+1)
	return i
}
