package udp

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A poller waits for events of many descriptors. It waits as goroutines do: one
// that blocks in epoll_wait(2) instead would keep a processor from the others until
// the runtime takes notice, which is up to 10 ms.
type poller struct {
	file   *os.File // the epoll descriptor, which the runtime's own epoll watches
	raw    syscall.RawConn
	ready  func(fd uintptr) bool // fills events; reports whether there are any
	look   func(fd uintptr)      // the same without saying
	events [64]unix.EpollEvent
	n      int
	err    error
	armed  time.Time // when a wait ends at the latest, unless zero
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up an epoll descriptor: %w", err), unix.Close(fd))
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll")}
	p.raw, err = p.file.SyscallConn()
	if err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails if the runtime does not watch it
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("setting up an epoll descriptor: %w", err), p.file.Close())
	}
	p.ready = func(fd uintptr) bool {
		p.n, p.err = unix.EpollWait(int(fd), p.events[:], 0)
		return p.n != 0 // n is -1 with an error
	}
	p.look = func(fd uintptr) { p.ready(fd) }
	return p, nil
}

// watch has p tell of what can be read from fd, and of errors.
func (p *poller) watch(fd int, id, gen int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: id, Pad: gen}
	var err error
	if e := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &ev) }); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("watching a socket: %w", err)
	}
	return nil
}

// unwatch undoes watch. Closing a descriptor does so only if nobody else has it.
func (p *poller) unwatch(fd int) error {
	var err error
	if e := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_DEL, fd, nil) }); e != nil {
		return e
	}
	return err
}

// wait returns what has happened. It waits for that until the given time has
// passed, or for ever if that is negative; it may return earlier, with nothing.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	if timeout == 0 {
		return p.result(p.raw.Control(p.look))
	}
	if timeout > 0 {
		// The time is mostly later than it was for the wait before. Setting it
		// each time would cost more than waking up too early now and then.
		if at := time.Now().Add(timeout); p.armed.IsZero() || at.Before(p.armed) {
			if err := p.file.SetReadDeadline(at); err != nil {
				return nil, fmt.Errorf("waiting for datagrams: %w", err)
			}
			p.armed = at
		}
	}
	err := p.raw.Read(p.ready)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.armed = time.Time{}
		return nil, p.file.SetReadDeadline(time.Time{})
	}
	return p.result(err)
}

func (p *poller) result(err error) ([]unix.EpollEvent, error) {
	if err == nil {
		err = p.err
	}
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("waiting for datagrams: %w", err)
	}
	return p.events[:max(0, p.n)], nil
}

func (p *poller) close() error { return p.file.Close() }
