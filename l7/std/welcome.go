package std

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// welcome does what comes before the first request, and hands the connection to the server.
func (e *Engine) welcome(ctx context.Context, g *generation, conn net.Conn, secure bool) {
	e.stats.Accepted.Add(1)
	e.stats.Open.Add(1)
	if !e.hold(conn) {
		e.turnAway(conn, net.ErrClosed)
		return
	}
	defer e.letGo(conn)
	ready, err := e.prepare(ctx, g, conn, secure)
	switch {
	case err != nil:
		e.turnAway(conn, err)
	case ready == nil: // somebody else's now
		e.stats.Open.Add(-1)
	case !g.conns.put(ready):
		e.turnAway(ready, net.ErrClosed)
	}
}

func (e *Engine) turnAway(conn net.Conn, err error) {
	conn.Close()
	e.stats.Open.Add(-1)
	e.cfg.Log.Debug("a connection was turned away", "client", conn.RemoteAddr().String(), "err", err)
}

// noteState counts the end of connections that the server has.
func (e *Engine) noteState(_ net.Conn, s http.ConnState) {
	if s == http.StateClosed || s == http.StateHijacked {
		e.stats.Open.Add(-1)
	}
}

// prepare reads what comes before HTTP. It returns nil if the connection is not for the server.
func (e *Engine) prepare(ctx context.Context, g *generation, conn net.Conn, secure bool) (net.Conn, error) {
	if g.settings.Proxy != nil {
		var err error
		if conn, err = e.readProxy(g, conn); err != nil {
			e.stats.BadProxy.Add(1)
			return nil, err
		}
	}
	if !secure {
		return h1.NewGate(conn, g.settings.Gate), nil
	}
	return e.handshake(ctx, g, conn)
}

// readProxy reads the PROXY header, which has to be there.
func (e *Engine) readProxy(g *generation, conn net.Conn) (net.Conn, error) {
	peer := addrPort(conn.RemoteAddr())
	if !contains(g.settings.Proxy, peer.Addr()) {
		return nil, errors.New("PROXY protocol is not taken from it")
	}
	p := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE),
		proxyproto.SetReadHeaderTimeout(g.settings.ProxyTimeout), proxyproto.WithBufferSize(4096))
	if _, err := p.Read(nil); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	return p, conn.SetReadDeadline(time.Time{})
}

// handshake speaks TLS, unless the server name is one that is passed through.
func (e *Engine) handshake(ctx context.Context, g *generation, conn net.Conn) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	if e.cfg.Passthrough != nil {
		name, replay, err := certs.PeekSNI(conn)
		if err != nil {
			e.stats.BadHandshake.Add(1)
			return nil, err
		}
		conn = replay
		if take := e.cfg.Passthrough(name); take != nil {
			e.stats.Passthrough.Add(1)
			e.tunnels.Go(func() { take(replay) })
			return nil, conn.SetDeadline(time.Time{})
		}
	}
	if e.cfg.Limiter != nil {
		conn = e.cfg.Limiter.Wrap(conn)
	}
	t := tls.Server(conn, g.settings.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		e.stats.BadHandshake.Add(1)
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := t.ConnectionState()
	e.stats.Handshakes.Add(1)
	if state.DidResume {
		e.stats.Resumed.Add(1)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if state.NegotiatedProtocol == "h2" {
		e.stats.HTTP2.Add(1)
		return t, nil
	}
	return h1.NewGate(t, g.settings.Gate), nil
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
