package balance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// Options is what a Pool needs besides its endpoints. The zero value is ready.
type Options struct {
	Checker *Checker      // runs active checks; nil: there are none, whatever Health says
	Key     []byte        // hides addresses in persistent sessions; the same on every node
	Rand    func() uint64 // optional; for tests
}

// A Pool is the endpoints of one port of one Service and what is known of them.
// It is safe for concurrent use.
type Pool struct {
	name  string
	tag   string // stands for name in sessions
	opts  Options
	epoch time.Time

	current  atomic.Pointer[set]
	timed    atomic.Bool  // somebody wants latencies
	windowed atomic.Bool  // failures count by Passive.FailTimeout
	wake     atomic.Int64 // when the next ejection ends that no request decides yet
	slow     atomic.Int64 // Health.SlowStart while somebody may be in it, else 0
	ejected  atomic.Uint64

	mu      sync.Mutex
	health  Health             // with defaults in place
	eps     []service.Endpoint // as they were set
	serving []service.Endpoint
	known   map[netip.AddrPort]*Endpoint
}

const never = math.MaxInt64

// NewPool returns a Pool without endpoints. The name, the same on every node, says
// which sessions are its own.
func NewPool(name string, o Options) *Pool {
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	p := &Pool{name: name, opts: o, epoch: time.Now(), known: map[netip.AddrPort]*Endpoint{}}
	p.tag = p.keyed("pool", []byte(name))[:tagLen]
	p.health.Passive = p.health.Passive.filled()
	p.wake.Store(never)
	p.current.Store(&set{})
	return p
}

// Name returns the name given to NewPool.
func (p *Pool) Name() string { return p.name }

// Ejections returns how many times an endpoint was ejected for failures.
func (p *Pool) Ejections() uint64 { return p.ejected.Load() }

// now returns the time since the Pool was made, never 0.
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) + 1 }

// keyed returns a hash of what, which is of a kind, that only those who have the key can make.
func (p *Pool) keyed(kind string, what []byte) string {
	h := hmac.New(sha256.New, p.opts.Key)
	h.Write([]byte("fairlead l7 balance " + kind + "\x00"))
	h.Write(what)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:8])
}

// Set makes eps the endpoints that new requests are sent to: the Pool of
// service.Port.Internal, or nil if its Verdict is not Forward. Serving is
// service.Port.Serving: sticky sessions are kept at an endpoint as long as it is
// there. What is known of addresses that stay is kept. Set copies what it needs.
func (p *Pool) Set(eps, serving []service.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(eps, p.eps) && slices.Equal(serving, p.serving) {
		return
	}
	now := p.now()
	beside := slices.ContainsFunc(eps, func(e service.Endpoint) bool {
		old := p.known[e.Addr]
		return old != nil && old.chosen
	})
	mean := p.mean(now)
	known := make(map[netip.AddrPort]*Endpoint, max(len(eps), len(serving)))
	for _, e := range eps {
		ep := p.keep(known, e.Addr)
		if !ep.chosen && beside {
			p.rampUp(ep, now)
			ep.latency.observe(mean, now)
		}
		ep.chosen = true
	}
	for _, e := range serving {
		p.keep(known, e.Addr)
	}
	old := p.known
	p.known, p.eps, p.serving = known, slices.Clone(eps), slices.Clone(serving)
	for addr, ep := range old {
		if known[addr] == nil {
			p.unwatch(ep)
		}
	}
	p.watchAll()
	p.publish()
}

// keep puts what is known of addr into known.
func (p *Pool) keep(known map[netip.AddrPort]*Endpoint, addr netip.AddrPort) *Endpoint {
	if ep := known[addr]; ep != nil {
		return ep
	}
	ep := p.known[addr]
	if ep == nil {
		ep = &Endpoint{addr: addr, pool: p, hash: hashAddr(addr)}
		ep.name = sync.OnceValue(func() string {
			b, _ := addr.MarshalBinary()
			return p.keyed("endpoint", b)
		})
	}
	known[addr] = ep
	return ep
}

// mean returns the mean of the latencies that are known, in nanoseconds.
func (p *Pool) mean(now int64) float64 {
	if !p.timed.Load() {
		return 0
	}
	sum, n := 0.0, 0
	for _, ep := range p.known {
		if v := ep.latency.now(now); v > 0 {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// rampUp begins the slow start of ep, if there is one.
func (p *Pool) rampUp(ep *Endpoint, now int64) {
	if p.health.SlowStart > 0 {
		ep.ramp.Store(now)
	}
}

// SetHealth makes h what tells good endpoints from bad ones. It must be valid.
// Those that are ejected stay so for as long as they were to.
func (p *Pool) SetHealth(h Health) {
	h.Passive = h.Passive.filled()
	if h.Check != nil {
		c := h.Check.filled()
		h.Check = &c
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.equal(&p.health) {
		return
	}
	old := p.health
	p.health = h
	p.windowed.Store(h.Passive.FailTimeout > 0)
	if h.Check == nil || old.Check == nil || *h.Check != *old.Check {
		for _, ep := range p.known {
			p.unwatch(ep)
		}
		p.watchAll()
	}
	if h.SlowStart == 0 {
		for _, ep := range p.known {
			ep.ramp.Store(0)
		}
	}
	if h.Passive.Off {
		for _, ep := range p.known {
			ep.fails.Store(0)
			ep.shut.Store(false)
		}
	}
	p.publish()
}

// Close ends the active checks of p. Its Balancers go on with the endpoints they have.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ep := range p.known {
		p.unwatch(ep)
	}
	p.opts.Checker = nil
}

// Balancer returns what chooses among the endpoints of p as c says. The Config must be
// valid.
func (p *Pool) Balancer(c Config) *Balancer {
	if c.Algorithm == EWMA {
		p.timed.Store(true)
	}
	b := &Balancer{pool: p, cfg: c, rand: p.opts.Rand}
	if c.Sticky != nil {
		s := *c.Sticky
		b.cfg.Sticky = &s
	}
	b.turn.Store(b.rand() >> 1)
	return b
}
