//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// A target is what a prober connects to.
type target struct {
	from *netns.NS
	dst  netip.AddrPort
}

// A prober opens new connections all the time, to see whether each is answered
// by a pod. A SYN that had to be sent twice counts as a failure too, although
// the connection came about.
type prober struct {
	b      *bed
	from   []*netns.NS
	before []int // retransmitted SYNs
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	count    int
	each     []int // of the count, by target
	failures []string
	slow     []span // probes that took a second or more
}

// hammer starts a prober that opens a connection to each target, every so
// often.
func (b *bed) hammer(t *testing.T, every time.Duration, targets ...target) *prober {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{b: b, stop: cancel, each: make([]int, len(targets))}
	known := make(map[*netns.NS]bool)
	for i, x := range targets {
		if !known[x.from] {
			known[x.from] = true
			p.from = append(p.from, x.from)
			p.before = append(p.before, netstat(t, x.from, "TcpExt", "TCPSynRetrans"))
		}
		p.done.Go(func() { p.run(ctx, i, x, every) })
	}
	t.Cleanup(func() {
		cancel()
		p.done.Wait()
	})
	return p
}

func (p *prober) run(ctx context.Context, i int, x target, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// With its own context: a probe that is under way may come to its end. It
		// gives up late: what is lost shows in the SYNs that are repeated, and a
		// machine may stand still for seconds.
		at := time.Now()
		r := x.from.Probe(context.Background(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 30 * time.Second})
		p.mu.Lock()
		p.count++
		p.each[i]++
		if end := time.Now(); end.Sub(at) >= synTimeout {
			p.slow = append(p.slow, span{at, end, fmt.Sprintf("%s to %v", x.from.Name(), x.dst)})
		}
		if r.Class != netns.Reply || !netns.PodCIDR(1).V4.Contains(r.From.Addr.Addr()) && !netns.PodCIDR(1).V6.Contains(r.From.Addr.Addr()) {
			p.failures = append(p.failures, fmt.Sprintf("%s %s to %v: %v", at.Format("15:04:05.000"), x.from.Name(), x.dst, r))
		}
		p.mu.Unlock()
	}
}

// failed returns how many probes have failed so far.
func (p *prober) failed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.failures)
}

// finish ends the probes and reports every failure, and too few probes.
func (p *prober) finish(t *testing.T, atLeast int) {
	t.Helper()
	p.stop()
	p.done.Wait()
	repeated := 0
	for i, ns := range p.from {
		repeated += netstat(t, ns, "TcpExt", "TCPSynRetrans") - p.before[i]
	}
	t.Logf("%d connections, %d failed, %d SYNs repeated", p.count, len(p.failures), repeated)
	if n := len(p.failures); n > 0 {
		t.Errorf("%d of %d connections failed:\n%s", n, p.count, strings.Join(p.failures[:min(n, 10)], "\n"))
	}
	if repeated > 0 {
		t.Errorf("%d SYNs got no answer and had to be repeated", repeated)
	}
	if p.count < atLeast {
		t.Errorf("only %d connections, want at least %d", p.count, atLeast)
	}
}

// both returns targets for a port at both addresses of a pair.
func both(from *netns.NS, at netns.Dual, port uint16) []target {
	var out []target
	for _, a := range at.Slice() {
		out = append(out, target{from, netip.AddrPortFrom(a, port)})
	}
	return out
}
