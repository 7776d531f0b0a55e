package h1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A Config is what Gates follow. It may be shared by any number of them; nobody changes it.
type Config struct {
	Limits Limits
	// Underscores lets fields with an underscore in the name pass. Many backends take it for a dash.
	Underscores bool

	// HeadTimeout is for a whole head from its first byte, and for the first byte of a new
	// connection. 0 is without end, as with the others.
	HeadTimeout time.Duration
	// BodyGap is the longest pause while a body is read, WriteGap while an answer is written.
	BodyGap, WriteGap time.Duration
	// IdleTimeout is for the pause between two requests.
	IdleTimeout time.Duration
	// MinRate is how many bytes a second a client must send of a body, once we have waited for
	// it for RateWindow in all.
	MinRate    int
	RateWindow time.Duration
	// MaxRequests is how many requests one connection may bring; 0 is without end.
	MaxRequests int

	Stats *Stats // required
}

// Defaults returns the timeouts and limits of an edge proxy, with Stats of its own.
func Defaults() *Config {
	return &Config{
		HeadTimeout: 30 * time.Second, BodyGap: 60 * time.Second, WriteGap: 60 * time.Second,
		IdleTimeout: 75 * time.Second, MinRate: 500, RateWindow: 30 * time.Second, MaxRequests: 10000,
		Stats: new(Stats),
	}
}

// state is what the next bytes from the client are.
type state uint8

const (
	inHead    state = iota // the head of a request
	inBody                 // left bytes of a body
	inChunks               // a chunked body
	inRaw                  // whatever the handler makes of them: the client has asked for another protocol
	inLast                 // of no interest: the last request is being answered
	inNothing              // not even awaited: a body has broken off
)

// A Gate is a client's connection as net/http's server should see it. See the package comment.
//
// Read belongs to the server. The other methods are those of any net.Conn.
type Gate struct {
	net.Conn
	cfg    *Config
	limits Limits
	opened time.Time

	// The reader's own.
	state   state
	out     []byte // for the server, before anything else
	outline [256]byte
	buf     []byte // what the client sent and nobody has taken: buf[r:]
	r       int
	scan    scanner
	headAt  time.Time // when the head that is not whole yet began; deadline.begun says so to others
	left    int64     // of the body
	chunks  Chunks
	opening bool // no chunk has been announced yet
	rest    state
	waited  time.Duration // for the body in the current window
	came    int64         // in that time
	number  uint64        // of the last head
	seen    int           // bytes thrown away after the last request
	slots   [2]Request    // the request that is being answered and the one that has come too early

	tls *tls.ConnectionState // the handler's: once asked for

	direct direct // for Next

	gone gone
	deadline
	writeArmed time.Time
	lingers    atomic.Bool
}

// pool has the buffers that nearly all heads fit into.
var pool = sync.Pool{New: func() any { return new([4096]byte) }}

// NewGate stands in front of conn: a TCP connection or a TLS connection after its handshake.
func NewGate(conn net.Conn, cfg *Config) *Gate {
	g := &Gate{Conn: conn, cfg: cfg, limits: cfg.Limits.orDefaults(), opened: time.Now()}
	g.deadline.conn = conn
	g.buf = pool.Get().(*[4096]byte)[:0]
	cfg.Stats.Connections.Add(1)
	cfg.Stats.Open.Add(1)
	return g
}

// Read gives the server the next bytes of what the client has asked, in the Gate's own words.
func (g *Gate) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(g.out) > 0 {
			n := copy(p, g.out)
			g.out = g.out[n:]
			return n, nil
		}
		var n int
		var err error
		switch g.state {
		case inHead:
			if len(p) == 1 && g.number > 0 && g.r == len(g.buf) {
				err = g.doze()
			}
			if err == nil {
				err = g.head()
			}
		case inBody:
			n, err = g.body(p)
		case inChunks:
			n, err = g.chunked(p)
		case inRaw:
			n, err = g.payload(p, len(p), time.Time{})
		case inLast:
			err = g.discard()
		default:
			err = io.EOF
		}
		if err != nil {
			g.gone.notice(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// head waits for a whole head and announces it to the server.
func (g *Gate) head() error {
	for {
		end, next, bad := scan(g.buf[g.r:], g.scan, g.limits)
		g.scan = next
		if bad != nil {
			g.refuse(g.slot(), bad)
			return nil
		}
		if next.whole {
			g.accept(end, next.lines)
			return nil
		}
		own := g.headDeadline()
		// A head that has begun is no pause between requests any more.
		g.alone = g.r < len(g.buf) && (g.direct.on || !own.IsZero())
		err := g.fill(own)
		g.alone = g.direct.on
		if err == nil && !g.stir() {
			err = net.ErrClosed
		}
		if err != nil {
			return g.headError(err)
		}
	}
}

// headDeadline is for the head that is being waited for. While none has begun the server's idle timeout counts.
func (g *Gate) headDeadline() time.Time {
	if g.r == len(g.buf) {
		g.headAt = time.Time{}
		if g.number == 0 && g.cfg.HeadTimeout > 0 {
			return g.opened.Add(g.cfg.HeadTimeout)
		}
		return time.Time{}
	}
	if g.headAt.IsZero() {
		g.headAt = time.Now()
		g.begun.Store(g.headAt.UnixNano())
	}
	if g.cfg.HeadTimeout <= 0 {
		return time.Time{}
	}
	return g.headAt.Add(g.cfg.HeadTimeout)
}

// headError ends the connection, quietly unless the client was in the middle of a head. What else has
// gone wrong with it is of no use to the server, which would answer some errors with a 400 of its own.
func (g *Gate) headError(err error) error {
	begun := g.r < len(g.buf)
	switch {
	case err == errOwnDeadline && begun:
		g.refuse(g.slot(), errSlowHead)
		return nil
	case err == errOwnDeadline:
		g.cfg.Stats.Idle.Add(1)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err // the server's, which comes back
	case begun:
		g.cfg.Stats.Truncated.Add(1)
	}
	g.state = inNothing
	g.recycle()
	return io.EOF
}

// slot takes a number for the next request. Two are enough: the server reads ahead
// only while one request is being answered, and not past the next head.
func (g *Gate) slot() *Request {
	if !g.headAt.IsZero() {
		g.headAt = time.Time{}
		g.begun.Store(0)
	}
	g.number++
	q := &g.slots[g.number&1]
	*q = Request{Number: g.number, gate: g}
	return q
}

func (g *Gate) accept(end, lines int) {
	q := g.slot()
	raw := g.buf[g.r : g.r+end]
	if bad := parseRequest(&q.Head, raw, lines, g.limits, g.cfg.Underscores); bad != nil {
		g.refuse(q, bad)
		return
	}
	g.r += end
	g.scan = scanner{}
	g.cfg.Stats.Requests.Add(1)
	if g.cfg.MaxRequests > 0 && g.number >= uint64(g.cfg.MaxRequests) {
		q.Close = true
	}
	if g.rest = inHead; q.Close {
		g.rest = inLast
	}
	switch {
	case q.Upgrade != "":
		g.state = inRaw
	case q.Length == exchange.Unknown:
		g.state, g.chunks, g.opening = inChunks, NewChunks(g.limits), true
	case q.Length > 0:
		g.state, g.left = inBody, q.Length
	default:
		g.state = g.rest
	}
	g.waited, g.came = 0, 0
	g.direct.broke = nil
	g.direct.ended.Store(q.Length == 0)
	if !g.direct.on {
		g.announce(q)
	}
}

// announce writes the head that the server gets. After a request to change the protocol the connection
// carries nothing more for us, whether that was granted or not: how much of what
// follows belongs to which protocol could only be guessed.
func (g *Gate) announce(q *Request) {
	b := append(g.outline[:0], q.Method...)
	b = append(b, " /"...)
	b = strconv.AppendUint(b, q.Number, 10)
	if q.Protocol == exchange.HTTP10 {
		b = append(b, " HTTP/1.0\r\nHost:\r\n"...)
	} else {
		b = append(b, " HTTP/1.1\r\nHost:\r\n"...)
	}
	switch {
	case q.Length == exchange.Unknown:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case q.Length > 0:
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, q.Length, 10), "\r\n"...)
	}
	if q.Continue {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	if q.Close || q.Upgrade != "" {
		b = append(b, "Connection: close\r\n"...)
	} else if q.Protocol == exchange.HTTP10 {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	g.out = append(b, "\r\n"...)
}

// refuse has the server ask the handler all the same, so that the answer comes in its turn.
func (g *Gate) refuse(q *Request, bad *Error) {
	g.cfg.Stats.refuse(bad)
	q.Refused = bad
	g.direct.ended.Store(true)
	b := append(g.outline[:0], "GET /"...)
	b = strconv.AppendUint(b, q.Number, 10)
	g.out = append(b, " HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"...)
	g.state, g.r = inLast, len(g.buf)
	g.lingers.Store(true)
}
