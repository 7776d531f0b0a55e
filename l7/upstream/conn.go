package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const bufferSize = 4096

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// past is a deadline that has always passed.
func past() time.Time { return time.Unix(1, 0) }

// A conn is one connection to an endpoint. One request at a time has it.
type conn struct {
	net.Conn              // what is read and written: tcp or TLS on it
	tcp      *net.TCPConn // nil if the transport is another one
	secure   bool
	raw      syscall.RawConn
	end      *endpoint

	buf  []byte // of the endpoint's bytes, buf[r:w] is what nobody has taken
	r, w int
	out  []byte // for heads

	born, since time.Time
	requests    int

	readArmed, writeArmed time.Time
	aborted               atomic.Bool
	abortFunc             func() // abort, bound once
	poll                  [1]unix.PollFd
	ask                   func(fd uintptr) // peek, bound once
	readable              bool
	isClosed              atomic.Bool
}

// dial makes a connection, with TLS if k says so.
func (e *endpoint) dial(ctx context.Context, timeout time.Duration) (*conn, *Error) {
	stats := &e.client.Stats
	stats.Dials.Add(1)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, os.ErrDeadlineExceeded)
	defer cancel()
	nc, err := e.connect(ctx)
	if err != nil {
		stats.DialErrors.Add(1)
		return nil, &Error{Phase: Dial, Err: err, Timeout: ctx.Err() != nil}
	}
	c := &conn{Conn: nc, end: e, born: time.Now()}
	c.abortFunc, c.ask = c.abort, c.peek
	if c.tcp, _ = nc.(*net.TCPConn); c.tcp != nil {
		if c.raw, err = c.tcp.SyscallConn(); err != nil {
			return nil, &Error{Phase: Dial, Err: errors.Join(err, nc.Close())}
		}
	}
	if e.key.tls != nil {
		t := tls.Client(nc, e.key.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			stats.DialErrors.Add(1)
			nc.Close()
			return nil, &Error{Phase: TLS, Err: err, Timeout: ctx.Err() != nil}
		}
		c.Conn, c.secure = t, true
	}
	stats.Active.Add(1)
	return c, nil
}

func (e *endpoint) connect(ctx context.Context) (net.Conn, error) {
	if d := e.client.cfg.Load().Dial; d != nil {
		return d(ctx, e.key.addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", e.key.addr.String())
}

// abort ends whatever waits on the connection. It may be called at any time from anywhere.
func (c *conn) abort() {
	c.aborted.Store(true)
	c.SetDeadline(past())
}

// close ends the connection. Once is enough.
func (c *conn) close() {
	if !c.isClosed.CompareAndSwap(false, true) {
		return
	}
	c.release()
	if c.since.IsZero() {
		c.end.client.Stats.Active.Add(-1)
	}
	if c.secure && c.tcp != nil {
		c.tcp.Close() // a farewell in TLS could block, and nobody needs it
		return
	}
	c.Conn.Close()
}

// release gives the buffer back while the connection has no use for it.
func (c *conn) release() {
	if len(c.buf) == bufferSize {
		buffers.Put((*[bufferSize]byte)(c.buf))
	}
	c.buf, c.r, c.w = nil, 0, 0
}

// fit reports whether a kept connection can be used: not too old, not closed by the endpoint,
// and without a byte on it. Such a byte would be taken for the answer to the next request.
func (c *conn) fit(now time.Time) bool {
	cfg, stats := c.end.client.cfg.Load(), &c.end.client.Stats
	if now.Sub(c.since) > cfg.IdleTimeout || now.Sub(c.born) > cfg.MaxAge {
		stats.Expired.Add(1)
		return false
	}
	if c.raw == nil {
		return true
	}
	c.readable = true
	if c.raw.Control(c.ask) != nil {
		stats.Stale.Add(1)
		return false
	}
	if !c.readable {
		return true
	}
	if c.poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0 {
		stats.Stale.Add(1)
		return false
	}
	if c.secure && c.quiet() {
		return true
	}
	stats.Unexpected.Add(1)
	return false
}

// peek asks the kernel whether there is anything to read.
func (c *conn) peek(fd uintptr) {
	c.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := unix.Poll(c.poll[:], 0)
	c.readable = n != 0 || err != nil
}

// quiet lets TLS read what has come: session tickets are fine, data are not.
func (c *conn) quiet() bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	var one [1]byte
	n, err := c.Conn.Read(one[:])
	c.readArmed = past()
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// take begins a request on the connection.
func (c *conn) begin() {
	if !c.since.IsZero() {
		c.since = time.Time{}
		c.end.client.Stats.Active.Add(1)
	}
	c.requests++
	if c.buf == nil {
		c.buf = buffers.Get().(*[bufferSize]byte)[:]
	}
}

// armRead moves the read deadline unless it is good enough: it may fire an eighth late, never early.
func (c *conn) armRead(gap time.Duration) {
	now := time.Now()
	if left := c.readArmed.Sub(now); left < gap || left > gap+gap/8 {
		c.readArmed = now.Add(gap + gap/8)
		c.SetReadDeadline(c.readArmed)
		c.stay()
	}
}

// armWrite is armRead for writes.
func (c *conn) armWrite(gap time.Duration) {
	now := time.Now()
	if left := c.writeArmed.Sub(now); left < gap || left > gap+gap/8 {
		c.writeArmed = now.Add(gap + gap/8)
		c.SetWriteDeadline(c.writeArmed)
		c.stay()
	}
}

// stay keeps an aborted connection aborted: abort may have come just before the new deadline was set.
func (c *conn) stay() {
	if c.aborted.Load() {
		c.SetDeadline(past())
	}
}

// fill reads once into the buffer, which grows up to most.
func (c *conn) fill(gap time.Duration, most int) (int, error) {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		c.grow(most)
	}
	c.armRead(gap)
	n, err := c.Conn.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (c *conn) grow(most int) {
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
		return
	}
	bigger := make([]byte, most+bufferSize)
	w := copy(bigger, c.buf[:c.w])
	c.release()
	c.buf, c.w = bigger, w
}

// read reads past the buffer if that is empty and p is large.
func (c *conn) read(p []byte, gap time.Duration) (int, error) {
	if c.r == c.w {
		if len(p) >= len(c.buf) {
			c.armRead(gap)
			return c.Conn.Read(p)
		}
		if _, err := c.fill(gap, 0); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}
