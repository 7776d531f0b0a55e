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

// An arrival is how a connection has come.
type arrival struct {
	engine     *Engine
	generation *generation
	stats      *ListenerStats
}

// welcome does what comes before the first request, and hands the connection to the server.
func (e *Engine) welcome(ctx context.Context, a *arrival, conn net.Conn) {
	a.stats.Accepted.Add(1)
	a.stats.Open.Add(1)
	e.hold(conn)
	defer e.letGo(conn)
	ready, err := a.prepare(ctx, conn)
	switch {
	case err != nil:
		a.turnAway(conn, err)
	case ready == nil: // somebody else's now
	default:
		e.stats.of.Store(ready, a.stats)
		if !a.generation.conns.put(ready) {
			e.stats.of.Delete(ready)
			a.turnAway(ready, net.ErrClosed)
		}
	}
}

func (a *arrival) turnAway(conn net.Conn, err error) {
	conn.Close()
	a.stats.Open.Add(-1)
	a.engine.cfg.Log.Debug("a connection was turned away", "client", conn.RemoteAddr().String(), "err", err)
}

// noteState counts the end of connections that the server has.
func (e *Engine) noteState(c net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	if l, ok := e.stats.of.LoadAndDelete(c); ok {
		l.(*ListenerStats).Open.Add(-1)
	}
}

// prepare reads what comes before HTTP. It returns nil if the connection is not for the server.
func (a *arrival) prepare(ctx context.Context, conn net.Conn) (net.Conn, error) {
	settings := &a.generation.settings
	if settings.Proxy != nil {
		var err error
		if conn, err = readProxy(settings, conn); err != nil {
			a.stats.BadProxy.Add(1)
			return nil, err
		}
	}
	if a.stats.Secure {
		return a.handshake(ctx, conn)
	}
	a.stats.HTTP1.Add(1)
	return h1.NewGate(conn, settings.Gate), nil
}

// readProxy reads the PROXY header, which has to be there.
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
	return p, conn.SetReadDeadline(time.Time{})
}

// handshake speaks TLS, unless the server name is one that is passed through.
func (a *arrival) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	e := a.engine
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
			a.stats.Passthrough.Add(1)
			e.tunnels.Go(func() {
				defer a.stats.Open.Add(-1)
				take(replay)
			})
			return nil, conn.SetDeadline(time.Time{})
		}
	}
	if e.cfg.Limiter != nil {
		conn = e.cfg.Limiter.Wrap(conn)
	}
	t := tls.Server(conn, a.generation.settings.TLS)
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
		a.stats.HTTP2.Add(1)
		return t, nil
	}
	a.stats.HTTP1.Add(1)
	return h1.NewGate(t, a.generation.settings.Gate), nil
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
