package udp

import (
	"iter"
	"net/netip"
	"time"
)

// A session is one client at one frontend.
type session struct {
	flow Flow
	slot int32 // in worker.slots
	gen  int32 // of the socket: events of an earlier one are not ours

	fd       int // connected to target, or -1
	target   Target
	failed   any // Lease of the last Target, if it was closed as Failed and none came after
	answered bool
	in, out  Traffic
	reply    *reply // nil before the first target

	touched time.Duration // last used, give or take worker.grain
	age     link          // in worker.young or worker.old
	peer    link          // in worker.endpoints, if there is a socket
	home    link          // in reply.sessions

	first, last int // messages of the batch at hand, see worker.queue; first is -1 without
}

// A link is the place of a session in a ring, or a ring's head, which has none.
type link struct {
	prev, next *link
	s          *session
}

func newRing() *link {
	l := &link{}
	l.prev, l.next = l, l
	return l
}

// add puts l at the end of the ring; it must not be in any.
func (head *link) add(l *link, s *session) {
	l.s = s
	l.prev, l.next = head.prev, head
	head.prev.next = l
	head.prev = l
}

// remove takes l out of its ring, if it is in one.
func (l *link) remove() {
	if l.next != nil {
		l.prev.next, l.next.prev = l.next, l.prev
		l.prev, l.next = nil, nil
	}
}

func (head *link) empty() bool { return head.next == head }

// first returns the session that is at the front, or nil.
func (head *link) first() *session { return head.next.s }

// all yields the sessions of the ring. Each may be removed meanwhile.
func (head *link) all() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for l := head.next; l != head; {
			next := l.next
			if !yield(l.s) {
				return
			}
			l = next
		}
	}
}

// A reply is a socket that answers from a frontend. It is a raw one if a process of
// the node has the port for all addresses and does not share it.
type reply struct {
	frontend netip.AddrPort
	fd       int
	sessions *link
	lasting  bool // it is a listener's
	raw      bool // the UDP header is ours to make
}

// A flowKey is what a session is found by.
type flowKey struct{ client, frontend netip.AddrPort }

// session returns the session of f, which may be new and without a socket. False
// says that there are too many.
func (w *worker) session(f Flow) (*session, bool) {
	key := flowKey{f.Client, f.Frontend}
	s := w.sessions[key]
	if s != nil && s.flow.Origin != f.Origin {
		w.end(s, Gone)
		s = nil
	}
	if s != nil {
		w.touch(s)
		return s, true
	}
	if w.engine.sessions.Add(1) > int64(w.cfg.MaxSessions) && !w.evict() {
		w.engine.sessions.Add(-1)
		return nil, false
	}
	s = &session{flow: f, fd: -1, first: -1, touched: w.now}
	if n := len(w.free); n > 0 {
		s.slot, w.free = w.free[n-1], w.free[:n-1]
	} else {
		s.slot = int32(len(w.slots))
		w.slots = append(w.slots, nil)
	}
	w.slots[s.slot] = s
	w.sessions[key] = s
	w.young.add(&s.age, s)
	w.stats.Sessions++
	w.stats.Opened++
	return s, true
}

// touch notes that s is in use.
func (w *worker) touch(s *session) {
	if w.now-s.touched >= w.grain {
		w.date(s)
	}
}

// date puts s at the end of the ring it belongs to, as the one last used.
func (w *worker) date(s *session) {
	s.touched = w.now
	s.age.remove()
	ring := w.young
	if s.answered {
		ring = w.old
	}
	ring.add(&s.age, s)
}

// evict ends the session that has been idle longest, if it was long enough.
func (w *worker) evict() bool {
	s := w.young.first()
	if o := w.old.first(); s == nil || o != nil && o.touched < s.touched {
		s = o
	}
	if s == nil || w.now-s.touched < w.cfg.EvictAfter {
		return false
	}
	w.end(s, Evicted)
	return true
}

// maxExpired bounds how many sessions end at a time while datagrams wait.
const maxExpired = 256

// expire ends sessions whose time is over, and returns how long to wait until the
// next may be; negative means for ever.
func (w *worker) expire() time.Duration {
	wait := time.Duration(-1)
	budget := maxExpired
	for _, r := range []struct {
		ring    *link
		timeout time.Duration
	}{{w.young, w.cfg.NewTimeout}, {w.old, w.cfg.IdleTimeout}} {
		for s := r.ring.first(); s != nil; s = r.ring.first() {
			left := s.touched + r.timeout + w.grain - w.now
			if left > 0 || budget == 0 {
				if left = max(left, 0); wait < 0 || left < wait {
					wait = left
				}
				break
			}
			budget--
			w.end(s, Idle)
		}
	}
	return wait
}

// end ends s, which is not to be used after.
func (w *worker) end(s *session, why Reason) {
	w.disconnect(s, why)
	s.age.remove()
	if s.reply != nil {
		s.home.remove()
		w.release(s.reply)
	}
	delete(w.sessions, flowKey{s.flow.Client, s.flow.Frontend})
	w.slots[s.slot] = nil
	w.free = append(w.free, s.slot)
	w.stats.Sessions--
	w.engine.sessions.Add(-1)
	if len(w.sessions) == 0 { // give back what many sessions took
		w.sessions = make(map[flowKey]*session)
		w.slots, w.free = nil, nil
	}
}

// disconnect closes the socket of s, if it has one.
func (w *worker) disconnect(s *session, why Reason) {
	if s.fd < 0 {
		return
	}
	w.closeSocket(s.fd)
	s.fd = -1
	s.peer.remove()
	if w.endpoints[s.target.Addr].empty() {
		delete(w.endpoints, s.target.Addr)
	}
	w.closed(&s.target, Result{Reason: why, Answered: s.answered, In: s.in, Out: s.out})
	s.answered, s.in, s.out = false, Traffic{}, Traffic{}
}

// closed tells the Handler that t is not used any more.
func (w *worker) closed(t *Target, r Result) {
	w.stats.Closed[r.Reason]++
	w.cfg.Handler.Closed(t.Lease, r)
	t.Lease = nil
}

// fail closes the socket of s, whose endpoint refused or cannot be reached. The
// session stays, so that the next datagram goes to another.
func (w *worker) fail(s *session) {
	lease := s.target.Lease
	w.disconnect(s, Failed)
	s.failed = lease
	w.date(s)
}

// atEndpoint yields the sessions that are connected to the endpoint. Each may be
// ended meanwhile.
func (w *worker) atEndpoint(endpoint netip.AddrPort) iter.Seq[*session] {
	if ring := w.endpoints[endpoint]; ring != nil {
		return ring.all()
	}
	return func(func(*session) bool) {}
}

func (w *worker) endFrontends(match func(netip.AddrPort) bool) int {
	n := 0
	for frontend, r := range w.replies {
		if r.sessions.empty() || !match(frontend) {
			continue
		}
		for s := range r.sessions.all() {
			w.end(s, Gone)
			n++
		}
	}
	return n
}
