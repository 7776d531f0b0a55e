//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// clientAddrs are n addresses of the client in a family.
func (b *bed) clientAddrs(t *testing.T, n, family int) []netip.AddrPort {
	t.Helper()
	var out []netip.AddrPort
	for i := range n {
		a := netns.ClientAddr(20 + i).Slice()[family]
		if _, err := b.Place(a); err != nil {
			t.Fatal(err)
		}
		out = append(out, netip.AddrPortFrom(a, 0))
	}
	return out
}

// clientPorts are n ports of one address of the client in a family. They differ
// in what hashing looks at.
func clientPorts(n, family int) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range n {
		out = append(out, netip.AddrPortFrom(netns.ClientAddr(1).Slice()[family], uint16(20000+7*i)))
	}
	return out
}

// endsOf is the endpoint that each source is sent to, in the order of the sources,
// who call in the opposite order if backward is set.
func (l *load) endsOf(t *testing.T, sources []netip.AddrPort, backward bool) []int {
	t.Helper()
	out := make([]int, len(sources))
	for i := range sources {
		if backward {
			i = len(sources) - 1 - i
		}
		end, r := l.dial(t, sources[i])
		if end < 0 {
			t.Fatalf("%v to %v: %v", sources[i], l.dst, r)
		}
		out[i] = end
		l.letGo(-1)
	}
	return out
}

// count is how often each of n endpoints is among ends.
func count(ends []int, n int) []int {
	out := make([]int, n)
	for _, e := range ends {
		out[e]++
	}
	return out
}

// forgotten waits until n1 has forgotten the connections to pods: then a client may
// call from the same ports.
func (b *bed) forgotten(t *testing.T) {
	t.Helper()
	within(t, 30*time.Second, func() error {
		var text []byte
		err := b.N1.Do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/ip_vs_conn")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), " 4E") + strings.Count(string(text), " 4F"); n > 0 {
			return fmt.Errorf("%d connections from ports of the test are still remembered", n)
		}
		return nil
	})
}

// A hashed is a Service whose scheduler hashes, in one family.
type hashed struct {
	name    string
	at      int // index of the pool
	family  int
	ports   bool // hashed too
	sources []netip.AddrPort
	first   []int
}

// TestIPVSSchedulerHash wants the hashing schedulers to know a client again, by the
// address or by the port as well; to heed weights; and Maglev to leave clients where
// they are when somebody else's endpoint goes.
func TestIPVSSchedulerHash(t *testing.T) {
	b := newIPVSBed(t)
	pools := []pool{
		newPool(1, ours("sh", ""), weighted()...),
		newPool(2, routers("sh", "sh-port"), weighted()...),
		newPool(3, ours("mh", "mh-fallback"), weighted()...),
		newPool(4, ours("mh", ""), weighted()...),
		newPool(5, ours("sh", ""), equal(5)...),
		newPool(6, ours("mh", "flag-1"), equal(5)...),
		newPool(7, routers("mh", "mh-port"), equal(5)...),
	}
	names := []string{"sh", "sh, sh-port", "mh, mh-fallback", "mh", "sh, equal", "mh, flag-1, equal", "mh, mh-port, equal"}
	b.beginPools(t, pools...)
	d := &distribution{}
	d.add("scheduler", "load", "connections of the endpoints")
	var all []*hashed
	for i, name := range names {
		for family := range 2 {
			h := &hashed{name: name, at: i, family: family, ports: i == 1 || i == 3 || i == 6}
			if h.ports {
				h.sources = clientPorts(100, family)
			} else {
				h.sources = b.clientAddrs(t, 100, family)
			}
			l := b.newLoad(t, pools[i], family)
			h.first = l.endsOf(t, h.sources, false)
			all = append(all, h)
			b.spread(t, l, h, d)
		}
	}
	b.forgotten(t)
	for _, h := range all {
		l := b.newLoad(t, pools[h.at], h.family)
		if diff := cmp.Diff(l.endsOf(t, h.sources, true), h.first); diff != "" {
			t.Errorf("%s at %v: clients that call again (-got +want):\n%s", h.name, l.dst, diff)
		}
	}
	b.forgotten(t)
	b.churn(t, pools, all[8:], d)
	d.publish(t)
}

// spread wants the clients of h to be spread by weight, roughly, and one client
// only if its port is hashed.
func (b *bed) spread(t *testing.T, l *load, h *hashed, d *distribution) {
	t.Helper()
	n := len(l.ends)
	got := count(h.first, n)
	what := "100 clients"
	if h.ports {
		what = "100 ports of one client"
	}
	if h.family == 0 {
		d.add(h.name, what, shares(got))
	}
	for i, k := range got {
		fair := 100 / n
		if n == len(weighted()) {
			fair = 100 * (i + 1) / 10
		}
		if k < fair/2 || k > fair*2 {
			t.Errorf("%s at %v: endpoint %d got %d of %s, want about %d: %v", h.name, l.dst, i, k, what, fair, got)
		}
	}
	if h.ports {
		return
	}
	for range 4 { // from other ports
		if end, r := l.dial(t, h.sources[0]); end != h.first[0] {
			t.Errorf("%s at %v: a client of endpoint %d got endpoint %d, %v", h.name, l.dst, h.first[0], end, r)
		}
	}
	l.letGo(-1)
}

// churn takes an endpoint away from pools, and wants Maglev to move its clients
// and few others. Plain hashing moves most.
func (b *bed) churn(t *testing.T, pools []pool, all []*hashed, d *distribution) {
	t.Helper()
	const gone = 2
	changed := slices.Clone(pools)
	for _, h := range all {
		changed[h.at] = pools[h.at].without(gone)
	}
	b.applyPools(t, changed...)
	b.awaitDrained(t)
	for _, h := range all {
		l := b.newLoad(t, pools[h.at], h.family)
		moved, others := 0, 0
		for i, end := range l.endsOf(t, h.sources, false) {
			if end == gone {
				t.Errorf("%s at %v: %v came to the endpoint that has gone", h.name, l.dst, h.sources[i])
			}
			if h.first[i] != gone {
				others++
				if end != h.first[i] {
					moved++
				}
			}
		}
		if h.family == 0 {
			d.add(h.name, "one of 5 endpoints gone", fmt.Sprintf("%d of %d clients of the others moved", moved, others))
		}
		few := others / 10
		if maglev := strings.HasPrefix(h.name, "mh"); maglev != (moved <= few) {
			t.Errorf("%s at %v: %d of %d clients of other endpoints moved; Maglev moves %d at most, the others more",
				h.name, l.dst, moved, others, few)
		}
	}
}

// TestIPVSSchedulerDrain has the busiest endpoint of each Service leave while it has
// connections. New ones must come to the others, and none may be refused.
func TestIPVSSchedulerDrain(t *testing.T) {
	b := newIPVSBed(t)
	names := []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "dh", "sh", "mh", "lblc", "lblcr", "fo"}
	var pools []pool
	for i, name := range names {
		pools = append(pools, newPool(1+i, ours(name, ""), equal(4)...))
	}
	b.beginPools(t, pools...)
	for family := range 2 {
		sources := b.clientAddrs(t, 40, family)
		var loads []*load
		left := slices.Clone(pools)
		busiest := make([]int, len(pools))
		for i, p := range pools {
			l := b.newLoad(t, p, family)
			for _, src := range sources[:12] {
				l.dial(t, src)
			}
			counts := l.counts()
			busiest[i] = slices.Index(counts, slices.Max(counts))
			left[i] = p.without(busiest[i])
			loads = append(loads, l)
		}
		b.applyPools(t, left...)
		for i, l := range loads {
			b.wantDrained(t, names[i], l, busiest[i], sources)
			l.letGo(-1)
		}
		b.applyPools(t, pools...)
	}
}

// wantDrained wants a load to live on, and new connections of the sources to be
// served by anybody but the endpoint that has left.
func (b *bed) wantDrained(t *testing.T, name string, l *load, gone int, sources []netip.AddrPort) {
	t.Helper()
	had := l.counts()[gone]
	err := l.alive(t)
	switch {
	case name == "dh":
		// It knows one endpoint for an address and no other: while that one
		// drained, everybody would be refused.
		if err == nil {
			t.Errorf("%s at %v: connections of an endpoint that has left are kept; who is served now?", name, l.dst)
		}
	case err != nil:
		t.Errorf("%s at %v: %v", name, l.dst, err)
	}
	for _, src := range sources {
		if i, r := l.dial(t, src); i < 0 {
			t.Errorf("%s at %v: %v: %v, want an answer\n%s", name, l.dst, src, r, b.server(t, l.dst))
			return
		}
	}
	if got := l.counts()[gone]; got != had {
		t.Errorf("%s at %v: the endpoint that has left got %d new connections", name, l.dst, got-had)
	}
}

// TestIPVSSchedulerAffinity wants Services with affinity to keep it, whatever
// their scheduler is, which chooses for new clients.
func TestIPVSSchedulerAffinity(t *testing.T) {
	b := newIPVSBed(t)
	pools := []pool{
		newPool(1, nil, weighted()...),
		newPool(2, ours("wlc", ""), weighted()...),
		newPool(3, ours("sh", "sh-port"), weighted()...),
		newPool(4, ours("mh", ""), weighted()...),
	}
	for i := range pools {
		pools[i].affinity = true
	}
	b.beginPools(t, pools...)
	for i, want := range []string{"-s rr -p 10800 ", "-s wlc -p 10800 ", "-s sh -p 10800 -b sh-fallback,sh-port ", "-s mh -p 10800 -b mh-fallback,mh-port "} {
		for family := range 2 {
			l := b.newLoad(t, pools[i], family)
			if got := b.server(t, l.dst); !strings.HasPrefix(got, want) {
				t.Errorf("%v: got %q, want %q", l.dst, got, want)
			}
			sources := b.clientAddrs(t, 20, family)
			first := make([]int, len(sources))
			for round := range 4 {
				for j, src := range sources {
					end, r := l.dial(t, src)
					if end < 0 {
						t.Fatalf("%v to %v: %v", src, l.dst, r)
					}
					if round == 0 {
						first[j] = end
					}
					if end != first[j] {
						t.Errorf("%v: %v came to endpoint %d and then to %d", l.dst, src, first[j], end)
					}
				}
			}
			if got := count(first, 4); slices.Max(got) > 16 {
				t.Errorf("%v: clients are not spread: %v", l.dst, got)
			}
			l.letGo(-1)
		}
	}
}
