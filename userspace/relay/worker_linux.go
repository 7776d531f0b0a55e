package relay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sweeps = 4 // without a byte, of IdleTimeout/sweeps each, make a connection idle

	// probeEvery is how often sockets to endpoints are looked for that have no
	// keep-alive yet, if nothing else asks for a sweep.
	probeEvery = time.Minute

	// wakeTag is what epoll says when there are messages. Listeners have the tags
	// below, connections those above.
	wakeTag = -1

	batch = 256 // events that are asked for at a time

	// yieldEvery is how often a worker goes through Go's scheduler. A goroutine that
	// was not there for 10 ms loses its processor whenever it is seen in a system
	// call (runtime.retake in Go 1.26), and gets another by waking and stopping
	// threads; while that happens they are looked after every 20 us. That cost a
	// tenth of all processor time.
	yieldEvery = 5 * time.Millisecond
)

// A worker is an event loop and the connections it owns. Only its goroutine uses it,
// except for post.
type worker struct {
	engine  *Engine
	epoll   int32
	wake    int32 // an eventfd
	reserve int32 // a descriptor to give up when there are no others; or below zero

	conns   []*[chunk]conn
	free    []uint32 // slots
	due     deadlines
	turns   []flowRef // flows that have more to move
	spare   []flowRef // the memory of another such list
	buffers []*buffer
	pipes   []*pipe
	scratch []byte
	events  []unix.EpollEvent
	addr    rawAddr // scratch as well

	now       time.Duration // of this round, zero if nobody has asked yet
	yielded   time.Duration // when Go's scheduler was last asked
	nextSweep time.Duration // zero for never
	resume    time.Duration // when listeners are watched again, zero if they are
	eager     int           // connections to accept at once
	cursor    uint32        // the slot that is given next

	count tally
	mail  mailbox
}

// A flowRef names a flow by the side it begins at.
type flowRef struct {
	slot, gen uint32
	from      int
}

// A messageKind is what a worker is asked to do.
type messageKind uint8

const (
	abortConn messageKind = iota // the connection in slot and gen
	adopt                        // the socket fd that was accepted from l
	forget                       // the listener l, which was retired
	give                         // some connections, to given
	gone                         // the connection in slot and gen, which was given
	resume                       // the same, but nobody has taken it
	take                         // passed
	stop                         // everything
)

type message struct {
	kind      messageKind
	slot, gen uint32
	fd        int32
	from      netip.AddrPort
	l         *listener
	given     chan<- []Given
	passed    *passed
}

// A mailbox takes messages from anybody.
type mailbox struct {
	mu   sync.Mutex
	list []message
	shut bool
}

// post reports whether the worker will read the message.
func (w *worker) post(m message) bool {
	w.mail.mu.Lock()
	defer w.mail.mu.Unlock()
	if w.mail.shut {
		return false
	}
	w.mail.list = append(w.mail.list, m)
	if len(w.mail.list) == 1 {
		one := binary.NativeEndian.AppendUint64(nil, 1)
		// It can only fail if its counter is full, and then it does wake.
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(w.wake), uintptr(unsafe.Pointer(&one[0])), 8)
	}
	return true
}

func newWorker(e *Engine) (*worker, error) {
	w := &worker{
		engine: e, epoll: -1, wake: -1, reserve: -1, eager: 1,
		scratch: make([]byte, bufferSize), events: make([]unix.EpollEvent, batch),
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	w.epoll = int32(fd)
	if fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		w.close()
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	w.wake = int32(fd)
	if e := watch(w.epoll, w.wake, unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: wakeTag}); e != 0 {
		w.close()
		return nil, fmt.Errorf("watch eventfd: %w", e)
	}
	w.takeReserve()
	return w, nil
}

// close gives back the descriptors of a worker that does not run.
func (w *worker) close() {
	w.mail.mu.Lock()
	defer w.mail.mu.Unlock()
	w.mail.shut = true
	for _, m := range w.mail.list {
		switch m.kind {
		case adopt:
			resetFD(m.fd)
		case forget:
			m.l.letGo()
		case take:
			m.passed.discard()
		}
	}
	w.mail.list = nil
	for _, p := range w.pipes {
		p.close(&w.engine.pipes)
	}
	w.pipes = nil
	for _, fd := range []*int32{&w.epoll, &w.wake, &w.reserve} {
		if *fd >= 0 {
			closeFD(*fd)
			*fd = -1
		}
	}
}

// run handles events until it is told to stop.
func (w *worker) run() error {
	if every := w.engine.sweepEvery; every > 0 {
		w.nextSweep = w.clock() + every
	}
	for {
		n, err := w.wait()
		if err != nil && err != unix.EINTR {
			w.abandon()
			return fmt.Errorf("wait for events: %w", err)
		}
		w.now = 0
		for i := range n {
			ev := &w.events[i]
			switch {
			case ev.Fd >= 0:
				if c := w.conn(uint32(ev.Fd)>>1, uint32(ev.Pad)); c != nil {
					w.event(c, int(ev.Fd&1), ev.Events)
				}
			case ev.Fd == wakeTag:
				if !w.readMail() {
					w.abandon()
					return nil
				}
			default:
				if l := w.engine.listener(int(wakeTag-1-ev.Fd), uint32(ev.Pad)); l != nil {
					w.acceptFrom(l)
				}
			}
		}
		w.takeTurns()
		w.keepTime()
	}
}

// wait returns the number of events. If it may have to wait for them, Go's scheduler
// is told.
func (w *worker) wait() (int, error) {
	if len(w.turns) > 0 {
		return poll(w.epoll, w.events)
	}
	w.now = 0
	ms, now := -1, w.clock()
	if now-w.yielded > yieldEvery {
		runtime.Gosched()
		w.yielded = now
	}
	if len(w.due) > 0 || w.nextSweep > 0 || w.resume > 0 {
		ms = int((w.patience(now) + time.Millisecond - 1) / time.Millisecond)
	}
	return unix.EpollWait(int(w.epoll), w.events, ms)
}

// clock returns the time of this round, since the Engine was made.
func (w *worker) clock() time.Duration {
	if w.now == 0 {
		w.now = time.Since(w.engine.born)
	}
	return w.now
}

// takeTurns goes on with the flows that had more to move than one turn.
func (w *worker) takeTurns() {
	turns := w.turns
	w.turns, w.spare = w.spare[:0], turns // what is queued now has its turn next time
	for _, t := range turns {
		if c := w.conn(t.slot, t.gen); c != nil {
			c.flow[t.from].queued = false
			w.pump(c, t.from)
		}
	}
}

// keepTime does what is due.
func (w *worker) keepTime() {
	if len(w.due) == 0 && w.nextSweep == 0 && w.resume == 0 {
		return
	}
	w.expire()
	if w.nextSweep > 0 && w.clock() >= w.nextSweep {
		w.sweep()
		w.nextSweep = w.clock() + w.engine.sweepEvery
	}
	if w.resume > 0 && w.clock() >= w.resume {
		w.watchListeners()
	}
}

// readMail does what others asked for. It reports false if that is to stop.
func (w *worker) readMail() bool {
	var eight [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(w.wake), uintptr(unsafe.Pointer(&eight[0])), 8)
	w.mail.mu.Lock()
	list := w.mail.list
	w.mail.list = nil
	w.mail.mu.Unlock()
	going := true
	for _, m := range list {
		switch m.kind {
		case stop:
			going = false
		case adopt:
			w.begin(m.l, m.fd, m.from)
		case forget:
			unwatch(w.epoll, m.l.fd)
			m.l.letGo()
		default:
			w.heed(&m)
		}
	}
	return going
}

// heed does what somebody asks for that is about connections.
func (w *worker) heed(m *message) {
	switch m.kind {
	case abortConn:
		if c := w.conn(m.slot, m.gen); c != nil {
			w.abort(c, ErrAborted)
		}
	case give:
		m.given <- w.give()
	case gone:
		if c := w.paused(m.slot, m.gen); c != nil {
			w.letGo(c)
		}
	case resume:
		if c := w.paused(m.slot, m.gen); c != nil {
			w.serve(c)
		}
	case take:
		w.take(m.passed)
	}
}

// abandon resets every connection that is served here.
func (w *worker) abandon() {
	for i := range w.conns {
		for j := range w.conns[i] {
			switch c := &w.conns[i][j]; c.state {
			case unused:
			case given:
				w.letGo(c)
			default:
				w.abort(c, ErrClosed)
			}
		}
	}
}
