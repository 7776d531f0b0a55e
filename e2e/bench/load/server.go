//go:build linux

package load

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Server answers loads until it is closed.
type Server struct {
	epoll, wake int
	listeners   map[int]Kind
	conns       map[int]*served
	buf         []byte
	done        sync.WaitGroup
	err         error // valid when done
}

// served is a connection of a Server.
type served struct {
	kind Kind
	got  int // of the request
}

// NewServer takes the listeners over, which may be of different network namespaces,
// and begins to serve. On error they are closed.
func NewServer(listeners map[Kind][]net.Listener) (*Server, error) {
	s := &Server{epoll: -1, wake: -1, listeners: map[int]Kind{}, conns: map[int]*served{}, buf: make([]byte, chunk)}
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = s.watch(s.wake, unix.EPOLLIN, unix.EPOLL_CTL_ADD)
	}
	for kind, list := range listeners {
		for _, l := range list {
			err = errors.Join(err, s.adopt(kind, l))
		}
	}
	if err != nil {
		s.closeAll()
		return nil, fmt.Errorf("serve loads: %w", err)
	}
	s.done.Go(s.run)
	return s, nil
}

// adopt takes the descriptor of a listener, and closes the listener.
func (s *Server) adopt(kind Kind, l net.Listener) error {
	defer l.Close()
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("%T is no TCP listener", l)
	}
	f, err := tcp.File()
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.listeners[fd] = kind
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return s.watch(fd, unix.EPOLLIN, unix.EPOLL_CTL_ADD)
}

func (s *Server) watch(fd int, what uint32, op int) error {
	event := unix.EpollEvent{Events: what, Fd: int32(fd)}
	return unix.EpollCtl(s.epoll, op, fd, &event)
}

// Close ends the server and all its connections. The error is what ended it before.
func (s *Server) Close() error {
	_, err := unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	s.done.Wait()
	s.closeAll()
	return errors.Join(err, s.err)
}

func (s *Server) closeAll() {
	for fd := range s.conns {
		unix.Close(fd)
	}
	for fd := range s.listeners {
		unix.Close(fd)
	}
	for _, fd := range []int{s.wake, s.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (s *Server) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	list := make([]unix.EpollEvent, events)
	for {
		n, err := unix.EpollWait(s.epoll, list, -1)
		if err != nil && !retry(err) {
			s.err = fmt.Errorf("wait: %w", err)
			return
		}
		for _, e := range list[:max(n, 0)] {
			fd := int(e.Fd)
			if fd == s.wake {
				return
			}
			if kind, ok := s.listeners[fd]; ok {
				s.accept(fd, kind)
			} else if c := s.conns[fd]; c != nil && !s.serve(fd, c, e.Events) {
				delete(s.conns, fd)
				unix.Close(fd)
			}
		}
	}
}

// accept takes all connections that wait.
func (s *Server) accept(listener int, kind Kind) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return // nobody waits; or there are no descriptors, and the client will say so
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if s.watch(fd, unix.EPOLLIN, unix.EPOLL_CTL_ADD) != nil {
			unix.Close(fd)
			continue
		}
		s.conns[fd] = &served{kind: kind}
	}
}

// serve reports whether the connection is to stay.
func (s *Server) serve(fd int, c *served, what uint32) bool {
	if what&unix.EPOLLOUT != 0 {
		return s.pour(fd)
	}
	n, err := unix.Read(fd, s.buf)
	if err != nil {
		return retry(err)
	}
	if n == 0 {
		return false
	}
	for c.got += n; c.got >= Message; c.got -= Message {
		if c.kind == Bulk {
			return s.watch(fd, unix.EPOLLOUT, unix.EPOLL_CTL_MOD) == nil
		}
		if m, err := unix.Write(fd, s.buf[:Message]); err != nil || m < Message {
			return false // one request at a time: there is room, unless the client is gone
		}
		if c.kind == Connect {
			return false
		}
	}
	return true
}

// pour sends some, and leaves others their turn.
func (s *Server) pour(fd int) bool {
	for range 4 {
		n, err := unix.Write(fd, s.buf)
		if err != nil {
			return retry(err)
		}
		if n < len(s.buf) {
			break
		}
	}
	return true
}
