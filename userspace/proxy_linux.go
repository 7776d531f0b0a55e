package userspace

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/balance"
	"github.com/fairlead-project/fairlead/userspace/relay"
	"github.com/fairlead-project/fairlead/userspace/udp"
)

// departedGrace is how long the connections of a pod that was deleted are left to
// end by themselves, as in IPVS mode. Then their clients are told, who would wait
// for an answer as long as the kernel repeats its packets.
const departedGrace = 2 * time.Second

// A ProxyConfig is what a [Proxy] needs to know.
type ProxyConfig struct {
	Config

	// Balance says how endpoints are chosen.
	Balance balance.Config
	// ConnectTimeout is how long an endpoint may take to accept a connection
	// before the next is tried; zero means 2 seconds.
	ConnectTimeout time.Duration
	// UDPTimeout is how long a UDP session lasts without a datagram; zero means
	// as long as in connection tracking, 120 seconds.
	UDPTimeout time.Duration
	// MaxSessions is how many UDP sessions there may be; zero means 65536.
	MaxSessions int
}

// A Proxy accepts what the rules of the [Dataplane] catch, or comes to ordinary
// sockets, and passes it on to endpoints. It implements [Server], and is safe for concurrent use.
type Proxy struct {
	cfg   ProxyConfig
	plain bool // see NewPlainProxy
	log   *slog.Logger
	tcp   *relay.Engine
	udp   *udp.Engine
	links *links

	succession *succession

	mu      sync.RWMutex
	node    *service.Node
	ports   map[service.PortID]*portState
	served  map[Place]frontend
	timers  sync.WaitGroup
	told    chan struct{} // closed by the first Follow
	tell    func()        // closes told
	stopped chan struct{}
}

// A frontend is what is served at a place.
type frontend struct {
	port     *portState
	frontend *service.Frontend
}

// A portState is what the proxy knows of a Port. It outlives the Port if there are
// connections.
type portState struct {
	id      service.PortID
	proxy   *Proxy
	seed    uint64                           // see balanceSeed
	chooser atomic.Pointer[balance.Balancer] // nil before anybody calls: most Ports nobody does

	mu       sync.Mutex
	now      *service.Port                            // nil once it is no more
	journeys map[netip.AddrPort]map[*journey]struct{} // connected, by endpoint
}

// NewProxy listens at the ports of the Config. It serves nothing until Run, and
// until told by Follow what.
func NewProxy(cfg ProxyConfig) (*Proxy, error) {
	p, err := newProxy(cfg)
	if err != nil {
		return nil, err
	}
	p.tcp, err = relay.New(relay.Config{
		Handler: p, Transparent: true, Mark: cfg.SocketMark(), ConnectTimeout: p.cfg.ConnectTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("userspace: %w", err)
	}
	if p.succession.estate, err = inherit(); err != nil {
		p.log.Warn("the process before this one hands nothing over", "err", err)
	}
	if err := p.listen(p.succession.estate); err != nil {
		p.succession.estate.close()
		return nil, errors.Join(err, p.tcp.Close())
	}
	p.succession.estate.rest()
	return p, nil
}

// newProxy returns a Proxy without engines.
func newProxy(cfg ProxyConfig) (*Proxy, error) {
	if err := errors.Join(cfg.Config.Validate(), cfg.Balance.Validate()); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		return nil, errors.New("userspace: Config.Log is required")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 2 * time.Second
	}
	p := &Proxy{
		cfg: cfg, log: cfg.Log, links: newLinks(),
		node: &service.Node{}, ports: make(map[service.PortID]*portState), served: make(map[Place]frontend),
		told: make(chan struct{}), stopped: make(chan struct{}), succession: newSuccession(),
	}
	p.tell = sync.OnceFunc(func() { close(p.told) })
	return p, nil
}

// listen opens the sockets of all families and origins that are not in the estate.
func (p *Proxy) listen(e *estate) error {
	datagrams := udp.Config{
		Handler: sessions{p}, Transparent: true, Mark: p.cfg.SocketMark(),
		IdleTimeout: p.cfg.UDPTimeout, MaxSessions: p.cfg.MaxSessions, Inherited: e.datagrams(),
	}
	for _, f := range p.cfg.families() {
		for o := range service.Origin(service.NumOrigins) {
			at := p.cfg.Listen(f, o)
			var err error
			if s, ok := e.listener(at, o); ok {
				err = p.tcp.Inherit(s)
			} else {
				_, err = p.tcp.Listen(at, o)
			}
			if err != nil {
				return fmt.Errorf("userspace: listen at tcp %v: %w", at, err)
			}
			datagrams.Listeners = append(datagrams.Listeners, udp.Listener{Addr: at, Origin: o})
		}
	}
	var err error
	if p.udp, err = udp.Open(datagrams); err != nil {
		return fmt.Errorf("userspace: listen at udp: %w", err)
	}
	return nil
}

// Run serves until ctx is done, which is no error. Then it resets all connections that
// no other process takes over; but for a Proxy that NewPlainProxy has made, it leaves
// them a second to end, in which new ones wait for who comes after.
//
// It begins after the first Follow. What comes before, sent here by rules that an
// earlier process has left, waits in the kernel: nobody could say where it is to go,
// and to refuse it would be wrong.
func (p *Proxy) Run(ctx context.Context) error {
	select {
	case <-p.told:
	case <-ctx.Done():
		close(p.stopped)
		p.timers.Wait()
		return p.Close()
	}
	rest := p.takeOver()
	outer := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(outer))
	defer cancel() // if one ends, so does the other
	defer context.AfterFunc(outer, func() {
		p.windUp()
		cancel()
	})()
	if !p.plain {
		p.timers.Go(func() {
			rest()
			p.offer(ctx)
		})
	}
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- p.udp.Serve(ctx)
	}()
	err := p.tcp.Run(ctx)
	cancel()
	err = errors.Join(err, <-served)
	close(p.stopped)
	p.timers.Wait()
	return err
}

// Close gives back what a Proxy holds that was not run.
func (p *Proxy) Close() error {
	p.succession.estate.close()
	return errors.Join(p.tcp.Close(), p.udp.Close())
}

// Follow implements [Server].
func (p *Proxy) Follow(node *service.Node, ports []PortChange, places []PlaceChange) {
	now := time.Now()
	var left []leave
	ended := make(map[netip.AddrPort]bool) // of UDP: all sessions there
	p.mu.Lock()
	p.node = node
	for _, c := range ports {
		left = append(left, p.change(c, now)...)
	}
	for _, c := range places {
		if another := p.place(c); c.Place.Protocol == service.UDP && (another || !c.serves()) {
			ended[c.Place.Addr] = true
		}
	}
	p.mu.Unlock()
	// Not before: sessions ask where to go now.
	if len(ended) > 0 {
		p.udp.EndFrontends(func(a netip.AddrPort) bool { return ended[a] })
	}
	p.tell()
	for _, l := range left {
		p.udp.Retarget(l.endpoint, func(f udp.Flow) bool { return p.portOf(f.Frontend) == l.port })
	}
}

// place notes what is served at a place, and reports whether that is another Port
// than before: it has other endpoints, and even where they are equal, other sessions.
func (p *Proxy) place(c PlaceChange) (another bool) {
	before := p.served[c.Place].port
	if c.Frontend == nil {
		delete(p.served, c.Place)
		return before != nil
	}
	port := p.ports[c.Port.ID]
	p.served[c.Place] = frontend{port, c.Frontend}
	return before != nil && before != port
}

// serves reports whether anybody is served.
func (c PlaceChange) serves() bool {
	return c.Frontend != nil && slices.ContainsFunc(c.Frontend.Routes[:], func(r service.Route) bool {
		return r.Verdict == service.Forward
	})
}

// A leave is of an endpoint that does not serve UDP any more.
type leave struct {
	port     *portState
	endpoint netip.AddrPort
}

// portOf returns what is served at a UDP frontend; nil is nothing.
func (p *Proxy) portOf(at netip.AddrPort) *portState {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.served[Place{service.UDP, at}].port
}

// change follows a Port, and returns what leaves it of UDP endpoints. The
// connections of TCP last, unless their pod is gone.
func (p *Proxy) change(c PortChange, now time.Time) []leave {
	if c.New == nil {
		if s := p.ports[c.Old.ID]; s != nil {
			s.follow(nil, now)
		}
		delete(p.ports, c.Old.ID)
		return nil // its places are not served any more, which ends its sessions
	}
	s := p.ports[c.New.ID]
	if s == nil {
		s = p.newPort(c.New.ID)
		p.ports[c.New.ID] = s
	}
	s.follow(c.New, now)
	if c.Old == nil {
		return nil
	}
	if c.New.ID.Protocol == service.UDP {
		var out []leave
		for _, ep := range c.Old.Serving {
			if !holds(c.New.Serving, ep.Addr) {
				out = append(out, leave{s, ep.Addr})
			}
		}
		return out
	}
	for _, ep := range c.Old.Departing {
		if !holds(c.New.Serving, ep.Addr) && !holds(c.New.Departing, ep.Addr) {
			p.cutLater(s, ep.Addr, now)
		}
	}
	return nil
}

func (p *Proxy) newPort(id service.PortID) *portState {
	return &portState{id: id, proxy: p, seed: p.balanceSeed(id)}
}

// follow notes what the Port is now; nil says that it is no more.
func (s *portState) follow(port *service.Port, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = port
	if b := s.chooser.Load(); b != nil && port != nil {
		b.Update(port, now)
	}
}

// balancer returns the one there is, or makes it: it is the same as if it had been there
// all the time and had had nothing to do.
func (s *portState) balancer() *balance.Balancer {
	if b := s.chooser.Load(); b != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.chooser.Load()
	if b == nil {
		cfg := s.proxy.cfg.Balance
		cfg.Seed = s.seed
		b = balance.New(cfg)
		if s.now != nil {
			b.Update(s.now, time.Now())
		}
		s.chooser.Store(b)
	}
	return b
}

// balanceSeed has round robin start elsewhere on each node and for each Port.
func (p *Proxy) balanceSeed(id service.PortID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(p.node.Name + " " + id.String()))
	return h.Sum64()
}

// cutLater resets the connections of an endpoint whose pod is no more, after a
// grace.
func (p *Proxy) cutLater(s *portState, endpoint netip.AddrPort, departed time.Time) {
	p.timers.Go(func() {
		select {
		case <-p.stopped:
		case <-time.After(departedGrace):
			s.cut(endpoint, departed)
		}
	})
}

func (s *portState) cut(endpoint netip.AddrPort, departed time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j := range s.journeys[endpoint] {
		if j.begun.Before(departed) {
			j.handle.Abort()
		}
	}
}

// Accepted implements [relay.Handler].
func (p *Proxy) Accepted(client, at netip.AddrPort, origin service.Origin) relay.Journey {
	c := p.call(Place{service.TCP, at}, client, origin)
	if c == nil {
		return nil // the rules have changed meanwhile
	}
	return &journey{call: *c, begun: time.Now()}
}

// A call is what somebody wants of a Port, on its way to an endpoint.
type call struct {
	proxy  *Proxy
	port   *portState
	node   *service.Node
	route  *service.Route
	conn   balance.Conn
	at     netip.AddrPort // endpoint
	source netip.AddrPort // whom it gets to see; zero for the node
}

// call returns nil if nobody serves it.
func (p *Proxy) call(at Place, client netip.AddrPort, origin service.Origin) *call {
	p.mu.RLock()
	defer p.mu.RUnlock()
	fe, ok := p.served[at]
	if !ok || fe.frontend.Routes[origin].Verdict != service.Forward || p.plain && !isLocal(p.node, client.Addr()) {
		return nil
	}
	c := &call{proxy: p, port: fe.port, node: p.node, route: &fe.frontend.Routes[origin]}
	c.conn = balance.Conn{Client: client, Frontend: at.Addr, Pool: c.route.Pool}
	return c
}

// next picks an endpoint that has not been tried yet.
func (c *call) next() (ok bool) {
	c.at, ok = c.port.balancer().Pick(&c.conn, time.Now())
	c.source = netip.AddrPort{}
	if ok && !c.proxy.plain && c.proxy.keeps(c.node, c.route, c.conn.Client.Addr(), c.at.Addr()) {
		c.source = c.conn.Client
	}
	return ok
}

// A journey is a TCP connection.
type journey struct {
	call
	begun  time.Time
	handle relay.Handle
}

// Next implements [relay.Journey].
func (j *journey) Next() (relay.Target, bool) {
	ok := j.next()
	return relay.Target{Addr: j.at, Source: j.source}, ok
}

// keeps reports whether an endpoint gets to see the address of its caller. It cannot
// if the two are behind one and the same link, since then the answers would not
// pass the node.
func (p *Proxy) keeps(n *service.Node, r *service.Route, client, endpoint netip.Addr) bool {
	if !keepsSource(n, r, client, endpoint) {
		return false
	}
	return isLocal(n, endpoint) || isLocal(n, client) || !p.links.same(client, endpoint)
}

// Failed implements [relay.Journey]. That the node has no port left is not the fault
// of the endpoint: the next is tried, but nothing is held against this one.
func (j *journey) Failed(err error) {
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) {
		return
	}
	j.port.balancer().Failed(&j.conn, time.Now())
}

// Connected implements [relay.Journey].
func (j *journey) Connected(h relay.Handle) {
	j.port.balancer().Connected(&j.conn, time.Now())
	j.enter(h)
}

// enter notes that the connection is open.
func (j *journey) enter(h relay.Handle) {
	j.handle = h
	s := j.port
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journeys == nil {
		s.journeys = make(map[netip.AddrPort]map[*journey]struct{})
	}
	if s.journeys[j.at] == nil {
		s.journeys[j.at] = make(map[*journey]struct{})
	}
	s.journeys[j.at][j] = struct{}{}
}

// Closed implements [relay.Journey].
func (j *journey) Closed(relay.Stats) {
	s := j.port
	s.balancer().Finished(&j.conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.journeys[j.at], j); len(s.journeys[j.at]) == 0 {
		delete(s.journeys, j.at)
	}
}

func holds(p service.Pool, a netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(p, a, func(e service.Endpoint, a netip.AddrPort) int { return e.Addr.Compare(a) })
	return ok
}

// sessions is the Proxy as UDP knows it. A Lease is a *call.
type sessions struct{ *Proxy }

// Target implements [udp.Handler].
func (p sessions) Target(f udp.Flow, failed any) (udp.Target, bool) {
	c, again := failed.(*call)
	if !again {
		c = p.call(Place{service.UDP, f.Frontend}, f.Client, f.Origin)
	}
	if c == nil || !c.next() {
		return udp.Target{}, false
	}
	return udp.Target{Addr: c.at, Source: c.source, Lease: c}, true
}

// Answered implements [udp.Handler].
func (p sessions) Answered(lease any) {
	c := lease.(*call)
	c.port.balancer().Connected(&c.conn, time.Now())
}

// Closed implements [udp.Handler].
func (p sessions) Closed(lease any, r udp.Result) {
	c := lease.(*call)
	switch {
	case r.Reason == udp.Failed:
		c.port.balancer().Failed(&c.conn, time.Now())
		return
	case r.Reason == udp.Idle && !r.Answered: // not every protocol answers
		c.port.balancer().Connected(&c.conn, time.Now())
	}
	c.port.balancer().Finished(&c.conn)
}

// Counts returns what the proxy has done. It may be called from any goroutine.
func (p *Proxy) Counts() Counts {
	t := p.tcp.Counters()
	c := Counts{
		Connections: float64(t.Active),
		Accepted:    float64(t.Accepted), Refused: float64(t.Refused), Shed: float64(t.Shed),
		Exhausted: float64(t.Exhausted), Aborted: float64(t.Aborted), Retries: float64(t.Retries),
		Failures: map[string]float64{
			"refused": float64(t.FailedRefused), "unreachable": float64(t.FailedUnreachable),
			"timeout": float64(t.FailedTimeout), "other": float64(t.FailedOther),
		},
		Given: float64(t.Given), Taken: float64(t.Taken),
		FromClients: float64(t.FromClient), ToClients: float64(t.ToClient), Spliced: float64(t.Spliced),
	}
	u := p.udp.Stats()
	c.Sessions, c.Opened = float64(u.Sessions), float64(u.Opened)
	c.Datagrams = float64(u.In.Datagrams + u.Out.Datagrams)
	c.FromClients += float64(u.In.Bytes)
	c.ToClients += float64(u.Out.Bytes)
	for _, n := range u.Dropped {
		c.Dropped += float64(n)
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, s := range p.ports {
		chooser := s.chooser.Load()
		if chooser == nil {
			continue
		}
		b := chooser.Stats()
		c.Ejected += float64(b.LeftOut)
		c.Ejections += float64(b.Ejections)
	}
	return c
}
