package balance

import (
	"net/netip"
	"slices"
	"time"
)

// A State is what a Balancer knows from experience, for one of another process to go
// on with. Times are before or after that of State.
type State struct {
	Clients   []Client  `json:",omitempty"` // bound to endpoints, the one longest ago first
	Endpoints []Outcome `json:",omitempty"` // those that have failed
}

// A Client is one that is bound to an endpoint.
type Client struct {
	Addr netip.Addr
	To   netip.AddrPort
	Ago  time.Duration // its last connection
}

// An Outcome is what connecting to an endpoint has come to lately.
type Outcome struct {
	Addr    netip.AddrPort
	Fails   int           `json:",omitempty"` // in a row
	Ejected bool          `json:",omitempty"`
	Timeout time.Duration `json:",omitempty"` // of the last ejection
	Until   time.Duration `json:",omitempty"` // may be tried again, if ejected
	Back    time.Duration `json:",omitempty"` // since it came back from the last ejection, if it did
}

// State returns what b knows. It takes time in proportion to the endpoints and the
// clients.
func (b *Balancer) State(now time.Time) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s State
	for _, ep := range b.endpoints {
		if len(ep.refs) == 0 || ep.fails == 0 && ep.timeout == 0 {
			continue
		}
		o := Outcome{Addr: ep.addr, Fails: ep.fails, Ejected: ep.ejected, Timeout: ep.timeout}
		if ep.ejected {
			o.Until = ep.until.Sub(now)
		} else if !ep.back.IsZero() {
			o.Back = now.Sub(ep.back)
		}
		s.Endpoints = append(s.Endpoints, o)
	}
	slices.SortFunc(s.Endpoints, func(a, b Outcome) int { return a.Addr.Compare(b.Addr) })
	if b.affinity == 0 || b.clients.len() == 0 {
		return s
	}
	for i := b.clients.slab[0].prev; i != 0; i = b.clients.slab[i].prev {
		if c := &b.clients.slab[i]; c.epoch == c.ep.epoch {
			s.Clients = append(s.Clients, Client{c.addr, c.ep.addr, now.Sub(c.at)})
		}
	}
	return s
}

// Learn adds to what b knows, before it has connections of its own. What is about
// endpoints that b does not have is left out.
func (b *Balancer) Learn(s State, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range s.Endpoints {
		ep := b.endpoints[o.Addr]
		if ep == nil || len(ep.refs) == 0 {
			continue
		}
		ep.fails, ep.timeout = o.Fails, o.Timeout
		if o.Back > 0 {
			ep.back = now.Add(-o.Back)
		}
		if o.Ejected && !b.cfg.Outlier.Off && !ep.ejected {
			ep.ejected = true
			ep.leave(&b.cfg.Outlier)
			ep.tryAgainAt(now.Add(o.Until))
		}
	}
	if b.affinity == 0 {
		return
	}
	for _, c := range s.Clients {
		if ep := b.endpoints[c.To]; ep != nil && len(ep.refs) > 0 && c.Ago < b.affinity {
			b.clients.put(c.Addr, ep, now.Add(-c.Ago))
		}
	}
}

// Join counts c as a connection of an endpoint that it has already, until Finished.
// That may be one that b does not have any more.
func (b *Balancer) Join(c *Conn, at netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(c)
	ep := b.endpoints[at]
	if ep == nil {
		ep = b.newEndpoint(at)
	}
	c.held, c.tried[0], c.n = ep, ep, 1
	b.count(ep, 1)
}

// newEndpoint makes one known.
func (b *Balancer) newEndpoint(at netip.AddrPort) *endpoint {
	ep := &endpoint{addr: at, hash: hash(at)}
	if b.cfg.Seed != 0 {
		ep.rank = mix(ep.hash, b.cfg.Seed)
	}
	b.endpoints[at] = ep
	return ep
}
