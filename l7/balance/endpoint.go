package balance

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// An Endpoint is what one Pool knows of one address. It stays the same while the
// address stays in the Pool. Its methods are safe for concurrent use.
type Endpoint struct {
	addr netip.AddrPort
	pool *Pool
	hash uint64 // the same on every node

	active   atomic.Int64
	requests atomic.Uint64
	failures atomic.Uint64
	latency  latency

	fails       atomic.Int32 // those that count towards an ejection
	shut        atomic.Bool  // ejected
	trial       atomic.Int64 // when the request was let through that decides an ejection; 0: none is under way
	until       atomic.Int64 // end of the ejection
	checkedDown atomic.Bool  // by active checks
	ramp        atomic.Int64 // when slow start began; 0: not in it

	name func() string // the session that names it

	// What follows is guarded by pool.mu.
	chosen    bool  // new requests may have been sent to it
	firstFail int64 // when the first of fails was
	rounds    int   // ejections that came soon after each other
	returned  int64 // from the last ejection
	verdict   error // why checks have taken it out
	watch     *watch
}

// Addr returns the address to connect to.
func (ep *Endpoint) Addr() netip.AddrPort { return ep.addr }

// InFlight returns how many requests have begun and not ended.
func (ep *Endpoint) InFlight() int { return int(ep.active.Load()) }

// Begin notes that a request is about to be sent. Every Begin needs one End.
func (ep *Endpoint) Begin() {
	ep.active.Add(1)
	ep.requests.Add(1)
}

// End notes that nothing more is to come of a request.
func (ep *Endpoint) End() { ep.active.Add(-1) }

// An Outcome is what became of a request, as far as the endpoint is to blame.
type Outcome uint8

// The outcomes. Failed is no connection, no answer in time or in shape, or an
// answer of 502, 503 or 504. Aborted is a request of which nothing can be learned, such as
// one whose client has gone.
const (
	Answered Outcome = iota
	Failed
	Aborted
)

// failurePenalty is the least latency that a failure counts for, so that an endpoint does not attract
// requests by failing fast.
const failurePenalty = time.Second

// Report notes what became of a request: once, as soon as it is known, which for an answer is
// at its head. Latency is how long that took.
func (ep *Endpoint) Report(o Outcome, took time.Duration) {
	if o == Failed {
		ep.failures.Add(1)
	}
	if p := ep.pool; o != Aborted && p.timed.Load() {
		if o == Failed {
			took = max(took, failurePenalty)
		}
		ep.latency.observe(float64(took), p.now())
	}
	switch {
	case o == Failed:
		ep.pool.failed(ep)
	case ep.shut.Load():
		ep.pool.decide(ep, o)
	case o == Answered && ep.fails.Load() != 0 && !ep.pool.windowed.Load():
		ep.fails.Store(0)
	}
}

// share returns which part of its share of requests ep may have, from a tenth up to 1.
func (ep *Endpoint) share(now int64, over time.Duration) float64 {
	from := ep.ramp.Load()
	if from == 0 || over <= 0 {
		return 1
	}
	if now-from >= int64(over) {
		ep.ramp.CompareAndSwap(from, 0)
		return 1
	}
	return max(0.1, float64(now-from)/float64(over))
}

// decay is the time in which an old latency loses all but 1/e of its weight.
const decay = 10 * time.Second

// A latency is a moving average of latencies that follows a rise at once and a
// fall slowly, so that it is about the worst of late. It fades to nothing when
// nothing is observed, so that an endpoint is tried again.
type latency struct {
	mu    sync.Mutex
	value atomic.Uint64 // bits of a float64, in nanoseconds
	at    atomic.Int64  // of the last observation
}

func (l *latency) observe(took float64, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := math.Float64frombits(l.value.Load())
	keep := math.Exp(-float64(now-l.at.Load()) / float64(decay))
	if took < old*keep {
		took = old*keep + took*(1-keep)
	}
	l.value.Store(math.Float64bits(took))
	l.at.Store(now)
}

// now returns the average as it is now, in nanoseconds.
func (l *latency) now(now int64) float64 {
	v := math.Float64frombits(l.value.Load())
	if v == 0 {
		return 0
	}
	return v * math.Exp(-float64(now-l.at.Load())/float64(decay))
}
