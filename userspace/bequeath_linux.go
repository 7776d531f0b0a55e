package userspace

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/handover"
	"github.com/fairlead-project/fairlead/userspace/relay"
	"github.com/fairlead-project/fairlead/userspace/udp"
)

// maxClients is how many clients, or endpoints, of a Port a parcel has at most.
const maxClients = 500

// errNotTaken says that the other process has not taken a parcel.
var errNotTaken = errors.New("the other process has not acknowledged")

// handOver gives the other process what there is. What it does not take stays.
func (p *Proxy) handOver(conn *handover.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(passTime)); err != nil {
		return err
	}
	err := p.giveBalancers(conn)
	// Without it the other one cannot serve those who come back; but nobody else
	// listens to them here.
	var refused error
	p.udp.Give(func(list []udp.Given) bool {
		refused = errors.Join(err, p.giveSessions(conn, list))
		return refused == nil
	})
	if err = errors.Join(err, refused); err != nil {
		return err
	}
	if err := deliver(conn, parcel{Begin: true}, nil); err != nil {
		return err
	}
	return p.giveConns(conn)
}

// deliver sends a parcel and waits until the other process has acknowledged it. With
// an error it has not, and will not.
func deliver(conn *handover.Conn, what parcel, fds []int) error {
	if err := conn.Send(what, fds); err != nil {
		return errors.Join(err, conn.Shut())
	}
	var r request
	_, err := conn.Receive(&r)
	if err == nil {
		return nil
	}
	// It may be on its way. What comes after this the other process cannot say.
	shut := conn.Shut()
	extended := conn.SetDeadline(time.Now().Add(time.Second))
	if _, late := conn.Receive(&r); late == nil && shut == nil && extended == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errNotTaken, err)
}

// giveBalancers tells of each Port that there is anything to tell of.
func (p *Proxy) giveBalancers(conn *handover.Conn) error {
	p.mu.RLock()
	ports := make([]*portState, 0, len(p.ports))
	for _, s := range p.ports {
		ports = append(ports, s)
	}
	p.mu.RUnlock()
	now := time.Now()
	for _, s := range ports {
		b := s.chooser.Load()
		if b == nil {
			continue
		}
		state := b.State(now)
		for len(state.Clients)+len(state.Endpoints) > 0 {
			part := state
			part.Clients = state.Clients[:min(len(state.Clients), maxClients)]
			part.Endpoints = state.Endpoints[:min(len(state.Endpoints), maxClients)]
			state.Clients, state.Endpoints = state.Clients[len(part.Clients):], state.Endpoints[len(part.Endpoints):]
			if err := deliver(conn, parcel{Balancers: []balancer{{s.id, part}}}, nil); err != nil {
				return fmt.Errorf("hand over what is known of %v: %w", s.id, err)
			}
		}
	}
	return nil
}

func (p *Proxy) giveSessions(conn *handover.Conn, list []udp.Given) error {
	var what parcel
	var fds []int
	for _, g := range list {
		what.Sessions = append(what.Sessions, passedSession{g.Lease.(*call).port.id, g})
		fds = append(fds, g.FD)
	}
	if err := deliver(conn, what, fds); err != nil {
		return fmt.Errorf("hand over sessions: %w", err)
	}
	p.succession.given.Add(uint64(len(list)))
	return nil
}

// giveConns hands connections over until there are none.
func (p *Proxy) giveConns(conn *handover.Conn) error {
	for end := time.Now().Add(giveTime); time.Now().Before(end); {
		list := p.tcp.Give()
		if len(list) == 0 {
			if p.tcp.Counters().Active == 0 {
				return deliver(conn, parcel{Done: true}, nil)
			}
			time.Sleep(20 * time.Millisecond) // some look for an endpoint, or have just gone
			continue
		}
		var what parcel
		var fds []int
		for _, g := range list {
			j := g.Journey.(journeyer).trip()
			what.Conns = append(what.Conns, passedConn{
				Port: j.port.id, Client: j.conn.Client, Frontend: j.conn.Frontend, Endpoint: j.at,
				Age: time.Since(j.begun), State: g.State, FDs: len(g.FDs),
			})
			fds = append(fds, g.FDs...)
		}
		err := conn.SetDeadline(time.Now().Add(passTime))
		if err == nil {
			err = deliver(conn, what, fds)
		}
		for i := range list {
			if err == nil {
				list[i].Gone()
			} else {
				list[i].Resume()
			}
		}
		if err != nil {
			return fmt.Errorf("hand over connections: %w", err)
		}
	}
	return fmt.Errorf("not all was handed over in %v", giveTime)
}

// A journeyer is a relay.Journey of a Proxy.
type journeyer interface{ trip() *journey }

func (j *journey) trip() *journey { return j }

// takeOver tells the process before that its time is over, and takes what there is
// until it says that the new one is to serve. The rest comes while it does.
func (p *Proxy) takeOver() (rest func()) {
	e := p.succession.estate
	if e == nil {
		return func() {}
	}
	p.succession.estate = nil
	err := e.conn.SetDeadline(time.Now().Add(passTime))
	if err == nil {
		err = e.conn.Send(request{Take: true, Version: successionVersion}, nil)
	}
	if err == nil {
		err = p.takeUntil(e.conn, func(what *parcel) bool { return what.Begin })
	}
	if err != nil {
		p.log.Warn("what the process before has open stays there, or is lost with it", "err", err)
		_ = e.conn.Close()
		return func() {}
	}
	return func() {
		err := p.takeUntil(e.conn, func(what *parcel) bool { return what.Done })
		_ = e.conn.Close()
		p.log.Info("took over from the process before", "connections", p.tcp.Counters().Taken, "sessions", p.succession.taken.Load(), "err", err)
	}
}

// takeUntil takes parcels up to the last.
func (p *Proxy) takeUntil(conn *handover.Conn, last func(*parcel) bool) error {
	for {
		if err := conn.SetDeadline(time.Now().Add(passTime)); err != nil {
			return err
		}
		var what parcel
		fds, err := conn.Receive(&what)
		if err != nil {
			return err
		}
		// From here on it is ours or theirs: what cannot be said in time is theirs.
		if err := conn.Send(request{}, nil); err != nil {
			handover.CloseAll(fds)
			return err
		}
		p.unpack(&what, fds)
		if last(&what) {
			return nil
		}
	}
}

// unpack takes what is in a parcel. What makes no sense is closed.
func (p *Proxy) unpack(what *parcel, fds []int) {
	now := time.Now()
	for i := range what.Balancers {
		if s := p.stateOf(what.Balancers[i].Port); s != nil {
			s.balancer().Learn(what.Balancers[i].State, now)
		}
	}
	for i := range what.Sessions {
		if len(fds) > 0 {
			p.takeSession(&what.Sessions[i], fds[0])
			fds = fds[1:]
		}
	}
	for i := range what.Conns {
		if c := &what.Conns[i]; c.FDs >= 0 && c.FDs <= len(fds) {
			p.takeConn(c, fds[:c.FDs], now)
			fds = fds[c.FDs:]
		}
	}
	handover.CloseAll(fds)
}

// stateOf returns what is known of a Port; nil if there is none.
func (p *Proxy) stateOf(id service.PortID) *portState {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.ports[id]
}

// takeSession goes on with a session, if it would still go there.
func (p *Proxy) takeSession(s *passedSession, fd int) {
	g := s.Session
	g.FD = fd
	c := p.call(Place{service.UDP, g.Flow.Frontend}, g.Flow.Client, g.Flow.Origin)
	if c == nil || c.port.id != s.Port || !c.port.serves(g.Addr) {
		handover.CloseAll([]int{fd}) // the next datagram goes to another
		return
	}
	c.at, c.source = g.Addr, g.Source
	c.port.balancer().Join(&c.conn, c.at)
	g.Lease = c
	if err := p.udp.Take(&g); err != nil {
		c.port.balancer().Finished(&c.conn)
		return
	}
	p.succession.taken.Add(1)
	if !c.port.serves(g.Addr) { // any more
		p.udp.Retarget(g.Addr, func(f udp.Flow) bool { return f == g.Flow })
	}
}

// takeConn goes on with a connection, also where nobody new would be sent any more.
func (p *Proxy) takeConn(c *passedConn, fds []int, now time.Time) {
	s := p.stateOf(c.Port)
	if s == nil {
		p.mu.RLock()
		s = p.newPort(c.Port) // as if it had been removed while we were there
		p.mu.RUnlock()
	}
	h := &heir{journey{call: call{proxy: p, port: s, at: c.Endpoint}, begun: now.Add(-c.Age)}}
	h.conn.Client, h.conn.Frontend = c.Client, c.Frontend
	s.balancer().Join(&h.conn, c.Endpoint)
	if err := p.tcp.Take(c.State, fds, h); err != nil {
		handover.CloseAll(fds)
		s.balancer().Finished(&h.conn)
		return
	}
	if !s.has(c.Endpoint) {
		p.cutLater(s, c.Endpoint, now) // its pod has gone between the two of us
	}
}

// An heir is the journey of a connection that another process has begun.
type heir struct{ journey }

// Connected notes the connection. That the endpoint has answered is old.
func (h *heir) Connected(handle relay.Handle) { h.enter(handle) }

// serves reports whether an endpoint takes part in serving a Port.
func (s *portState) serves(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now != nil && holds(s.now.Serving, a)
}

// has reports whether there is an endpoint, serving or departing, if that is known.
func (s *portState) has(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now == nil || holds(s.now.Serving, a) || holds(s.now.Departing, a)
}

// idle reports whether nothing is open that clients would miss.
func (p *Proxy) idle() bool {
	return p.tcp.Counters().Active == 0 && p.udp.Stats().Sessions == 0
}
