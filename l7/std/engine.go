package std

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/h1"
	"github.com/fairlead-project/fairlead/l7/wire"
)

// A Handler answers requests, under whichever server.
type Handler = wire.Handler

// Done says how an exchange ended.
type Done = wire.Done

// A Settings is what connections are treated by. It can be replaced while they stand: those that come later go by the new one.
type Settings struct {
	Gate    *h1.Config    // required
	Idle    time.Duration // between two requests
	TLS     *tls.Config   // for listeners with TLS: what it offers by ALPN is served
	Streams int           // of one HTTP/2 connection at a time; 0 means 128

	// Proxy has the sources from which PROXY protocol is required. Others are refused while it
	// is not nil.
	Proxy        []netip.Prefix
	ProxyTimeout time.Duration // 0 means 5 s

	// Forwarders have many clients' requests on one connection, so MaxPerClient is not for them.
	Forwarders []netip.Prefix
}

// A Config is what an Engine needs.
type Config struct {
	Handler  Handler      // required
	Log      *slog.Logger // required
	Settings Settings
	Limiter  *certs.Limiter // of handshakes; nil: none

	// Passthrough takes connections whose TLS is somebody else's: it reports whether a server name is. The
	// connection is given to it with nothing taken away, and is its own from there on. nil: there are none.
	Passthrough func(sni string) func(net.Conn)

	// Handshook hears of every TLS handshake: nil if it has failed. It must not block. Nil: nobody does.
	Handshook func(*tls.ConnectionState)

	MaxConns     int64 // 0 means 65,536
	MaxPerClient int64 // of them for one address, IPv6: one /64; 0 means a quarter

	pressure pressure // 0 as elsewhere: defaults

	// NetHTTP has net/http serve HTTP/1.1, too, in place of package wire.
	NetHTTP bool
}

// handshakeTimeout bounds a whole TLS handshake.
const handshakeTimeout = 15 * time.Second

// An Engine serves clients. Serve may be called for any number of listeners.
type Engine struct {
	cfg     Config
	stats   Stats
	live    sync.Map // net.Conn that a server has or had: *connection
	tunnels tunnels
	crowd   *crowd
	wire    *wire.Server // of HTTP/1.1; nil: net/http is
	serving sync.WaitGroup

	mu       sync.Mutex
	current  *generation              // of connections to come
	all      map[*generation]struct{} // that have connections, and the current one
	closing  bool
	conns    map[net.Conn]struct{} // not with a server yet
	stopping chan struct{}
	leaving  atomic.Bool // clients are told to come back elsewhere
}

// A generation is a server with one version of the Settings. It lives until its last connection has
// ended, once another one is current.
type generation struct {
	settings Settings
	server   *http.Server
	conns    *queue
	users    int // connections that came under it; Engine.mu guards it
}

// New returns an Engine that serves nobody yet.
func New(c Config) *Engine {
	if c.MaxConns == 0 {
		c.MaxConns = 65536
	}
	e := &Engine{cfg: c, all: make(map[*generation]struct{}), conns: make(map[net.Conn]struct{}), stopping: make(chan struct{})}
	e.tunnels.open = make(map[net.Conn]struct{})
	e.crowd = newCrowd(&c, e.stopping)
	if !c.NetHTTP {
		e.wire = wire.New(wire.Config{
			Handler: c.Handler, Tunnels: &e.tunnels, Leaving: &e.leaving,
			Active: &e.stats.Active, Open: &e.stats.Tunnels, Panics: &e.stats.Panics,
		})
	}
	e.Configure(c.Settings)
	return e
}

// Stats returns the counters of e.
func (e *Engine) Stats() *Stats { return &e.stats }

// Configure makes s what later connections are treated by.
func (e *Engine) Configure(s Settings) {
	if s.Streams <= 0 {
		s.Streams = 128
	}
	if s.ProxyTimeout <= 0 {
		s.ProxyTimeout = 5 * time.Second
	}
	g := &generation{settings: s, conns: newQueue()}
	g.server = e.newServer(&s)
	e.mu.Lock()
	old := e.current
	if e.closing && old != nil {
		e.mu.Unlock()
		return
	}
	e.all[g], e.current = struct{}{}, g
	unused := old != nil && old.users == 0
	if unused {
		delete(e.all, old)
	}
	e.mu.Unlock()
	if unused {
		old.server.Close()
	}
	go g.server.Serve(g.conns) // ends with Shutdown or Close, which say how it went
}

func (e *Engine) newServer(s *Settings) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler:        http.HandlerFunc(e.serve),
		Protocols:      protocols,
		ConnState:      e.noteState,
		MaxHeaderBytes: 64 << 10, // of HTTP/2; the Gate bounds HTTP/1.1
		ErrorLog:       slog.NewLogLogger(e.cfg.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: s.Streams, MaxReadFrameSize: 64 << 10,
			MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
			SendPingTimeout: s.Idle, WriteByteTimeout: s.Gate.WriteGap,
		},
		DisableGeneralOptionsHandler: true, // "*" is for the Handler
	}
	s.Gate.Configure(server)
	server.IdleTimeout = s.Idle
	gate := server.ConnContext
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if v, ok := e.live.Load(c); ok {
			ctx = context.WithValue(ctx, connectionKey{}, v)
		}
		return gate(ctx, c)
	}
	return server
}

// enter gives a connection the Settings that it will be treated by.
func (e *Engine) enter() *generation {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current.users++
	return e.current
}

// leave notes the end of a connection of g.
func (e *Engine) leave(g *generation) {
	e.mu.Lock()
	g.users--
	unused := g.users == 0 && g != e.current
	if unused {
		delete(e.all, g)
	}
	e.mu.Unlock()
	if unused {
		g.server.Close()
	}
}

// Serve accepts clients of l until the Engine is shut down, and then returns nil. The name is for Stats. l is not
// closed: who has made it may have handed it to another process.
func (e *Engine) Serve(ctx context.Context, name string, l net.Listener, secure bool) error {
	if !e.beginServe() {
		return nil
	}
	defer e.serving.Done()
	stats := e.stats.listener(name, l, secure)
	var pause time.Duration
	for {
		conn, err := l.Accept()
		switch {
		case err != nil && (ctx.Err() != nil || e.over()):
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connections at %v: %w", l.Addr(), err)
		case err != nil: // no descriptor, most likely
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			stats.AcceptErrors.Add(1)
			e.cfg.Log.Error("cannot accept connections", "address", l.Addr().String(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		if e.stats.open() >= e.cfg.MaxConns+doormat { // most are being turned away by now
			stats.Shed.Add(1)
			conn.Close()
			continue
		}
		stats.Accepted.Add(1)
		stats.Open.Add(1)
		go e.welcome(ctx, &connection{engine: e, generation: e.enter(), stats: stats, born: time.Now(), raw: conn}, conn)
	}
}

// beginServe counts a Serve, unless the Engine has been stopped.
func (e *Engine) beginServe() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.serving.Add(1)
	return true
}

// awaitServed waits for every Serve to have returned: who has been accepted last has to be counted before
// it is asked whether anybody is there.
func (e *Engine) awaitServed(ctx context.Context) {
	served := make(chan struct{})
	go func() {
		e.serving.Wait()
		close(served)
	}()
	select {
	case <-ctx.Done():
	case <-served:
	case <-time.After(linger): // nobody has woken Accept
	}
}

func (e *Engine) over() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// hold remembers a connection that no server has yet.
func (e *Engine) hold(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = struct{}{}
}

func (e *Engine) letGo(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}

// Stop has Serve return soon; connections that stand go on. The listeners' deadlines or their owner wake Accept.
func (e *Engine) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closing {
		e.closing = true
		close(e.stopping)
	}
}

// linger is how long connections stay open that are kept alive, so that clients who are just using one hear of the end
// in an answer and not by a reset.
const linger = 2 * time.Second

// Shutdown tells clients to go elsewhere with their next request, waits for the requests under way, and ends
// what is left when ctx is done. Nothing is served afterwards.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.Stop()
	e.leaving.Store(true)
	e.awaitServed(ctx)
	e.awaitQuiet(ctx)
	e.mu.Lock()
	var all []*generation
	for g := range e.all {
		all = append(all, g)
	}
	e.mu.Unlock()
	var group sync.WaitGroup
	errs := make([]error, len(all)+1)
	if e.wire != nil {
		group.Go(func() { errs[len(all)] = e.wire.Shutdown(ctx) })
	}
	for i, g := range all {
		group.Go(func() {
			if errs[i] = g.server.Shutdown(ctx); errs[i] != nil {
				g.server.Close()
			}
		})
	}
	group.Wait()
	e.mu.Lock()
	for c := range e.conns { // nobody is there to serve them any more
		c.Close()
	}
	e.mu.Unlock()
	if n := e.tunnels.wait(ctx); n > 0 {
		errs = append(errs, fmt.Errorf("%d tunnels were still open", n))
	}
	return errors.Join(errs...)
}

// awaitQuiet waits until every client has gone, for linger at most.
func (e *Engine) awaitQuiet(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(linger); e.stats.open() > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
