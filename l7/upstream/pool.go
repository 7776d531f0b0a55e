package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// shards lets connections of one endpoint be taken and returned by many cores at once.
const shards = 4

// forgotten is how long an endpoint that nobody asks stays in the Client's table.
const forgotten = 10 * time.Minute

// An endpoint keeps the connections to one address. The last one returned is the
// first one taken: so few stay warm, and the others grow old and are closed.
type endpoint struct {
	client *Client
	key    key
	gone   atomic.Bool
	used   atomic.Int64 // when, in nanoseconds
	idle   atomic.Int64
	shards [shards]shard
}

type shard struct {
	mu   sync.Mutex
	idle []*conn
	_    [32]byte // a cache line each
}

// take returns a kept connection that is in order, or nil. hint says where to look first: the
// same client finds the same connection again.
func (e *endpoint) take(hint uint16) *conn {
	now := time.Now()
	if last := e.used.Load(); now.UnixNano()-last > int64(time.Second) {
		e.used.Store(now.UnixNano())
	}
	if e.idle.Load() == 0 {
		return nil
	}
	for i := range uint16(shards) {
		s := &e.shards[(hint+i)%shards]
		for {
			c := s.pop()
			if c == nil {
				break
			}
			e.idle.Add(-1)
			e.client.Stats.Idle.Add(-1)
			if c.fit(now) {
				return c
			}
			c.close()
		}
	}
	return nil
}

func (s *shard) pop() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	c := s.idle[n-1]
	s.idle[n-1] = nil
	s.idle = s.idle[:n-1]
	return c
}

// keep returns c to the pool, or closes it.
func (e *endpoint) keep(c *conn, hint uint16) {
	now := time.Now()
	if c.r != c.w {
		e.client.Stats.Unexpected.Add(1)
		c.close()
		return
	}
	cfg := e.client.cfg.Load()
	if e.gone.Load() || c.requests >= cfg.MaxRequests || now.Sub(c.born) > cfg.MaxAge {
		c.close()
		return
	}
	if e.idle.Add(1) > int64(cfg.Idle) {
		e.idle.Add(-1)
		c.close()
		return
	}
	e.client.Stats.Idle.Add(1)
	e.client.Stats.Active.Add(-1)
	c.since = now
	c.release()
	s := &e.shards[hint%shards]
	s.mu.Lock()
	s.idle = append(s.idle, c)
	s.mu.Unlock()
	if e.gone.Load() { // end may have gone through the shards before
		e.end()
	}
}

// end closes everything that is kept, for good.
func (e *endpoint) end() {
	e.gone.Store(true)
	e.drop(func(*conn) bool { return true })
}

// sweep closes what is too old, or what the endpoint has closed.
func (e *endpoint) sweep(now time.Time) {
	if e.idle.Load() == 0 {
		return
	}
	e.drop(func(c *conn) bool { return !c.fit(now) })
}

func (e *endpoint) drop(unfit func(*conn) bool) {
	var out []*conn
	for i := range e.shards {
		s := &e.shards[i]
		s.mu.Lock()
		kept := s.idle[:0]
		for _, c := range s.idle {
			if unfit(c) {
				out = append(out, c)
			} else {
				kept = append(kept, c)
			}
		}
		clear(s.idle[len(kept):])
		s.idle = kept
		s.mu.Unlock()
	}
	e.idle.Add(-int64(len(out)))
	e.client.Stats.Idle.Add(-int64(len(out)))
	for _, c := range out {
		c.close()
	}
}

func (e *endpoint) unused(now time.Time) bool {
	return e.idle.Load() == 0 && now.Sub(time.Unix(0, e.used.Load())) > forgotten
}
