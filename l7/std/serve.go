package std

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A session is one request with what the server has given us for it.
type session struct {
	engine *Engine
	w      http.ResponseWriter
	r      *http.Request
	q      *h1.Request // nil for HTTP/2
	x      exchange.Exchange
	body   requestBody
	done   Done
	wrote  bool
	writes watch // of HTTP/2
	ctx    clientContext
}

// clientContext is the context of a request of HTTP/1.1. Package upstream waits for its end by AfterFunc.
type clientContext struct {
	context.Context
	q *h1.Request
}

// Err is not nil before anybody hears by AfterFunc: the server, which ends the context, learns it after us.
func (c *clientContext) Err() error {
	if err := c.Context.Err(); err != nil || !c.q.Gone() {
		return err
	}
	return context.Canceled
}

// AfterFunc is context.AfterFunc.
func (c *clientContext) AfterFunc(f func()) func() bool {
	if stop, ok := c.q.OnGone(f); ok {
		return stop
	}
	return context.AfterFunc(c.Context, f)
}

// serve is the handler of the server.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	e.stats.Active.Add(1)
	defer e.stats.Active.Add(-1)
	s := &session{engine: e, w: w, r: r, q: h1.Of(r)}
	s.begin()
	defer s.end()
	e.cfg.Handler.Handle(&s.x)
	s.answer()
}

// end tells the Handler how it went. What panics ends this request and no other: if the client has
// been told nothing yet it gets 500, else its connection ends.
func (s *session) end() {
	if s.done.Panic = recover(); s.done.Panic != nil {
		s.done.Stack = debug.Stack()
		s.engine.stats.Panics.Add(1)
		if !s.wrote {
			s.done.Status = http.StatusInternalServerError
			if s.q != nil {
				s.w.Header().Set("Connection", "close") // what is left of the request is not read
			}
			s.w.WriteHeader(s.done.Status)
		}
	}
	if r := s.x.Response; r != nil && r.Body != nil {
		r.Body.Close()
	}
	if s.unread() {
		s.q.Linger()
	}
	if s.q != nil && s.q.Continue && s.body.from != nil && !s.body.wanted.Load() {
		s.q.Interrupt() // the client has not been told to send it, and need not be waited for
	}
	s.done.In += s.body.n.Load() // nobody reads it any more, now that the Response is closed
	s.engine.cfg.Handler.Done(&s.x, s.done)
	if s.wrote && s.done.Err == nil && s.done.Panic == nil {
		s.drain()
	}
	if s.done.Status != http.StatusSwitchingProtocols && (s.done.Err != nil || s.done.Panic != nil && s.wrote) {
		panic(http.ErrAbortHandler) // the answer is not whole, and the client must see that
	}
}

// begin fills in the Exchange.
func (s *session) begin() {
	x, r := &s.x, s.r
	if x.Context = r.Context(); s.q != nil {
		s.ctx = clientContext{Context: x.Context, q: s.q}
		x.Context = &s.ctx
	}
	x.Request.Started = time.Now()
	x.Interim = s.interim
	if s.q != nil {
		s.beginHTTP1()
	} else {
		s.beginHTTP2()
	}
	x.Request.Client = x.Request.Peer
	x.Request.Secure = x.Request.TLS != nil
	if path, query, ok := strings.Cut(x.Request.RawPath, "?"); ok {
		x.Request.RawPath, x.Request.Query, x.Request.HasQuery = path, query, true
	}
	if x.Request.Length != 0 {
		s.body.from = r.Body
		x.Request.Body = &s.body
	}
}

func (s *session) beginHTTP1() {
	q, x := s.q, &s.x.Request
	conn := q.Conn()
	x.TLS = q.TLS()
	x.Peer, x.Local = addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	x.Method, x.Protocol, x.RawHost, x.RawPath = q.Method, q.Protocol, q.Host, q.Target
	x.Size = int64(q.Size)
	x.Header, x.Length, x.Upgrade, x.Trailers = q.Header, q.Length, q.Upgrade, q.Trailers
	if q.Refused != nil {
		s.x.Answer(q.Refused.Status, q.Refused.Reason)
		x.Length = 0
		return
	}
	if x.Length == exchange.Unknown {
		x.Trailer = &q.Trailer
	}
	if x.Length != 0 {
		s.body.interrupt = q.Interrupt
		// Or the server would throw away what is left of a request as soon as it is answered.
		_ = http.NewResponseController(s.w).EnableFullDuplex()
	}
}

func (s *session) beginHTTP2() {
	r, x := s.r, &s.x.Request
	x.TLS = r.TLS
	x.Protocol = exchange.HTTP2
	x.Method, x.RawHost, x.RawPath, x.Length = r.Method, r.Host, r.RequestURI, r.ContentLength
	x.Peer, _ = netip.ParseAddrPort(r.RemoteAddr)
	x.Peer = netip.AddrPortFrom(x.Peer.Addr().Unmap(), x.Peer.Port())
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		x.Local = addrPort(a)
	}
	x.Trailers = strings.EqualFold(r.Header.Get("Te"), "trailers")
	x.Header = make(exchange.Header, 0, len(r.Header)+8)
	gate := s.gate()
	for name, values := range r.Header {
		if h1.HopByHop(name) || strings.Contains(name, "_") && (!gate.Underscores || h1.Protected(name)) {
			continue
		}
		if name == "Cookie" && len(values) > 1 { // RFC 9113 section 8.2.3
			x.Header.Add(name, strings.Join(values, "; "))
			continue
		}
		for _, v := range values {
			x.Header.Add(name, v)
		}
	}
	if reason := s.refuse(); reason != "" {
		s.engine.stats.Refused.Add(reason)
		s.x.Answer(http.StatusBadRequest, reason)
		x.Length = 0
		return
	}
	s.writes.gap, s.writes.cut = gate.WriteGap, s.cutWrites
	if x.Length != 0 {
		s.body.interrupt = func() { r.Body.Close() }
		s.body.watch.gap, s.body.watch.cut = gate.BodyGap, s.body.interrupt
		x.Trailer = new(exchange.Header)
		x.Announced = slices.Collect(maps.Keys(r.Trailer))
		s.body.trailer = func() {
			for name, values := range r.Trailer {
				for _, v := range values {
					if h1.TrailerAllowed(name) {
						x.Trailer.Add(name, v)
					}
				}
			}
		}
	}
}

// gate returns what the connection is treated by. A connection has it for as long as it has requests.
func (s *session) gate() *h1.Config {
	c, _ := s.r.Context().Value(connectionKey{}).(*connection)
	return c.generation.settings.Gate
}

// cutWrites ends a Write that waits for the client to take something.
func (s *session) cutWrites() {
	_ = http.NewResponseController(s.w).SetWriteDeadline(time.Now().Add(-time.Second))
}

// refuse says what is wrong with a request of HTTP/2 once it is written as HTTP/1.1, where the
// server has not looked.
func (s *session) refuse() string {
	x := &s.x.Request
	switch {
	case x.Method == http.MethodConnect:
		return "connect"
	case !h1.ValidToken(x.Method) || len(x.Method) > 32:
		return "method"
	case (x.RawPath != "*" || x.Method != http.MethodOptions) && !strings.HasPrefix(x.RawPath, "/") || !h1.ValidTarget(x.RawPath):
		return "target"
	case !h1.ValidHost(x.RawHost):
		return "host"
	}
	if host := s.r.Header.Get("Host"); host != "" && !strings.EqualFold(host, x.RawHost) {
		return "host"
	}
	if n := s.r.Header["Content-Length"]; x.Length == 0 && len(n) > 0 && strings.Trim(n[0], "0") != "" {
		return "content-length" // more than comes: the server does not look at it where there is no body
	}
	for i := range x.Header {
		if !h1.ValidToken(x.Header[i].Name) || !h1.ValidValue(x.Header[i].Value) {
			return "field"
		}
	}
	return ""
}

// interim is Exchange.Interim.
func (s *session) interim(status int, h exchange.Header) {
	if s.x.Request.Protocol == exchange.HTTP10 || s.wrote {
		return
	}
	to := s.w.Header()
	for _, f := range h {
		to[textproto.CanonicalMIMEHeaderKey(f.Name)] = append(to[textproto.CanonicalMIMEHeaderKey(f.Name)], f.Value)
	}
	s.w.WriteHeader(status)
	clear(to)
}

// A requestBody counts what is read of a request's body.
type requestBody struct {
	from      io.ReadCloser
	interrupt func()
	trailer   func() // called once, at the end
	n         atomic.Int64
	wanted    atomic.Bool // somebody has tried to read it
	watch     watch       // of HTTP/2
	ended     atomic.Bool // io.EOF has been read
	broken    atomic.Bool // it cannot be read any more: the client's fault, or Interrupt has been called
}

// unread reports whether there is a body in a connection of HTTP/1.1 that has not been read to its end.
func (s *session) unread() bool {
	n := s.x.Request.Length
	return s.q != nil && n != 0 && s.body.n.Load() != n && !s.body.ended.Load()
}

// drained is how much of a body is read after the answer to go on with the connection.
const drained = 256 << 10

// drain reads what is left of a request that has its answer. The server would do so only after it has stopped watching the
// connection (net/http's finishRequest in Go 1.26): watched again at the end of the body, the connection breaks
// with the next request.
func (s *session) drain() {
	n := s.x.Request.Length
	if !s.unread() || s.body.broken.Load() || n-s.body.n.Load() > drained || s.r.Header.Get("Expect") != "" {
		return
	}
	if http.NewResponseController(s.w).Flush() == nil {
		_, _ = io.CopyN(io.Discard, s.body.from, drained)
	}
}

// ending reports whether the connection ends after the answer: so much of the request is left, or nobody may read it any more.
func (s *session) ending(resp *exchange.Response) bool {
	n := s.x.Request.Length
	return s.q != nil && s.body.broken.Load() || resp.Reason != "" && s.unread() && (n < 0 || n-s.body.n.Load() > drained)
}

// Read reads the body.
func (b *requestBody) Read(p []byte) (int, error) {
	b.wanted.Store(true)
	b.watch.begin()
	n, err := b.from.Read(p)
	late := b.watch.end()
	b.n.Add(int64(n))
	if err != nil && err != io.EOF {
		b.broken.Store(true)
	}
	if late && err != nil && err != io.EOF {
		return n, os.ErrDeadlineExceeded
	}
	if err == io.EOF {
		b.ended.Store(true)
	}
	if err == io.EOF && b.trailer != nil {
		b.trailer()
		b.trailer = nil
	}
	return n, err
}

// Interrupt ends a Read that waits for the client, from another goroutine, and all later ones.
func (b *requestBody) Interrupt() {
	b.broken.Store(true)
	b.interrupt()
}

var errNoAnswer = errors.New("nobody has answered")

func bodyless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

func length(n int64) string { return strconv.FormatInt(n, 10) }
