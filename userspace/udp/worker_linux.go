package udp

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A worker has its share of the clients. Its goroutine holds mu while it works and
// lets go of it while it waits.
type worker struct {
	engine *Engine
	cfg    *Config
	poller *poller
	wake   int // an eventfd
	start  time.Time

	// grain is how exactly the last use of a session is known: it is noted only
	// if the one noted before is as old as this.
	grain time.Duration

	mu        sync.Mutex
	done      bool
	listeners []listener
	now       time.Duration // since start
	sessions  map[flowKey]*session
	slots     []*session // by session.slot, which events carry
	free      []int32
	gen       int32 // of the socket made last
	young     *link // by last use: no answer yet
	old       *link // by last use: answered
	endpoints map[netip.AddrPort]*link
	replies   map[netip.AddrPort]*reply
	stats     Stats

	in, out     *batch // from clients, from endpoints
	sendIn      sendBatch
	sendOut     sendBatch
	next        [batchSize]int // of in: the next message of the same session, or -1
	queued      []*session     // that have messages in in
	answers     [batchSize]answer
	nAnswers    int
	closeErrors error
}

type listener struct {
	Listener
	fd int
}

// An answer is a message of worker.out that is to be sent.
type answer struct {
	from *reply
	to   netip.AddrPort
}

// wakeEvent is the Fd of the eventfd's events. Sessions have their slot, listeners
// the complement of their index.
const wakeEvent = math.MinInt32

func (e *Engine) newWorker() (*worker, error) {
	w := &worker{
		engine: e, cfg: &e.cfg, wake: -1, start: time.Now(),
		sessions: make(map[flowKey]*session), young: newRing(), old: newRing(),
		endpoints: make(map[netip.AddrPort]*link), replies: make(map[netip.AddrPort]*reply),
		grain: min(time.Second, e.cfg.IdleTimeout/16, e.cfg.NewTimeout/16, e.cfg.EvictAfter),
	}
	if err := w.open(len(e.workers)); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// open opens what the worker of a number needs.
func (w *worker) open(number int) (err error) {
	if w.in, err = newBatch(); err != nil {
		return err
	}
	if w.out, err = newBatch(); err != nil {
		return err
	}
	if w.poller, err = newPoller(); err != nil {
		return err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("making an event descriptor: %w", err)
	}
	if err := w.poller.watch(w.wake, wakeEvent, 0); err != nil {
		return err
	}
	for i, l := range w.cfg.Listeners {
		l.Addr = w.engine.addrs[i] // the first worker has chosen the port
		w.listeners = append(w.listeners, listener{fd: closedSocket})
		if fd, ok := w.engine.inherited(number, l); ok {
			if err := w.watchAt(i, l, fd); err != nil {
				return err
			}
			continue
		}
		if err := w.openAt(i, l, true); err != nil {
			return err
		}
		w.engine.addrs[i] = w.listeners[i].Addr
	}
	return nil
}

// close closes everything; it needs w.mu.
func (w *worker) close() error {
	for _, s := range w.sessions {
		w.end(s, Stopped)
	}
	for _, l := range w.listeners {
		if l.fd != closedSocket {
			w.closeSocket(l.fd)
		}
	}
	w.listeners = nil
	if w.wake >= 0 {
		w.closeSocket(w.wake)
		w.wake = -1
	}
	if w.poller != nil {
		w.closeErrors = errors.Join(w.closeErrors, w.poller.close())
		w.poller = nil
	}
	w.nAnswers = 0 // or there would be something to read from memory that is gone
	for _, b := range []*batch{w.in, w.out} {
		w.closeErrors = errors.Join(w.closeErrors, b.close())
	}
	return w.closeErrors
}

func (w *worker) closeSocket(fd int) {
	if err := unix.Close(fd); err != nil && w.closeErrors == nil {
		w.closeErrors = fmt.Errorf("closing a descriptor: %w", err) // a bug, if ever
	}
}

// stop has run return.
func (w *worker) stop() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	if _, err := unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("waking a worker: %w", err)
	}
	return nil
}

// run works until stop.
func (w *worker) run() error {
	wait := time.Duration(-1)
	for {
		events, err := w.poller.wait(wait)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.done {
			w.mu.Unlock()
			return nil
		}
		w.now = time.Since(w.start)
		for i := range events {
			w.handle(&events[i])
		}
		w.flush()
		wait = w.expire()
		w.mu.Unlock()
	}
}

func (w *worker) handle(ev *unix.EpollEvent) {
	switch {
	case ev.Fd == wakeEvent: // stop, which was looked for before
	case ev.Fd < 0:
		// It may have been closed since, and another got its place.
		if l := &w.listeners[^ev.Fd]; l.fd != closedSocket {
			w.fromClients(l)
		}
	case int(ev.Fd) < len(w.slots):
		// The session may have ended since, and another got its slot.
		if s := w.slots[ev.Fd]; s != nil && s.fd >= 0 && s.gen == ev.Pad {
			w.fromEndpoint(s)
		}
	}
}

// fromClients reads what has arrived at l and sends it on.
func (w *worker) fromClients(l *listener) {
	n, err := w.in.receive(l.fd, 0, true)
	if err != nil {
		return // nothing there after all, or an error of an answer that was sent from l
	}
	w.queued = w.queued[:0]
	for i := range n {
		f, ok := w.flow(l, i)
		if !ok {
			w.drop(NotUnderstood, 1)
			continue
		}
		s, ok := w.session(f)
		if !ok {
			w.drop(TooMany, 1)
			continue
		}
		w.next[i] = -1
		if s.first < 0 {
			s.first = i
			w.queued = append(w.queued, s)
		} else {
			w.next[s.last] = i
		}
		s.last = i
	}
	for _, s := range w.queued {
		w.forward(s)
	}
}

// flow returns the Flow that the message i, from l, belongs to.
func (w *worker) flow(l *listener, i int) (Flow, bool) {
	f := Flow{Frontend: l.Addr, Origin: l.Origin}
	var ok bool
	if f.Client, ok = w.in.client(i); ok && w.cfg.Transparent {
		f.Frontend, ok = w.in.frontend(i)
	}
	return f, ok
}

func (w *worker) drop(why Drop, n int) { w.stats.Dropped[why] += uint64(n) }

// forward sends the messages that are queued for s to its endpoint, or to others
// if that is unreachable.
func (w *worker) forward(s *session) {
	b := &w.sendIn
	b.n = 0
	for i := s.first; i >= 0; i = w.next[i] {
		b.add(w.in.data(i), netip.AddrPort{})
	}
	s.first = -1
	sent, attempts := 0, 0
	for sent < b.n {
		if s.fd < 0 {
			if attempts == w.cfg.Attempts {
				w.drop(Unreachable, b.n-sent)
				return
			}
			attempts++
			if why, ok := w.connect(s); !ok {
				w.drop(why, b.n-sent)
				return // the session has ended
			}
			continue // connected, or there is another attempt
		}
		n, err := b.send(s.fd, sent)
		for i := range n {
			s.in.add(Traffic{1, uint64(b.msgs[sent+i].n)})
			w.stats.In.add(Traffic{1, uint64(b.msgs[sent+i].n)})
		}
		sent += n
		switch {
		case err == nil:
		case unreachable(err):
			w.fail(s)
		default:
			w.drop(NotSent, 1)
			sent++
		}
	}
}

// connect asks for a target for s and makes the sockets for it. False says that it
// is over, why, and that s has ended. Otherwise s is connected, or has failed and
// may try again.
func (w *worker) connect(s *session) (Drop, bool) {
	again := s.failed != nil
	t, ok := w.cfg.Handler.Target(s.flow, s.failed)
	s.failed = nil
	if !ok {
		w.end(s, Failed)
		if again {
			return Unreachable, false
		}
		return NoTarget, false
	}
	err := w.answerFrom(s)
	fd := -1
	if err == nil {
		fd, err = w.withRoom(func() (int, error) { return dial(&t, w.cfg) })
	}
	if err == nil {
		w.gen++
		s.gen = w.gen
		if err = w.poller.watch(fd, s.slot, s.gen); err != nil {
			w.closeSocket(fd)
		}
	}
	switch {
	case err == nil:
		s.fd, s.target = fd, t
		w.connected(s)
		return 0, true
	case fd < 0 && s.reply != nil && unreachable(err):
		s.failed = t.Lease
		w.closed(&t, Result{Reason: Failed})
		return 0, true
	}
	w.closed(&t, Result{Reason: Unable})
	w.end(s, Unable)
	if exhausted(err) {
		return NoDescriptors, false
	}
	return NoSocket, false
}

// withRoom opens a descriptor. If there is none left, an idle session makes room.
func (w *worker) withRoom(open func() (int, error)) (int, error) {
	fd, err := open()
	if exhausted(err) && w.evict() {
		return open()
	}
	return fd, err
}

// answerFrom gives s the socket that answers from its frontend.
func (w *worker) answerFrom(s *session) error {
	if s.reply != nil {
		return nil
	}
	r := w.replies[s.flow.Frontend]
	if r == nil {
		var err error
		if r, err = w.newReply(s.flow.Frontend); err != nil {
			return err
		}
	}
	s.reply = r
	r.sessions.add(&s.home, s)
	return nil
}

func (w *worker) newReply(frontend netip.AddrPort) (*reply, error) {
	r := &reply{frontend: frontend, sessions: newRing()}
	var err error
	r.fd, err = w.withRoom(func() (int, error) { return openReply(frontend, w.cfg.Mark) })
	if errors.Is(err, unix.EADDRINUSE) {
		r.raw = true
		r.fd, err = w.withRoom(func() (int, error) { return openRawReply(frontend, w.cfg.Mark) })
	}
	if err != nil {
		return nil, err
	}
	w.replies[frontend] = r
	return r, nil
}

// release closes r if no session uses it any more.
func (w *worker) release(r *reply) {
	if r.lasting || !r.sessions.empty() {
		return
	}
	w.flush() // answers may be waiting to be sent from it
	w.closeSocket(r.fd)
	delete(w.replies, r.frontend)
}

// fromEndpoint reads what the endpoint of s has sent.
func (w *worker) fromEndpoint(s *session) {
	if w.nAnswers > batchSize*3/4 {
		w.flush()
	}
	n, err := w.out.receive(s.fd, w.nAnswers, false)
	if err != nil {
		if unreachable(err) {
			w.fail(s)
		}
		return
	}
	for range n {
		s.out.add(Traffic{1, uint64(w.out.msgs[w.nAnswers].n)})
		w.answers[w.nAnswers] = answer{s.reply, s.flow.Client}
		w.nAnswers++
	}
	if !s.answered {
		s.answered = true
		w.date(s)
		w.cfg.Handler.Answered(s.target.Lease)
	}
	w.touch(s)
}

// flush sends the answers that were read, with one call for all from one frontend.
func (w *worker) flush() {
	n := w.nAnswers
	w.nAnswers = 0
	for i := range n {
		from := w.answers[i].from
		if from == nil {
			continue // sent with an earlier one
		}
		b := &w.sendOut
		b.n = 0
		for j := i; j < n; j++ {
			a := &w.answers[j]
			switch {
			case a.from != from:
				continue
			case from.raw:
				b.addRaw(w.out.data(j), from.frontend, a.to)
			default:
				b.add(w.out.data(j), a.to)
			}
			a.from = nil
		}
		w.sendAnswers(from)
	}
}

func (w *worker) sendAnswers(from *reply) {
	b := &w.sendOut
	header := uint64(0)
	if from.raw {
		header = headerSize
	}
	for sent := 0; sent < b.n; {
		n, err := b.send(from.fd, sent)
		for i := range n {
			w.stats.Out.add(Traffic{1, uint64(b.msgs[sent+i].n) - header})
		}
		sent += n
		if err != nil {
			w.drop(NotAnswered, 1)
			sent++
		}
	}
}
