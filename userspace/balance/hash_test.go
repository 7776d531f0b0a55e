package balance

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// TestHashChurn takes an endpoint away: its clients move, and no others. It comes
// back: they do too.
func TestHashChurn(t *testing.T) {
	for _, n := range []int{5, memoFrom + 7} {
		for _, weights := range [][]int{same(n), slices.Repeat([]int{1, 2, 3, 4, 5}, n/5)} {
			for _, algorithm := range []string{"sh", "mh"} {
				pool := poolOf(weights...)
				b := newBed(t, Config{Seed: 1}, portOf(algorithm, "", 0, pool))
				other := newBed(t, Config{Seed: 2}, portOf(algorithm, "", 0, pool))
				before := map[int]netip.AddrPort{}
				for i := range 2000 {
					before[i] = b.once(i)
					if got := other.once(i); got != before[i] {
						t.Fatalf("nodes do not agree about client %d: %v and %v", i, got, before[i])
					}
				}
				b.update(portOf(algorithm, "", 0, without(pool, 3)))
				moved := 0
				for i := range 2000 {
					got := b.once(i)
					if before[i] == addr(3) {
						moved++
					} else if got != before[i] {
						t.Fatalf("%s of %d: client %d of %v moved to %v", algorithm, len(weights), i, before[i], got)
					}
				}
				if moved == 0 {
					t.Error("the one that left had no clients")
				}
				b.update(portOf(algorithm, "", 0, pool))
				for i := range 2000 {
					if got := b.once(i); got != before[i] {
						t.Fatalf("%s: client %d is not back", algorithm, i)
					}
				}
			}
		}
	}
}

// TestHashShares checks shares against weights; with 20,000 clients a share is off
// by a few per cent of itself at most.
func TestHashShares(t *testing.T) {
	b := newBed(t, Config{}, portOf("sh", "sh-port", 0, poolOf(1, 2, 3, 4)))
	got := [4]int{}
	const n = 20000
	for i := range n {
		got[b.once(i).Addr().As4()[3]-1]++
	}
	for i, g := range got {
		if want := n * (i + 1) / 10; g < want*9/10 || g > want*11/10 {
			t.Errorf("weight %d: got %d connections, want about %d", i+1, g, want)
		}
	}
}

func TestHashFlags(t *testing.T) {
	for _, c := range []struct {
		algorithm, flags string
		withPort         bool
	}{
		{"sh", "", false}, {"sh", "sh-fallback", false}, {"sh", "sh-port", true}, {"sh", "flag-2", true},
		{"sh", "sh-fallback,sh-port", true},
		{"mh", "", true}, {"mh", "mh-fallback", false}, {"mh", "mh-port", true}, {"dh", "", false},
	} {
		b := newBed(t, Config{}, portOf(c.algorithm, c.flags, 0, poolOf(same(10)...)))
		seen := map[netip.AddrPort]bool{}
		for port := range 50 {
			conn := b.conn(1)
			conn.Client = netip.AddrPortFrom(caller(1).Addr(), uint16(2000+port))
			a, _ := b.Pick(conn, b.now)
			seen[a] = true
			b.Finished(conn)
		}
		if got := len(seen) > 1; got != c.withPort {
			t.Errorf("%s %q: one address had %d endpoints, depends on port: want %v", c.algorithm, c.flags, len(seen), c.withPort)
		}
	}
	b := newBed(t, Config{}, portOf("dh", "", 0, poolOf(same(10)...)))
	byClient, byFrontend := map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	for i := range 50 {
		byClient[b.once(i)] = true
		c := b.conn(1)
		c.Frontend = netip.AddrPortFrom(c.Frontend.Addr(), uint16(i))
		a, _ := b.Pick(c, b.now)
		byFrontend[a] = true
	}
	if len(byClient) != 1 || len(byFrontend) < 5 {
		t.Errorf("dh: %d endpoints for 50 clients, %d for 50 frontends", len(byClient), len(byFrontend))
	}
}

func TestEffective(t *testing.T) {
	s := func(algorithm, flags string) service.Scheduling {
		return service.Scheduling{Algorithm: algorithm, Flags: flags}
	}
	for _, c := range []struct{ asked, def, want service.Scheduling }{
		{s("", ""), s("", ""), s("rr", "")},
		{s("", ""), s("sh", "sh-port"), s("sh", "sh-port")},
		{s("lc", ""), s("sh", "sh-port"), s("lc", "")},
		{s("lblc", "flag-1"), s("sh", "sh-port"), s("sh", "sh-port")},
		{s("twos", ""), s("", ""), s("rr", "")},
		{s("", "mh-port"), s("mh", ""), s("mh", "mh-port")},
		{s("mh", ""), s("mh", "mh-fallback"), s("mh", "mh-fallback")},
		{s("mh", "mh-port"), s("mh", "mh-fallback"), s("mh", "mh-port")},
	} {
		if got := Effective(c.asked, c.def); got != c.want {
			t.Errorf("%v with default %v: got %v, want %v", c.asked, c.def, got, c.want)
		}
	}
}
