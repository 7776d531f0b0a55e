package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// ErrBodyTooLarge is what reading Request.Body returns when a body of unknown length goes beyond Body.Max. Whoever asks
// the backend stops and, if no answer has begun, calls TooLarge.
var ErrBodyTooLarge = errors.New("the body of the request is larger than allowed")

// TooLarge answers 413, as the stage does for bodies whose length was said.
func TooLarge(x *exchange.Exchange) { x.Answer(413, ReasonBodyTooLarge) }

// maxBuffer bounds Body.Buffer: buffers are memory that any client may claim.
const maxBuffer = 1 << 20

// A bodyGuard is the compiled Body.
type bodyGuard struct {
	max    int64 // 0: no limit
	buffer int64
}

func (b *builder) body() error {
	c := b.config.Body
	if c.Max < 0 || c.Buffer < 0 {
		return fmt.Errorf("body: the limit %d or the buffer %d is negative", c.Max, c.Buffer)
	}
	if c.Max > 0 || c.Buffer > 0 {
		b.stage(&bodyGuard{max: c.Max, buffer: int64(min(c.Buffer, maxBuffer))})
	}
	return nil
}

// Admit refuses bodies that are too large by what their length says, and counts those that do not say it. A body that is
// known to be small is read as a whole: Body is a *bytes.Reader then, which may be rewound to ask another endpoint. One of
// unknown length is not waited for, since its sender may wait for the answer.
func (g *bodyGuard) Admit(x *exchange.Exchange) bool {
	r := &x.Request
	switch {
	case r.Length == 0 || r.Body == nil:
		return true
	case g.max > 0 && r.Length > g.max:
		TooLarge(x)
		return false
	case r.Length == exchange.Unknown:
		if g.max > 0 {
			r.Body = &countedBody{Reader: r.Body, left: g.max}
		}
		return true
	case r.Length > g.buffer:
		return true
	}
	return g.read(x)
}

func (g *bodyGuard) read(x *exchange.Exchange) bool {
	b := make([]byte, x.Request.Length)
	_, err := io.ReadFull(x.Request.Body, b)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.Answer(408, ReasonBodyTimeout)
		return false
	default:
		x.Answer(400, ReasonBodyBroken)
		return false
	}
	x.Request.Body = bytes.NewReader(b)
	return true
}

// A countedBody fails beyond a number of bytes, and gives out no byte beyond it.
type countedBody struct {
	io.Reader
	left int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrBodyTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrBodyTooLarge
	}
	return n, err
}
