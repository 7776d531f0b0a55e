package std

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// A pressure is what connections are held to while more than three quarters of MaxConns are there.
type pressure struct {
	head time.Duration // from the first byte of a head, and for a TLS handshake; 0 means 5 s
	idle time.Duration // between two requests; 0 means 10 s
	tick time.Duration // how often we look; 0 means 1 s

	// fresh is how long a connection has to be idle before it makes room for another; 0 means 250 ms. One that
	// was just opened is about to ask.
	fresh time.Duration
}

// doormat is how many connections beyond MaxConns may be there until it is known whether there is room for them.
const doormat = 1024

const (
	batch = 64   // of idle connections that are looked for at a time
	share = 10   // of the time, at most one in so many goes into looking for them where there are few
	many  = 1024 // connections, beyond which looking at them all takes its time
)

var (
	errFull   = errors.New("there are too many connections")
	errClient = errors.New("the client has too many connections")
)

// A serving is who has a connection once it has been prepared.
type serving struct {
	conn net.Conn // as the server has it; nil: it is none of our servers
	gate *h1.Gate // nil: HTTP/2
	own  bool     // the server is package wire
}

// A crowd is all connections but those whose PROXY header is being read. It bounds how many there are, and ends those first
// that do nothing. Its lock is taken for connections, never for requests.
type crowd struct {
	most, each int64
	pressure   pressure
	stop       <-chan struct{}

	mu       sync.Mutex
	all      map[*connection]struct{}
	clients  map[netip.Addr]int64
	sweeping bool
	oldest   []idler   // that were idle when we looked, oldest first
	again    time.Time // when we may look again
}

// An idler is a connection that did nothing.
type idler struct {
	c     *connection
	since int64 // as in connection.idle
}

func newCrowd(c *Config, stop <-chan struct{}) *crowd {
	w := &crowd{most: c.MaxConns, each: c.MaxPerClient, pressure: c.pressure, stop: stop,
		all: make(map[*connection]struct{}), clients: make(map[netip.Addr]int64)}
	if w.each <= 0 {
		w.each = max(w.most/4, 1)
	}
	for _, d := range []struct {
		of   *time.Duration
		with time.Duration
	}{{&w.pressure.head, 5 * time.Second}, {&w.pressure.idle, 10 * time.Second}, {&w.pressure.tick, time.Second}, {&w.pressure.fresh, 250 * time.Millisecond}} {
		if *d.of == 0 {
			*d.of = d.with
		}
	}
	return w
}

// counted returns the address that a connection counts for, or none: trusted proxies bring the requests of many. What they say
// with PROXY protocol about a client is better than nothing.
func (c *connection) counted(conn net.Conn) netip.Addr {
	settings := &c.generation.settings
	client := addrPort(conn.RemoteAddr())
	if settings.Proxy != nil && client == addrPort(c.raw.RemoteAddr()) || contains(settings.Forwarders, client.Addr()) {
		return netip.Addr{}
	}
	if client.Addr().Is6() {
		return netip.PrefixFrom(client.Addr(), 64).Masked().Addr() // which one host may have all to itself
	}
	return client.Addr()
}

// enter admits a connection of a client, for which another one may have to go. No client: it does not count for any.
func (w *crowd) enter(c *connection, client netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	// First, or a client who has too many could still push others out.
	if client.IsValid() && w.clients[client] >= w.each {
		c.stats.PerClient.Add(1)
		return errClient
	}
	if int64(len(w.all)) >= w.most && !w.makeRoom(time.Now()) {
		c.stats.Shed.Add(1)
		return errFull
	}
	w.all[c] = struct{}{}
	if c.client = client; client.IsValid() {
		w.clients[client]++
	}
	if w.crowded() && !w.sweeping {
		w.sweeping = true
		go w.sweepOn()
	}
	return nil
}

// leave is for connections that have ended, admitted or not. It may be called again.
func (w *crowd) leave(c *connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(c)
}

func (w *crowd) remove(c *connection) {
	if _, ok := w.all[c]; !ok {
		return
	}
	delete(w.all, c)
	if !c.client.IsValid() {
		return
	}
	if w.clients[c.client]--; w.clients[c.client] == 0 {
		delete(w.clients, c.client)
	}
}

func (w *crowd) crowded() bool { return int64(len(w.all)) > w.most-w.most/4 }

// makeRoom ends the connection that has been idle longest, and reports whether there was one. Looking at all is
// dear, so several are found at a time.
func (w *crowd) makeRoom(now time.Time) bool {
	if w.nextOldest() {
		return true
	}
	if now.Before(w.again) {
		return false
	}
	before := now.Add(-w.pressure.fresh).UnixNano()
	for c := range w.all {
		since, ok := c.idle()
		if !ok || since > before {
			continue
		}
		if w.oldest = append(w.oldest, idler{c, since}); len(w.oldest) == 2*batch {
			w.keepOldest()
			before = w.oldest[batch-1].since
		}
	}
	w.keepOldest()
	if len(w.oldest) < batch && len(w.all) > many {
		end := time.Now()
		w.again = end.Add((share - 1) * end.Sub(now))
	}
	return w.nextOldest()
}

func (w *crowd) keepOldest() {
	slices.SortFunc(w.oldest, func(a, b idler) int {
		switch {
		case a.since < b.since:
			return -1
		case a.since > b.since:
			return 1
		}
		return 0
	})
	if len(w.oldest) > batch {
		clear(w.oldest[batch:])
		w.oldest = w.oldest[:batch]
	}
}

// nextOldest ends the first of those that were found and are idle still.
func (w *crowd) nextOldest() bool {
	for i, o := range w.oldest {
		if _, there := w.all[o.c]; there && o.c.dismiss(o.since) {
			o.c.stats.Evicted.Add(1)
			w.remove(o.c)
			w.oldest = slices.Delete(w.oldest, 0, i+1)
			return true
		}
	}
	clear(w.oldest)
	w.oldest = w.oldest[:0]
	return false
}

// sweepOn looks after the connections until they are few again.
func (w *crowd) sweepOn() {
	tick := time.NewTicker(w.pressure.tick)
	defer tick.Stop()
	for w.sweep(time.Now()) {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
	}
}

// sweep ends what takes too long for times like these. It reports whether to look again.
func (w *crowd) sweep(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweeping = w.crowded()
	head, idle := now.Add(-w.pressure.head), now.Add(-w.pressure.idle).UnixNano()
	for c := range w.all {
		if !w.crowded() {
			break
		}
		if c.hurry(head) {
			continue
		}
		if since, ok := c.idle(); ok && since < idle && c.dismiss(since) {
			c.stats.CutIdle.Add(1)
			w.remove(c)
		}
	}
	return w.sweeping
}

// idle returns since when no request has been under way, in ns since 1970; false: one is.
func (c *connection) idle() (int64, bool) {
	s := c.taken.Load()
	switch {
	case s == nil || s.conn == nil:
		return 0, false
	case s.own:
		return s.gate.Resting()
	}
	since := c.rest.Load()
	return since, since != 0
}

// dismiss closes a connection that has been idle since then, unless it is not any more. It does not wait for the end.
func (c *connection) dismiss(since int64) bool {
	s := c.taken.Load()
	if now, ok := c.idle(); !ok || now != since {
		return false
	}
	if s.own && !s.gate.Dismiss() || !s.own && !c.rest.CompareAndSwap(since, 0) {
		return false
	}
	go s.conn.Close() // TLS says goodbye, for which the client may take its time
	return true
}

// hurry ends a TLS handshake or the head of a request that began before then. The caller has the crowd's lock.
func (c *connection) hurry(then time.Time) bool {
	s := c.taken.Load()
	switch {
	case s == nil && c.born.Before(then) && !c.hurried:
		c.hurried = true
		c.stats.CutHandshake.Add(1)
		go c.raw.Close()
		return true
	case s != nil && s.gate != nil && s.gate.HurryHead(then):
		c.stats.CutHead.Add(1)
		return true
	}
	return false
}
