package h1

import (
	"net"
	"sync"
)

// gone is who wants to hear that the client of a connection has gone: one at a time.
type gone struct {
	mu   sync.Mutex
	f    func()
	over bool
	stop func() bool // clears f; bound once
}

// OnGone has f called, in a goroutine of its own, once the server's reading has found out that the client has ended the
// connection, or at once if it has already. stop reports whether it has kept f from being called. It is context.AfterFunc for the
// context of the request, without its price for each request. ok is false if somebody waits already; f is not called then.
func (q *Request) OnGone(f func()) (stop func() bool, ok bool) {
	g := &q.gate.gone
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.f != nil {
		return nil, false
	}
	if g.stop == nil {
		g.stop = g.clear
	}
	if g.over {
		go f()
		return g.stop, true
	}
	g.f = f
	return g.stop, true
}

// Gone reports whether the client has been found to have gone.
func (q *Request) Gone() bool {
	g := &q.gate.gone
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

func (g *gone) clear() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.f != nil
	g.f = nil
	return was
}

// notice looks at an error of the server's reading. The server's own deadlines say nothing about the client.
func (g *gone) notice(err error) {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.f != nil {
		go g.f()
		g.f = nil
	}
}
