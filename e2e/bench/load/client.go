//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// tooMany is how many failures end a load: something else is wrong.
const tooMany = 1000

// client is a Load at work.
type client struct {
	load     Load
	epoll    int
	slots    []slot
	buf      []byte
	request  []byte
	now      time.Time // of the last return of epoll
	counting bool
	result   Result
}

// slot is a place for a connection.
type slot struct {
	fd        int // -1: none
	connected bool
	got       int       // of the answer
	begun     time.Time // the request, or the connection
}

// Run makes the load from the network namespace of the calling thread, to which it
// must be locked. If mark is not nil, it is called when the time that counts begins,
// and when it ends. An error means that the load could not be made.
func (l Load) Run(ctx context.Context, mark func() error) (Result, error) {
	if l.Conns < 1 {
		return Result{}, errors.New("load: no connections")
	}
	c := &client{load: l, buf: make([]byte, chunk), request: make([]byte, Message), now: time.Now()}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("make an epoll: %w", err)
	}
	defer unix.Close(c.epoll)
	defer c.closeAll()
	for i := range l.Conns {
		c.slots = append(c.slots, slot{fd: -1})
		if err := c.open(i); err != nil {
			return Result{}, err
		}
	}
	return c.run(ctx, mark)
}

func (c *client) run(ctx context.Context, mark func() error) (Result, error) {
	if mark == nil {
		mark = func() error { return nil }
	}
	if err := c.until(ctx, time.Now().Add(c.load.Warmup)); err != nil {
		return c.result, err
	}
	if err := mark(); err != nil {
		return c.result, err
	}
	begun := time.Now()
	c.counting = true
	if err := c.until(ctx, begun.Add(c.load.Duration)); err != nil {
		return c.result, err
	}
	c.result.Elapsed = time.Since(begun)
	return c.result, mark()
}

// until turns the loop until a time has come.
func (c *client) until(ctx context.Context, end time.Time) error {
	const tick = 100 * time.Millisecond
	list := make([]unix.EpollEvent, events)
	look := time.Now().Add(tick)
	for c.now = time.Now(); c.now.Before(end); c.now = time.Now() {
		if c.now.After(look) {
			look = c.now.Add(tick)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := c.expire(); err != nil {
				return err
			}
		}
		n, err := unix.EpollWait(c.epoll, list, int(min(tick, end.Sub(c.now)).Milliseconds())+1)
		if err != nil && !retry(err) {
			return fmt.Errorf("wait: %w", err)
		}
		for _, e := range list[:max(n, 0)] {
			if err := c.handle(int(e.Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// open begins a connection. An error means that there can be no load at all.
func (c *client) open(i int) error {
	to, family := sockaddr(c.load.Target)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	c.slots[i] = slot{fd: fd, begun: c.now}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		return c.fail(i, fmt.Errorf("connect: %w", err))
	}
	event := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(i)}
	return unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &event)
}

func (c *client) handle(i int) error {
	s := &c.slots[i]
	if s.connected {
		return c.receive(i)
	}
	number, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && number != 0 {
		err = unix.Errno(number)
	}
	if err != nil {
		return c.fail(i, fmt.Errorf("connect: %w", err))
	}
	s.connected = true
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_MOD, s.fd, &event); err != nil {
		return err
	}
	return c.ask(i)
}

// ask sends a request. There is always room for it: the one before was answered.
func (c *client) ask(i int) error {
	s := &c.slots[i]
	s.got = 0
	if c.load.Kind != Connect {
		s.begun = c.now
	}
	n, err := unix.Write(s.fd, c.request)
	if err == nil && n < Message {
		err = errors.New("no room for a request")
	}
	if err != nil {
		return c.fail(i, fmt.Errorf("send: %w", err))
	}
	return nil
}

func (c *client) receive(i int) error {
	s := &c.slots[i]
	n, err := unix.Read(s.fd, c.buf)
	switch {
	case err != nil && retry(err):
		return nil
	case err != nil:
		return c.fail(i, fmt.Errorf("receive: %w", err))
	case n == 0 && c.load.Kind == Connect && s.got == Message:
		c.count(s, 1)
		unix.Close(s.fd)
		return c.open(i)
	case n == 0:
		return c.fail(i, errors.New("receive: the other side has ended the connection"))
	}
	s.got += n
	switch {
	case c.load.Kind == Bulk:
		c.count(s, int64(n))
		s.begun = c.now
	case s.got > Message:
		return c.fail(i, errors.New("receive: more than the answer"))
	case c.load.Kind == Ping && s.got == Message:
		c.count(s, 1)
		return c.ask(i)
	}
	return nil
}

func (c *client) count(s *slot, n int64) {
	if c.counting {
		c.result.Operations += n
		c.result.Slowest = max(c.result.Slowest, c.now.Sub(s.begun))
	}
}

// fail notes a failure and tries again with a new connection.
func (c *client) fail(i int, err error) error {
	unix.Close(c.slots[i].fd)
	c.slots[i].fd = -1
	if c.result.FirstError == nil {
		c.result.FirstError = err
	}
	if c.result.Failed++; c.result.Failed > tooMany {
		return fmt.Errorf("more than %d failures; the first: %w", tooMany, c.result.FirstError)
	}
	return c.open(i)
}

// expire fails what has waited for too long.
func (c *client) expire() error {
	for i := range c.slots {
		if c.now.Sub(c.slots[i].begun) > c.load.patience() {
			if err := c.fail(i, fmt.Errorf("no answer for %v", c.load.patience())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *client) closeAll() {
	for _, s := range c.slots {
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
	}
}
