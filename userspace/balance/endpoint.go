package balance

import (
	"cmp"
	"net/netip"
	"time"
)

// An endpoint is what is known of one, whatever pools it is in.
type endpoint struct {
	addr   netip.AddrPort
	hash   uint64 // the same on every node
	rank   uint64 // the node's own
	refs   []ref
	epoch  uint32 // grows when it leaves its last pool
	active int64
	picked uint64 // which pick of the Balancer was its last

	fails   int // connects in a row
	ejected bool
	timeout time.Duration // of the last ejection, zero before the first
	until   time.Time     // when it may be tried again, if ejected
	back    time.Time     // from the last ejection
}

// A ref is a place in a pool.
type ref struct {
	pool  *pool
	index int
}

// compare is the order of endpoints on this node.
func (ep *endpoint) compare(o *endpoint) int {
	return cmp.Or(cmp.Compare(ep.rank, o.rank), ep.addr.Compare(o.addr))
}

// index returns the place of ep in p, or -1.
func (ep *endpoint) index(p *pool) int {
	for _, r := range ep.refs {
		if r.pool == p {
			return r.index
		}
	}
	return -1
}

// reset forgets what another pod at the same address should not inherit.
func (ep *endpoint) reset() {
	ep.epoch++
	ep.fails, ep.ejected, ep.timeout = 0, false, 0
	ep.until, ep.back = time.Time{}, time.Time{}
}

// fail notes a failed connect, of a probe or another connection, and reports
// whether ep is ejected for it that was not before.
func (ep *endpoint) fail(o *Outlier, probe bool, now time.Time) bool {
	ep.fails++
	switch {
	case ep.ejected && !probe:
		// One that began before, or in a pool that has too few others. There
		// may be enough by now.
		ep.leave(o)
		return false
	case !ep.ejected && ep.fails < o.Failures:
		return false
	case ep.ejected, ep.timeout > 0 && now.Sub(ep.back) < ep.timeout:
		ep.timeout = min(2*ep.timeout, o.Max)
	default:
		ep.timeout = o.Base
	}
	fresh := !ep.ejected
	ep.ejected = true
	ep.leave(o)
	ep.tryAgainAt(now.Add(ep.timeout))
	return fresh
}

// leave leaves ep out of its pools, as far as enough others remain there.
func (ep *endpoint) leave(o *Outlier) {
	for _, r := range ep.refs {
		p := r.pool
		if !p.members[r.index].out && (p.outs+1)*100 <= o.Percent*len(p.members) {
			p.members[r.index].out = true
			p.outs++
			p.rebuild()
		}
	}
}

// tryAgainAt sets when the next connection may try ep although it is left out.
func (ep *endpoint) tryAgainAt(t time.Time) {
	ep.until = t
	for _, r := range ep.refs {
		r.pool.setProbe()
	}
}

// succeed notes that ep can be connected to.
func (ep *endpoint) succeed(now time.Time) {
	ep.fails = 0
	if !ep.ejected {
		return
	}
	ep.ejected, ep.back = false, now
	for _, r := range ep.refs {
		if m := &r.pool.members[r.index]; m.out {
			m.out = false
			r.pool.outs--
			r.pool.rebuild()
		}
	}
}
