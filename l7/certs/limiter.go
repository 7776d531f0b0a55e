package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"time"
)

// ErrBusy is what a handshake fails with that had to wait too long for its turn.
var ErrBusy = errors.New("too many TLS handshakes at once")

// A Limiter bounds how many handshakes are computed at a time, so that a flood of them
// takes neither all CPU from connections that stand nor ever more memory.
//
// A turn lasts from the client's ClientHello to the moment when we wait for
// its next message. Clients that are slow hold none, so a few of them cannot keep the others
// out.
type Limiter struct {
	turns   chan struct{}
	wait    time.Duration
	refused atomic.Uint64
}

// NewLimiter returns a Limiter of n handshakes at a time, 4 for each CPU if n is 0, that makes
// others wait for at most wait, 5 s if it is 0.
func NewLimiter(n int, wait time.Duration) *Limiter {
	if n == 0 {
		n = 4 * runtime.GOMAXPROCS(0)
	}
	if wait == 0 {
		wait = 5 * time.Second
	}
	return &Limiter{turns: make(chan struct{}, n), wait: wait}
}

// Refused returns how many handshakes have failed for waiting too long.
func (l *Limiter) Refused() uint64 { return l.refused.Load() }

// Wrap returns conn for tls.Server.
func (l *Limiter) Wrap(conn net.Conn) net.Conn { return &limited{Conn: conn, limiter: l} }

// Admit waits for a turn for the handshake that hello begins; it is for
// tls.Config.GetConfigForClient. Connections that are not wrapped pass.
func (l *Limiter) Admit(hello *tls.ClientHelloInfo) error {
	c, ok := hello.Conn.(*limited)
	if !ok || c.limiter != l {
		return nil
	}
	select {
	case l.turns <- struct{}{}:
	default:
		if err := l.queue(hello.Context()); err != nil {
			l.refused.Add(1)
			return err
		}
	}
	c.turn.Store(true)
	if c.closed.Load() {
		c.release() // Close may have come too early to see the turn
		return net.ErrClosed
	}
	return nil
}

func (l *Limiter) queue(ctx context.Context) error {
	timer := time.NewTimer(l.wait)
	defer timer.Stop()
	select {
	case l.turns <- struct{}{}:
		return nil
	case <-timer.C:
		return ErrBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A limited connection may have a turn of its Limiter.
type limited struct {
	net.Conn
	limiter *Limiter
	turn    atomic.Bool
	closed  atomic.Bool
}

func (c *limited) release() {
	if c.turn.Load() && c.turn.CompareAndSwap(true, false) {
		<-c.limiter.turns
	}
}

// Read gives the turn back: whoever reads waits for the client.
func (c *limited) Read(b []byte) (int, error) {
	c.release()
	return c.Conn.Read(b)
}

// Close gives the turn back.
func (c *limited) Close() error {
	c.closed.Store(true)
	c.release()
	return c.Conn.Close()
}

// Unwrap returns the connection underneath.
func (c *limited) Unwrap() net.Conn { return c.Conn }
