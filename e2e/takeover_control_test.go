//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// synTimeout is when a SYN that was not answered is repeated (RFC 6298).
const synTimeout = time.Second

// A span is a time in which one connection was made and used.
type span struct {
	begin, end time.Time
	what       string
}

func (s span) String() string {
	return fmt.Sprintf("%s %s: %v", s.begin.Format("15:04:05.000"), s.what, s.end.Sub(s.begin).Round(time.Millisecond))
}

// calm connects pods to each other all the time, without a Service: where these SYNs are
// repeated, the machine stood still, whichever proxy serves.
func (s *stage) calm(t *testing.T, every time.Duration) *prober {
	t.Helper()
	caller := s.place(t, pod(10))
	return s.hammer(t, every, slices.Concat(both(caller, pod(2), 8080), both(caller, pod(3), 8080))...)
}

// slowSince returns what has taken so long that its SYN may have been repeated.
func (p *prober) slowSince(before tally) []span {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.slow[before.slow:])
}

// unexplained returns those of ours during which no connection of the others was slow.
func unexplained(ours, others []span) []span {
	return slices.DeleteFunc(slices.Clone(ours), func(a span) bool {
		return slices.ContainsFunc(others, func(b span) bool { return a.begin.Before(b.end) && b.begin.Before(a.end) })
	})
}

func listed(of []span) string {
	var out strings.Builder
	for _, s := range of {
		fmt.Fprintln(&out, s)
	}
	return out.String()
}
