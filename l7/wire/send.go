package wire

import (
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// The room around the data of a chunk: before it for the size, behind it for the end of the chunk and of the body.
const (
	chunkBefore = len("ffffffff\r\n")
	chunkAfter  = len("\r\n" + h1.LastChunk)
)

const streamSize = 64 << 10

var streams = sync.Pool{New: func() any { return new([streamSize]byte) }}

// pieces is where the body of an answer goes, as soon as there is some of it.
type pieces struct {
	s      *session
	body   io.Reader
	source interface{ Buffered() int } // nil: it does not say whether there is more at once
	left   int64                       // less than 0: unknown
	total  int64
	framed bool // in chunks
}

// send sends the body behind the head, which is in out, and returns how many bytes of it there were.
func (s *session) send(resp *exchange.Response, f framing, out []byte) (int64, error) {
	p := &s.out
	*p = pieces{s: s, body: resp.Body, left: resp.Length, framed: f == chunked}
	p.source, _ = resp.Body.(interface{ Buffered() int })
	if p.source != nil && p.source.Buffered() == 0 && p.left != 0 {
		// The head need not wait for what may be long in coming.
		if _, err := s.write(out); err != nil {
			return 0, err
		}
		out = out[:0]
	}
	out, err := p.fill(out)
	// Of a body that breaks off before its first byte the client need not see the head: it may ask again.
	if len(out) > 0 && (err == nil || p.total > 0 || err == io.EOF && p.left <= 0) {
		if _, werr := s.write(out); werr != nil {
			return p.total, werr
		}
	}
	if err == nil && p.left != 0 {
		err = p.rest()
	}
	p.body, p.source = nil, nil
	switch {
	case err != nil && err != io.EOF:
		return p.total, err
	case p.left > 0:
		return p.total, io.ErrUnexpectedEOF
	}
	return p.total, nil
}

// fill appends what there is of the body until out is full, nothing more is there at once, or the body ends, which is io.EOF.
func (p *pieces) fill(out []byte) ([]byte, error) {
	for empty := 0; p.left != 0; {
		room := cap(out) - len(out)
		at := len(out)
		if p.framed {
			room -= chunkBefore + chunkAfter
			at += chunkBefore
		}
		if room < 256 && len(out) > 0 {
			return out, nil
		}
		if p.left > 0 {
			room = int(min(int64(room), p.left))
		}
		n, err := p.body.Read(out[at : at+room])
		if n > 0 {
			out = p.put(out, at, n)
		} else if empty++; empty > 100 && err == nil {
			return out, errNoProgress
		}
		if err == io.EOF && p.framed {
			out = p.last(out)
		}
		if err != nil || p.left != 0 && n > 0 && (p.source == nil || p.source.Buffered() == 0) {
			return out, err
		}
	}
	return out, nil
}

// put takes n bytes that were read at some distance behind out.
func (p *pieces) put(out []byte, at, n int) []byte {
	p.took(int64(n))
	if !p.framed {
		return out[:at+n]
	}
	data := out[at : at+n]
	out = h1.AppendChunk(out, int64(n))
	out = append(out, data...) // moves it a few bytes to the front
	return append(out, "\r\n"...)
}

// last ends the chunks, with the fields that come after them if the client takes some.
func (p *pieces) last(out []byte) []byte {
	resp, q := p.s.x.Response, p.s.q
	if resp.Trailer == nil || !q.Trailers {
		return append(out, h1.LastChunk...)
	}
	t := resp.Trailer.Clone()
	t.DelFunc(func(f exchange.Field) bool { return !h1.TrailerAllowed(f.Name) })
	return append(appendFields(append(out, "0\r\n"...), t), "\r\n"...)
}

// rest sends what has not fitted behind the head.
func (p *pieces) rest() error {
	if to, ok := p.body.(io.WriterTo); ok && !p.framed && p.left > 0 {
		_, err := to.WriteTo(p)
		return err
	}
	buf := streams.Get().(*[streamSize]byte)
	defer streams.Put(buf)
	for {
		out, err := p.fill(buf[:0])
		if len(out) > 0 {
			if _, werr := p.s.write(out); werr != nil {
				return werr
			}
		}
		if err != nil || p.left == 0 {
			return err
		}
	}
}

// Write writes some of the body.
func (p *pieces) Write(b []byte) (int, error) {
	n, err := p.s.write(b)
	p.took(int64(n))
	return n, err
}

// ReadFrom lets the kernel move the bytes, if it can.
func (p *pieces) ReadFrom(r io.Reader) (int64, error) {
	n, err := p.s.c.gate.ReadFrom(r)
	p.took(n)
	if errors.Is(err, syscall.EPIPE) { // which no reading fails with
		p.s.life.cancel()
	}
	return n, err
}

func (p *pieces) took(n int64) {
	p.total += n
	if p.left > 0 {
		p.left = max(0, p.left-n)
	}
}
