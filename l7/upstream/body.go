package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

type bodyKind uint8

const (
	sized bodyKind = iota
	chunked
	untilClose
)

const (
	// spliceMin is how much has to be left of a body for splicing to pay.
	spliceMin = 32 << 10
	// spliceStep is how much the kernel moves before we look at the clock.
	spliceStep = 512 << 10
	// spliceRate is the slowest rate at which a step may go on past a gap's time, in bytes a second.
	spliceRate = 8 << 10
	// slowStep is how long a step may take before the next megabyte is copied, with a deadline on each read and write.
	slowStep = 2 * time.Second
	copySize = 64 << 10
)

var copies = sync.Pool{New: func() any { return new([copySize]byte) }}

// A body is that of an answer. When it has been read to its end the connection goes back to the pool.
type body struct {
	t       trial
	c       *conn
	sender  *sender
	stop    func() bool // of the watch on the context
	keep    bool
	kind    bodyKind
	left    int64
	chunks  h1.Chunks
	trailer exchange.Header
	over    bool // the connection is no longer ours
	err     error
}

// Read reads the body without its framing. A body that breaks off is an *Error, never io.EOF.
func (b *body) Read(p []byte) (int, error) {
	if b.over {
		return 0, b.after()
	}
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	var err error
	switch b.kind {
	case sized:
		n, err = b.c.read(p[:min(int64(len(p)), b.left)], b.gap())
		if b.left -= int64(n); b.left == 0 {
			b.end()
			return n, nil
		}
	case chunked:
		n, err = b.readChunk(p)
	default:
		if n, err = b.c.read(p, b.gap()); err == io.EOF {
			b.end()
			return n, io.EOF
		}
	}
	if err != nil && !b.over {
		b.fail(err)
		return n, b.err
	}
	return n, err
}

func (b *body) gap() time.Duration { return b.t.to.Timeouts.Read }

// after is what Read returns once all is over.
func (b *body) after() error {
	if b.err != nil {
		return b.err
	}
	return io.EOF
}

func (b *body) readChunk(p []byte) (int, error) {
	c := b.c
	for {
		if left := b.chunks.Left(); left > 0 {
			n, err := c.read(p[:min(int64(len(p)), left)], b.gap())
			if n > 0 {
				b.chunks.Took(int64(n))
				err = nil
			}
			return n, err
		}
		n, err := b.chunks.Next(c.buf[c.r:c.w])
		c.r += n
		if err != nil {
			return 0, err
		}
		if b.chunks.Done() {
			if b.trailer, err = h1.ParseTrailer(b.chunks.Trailer()); err != nil {
				return 0, err
			}
			b.end()
			return 0, io.EOF
		}
		if b.chunks.Left() > 0 {
			continue
		}
		if _, err := c.fill(b.gap(), 0); err != nil {
			return 0, err
		}
	}
}

// end is the good end: all has been read.
func (b *body) end() {
	if b.over {
		return
	}
	b.over = true
	sent := b.sender.finish()
	alive := b.stop()
	if sent && alive && b.keep && !b.c.aborted.Load() {
		b.c.end.keep(b.c, b.t.hint())
	} else {
		b.c.close()
	}
	b.t.record().Total = time.Since(b.t.began)
}

// fail is the bad one.
func (b *body) fail(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	e := &Error{Phase: Body, Sent: true, Answered: true, Err: err}
	b.sender.explain(b.t.x.Context, e)
	e.blame(b.t.x.Context)
	b.err = e
	b.drop()
	b.t.record().Err = e
}

// drop gives the connection up.
func (b *body) drop() {
	if b.over {
		return
	}
	b.over = true
	b.stop()
	b.c.close()
	b.sender.finish()
	b.t.record().Total = time.Since(b.t.began)
}

// Close gives back the connection, or ends it if there is more to read.
func (b *body) Close() error {
	if !b.over {
		b.err = errBodyClosed
		b.drop()
	}
	return nil
}

// WriteTo writes the body to w, by the kernel alone if w can take a TCP connection (io.ReaderFrom) and
// nothing has to be done to the bytes. It does not flush: for answers that trickle, Read is the way.
// An *Error is the endpoint's fault, any other that of w.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	to, _ := w.(io.ReaderFrom)
	buf := copies.Get().(*[copySize]byte)
	defer copies.Put(buf)
	var total, slow int64
	for {
		var n int64
		var err error
		if to != nil && slow <= 0 && b.canSplice() {
			began := time.Now()
			n, err = b.splice(to)
			if time.Since(began) > slowStep {
				slow = 1 << 20
			}
		} else {
			n, err = b.copy(w, buf[:])
			slow -= n
		}
		total += n
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (b *body) canSplice() bool {
	return !b.over && b.kind == sized && b.left >= spliceMin && !b.c.secure && b.c.tcp != nil && b.c.r == b.c.w
}

func (b *body) copy(w io.Writer, buf []byte) (int64, error) {
	n, err := b.Read(buf)
	if n > 0 {
		if m, werr := w.Write(buf[:n]); werr != nil {
			b.drop()
			return int64(m), werr
		}
	}
	return int64(n), err
}

// splice moves one step. Which side failed can be told from the socket alone.
func (b *body) splice(to io.ReaderFrom) (int64, error) {
	c := b.c
	extra := time.Duration(spliceStep/spliceRate) * time.Second
	c.armRead(b.gap() + extra)
	step := io.LimitedReader{R: c.tcp, N: min(b.left, spliceStep)}
	n, err := to.ReadFrom(&step)
	b.left -= n
	b.t.client.Stats.Spliced.Add(uint64(n))
	switch {
	case err == nil && step.N > 0:
		b.fail(io.EOF)
		return n, b.err
	case err != nil && b.theirs(err):
		b.fail(err)
		return n, b.err
	case err != nil:
		b.drop()
		return n, err
	case b.left == 0:
		b.end()
		return n, io.EOF
	}
	return n, nil
}

// theirs reports whether an error of a splice is the endpoint's: our read deadline has passed, the
// request is over, or the endpoint has reset the connection.
func (b *body) theirs(err error) bool {
	if b.t.x.Context.Err() != nil || b.c.aborted.Load() {
		return true
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return !time.Now().Before(b.c.readArmed)
	}
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	return b.c.raw.Control(b.c.ask) != nil || b.c.readable && b.c.poll[0].Revents&pollError != 0
}
