package wire

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// A conn is a client's connection. One goroutine has it, but for what says otherwise.
type conn struct {
	server      *Server
	gate        *h1.Gate
	peer, local netip.AddrPort
	tls         *tls.ConnectionState
	session     *session // of the request that is being answered, or room for the next; watch.mu guards it, too
	taken       bool     // it is not ours any more

	// The watch for the client's end.
	busy   atomic.Uint64 // the number of the request that is being answered, or 0
	listed atomic.Bool   // the watchman has it on the list
	watch  struct {
		sync.Mutex
		on     bool
		wanted bool          // at the end of the body
		over   chan struct{} // closed when it is
	}
}

func newConn(s *Server, g *h1.Gate) *conn {
	return &conn{server: s, gate: g, peer: addrPort(g.RemoteAddr()), local: addrPort(g.LocalAddr())}
}

// addrPort returns the address of a TCP connection's end, IPv4 as such.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// next answers one request. It reports whether there may be another one.
func (c *conn) next() bool {
	q, err := c.gate.Next()
	if err != nil {
		return false
	}
	if c.session == nil {
		c.session = newSession(c)
	}
	s := c.session
	s.begin(q)
	c.busy.Store(q.Number)
	if !c.listed.Load() {
		c.server.watchman.list(c, q.Number)
	}
	c.server.Active.Add(1)
	s.answer()
	c.server.Active.Add(-1)
	if !s.life.end() || q.Length != 0 {
		c.session = nil
	}
	return s.again
}

// end closes the connection.
func (c *conn) end() {
	if !c.taken {
		c.unwatch()
		c.gate.End()
	}
}
