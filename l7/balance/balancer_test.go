package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// at returns the address of the nth endpoint.
func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), 8080)
}

// endpoints returns those from first on, one for each weight.
func endpoints(first int, weights ...uint16) []service.Endpoint {
	var out []service.Endpoint
	for i, w := range weights {
		out = append(out, service.Endpoint{Addr: at(first + i), Weight: w})
	}
	return out
}

func equalEndpoints(n int) []service.Endpoint { return endpoints(0, make([]uint16, n)...) }

// newTestPool returns a Pool whose randomness comes from seed.
func newTestPool(t testing.TB, seed uint64, eps []service.Endpoint) *Pool {
	t.Helper()
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 7))
	p := NewPool("shop/cart:80", Options{Key: []byte("the key"), Rand: func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}})
	p.Set(eps, eps)
	return p
}

func mustPick(t testing.TB, b *Balancer, q Pick) *Endpoint {
	t.Helper()
	ep, ok := b.Pick(&q)
	if !ok {
		t.Fatal("Pick found no endpoint")
	}
	return ep
}

// count makes n picks and returns how many each endpoint got, by index.
func count(t testing.TB, b *Balancer, n int) map[netip.AddrPort]int {
	t.Helper()
	got := map[netip.AddrPort]int{}
	for range n {
		got[mustPick(t, b, Pick{}).Addr()]++
	}
	return got
}

func TestPickEmpty(t *testing.T) {
	for a := RoundRobin; a <= IPHash; a++ {
		b := newTestPool(t, 1, nil).Balancer(Config{Algorithm: a, Sticky: &Sticky{Name: "c"}})
		if ep, ok := b.Pick(&Pick{}); ok || ep != nil {
			t.Errorf("%v: Pick of an empty pool: %v, %v, want none", a, ep, ok)
		}
	}
	// An endpoint that only serves is not for new requests.
	p := newTestPool(t, 1, nil)
	p.Set(nil, equalEndpoints(2))
	if ep, ok := p.Balancer(Config{}).Pick(&Pick{}); ok {
		t.Errorf("Pick of a pool without endpoints for new requests: %v, want none", ep.Addr())
	}
}

func TestRoundRobinShares(t *testing.T) {
	for _, weights := range [][]uint16{{0}, {1, 1, 1}, {0, 0, 0, 0, 0}, {5, 1, 1}, {2, 4, 6}, {10, 3}, {100, 1, 50}} {
		b := newTestPool(t, 3, endpoints(0, weights...)).Balancer(Config{})
		cycle := 0
		for _, w := range weights {
			cycle += max(1, int(w))
		}
		if weights[0] == 2 {
			cycle = 6 // 1, 2, 3
		}
		want := map[netip.AddrPort]int{}
		for i, w := range weights {
			want[at(i)] = 3 * max(1, int(w))
			if weights[0] == 2 {
				want[at(i)] /= 2
			}
		}
		// Any stretch of whole cycles is exact, wherever it begins.
		for range 4 {
			if diff := cmp.Diff(count(t, b, 3*cycle), want, cmpAddr()); diff != "" {
				t.Errorf("weights %v: picks (-got +want):\n%s", weights, diff)
			}
			mustPick(t, b, Pick{})
		}
	}
}

func cmpAddr() cmp.Option { return cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }) }

func TestRoundRobinIsSmooth(t *testing.T) {
	b := newTestPool(t, 3, endpoints(0, 4, 2, 1)).Balancer(Config{})
	run, last := 0, netip.AddrPort{}
	for range 70 {
		a := mustPick(t, b, Pick{}).Addr()
		if a != last {
			run, last = 0, a
		}
		if run++; run > 2 {
			t.Fatalf("%v was picked %d times in a row", a, run)
		}
	}
}

// TestRoundRobinLongCycle is about weights whose cycle is too long to be written down.
func TestRoundRobinLongCycle(t *testing.T) {
	weights := []uint16{65535, 65534, 1, 30000, 7}
	b := newTestPool(t, 3, endpoints(0, weights...)).Balancer(Config{})
	const n = 50_000
	got := count(t, b, n)
	sum := 0.0
	for _, w := range weights {
		sum += float64(w)
	}
	for i, w := range weights {
		if want := n * float64(w) / sum; math.Abs(float64(got[at(i)])-want) > 4 {
			t.Errorf("weight %d: got %d picks, want %.1f, give or take 4", w, got[at(i)], want)
		}
	}
}

func TestRoundRobinStartsAnywhere(t *testing.T) {
	starts := map[netip.AddrPort]bool{}
	for seed := range uint64(50) {
		starts[mustPick(t, newTestPool(t, seed, equalEndpoints(5)).Balancer(Config{}), Pick{}).Addr()] = true
	}
	if len(starts) != 5 {
		t.Errorf("50 processes begin at %d of 5 endpoints, want all", len(starts))
	}
}

func TestIdleShares(t *testing.T) {
	weights := []uint16{1, 2, 5}
	for _, a := range []Algorithm{LeastRequests, EWMA} {
		b := newTestPool(t, 5, endpoints(0, weights...)).Balancer(Config{Algorithm: a})
		got := count(t, b, 10_000)
		for i, w := range weights {
			if share := float64(got[at(i)]) / 10_000; math.Abs(share-float64(w)/8) > 0.03 {
				t.Errorf("%v: endpoints without load: weight %d of 8 gets %.3f", a, w, share)
			}
		}
	}
}

// TestLeastRequestsBalances has requests of very different length and wants equal load.
func TestLeastRequestsBalances(t *testing.T) {
	weights := []uint16{1, 1, 2, 4}
	p := newTestPool(t, 5, endpoints(0, weights...))
	b := p.Balancer(Config{Algorithm: LeastRequests})
	r := rand.New(rand.NewPCG(1, 1))
	var open []*Endpoint
	for range 50_000 {
		ep := mustPick(t, b, Pick{})
		ep.Begin()
		if open = append(open, ep); len(open) > 800 {
			i := r.IntN(len(open))
			if r.IntN(3) == 0 {
				i = 0
			}
			open[i].End()
			open = slices.Delete(open, i, i+1)
		}
	}
	for i, st := range p.Snapshot() {
		if want := 100 * int(weights[i]); st.InFlight < want*8/10 || st.InFlight > want*12/10 {
			t.Errorf("weight %d: %d in flight, want about %d", weights[i], st.InFlight, want)
		}
	}
}

func TestEWMAPrefersFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 5, equalEndpoints(4))
		b := p.Balancer(Config{Algorithm: EWMA})
		serve := func(n int, took func(netip.AddrPort) time.Duration) map[netip.AddrPort]int {
			got := map[netip.AddrPort]int{}
			for range n {
				ep := mustPick(t, b, Pick{})
				ep.Begin()
				ep.Report(Answered, took(ep.Addr()))
				ep.End()
				got[ep.Addr()]++
				time.Sleep(10 * time.Millisecond)
			}
			return got
		}
		slow := func(a netip.AddrPort) time.Duration {
			if a == at(0) {
				return 500 * time.Millisecond
			}
			return 5 * time.Millisecond
		}
		serve(50, slow)
		if got := serve(200, slow)[at(0)]; got > 10 {
			t.Errorf("the slow one of 4 got %d of 200 requests, want few", got)
		}
		// It forgets: after a while the slow one is tried again, and does better.
		fast := func(netip.AddrPort) time.Duration { return 5 * time.Millisecond }
		serve(6000, fast)
		if got := serve(400, fast)[at(0)]; got < 50 {
			t.Errorf("the one of 4 that is fast again got %d of 400 requests, want about 100", got)
		}
	})
}

func TestEWMANewStartsAtMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 5, equalEndpoints(2))
		b := p.Balancer(Config{Algorithm: EWMA})
		p.known[at(0)].Report(Answered, 100*time.Millisecond)
		p.known[at(1)].Report(Answered, 300*time.Millisecond)
		p.Set(equalEndpoints(3), nil)
		if got := p.Snapshot()[2].Latency; got != 200*time.Millisecond {
			t.Errorf("latency of a new endpoint: %v, want the mean, 200ms", got)
		}
		if got := p.Snapshot()[1].Latency; got != 300*time.Millisecond {
			t.Errorf("latency of an endpoint that stays: %v, want 300ms as before", got)
		}
		time.Sleep(decay)
		if got, want := p.Snapshot()[1].Latency, time.Duration(math.Round(300e6/math.E)); got.Round(time.Millisecond) != want.Round(time.Millisecond) {
			t.Errorf("latency after %v: %v, want %v", decay, got, want)
		}
		// A rise counts at once, a fall little by little.
		p.known[at(1)].Report(Answered, 400*time.Millisecond)
		if got := p.Snapshot()[1].Latency; got != 400*time.Millisecond {
			t.Errorf("latency after a rise: %v, want 400ms", got)
		}
		time.Sleep(time.Second)
		p.known[at(1)].Report(Answered, 10*time.Millisecond)
		if got := p.Snapshot()[1].Latency; got < 350*time.Millisecond || got >= 400*time.Millisecond {
			t.Errorf("latency after a fall: %v, want a bit less than 400ms", got)
		}
		// Failing fast does not attract requests.
		p.known[at(0)].Report(Failed, time.Microsecond)
		if got := p.Snapshot()[0].Latency; got != failurePenalty {
			t.Errorf("latency after a failure: %v, want %v", got, failurePenalty)
		}
		_ = b
	})
}

func TestTried(t *testing.T) {
	for a := RoundRobin; a <= IPHash; a++ {
		for _, n := range []int{1, 2, 3, 40} {
			weights := make([]uint16, n)
			for i := range weights {
				weights[i] = uint16(i%3 + 1)
			}
			for _, sticky := range []*Sticky{nil, {Name: "c"}, {Name: "c", Mode: Persistent}, {Name: "c", Mode: Persistent, ChangeOnFailure: true}} {
				b := newTestPool(t, 9, endpoints(0, weights...)).Balancer(Config{Algorithm: a, Sticky: sticky})
				q := Pick{Key: "some key", Client: netip.MustParseAddr("198.51.100.7")}
				seen := map[netip.AddrPort]bool{}
				for range n {
					ep, _ := b.Pick(&q)
					seen[ep.Addr()] = true
					q.Tried = append(q.Tried, ep.Addr())
				}
				if len(seen) != n {
					t.Errorf("%v, sticky %v: %d tries met %d of %d endpoints, want all", a, sticky, n, len(seen), n)
				}
				if _, ok := b.Pick(&q); !ok {
					t.Errorf("%v: nothing is picked when all were tried; want one of them", a)
				}
			}
		}
	}
}

func TestSetKeepsWhatIsKnown(t *testing.T) {
	p := newTestPool(t, 1, equalEndpoints(3))
	b := p.Balancer(Config{Algorithm: LeastRequests})
	ep := p.known[at(1)]
	ep.Begin()
	ep.Begin()
	ep.Report(Failed, 0)
	p.Set(endpoints(1, 7, 1, 1), nil)
	if got := p.known[at(1)]; got != ep {
		t.Fatal("an endpoint that stays is another one after a Set")
	}
	want := EndpointStatus{Addr: at(1), Weight: 7, InFlight: 2, Requests: 2, Failures: 1, SlowStart: 1, Used: true}
	if diff := cmp.Diff(p.Snapshot()[0], want, cmpAddr()); diff != "" {
		t.Errorf("status after Set (-got +want):\n%s", diff)
	}
	if got := len(count(t, b, 100)); got != 3 {
		t.Errorf("picks reach %d endpoints, want 3", got)
	}
	// What was known of one that has gone is not for another pod at its address.
	p.Set(equalEndpoints(1), nil)
	p.Set(equalEndpoints(2), nil)
	if got := p.Snapshot()[1]; got.InFlight != 0 || got.Failures != 0 {
		t.Errorf("an endpoint that comes back has %+v, want nothing known", got)
	}
	ep.Report(Failed, 0) // the old one's requests end without harm
	ep.End()
	ep.End()
	if ep.InFlight() != 0 {
		t.Errorf("in flight at the end: %d, want 0", ep.InFlight())
	}
}

func TestSetDoubles(t *testing.T) {
	p := newTestPool(t, 1, nil)
	eps := []service.Endpoint{{Addr: at(3)}, {Addr: at(1)}, {Addr: at(3)}}
	p.Set(eps, eps)
	var got []netip.AddrPort
	for _, st := range p.Snapshot() {
		got = append(got, st.Addr)
	}
	if diff := cmp.Diff(got, []netip.AddrPort{at(1), at(3)}, cmpAddr()); diff != "" {
		t.Errorf("endpoints out of order and twice (-got +want):\n%s", diff)
	}
}

// TestConcurrency is for the race detector, and counts that nothing is lost.
func TestConcurrency(t *testing.T) {
	p := newTestPool(t, 1, equalEndpoints(40))
	p.SetHealth(Health{SlowStart: time.Millisecond, Passive: Passive{MaxFails: 2, Base: time.Microsecond}})
	var bs []*Balancer
	for a := RoundRobin; a <= IPHash; a++ {
		bs = append(bs, p.Balancer(Config{Algorithm: a}))
	}
	bs = append(bs, p.Balancer(Config{Sticky: &Sticky{Name: "c"}}), p.Balancer(Config{Sticky: &Sticky{Name: "c", Mode: Persistent}}))
	var workers, churn sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			q := Pick{}
			for i := range 5000 {
				b := bs[r.IntN(len(bs))]
				q.Key, q.Client = fmt.Sprint(r.IntN(1000)), at(r.IntN(1000)).Addr()
				ep, ok := b.Pick(&q)
				if !ok {
					t.Error("no endpoint")
					return
				}
				ep.Begin()
				ep.Report(Outcome(r.IntN(3)), time.Duration(i))
				ep.End()
				if q.Tried = append(q.Tried, ep.Addr()); len(q.Tried) > 2 {
					q.Tried = q.Tried[:0]
				}
			}
		})
	}
	done := make(chan struct{})
	churn.Go(func() {
		r := rand.New(rand.NewPCG(9, 0))
		for {
			select {
			case <-done:
				return
			default:
				all := equalEndpoints(40)
				p.Set(all[r.IntN(10):30+r.IntN(10)], all)
				p.Snapshot()
			}
		}
	})
	workers.Wait()
	close(done)
	churn.Wait()
	p.Set(equalEndpoints(40), nil)
	for _, st := range p.Snapshot() {
		if st.InFlight != 0 {
			t.Errorf("%v has %d requests in flight at the end, want 0", st.Addr, st.InFlight)
		}
	}
}
