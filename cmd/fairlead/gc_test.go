package main

import (
	"runtime"
	"testing"
	"time"
)

func TestGCPacer(t *testing.T) {
	now := time.Now()
	p := &gcPacer{most: gcUserspace, set: func(int) {}, last: now}
	p.change(p.most)
	step := func(what string, times int, after time.Duration, want int) {
		t.Helper()
		for range times {
			now = now.Add(after)
			p.ran(now)
		}
		if p.percent != want {
			t.Errorf("%s: %d%%, want %d%%", what, p.percent, want)
		}
	}
	step("the start", 10, time.Millisecond, gcUserspace)
	p.calm()
	step("a change now and then", 3, time.Minute, gcCalm)
	step("a burst", 4, 50*time.Millisecond, gcCalm+4*gcStep)
	step("after it", 3, time.Minute, gcCalm)
	step("traffic", 100, 300*time.Millisecond, gcUserspace)
	step("as often as it may be", 100, 3*time.Second, gcUserspace)
	step("less traffic", 1, 5*time.Second, gcUserspace/2)
	step("none", 10, 2*time.Minute, gcCalm)
	var none *gcPacer
	none.calm()
}

// TestGCPacerHears holds that the pacer is told of each run of the collector.
func TestGCPacerHears(t *testing.T) {
	told := make(chan int, 100)
	p := &gcPacer{most: gcUserspace, set: func(percent int) { told <- percent }}
	p.listen()
	for want := gcStep; want <= 3*gcStep; want += gcStep {
		p.mu.Lock()
		p.last = time.Now().Add(time.Hour) // the next run is soon after this one
		p.mu.Unlock()
		runtime.GC()
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("told %d, want %d", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatal("not told")
		}
	}
}
