package balance

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// slots is how many kinds of requests hashing tells apart: keys are hashed to a
// slot, and an endpoint is found for the slot. With it winners can be remembered. It bounds how even
// shares are: of n endpoints each has some slots/n of them.
const slots = 1 << 16

// scramble spreads the bits of x over the result, one to one (the finalizer of
// SplitMix64). Nodes of all versions have to agree on it.
func scramble(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashAddr and hashIP hash addresses; IPv4 in IPv6 is the same as IPv4.
func hashAddr(a netip.AddrPort) uint64 { return scramble(hashIP(a.Addr()) + uint64(a.Port())) }

func hashIP(a netip.Addr) uint64 {
	b := a.As16()
	return scramble(scramble(binary.BigEndian.Uint64(b[:8])) + binary.BigEndian.Uint64(b[8:]))
}

// hashString hashes a key (FNV-1a, scrambled). Clients that choose their keys can have them collide,
// and gain nothing: they could as well send one key again and again.
func hashString(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return scramble(h)
}

// score is the number that m has in the slot: random, but always the same one, and no matter who
// else is there.
func (m *member) score(slot uint64) uint64 {
	return scramble(m.ep.hash ^ (slot+1)*0x9e3779b97f4a7c15)
}

// rendezvous returns the member with the best score in the slot, of those that may
// (nil: all), or -1. With weights a score s in (0, 1] counts as -ln(s)/weight, the least of which
// is a member's in proportion to its weight (Efraimidis and Spirakis, 2006);
// without, the highest score is the same and needs no logarithm.
func rendezvous(members []member, equal bool, slot uint64, may func(*member) bool) int {
	best, highest, least := -1, uint64(0), math.Inf(1)
	for i := range members {
		m := &members[i]
		if may != nil && !may(m) {
			continue
		}
		s := m.score(slot) >> 11
		if equal {
			if best < 0 || s > highest {
				best, highest = i, s
			}
		} else if v := -math.Log(float64(s+1)/(1<<53)) / float64(m.weight); v < least || best < 0 {
			best, least = i, v
		}
	}
	return best
}

// memoFrom is the size from which winners of slots are remembered, which takes
// 256 KiB.
const memoFrom = 33

// winner returns the member of pl.ring that wins the slot if all may. The ring is not empty.
func (pl *plan) winner(slot uint64) *member {
	if pl.memo == nil {
		return &pl.ring[rendezvous(pl.ring, pl.ringEqual, slot, nil)]
	}
	at := &pl.memo[slot]
	i := at.Load()
	if i == 0 {
		i = int32(rendezvous(pl.ring, pl.ringEqual, slot, nil)) + 1
		at.Store(i)
	}
	return &pl.ring[i-1]
}

// byHash returns the endpoint for what hashes to h: of those that can be used and were not tried,
// the one that it belongs to most. Nil if there is none.
func (b *Balancer) byHash(pl *plan, h uint64, q *Pick) *Endpoint {
	slot := h % slots
	m := pl.winner(slot)
	if !q.tried(m.ep) && (!m.out || b.trial(m.ep, q)) {
		return m.ep
	}
	i := rendezvous(pl.set.usable, pl.equal, slot, func(m *member) bool { return !q.tried(m.ep) })
	if i < 0 {
		return nil
	}
	return pl.set.usable[i].ep
}

// trial reports whether q is the request that decides whether ep, which is out, is well again. A
// request that has failed once is not risked.
func (b *Balancer) trial(ep *Endpoint, q *Pick) bool {
	return len(q.Tried) == 0 && ep.shut.Load() && !ep.checkedDown.Load() && ep.due(b.pool.now())
}
