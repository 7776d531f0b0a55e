package std

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A connection is one client's, from the moment when it was accepted.
type connection struct {
	engine     *Engine
	generation *generation
	stats      *ListenerStats
	ended      atomic.Bool

	raw   net.Conn // as it was accepted
	born  time.Time
	taken atomic.Pointer[serving] // nil while it is being prepared
	rest  atomic.Int64            // with net/http: since when it is idle, in ns since 1970; 0: it is not

	// crowd.mu guards these.
	client  netip.Addr // that it counts for
	hurried bool       // it was closed while it was being prepared
}

// connectionKey is for the context of requests.
type connectionKey struct{}

// end notes that the connection is no more. It may be called again.
func (c *connection) end() {
	if !c.ended.Swap(true) {
		c.engine.crowd.leave(c)
		c.stats.Open.Add(-1)
		c.engine.leave(c.generation)
	}
}

// welcome does what comes before the first request, and hands the connection to the server.
func (e *Engine) welcome(ctx context.Context, a *connection, conn net.Conn) {
	e.hold(conn)
	defer e.letGo(conn)
	defer a.survive(conn)
	ready, err := a.prepare(ctx, conn)
	switch {
	case err != nil:
		a.turnAway(conn, err)
	case ready == nil: // somebody else's now
	case e.wire != nil && isGate(ready):
		e.letGo(conn)
		defer a.end()
		gate := ready.(*h1.Gate)
		a.taken.Store(&serving{conn: ready, gate: gate, own: true})
		e.wire.Serve(gate)
	default:
		gate, _ := ready.(*h1.Gate)
		a.rest.Store(time.Now().UnixNano())
		a.taken.Store(&serving{conn: ready, gate: gate})
		e.live.Store(ready, a)
		if !a.generation.conns.put(ready) {
			e.live.Delete(ready)
			a.turnAway(ready, net.ErrClosed)
		}
	}
}

// isGate tells HTTP/1.1 from HTTP/2.
func isGate(c net.Conn) bool {
	_, ok := c.(*h1.Gate)
	return ok
}

// survive keeps what goes wrong with one connection from ending all.
func (c *connection) survive(conn net.Conn) {
	v := recover()
	if v == nil {
		return
	}
	c.engine.stats.Panics.Add(1)
	c.engine.cfg.Log.Error("a connection ended in a panic", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	conn.Close()
	c.end()
}

func (c *connection) turnAway(conn net.Conn, err error) {
	conn.Close()
	c.end()
	c.engine.cfg.Log.Debug("a connection was turned away", "client", conn.RemoteAddr().String(), "err", err)
}

// noteState notes the end of connections that a server has, and when they have nothing to do. One that was taken from it goes on.
func (e *Engine) noteState(c net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		if v, ok := e.live.Load(c); ok {
			v.(*connection).noteWork(s)
		}
		return
	}
	if v, ok := e.live.LoadAndDelete(c); ok && s == http.StateClosed {
		v.(*connection).end()
	} else if ok {
		v.(*connection).noteWork(s)
	}
}

func (c *connection) noteWork(s http.ConnState) {
	switch s {
	case http.StateActive, http.StateHijacked:
		c.rest.Store(0)
	case http.StateIdle:
		c.rest.Store(time.Now().UnixNano())
	}
}

// prepare reads what comes before HTTP. It returns nil if the connection is not for the server.
func (c *connection) prepare(ctx context.Context, conn net.Conn) (net.Conn, error) {
	settings := &c.generation.settings
	if settings.Proxy != nil {
		var err error
		if conn, err = readProxy(settings, conn); err != nil {
			c.stats.BadProxy.Add(1)
			return nil, err
		}
	}
	if err := c.engine.crowd.enter(c, c.counted(conn)); err != nil {
		return nil, err
	}
	if c.stats.Secure {
		return c.handshake(ctx, conn)
	}
	c.stats.HTTP1.Add(1)
	return h1.NewGate(conn, settings.Gate), nil
}

// A proxied connection is one whose PROXY header has been read.
type proxied struct {
	*proxyproto.Conn
	remote, local net.Addr
}

// RemoteAddr is who the header says.
func (p *proxied) RemoteAddr() net.Addr { return p.remote }

// LocalAddr is where the header says that the client had connected to.
func (p *proxied) LocalAddr() net.Addr { return p.local }

// CloseWrite ends one direction, if that can be ended alone.
func (p *proxied) CloseWrite() error {
	if c, ok := p.Raw().(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// readProxy reads the PROXY header, which has to be there. One that names no addresses of TCP (LOCAL, UNKNOWN) leaves those of
// the connection.
func readProxy(settings *Settings, conn net.Conn) (net.Conn, error) {
	peer := addrPort(conn.RemoteAddr())
	if !contains(settings.Proxy, peer.Addr()) {
		return nil, errors.New("PROXY protocol is not taken from it")
	}
	p := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE),
		proxyproto.SetReadHeaderTimeout(settings.ProxyTimeout), proxyproto.WithBufferSize(4096))
	if _, err := p.Read(nil); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	out := &proxied{Conn: p, remote: conn.RemoteAddr(), local: conn.LocalAddr()}
	if h := p.ProxyHeader(); h != nil && h.Command.IsProxy() {
		from, ok := h.SourceAddr.(*net.TCPAddr)
		to, also := h.DestinationAddr.(*net.TCPAddr)
		if ok && also {
			out.remote, out.local = from, to
		}
	}
	return out, conn.SetReadDeadline(time.Time{})
}

// handshake speaks TLS, unless the server name is one that is passed through.
func (c *connection) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	e := c.engine
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	if e.cfg.Passthrough != nil {
		name, replay, err := certs.PeekSNI(conn)
		if err != nil {
			e.handshook(nil)
			return nil, err
		}
		conn = replay
		if take := e.cfg.Passthrough(name); take != nil {
			return nil, c.pass(replay, take)
		}
	}
	if e.cfg.Limiter != nil {
		conn = e.cfg.Limiter.Wrap(conn)
	}
	t := tls.Server(conn, c.generation.settings.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		e.handshook(nil)
		conn.Close() // itself and not what it wraps: it gives back its turn
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := t.ConnectionState()
	e.handshook(&state)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if state.NegotiatedProtocol == "h2" {
		c.stats.HTTP2.Add(1)
		return t, nil
	}
	c.stats.HTTP1.Add(1)
	return h1.NewGate(t, c.generation.settings.Gate), nil
}

// pass gives the connection to somebody else.
func (c *connection) pass(conn net.Conn, take func(net.Conn)) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if !c.engine.tunnels.Add(conn) {
		return net.ErrClosed
	}
	c.stats.Passthrough.Add(1)
	c.taken.Store(&serving{}) // which nobody here ends
	go c.passed(conn, take)
	return nil
}

func (c *connection) passed(conn net.Conn, take func(net.Conn)) {
	defer c.engine.tunnels.Remove(conn)
	defer c.end()
	defer c.survive(conn)
	take(conn)
}

func (e *Engine) handshook(state *tls.ConnectionState) {
	if e.cfg.Handshook != nil {
		e.cfg.Handshook(state)
	}
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
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
