package h1

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	// lingerBytes and lingerTime bound how long we listen to a client that has been refused, so that it
	// gets to read why before its own bytes meet a closed socket.
	lingerBytes = 256 << 10
	lingerTime  = 500 * time.Millisecond
	// lingerSlow bytes are read every lingerStep after that.
	lingerSlow = 16 << 10
	lingerStep = 10 * time.Millisecond
)

func (g *Gate) body(p []byte) (int, error) {
	n, err := g.paced(p, g.left)
	if g.left -= int64(n); g.left == 0 && err == nil {
		g.state = g.rest
	}
	return n, err
}

// chunked passes data as they are and framing in its shortest form.
func (g *Gate) chunked(p []byte) (int, error) {
	if left := g.chunks.Left(); left > 0 {
		n, err := g.paced(p, left)
		g.chunks.Took(int64(n))
		return n, err
	}
	n, err := g.chunks.Next(g.buf[g.r:])
	g.r += n
	if err != nil {
		return 0, g.broken(err)
	}
	b := g.outline[:0]
	if !g.opening {
		b = append(b, "\r\n"...)
	}
	switch {
	case g.chunks.Left() > 0:
		g.out, g.opening = AppendChunk(b, g.chunks.Left()), false
	case g.chunks.Done():
		q := &g.slots[g.number&1]
		if q.Trailer, err = ParseTrailer(g.chunks.Trailer()); err != nil {
			return 0, g.broken(err)
		}
		g.out, g.state, g.chunks = append(b, LastChunk...), g.rest, Chunks{}
	default:
		return 0, g.more()
	}
	return 0, nil
}

// broken ends the connection in the middle of a body: the handler's read returns err, and nothing after.
func (g *Gate) broken(err error) error {
	var bad *Error
	if errors.As(err, &bad) {
		g.cfg.Stats.refuse(bad)
		g.lingers.Store(true)
	} else {
		g.cfg.Stats.Truncated.Add(1)
	}
	g.state, g.r = inNothing, len(g.buf)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// more reads framing into the buffer.
func (g *Gate) more() error {
	began := time.Now()
	had := len(g.buf) - g.r
	if err := g.fill(g.gap(began)); err != nil {
		return g.bodyError(err)
	}
	return g.pace(began, len(g.buf)-g.r-had)
}

// paced is payload for bodies: a client that keeps us waiting too long, or too often, is refused.
func (g *Gate) paced(p []byte, left int64) (int, error) {
	most := int(min(int64(len(p)), left))
	if g.r < len(g.buf) {
		return g.payload(p, most, time.Time{})
	}
	began := time.Now()
	n, err := g.payload(p, most, g.gap(began))
	if err != nil {
		return n, g.bodyError(err)
	}
	return n, g.pace(began, n)
}

func (g *Gate) gap(now time.Time) time.Time {
	if g.cfg.BodyGap <= 0 {
		return time.Time{}
	}
	return now.Add(g.cfg.BodyGap)
}

func (g *Gate) bodyError(err error) error {
	if err == errOwnDeadline {
		err = errSlowBody
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return err // the server's own deadline; it may try again
	}
	return g.broken(err)
}

// pace counts only the time that we waited for the client: that a backend is slow is not its fault.
func (g *Gate) pace(began time.Time, n int) error {
	if g.cfg.MinRate <= 0 {
		return nil
	}
	g.waited += time.Since(began)
	g.came += int64(n)
	if g.waited < g.cfg.RateWindow {
		return nil
	}
	if float64(g.came) < float64(g.cfg.MinRate)*g.waited.Seconds() {
		return g.broken(errSlowBody)
	}
	g.waited, g.came = 0, 0
	return nil
}

// payload moves at most most bytes of the client's into p, past the buffer if that is empty and it pays.
func (g *Gate) payload(p []byte, most int, own time.Time) (int, error) {
	if g.r == len(g.buf) {
		if most >= cap(g.buf) {
			n, err := g.read(p[:most], own)
			g.cfg.Stats.Bytes.Add(uint64(n))
			return n, err
		}
		if err := g.fill(own); err != nil {
			return 0, err
		}
	}
	n := copy(p[:most], g.buf[g.r:])
	g.r += n
	return n, nil
}

// fill reads once into the buffer, which grows while a head needs it to.
func (g *Gate) fill(own time.Time) error {
	if g.r == len(g.buf) {
		g.buf, g.r, g.scan = g.shrunk()[:0], 0, scanner{}
	}
	if len(g.buf) == cap(g.buf) {
		g.grow()
	}
	n, err := g.read(g.buf[len(g.buf):cap(g.buf)], own)
	g.buf = g.buf[:len(g.buf)+n]
	g.cfg.Stats.Bytes.Add(uint64(n))
	return err
}

// grow makes room: by moving what is there to the front, or for the largest head at once.
func (g *Gate) grow() {
	if g.r > 0 {
		g.buf = g.buf[:copy(g.buf, g.buf[g.r:])]
		g.r = 0
		return
	}
	bigger := make([]byte, len(g.buf), g.limits.Head+g.limits.Line)
	copy(bigger, g.buf)
	g.recycle()
	g.buf = bigger
}

// shrunk returns the buffer, or a small one if a large head has passed.
func (g *Gate) shrunk() []byte {
	if cap(g.buf) != len([4096]byte{}) {
		return pool.Get().(*[4096]byte)[:]
	}
	return g.buf
}

func (g *Gate) recycle() {
	if cap(g.buf) == len([4096]byte{}) {
		pool.Put((*[4096]byte)(g.buf[:cap(g.buf)]))
	}
	g.buf, g.r = nil, 0
}

// discard waits for the end of a connection on which nothing more is asked.
func (g *Gate) discard() error {
	for g.seen <= lingerBytes {
		g.r = len(g.buf)
		if err := g.fill(time.Time{}); err != nil {
			return err
		}
		g.seen += len(g.buf)
	}
	return io.EOF
}

// CloseWrite tells the client that no more answers come, where the transport can say so.
func (g *Gate) CloseWrite() error {
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close ends the connection. A client that has been refused is heard out for a moment:
// closing with its bytes unread would reset the connection, and the answer be lost with it.
func (g *Gate) Close() error {
	if !g.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	g.cfg.Stats.Open.Add(-1)
	if g.lingers.Load() && g.CloseWrite() == nil {
		g.linger()
	}
	return g.Conn.Close()
}

// linger hears the client out, but no faster than slowly once it has said lingerBytes: it may well be sending without
// looking whether there is an answer.
func (g *Gate) linger() {
	end := time.Now().Add(lingerTime)
	if g.Conn.SetReadDeadline(end) != nil {
		return
	}
	_, err := io.CopyN(io.Discard, onlyReader{g.Conn}, lingerBytes)
	for err == nil && time.Now().Before(end) {
		time.Sleep(lingerStep)
		_, err = io.CopyN(io.Discard, onlyReader{g.Conn}, lingerSlow)
	}
}

// onlyReader hides WriteTo, which may not be used with a deadline in mind.
type onlyReader struct{ io.Reader }
