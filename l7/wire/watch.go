package wire

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// patience is how long a request may take before its connection is watched for the client's end. It may be
// twice as long.
const patience = 20 * time.Millisecond

// A watchman finds the requests that take longer than patience, and has their connections watched. Most are answered before,
// so watching each from the start would be in vain: an attempt to read, a wait for the kernel, and a goroutine.
type watchman struct {
	mu    sync.Mutex
	seen  []sighting
	spare []sighting
	timer *time.Timer
}

// A sighting is a connection on which a request was being answered.
type sighting struct {
	c      *conn
	number uint64
}

// list has c looked at again.
func (w *watchman) list(c *conn, number uint64) {
	if c.listed.Swap(true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, sighting{c, number})
	if len(w.seen) > 1 {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(patience, w.look)
	} else {
		w.timer.Reset(patience)
	}
}

// look goes through the list. A connection that is with the same request as the last time is watched.
func (w *watchman) look() {
	w.mu.Lock()
	seen := w.seen
	w.seen, w.spare = w.spare[:0], nil
	w.mu.Unlock()
	for _, s := range seen {
		number := s.c.busy.Load()
		s.c.listed.Store(false)
		switch {
		case number == s.number:
			s.c.lookOut(number)
		case number != 0:
			w.list(s.c, number)
		default:
			if number = s.c.busy.Load(); number != 0 { // it has come since, and has found itself listed
				w.list(s.c, number)
			}
		}
	}
	clear(seen)
	w.mu.Lock()
	w.spare = seen[:0]
	w.mu.Unlock()
}

// lookOut begins the watch for the client's end while the request is being answered, unless that is over.
func (c *conn) lookOut(number uint64) {
	c.watch.Lock()
	defer c.watch.Unlock()
	switch {
	case c.busy.Load() != number || c.watch.on:
	case !c.gate.Ended():
		c.watch.wanted = true // who reads the body would see it
	default:
		c.startWatch()
	}
}

// startWatch wants the lock.
func (c *conn) startWatch() {
	c.watch.wanted, c.watch.on, c.watch.over = false, true, make(chan struct{})
	go c.await(c.session, c.watch.over)
}

// bodyEnded is called when there is nothing left to read of a request.
func (c *conn) bodyEnded() {
	c.watch.Lock()
	defer c.watch.Unlock()
	if c.watch.wanted && c.busy.Load() != 0 {
		c.startWatch()
	}
}

// await waits for the client's end.
func (c *conn) await(s *session, over chan struct{}) {
	defer close(over)
	if err := c.gate.Watch(); err != nil && isEnd(err) {
		s.life.cancel()
	}
}

// isEnd tells the end of the connection from what we have done to it, and from a rule that was broken.
func isEnd(err error) bool {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return false
	}
	_, rule := errors.AsType[*h1.Error](err)
	return !rule && !errors.Is(err, h1.ErrInterrupted)
}

// unwatch ends the watch, for the connection to be read from again.
func (c *conn) unwatch() {
	c.busy.Store(0)
	c.watch.Lock()
	on, over := c.watch.on, c.watch.over
	c.watch.on, c.watch.wanted = false, false
	c.watch.Unlock()
	if on {
		c.gate.Unwatch()
		<-over
		c.gate.Rewatch()
	}
}
