package stats

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Key is the labels of a Rule. The Class is the name of the IngressClass.
type Key struct{ Namespace, Ingress, Service, Class string }

// other is the Key of what is beyond MaxRules.
func other() Key { return Key{"_other", "_other", "_other", "_other"} }

// Upper bounds of buckets, the last of which has none. They are few, since every Rule has them.
const (
	numTimes = 11 // buckets of durations, the endless one included
	numSizes = 6  // of bytes
)

func timeBounds() [numTimes - 1]time.Duration {
	const ms = time.Millisecond
	return [...]time.Duration{ms, 5 * ms, 10 * ms, 25 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 2500 * ms, 10 * time.Second}
}

func sizeBounds() [numSizes - 1]int64 {
	return [...]int64{1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20}
}

// The classes of status codes. One that is none of HTTP's counts as a request without an answer.
const (
	code1xx = iota
	code2xx
	code3xx
	code4xx
	code5xx
	codeAborted // 499: the client has gone
	codeNone
	numCodes
)

func codeNames() [numCodes]string {
	return [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "aborted", "none"}
}

// The classes of methods.
const (
	methodRead = iota
	methodWrite
	methodOther
	numMethods
)

func methodNames() [numMethods]string { return [...]string{"read", "write", "other"} }

// A cell is one copy of the numbers of a Rule.
type cell struct {
	requests    [numMethods][numCodes]atomic.Uint64
	duration    [numTimes]atomic.Uint64
	upstream    [numTimes]atomic.Uint64
	durationSum atomic.Uint64 // nanoseconds
	upstreamSum atomic.Uint64
	in, out     atomic.Uint64 // bytes
	inSize      [numSizes]atomic.Uint64
	outSize     [numSizes]atomic.Uint64
	_           [64]byte // cells must not share a cache line
}

// A Rule counts the requests under one Key. It is safe for concurrent use. Stats.Rule makes it.
type Rule struct {
	key   Key
	lanes *sync.Pool
	first cell
	// spread has a cell for each lane once the Rule is busy; the first of them is first. Most rules never are.
	spread atomic.Pointer[[]*cell]

	seen  atomic.Bool // asked for since the last Drop
	known uint64      // requests at the last Drop; guarded by Stats.mu
}

// busy is how many requests of one kind make a Rule spread. Any number is right.
const busy = 4096

// maxLanes bounds the memory of a busy Rule.
const maxLanes = 16

func numLanes() int { return max(1, min(runtime.GOMAXPROCS(0), maxLanes)) }

// Key returns the labels of r.
func (r *Rule) Key() Key { return r.key }

// Observe counts a request that is over: what the client was told (499: it has gone; 0: nothing), how long it took
// and, unless no endpoint was asked, how long that did (else 0), and the bytes of both bodies. A nil Rule counts nothing.
func (r *Rule) Observe(status int, method string, d, upstream time.Duration, in, out int64) {
	if r == nil {
		return
	}
	c := &r.first
	if cells := r.spread.Load(); cells != nil {
		lane := r.lanes.Get().(*int)
		c = (*cells)[*lane%len(*cells)]
		r.lanes.Put(lane)
	}
	n := c.requests[methodClass(method)][codeClass(status)].Add(1)
	c.duration[timeBucket(d)].Add(1)
	c.durationSum.Add(uint64(max(d, 0)))
	if upstream > 0 {
		c.upstream[timeBucket(upstream)].Add(1)
		c.upstreamSum.Add(uint64(upstream))
	}
	c.inSize[sizeBucket(in)].Add(1)
	if in > 0 {
		c.in.Add(uint64(in))
	}
	c.outSize[sizeBucket(out)].Add(1)
	if out > 0 {
		c.out.Add(uint64(out))
	}
	if n == busy && c == &r.first {
		r.widen()
	}
}

// widen gives each lane a cell of its own, once.
func (r *Rule) widen() {
	n := numLanes()
	if n == 1 {
		return
	}
	cells := make([]*cell, n)
	cells[0] = &r.first
	for i := 1; i < n; i++ {
		cells[i] = new(cell)
	}
	r.spread.CompareAndSwap(nil, &cells)
}

func methodClass(m string) int {
	switch m {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return methodRead
	case "POST", "PUT", "PATCH", "DELETE":
		return methodWrite
	}
	return methodOther
}

func codeClass(status int) int {
	switch {
	case status == 499:
		return codeAborted
	case status >= 100 && status < 600:
		return status/100 - 1
	}
	return codeNone
}

func timeBucket(d time.Duration) int {
	bounds := timeBounds()
	for i := range bounds {
		if d <= bounds[i] {
			return i
		}
	}
	return numTimes - 1
}

func sizeBucket(n int64) int {
	bounds := sizeBounds()
	for i := range bounds {
		if n <= bounds[i] {
			return i
		}
	}
	return numSizes - 1
}

// totals is a Rule's numbers at one moment, more or less: requests that end meanwhile may be in some and not in others.
type totals struct {
	requests                 [numMethods][numCodes]uint64
	duration, upstream       [numTimes]uint64
	durationSum, upstreamSum uint64
	in, out                  uint64
	inSize, outSize          [numSizes]uint64
}

func (r *Rule) totals() *totals {
	t := new(totals)
	if cells := r.spread.Load(); cells != nil {
		for _, c := range *cells {
			t.addCell(c)
		}
	} else {
		t.addCell(&r.first)
	}
	return t
}

func (t *totals) addCell(c *cell) {
	for m := range c.requests {
		addAll(t.requests[m][:], c.requests[m][:])
	}
	addAll(t.duration[:], c.duration[:])
	addAll(t.upstream[:], c.upstream[:])
	addAll(t.inSize[:], c.inSize[:])
	addAll(t.outSize[:], c.outSize[:])
	t.durationSum += c.durationSum.Load()
	t.upstreamSum += c.upstreamSum.Load()
	t.in += c.in.Load()
	t.out += c.out.Load()
}

func addAll(to []uint64, from []atomic.Uint64) {
	for i := range from {
		to[i] += from[i].Load()
	}
}

// count is how many requests there were.
func (t *totals) count() uint64 {
	var n uint64
	for _, v := range t.duration {
		n += v
	}
	return n
}
