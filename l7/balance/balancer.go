package balance

import (
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Balancer chooses among the endpoints of a Pool for one rule. It is safe for
// concurrent use.
type Balancer struct {
	pool *Pool
	cfg  Config
	rand func() uint64

	turn atomic.Uint64 // round robin: how many turns there were, from a random start
	plan atomic.Pointer[plan]
	mu   sync.Mutex // held while a plan is made
}

// A Pick is a request for which an endpoint is wanted.
type Pick struct {
	Key     string     // for Hash: what is hashed
	Client  netip.Addr // for IPHash
	Session string     // for Sticky: the value of the cookie, if any. Pick changes it to the one to go by
	Fresh   bool       // set by Pick: the client must be told Session, which is new

	// Tried are those that failed this request. Others are preferred.
	Tried []netip.AddrPort
}

func (q *Pick) tried(ep *Endpoint) bool { return len(q.Tried) > 0 && slices.Contains(q.Tried, ep.addr) }

// Pool returns what b chooses from.
func (b *Balancer) Pool() *Pool { return b.pool }

// Config returns what b was made with.
func (b *Balancer) Config() Config { return b.cfg }

// Pick returns the endpoint for q; false means that the Pool is empty. If every
// endpoint has been tried it is one of them.
func (b *Balancer) Pick(q *Pick) (*Endpoint, bool) {
	pl := b.current()
	if len(pl.set.all) == 0 {
		return nil, false
	}
	if b.cfg.Sticky != nil {
		return b.session(pl, q), true
	}
	return b.choose(pl, q), true
}

// choose picks by the algorithm.
func (b *Balancer) choose(pl *plan, q *Pick) *Endpoint {
	var ep *Endpoint
	switch b.cfg.Algorithm {
	case Hash:
		ep = b.byHash(pl, hashString(q.Key), q)
	case IPHash:
		ep = b.byHash(pl, hashIP(q.Client), q)
	default:
		if len(q.Tried) == 0 && b.pool.wake.Load() != never {
			if ep = b.pool.try(pl.set, b.pool.now()); ep != nil {
				return ep
			}
		}
		if b.cfg.Algorithm == RoundRobin {
			ep = b.inTurn(pl, q)
		} else {
			ep = b.ofTwo(pl, q)
		}
	}
	if ep == nil {
		ep = b.remaining(pl, q)
	}
	return ep
}

// attempts is how often an endpoint is drawn that was tried already, or is not to have its whole
// share, before all are looked at.
const attempts = 8

// inTurn returns the next endpoint in turn, or nil if it met only such as were tried.
func (b *Balancer) inTurn(pl *plan, q *Pick) *Endpoint {
	slow := time.Duration(b.pool.slow.Load())
	for range attempts {
		ep := pl.set.usable[pl.at(b.turn.Add(1))].ep
		if !q.tried(ep) && (slow == 0 || b.admits(ep, slow)) {
			return ep
		}
	}
	return nil
}

// admits draws whether ep gets the request in spite of its slow start.
func (b *Balancer) admits(ep *Endpoint, slow time.Duration) bool {
	s := ep.share(b.pool.now(), slow)
	return s >= 1 || float64(b.rand()>>11)/(1<<53) < s
}

// ofTwo draws two endpoints, in proportion to weights, and returns the better one.
func (b *Balancer) ofTwo(pl *plan, q *Pick) *Endpoint {
	first := b.draw(pl, q, -1)
	if first < 0 {
		return nil
	}
	x := &pl.set.usable[first]
	if len(pl.set.usable) == 1 {
		return x.ep
	}
	second := b.draw(pl, q, first)
	if second < 0 {
		return x.ep
	}
	y := &pl.set.usable[second]
	if b.cfg.Algorithm == EWMA {
		now := b.pool.now()
		if pl.cost(y, now) < pl.cost(x, now) {
			return y.ep
		}
		return x.ep
	}
	if uint64(y.ep.active.Load())*x.weight < uint64(x.ep.active.Load())*y.weight {
		return y.ep
	}
	return x.ep
}

// cost is how long a request to m may take to be answered: its latency for
// each that is there already, for its weight, and for the one to come.
func (pl *plan) cost(m *member, now int64) float64 {
	load := float64(m.ep.active.Load()) * pl.meanWeight / float64(m.weight)
	return m.ep.latency.now(now) * (1 + load)
}

// draw returns a random endpoint of those usable, other than not, that was not tried;
// or -1.
func (b *Balancer) draw(pl *plan, q *Pick, not int) int {
	slow := time.Duration(b.pool.slow.Load())
	for range attempts {
		var i int
		if not >= 0 && pl.equal {
			n := len(pl.set.usable)
			if i = not + 1 + int(below(b.rand(), uint64(n-1))); i >= n {
				i -= n
			}
		} else {
			i = pl.search(b.rand())
		}
		ep := pl.set.usable[i].ep
		if i != not && !q.tried(ep) && (slow == 0 || b.admits(ep, slow)) {
			return i
		}
	}
	return -1
}

// remaining returns an endpoint in any case: one that was not tried if there is one, of
// those that are out if need be.
func (b *Balancer) remaining(pl *plan, q *Pick) *Endpoint {
	for _, list := range [2][]member{pl.set.usable, pl.set.all} {
		from := int(below(b.rand(), uint64(len(list))))
		for d := range list {
			i := from + d
			if i >= len(list) {
				i -= len(list)
			}
			if !q.tried(list[i].ep) {
				return list[i].ep
			}
		}
	}
	return pl.set.usable[pl.search(b.rand())].ep
}

// below maps a random number to one below n.
func below(random, n uint64) uint64 {
	hi, _ := bits.Mul64(random, n)
	return hi
}
