package stats

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func key(i int) Key {
	return Key{"ns", fmt.Sprintf("in-%d", i), "svc", "nginx"}
}

func TestSameKeySameRule(t *testing.T) {
	s := New()
	a, b := s.Rule(key(1)), s.Rule(key(1))
	if a != b || a.Key() != key(1) {
		t.Error("one Key has two Rules")
	}
	if s.Rule(key(2)) == a {
		t.Error("two Keys have one Rule")
	}
	var none *Rule
	none.Observe(200, "GET", 1, 1, 1, 1) // must not panic
}

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		status int
		method string
		want   [2]int
	}{
		{200, "GET", [2]int{methodRead, code2xx}}, {101, "GET", [2]int{methodRead, code1xx}}, {304, "HEAD", [2]int{methodRead, code3xx}},
		{404, "OPTIONS", [2]int{methodRead, code4xx}}, {499, "POST", [2]int{methodWrite, codeAborted}}, {500, "DELETE", [2]int{methodWrite, code5xx}},
		{599, "PATCH", [2]int{methodWrite, code5xx}}, {0, "PUT", [2]int{methodWrite, codeNone}}, {600, "PURGE", [2]int{methodOther, codeNone}},
		{-1, "get", [2]int{methodOther, codeNone}}, {99, "", [2]int{methodOther, codeNone}},
	} {
		r := New().Rule(key(0))
		r.Observe(c.status, c.method, time.Millisecond, 0, 0, 0)
		var want totals
		want.requests[c.want[0]][c.want[1]] = 1
		if got := r.totals().requests; got != want.requests {
			t.Errorf("%d %q: got %v, want %v", c.status, c.method, got, want.requests)
		}
	}
}

// TestBuckets holds the bucket of a value against the definition of one.
func TestBuckets(t *testing.T) {
	times, sizes := timeBounds(), sizeBounds()
	for range 2000 {
		d := time.Duration(rand.Int64N(1 << rand.IntN(40)))
		if rand.IntN(4) == 0 {
			d = times[rand.IntN(len(times))] + time.Duration(rand.IntN(3)-1)
		}
		want := slices.IndexFunc(times[:], func(b time.Duration) bool { return d <= b })
		if want < 0 {
			want = numTimes - 1
		}
		if got := timeBucket(d); got != want {
			t.Fatalf("%v is in bucket %d, want %d", d, got, want)
		}
		n := rand.Int64N(1 << rand.IntN(40))
		if rand.IntN(4) == 0 {
			n = sizes[rand.IntN(len(sizes))] + int64(rand.IntN(3)-1)
		}
		want = slices.IndexFunc(sizes[:], func(b int64) bool { return n <= b })
		if want < 0 {
			want = numSizes - 1
		}
		if got := sizeBucket(n); got != want {
			t.Fatalf("%d bytes are in bucket %d, want %d", n, got, want)
		}
	}
	if !slices.IsSorted(times[:]) || !slices.IsSorted(sizes[:]) {
		t.Error("bounds are not in order")
	}
}

// TestConcurrent looks whether a rule that becomes busy under way loses anything.
func TestConcurrent(t *testing.T) {
	s := New()
	r := s.Rule(key(0))
	const workers, each = 8, 5000
	var wg, readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() {
		var last uint64
		for {
			n := r.totals().count()
			if n < last {
				t.Errorf("the count went back from %d to %d", last, n)
			}
			last = n
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				r.Observe(200+i%2*300, "GET", time.Millisecond, time.Microsecond, 1, int64(w))
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	got := r.totals()
	const n = workers * each
	if got.count() != n || got.requests[methodRead][code2xx] != n/2 || got.requests[methodRead][code5xx] != n/2 {
		t.Errorf("%d counted, %v, want %d", got.count(), got.requests, n)
	}
	if got.in != n || got.out != each*(0+1+2+3+4+5+6+7) || got.upstreamSum != n*1000 || got.durationSum != n*1_000_000 {
		t.Errorf("sums: %d bytes in, %d out, %d ns, %d ns", got.in, got.out, got.upstreamSum, got.durationSum)
	}
	if numLanes() > 1 && r.spread.Load() == nil {
		t.Error("a busy rule has not spread")
	}
}

func TestNegatives(t *testing.T) {
	r := New().Rule(key(0))
	r.Observe(200, "GET", -time.Second, -time.Second, -1, -1)
	got := r.totals()
	if got.durationSum != 0 || got.upstreamSum != 0 || got.in != 0 || got.out != 0 || got.duration[0] != 1 || got.inSize[0] != 1 {
		t.Errorf("%+v", got)
	}
}

func TestCap(t *testing.T) {
	s := New()
	s.max = 3
	for i := range 5 {
		s.Rule(key(i)).Observe(200, "GET", 1, 1, 1, 1)
	}
	if s.Rule(key(3)) != s.other || s.Rule(key(4)) != s.other || s.Rule(key(2)) == s.other {
		t.Error("the wrong rules share one")
	}
	if n := s.other.totals().count(); n != 2 {
		t.Errorf("the shared rule has %d requests, want 2", n)
	}
	s.Drop(func(k Key) bool { return k == key(0) })
	if n := s.Drop(func(k Key) bool { return k == key(0) }); n != 1 {
		t.Errorf("%d rules remain, want 1", n)
	}
	if s.Rule(key(3)) == s.other {
		t.Error("there is room, and a rule shares")
	}
}

func TestDrop(t *testing.T) {
	s := New()
	none := func(Key) bool { return false }
	r := s.Rule(key(0))
	r.Observe(200, "GET", 1, 0, 5, 7)
	for i, step := range []struct {
		what   string
		before func()
		exists func(Key) bool
		want   int
	}{
		{"just asked for", func() {}, none, 1},
		{"had a request", func() { r.Observe(200, "GET", 1, 0, 5, 7) }, none, 1},
		{"asked for once more", func() { s.Rule(key(0)) }, none, 1},
		{"exists", func() {}, func(Key) bool { return true }, 1},
		{"quiet", func() {}, none, 0},
	} {
		step.before()
		if got := s.Drop(step.exists); got != step.want {
			t.Errorf("%d, %s: %d rules, want %d", i, step.what, got, step.want)
		}
	}
	if s.Rule(key(0)) == r {
		t.Error("a dropped rule is back")
	}
	if f := s.folded["nginx"]; f == nil || f.in != 10 || f.out != 14 || f.inSize[0] != 2 {
		t.Errorf("what the dropped rule had of its class: %+v", f)
	}
}

func TestObserveAllocations(t *testing.T) {
	r := New().Rule(key(0))
	observe := func() { r.Observe(200, "GET", 3*time.Millisecond, time.Millisecond, 0, 100) }
	if n := testing.AllocsPerRun(1000, observe); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if raceEnabled {
		return // it empties pools at random
	}
	for range busy {
		observe()
	}
	if n := testing.AllocsPerRun(1000, observe); n != 0 {
		t.Errorf("%v allocations when busy, want 0", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	r := New().Rule(key(0))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Observe(200, "GET", 3*time.Millisecond, 2*time.Millisecond, 0, 4000)
		}
	})
}
