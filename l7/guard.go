package l7

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A guardedBody is a request's body as backends get it. It is read by goroutines of package upstream, where a panic would be
// the end of the process: here it is an error, and comes back in the goroutine of the request. Who asks a backend ends
// reading a body by its Interrupt, which policies that put something in front of a body do not pass on.
type guardedBody struct {
	from     io.Reader
	engine   interface{ Interrupt() } // nil: it cannot be interrupted
	panicked atomic.Pointer[bodyPanic]
}

// A bodyPanic is a panic of somebody who reads a body.
type bodyPanic struct {
	value any
	stack []byte
}

// String returns what the panic was about.
func (p *bodyPanic) String() string { return fmt.Sprint(p.value) }

var errBodyPanic = errors.New("reading the request's body ended in a panic")

// put makes g the body of x, given what the engine had made of it. A body that is in memory stays as it is.
func (g *guardedBody) put(x *exchange.Exchange, made io.Reader) {
	switch b := x.Request.Body.(type) {
	case nil, *bytes.Reader, *guardedBody:
		return
	case interface{ Interrupt() }:
		g.engine = b
	default:
		g.engine, _ = made.(interface{ Interrupt() })
	}
	g.from = x.Request.Body
	x.Request.Body = g
}

// Read reads.
func (g *guardedBody) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			g.panicked.Store(&bodyPanic{value: v, stack: debug.Stack()})
			n, err = 0, errBodyPanic
		}
	}()
	return g.from.Read(p)
}

// Interrupt ends a Read that waits for the client.
func (g *guardedBody) Interrupt() {
	if g.engine != nil {
		g.engine.Interrupt()
	}
}
