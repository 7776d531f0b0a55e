package l7

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
)

// Tunnel is of std.Handler.
func (s *Server) Tunnel(x *exchange.Exchange, client net.Conn, early []byte) (in, out int64, err error) {
	f := flightOf(x)
	idle := time.Minute
	if f.dest != nil && f.dest.timeouts.Read > 0 {
		idle = f.dest.timeouts.Read
	}
	// The server ends the context of a connection that was taken from it.
	traffic, err := s.client.Tunnel(context.WithoutCancel(x.Context), x.Response, client, early, idle)
	return traffic.Up, traffic.Down, err
}

// passTime bounds connecting to the backend of a TLS connection that is passed through, and how long such
// a connection may be idle.
const (
	passConnect = 5 * time.Second
	passIdle    = 10 * time.Minute
)

// A passage is where the TLS of a host goes.
type passage struct {
	backend  *backend
	balancer *balance.Balancer
}

// passthroughTo returns what finds the hosts whose TLS is not ours, or nil if there can be none.
func (s *Server) passthroughTo() func(string) func(net.Conn) {
	if !s.cfg.Passthrough {
		return nil
	}
	return func(name string) func(net.Conn) {
		hosts := *s.passthrough.Load()
		p := hosts[name]
		if _, rest, ok := strings.Cut(name, "."); p == nil && ok {
			p = hosts["*."+rest]
		}
		if p == nil {
			return nil
		}
		return func(c net.Conn) { s.passThrough(c, p) }
	}
}

// passThrough joins a TLS connection to an endpoint of p. It tries another one while none of the client's bytes has been sent.
func (s *Server) passThrough(client net.Conn, p *passage) {
	defer client.Close()
	if p.backend.external.Load() && !s.cfg.Ingress.ExternalNames {
		return
	}
	q := balance.Pick{}
	if tcp, ok := client.RemoteAddr().(*net.TCPAddr); ok {
		q.Client = tcp.AddrPort().Addr().Unmap()
	}
	for range 3 {
		ep, ok := p.balancer.Pick(&q)
		if !ok {
			return
		}
		ep.Begin()
		began := time.Now()
		conn, err := net.DialTimeout("tcp", ep.Addr().String(), passConnect)
		if err != nil {
			ep.Report(balance.Failed, time.Since(began))
			ep.End()
			q.Tried = append(q.Tried, ep.Addr())
			continue
		}
		ep.Report(balance.Answered, time.Since(began))
		_, err = s.client.Join(context.Background(), client, conn, passIdle)
		ep.End()
		if err != nil {
			s.cfg.Log.Debug("a connection that was passed through broke", "endpoint", ep.Addr(), "err", err)
		}
		return
	}
}
