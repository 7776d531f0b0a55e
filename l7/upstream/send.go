package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

const (
	// inlineBody is how long a body may be that is in memory and sent before the answer is looked at. It fits
	// into socket buffers, so an endpoint that answers without reading does not stop us.
	inlineBody = 64 << 10
	// joinBody is how long a body may be that is copied behind the head.
	joinBody = 16 << 10
	sendSize = 32 << 10
)

var sends = sync.Pool{New: func() any { return new([sendSize]byte) }}

// appendHead writes the head of a request. What would be framing or is of one hop alone is left out
// of the fields, whoever put it there; what could break a line is an error.
func appendHead(b []byte, r *exchange.Request, host string) ([]byte, error) {
	if !h1.ValidToken(r.Method) || !h1.ValidTarget(r.Path) || !validQuery(r.Query) || !h1.ValidValue(host) {
		return b, errors.New("the request line would not be valid")
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Path...)
	if r.HasQuery {
		b = append(b, '?')
		b = append(b, r.Query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	for i := range r.Header {
		f := &r.Header[i]
		if h1.HopByHop(f.Name) {
			continue
		}
		if !h1.ValidToken(f.Name) || !h1.ValidValue(f.Value) {
			return b, fmt.Errorf("the field %q would not be valid", f.Name)
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return appendFraming(b, r), nil
}

func validQuery(q string) bool { return q == "" || h1.ValidTarget(q) }

func appendFraming(b []byte, r *exchange.Request) []byte {
	switch {
	case r.Upgrade != "":
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, r.Upgrade...)
		b = append(b, "\r\n"...)
	case r.Trailers:
		b = append(b, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	switch {
	case r.Length > 0:
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, r.Length, 10), "\r\n"...)
	case r.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH":
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110 section 8.6: such methods are expected to have one
	}
	return append(b, "\r\n"...)
}

// send writes the head, with the body if it is in memory and small. For another
// body it returns the sender that goes on with it.
func (t *trial) send(c *conn) (*sender, *Error) {
	r := &t.x.Request
	host := t.to.Host
	if host == "" {
		host = r.RawHost
	}
	out, err := appendHead(c.out[:0], r, host)
	if c.out = out; err != nil {
		return nil, &Error{Phase: Build, Err: err}
	}
	inline, rest := t.inline()
	if len(inline) > 0 && len(inline) <= joinBody {
		out = append(out, inline...)
		c.out, inline = out, nil
	}
	c.armWrite(t.to.Timeouts.Write)
	n, err := c.Write(out)
	if err == nil && inline != nil {
		_, err = c.Write(inline)
	}
	if cap(c.out) > joinBody {
		c.out = nil
	}
	if err != nil {
		return nil, &Error{Phase: Write, Sent: n > 0 || c.secure, Err: err}
	}
	if rest == nil {
		return nil, nil
	}
	s := &sender{c: c, body: rest, request: r, gap: t.to.Timeouts.Write, done: make(chan struct{})}
	go s.run()
	return s, nil
}

// inline returns the body if it can be written at once, or else what has to be read.
func (t *trial) inline() ([]byte, io.Reader) {
	r := &t.x.Request
	if r.Body == nil || r.Length == 0 {
		return nil, nil
	}
	m, ok := r.Body.(*bytes.Reader)
	if !ok {
		return nil, r.Body
	}
	m.Seek(0, io.SeekStart)
	if r.Length < 0 || r.Length > inlineBody || m.Size() != r.Length {
		return nil, m
	}
	b := make([]byte, r.Length)
	io.ReadFull(m, b)
	return b, nil
}

// A sender brings a body to the endpoint while somebody else waits for the answer.
type sender struct {
	c       *conn
	body    io.Reader
	request *exchange.Request
	gap     time.Duration
	read    atomic.Bool // bytes have been taken from the client
	done    chan struct{}
	// After done:
	err    error
	client bool // the error is the client's
}

// run sends the body. If the client fails to deliver it, the endpoint must not take what it got for the
// whole, so the connection ends. It ends, too, if the endpoint takes nothing for too long; but if it has closed
// its ear, an answer may be there all the same.
func (s *sender) run() {
	buf := sends.Get().(*[sendSize]byte)
	defer sends.Put(buf)
	if s.request.Length >= 0 {
		s.sized(buf[:])
	} else {
		s.chunked(buf[:])
	}
	cut := s.client || errors.Is(s.err, os.ErrDeadlineExceeded)
	close(s.done)
	if cut {
		s.c.abort()
	}
}

func (s *sender) sized(buf []byte) {
	for left := s.request.Length; left > 0; {
		n, err := s.body.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			s.read.Store(true)
			left -= int64(n)
			if s.err = s.write(buf[:n]); s.err != nil {
				return
			}
		}
		if err != nil && left > 0 {
			if err == io.EOF {
				err = errShort
			}
			s.err, s.client = err, true
			return
		}
	}
}

// chunked makes one chunk of what one Read gives, so that nothing waits for more.
func (s *sender) chunked(buf []byte) {
	const space = 10 // for the size before and the end after it
	var size [space]byte
	for {
		n, err := s.body.Read(buf[space : len(buf)-space])
		if n > 0 {
			s.read.Store(true)
			head := h1.AppendChunk(size[:0], int64(n))
			from := space - len(head)
			copy(buf[from:], head)
			to := copy(buf[space+n:], "\r\n") + space + n
			if s.err = s.write(buf[from:to]); s.err != nil {
				return
			}
		}
		if err == io.EOF {
			s.err = s.write(s.last())
			return
		}
		if err != nil {
			s.err, s.client = err, true
			return
		}
	}
}

// last ends the body, with the fields that the client sent after it.
func (s *sender) last() []byte {
	if s.request.Trailer == nil || len(*s.request.Trailer) == 0 {
		return []byte(h1.LastChunk)
	}
	b := []byte("0\r\n")
	for _, f := range *s.request.Trailer {
		if h1.TrailerAllowed(f.Name) && h1.ValidToken(f.Name) && h1.ValidValue(f.Value) {
			b = append(b, f.Name+": "+f.Value+"\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

func (s *sender) write(p []byte) error {
	s.c.armWrite(s.gap)
	_, err := s.c.Write(p)
	return err
}

// An interrupter is a body whose Read can be ended from outside, as h1.Request can.
type interrupter interface{ Interrupt() }

// finish reports whether the whole body has been sent. If it has not, sending ends now: the answer is complete.
func (s *sender) finish() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.done:
		return s.err == nil
	default:
	}
	// The last bytes may just have been written.
	grace := time.NewTimer(5 * time.Millisecond)
	defer grace.Stop()
	select {
	case <-s.done:
		return s.err == nil
	case <-grace.C:
	}
	s.c.abort()
	if i, ok := s.body.(interrupter); ok {
		i.Interrupt()
		<-s.done
	}
	return false
}

// explainTime is how long explain waits for a sender whose client is gone or at fault.
const explainTime = 20 * time.Millisecond

// explain puts the reason into e if it was the sending that ended the connection.
func (s *sender) explain(ctx context.Context, e *Error) {
	if s != nil && ctx.Err() != nil { // which the server ends just before it tells us what is wrong with the body
		select {
		case <-s.done:
		case <-time.After(explainTime):
		}
	}
	if s == nil || s.busy() {
		return
	}
	e.BodyRead = s.read.Load()
	switch {
	case s.client:
		e.Phase, e.Err = Request, s.err
	case errors.Is(s.err, os.ErrDeadlineExceeded):
		e.Phase, e.Err = Write, s.err
	}
}

// busy reports whether the body is still on its way.
func (s *sender) busy() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}
