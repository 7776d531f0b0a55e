//go:build linux

package world

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// How often a flow is sent, at most. That triesPerHop*n fair choices miss one of a pool of n happens about once in 1e11
// for the largest of the small ones: the corpus has some ten thousand flows.
const (
	minTries    = 4
	triesPerHop = 24
	smallPool   = 5
	manyTries   = 25
	stickyTries = 6
)

// Sightings count the answers by endpoint.
type Sightings map[netip.AddrPort]int

// A Judge says whether answers are what a flow expects. It is pure.
type Judge struct {
	Flow   *servicetest.FlowExpect
	Sticky bool                  // all answers must come from one endpoint
	N1     func(netip.Addr) bool // whether an address is n1's
}

// Reply judges one answer and notes who gave it.
func (j Judge) Reply(r netns.Result, seen Sightings) error {
	want := j.Flow.Want
	switch want.Verdict {
	case service.Forward:
		return j.forwarded(r, seen)
	case service.Pass:
		return j.passed(r)
	case service.Drop:
		if r.Class != netns.Dropped {
			return fmt.Errorf("got %v, want it dropped", r)
		}
	case service.Reject:
		if r.Class != netns.Refused {
			return fmt.Errorf("got %v, want it refused", r)
		}
	default:
		return fmt.Errorf("unknown verdict %v", want.Verdict)
	}
	return nil
}

func (j Judge) forwarded(r netns.Result, seen Sightings) error {
	if r.Class != netns.Reply {
		return fmt.Errorf("got %v, want an answer of an endpoint", r)
	}
	i := slices.IndexFunc(j.Flow.Want.Hops, func(h service.Hop) bool { return h.Endpoint.Addr == r.From.Addr })
	if i < 0 {
		return fmt.Errorf("got %v, which is none of the hops", r)
	}
	seen[r.From.Addr]++
	if j.Flow.Flow.Protocol == service.ICMP {
		return nil // an echo reply does not say what source was seen
	}
	source := r.SeenSource.Addr()
	switch masq := j.Flow.Want.Hops[i].Masquerade; {
	case masq && !j.N1(source):
		return fmt.Errorf("got %v: the endpoint sees %s, want an address of n1", r, source)
	case !masq && source != j.Flow.Flow.Src:
		return fmt.Errorf("got %v: the endpoint sees %s, want the caller %s", r, source, j.Flow.Flow.Src)
	}
	return nil
}

func (j Judge) passed(r netns.Result) error {
	switch f := j.Flow.Flow; {
	case r.Class != netns.Reply:
		return fmt.Errorf("got %v, want an answer of the destination itself", r)
	case r.From.Addr.Addr() != f.Dst.Addr():
		return fmt.Errorf("got %v, want the answer of the destination itself", r)
	case f.Protocol == service.ICMP:
		return nil // an echo reply says no more
	case r.From.Addr != f.Dst:
		return fmt.Errorf("got %v, want the answer of the destination itself", r)
	case r.SeenSource.Addr() != f.Src:
		return fmt.Errorf("got %v: the destination sees %s, want the caller %s", r, r.SeenSource.Addr(), f.Src)
	}
	return nil
}

// Enough reports, after n probes, whether more would say more. The error names
// hops that ought to have been seen by now.
func (j Judge) Enough(n int, seen Sightings) (bool, error) {
	hops := j.Flow.Want.Hops
	switch {
	case j.Flow.Want.Verdict != service.Forward:
		return true, nil
	case j.Sticky:
		if len(seen) > 1 {
			return true, fmt.Errorf("one client came to %s, want one and the same endpoint", seen)
		}
		return n >= stickyTries, nil
	case len(hops) > smallPool:
		return n >= manyTries, j.varied(n, seen)
	case len(seen) == len(hops):
		return n >= minTries, nil
	case n < triesPerHop*len(hops):
		return false, nil
	}
	var missing []string
	for _, h := range hops {
		if seen[h.Endpoint.Addr] == 0 {
			missing = append(missing, h.Endpoint.Addr.String())
		}
	}
	return true, fmt.Errorf("%d probes came to %s, and never to %s", n, seen, strings.Join(missing, ", "))
}

// varied reports a large pool of which suspiciously little was seen: 25 fair
// choices of 6 or more give fewer than three different ones about once in 1e9.
func (j Judge) varied(n int, seen Sightings) error {
	if n >= manyTries && len(seen) < 3 {
		return fmt.Errorf("%d probes came to %s only, of %d hops", n, seen, len(j.Flow.Want.Hops))
	}
	return nil
}

// String lists the endpoints in order, with the number of answers of each.
func (s Sightings) String() string {
	var out []string
	for a, n := range s {
		out = append(out, fmt.Sprintf("%s (%d)", a, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
