//go:build linux

package main

import (
	"fmt"
	"time"
)

// budget tells how much of the time that a run may take is left. What worlds cost is
// known from a run on a machine of two cores with nothing else to do, and corrected by
// what they cost this time.
type budget struct {
	begun time.Time
	limit time.Duration // 0: none
	ended time.Duration // what the worlds that came to their end were to cost
	spent time.Duration // what they did cost
}

// factor is how many times as long as planned it takes so far.
func (b *budget) factor() float64 {
	const least = time.Minute // below, it says nothing
	if b.ended < least {
		return 1
	}
	return float64(b.spent) / float64(b.ended)
}

func (b *budget) expect(planned time.Duration) time.Duration {
	return time.Duration(float64(planned) * b.factor())
}

// fits reports whether there is time for something. There is for what comes first.
func (b *budget) fits(planned time.Duration, now time.Time) bool {
	return b.limit == 0 || b.ended == 0 || now.Sub(b.begun)+b.expect(planned) <= b.limit
}

func (b *budget) end(planned, took time.Duration) {
	b.ended += planned
	b.spent += took
}

// planned is about how long a world takes with some entrants.
func (w world) planned(o options, all []entrant) time.Duration {
	total := 5 * time.Second
	if w.kind == worldMemory {
		total += 12*time.Second + o.idle
	}
	if w.most && !w.brief {
		total += 40 * time.Second
	}
	for _, e := range all {
		if w.takes(e) && (w.kind != worldReal || e.variant.usesIptables()) {
			total += w.plannedFor(o, e)
		}
	}
	return total
}

// plannedFor is the same of one entrant.
func (w world) plannedFor(o options, e entrant) time.Duration {
	const second = time.Second
	theirs := e.subject.name != fairleadName
	thousands := time.Duration(w.services) * second / 1000
	start := thousands / 6
	switch {
	case theirs && e.variant == nft && w.services > 5000:
		return min(o.nftTimeout, thousands*9/2) // and that was it
	case theirs && e.variant == nftables:
		start = thousands * 8 / 5
	case theirs:
		start = thousands / 2
	}
	switch {
	case w.kind == worldLarge:
		return 25 * second
	case w.kind == worldMemory:
		return start + 5*second + o.churn
	case w.kind == worldReal:
		return 35 * second
	case w.sparse:
		return 3*start + 13*second + thousands/8 // to make so many objects takes long as well
	case w.brief:
		return start + 14*second + o.churn
	case w.most && start > slowStart:
		return 2*start + 55*second + 2*o.churn
	case w.most:
		return 4*start + 70*second + 2*o.churn
	}
	return 2*start + 28*second + o.churn
}

// schedule leaves out worlds for which there is no time, and says how much is left.
func (b *bench) schedule(list []world, i int) (goOn bool) {
	w, now := list[i], time.Now()
	entrants := b.entrants()
	planned := w.planned(b.options, entrants)
	if !b.budget.fits(planned, now) {
		b.remarks = append(b.remarks, fmt.Sprintf("%v: left out, for it would have taken some %v more, and a run may take %v (-budget)",
			w, b.budget.expect(planned).Round(time.Second), b.budget.limit))
		b.log.Warn("left out: there is no time", "world", w.String())
		return false
	}
	left := time.Duration(0)
	for _, later := range list[i:] {
		left += later.planned(b.options, entrants)
	}
	b.log.Info("next", "world", w.String(), "planned", b.budget.expect(planned).Round(time.Second),
		"so_far", now.Sub(b.budget.begun).Round(time.Second), "left", b.budget.expect(left).Round(time.Second))
	return true
}
