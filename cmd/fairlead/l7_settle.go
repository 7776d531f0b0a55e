package main

import (
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// settleTime is how long something has to be wrong before anybody hears of it: objects that belong together do not arrive
// together, and an Ingress that comes a moment before its Service is no trouble.
const settleTime = 2 * time.Second

// A settler passes problems on once they have lasted. Its methods may be called from any goroutine.
type settler struct {
	after time.Duration
	pass  func([]service.Problem) // gets all that last; not called twice at a time

	mu    sync.Mutex
	since map[service.Problem]time.Time
	list  []service.Problem
	timer *time.Timer
}

func newSettler(after time.Duration, pass func([]service.Problem)) *settler {
	return &settler{after: after, pass: pass, since: make(map[service.Problem]time.Time)}
}

// all takes note of all problems that there are.
func (s *settler) all(list []service.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	since := make(map[service.Problem]time.Time, len(list))
	for _, p := range list {
		at, known := s.since[p]
		if !known {
			at = now
		}
		since[p] = at
	}
	s.since, s.list = since, list
	s.tell(now)
}

// tell passes on what has lasted, and comes back for the rest. s.mu is held.
func (s *settler) tell(now time.Time) {
	var lasting []service.Problem
	var next time.Duration
	for _, p := range s.list {
		if left := s.after - now.Sub(s.since[p]); left > 0 {
			next = max(next, left)
		} else {
			lasting = append(lasting, p)
		}
	}
	s.pass(lasting)
	if s.timer != nil {
		s.timer.Stop()
	}
	if next > 0 {
		s.timer = time.AfterFunc(next, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tell(time.Now())
		})
	}
}
