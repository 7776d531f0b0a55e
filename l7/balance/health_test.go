package balance

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// outs returns the endpoints that get no new requests, by number.
func outs(p *Pool) []int {
	var out []int
	for _, st := range p.Snapshot() {
		if !st.Used {
			b := st.Addr.Addr().As4()
			out = append(out, int(b[2])<<8|int(b[3]))
		}
	}
	return out
}

func fail(ep *Endpoint, n int) {
	for range n {
		ep.Report(Failed, time.Millisecond)
	}
}

func wantOuts(t *testing.T, p *Pool, when string, want ...int) {
	t.Helper()
	if diff := cmp.Diff(outs(p), want); diff != "" {
		t.Errorf("%s: out (-got +want):\n%s", when, diff)
	}
}

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 1, equalEndpoints(4))
		b := p.Balancer(Config{})
		ep := p.known[at(2)]
		fail(ep, 4)
		ep.Report(Answered, 0)
		fail(ep, 4)
		wantOuts(t, p, "8 failures, not 5 in a row")
		ep.Report(Aborted, 0)
		fail(ep, 1)
		wantOuts(t, p, "5 in a row; an abort says nothing", 2)
		if got := count(t, b, 30)[at(2)]; got != 0 {
			t.Errorf("the one that is out got %d requests", got)
		}
		ep.Report(Answered, 0)
		wantOuts(t, p, "an older request was answered", 2)

		// Ejections grow from 10 s by 10 s to 300 s while trials fail.
		for n := 1; n <= 35; n++ {
			want := min(time.Duration(n)*10*time.Second, 300*time.Second)
			if got := p.Snapshot()[2].Ejected; got != want {
				t.Fatalf("ejection %d lasts %v, want %v", n, got, want)
			}
			time.Sleep(want - time.Millisecond)
			if got := count(t, b, 8)[at(2)]; got != 0 {
				t.Fatalf("ejection %d: %d requests before its end", n, got)
			}
			time.Sleep(time.Millisecond)
			if ep := mustPick(t, b, Pick{Tried: []netip.AddrPort{at(0)}}); ep.Addr() == at(2) {
				t.Fatalf("ejection %d: a retry decides it", n)
			}
			if got := count(t, b, 50)[at(2)]; got != 1 {
				t.Fatalf("ejection %d: %d requests at its end, want one that decides", n, got)
			}
			fail(ep, 1)
		}
		time.Sleep(300 * time.Second)
		if got := count(t, b, 50)[at(2)]; got != 1 {
			t.Fatalf("%d requests, want one that decides", got)
		}
		ep.Report(Answered, 0)
		wantOuts(t, p, "the trial was answered")
		if got := count(t, b, 40)[at(2)]; got != 10 {
			t.Errorf("the one that is back gets %d of 40 requests, want 10", got)
		}
		// Soon again: the next length. Long after: from the beginning.
		fail(ep, 5)
		if got := p.Snapshot()[2].Ejected; got != 300*time.Second {
			t.Errorf("ejected again at once for %v, want 300s", got)
		}
		time.Sleep(300 * time.Second)
		count(t, b, 4)
		ep.Report(Answered, 0)
		time.Sleep(301 * time.Second)
		fail(ep, 5)
		if got := p.Snapshot()[2].Ejected; got != 10*time.Second {
			t.Errorf("ejected long after for %v, want 10s", got)
		}
		if got := p.Ejections(); got != 38 {
			t.Errorf("ejections: %d, want 38", got)
		}
	})
}

func TestTrialIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 1, equalEndpoints(4))
		for a := RoundRobin; a <= EWMA; a++ {
			b := p.Balancer(Config{Algorithm: a})
			ep := p.known[at(2)]
			fail(ep, 5)
			time.Sleep(300 * time.Second)
			if got := count(t, b, 20)[at(2)]; got != 1 {
				t.Fatalf("%v: %d trials, want 1", a, got)
			}
			ep.Report(Aborted, 0)
			if got := count(t, b, 20)[at(2)]; got != 1 {
				t.Errorf("%v: %d trials after the first was aborted, want 1", a, got)
			}
			// Somebody else's ejection must not hide that a trial is still out.
			fail(p.known[at(1)], 5)
			time.Sleep(time.Duration(trialTime) - time.Second)
			if got := count(t, b, 20)[at(2)]; got != 0 {
				t.Errorf("%v: %d trials while one is under way, want 0", a, got)
			}
			time.Sleep(time.Second)
			if got := count(t, b, 20)[at(2)]; got != 1 {
				t.Errorf("%v: %d trials after one got lost, want 1", a, got)
			}
			for _, ep := range []*Endpoint{ep, p.known[at(1)]} {
				ep.trial.Store(1)
				ep.Report(Answered, 0)
			}
			wantOuts(t, p, "both are back")
			time.Sleep(time.Hour)
		}
	})
}

func TestEjectionPercent(t *testing.T) {
	for _, c := range []struct{ n, percent, want int }{
		{1, 0, 0}, {2, 0, 1}, {3, 0, 1}, {4, 0, 2}, {10, 0, 5}, {10, 30, 3}, {10, 5, 0}, {1, 100, 0},
	} {
		p := newTestPool(t, 1, equalEndpoints(c.n))
		p.SetHealth(Health{Passive: Passive{Percent: c.percent}})
		for i := range c.n {
			fail(p.known[at(i)], 20)
		}
		if got := len(outs(p)); got != c.want {
			t.Errorf("%d endpoints fail, %d%% may be out: %d are, want %d", c.n, c.percent, got, c.want)
		}
	}
}

func TestEverybodyIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 1, equalEndpoints(3))
		p.SetHealth(Health{Passive: Passive{Percent: 100}})
		b := p.Balancer(Config{})
		for i := range 3 {
			fail(p.known[at(i)], 5)
		}
		if got := len(count(t, b, 30)); got != 3 {
			t.Fatalf("all are out: %d endpoints are used, want 3", got)
		}
		// One that answers now is well.
		p.known[at(1)].Report(Answered, 0)
		wantOuts(t, p, "one has answered", 0, 2)
		if got := count(t, b, 30)[at(1)]; got != 30 {
			t.Errorf("the one that is well got %d of 30", got)
		}
		// The pool shrinks to those that are out.
		p.Set(equalEndpoints(1), nil)
		if got := count(t, b, 3)[at(0)]; got != 3 {
			t.Errorf("the last endpoint got %d of 3", got)
		}
	})
}

func TestNginxFailTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, 1, equalEndpoints(4))
		p.SetHealth(Health{Passive: Passive{MaxFails: 3, FailTimeout: 20 * time.Second}})
		b := p.Balancer(Config{})
		ep := p.known[at(0)]
		fail(ep, 2)
		time.Sleep(21 * time.Second)
		fail(ep, 2)
		wantOuts(t, p, "2 failures and 2 more than 20 s later")
		ep.Report(Answered, 0)
		fail(ep, 1)
		wantOuts(t, p, "3 failures in 20 s, an answer between them", 0)
		for range 3 {
			if got := p.Snapshot()[0].Ejected; got != 20*time.Second {
				t.Errorf("ejected for %v, want 20s always", got)
			}
			time.Sleep(20 * time.Second)
			if got := count(t, b, 20)[at(0)]; got != 1 {
				t.Errorf("%d trials, want 1", got)
			}
			fail(ep, 1)
		}
		p.SetHealth(Health{Passive: Passive{Off: true}})
		wantOuts(t, p, "switched off")
		fail(ep, 100)
		wantOuts(t, p, "100 failures, switched off")
	})
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for a := RoundRobin; a <= EWMA; a++ {
			p := newTestPool(t, 1, equalEndpoints(3))
			p.SetHealth(Health{SlowStart: 100 * time.Second})
			b := p.Balancer(Config{Algorithm: a})
			if got := count(t, b, 3000)[at(0)]; got < 900 {
				t.Errorf("%v: one of the first endpoints gets %d of 3000: the first start at once", a, got)
			}
			p.Set(equalEndpoints(4), nil)
			part := func() float64 { return float64(count(t, b, 8_000)[at(3)]) / 2_000 }
			for _, c := range []struct {
				after    time.Duration
				low, top float64
			}{{0, 0.05, 0.2}, {50 * time.Second, 0.4, 0.7}, {50 * time.Second, 0.9, 1.1}} {
				time.Sleep(c.after)
				if got := part(); got < c.low || got > c.top {
					t.Errorf("%v: the new one gets %.2f of its share, want %.2f to %.2f", a, got, c.low, c.top)
				}
			}
			// One that is back after an ejection starts slowly too.
			fail(p.known[at(3)], 5)
			time.Sleep(10 * time.Second)
			count(t, b, 100)
			p.known[at(3)].Report(Answered, 0)
			if got := p.Snapshot()[3].SlowStart; got != 0.1 {
				t.Errorf("%v: the one that is back is at %v of its share, want 0.1", a, got)
			}
		}
		// A pool all of whose endpoints are new has no one else.
		p := newTestPool(t, 1, equalEndpoints(2))
		p.SetHealth(Health{SlowStart: 100 * time.Second})
		p.Set(endpoints(10, 1, 1), nil)
		if got := p.Snapshot()[0].SlowStart; got != 1 {
			t.Errorf("a pool that is all new starts at %v, want 1", got)
		}
	})
}

// A prober answers checks as the test says, and notes them.
type prober struct {
	mu    sync.Mutex
	bad   map[netip.AddrPort]bool
	calls map[netip.AddrPort][]time.Time
}

func newProber() *prober {
	return &prober{bad: map[netip.AddrPort]bool{}, calls: map[netip.AddrPort][]time.Time{}}
}

func (p *prober) probe(_ context.Context, to netip.AddrPort, _ Check) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[to] = append(p.calls[to], time.Now())
	if p.bad[to] {
		return errors.New("it is ill")
	}
	return nil
}

// set makes the nth endpoint ill or well.
func (p *prober) set(n int, bad bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bad[at(n)] = bad
}

// taken returns the checks made since the last time.
func (p *prober) taken() map[netip.AddrPort][]time.Time {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = map[netip.AddrPort][]time.Time{}
	return calls
}

func TestChecker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr := newProber()
		c := NewChecker(pr.probe)
		stop := run(t, c)
		defer stop()
		check := Check{Interval: 10 * time.Second, Rise: 2, Fall: 3, Path: "/healthz"}
		pools := []*Pool{NewPool("a", Options{Checker: c}), NewPool("b", Options{Checker: c})}
		for _, p := range pools {
			p.SetHealth(Health{Check: &check})
			p.Set(equalEndpoints(4), nil)
		}
		time.Sleep(100*time.Second + time.Millisecond)
		all := pr.taken()
		for i := range 4 {
			calls := all[at(i)]
			if n := len(calls); n < 9 || n > 12 {
				t.Errorf("endpoint %d of two pools was checked %d times in 100 s, want about 10", i, n)
			}
			if i > 0 && calls[0].Equal(all[at(i-1)][0]) {
				t.Errorf("endpoints %d and %d are checked at the same time", i-1, i)
			}
		}
		pr.set(1, true)
		time.Sleep(17 * time.Second)
		wantOuts(t, pools[0], "one has been ill for less than two intervals")
		time.Sleep(17 * time.Second)
		for _, p := range pools {
			wantOuts(t, p, "one has failed 3 checks", 1)
			if err := p.Snapshot()[1].CheckErr; err == nil || p.Snapshot()[0].CheckErr != nil {
				t.Errorf("the status says %v, and of a good one %v", err, p.Snapshot()[0].CheckErr)
			}
		}
		if got := count(t, pools[0].Balancer(Config{}), 30)[at(1)]; got != 0 {
			t.Errorf("the one that is ill got %d requests", got)
		}
		// Who comes later gets what is known.
		late := NewPool("late", Options{Checker: c})
		late.SetHealth(Health{Check: &check})
		late.Set(equalEndpoints(4), nil)
		wantOuts(t, late, "a pool that has just come", 1)
		pr.set(1, false)
		time.Sleep(23 * time.Second)
		wantOuts(t, pools[1], "2 checks succeed")

		// All ill: all are used.
		for i := range 4 {
			pr.set(i, true)
		}
		time.Sleep(40 * time.Second)
		if got := len(count(t, pools[0].Balancer(Config{}), 40)); got != 4 {
			t.Errorf("all are ill: %d are used, want 4", got)
		}
		for _, p := range append(pools, late) {
			p.Close()
		}
		pr.taken()
		time.Sleep(time.Minute)
		if n := len(pr.taken()); n != 0 || len(c.watches) != 0 || len(c.queue) != 0 {
			t.Errorf("after all pools are closed there were checks of %d endpoints", n)
		}
	})
}

func TestCheckerFollowsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr := newProber()
		for i := range 4 {
			pr.set(i, true)
		}
		c := NewChecker(pr.probe)
		stop := run(t, c)
		defer stop()
		p := NewPool("a", Options{Checker: c})
		p.SetHealth(Health{Check: &Check{Interval: time.Second, Fall: 1}})
		p.Set(equalEndpoints(3), nil)
		time.Sleep(3 * time.Second)
		p.Set(endpoints(2, 1, 1), equalEndpoints(4))
		pr.taken()
		time.Sleep(3 * time.Second)
		checked := slices.SortedFunc(maps.Keys(pr.taken()), netip.AddrPort.Compare)
		if diff := cmp.Diff(checked, []netip.AddrPort{at(2), at(3)}, cmpAddr()); diff != "" {
			t.Errorf("checked after a Set (-got +want):\n%s", diff)
		}
		p.SetHealth(Health{})
		wantOuts(t, p, "no checks any more", 0, 1) // these are leaving
		pr.taken()
		time.Sleep(10 * time.Second)
		if n := len(pr.taken()); n > 0 {
			t.Errorf("%d endpoints are checked after checks were switched off", n)
		}
	})
}

// run runs c until stop is called, which waits for its end.
func run(t *testing.T, c *Checker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}
