package balance

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// owners returns which endpoint each of n keys goes to.
func owners(t testing.TB, b *Balancer, n int) []netip.AddrPort {
	t.Helper()
	out := make([]netip.AddrPort, n)
	for i := range out {
		out[i] = mustPick(t, b, Pick{Key: fmt.Sprint("user-", i)}).Addr()
	}
	return out
}

func without(eps []service.Endpoint, i int) []service.Endpoint {
	out := append([]service.Endpoint(nil), eps[:i]...)
	return append(out, eps[i+1:]...)
}

// TestHashStability: nodes agree, and churn moves only what it has to.
func TestHashStability(t *testing.T) {
	const keys = 4_000
	for _, n := range []int{2, 5, 31, 32, 33, 34, 100} {
		for _, weighted := range []bool{false, true} {
			weights := make([]uint16, n)
			for i := range weights {
				if weighted {
					weights[i] = uint16(1 + i%4)
				}
			}
			eps := endpoints(0, weights...)
			name := fmt.Sprintf("%d endpoints, weighted %v", n, weighted)
			cfg := Config{Algorithm: Hash, HashBy: "$x"}
			before := owners(t, newTestPool(t, 1, eps).Balancer(cfg), keys)

			// Another node with another history.
			other := newTestPool(t, 99, equalEndpoints(3))
			b := other.Balancer(cfg)
			owners(t, b, 100)
			other.Set(eps, nil)
			for i, a := range owners(t, b, keys) {
				if a != before[i] {
					t.Fatalf("%s: two nodes send key %d to %v and %v", name, i, before[i], a)
				}
			}
			gone := n / 2
			other.Set(without(eps, gone), nil)
			for i, a := range owners(t, b, keys) {
				if a != before[i] && before[i] != at(gone) {
					t.Fatalf("%s: one left, and key %d moved from %v to %v", name, i, before[i], a)
				}
				if a == at(gone) {
					t.Fatalf("%s: key %d goes to the one that left", name, i)
				}
			}
			other.Set(eps, nil)
			moved := 0
			for i, a := range owners(t, b, keys) {
				if a != before[i] {
					moved++
				}
			}
			if moved != 0 {
				t.Errorf("%s: after one left and came back %d keys are elsewhere", name, moved)
			}
		}
	}
}

func TestHashShares(t *testing.T) {
	for _, weights := range [][]uint16{make([]uint16, 10), {1, 2, 3, 4}, {10, 1}} {
		b := newTestPool(t, 1, endpoints(0, weights...)).Balancer(Config{Algorithm: Hash})
		got, sum := map[netip.AddrPort]int{}, 0
		const keys = 20_000
		for _, a := range owners(t, b, keys) {
			got[a]++
		}
		for _, w := range weights {
			sum += max(1, int(w))
		}
		for i, w := range weights {
			want := float64(max(1, int(w))) / float64(sum)
			if share := float64(got[at(i)]) / keys; math.Abs(share-want) > 0.015 {
				t.Errorf("weights %v: endpoint %d has %.3f of the keys, want %.3f", weights, i, share, want)
			}
		}
	}
}

// TestHashEjection: while one is out only its keys are elsewhere, and the memo is kept.
func TestHashEjection(t *testing.T) {
	for _, n := range []int{10, 100} {
		p := newTestPool(t, 1, equalEndpoints(n))
		b := p.Balancer(Config{Algorithm: Hash})
		before := owners(t, b, 5000)
		memo := b.plan.Load().memo
		for range 5 {
			p.known[at(3)].Report(Failed, 0)
		}
		for i, a := range owners(t, b, 5000) {
			if a == at(3) || a != before[i] && before[i] != at(3) {
				t.Fatalf("%d endpoints, one is out: key %d went from %v to %v", n, i, before[i], a)
			}
		}
		if n >= memoFrom && &b.plan.Load().memo[0] != &memo[0] {
			t.Error("an ejection has thrown the winners away")
		}
	}
}

// TestMemo compares what is remembered with what is asked anew.
func TestMemo(t *testing.T) {
	weights := make([]uint16, 50)
	for i := range weights {
		weights[i] = uint16(i % 5)
	}
	b := newTestPool(t, 1, endpoints(0, weights...)).Balancer(Config{Algorithm: Hash})
	pl := b.current()
	for range 2 {
		for slot := range uint64(2000) {
			got, want := pl.winner(slot), &pl.ring[rendezvous(pl.ring, false, slot, nil)]
			if got.ep != want.ep {
				t.Fatalf("slot %d: remembered %v, want %v", slot, got.ep.addr, want.ep.addr)
			}
		}
	}
}

func TestIPHash(t *testing.T) {
	b := newTestPool(t, 1, equalEndpoints(7)).Balancer(Config{Algorithm: IPHash})
	used := map[netip.AddrPort]bool{}
	for i := range 200 {
		client := at(i).Addr()
		first := mustPick(t, b, Pick{Client: client})
		mapped := netip.AddrFrom16(client.As16())
		if again := mustPick(t, b, Pick{Client: mapped}); again != first {
			t.Errorf("%v goes to %v, mapped into IPv6 to %v", client, first.Addr(), again.Addr())
		}
		used[first.Addr()] = true
	}
	if len(used) != 7 {
		t.Errorf("200 clients use %d of 7 endpoints", len(used))
	}
}

// TestHashPinned holds the hash still: nodes of different versions must agree.
func TestHashPinned(t *testing.T) {
	b := newTestPool(t, 1, equalEndpoints(10)).Balancer(Config{Algorithm: Hash})
	var got []int
	for _, a := range owners(t, b, 12) {
		b := a.Addr().As4()
		got = append(got, int(b[3]))
	}
	want := []int{4, 5, 1, 3, 8, 6, 6, 6, 1, 8, 4, 5}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the endpoints of 12 keys: %v, want %v", got, want)
	}
}
