package ipvs

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// deadGrace is how long the connections of a pod that was deleted are left to end
// by themselves. Then their clients are told: without that they would wait for an
// answer as long as connections are remembered, a day by default.
const deadGrace = 2 * time.Second

// A drainer knows the destinations that take no new connections and still have
// old ones. It is a state machine without a clock and without a kernel.
//
// Destinations that are not wanted any more get the weight 0 and are deleted when
// their last connection has ended; deadGrace after their pod was deleted; or after
// the timeout, if there is one. UDP has no end of a connection, but flows that the
// kernel forgets: a destination keeps them as long as the endpoint serves, and then
// goes at once, so that they move to another. So it does where the scheduler would
// not let go of it.
type drainer struct {
	timeout time.Duration // zero for none
	servers map[kernel.ServerKey]*draining
}

// A draining is a virtual server with destinations that drain.
type draining struct {
	server    kernel.Server // as it was, in case nobody wants it any more
	published bool          // packets to it are routed to the node
	use       use           // what its address was used for
	held      bool          // its address is kept although no unit wants it
	dests     map[netip.AddrPort]*leaving
}

// A leaving is a destination that drains.
type leaving struct {
	since    time.Time
	departed bool      // its pod was being deleted when last heard of
	deadline time.Time // when it is deleted, idle or not; zero for never
	counted  bool      // its connections have been counted since it began
}

func newDrainer(timeout time.Duration) *drainer {
	return &drainer{timeout: timeout, servers: make(map[kernel.ServerKey]*draining)}
}

// update decides about the destinations the kernel has at key, of which u wants
// some. Before is the unit that wanted them; either may be nil. It reports whether
// some began to drain, and nobody has counted their connections yet.
func (d *drainer) update(now time.Time, key kernel.ServerKey, have *actual, u, before *unit, uses use) bool {
	if have == nil || !have.serves {
		delete(d.servers, key)
		return false
	}
	began := false
	if u != nil && u.serves && have.dests.are(u.pool) && d.servers[key] == nil {
		return false // nobody leaves
	}
	for i := range have.dests.len() {
		dst := have.dests.at(i)
		if u.wants(dst.addr) {
			d.drop(key, dst.addr)
			continue
		}
		l := d.find(key, dst.addr)
		if key.Protocol == service.UDP && !u.serving(dst.addr) || u.sticks() {
			d.drop(key, dst.addr)
			continue
		}
		if l == nil {
			l = d.begin(now, key, dst.addr, have, uses)
		}
		began = began || !l.counted
		l.departed = l.departed || u.departing(dst.addr) || before.departing(dst.addr)
		if l.departed && u.gone(dst.addr) {
			l.by(now.Add(deadGrace))
		}
	}
	return began
}

// sticks reports whether the scheduler of a unit would go on choosing a destination
// that has no weight, and so refuse every new connection as long as it drained.
// Destination hashing knows one for each address, and has no flag to fall back to
// another, as other hashes have (ip_vs_dh.c). There the connections of one that has
// left are cut.
func (u *unit) sticks() bool { return u != nil && u.serves && u.server.Scheduler == "dh" }

// by sets the deadline unless there is an earlier one.
func (l *leaving) by(t time.Time) {
	if l.deadline.IsZero() || t.Before(l.deadline) {
		l.deadline = t
	}
}

func (d *drainer) begin(now time.Time, key kernel.ServerKey, a netip.AddrPort, have *actual, uses use) *leaving {
	s := d.servers[key]
	if s == nil {
		s = &draining{
			server: have.server, published: have.in&inVIP != 0, use: uses &^ useCluster,
			dests: make(map[netip.AddrPort]*leaving),
		}
		d.servers[key] = s
	}
	l := &leaving{since: now}
	if d.timeout > 0 {
		l.deadline = now.Add(d.timeout)
	}
	s.dests[a] = l
	return l
}

func (d *drainer) find(key kernel.ServerKey, a netip.AddrPort) *leaving {
	if s := d.servers[key]; s != nil {
		return s.dests[a]
	}
	return nil
}

// drop forgets a destination that is wanted again, or gone.
func (d *drainer) drop(key kernel.ServerKey, a netip.AddrPort) {
	if s := d.servers[key]; s != nil {
		delete(s.dests, a)
	}
}

// observe decides about the destinations of a server as it was read: what is
// idle or late is dropped, and so is what is not there. It reports whether any
// was.
func (d *drainer) observe(now time.Time, key kernel.ServerKey, seen *kernel.ServerState) bool {
	s := d.servers[key]
	if s == nil {
		return false
	}
	before := len(s.dests)
	for a, l := range s.dests {
		l.counted = true
		conns, there := connsOf(seen, a)
		late := !l.deadline.IsZero() && !now.Before(l.deadline)
		if !there || conns.Idle() || late {
			delete(s.dests, a)
		}
	}
	return len(s.dests) != before
}

func connsOf(s *kernel.ServerState, a netip.AddrPort) (kernel.Conns, bool) {
	if s == nil {
		return kernel.Conns{}, false
	}
	i, ok := slices.BinarySearchFunc(s.Dests, a, func(d kernel.Dest, a netip.AddrPort) int { return d.Addr.Compare(a) })
	if !ok {
		return kernel.Conns{}, false
	}
	return s.Dests[i].Conns, true
}

// How often connections are counted. The young and those with a deadline are
// looked at often; who has lasted for hours will last for another minute.
const (
	pollMin   = time.Second
	pollMax   = time.Minute
	pollShare = 10 // the age of the youngest, divided by this
)

// next returns when to observe again, or the zero Time if nothing drains.
func (d *drainer) next(now time.Time) time.Time {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, s := range d.servers {
		for _, l := range s.dests {
			if !l.deadline.IsZero() {
				earlier(l.deadline)
			}
			earlier(now.Add(min(max(now.Sub(l.since)/pollShare, pollMin), pollMax)))
		}
	}
	return at
}

// count returns how many destinations drain.
func (d *drainer) count() int {
	n := 0
	for _, s := range d.servers {
		n += len(s.dests)
	}
	return n
}

// wants reports whether a is a destination of u, which may be nil.
func (u *unit) wants(a netip.AddrPort) bool { return u != nil && u.serves && holds(u.pool, a) }

// serving reports whether a still serves its flows.
func (u *unit) serving(a netip.AddrPort) bool { return u != nil && holds(u.port.Serving, a) }

// departing reports whether the pod of a is being deleted.
func (u *unit) departing(a netip.AddrPort) bool { return u != nil && holds(u.port.Departing, a) }

// gone reports whether the Service is there and does not know a any more.
func (u *unit) gone(a netip.AddrPort) bool {
	return u != nil && !holds(u.port.Serving, a) && !holds(u.port.Departing, a)
}

func holds(p service.Pool, a netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(p, a, func(e service.Endpoint, a netip.AddrPort) int { return e.Addr.Compare(a) })
	return ok
}
