package balance

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Prober makes one check of an endpoint and returns what is wrong with it, or nil.
// The context ends with the check's timeout.
type Prober func(ctx context.Context, to netip.AddrPort, c Check) error

// A Checker runs the active checks of all Pools. An endpoint that several Pools check alike is
// checked once. Endpoints count as well until their checks have failed. It is safe
// for concurrent use.
type Checker struct {
	probe  Prober
	limit  chan struct{} // one for each check under way
	wakeup chan struct{}

	mu      sync.Mutex
	watches map[watchKey]*watch
	queue   watchQueue
}

type watchKey struct {
	addr  netip.AddrPort
	check Check
}

// A watch is an endpoint that is checked, for everybody who wants to know. All but
// checker and key is guarded by checker.mu.
type watch struct {
	checker *Checker
	key     watchKey
	tell    []*Endpoint // empty: nobody wants to know any more
	next    time.Time
	index   int // in the queue; -1: being checked, or removed
	run     int // how many checks in a row said otherwise than verdict
	verdict error
}

// maxChecks is how many checks are under way at a time.
const maxChecks = 64

// NewChecker returns a Checker that does nothing until Run.
func NewChecker(probe Prober) *Checker {
	return &Checker{
		probe: probe, limit: make(chan struct{}, maxChecks), wakeup: make(chan struct{}, 1),
		watches: map[watchKey]*watch{},
	}
}

// Run makes checks until ctx is done and those under way have ended. It returns nil.
func (c *Checker) Run(ctx context.Context) error {
	var under sync.WaitGroup
	defer under.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w, wait := c.take(time.Now())
		if w == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-c.wakeup:
			case <-timer.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case c.limit <- struct{}{}:
		}
		under.Go(func() {
			defer func() { <-c.limit }()
			c.check(ctx, w)
		})
	}
}

// take returns the watch whose time has come, or how long to wait for it.
func (c *Checker) take(now time.Time) (*watch, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil, time.Hour
	}
	if wait := c.queue[0].next.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&c.queue).(*watch), 0
}

// check makes one check and tells what changes by it.
func (c *Checker) check(ctx context.Context, w *watch) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, w.key.check.Timeout)
	err := c.probe(limited, w.key.addr, w.key.check)
	cancel()
	if ctx.Err() != nil {
		return // its failure is ours
	}
	tell, verdict := c.note(w, began, err)
	for _, ep := range tell {
		ep.pool.checked(ep, w, verdict)
	}
}

// note counts the result of a check, plans the next one, and returns who is to be told what, if
// the verdict has changed.
func (c *Checker) note(w *watch, began time.Time, err error) ([]*Endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(w.tell) == 0 {
		return nil, nil
	}
	interval := float64(w.key.check.Interval)
	w.next = began.Add(time.Duration(interval * (0.9 + 0.2*rand.Float64())))
	heap.Push(&c.queue, w)
	c.wake()
	if (err == nil) == (w.verdict == nil) {
		w.run = 0
		return nil, nil
	}
	w.run++
	need := w.key.check.Fall
	if w.verdict != nil {
		need = w.key.check.Rise
	}
	if w.run < need {
		return nil, nil
	}
	w.run = 0
	if w.verdict = nil; err != nil {
		w.verdict = fmt.Errorf("health check of %v: %w", w.key.addr, err)
	}
	return slices.Clone(w.tell), w.verdict
}

func (c *Checker) wake() {
	select {
	case c.wakeup <- struct{}{}:
	default:
	}
}

// add has ep checked. The first check of an address is made soon, but not of all
// addresses at once. What is known already of the address counts. Callers hold
// the mutex of ep's Pool.
func (c *Checker) add(ep *Endpoint, check Check) *watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := watchKey{ep.addr, check}
	w := c.watches[key]
	if w == nil {
		soon := min(check.Interval, time.Second)
		w = &watch{checker: c, key: key, next: time.Now().Add(time.Duration(rand.Int64N(int64(soon))))}
		c.watches[key] = w
		heap.Push(&c.queue, w)
		c.wake()
	}
	w.tell = append(w.tell, ep)
	ep.checkedDown.Store(w.verdict != nil)
	ep.verdict = w.verdict
	return w
}

// remove ends the checks for ep.
func (w *watch) remove(ep *Endpoint) {
	c := w.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	w.tell = slices.DeleteFunc(w.tell, func(o *Endpoint) bool { return o == ep })
	if len(w.tell) > 0 {
		return
	}
	delete(c.watches, w.key)
	if w.index >= 0 {
		heap.Remove(&c.queue, w.index)
	}
}

// A watchQueue is a heap by next.
type watchQueue []*watch

func (q watchQueue) Len() int           { return len(q) }
func (q watchQueue) Less(i, j int) bool { return q[i].next.Before(q[j].next) }

func (q watchQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for package heap.
func (q *watchQueue) Push(x any) {
	w := x.(*watch)
	w.index = len(*q)
	*q = append(*q, w)
}

// Pop is for package heap.
func (q *watchQueue) Pop() any {
	last := len(*q) - 1
	w := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	w.index = -1
	return w
}
