package udp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// giveSessions is how many sessions are given at a time at most.
const giveSessions = 100

// A Socket is that of a listener of one worker.
type Socket struct {
	Addr   netip.AddrPort
	Origin service.Origin
	Worker int
	FD     int
}

// Sockets returns the sockets of Config.Listeners, with descriptors of the caller's
// own. Those of one Worker belong together: the kernel divides clients between them.
func (e *Engine) Sockets() ([]Socket, error) {
	var out []Socket
	for i, w := range e.workers {
		w.mu.Lock()
		for _, l := range w.listeners {
			if l.fd == closedSocket {
				continue
			}
			fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				w.mu.Unlock()
				for _, s := range out {
					_ = unix.Close(s.FD)
				}
				return nil, fmt.Errorf("sharing a listener: %w", err)
			}
			out = append(out, Socket{l.Addr, l.Origin, i, fd})
		}
		w.mu.Unlock()
	}
	return out, nil
}

// A Given is a session that one Engine gives to another.
type Given struct {
	Flow     Flow
	Addr     netip.AddrPort // of the endpoint
	Source   netip.AddrPort // as in Target
	Lease    any            `json:"-"`
	Worker   int            // who hears its client
	Idle     time.Duration  // since it was last used
	Answered bool
	In, Out  Traffic
	FD       int `json:"-"` // the socket to the endpoint
}

// Give stops to listen, for a transparent Engine, and gives the sessions away: to take, some at a time, which
// reports whether another Engine has them now. The first false ends it: what sessions
// are left get the answers of their endpoints, but hear their clients no more.
// Descriptors are take's until it returns. Everything waits until Give returns, so
// that nothing is sent that another has to know.
func (e *Engine) Give(take func([]Given) bool) {
	for _, w := range e.workers {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flush()
		w.leave()
	}
	for i, w := range e.workers {
		if w.poller == nil || !w.give(i, take) {
			return
		}
	}
}

// leave closes the listeners; others may have them.
func (w *worker) leave() {
	for i, l := range w.listeners {
		if l.fd != closedSocket {
			_ = w.poller.unwatch(l.fd) // it would be told of as long as others have it
			w.closeSocket(l.fd)
			w.listeners[i] = listener{fd: closedSocket}
		}
	}
}

func (w *worker) give(number int, take func([]Given) bool) bool {
	now := time.Since(w.start)
	var list []*session
	for _, s := range w.sessions {
		if s.fd >= 0 {
			list = append(list, s)
		} else {
			w.end(s, HandedOver) // there is nothing to it
		}
	}
	slices.SortFunc(list, func(a, b *session) int { return cmp.Compare(a.touched, b.touched) })
	for len(list) > 0 {
		n := min(len(list), giveSessions)
		batch := make([]Given, 0, n)
		for _, s := range list[:n] {
			batch = append(batch, Given{
				Flow: s.flow, Addr: s.target.Addr, Source: s.target.Source, Lease: s.target.Lease, Worker: number,
				Idle: now - s.touched, Answered: s.answered, In: s.in, Out: s.out, FD: s.fd,
			})
			_ = w.poller.unwatch(s.fd) // nobody else knows of it
		}
		if !take(batch) {
			for _, s := range list[:n] {
				if w.poller.watch(s.fd, s.slot, s.gen) != nil {
					w.end(s, Unable)
				}
			}
			return false
		}
		for _, s := range list[:n] {
			w.end(s, HandedOver)
		}
		list = list[n:]
	}
	return true
}

// Take goes on with a session that another Engine has given, and owns its socket from
// then on. It has to come before Serve, or clients may have new sessions already.
func (e *Engine) Take(g *Given) error {
	w := e.workers[g.Worker%len(e.workers)]
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.take(g); err != nil {
		w.closeSocket(g.FD)
		return fmt.Errorf("taking a session of %v: %w", g.Flow.Client, err)
	}
	return nil
}

func (w *worker) take(g *Given) error {
	if w.poller == nil || w.sessions[flowKey{g.Flow.Client, g.Flow.Frontend}] != nil {
		return unix.EALREADY
	}
	w.now = time.Since(w.start)
	s, ok := w.session(g.Flow)
	if !ok {
		return unix.EMFILE
	}
	w.stats.Opened-- // it was before
	err := w.answerFrom(s)
	if err == nil {
		w.gen++
		s.gen = w.gen
		err = w.poller.watch(g.FD, s.slot, s.gen)
	}
	if err != nil {
		w.end(s, Unable)
		return err
	}
	s.fd, s.target = g.FD, Target{Addr: g.Addr, Source: g.Source, Lease: g.Lease}
	s.answered, s.in, s.out = g.Answered, g.In, g.Out
	w.connected(s)
	w.date(s)
	s.touched = w.now - g.Idle // sessions come in this order, so that rings are in it
	return nil
}

// connected notes that s has a socket.
func (w *worker) connected(s *session) {
	ring := w.endpoints[s.target.Addr]
	if ring == nil {
		ring = newRing()
		w.endpoints[s.target.Addr] = ring
	}
	ring.add(&s.peer, s)
}
