package wire

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A Handler answers requests. Its methods are called by many goroutines at the same time.
type Handler interface {
	// Handle puts an answer into x.Response. If there is one already, the engine has refused the request
	// for how it was written, and only its looks may be changed. Of an answer with status 101, Tunnel does the rest.
	Handle(x *exchange.Exchange)

	// Tunnel joins a client whose request was answered with 101 to whoever has answered. early is what the
	// client has sent already. It closes client.
	Tunnel(x *exchange.Exchange, client net.Conn, early []byte) (in, out int64, err error)

	// Done is called once for each x that Handle was, when everything is over. Nobody may use x or its body
	// afterwards: the next request may be in the same memory.
	Done(x *exchange.Exchange, d Done)
}

// Done says how an exchange ended.
type Done struct {
	Status  int    // that the client was told; 0 if none could be
	In, Out int64  // bytes of bodies
	Err     error  // why the answer is not whole: the body's own error, or the client's
	Panic   any    // what a Handler has panicked with
	Stack   []byte // where, if it has
}

// Tunnels knows the connections that carry something else than HTTP by now.
type Tunnels interface {
	Add(net.Conn) bool // false: there may be no more of them
	Remove(net.Conn)
}

// A Config is what a Server needs. All of it is required.
type Config struct {
	Handler Handler
	Tunnels Tunnels

	Leaving *atomic.Bool // clients are told to come back elsewhere

	// What is counted.
	Active, Open *atomic.Int64 // requests and tunnels now
	Panics       *atomic.Uint64
}

// A Server serves connections. All methods may be called by any goroutine.
type Server struct {
	Config
	watchman watchman
	clock    clock

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

// New returns a Server.
func New(c Config) *Server {
	return &Server{Config: c, conns: make(map[*conn]struct{})}
}

// Serve answers the requests of a connection until it ends, or has become a tunnel and that has ended. It closes the
// connection.
func (s *Server) Serve(g *h1.Gate) {
	c := newConn(s, g)
	if !s.add(c) {
		g.End()
		return
	}
	defer s.remove(c)
	defer c.end()
	for c.next() {
	}
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Shutdown closes connections as soon as no request is under way on them, and returns once there are none. When ctx is
// done it closes all, whatever they are doing, and returns the error of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	pause := time.Millisecond
	for s.closeIdle() > 0 {
		select {
		case <-ctx.Done():
			s.closeAll()
			return ctx.Err()
		case <-time.After(pause):
			pause = min(2*pause, 100*time.Millisecond)
		}
	}
	return nil
}

// closeIdle returns how many connections there were.
func (s *Server) closeIdle() int {
	all := s.all()
	for _, c := range all {
		c.gate.CloseIdle()
	}
	return len(all)
}

func (s *Server) closeAll() {
	for _, c := range s.all() {
		_ = c.gate.Close()
	}
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}
