package balance

import (
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A pool is a service.Pool in the order of the node, with what the algorithm
// needs to choose quickly.
type pool struct {
	algorithm algorithm
	source    service.Pool // what it was made from
	members   []member
	equal     bool // the weights are

	outs  int       // members that are left out
	probe time.Time // when the first of these may be tried again; unset if there are none

	last *endpoint // rr, wrr: picked last; nil at the start
	next int       // rr: whose turn it is
	turn fraction  // wrr: the share of the cycle that is done

	tree []int32 // see fix; nil for algorithms that do not compare
	memo []int32 // see winner
}

// A member is an endpoint in a pool.
type member struct {
	ep     *endpoint
	weight uint64
	turns  uint64 // wrr: had in this cycle
	out    bool   // left out for failing
}

// A fraction is not negative. The zero value is zero.
type fraction struct{ num, den uint64 }

// newPool makes a pool of eps. Its endpoints know it from then on.
func (b *Balancer) newPool(eps service.Pool) *pool {
	p := &pool{algorithm: b.algorithm, source: eps, members: make([]member, len(eps)), equal: true}
	for i, e := range eps {
		ep := b.endpoints[e.Addr]
		if ep == nil {
			ep = b.newEndpoint(e.Addr)
		}
		p.members[i] = member{ep: ep, weight: uint64(e.Share())}
		p.equal = p.equal && e.Share() == eps[0].Share()
	}
	slices.SortFunc(p.members, func(x, y member) int { return x.ep.compare(y.ep) })
	for i := range p.members {
		ep := p.members[i].ep
		ep.refs = append(ep.refs, ref{p, i})
	}
	for i := range p.members {
		if ep := p.members[i].ep; ep.ejected {
			ep.leave(&b.cfg.Outlier)
		}
	}
	p.rebuild()
	return p
}

// has reports whether p was made from what equals eps.
func (p *pool) has(eps service.Pool) bool { return slices.Equal(p.source, eps) }

// follow lets p go on in the order where old was.
func (p *pool) follow(old *pool) {
	p.last, p.turn = old.last, old.turn
	p.rebuild()
}

func (p *pool) setAlgorithm(al algorithm) {
	p.algorithm = al
	p.turn = fraction{}
	if p.memo != nil && al.kind != hashClient && al.kind != hashFrontend {
		p.memo = nil
	}
	p.rebuild()
}

// shut reports whether the member i is not to be used. If all are left out, all
// are used.
func (p *pool) shut(i int) bool { return p.members[i].out && p.outs < len(p.members) }

// rebuild makes what depends on the members.
func (p *pool) rebuild() {
	p.setProbe()
	p.tree = nil
	switch p.algorithm.kind {
	case hashClient, hashFrontend:
		return
	case rr:
		p.next = 0
		if p.last != nil {
			p.next, _ = slices.BinarySearchFunc(p.members, p.last, func(m member, last *endpoint) int {
				if m.ep.compare(last) <= 0 {
					return -1
				}
				return 1
			})
		}
		return
	case wrr:
		p.seek()
	}
	p.grow()
}

// setProbe sets when the first of those left out may be tried again.
func (p *pool) setProbe() {
	p.probe = time.Time{}
	if p.outs == 0 {
		return
	}
	for i := range p.members {
		if m := &p.members[i]; m.out && (p.probe.IsZero() || m.ep.until.Before(p.probe)) {
			p.probe = m.ep.until
		}
	}
}

// due returns a member that is left out and may be tried again with c, or -1.
// For hashing algorithms it has to be the one that c belongs to.
func (p *pool) due(now time.Time, c *Conn) int {
	if p.outs == 0 || now.Before(p.probe) {
		return -1
	}
	isDue := func(m member) bool { return m.out && !now.Before(m.ep.until) }
	switch p.algorithm.kind {
	case hashClient, hashFrontend:
		if i := p.winner(p.algorithm.slot(c)); isDue(p.members[i]) {
			return i
		}
		return -1
	}
	return slices.IndexFunc(p.members, isDue)
}
