package wire

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// drained is how much of a body is read after the answer to go on with the connection.
const drained = 256 << 10

// A body is that of a request. It counts what is read.
type body struct {
	s      *session
	mu     sync.Mutex // held while it is read
	over   bool       // nobody may read it any more; mu guards it
	n      atomic.Int64
	wanted atomic.Bool // somebody has tried to read it
	broken atomic.Bool // it cannot be read any more: the client's fault, or Interrupt has been called
}

var errOver = errors.New("the body of a request is read after its end")

// close ends reading, whoever is still at it.
func (b *body) close() {
	if !b.mu.TryLock() {
		b.Interrupt()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.over = true
}

// Read reads the body. The client is told to send it, if it waits for that.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errOver
	}
	s := b.s
	if !b.wanted.Load() {
		if s.q.Continue {
			if err := s.goOn(); err != nil {
				return 0, err
			}
		}
		b.wanted.Store(true)
	}
	n, err := s.c.gate.ReadBody(p)
	b.n.Add(int64(n))
	switch {
	case err == nil:
	case err == io.EOF:
		s.c.bodyEnded()
	default:
		b.broken.Store(true)
		if isEnd(err) {
			s.life.cancel()
		}
	}
	return n, err
}

// Interrupt ends a Read that waits for the client, from another goroutine, and all later ones.
func (b *body) Interrupt() {
	b.broken.Store(true)
	b.s.q.Interrupt()
}

// unread reports whether there is a body that has not been read to its end.
func (b *body) unread() bool { return !b.s.c.gate.Ended() }

// left returns how much of the body there is to come; less than 0 is unknown.
func (b *body) left() int64 {
	if n := b.s.q.Length; n >= 0 {
		return n - b.n.Load()
	}
	return -1
}

// drain reads what is left of a body that has its answer, if that is not much. It reports whether the next request can be read.
func (b *body) drain() bool {
	switch {
	case b.broken.Load():
		return false
	case !b.unread():
		return true
	case b.left() > drained, b.s.q.Continue && !b.s.told100():
		return false
	}
	n, err := io.CopyN(io.Discard, gateBody{b.s}, drained+1)
	return n <= drained && err == io.EOF
}

// gateBody is a body that tells nobody.
type gateBody struct{ s *session }

func (g gateBody) Read(p []byte) (int, error) { return g.s.c.gate.ReadBody(p) }

const goOn = "HTTP/1.1 100 Continue\r\n\r\n"

// goOn tells the client to send its body, unless it has its answer already.
func (s *session) goOn() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.turn.begun || s.turn.continued {
		return nil
	}
	s.turn.continued = true
	_, err := io.WriteString(s.c.gate, goOn)
	return err
}

var errNoProgress = errors.New("the body of an answer gives neither bytes nor its end")
