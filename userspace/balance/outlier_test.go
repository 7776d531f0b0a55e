package balance

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// failAt makes connections of ever new clients until the endpoint has failed n times.
// Those that get to others succeed.
func (b *bed) failAt(a netip.AddrPort, n int) {
	b.t.Helper()
	for i := 0; n > 0; i++ {
		if i == 10000 {
			b.t.Fatalf("%v is not picked", a)
		}
		c := b.conn(i)
		got, _ := b.Pick(c, b.now)
		if got == a {
			b.Failed(c, b.now)
			n--
			continue
		}
		b.Connected(c, b.now)
		b.Finished(c)
	}
}

// picked counts the endpoints of 100 connections that succeed.
func (b *bed) picked(a netip.AddrPort) int {
	n := 0
	for i := range 100 {
		if b.once(i) == a {
			n++
		}
	}
	return n
}

func TestOutlier(t *testing.T) {
	for _, algorithm := range []string{"rr", "wrr", "sh"} {
		b := newBed(t, Config{}, portOf(algorithm, "", 0, poolOf(same(4)...)))
		b.failAt(addr(2), 4)
		if b.picked(addr(2)) == 0 {
			t.Fatalf("%s: left out after 4 failures", algorithm)
		}
		b.failAt(addr(2), 4) // the successes started the count again
		if got := b.Stats().LeftOut; got != 0 {
			t.Fatalf("%s: %d left out", algorithm, got)
		}
		b.failAt(addr(2), 1)
		for _, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			if got := b.Stats(); got.LeftOut != 1 || got.Ejections != 1 {
				t.Fatalf("%s: %+v", algorithm, got)
			}
			b.now = b.now.Add(wait*time.Second - time.Millisecond)
			if n := b.picked(addr(2)); n != 0 {
				t.Fatalf("%s: picked %d times before %v were over", algorithm, n, wait*time.Second)
			}
			b.now = b.now.Add(time.Millisecond)
			b.failAt(addr(2), 1) // the probe
			if n := b.picked(addr(2)); n != 0 {
				t.Fatalf("%s: picked %d times after the probe failed", algorithm, n)
			}
		}
		b.now = b.now.Add(5 * time.Minute)
		if n := b.picked(addr(2)); n < 10 {
			t.Errorf("%s: picked %d times after the probe succeeded", algorithm, n)
		}
		if got := b.Stats().LeftOut; got != 0 {
			t.Errorf("%s: %d left out in the end", algorithm, got)
		}
		b.failAt(addr(2), 5)
		b.now = b.now.Add(299 * time.Second)
		if n := b.picked(addr(2)); n != 0 {
			t.Errorf("%s: one that fails again soon is left out as long as before; picked %d times", algorithm, n)
		}
	}
}

func TestOutlierProbeIsOne(t *testing.T) {
	for _, algorithm := range []string{"rr", "lc", "sh"} {
		b := newBed(t, Config{}, portOf(algorithm, "", 0, poolOf(same(3)...)))
		b.failAt(addr(1), 5)
		b.now = b.now.Add(10 * time.Second)
		var probe *Conn
		for i := range 100 {
			c := b.conn(i)
			if a, _ := b.Pick(c, b.now); a != addr(1) {
				b.Connected(c, b.now)
				continue
			}
			if probe != nil {
				t.Fatalf("%s: a second probe before the first has ended", algorithm)
			}
			probe = c
		}
		if probe == nil {
			t.Fatalf("%s: no probe", algorithm)
		}
		b.Finished(probe) // its client gave up: nothing is known
		if n := b.picked(addr(1)); n != 0 {
			t.Errorf("%s: picked %d times after no verdict", algorithm, n)
		}
		b.now = b.now.Add(10 * time.Second)
		if n := b.picked(addr(1)); n == 0 {
			t.Errorf("%s: never tried again", algorithm)
		}
	}
}

func TestOutlierShare(t *testing.T) {
	for _, c := range []struct{ percent, endpoints, want int }{
		{0, 1, 0}, {0, 2, 1}, {0, 3, 1}, {0, 8, 4}, {25, 8, 2}, {100, 3, 3},
	} {
		b := newBed(t, Config{Outlier: Outlier{Percent: c.percent}}, portOf("rr", "", 0, poolOf(same(c.endpoints)...)))
		for i := range 200 {
			b.fail(i)
		}
		if got := b.Stats().LeftOut; got != c.want {
			t.Errorf("%d %% of %d: %d left out, want %d", c.percent, c.endpoints, got, c.want)
		}
		if !b.once(1).IsValid() {
			t.Errorf("%d %% of %d: nobody is left", c.percent, c.endpoints)
		}
		// Another pool, of endpoints that all fail, keeps its half too.
		b.update(portOf("rr", "", 0, b.pool[:(c.endpoints+1)/2]))
		limit := max(c.percent, 50*(1-min(1, c.percent))) * len(b.pool) / 100
		if got := b.Stats().LeftOut; got > limit {
			t.Errorf("%d %% of %d: %d left out of the smaller pool of %d", c.percent, c.endpoints, got, len(b.pool))
		}
	}
	b := newBed(t, Config{Outlier: Outlier{Off: true}}, portOf("rr", "", 0, poolOf(same(4)...)))
	b.failAt(addr(1), 100)
	if got := b.Stats().LeftOut; got != 0 {
		t.Errorf("off: %d left out", got)
	}
}

// TestOutlierLastResort has the only one that is not left out fail: the others get
// their chance.
func TestOutlierLastResort(t *testing.T) {
	b := newBed(t, Config{}, portOf("rr", "", 0, poolOf(same(2)...)))
	b.failAt(addr(1), 5)
	c := b.conn(1)
	for _, want := range []netip.AddrPort{addr(2), addr(1)} {
		got, ok := b.Pick(c, b.now)
		if !ok || got != want {
			t.Fatalf("got %v, %v, want %v", got, ok, want)
		}
		b.Failed(c, b.now)
	}
}

func TestOutlierForgottenWhenGone(t *testing.T) {
	b := newBed(t, Config{}, portOf("rr", "", 0, poolOf(same(4)...)))
	b.failAt(addr(1), 5)
	pool := b.pool
	b.update(portOf("rr", "", 0, without(pool, 2)))
	if got := b.Stats().LeftOut; got != 1 {
		t.Errorf("one that stays: %d left out, want 1", got)
	}
	b.update(portOf("rr", "", 0, without(pool, 1)))
	b.update(portOf("rr", "", 0, pool))
	if got := b.Stats().LeftOut; got != 0 {
		t.Errorf("one that came back, maybe another pod: %d left out, want 0", got)
	}
}

func TestAffinity(t *testing.T) {
	const timeout = 10 * time.Second
	b := newBed(t, Config{}, portOf("rr", "", timeout, poolOf(same(4)...)))
	first := b.once(1)
	for i := range 20 {
		b.now = b.now.Add(timeout - 1) // from the last connection, not the first
		b.once(2 + i)
		if got := b.once(1); got != first {
			t.Fatalf("moved from %v to %v", first, got)
		}
	}
	b.now = b.now.Add(timeout)
	if got := b.once(1); got == first {
		t.Errorf("still at %v after the timeout", first)
	}
	if got := b.Stats().Clients; got > 3 {
		t.Errorf("%d clients remembered, want those of the last %v", got, timeout)
	}
	b.now = b.now.Add(timeout)
	b.update(portOf("rr", "", timeout, b.pool))
	if got := b.Stats().Clients; got != 0 {
		t.Errorf("%d clients remembered after Update, want 0", got)
	}
}

func TestAffinityMoves(t *testing.T) {
	b := newBed(t, Config{}, portOf("rr", "", time.Hour, poolOf(same(4)...)))
	bound := b.once(1)
	c := b.conn(1)
	if got, _ := b.Pick(c, b.now); got != bound {
		t.Fatalf("got %v, want %v", got, bound)
	}
	b.Failed(c, b.now)
	next, _ := b.Pick(c, b.now)
	b.Connected(c, b.now)
	b.Finished(c)
	if got := b.once(1); got != next {
		t.Errorf("bound to %v after it failed over to %v", got, next)
	}
	pool := b.pool
	b.update(portOf("rr", "", time.Hour, without(pool, int(next.Addr().As4()[3]))))
	last := b.once(1)
	if last == next {
		t.Errorf("still at %v, which is gone", last)
	}
	b.update(portOf("rr", "", time.Hour, pool))
	if got := b.once(1); got != last {
		t.Errorf("went from %v to %v when another came back", last, got)
	}
	b.failAt(last, 5)
	if got := b.once(1); got == last {
		t.Errorf("still at %v, which is left out", last)
	}
	b.update(portOf("rr", "", 0, pool))
	if got := b.Stats().Clients; got != 0 {
		t.Errorf("%d clients remembered without affinity", got)
	}
}

// TestAffinityReturn has an endpoint leave and return: its clients are not bound
// to it any more, though a connection of before is still open.
func TestAffinityReturn(t *testing.T) {
	pool := poolOf(same(20)...)
	b := newBed(t, Config{}, portOf("rr", "", time.Hour, pool))
	first := b.connect(1)
	b.update(portOf("rr", "", time.Hour, without(pool, int(first.Addr().As4()[3]))))
	b.update(portOf("rr", "", time.Hour, pool))
	if got := b.once(1); got == first {
		t.Errorf("still bound to %v", got)
	}
}

func TestAffinityBounded(t *testing.T) {
	b := newBed(t, Config{MaxClients: 100}, portOf("rr", "", time.Hour, poolOf(same(7)...)))
	where := map[int]netip.AddrPort{}
	for i := range 5000 {
		where[i] = b.once(i)
		b.once(0) // stays, being the one that came last
	}
	if got := b.Stats().Clients; got != 100 {
		t.Errorf("%d clients, want 100", got)
	}
	if got := len(b.clients.slab); got > 101 {
		t.Errorf("%d places, want 101", got)
	}
	for _, i := range []int{0, 4999, 4950, 4901} {
		if got := b.once(i); got != where[i] {
			t.Errorf("client %d of the last 100 moved from %v to %v", i, where[i], got)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Default: service.Scheduling{Algorithm: "mh", Flags: "mh-fallback,mh-port"}, Attempts: 8}, ""},
		{Config{Default: service.Scheduling{Algorithm: "lblc"}}, "Default.Algorithm"},
		{Config{Default: service.Scheduling{Flags: "x"}, Attempts: 9, MaxClients: -1}, "Default.Flags Attempts MaxClients"},
		{Config{Outlier: Outlier{Failures: -1, Base: -1, Max: -1, Percent: 101}}, "Outlier.Failures Outlier.Base Outlier.Max Outlier.Percent"},
		{Config{Outlier: Outlier{Base: time.Minute, Max: time.Second}}, "Outlier.Max"},
		{Config{Outlier: Outlier{Base: time.Hour}}, ""},
	} {
		var got []string
		if err := c.cfg.Validate(); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				field, _, _ := strings.Cut(line, ":")
				got = append(got, field)
			}
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.cfg, got, c.want)
		}
	}
}
