package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// A Phase is how far a request had come.
type Phase uint8

// The phases in their order.
const (
	Build   Phase = iota // the request cannot be written as HTTP
	Dial                 // no connection
	TLS                  // no handshake
	Write                // the request could not be sent
	Request              // the client did not deliver its body
	Head                 // no answer, or one that breaks the rules
	Body                 // the answer broke off
)

// String returns the phase for logs and metrics.
func (p Phase) String() string {
	switch p {
	case Build:
		return "build"
	case Dial:
		return "dial"
	case TLS:
		return "tls"
	case Write:
		return "write"
	case Request:
		return "request"
	case Head:
		return "head"
	default:
		return "body"
	}
}

// An Error says what went wrong with one endpoint, and what is known for deciding
// whether another one may be asked.
type Error struct {
	Phase Phase
	// Sent is set if any byte of the request may have reached the endpoint.
	Sent bool
	// Reused is set if the connection had been kept from before. With Sent and without Answered, that
	// is how a connection looks that the endpoint was just closing.
	Reused bool
	// Answered is set if any byte of an answer had come.
	Answered bool
	// BodyRead is set if bytes of the body were taken from the client and cannot be had again. A body in a
	// *bytes.Reader always can.
	BodyRead bool
	// Timeout is set if the endpoint was too slow, or the request had no more time.
	Timeout bool
	// Canceled is set if the client has gone.
	Canceled bool
	Err      error
}

// Error says what was attempted and how it failed.
func (e *Error) Error() string {
	kept := ""
	if e.Reused {
		kept = " on a kept connection"
	}
	return fmt.Sprintf("asking the endpoint: %s%s: %v", e.Phase, kept, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// blame completes e: if the context is done, that is the cause, whatever it looked like.
func (e *Error) blame(ctx context.Context) {
	if broken, ok := errors.AsType[*h1.Error](e.Err); ok && e.Phase == Request {
		e.Timeout = broken.Timeout() // the server ends the context of a client whose body breaks the rules
		return
	}
	if ctx.Err() != nil {
		e.Err = context.Cause(ctx)
		e.Timeout = errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(e.Err, errGap)
		e.Canceled = !e.Timeout
		return
	}
	var t interface{ Timeout() bool }
	if errors.Is(e.Err, os.ErrDeadlineExceeded) || errors.As(e.Err, &t) && t.Timeout() {
		e.Timeout = true
	}
}

var (
	errGap        = errors.New("the endpoint was silent for too long")
	errClosed     = errors.New("the connection was closed without an answer")
	errInterim    = errors.New("too many interim answers")
	errSwitch     = errors.New("the endpoint changed to a protocol that was not asked for")
	errShort      = errors.New("the body was shorter than announced")
	errLongHead   = errors.New("the head of the answer is longer than the rule allows")
	errGone       = errors.New("the client is closed")
	errBodyClosed = errors.New("reading a body that has been closed")
)
