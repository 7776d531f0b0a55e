package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// maxEager is how many connections are accepted before other events have their turn.
const maxEager = 64

// pause is how long a worker leaves its listeners alone when it cannot even refuse
// connections: they are always ready then, and it would do nothing else.
const pause = 20 * time.Millisecond

// A listener is shared by all workers.
type listener struct {
	fd     int32
	index  int // in Engine.listening
	gen    uint32
	origin service.Origin
	addr   netip.AddrPort

	holders atomic.Int32 // workers that may still use fd, once it is retired
}

// tag is what epoll gives back for a listener. The event wakes one worker, and is
// there until nobody waits to be accepted: nobody can be overlooked.
func (l *listener) tag() unix.EpollEvent {
	return unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: wakeTag - 1 - int32(l.index), Pad: int32(l.gen)}
}

// letGo notes that one more worker does not use a retired listener any more. The
// last one closes it.
func (l *listener) letGo() {
	if l.holders.Add(-1) == 0 {
		closeFD(l.fd)
	}
}

// acceptFrom accepts those who wait at l. It asks for one more than there are only
// if there have been many lately, since a call that finds nobody costs as much as
// one that does.
func (w *worker) acceptFrom(l *listener) {
	for range w.eager {
		fd, err := accept(l.fd, &w.addr)
		switch {
		case err == 0:
			from := w.addr.get()
			if !w.handOver(l, fd, from) {
				w.begin(l, fd, from)
			}
		case err == unix.EAGAIN:
			w.eager = max(1, w.eager/2)
			return
		case err == unix.EINVAL: // it does not listen any more
			return
		case starved(err):
			if !w.shed(l) {
				return
			}
		}
		// Any other error is one of the connection that is not there any more.
	}
	w.eager = min(2*w.eager, maxEager)
}

// handOver gives a connection to the worker that has the fewest if this one has far
// more than its share: the kernel wakes the first worker that waits, which would
// collect nearly all connections of a quiet node.
func (w *worker) handOver(l *listener, fd int32, from netip.AddrPort) bool {
	workers := w.engine.workers
	own, share := w.count.active.Load(), w.engine.active.Load()/int64(len(workers))
	if own <= share+share/4+16 {
		return false
	}
	least := w
	for _, o := range workers {
		if o.count.active.Load() < least.count.active.Load() {
			least = o
		}
	}
	return least != w && least.post(message{kind: adopt, fd: fd, from: from, l: l})
}

// shed resets one connection for which there is no descriptor, by means of the
// reserve. It reports false if that has not helped either: then the listeners are
// left alone for a while.
func (w *worker) shed(l *listener) bool {
	if w.reserve >= 0 {
		closeFD(w.reserve)
		w.reserve = -1
		fd, err := accept(l.fd, &w.addr)
		if err == 0 {
			resetFD(fd)
			w.count.shed.Add(1)
		}
		w.takeReserve()
		if err == 0 && w.reserve >= 0 {
			return true
		}
	}
	for l := range w.engine.eachListener() {
		unwatch(w.epoll, l.fd)
	}
	w.resume = w.clock() + pause
	return false
}

// takeReserve opens the reserve, if it can.
func (w *worker) takeReserve() {
	if fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
		w.reserve = int32(fd)
	}
}

// watchListeners ends a pause.
func (w *worker) watchListeners() {
	w.resume = 0
	if w.reserve < 0 {
		w.takeReserve()
	}
	for l := range w.engine.eachListener() {
		if err := watch(w.epoll, l.fd, l.tag()); err != 0 && err != unix.EEXIST {
			w.resume = w.clock() + pause
		}
	}
}
