//go:build linux

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Conn is a TCP connection or an SCTP association with a [Server] that is meant
// to last, to see what a change does to established flows. Not for concurrent
// use.
type Conn struct {
	stream  stream
	lines   *bufio.Reader
	timeout time.Duration
	disown  func()
}

// A stream is what TCP and SCTP have in common. *net.TCPConn is one.
type stream interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// Dial connects and waits for the server's greeting, over SCTP if the request
// says so and else over TCP. If the result's class is not Reply there is no
// connection and Conn is nil.
func (ns *NS) Dial(ctx context.Context, r Request) (*Conn, Result) {
	start := time.Now()
	c, err := ns.dial(ctx, r)
	if err != nil {
		return nil, Result{Class: classify(err), Err: err, Elapsed: time.Since(start)}
	}
	res := c.converse(ctx, "", func() Result { return c.read(ctx, hello, "") })
	res.Elapsed = time.Since(start)
	if res.Class != Reply {
		c.Reset()
		return nil, res
	}
	return c, res
}

func (ns *NS) dial(ctx context.Context, r Request) (*Conn, error) {
	if r.Proto != SCTP {
		r.Proto = TCP
	}
	nc, err := ns.connect(ctx, r)
	if err != nil {
		return nil, err
	}
	disown, err := ns.own(nc)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return &Conn{stream: nc.(stream), lines: bufio.NewReader(nc), timeout: r.timeout(), disown: disown}, nil
}

// Local is the client's own address.
func (c *Conn) Local() netip.AddrPort { return addrPort(c.stream.LocalAddr()) }

// Exchange sends a line, without a newline in it, and waits for it to come back.
// The result says who answered, or why nobody did.
func (c *Conn) Exchange(ctx context.Context, line string) Result {
	if strings.Contains(line, "\n") {
		return Result{Class: Failed, Err: errors.New("exchange: more than one line")}
	}
	return c.converse(ctx, line+"\n", func() Result { return c.read(ctx, echo, line) })
}

// Finish closes the client's half of the connection and waits for the server,
// which can still speak, to say goodbye and close its own. SCTP cannot do that:
// the result is Failed.
func (c *Conn) Finish(ctx context.Context) Result {
	return c.converse(ctx, "", func() Result {
		if err := c.stream.CloseWrite(); err != nil {
			return c.failure(ctx, err)
		}
		res := c.read(ctx, bye, "")
		if res.Class != Reply {
			return res
		}
		if _, err := c.lines.ReadByte(); !errors.Is(err, io.EOF) {
			return Result{Class: Failed, Local: c.Local(), Err: fmt.Errorf("after the goodbye: want EOF, got %w", err)}
		}
		return res
	})
}

// converse writes text and then calls receive, all within the timeout.
func (c *Conn) converse(ctx context.Context, text string, receive func() Result) Result {
	start := time.Now()
	if err := c.stream.SetDeadline(start.Add(c.timeout)); err != nil {
		return c.failure(ctx, err)
	}
	var res Result
	func() {
		defer interrupt(ctx, c.stream.SetDeadline)()
		if _, err := io.WriteString(c.stream, text); err != nil {
			res = c.failure(ctx, err)
			return
		}
		res = receive()
	}()
	res.Elapsed = time.Since(start)
	return res
}

// read waits for one answer and checks it.
func (c *Conn) read(ctx context.Context, verb, text string) Result {
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return c.failure(ctx, err)
	}
	a, err := parseAnswer(line)
	if err == nil && (a.verb != verb || a.text != text) {
		err = fmt.Errorf("%v answered %s %q, want %s %q", a.from, a.verb, a.text, verb, text)
	}
	if err != nil {
		return Result{Class: Failed, Local: c.Local(), Err: err}
	}
	return Result{Class: Reply, From: a.from, SeenSource: a.seen, Local: c.Local()}
}

func (c *Conn) failure(ctx context.Context, err error) Result {
	err = cancelled(ctx, err)
	return Result{Class: classify(err), Local: c.Local(), Err: err}
}

// Close closes the connection in the ordinary way.
func (c *Conn) Close() error {
	c.disown()
	return c.stream.Close()
}

// Reset ends the connection with a TCP reset or an SCTP abort.
func (c *Conn) Reset() error {
	c.disown()
	return errors.Join(c.stream.SetLinger(0), c.stream.Close())
}
