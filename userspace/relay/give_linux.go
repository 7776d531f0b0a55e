package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

const (
	// giveConns is how many connections are given at a time at most, and giveBytes
	// how much of what they could not pass on yet may be among them before no more
	// are: the message that they go by is to stay short.
	giveConns = 100
	giveBytes = 24 << 10

	// giveFDs bounds the descriptors. A connection has two, and two for each pipe.
	giveFDs = 250
)

// A State is what one Engine has to tell another of a connection that it gives to it.
type State struct {
	Age   time.Duration // since it was accepted
	Flows [2]FlowState  // from the client, from the endpoint
}

// A FlowState is of one direction.
type FlowState struct {
	Moved uint64 // bytes that were read
	EOF   bool   `json:",omitempty"` // the end of the stream was read
	Done  bool   `json:",omitempty"` // and passed on
	Left  []byte `json:",omitempty"` // bytes that were read and not written yet
	Piped int32  `json:",omitempty"` // or how many there are of them in a pipe
}

// A Given is a connection that the Engine has stopped to serve, so that another may.
// One of Gone and Resume is to be called, soon.
type Given struct {
	Journey Journey
	State   State
	FDs     []int // of the client, the endpoint, and of each pipe its ends to read and to write

	worker    *worker
	slot, gen uint32
}

// Gone says that another has the connection: it ends here with ErrGiven, and nobody
// at its ends notices.
func (g *Given) Gone() {
	g.worker.post(message{kind: gone, slot: g.slot, gen: g.gen})
}

// Resume says that nobody has taken the connection: it is served again.
func (g *Given) Resume() {
	g.worker.post(message{kind: resume, slot: g.slot, gen: g.gen})
}

// Give stops to serve some connections and returns them. None are left if it returns
// none, but for those that look for an endpoint. It may be called while the Engine
// runs, by one goroutine at a time.
func (e *Engine) Give() []Given {
	for _, w := range e.workers {
		out := make(chan []Given, 1)
		if !w.post(message{kind: give, given: out}) {
			continue
		}
		select {
		case list := <-out:
			if len(list) > 0 {
				return list
			}
		case <-e.done: // which it may never get to
			return nil
		}
	}
	return nil
}

// give stops to serve some connections. It goes on where it was.
func (w *worker) give() (out []Given) {
	size, fds := 0, 0
	for range len(w.conns) * chunk {
		if len(out) == giveConns || size >= giveBytes || fds+6 > giveFDs {
			break
		}
		slot := w.cursor
		w.cursor = (w.cursor + 1) % uint32(len(w.conns)*chunk)
		c := &w.conns[slot/chunk][slot%chunk]
		if c.state != open {
			continue
		}
		g := w.pause(c)
		size += len(g.State.Flows[client].Left) + len(g.State.Flows[endpoint].Left)
		fds += len(g.FDs)
		out = append(out, g)
	}
	return out
}

// pause stops to serve a connection. What it is in the middle of is in its State.
func (w *worker) pause(c *conn) Given {
	g := Given{
		Journey: c.journey, worker: w, slot: c.slot, gen: c.gen,
		State: State{Age: w.clock() - c.started},
		FDs:   []int{int(c.side[client].fd), int(c.side[endpoint].fd)},
	}
	for i := range c.flow {
		unwatch(w.epoll, c.side[i].fd)
		f := &c.flow[i]
		s := FlowState{Moved: f.moved, EOF: c.side[i].eof, Done: f.done, Piped: f.piped}
		if f.buf != nil {
			s.Left = append(s.Left, f.buf[f.begin:f.end]...)
		}
		if f.piped > 0 {
			g.FDs = append(g.FDs, int(f.pipe.r), int(f.pipe.w))
		} else {
			w.dropPipe(f)
		}
		g.State.Flows[i] = s
	}
	c.state = given
	return g
}

// paused returns the connection of a slot if it is given and not gone yet, else nil.
func (w *worker) paused(slot, gen uint32) *conn {
	if c := &w.conns[slot/chunk][slot%chunk]; c.gen == gen && c.state == given {
		return c
	}
	return nil
}

// letGo ends a connection that another Engine has: without a word to its ends.
func (w *worker) letGo(c *conn) {
	closeFD(c.side[client].fd)
	closeFD(c.side[endpoint].fd)
	w.count.given.Add(1)
	w.release(c, ErrGiven)
}

// serve begins, or goes on, to move what there is of an open connection.
func (w *worker) serve(c *conn) bool {
	c.state = open
	for i := range c.side {
		s := &c.side[i]
		s.in, s.out = true, true // which turns out
		if err := watch(w.epoll, s.fd, c.tag(i)); err != 0 {
			w.count.shed.Add(1)
			w.abort(c, ErrShed)
			return false
		}
	}
	for i := range c.flow {
		c.flow[i].queued = true
		w.turns = append(w.turns, flowRef{c.slot, c.gen, i})
	}
	return true
}

// A passed is a connection from another Engine.
type passed struct {
	state   State
	fds     []int
	journey Journey
}

// Take serves a connection that another Engine has given, with its descriptors, as
// they are in Given. Journey is told of it by Connected and then Closed. Counters do
// not take it for one that was accepted. It may be called before Run.
func (e *Engine) Take(s State, fds []int, j Journey) error {
	want := 2
	for _, f := range s.Flows {
		if f.Piped > 0 {
			want += 2
		}
		if len(f.Left) > bufferSize || f.Piped < 0 || f.Piped > 0 && len(f.Left) > 0 {
			return errors.New("relay: take a connection: what is on its way makes no sense")
		}
	}
	if len(fds) != want {
		return fmt.Errorf("relay: take a connection: %d descriptors, want %d", len(fds), want)
	}
	w := e.workers[int(e.turn.Add(1))%len(e.workers)]
	if !w.post(message{kind: take, passed: &passed{s, fds, j}}) {
		return fmt.Errorf("relay: take a connection: %w", ErrClosed)
	}
	return nil
}

func (w *worker) take(p *passed) {
	c := w.newConn(int32(p.fds[0]))
	c.side[endpoint].fd = int32(p.fds[1])
	c.journey, c.started = p.journey, w.clock()-p.state.Age
	pipes := p.fds[2:]
	for i := range p.state.Flows {
		s, f := &p.state.Flows[i], &c.flow[i]
		f.moved, f.done, c.side[i].eof = s.Moved, s.Done, s.EOF
		if len(s.Left) > 0 {
			w.keep(f, s.Left)
		}
		if s.Piped > 0 {
			f.pipe, f.piped = takenPipe(pipes[0], pipes[1]), s.Piped
			w.engine.pipes.Add(1)
			pipes = pipes[2:]
		}
	}
	w.count.taken.Add(1)
	if w.serve(c) {
		c.journey.Connected(c.handle(w))
	}
}

// discard gives back a connection that was to be taken by a worker that has ended.
func (p *passed) discard() {
	for _, fd := range p.fds {
		closeFD(int32(fd))
	}
	p.journey.Closed(Stats{Err: ErrClosed})
}

// A Socket is that of a listener.
type Socket struct {
	Addr   netip.AddrPort
	Origin service.Origin
	FD     int
}

// Sockets returns the sockets of all listeners, with descriptors of the caller's own.
func (e *Engine) Sockets() ([]Socket, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Socket
	for l := range e.eachListener() {
		fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, s := range out {
				closeFD(int32(s.FD))
			}
			return nil, fmt.Errorf("relay: share a listener: %w", err)
		}
		out = append(out, Socket{l.addr, l.origin, fd})
	}
	return out, nil
}

// Inherit goes on to listen at a socket that another Engine has listened at, and owns
// its descriptor from then on.
func (e *Engine) Inherit(s Socket) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == closed {
		closeFD(int32(s.FD))
		return fmt.Errorf("listen on %v: %w", s.Addr, ErrClosed)
	}
	admit(int32(s.FD))
	return e.enlist(int32(s.FD), s.Addr, s.Origin)
}

// Leave stops to accept. Unlike Unlisten it leaves the sockets alone: who waits there
// to be accepted is accepted by who else has them.
func (e *Engine) Leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.at {
		e.retire(l)
	}
}

// Quieten lets nobody connect any more, and refuses nobody either: that somebody
// wants to connect is not heard, so that they try again, which takes a second. Those
// who have connected are accepted.
func (e *Engine) Quieten() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.eachListener() {
		ignoreSYN(l.fd)
	}
}
