package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// How much garbage may gather, as a share of what is in use. What is in use is the
// state of the cluster, which is much, and a change of it makes little garbage: Go's
// default of 100 would mostly make the process larger. But in userspace mode every
// connection makes garbage, and the collector would hardly ever rest.
const (
	gcCalm      = 15  // while little garbage comes
	gcMost      = 30  // while much does
	gcStart     = 100 // at the start, if that is less than the most
	gcUserspace = 150 // … in userspace mode
	gcStep      = 3   // by how much it rises at least

	// gcOften is how soon after another a run of the collector is too soon. A run takes
	// about a millisecond of CPU time for each megabyte in use.
	gcOften = 2 * time.Second
)

// A gcPacer sets how much garbage may gather: little, but more step by step while the
// collector runs too often for it. So a burst, such as when the API server tells
// everything again, does not make the process much larger, and what lasts, such as
// traffic, does not keep the collector running. A nil gcPacer leaves it to the
// operator. It is safe for concurrent use.
type gcPacer struct {
	most int
	set  func(percent int)

	mu      sync.Mutex
	percent int
	last    time.Time // when the collector has last run
}

// paceGC paces the garbage collector for a mode from now on, unless the operator does.
func paceGC(mode string) *gcPacer {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	p := &gcPacer{most: gcMost, set: func(percent int) { debug.SetGCPercent(percent) }, last: time.Now()}
	if mode == modeUserspace {
		p.most = gcUserspace
	}
	p.change(min(p.most, gcStart))
	p.listen()
	return p
}

// A gcBeacon is garbage. It holds a pointer, since what does not may be kept for long
// together with others.
type gcBeacon struct{ _ *gcBeacon }

// listen has p hear of every run of the collector from the next one on.
func (p *gcPacer) listen() {
	runtime.AddCleanup(new(gcBeacon), func(p *gcPacer) {
		p.ran(time.Now())
		p.listen()
	}, p)
}

// ran notes that the collector has run.
func (p *gcPacer) ran(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Sub(p.last)
	p.last = now
	switch {
	case since < gcOften:
		p.change(min(p.percent+max(gcStep, p.percent/8), p.most))
	case since > 2*gcOften: // at half of it, it is not too often
		p.change(max(p.percent/2, gcCalm))
	}
}

// calm says that the start is over.
func (p *gcPacer) calm() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change(gcCalm)
}

// change sets what is not set already, which stops the process for a moment.
func (p *gcPacer) change(percent int) {
	if p.percent != percent {
		p.percent = percent
		p.set(percent)
	}
}
