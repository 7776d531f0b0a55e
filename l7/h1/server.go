package h1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A Request is what a handler learns about the request that it answers. It is
// valid until the handler returns; the strings and the Header in it stay valid after that.
type Request struct {
	Head
	// Number counts the requests of a connection from 1.
	Number uint64
	// Refused says which rule the request breaks. Then the rest of the Request is what could be read
	// until there, and the handler answers with the status in it. The connection ends by itself.
	Refused *Error
	// Trailer is what came after the body. It is there once Read of the body has returned io.EOF.
	Trailer exchange.Header
	gate    *Gate
}

// Interrupt ends a Read of the body that waits for the client, from another goroutine, and all later
// ones. The connection ends after the answer.
func (q *Request) Interrupt() { q.gate.interrupt() }

// Linger has the client heard out for a moment when the connection is closed with bytes of it unread: else they
// would reset it, and the answer be lost.
func (q *Request) Linger() { q.gate.lingers.Store(true) }

// Conn returns what the Gate stands in front of, for its addresses and TLS state.
func (q *Request) Conn() net.Conn { return q.gate.Conn }

// TLS returns the state of the client's TLS, the same for all requests of a connection, or nil in plain text.
func (q *Request) TLS() *tls.ConnectionState {
	g := q.gate
	if t, ok := g.Conn.(*tls.Conn); ok && g.tls == nil {
		state := t.ConnectionState()
		g.tls = &state
	}
	return g.tls
}

type gateKey struct{}

// ConnContext is for the field of that name in http.Server; Of needs it. Connections without a Gate are left alone.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*Gate); ok {
		return context.WithValue(ctx, gateKey{}, g)
	}
	return ctx
}

// Configure sets the fields of s that must fit c: ConnContext, and the timeouts, which are the
// Gate's except for the pause between requests.
func (c *Config) Configure(s *http.Server) {
	s.ConnContext = ConnContext
	s.ReadTimeout, s.ReadHeaderTimeout, s.WriteTimeout = 0, 0, 0
	s.IdleTimeout = c.IdleTimeout
}

// Of returns the request as the client sent it, or nil if r has not come through a Gate (HTTP/2 has not).
func Of(r *http.Request) *Request {
	g, _ := r.Context().Value(gateKey{}).(*Gate)
	if g == nil {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(r.RequestURI, "/"), 10, 64)
	if err != nil {
		return nil
	}
	if q := &g.slots[n&1]; q.Number == n {
		return q
	}
	return nil
}

// Hijack takes a connection from the server after a request to change the protocol. It returns
// the connection without its Gate, so that the kernel can move bytes by itself, and what the client has sent already.
func Hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("taking over the connection: %w", err)
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	early = append([]byte(nil), early...)
	g, ok := conn.(*Gate)
	if !ok {
		return conn, early, nil
	}
	released, more, err := g.Release()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return released, append(early, more...), nil
}

// released counts the end of a connection that has left its Gate.
type released struct {
	net.Conn
	gate *Gate
}

// NetConn returns the connection itself.
func (r *released) NetConn() net.Conn { return r.Conn }

// CloseWrite ends one direction.
func (r *released) CloseWrite() error { return r.gate.CloseWrite() }

// Close closes the connection.
func (r *released) Close() error { return r.gate.Close() }

var _ io.ReaderFrom = (*Gate)(nil)
