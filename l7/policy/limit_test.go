package policy

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := compile(t, Config{Limits: []Limit{{Requests: 2, Per: time.Second, Burst: 3}}}, env(t))
		ask := func(from string) (string, string) {
			x := newExchange(t, "GET", "http://a.example/")
			x.Request.Client = netip.MustParseAddrPort(from)
			out := outcome(x, p.Admit(x))
			if x.Response == nil {
				return out, ""
			}
			diff(t, "status", x.Response.Status, 429)
			return out, x.Response.Header.Get("Retry-After")
		}
		for i := range 4 {
			if out, _ := ask("198.51.100.1:1"); out != "passed" {
				t.Fatalf("request %d of a burst: %s", i, out)
			}
		}
		out, retry := ask("198.51.100.1:2")
		diff(t, "beyond the burst", out+" "+retry, "rate-limited 1")
		out, _ = ask("198.51.100.2:1")
		diff(t, "somebody else", out, "passed")
		time.Sleep(500 * time.Millisecond)
		out, _ = ask("198.51.100.1:1")
		diff(t, "half a second later", out, "passed")
		out, _ = ask("198.51.100.1:1")
		diff(t, "and at once", out, "rate-limited")
		time.Sleep(time.Hour)
		for range 4 {
			out, _ = ask("198.51.100.1:1")
			diff(t, "an hour later", out, "passed")
		}
		out, _ = ask("198.51.100.1:1")
		diff(t, "nobody saves up", out, "rate-limited")
	})
}

func TestRateLimitNetworks(t *testing.T) {
	p := compile(t, Config{Limits: []Limit{{Requests: 1, Per: time.Hour}}, Limiting: Limiting{Exempt: prefixes("10.0.0.0/8"), Status: 503}}, env(t))
	for _, c := range []struct {
		from, want string
	}{
		{"[2001:db8::1]:1", "passed"},
		{"[2001:db8::ffff]:1", "rate-limited"},
		{"[2001:db8:0:1::1]:1", "passed"},
		{"[::ffff:198.51.100.7]:1", "passed"},
		{"198.51.100.7:1", "rate-limited"},
		{"10.1.2.3:1", "passed"},
		{"10.1.2.3:1", "passed"},
	} {
		x := newExchange(t, "GET", "http://a.example/")
		x.Request.Client = netip.MustParseAddrPort(c.from)
		diff(t, c.from, outcome(x, p.Admit(x)), c.want)
		if x.Response != nil {
			diff(t, "status", x.Response.Status, 503)
			diff(t, "Retry-After", x.Response.Header.Get("Retry-After"), "3600")
		}
	}
}

// TestRateLimitsTogether makes sure that a request which one limit refuses is not counted by the others.
func TestRateLimitsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := compile(t, Config{Limits: []Limit{{Requests: 3, Per: time.Minute, Burst: 2}, {Requests: 1, Per: time.Second}}}, env(t))
		passed := 0
		for range 30 {
			x := newExchange(t, "GET", "http://a.example/")
			if p.Admit(x) {
				passed++
			}
			time.Sleep(100 * time.Millisecond)
		}
		diff(t, "requests that passed in three seconds", passed, 3)
	})
}

// TestRateLimitOutlivesCompile makes sure that a change of an Ingress wipes nobody's slate.
func TestRateLimitOutlivesCompile(t *testing.T) {
	e := env(t)
	c := Config{Limits: []Limit{{Requests: 1, Per: time.Hour}}}
	admit := func(e Env) bool { return compile(t, c, e).Admit(newExchange(t, "GET", "http://a.example/")) }
	other := e
	other.Rule = "default/web/other.example/"
	got := []bool{admit(e), admit(e), admit(other)}
	diff(t, "admitted", got, []bool{true, false, true})
}

func TestConnectionLimit(t *testing.T) {
	p := compile(t, Config{Limits: []Limit{{Connections: 2}, {Requests: 3, Per: time.Hour, Burst: 2}}}, env(t))
	a, b, c := newExchange(t, "GET", "http://a.example/"), newExchange(t, "GET", "http://a.example/"), newExchange(t, "GET", "http://a.example/")
	diff(t, "first", outcome(a, p.Admit(a)), "passed")
	diff(t, "second", outcome(b, p.Admit(b)), "passed")
	diff(t, "third", outcome(c, p.Admit(c)), ReasonConnLimit)
	p.Done(c) // holds nothing
	d := newExchange(t, "GET", "http://a.example/")
	diff(t, "fourth", outcome(d, p.Admit(d)), ReasonConnLimit)
	p.Done(a)
	p.Done(a) // once only
	e := newExchange(t, "GET", "http://a.example/")
	diff(t, "after one has gone", outcome(e, p.Admit(e)), "passed")
	p.Done(e)
	// A request which the rate refuses gives its place back too.
	f := newExchange(t, "GET", "http://a.example/")
	diff(t, "too fast", outcome(f, p.Admit(f)), ReasonRateLimit)
	p.Done(f)
	p.Done(b)
	limits := p.Stages[0].(*limiter).table
	for i := range limits.shards {
		if n := len(limits.shards[i].open); n != 0 {
			t.Errorf("%d clients hold places after the end of all requests", n)
		}
	}
}

func TestConnectionLimitConcurrently(t *testing.T) {
	p := compile(t, Config{Limits: []Limit{{Connections: 5}}}, env(t))
	var now, most atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				x := newExchange(t, "GET", "http://a.example/")
				if p.Admit(x) {
					n := now.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					}
					now.Add(-1)
				}
				p.Done(x)
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 {
		t.Errorf("%d requests at the same time, want at most 5", most.Load())
	}
}

// TestRateLimitExtremes makes sure that no burst is so large that it becomes none.
func TestRateLimitExtremes(t *testing.T) {
	for _, l := range []Limit{
		{Requests: 1, Per: 1 << 62, Burst: 1 << 40},
		{Requests: 1, Per: 24 * time.Hour, Burst: 1 << 62},
		{Requests: 1 << 40, Per: time.Second, Burst: 1 << 62},
	} {
		p := compile(t, Config{Limits: []Limit{l}}, env(t))
		for i := range 2 {
			x := newExchange(t, "GET", "http://a.example/")
			if got := outcome(x, p.Admit(x)); got != "passed" {
				t.Errorf("%+v: request %d: %s", l, i, got)
			}
		}
	}
}

// TestDoneAfterPanic is what an engine does when a stage panics: the place of the request is free again.
func TestDoneAfterPanic(t *testing.T) {
	p := compile(t, Config{Limits: []Limit{{Connections: 1}}, Rewrite: &Rewrite{Target: "/"}}, func() Env {
		e := env(t)
		e.Canonical = func(string) (string, error) { panic("a bug") }
		return e
	}())
	for range 3 {
		func() {
			x := newExchange(t, "GET", "http://a.example/")
			defer func() {
				if got := recover(); got != "a bug" {
					t.Errorf("recovered %v", got)
				}
			}()
			defer p.Done(x)
			p.Admit(x)
			t.Errorf("admitted: %s", outcome(x, false))
		}()
	}
}

func TestLimitTableIsBounded(t *testing.T) {
	table := newLimitTable(640)
	r := []rate{newRate(1, time.Hour, 0)}
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		table.take(limitKey{rule: 1, client: a}, r)
	}
	n := 0
	for i := range table.shards {
		n += table.shards[i].rates.Len()
	}
	if n > 640 {
		t.Errorf("%d accounts, want at most 640", n)
	}
}

func TestLimitAllocations(t *testing.T) {
	table := newLimitTable(1024)
	r := []rate{newRate(1_000_000, time.Second, 1_000_000)}
	k := limitKey{rule: 1, client: netip.MustParseAddr("2001:db8::1")}
	table.take(k, r)
	if n := testing.AllocsPerRun(100, func() { table.take(k, r) }); n != 0 {
		t.Errorf("%v allocations for a client that is known, want 0", n)
	}
}

func BenchmarkLimit(b *testing.B) {
	table := newLimitTable(DefaultAccounts)
	r := []rate{newRate(100, time.Second, 100), newRate(100, time.Minute, 100)}
	keys := make([]limitKey, 4096)
	for i := range keys {
		keys[i] = limitKey{rule: 1, client: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256))}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			table.take(keys[i%len(keys)], r)
		}
	})
}
