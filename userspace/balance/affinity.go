package balance

import (
	"net/netip"
	"time"
)

// clients remembers which endpoint a client is bound to. It is a list by the time
// of the last connection, with an index. All have the same timeout, so those that
// are over are at the end. The zero value with a limit is ready.
type clients struct {
	limit  int
	index  map[netip.Addr]int32
	slab   []client // 0 is the ring's head: next is the newest, prev the oldest
	unused int32    // list of free places by next, 0 at its end
}

type client struct {
	addr       netip.Addr
	ep         *endpoint
	epoch      uint32
	prev, next int32
	at         time.Time
}

func (cs *clients) len() int { return len(cs.index) }

func (cs *clients) clear() { *cs = clients{limit: cs.limit} }

// get returns the endpoint that addr is bound to, or nil.
func (cs *clients) get(addr netip.Addr, now time.Time, timeout time.Duration) *endpoint {
	i, ok := cs.index[addr]
	if !ok {
		return nil
	}
	c := &cs.slab[i]
	if now.Sub(c.at) >= timeout || c.epoch != c.ep.epoch {
		return nil
	}
	return c.ep
}

// put binds addr to ep from now on.
func (cs *clients) put(addr netip.Addr, ep *endpoint, now time.Time) {
	i, ok := cs.index[addr]
	if ok {
		cs.unlink(i)
	} else {
		i = cs.place()
		cs.index[addr] = i
	}
	cs.slab[i] = client{addr: addr, ep: ep, epoch: ep.epoch, at: now}
	cs.link(i)
}

// place returns a free place, for which the oldest client is forgotten at the limit.
func (cs *clients) place() int32 {
	if cs.index == nil {
		cs.index = make(map[netip.Addr]int32)
		cs.slab = make([]client, 1, 16)
	}
	if len(cs.index) >= cs.limit {
		cs.remove(cs.slab[0].prev)
	}
	if i := cs.unused; i != 0 {
		cs.unused = cs.slab[i].next
		return i
	}
	cs.slab = append(cs.slab, client{})
	return int32(len(cs.slab) - 1)
}

// expire forgets up to n clients whose time is over. When none is left it gives
// their memory back.
func (cs *clients) expire(now time.Time, timeout time.Duration, n int) {
	for range n {
		if len(cs.index) == 0 {
			break
		}
		oldest := cs.slab[0].prev
		if now.Sub(cs.slab[oldest].at) < timeout {
			break
		}
		cs.remove(oldest)
	}
	const small = 1024
	if len(cs.index) == 0 && len(cs.slab) > small {
		cs.clear()
	}
}

func (cs *clients) remove(i int32) {
	cs.unlink(i)
	delete(cs.index, cs.slab[i].addr)
	cs.slab[i] = client{next: cs.unused}
	cs.unused = i
}

func (cs *clients) link(i int32) {
	c, head := &cs.slab[i], &cs.slab[0]
	c.prev, c.next = 0, head.next
	cs.slab[head.next].prev = i
	head.next = i
}

func (cs *clients) unlink(i int32) {
	c := &cs.slab[i]
	cs.slab[c.prev].next = c.next
	cs.slab[c.next].prev = c.prev
}
