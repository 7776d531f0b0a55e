package balance

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Balancer chooses the endpoints of one Port. It is safe for concurrent use.
type Balancer struct {
	cfg Config

	mu        sync.Mutex
	picks     uint64 // how many there were
	algorithm algorithm
	affinity  time.Duration
	pools     []*pool // those the Port declares come first
	declared  int
	endpoints map[netip.AddrPort]*endpoint // in a pool, or with connections
	clients   clients
	ejections uint64
}

// maxStray bounds the pools that are known because a connection came with them
// and not because the Port has them: those of the Snapshot before.
const maxStray = 4

// New returns a Balancer without a Port; Update gives it one. The Config must be
// valid.
func New(cfg Config) *Balancer {
	cfg = cfg.filled()
	return &Balancer{
		cfg:       cfg,
		endpoints: make(map[netip.AddrPort]*endpoint),
		clients:   clients{limit: cfg.MaxClients},
	}
}

// Update makes port what is balanced. What is known of endpoints that stay is
// kept, and so are positions in the order of rr and wrr. An endpoint that is in no
// pool any more loses its clients and its failures; its connections are
// counted until they finish, in case it returns.
func (b *Balancer) Update(port *service.Port, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	al := parse(Effective(port.Scheduling, b.cfg.Default))
	old := b.pools
	if al != b.algorithm {
		b.algorithm = al
		for _, p := range old {
			p.setAlgorithm(al)
		}
	}
	b.pools = nil
	for i := range port.Frontends {
		for _, r := range port.Frontends[i].Routes {
			if r.Verdict == service.Forward && len(r.Pool) > 0 && b.find(r.Pool) == nil {
				b.pools = append(b.pools, b.inherit(r.Pool, old, len(b.pools)))
			}
		}
	}
	b.declared = len(b.pools)
	for _, p := range old {
		if !slices.Contains(b.pools, p) {
			b.drop(p)
		}
	}
	if b.affinity = port.Affinity; b.affinity == 0 {
		b.clients.clear()
	}
	b.clients.expire(now, b.affinity, b.clients.len())
}

// inherit returns the pool of old that has the endpoints of eps, or a new one that
// goes on where the nth of old was.
func (b *Balancer) inherit(eps service.Pool, old []*pool, nth int) *pool {
	for _, p := range old {
		if p.has(eps) && !slices.Contains(b.pools, p) {
			p.source = eps
			return p
		}
	}
	p := b.newPool(eps)
	if nth < len(old) {
		p.follow(old[nth])
	}
	return p
}

// find returns the pool that was made from eps, or nil. Pools are known by their
// arrays, since Routes share those of equal pools.
func (b *Balancer) find(eps service.Pool) *pool {
	for _, p := range b.pools {
		if len(p.source) == len(eps) && &p.source[0] == &eps[0] {
			return p
		}
	}
	return nil
}

// stray makes a pool of eps, which the Port does not have, known for a while.
func (b *Balancer) stray(eps service.Pool) *pool {
	for _, p := range b.pools {
		if p.has(eps) {
			return p
		}
	}
	if len(b.pools) == b.declared+maxStray {
		b.drop(b.pools[b.declared])
		b.pools = slices.Delete(b.pools, b.declared, b.declared+1)
	}
	p := b.newPool(eps)
	b.pools = append(b.pools, p)
	return p
}

// A Conn is a connection looking for an endpoint. The caller sets the exported
// fields and uses it for one connection only, from one goroutine at a time.
type Conn struct {
	Client   netip.AddrPort
	Frontend netip.AddrPort
	Pool     service.Pool // of the Route that applies, not to be changed

	held  *endpoint // counted at
	probe bool      // held is left out, and this is its chance
	n     int
	tried [MaxAttempts]*endpoint
}

// Attempts returns how many endpoints were picked for c.
func (c *Conn) Attempts() int { return c.n }

func (c *Conn) has(ep *endpoint) bool { return slices.Contains(c.tried[:c.n], ep) }

// Pick returns an endpoint that c has not tried yet, and counts c as one of its
// connections until Failed or Finished. False means that there is none: the pool
// is empty, all its endpoints or as many as may be were tried, or with ovf all
// are full.
func (b *Balancer) Pick(c *Conn, now time.Time) (netip.AddrPort, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(c)
	c.probe = false
	if c.n >= b.cfg.Attempts || len(c.Pool) == 0 {
		return netip.AddrPort{}, false
	}
	p := b.find(c.Pool)
	if p == nil {
		p = b.stray(c.Pool)
	}
	i := b.choose(p, c, now)
	if i < 0 {
		return netip.AddrPort{}, false
	}
	ep := p.members[i].ep
	c.held, c.tried[c.n] = ep, ep
	c.n++
	b.picks++
	ep.picked = b.picks
	b.count(ep, 1)
	return ep.addr, true
}

// choose returns the index of the member for c, or -1.
func (b *Balancer) choose(p *pool, c *Conn, now time.Time) int {
	client := c.Client.Addr()
	if b.affinity > 0 {
		b.clients.expire(now, b.affinity, 2)
		if ep := b.clients.get(client, now, b.affinity); ep != nil && !c.has(ep) {
			if i := ep.index(p); i >= 0 && !p.shut(i) {
				b.clients.put(client, ep, now)
				return i
			}
		}
	}
	i := -1
	if c.n == 0 {
		i = p.due(now, c)
		c.probe = i >= 0
	}
	if i < 0 {
		i = p.choose(c)
	}
	if i >= 0 && c.probe {
		p.members[i].ep.tryAgainAt(now.Add(b.cfg.Outlier.Base))
	}
	if i >= 0 && b.affinity > 0 {
		b.clients.put(client, p.members[i].ep, now)
	}
	return i
}

// Connected says that the endpoint picked last for c has answered. A caller that
// cannot tell, because a protocol has no handshake, calls it when it is done.
func (b *Balancer) Connected(c *Conn, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.held != nil {
		c.held.succeed(now)
	}
}

// Failed says that the endpoint picked last for c cannot be connected to. c is not
// counted there any more and may Pick again.
func (b *Balancer) Failed(c *Conn, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ep := c.held
	if ep == nil {
		return
	}
	b.release(c)
	if !b.cfg.Outlier.Off && len(ep.refs) > 0 && ep.fail(&b.cfg.Outlier, c.probe, now) {
		b.ejections++
	}
}

// Finished says that c is over, whether it got connected or not. It does nothing
// for a Conn that has no endpoint, so a caller may defer it.
func (b *Balancer) Finished(c *Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(c)
}

func (b *Balancer) release(c *Conn) {
	if c.held != nil {
		b.count(c.held, -1)
		b.forget(c.held)
		c.held = nil
	}
}

func (b *Balancer) count(ep *endpoint, d int64) {
	ep.active += d
	if b.algorithm.counts() {
		for _, r := range ep.refs {
			r.pool.fix(r.index)
		}
	}
}

// drop takes p from the endpoints that are in it.
func (b *Balancer) drop(p *pool) {
	for i := range p.members {
		ep := p.members[i].ep
		ep.refs = slices.DeleteFunc(ep.refs, func(r ref) bool { return r.pool == p })
		if len(ep.refs) == 0 {
			ep.reset()
		}
		b.forget(ep)
	}
}

func (b *Balancer) forget(ep *endpoint) {
	if len(ep.refs) == 0 && ep.active == 0 {
		delete(b.endpoints, ep.addr)
	}
}

// Stats are numbers of one Balancer.
type Stats struct {
	Endpoints int    // in any pool
	LeftOut   int    // of these, left out of a pool for failing
	Active    int64  // connections from Pick to Finished
	Clients   int    // remembered for affinity
	Ejections uint64 // how often an endpoint was to be left out that was not before
}

// Stats returns the numbers of b. It takes time in proportion to the endpoints.
func (b *Balancer) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{Clients: b.clients.len(), Ejections: b.ejections}
	for _, ep := range b.endpoints {
		s.Active += ep.active
		if len(ep.refs) > 0 {
			s.Endpoints++
		}
		if slices.ContainsFunc(ep.refs, func(r ref) bool { return r.pool.members[r.index].out }) {
			s.LeftOut++
		}
	}
	return s
}
