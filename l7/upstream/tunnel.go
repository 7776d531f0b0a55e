package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

const pollError = unix.POLLERR | unix.POLLHUP

// tunnel is the Body of a 101.
type tunnel struct{ *body }

// WriteTo is hidden: a tunnel has two directions.
func (t *tunnel) WriteTo(io.Writer) (int64, error) { return 0, errors.ErrUnsupported }

// Traffic is how many bytes went through a tunnel.
type Traffic struct {
	Up, Down int64 // from the client, and to it
}

// Tunnel joins the client's connection to the one on which the endpoint has answered 101, until
// both sides have closed, until nothing has moved for idle in either direction, or until ctx ends. The idle end
// may come half as late again. early is what the client has sent already. Both connections are closed on return. If both are
// plain TCP the kernel moves the bytes; client may be a wrapper with a method NetConn() net.Conn.
//
// The error is nil if both sides closed in order.
func (c *Client) Tunnel(ctx context.Context, resp *exchange.Response, client net.Conn, early []byte, idle time.Duration) (Traffic, error) {
	t, ok := resp.Body.(*tunnel)
	if !ok || t.over {
		return Traffic{}, errors.Join(errors.New("there is no tunnel in this answer"), client.Close())
	}
	t.stop()
	up := t.c
	defer t.drop()
	defer client.Close()
	c.Stats.Tunnels.Add(1)
	defer c.Stats.Tunnels.Add(-1)
	if idle <= 0 {
		idle = c.cfg.Load().Timeouts.Read
	}
	j := joint{idle: idle, ends: [2]side{sideOf(client), sideOf(up.Conn)}}
	defer context.AfterFunc(ctx, j.cut)()
	if t.c.aborted.Load() {
		return Traffic{}, context.Cause(ctx)
	}
	late := append([]byte(nil), up.buf[up.r:up.w]...)
	up.r = up.w
	return j.run(ctx, early, late)
}

// A side is one connection of a tunnel.
type side struct {
	net.Conn
	tcp *net.TCPConn // nil unless it is plain
}

func sideOf(c net.Conn) side {
	if u, ok := c.(interface{ NetConn() net.Conn }); ok {
		if tcp, ok := u.NetConn().(*net.TCPConn); ok && !encrypts(c) {
			return side{c, tcp}
		}
	}
	tcp, _ := c.(*net.TCPConn)
	return side{c, tcp}
}

// encrypts tells tls.Conn, which has a NetConn as well, from wrappers that change nothing.
func encrypts(c net.Conn) bool {
	_, ok := c.(interface{ VerifyHostname(string) error })
	return ok
}

// A joint is a tunnel at work: one direction runs in the caller's goroutine, the other in one of its own.
type joint struct {
	idle time.Duration
	ends [2]side
	last [2]atomic.Int64 // when a direction moved bytes, as far as is known
	over atomic.Bool
}

// cut ends both directions.
func (j *joint) cut() {
	j.over.Store(true)
	for _, e := range j.ends {
		e.SetDeadline(past())
	}
}

func (j *joint) run(ctx context.Context, early, late []byte) (Traffic, error) {
	now := time.Now().UnixNano()
	j.last[0].Store(now)
	j.last[1].Store(now)
	for _, e := range j.ends {
		e.SetDeadline(time.Time{})
	}
	var traffic Traffic
	var down error
	done := make(chan struct{})
	go func() {
		defer close(done)
		traffic.Down, down = j.move(1, late)
	}()
	var up error
	traffic.Up, up = j.move(0, early)
	<-done
	if err := ctx.Err(); err != nil {
		return traffic, context.Cause(ctx)
	}
	return traffic, errors.Join(up, down)
}

// move brings what end from sends to the other one. At its end the other is told (half-close), and
// the other direction goes on. After a failure nothing goes on.
func (j *joint) move(from int, first []byte) (int64, error) {
	src, dst := j.ends[from], j.ends[1-from]
	total, err := j.first(from, dst, first)
	for err == nil {
		var n int64
		n, err = j.step(from, src, dst)
		total += n
	}
	if err == io.EOF {
		if cw, ok := dst.Conn.(interface{ CloseWrite() error }); ok {
			err = cw.CloseWrite()
		} else {
			j.cut()
			err = nil
		}
		if err == nil {
			return total, nil
		}
	}
	if j.over.Load() {
		return total, nil // the other direction has said why
	}
	j.cut()
	return total, err
}

func (j *joint) first(from int, dst side, b []byte) (int64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	dst.SetWriteDeadline(time.Now().Add(j.idle))
	n, err := dst.Write(b)
	j.last[from].Store(time.Now().UnixNano())
	return int64(n), err
}

// step moves what there is until a quarter of the idle time has passed. io.EOF is the end of src.
func (j *joint) step(from int, src, dst side) (int64, error) {
	now := time.Now()
	read, write := now.Add(j.idle/4), now.Add(j.idle+j.idle/4)
	src.SetReadDeadline(read)
	dst.SetWriteDeadline(write)
	if j.over.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := j.transfer(src, dst)
	now = time.Now()
	if n > 0 {
		j.last[from].Store(now.UnixNano())
	}
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	// Up to the write deadline it was the read that had waited long enough, and nothing is lost.
	if j.over.Load() || !now.Before(write) {
		return n, err
	}
	last := max(j.last[0].Load(), j.last[1].Load())
	if now.UnixNano()-last >= int64(j.idle+j.idle/4) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

func (j *joint) transfer(src, dst side) (int64, error) {
	if src.tcp != nil && dst.tcp != nil {
		step := io.LimitedReader{R: src.tcp, N: 1 << 30}
		n, err := dst.tcp.ReadFrom(&step)
		if err == nil && step.N > 0 {
			err = io.EOF
		}
		return n, err
	}
	buf := copies.Get().(*[copySize]byte)
	defer copies.Put(buf)
	n, err := src.Read(buf[:])
	if n > 0 {
		m, werr := dst.Write(buf[:n])
		if werr != nil {
			return int64(m), werr
		}
		return int64(n), nil // what was read counts; the error comes again
	}
	return 0, err
}
