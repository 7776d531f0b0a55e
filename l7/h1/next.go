package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// What is in this file is a Gate without net/http behind it: package wire takes requests from it as they are
// parsed. A Gate that Next was called of must not be read from by Read.

// Where a connection stands between two requests; see CloseIdle.
const (
	awake int32 = iota
	resting
	dismissed
)

// direct is what a Gate keeps for Next.
type direct struct {
	on      bool
	resting atomic.Int32
	since   atomic.Int64 // when that began, in ns since 1970
	broke   error        // what has gone wrong with the body
	ended   atomic.Bool  // the body has, or there was none
}

// Next waits for the next request, and returns it even if it breaks a rule. What is left of the body of the one before has to be
// read first; if it cannot be, or nothing more is to come, there is no next one and the error is io.EOF. Any other
// error is of the connection. The Request is good until the call after the next.
func (g *Gate) Next() (*Request, error) {
	if g.state != inHead {
		return nil, io.EOF
	}
	g.direct.on = true
	number := g.number
	if g.r == len(g.buf) {
		now := time.Now()
		if number > 0 && g.cfg.IdleTimeout > 0 {
			if err := g.deadline.set(now.Add(g.cfg.IdleTimeout)); err != nil {
				return nil, err
			}
		}
		g.direct.since.Store(now.UnixNano())
		g.direct.resting.Store(resting)
	}
	for g.number == number {
		if err := g.head(); err != nil {
			return nil, err
		}
		if g.state == inNothing {
			return nil, io.EOF
		}
	}
	return &g.slots[g.number&1], nil
}

// stir notes that bytes have come. It reports false if CloseIdle was first.
func (g *Gate) stir() bool {
	return !g.direct.on || g.direct.resting.CompareAndSwap(resting, awake) || g.direct.resting.Load() == awake
}

// CloseIdle closes the connection if the client has sent nothing since its last request was answered, or at
// all. It may be called at any time, and reports whether it has.
func (g *Gate) CloseIdle() bool { return g.Dismiss() && g.Close() == nil }

// Dismiss is CloseIdle without the closing, which may wait for the client: if it reports true the caller has to see to that.
func (g *Gate) Dismiss() bool { return g.direct.resting.CompareAndSwap(resting, dismissed) }

// Resting reports since when, in ns since 1970, CloseIdle could have closed the connection; false: it cannot. It may be called at any time.
func (g *Gate) Resting() (int64, bool) {
	return g.direct.since.Load(), g.direct.resting.Load() == resting
}

// Ended reports whether there is nothing left of the body of the last request.
func (g *Gate) Ended() bool { return g.direct.ended.Load() }

// Reusable reports whether Next can find another request behind the last one.
func (g *Gate) Reusable() bool { return g.state == inHead }

// ReadBody reads the body of the last request without its framing. An *Error is a rule that the client has broken.
// Nothing else may use the Gate meanwhile but Write and Interrupt.
func (g *Gate) ReadBody(p []byte) (int, error) {
	switch {
	case g.direct.broke != nil:
		return 0, g.direct.broke
	case g.direct.ended.Load():
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	var n int
	var err error
	if g.state == inChunks {
		n, err = g.unchunked(p)
	} else if n, err = g.body(p); err == nil && g.left == 0 {
		err = io.EOF
	}
	if err == io.EOF {
		g.direct.ended.Store(true)
	} else if err != nil {
		g.direct.broke = err
	}
	return n, err
}

// unchunked reads the data of chunks.
func (g *Gate) unchunked(p []byte) (int, error) {
	for {
		if left := g.chunks.Left(); left > 0 {
			n, err := g.paced(p, left)
			g.chunks.Took(int64(n))
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		n, err := g.chunks.Next(g.buf[g.r:])
		g.r += n
		if err != nil {
			return 0, g.broken(err)
		}
		switch {
		case g.chunks.Left() > 0:
		case g.chunks.Done():
			q := &g.slots[g.number&1]
			if q.Trailer, err = ParseTrailer(g.chunks.Trailer()); err != nil {
				return 0, g.broken(err)
			}
			g.state, g.chunks = g.rest, Chunks{}
			return 0, io.EOF
		default:
			if err := g.more(); err != nil {
				return 0, err
			}
		}
	}
}

// Watch waits until the client sends something after a request that has come whole, which is kept for later, or goes. A timeout
// is the doing of Unwatch; any other error says that the client has gone.
func (g *Gate) Watch() error {
	switch {
	case g.state == inLast:
		for g.seen <= lingerBytes {
			g.r = len(g.buf)
			if err := g.fill(time.Time{}); err != nil {
				return err
			}
			g.seen += len(g.buf)
		}
		return nil
	case g.state == inNothing || g.r < len(g.buf):
		return nil
	default:
		return g.fill(time.Time{})
	}
}

// Unwatch ends a Watch that is under way, and those that begin before Rewatch.
func (g *Gate) Unwatch() { _ = g.deadline.set(time.Unix(1, 0)) }

// Rewatch lets the client be read from again, after Unwatch and when Watch has returned.
func (g *Gate) Rewatch() { _ = g.deadline.set(time.Time{}) }

// Release gives up the connection after a request to change the protocol, without its Gate so that the kernel can move bytes by
// itself, and with what the client has sent already.
func (g *Gate) Release() (net.Conn, []byte, error) {
	if g.state != inRaw {
		return nil, nil, errors.New("taking over a connection on which no other protocol was asked for")
	}
	early := append([]byte(nil), g.buf[g.r:]...)
	g.recycle()
	if err := g.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, fmt.Errorf("taking over a connection: %w", err)
	}
	return &released{Conn: g.Conn, gate: g}, early, nil
}

// End closes the connection when nobody uses the Gate any more. If the client has sent what nobody has looked at it is heard out
// for a moment; see Request.Linger.
func (g *Gate) End() {
	if g.r < len(g.buf) {
		g.lingers.Store(true)
	}
	_ = g.Close()
	g.recycle()
}
