package balance

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func benchConfigs() map[string]Config {
	return map[string]Config{
		"round_robin":    {},
		"least_requests": {Algorithm: LeastRequests},
		"ewma":           {Algorithm: EWMA},
		"hash":           {Algorithm: Hash},
		"ip_hash":        {Algorithm: IPHash},
		"balanced":       {Sticky: &Sticky{Name: "c"}},
		"persistent":     {Sticky: &Sticky{Name: "c", Mode: Persistent}},
	}
}

func weightsFor(n int, weighted bool) []uint16 {
	weights := make([]uint16, n)
	for i := range weights {
		if weighted {
			weights[i] = uint16(1 + i*7919%997)
		}
	}
	return weights
}

// TestNoAllocs: a pick of whatever kind makes no garbage, nor do Begin, Report and End.
func TestNoAllocs(t *testing.T) {
	for name, cfg := range benchConfigs() {
		for _, n := range []int{1, 10, 200} {
			for _, weighted := range []bool{false, true} {
				p := newTestPool(t, 1, endpoints(0, weightsFor(n, weighted)...))
				p.SetHealth(Health{SlowStart: time.Hour})
				p.Set(endpoints(0, weightsFor(n+3, weighted)...), nil) // three in slow start
				fail(p.known[at(0)], 5)                                // and one out, but of one
				b := p.Balancer(cfg)
				q := Pick{Key: "the key", Client: netip.MustParseAddr("2001:db8:51::1")}
				b.Pick(&q)
				tried := []netip.AddrPort{at(1)}
				got := testing.AllocsPerRun(200, func() {
					q.Fresh, q.Tried = false, nil
					ep, _ := b.Pick(&q)
					ep.Begin()
					ep.Report(Answered, time.Millisecond)
					ep.End()
					q.Tried = tried
					b.Pick(&q)
				})
				if got != 0 {
					t.Errorf("%s, %d endpoints, weighted %v: %v allocations, want 0", name, n, weighted, got)
				}
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for name, cfg := range benchConfigs() {
		for _, n := range []int{3, 100, 5000} {
			for _, weighted := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/n=%d/weighted=%v", name, n, weighted), func(b *testing.B) {
					p := NewPool("a", Options{})
					p.Set(endpoints(0, weightsFor(n, weighted)...), nil)
					bal := p.Balancer(cfg)
					q := Pick{Key: "user-17", Client: netip.MustParseAddr("198.51.100.7")}
					bal.Pick(&q)
					b.ReportAllocs()
					for b.Loop() {
						ep, _ := bal.Pick(&q)
						ep.Begin()
						ep.End()
					}
				})
			}
		}
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, a := range []Algorithm{RoundRobin, LeastRequests, EWMA} {
		b.Run(a.String(), func(b *testing.B) {
			p := NewPool("a", Options{})
			p.Set(equalEndpoints(50), nil)
			bal := p.Balancer(Config{Algorithm: a})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var q Pick
				for pb.Next() {
					ep, _ := bal.Pick(&q)
					ep.Begin()
					ep.Report(Answered, time.Millisecond)
					ep.End()
				}
			})
		})
	}
}

// BenchmarkSet is an endpoint that comes and goes, with the next pick after it.
func BenchmarkSet(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			p := NewPool("a", Options{})
			eps := equalEndpoints(n)
			bal := p.Balancer(Config{})
			var q Pick
			for i := 0; b.Loop(); i++ {
				p.Set(eps[:n-i%2], eps)
				bal.Pick(&q)
			}
		})
	}
}
