package relay

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// The sides of a connection.
const (
	client   = 0
	endpoint = 1
)

// A state is where a connection is in its life.
type state uint8

const (
	unused     state = iota // the slot is free
	connecting              // the endpoint has not answered yet
	open                    // bytes may move
	given                   // to another Engine, which may not have it yet
)

// A side is one of the two sockets of a connection.
type side struct {
	fd     int32
	in     bool // there may be something to read
	out    bool // there may be room to write
	eof    bool // the end of its stream was read, or is known to be next
	ended  bool // the peer has ended its stream; eof follows when everything is read
	urgent bool // a short read does not mean that nothing is left
}

// A flow is what moves from one side to the other. What was read and could not be
// written yet is in one of buf and pipe; nothing is read before that is written.
type flow struct {
	buf        *buffer
	begin, end int32 // of what is in buf
	piped      int32 // bytes in pipe
	pipe       *pipe
	moved      uint64
	bulk       bool // much is moved at a time: splice
	queued     bool // for another turn
	done       bool // the end of the stream was passed on
}

func (f *flow) pending() bool { return f.buf != nil || f.piped > 0 }

// A conn is one connection, or a free slot for one. Its worker owns it. Gen tells
// the connections of one slot apart.
type conn struct {
	journey  Journey
	side     [2]side
	flow     [2]flow
	started  time.Duration // since the Engine was made
	deadline time.Duration // of the attempt to connect
	slot     uint32
	gen      uint32
	place    int32 // in the worker's deadlines, or below zero
	tries    uint16
	spoken   bool   // the client had sent something when it was accepted
	probed   bool   // the socket to the endpoint has keep-alive
	idle     uint32 // sweeps in which nothing has moved
	mark     uint64 // what had moved at the last sweep
	state    state
}

// A Handle names one connection. It is a value and comparable. The zero Handle names
// none.
type Handle struct {
	w         *worker
	slot, gen uint32
}

// Abort resets both sides of the connection, soon, if it is still there. Anybody
// may call it, also from within the methods of a Journey.
func (h Handle) Abort() {
	if h.w != nil {
		h.w.post(message{kind: abortConn, slot: h.slot, gen: h.gen})
	}
}

func (c *conn) handle(w *worker) Handle { return Handle{w, c.slot, c.gen} }

// chunk is how many connections are allocated together. Their memory is kept for
// others: a worker needs that of the most connections it ever had at a time.
const chunk = 256

// conn returns the connection of a slot if it still is the one of gen and served here,
// else nil.
func (w *worker) conn(slot, gen uint32) *conn {
	if int(slot/chunk) >= len(w.conns) {
		return nil
	}
	c := &w.conns[slot/chunk][slot%chunk]
	if c.gen != gen || c.state == unused || c.state == given {
		return nil
	}
	return c
}

// newConn takes a free slot.
func (w *worker) newConn(fd int32) *conn {
	if len(w.free) == 0 {
		first := uint32(len(w.conns) * chunk)
		w.conns = append(w.conns, new([chunk]conn))
		for i := range uint32(chunk) {
			w.free = append(w.free, first+chunk-1-i)
		}
	}
	slot := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	c := &w.conns[slot/chunk][slot%chunk]
	*c = conn{slot: slot, gen: c.gen + 1, place: -1, state: connecting, started: w.clock()}
	c.side[client] = side{fd: fd, out: true}
	c.side[endpoint].fd = -1
	w.count.active.Add(1)
	w.engine.active.Add(1)
	return c
}

// finish ends a connection of which both streams have ended.
func (w *worker) finish(c *conn) {
	closeFD(c.side[client].fd)
	closeFD(c.side[endpoint].fd)
	w.release(c, nil)
}

// abort resets what there is of a connection.
func (w *worker) abort(c *conn, reason error) {
	resetFD(c.side[client].fd)
	if fd := c.side[endpoint].fd; fd >= 0 {
		resetFD(fd)
	}
	if errors.Is(reason, ErrAborted) {
		w.count.aborted.Add(1)
	}
	w.release(c, reason)
}

// release gives back what a connection holds besides its sockets.
func (w *worker) release(c *conn, reason error) {
	w.due.remove(c)
	for i := range c.flow {
		w.dropBuffer(&c.flow[i])
		w.dropPipe(&c.flow[i])
	}
	journey := c.journey
	stats := Stats{
		FromClient: c.flow[client].moved, ToClient: c.flow[endpoint].moved,
		Duration: w.clock() - c.started, Err: reason,
	}
	c.state, c.journey = unused, nil
	w.free = append(w.free, c.slot)
	journey.Closed(stats)
	w.count.active.Add(-1)
	w.engine.active.Add(-1)
}

// event handles what epoll says about one side of a connection.
func (w *worker) event(c *conn, i int, ev uint32) {
	s := &c.side[i]
	if ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.in = true
	}
	if ev&unix.EPOLLRDHUP != 0 {
		s.ended = true
	}
	if ev&(unix.EPOLLPRI|unix.EPOLLERR) != 0 {
		s.urgent = true
	}
	room := ev&unix.EPOLLOUT != 0 && !s.out
	s.out = s.out || room
	if c.state == connecting {
		w.connectEvent(c, i, ev)
		return
	}
	if s.in && !w.pump(c, i) || room && !w.pump(c, 1-i) {
		return
	}
	if ev&unix.EPOLLERR != 0 {
		// What the peer had sent before it broke off was passed on as far as there
		// was room for it.
		w.abort(c, orReset(socketError(s.fd)))
	}
}

// orReset is for errors that were reported to somebody else already.
func orReset(err unix.Errno) unix.Errno {
	if err == 0 {
		return unix.ECONNRESET
	}
	return err
}

// sweep looks at every connection: it ends those that are idle, and has the kernel
// probe the endpoints of the others.
func (w *worker) sweep() {
	for i := range w.conns {
		for j := range w.conns[i] {
			c := &w.conns[i][j]
			if c.state != open {
				continue
			}
			if !c.probed {
				c.probed = true
				_ = setOptions(c.side[endpoint].fd, w.engine.keepAlive) // of a connection that just broke
			}
			if moved := c.flow[client].moved + c.flow[endpoint].moved; moved != c.mark {
				c.mark, c.idle = moved, 0
			} else if c.idle++; c.idle > sweeps && w.engine.idleTimeout > 0 {
				w.abort(c, ErrIdle)
			}
		}
	}
}
