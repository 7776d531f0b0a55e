package wire

import (
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A session is one request with what is known of its answer. It is used for the next request of the connection, too, unless
// somebody might still have an eye on it, or it has had a body.
type session struct {
	c       *conn
	q       *h1.Request
	x       exchange.Exchange
	body    body
	done    Done
	life    lifetime
	out     pieces
	tries   [2]exchange.Try
	interim func(int, exchange.Header) // told, bound once

	closing bool // the connection ends after this
	again   bool // it does not

	// Other goroutines may write while the answer has not begun.
	turn struct {
		sync.Mutex
		begun     bool // the answer has
		continued bool // the client has been told to send its body
	}
}

func newSession(c *conn) *session {
	s := &session{c: c}
	s.body.s, s.out.s = s, s
	s.interim = s.told
	s.life.stopFirst = s.life.clearFirst
	return s
}

// begin fills in the Exchange.
func (s *session) begin(q *h1.Request) {
	c := s.c
	s.q, s.done, s.closing, s.again = q, Done{}, false, false
	s.turn.begun, s.turn.continued = false, false
	s.x = exchange.Exchange{Context: &s.life, Interim: s.interim, Tries: s.tries[:0]}
	x := &s.x.Request
	x.Started = time.Now()
	if c.tls == nil {
		c.tls = q.TLS()
	}
	x.TLS, x.Secure = c.tls, c.tls != nil
	x.Peer, x.Client, x.Local = c.peer, c.peer, c.local
	x.Method, x.Protocol, x.RawHost, x.RawPath = q.Method, q.Protocol, q.Host, q.Target
	x.Size = int64(q.Size)
	x.Header, x.Length, x.Upgrade, x.Trailers = q.Header, q.Length, q.Upgrade, q.Trailers
	if path, query, ok := strings.Cut(x.RawPath, "?"); ok {
		x.RawPath, x.Query, x.HasQuery = path, query, true
	}
	switch {
	case q.Refused != nil:
		s.x.Answer(q.Refused.Status, q.Refused.Reason)
		x.Length, s.closing = 0, true
	case x.Length == exchange.Unknown:
		x.Trailer = &q.Trailer
	}
	if x.Length != 0 {
		x.Body = &s.body
	}
	s.closing = s.closing || q.Close || q.Upgrade != ""
}

var errNoAnswer = errors.New("nobody has answered")

// answer has the request answered. What panics ends this request and no other.
func (s *session) answer() {
	defer s.end()
	s.c.server.Handler.Handle(&s.x)
	resp := s.x.Response
	switch {
	case resp == nil:
		panic(errNoAnswer)
	case resp.Status == http.StatusSwitchingProtocols:
		s.join(resp)
	default:
		s.respond(resp)
	}
}

// end tells the Handler how it went, and settles whether the connection goes on. If a Handler has panicked before the client was told
// anything it is told 500.
func (s *session) end() {
	if s.done.Panic = recover(); s.done.Panic != nil {
		s.done.Stack = debug.Stack()
		s.c.server.Panics.Add(1)
		s.closing = true
		if s.start() {
			s.done.Status = http.StatusInternalServerError
			s.done.Err = s.fault()
		}
	}
	if r := s.x.Response; r != nil && r.Body != nil {
		r.Body.Close()
	}
	if s.q.Continue && !s.body.wanted.Load() {
		s.q.Interrupt() // the client has not been told to send it, and need not be waited for
	}
	if s.q.Length != 0 {
		s.body.close()
	}
	if s.body.unread() {
		s.q.Linger()
	}
	if s.c.taken {
		s.c.server.Handler.Done(&s.x, s.done)
		return
	}
	s.c.unwatch()
	s.done.In += s.body.n.Load() // nobody reads it any more, now that the Response is closed
	s.c.server.Handler.Done(&s.x, s.done)
	s.again = !s.closing && s.done.Err == nil && s.body.drain() && s.c.gate.Reusable()
}

// start begins the answer. It reports false if it had begun.
func (s *session) start() bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	was := s.turn.begun
	s.turn.begun = true
	return !was
}

// fault answers for a Handler that could not.
func (s *session) fault() error {
	resp := exchange.Response{Status: http.StatusInternalServerError}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	_, err := s.write(s.head(buf[:0], &resp, sized))
	return err
}
