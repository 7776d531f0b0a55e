package ipvs

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A dest is a destination as we have made it.
type dest struct {
	addr   netip.AddrPort
	weight uint32
}

func destOf(ep service.Endpoint) dest { return dest{ep.Addr, uint32(ep.Share())} }

// Dests are the destinations of a virtual server, sorted by address. Nearly always they
// are those of a Pool, each with its share for its weight: then the Pool is kept, which
// the Snapshot has anyway, and no copy of it.
type dests struct {
	pool service.Pool
	list []dest // if they are another's; pool is nil then
}

func (d dests) len() int { return len(d.pool) + len(d.list) }

func (d dests) at(i int) dest {
	if d.pool != nil {
		return destOf(d.pool[i])
	}
	return d.list[i]
}

// are reports whether d are those of p.
func (d dests) are(p service.Pool) bool {
	if d.len() != len(p) {
		return false
	}
	if len(p) == 0 || d.pool != nil && &d.pool[0] == &p[0] {
		return true
	}
	for i := range p {
		if d.at(i) != destOf(p[i]) {
			return false
		}
	}
	return true
}

// destsOf returns what was read, with wanted in its place if that is the same.
func destsOf(read []kernel.Dest, wanted service.Pool) dests {
	weight := func(d kernel.Dest) uint32 {
		if d.Other {
			return ^uint32(0) // written again, which makes it a masquerading one
		}
		return d.Weight
	}
	if slices.EqualFunc(read, wanted, func(d kernel.Dest, ep service.Endpoint) bool { return dest{d.Addr, weight(d)} == destOf(ep) }) {
		return dests{pool: wanted}
	}
	out := dests{list: make([]dest, 0, len(read))}
	for _, d := range read {
		out.list = append(out.list, dest{d.Addr, weight(d)})
	}
	return out
}
