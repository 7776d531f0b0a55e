package balance

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
)

// slots is how many groups of clients the hashing algorithms know. A slot is
// what an endpoint is chosen for; clients of one slot share it.
const slots = 1 << 16

// mix returns a hash of a and b. It is no defence against clients that choose
// their own addresses: they can only overload the endpoint they call anyway.
func mix(a, b uint64) uint64 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	hi, lo := bits.Mul64(a^k0, b^k1)
	x := hi ^ lo
	x = (x ^ x>>32) * k1
	return x ^ x>>32
}

// hash returns a hash of a that is the same on every node.
func hash(a netip.AddrPort) uint64 {
	return mix(hashAddr(a.Addr()), uint64(a.Port()))
}

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return mix(binary.BigEndian.Uint64(b[:8]), mix(binary.BigEndian.Uint64(b[8:]), 0))
}

// slot returns what the connection c is hashed to.
func (al algorithm) slot(c *Conn) uint32 {
	switch {
	case al.kind == hashFrontend:
		return uint32(hash(c.Frontend) % slots)
	case al.withPort:
		return uint32(hash(c.Client) % slots)
	default:
		return uint32(hashAddr(c.Client.Addr()) % slots)
	}
}

// rendezvous returns the member that wins the slot among those that may, or -1.
// Each draws a number from an exponential distribution whose rate is its weight;
// the smallest wins. So shares are in proportion to weights, and that one leaves
// does not change what the others drew.
func (p *pool) rendezvous(slot uint32, may func(int) bool) int {
	if p.equal {
		return p.rendezvousEqual(slot, may)
	}
	best, least := -1, math.Inf(1)
	for i := range p.members {
		if !may(i) {
			continue
		}
		m := &p.members[i]
		u := (float64(mix(m.ep.hash, uint64(slot))>>11) + 1) / (1 << 53)
		if d := -math.Log(u) / float64(m.weight); d < least {
			best, least = i, d
		}
	}
	return best
}

// rendezvousEqual is rendezvous for equal weights, where the order of the draws is
// that of the hashes they are made from.
func (p *pool) rendezvousEqual(slot uint32, may func(int) bool) int {
	best, most := -1, uint64(0)
	for i := range p.members {
		if !may(i) {
			continue
		}
		if h := mix(p.members[i].ep.hash, uint64(slot)) >> 11; best < 0 || h > most {
			best, most = i, h
		}
	}
	return best
}

// memoFrom is the size from which a pool remembers the winners of slots, which
// takes 256 KiB.
const memoFrom = 33

// winner returns the member that wins the slot if all may. Big pools ask the
// members once for each slot.
func (p *pool) winner(slot uint32) int {
	anyone := func(int) bool { return true }
	if len(p.members) < memoFrom {
		return p.rendezvous(slot, anyone)
	}
	if p.memo == nil {
		p.memo = make([]int32, slots)
	}
	if p.memo[slot] == 0 {
		p.memo[slot] = int32(p.rendezvous(slot, anyone)) + 1
	}
	return int(p.memo[slot]) - 1
}
