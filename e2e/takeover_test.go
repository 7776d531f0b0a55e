//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestTakeover has one proxy after the other serve one node, real kube-proxy among
// them, while connections are opened without end and others stay open. Fairlead
// removes what it finds; kube-proxy is followed by fairlead cleanup.
func TestTakeover(t *testing.T) {
	t.Parallel()
	s := newStage(t, "nft")
	fairlead := func(m world.Mode) actor { return actor{mode: m, variant: "nft"} }
	kube := func(mode, variant string) actor { return actor{kube: mode, variant: variant} }
	s.walk(t, 40*time.Millisecond, []actor{
		kube("iptables", "nft"),
		fairlead(world.IPTables),
		kube("nftables", "nft"),
		fairlead(world.IPTables),
		kube("iptables", "legacy"), // another image, another variant
		fairlead(world.IPTables),
		fairlead(world.Userspace),
		fairlead(world.IPTables),
		kube("iptables", "nft"),
		fairlead(world.Userspace),
		kube("nftables", "nft"),
		fairlead(world.Userspace),
	})
}

// TestIPVSTakeover is the same where the kernel has IPVS.
func TestIPVSTakeover(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	v := ipvsVariants(t)[0]
	s := newStage(t, v)
	fairlead := func(m world.Mode) actor { return actor{mode: m, variant: v} }
	s.walk(t, 500*time.Millisecond, []actor{
		{kube: "ipvs", variant: v},
		fairlead(world.IPVS),
		fairlead(world.IPTables),
		fairlead(world.IPVS),
		{kube: "ipvs", variant: v},
		fairlead(world.IPTables),
	})
}

// TestIPVSTakeoverModes has ipvs mode follow what TestIPVSTakeover does not, and the other way round.
func TestIPVSTakeoverModes(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	v := ipvsVariants(t)[0]
	s := newStage(t, v)
	fairlead := func(m world.Mode) actor { return actor{mode: m, variant: v} }
	s.walk(t, 500*time.Millisecond, []actor{
		{kube: "iptables", variant: v},
		fairlead(world.IPVS),
		fairlead(world.Userspace),
		fairlead(world.IPVS),
		fairlead(world.IPTables), // the way back that loses nothing
		{kube: "iptables", variant: v},
		fairlead(world.IPTables),
	})
}

// TestIPVSTakeoverVIPModes has the two ways in which packets get to virtual servers follow each other. A connection of the
// node that comes from a virtual address, which is so with one of them, is not to be cut by a proxy that follows.
func TestIPVSTakeoverVIPModes(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	v := ipvsVariants(t)[0]
	s := newStage(t, v)
	s.walk(t, 500*time.Millisecond, []actor{
		{mode: world.IPVS, variant: v},
		{mode: world.IPVSDevice, variant: v},
		{mode: world.IPVS, variant: v},
	})
}

// TestIPVSTakeoverNFTables has ipvs mode follow kube-proxy in nftables mode, and be followed
// by it: by way of iptables mode, since kube-proxy in that mode begins with the removal of
// every virtual server there is.
func TestIPVSTakeoverNFTables(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	const v = "nft"
	if !slices.Contains(ipvsVariants(t), v) {
		t.Skip("this kernel has no nf_tables")
	}
	s := newStage(t, v)
	s.flushed = true
	fairlead := func(m world.Mode) actor { return actor{mode: m, variant: v} }
	s.walk(t, 500*time.Millisecond, []actor{
		{kube: "nftables", variant: v},
		fairlead(world.IPVS),
		fairlead(world.IPTables),
		{kube: "nftables", variant: v},
		fairlead(world.IPVSDevice),
	})
}

// walk has the actors serve one after the other. Every so often each of the callers
// opens a connection.
func (s *stage) walk(t *testing.T, every time.Duration, actors []actor) {
	t.Helper()
	s.settleForeign(t)
	s.enter(t, actors[0])
	p := s.load(t, every)
	s.control = s.calm(t, every)
	t.Cleanup(func() {
		t.Logf("| from | to | new connections | lost | kept open | of | SYNs repeated |\n|---|---|--:|--:|--:|--:|--:|\n%s", strings.Join(s.rows, "\n"))
	})
	for _, next := range actors[1:] {
		s.step(t, p, next)
		if t.Failed() {
			return
		}
	}
	s.wantForeign(t, "in the end", 4*time.Minute)
}

// step has next follow whoever serves.
func (s *stage) step(t *testing.T, p *prober, next actor) {
	t.Helper()
	from, process, begin := s.now, s.proxy, time.Now()
	what := fmt.Sprintf("from %v to %v", from, next)
	open := s.hold(t)
	before, still := p.tally(t), s.control.tally(t)
	s.leave(t, from, process)
	if from.proxies() && next.kube != "" {
		s.cleanup(t) // or its rules would keep kube-proxy from serving
	}
	s.enter(t, next)
	if next.kube == "" {
		s.removed(t, what)
	} else {
		s.cleanup(t)
	}
	p.more(t, 40)
	after, calm := p.tally(t), s.control.tally(t)
	kept := 0
	for _, c := range open {
		r := c.Exchange(t.Context(), what)
		if r.Class == netns.Reply {
			kept++
		} else if !from.cuts(next) {
			t.Errorf("%s: %s: %v", what, c.what, r)
		}
		c.Reset()
	}
	lost, repeated := after.failed-before.failed, after.repeated-before.repeated
	s.rows = append(s.rows, fmt.Sprintf("| %v | %v | %d | %d | %d | %d | %d |", from, next, after.count-before.count, lost, kept, len(open), repeated))
	t.Logf("%s: %d new connections, %d lost, %d of %d kept, %d SYNs repeated, in %v", what, after.count-before.count, lost, kept, len(open), repeated, time.Since(begin).Round(time.Millisecond))
	if repeated > 0 && !from.cuts(next) {
		ours, others := p.slowSince(before), s.control.slowSince(still)
		t.Logf("%s: slow:\n%s\nof the control, which no proxy has a part in, and whose %d SYNs were repeated:\n%s", what, listed(ours), calm.repeated-still.repeated, listed(others))
		if left := unexplained(ours, others); len(left) > 0 || calm.repeated == still.repeated {
			t.Errorf("%s: %d SYNs repeated", what, repeated)
		}
	}
	if lost > 0 && !from.cuts(next) {
		p.mu.Lock()
		defer p.mu.Unlock()
		t.Errorf("%s: %d connections lost:\n%s", what, lost, strings.Join(p.failures[before.failed:], "\n"))
	}
}

// removed waits until fairlead has removed what others have left, apart from what
// still has connections.
func (s *stage) removed(t *testing.T, when string) {
	t.Helper()

	s.wantForeign(t, when, 3*time.Minute, "iptables", "ip6tables", "nft")
	if got := s.saveVariant(t, s.variant).foreign; s.now.mode == world.IPTables && !strings.Contains(got, "KUBE-KUBELET-CANARY") {
		t.Errorf("%s: chains of the kubelet are gone:\n%s", when, got)
	}
}
