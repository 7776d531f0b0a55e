package balance

import (
	"fmt"
	"testing"
	"time"
)

// bench returns a bed with one connection at each endpoint and a function that
// makes one more connection and ends it.
func bench(t testing.TB, algorithm string, n int, affinity time.Duration) func() {
	b := newBed(t, Config{Seed: 1, MaxClients: 500}, portOf(algorithm, "", affinity, poolOf(same(n)...)))
	var conns [1000]Conn
	for i := range conns {
		conns[i] = *b.conn(i)
	}
	i := 0
	once := func() {
		c := conns[i%len(conns)]
		b.Pick(&c, b.now)
		b.Connected(&c, b.now)
		b.Finished(&c)
		i++
	}
	for range 3000 { // all slots of these clients are known then
		once()
	}
	return once
}

func TestNoAllocs(t *testing.T) {
	for _, algorithm := range Algorithms() {
		for _, n := range []int{10, 5000} {
			for _, affinity := range []time.Duration{0, time.Hour} {
				once := bench(t, algorithm, n, affinity)
				if got := testing.AllocsPerRun(1000, once); got != 0 {
					t.Errorf("%s of %d, affinity %v: %v allocations", algorithm, n, affinity, got)
				}
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, algorithm := range Algorithms() {
		for _, n := range []int{10, 5000} {
			b.Run(fmt.Sprintf("%s/%d", algorithm, n), func(b *testing.B) {
				once := bench(b, algorithm, n, 0)
				b.ReportAllocs()
				for b.Loop() {
					once()
				}
			})
		}
	}
	b.Run("affinity", func(b *testing.B) {
		once := bench(b, "rr", 10, time.Hour)
		b.ReportAllocs()
		for b.Loop() {
			once()
		}
	})
}
