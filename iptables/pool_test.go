package iptables

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// A bigService is a Service of many endpoints, a hundred in a slice as the API server
// has them.
type bigService struct {
	store  *service.Store
	name   service.Name
	addrs  []netip.Addr
	weight func(slice int) uint16
}

func newBigService(n int, affinity time.Duration, weight func(slice int) uint16) *bigService {
	b := &bigService{store: service.NewStore(), name: service.Name{Namespace: "default", Name: "big"}, weight: weight}
	b.store.SetService(&service.Service{
		Name: b.name, Families: []service.Family{service.IPv4}, Affinity: affinity,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Ports: []service.ServicePort{{Port: 80}},
	})
	for i := range n {
		b.addrs = append(b.addrs, netip.AddrFrom4([4]byte{10, 244, byte(i / 200), byte(i%200 + 2)}))
	}
	for s := 0; s*100 < n; s++ {
		b.set(s)
	}
	return b
}

// set hands over slice number s.
func (b *bigService) set(s int) {
	sl := &service.Slice{Service: b.name, Name: fmt.Sprint(s), Ports: []service.SlicePort{{Port: 8080}}}
	if b.weight != nil {
		sl.Weight = b.weight(s)
	}
	for _, a := range b.addrs[100*s : min(100*s+100, len(b.addrs))] {
		sl.Endpoints = append(sl.Endpoints, service.NewSliceEndpoint(a, &service.EndpointState{Ready: true, Serving: true}))
	}
	b.store.SetSlice(sl)
}

// move gives endpoint number i another address.
func (b *bigService) move(i, to int) {
	b.addrs[i] = netip.AddrFrom4([4]byte{10, 245, byte(to / 200), byte(to%200 + 2)})
	b.set(i / 100)
}

// poolSizes are about the sizes at which a tree gets another level.
func poolSizes() []int { return []int{1, 16, 17, 255, 1000, 5000} }

// A walker takes connections through the rules of chains as the kernel does, whose
// chances have 31 bits.
type walker struct {
	chains map[string][]xt.Rule
	random func() uint32
	rules  int // looked at
}

// threshold is what the tools make of a chance: they read ten digits and round.
func threshold(t testing.TB, m xt.Random) uint32 {
	p, err := strconv.ParseFloat(strconv.FormatFloat(m.P, 'f', 10, 64), 64)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(math.Round(p * (1 << 31)))
}

// choose returns the endpoint for a client that no endpoint has yet.
func (w *walker) choose(t testing.TB, chain string) (netip.AddrPort, bool) {
	for _, r := range w.chains[chain] {
		w.rules++
		matches := true
		for _, m := range r.Match {
			switch m := m.(type) {
			case xt.Random:
				matches = matches && w.random() < threshold(t, m)
			case xt.RecentCheck:
				matches = false
			}
		}
		if !matches {
			continue
		}
		switch target := r.Target.(type) {
		case xt.DNAT:
			return target.To, true
		case xt.Goto:
			return w.choose(t, target.Chain)
		case xt.Jump:
			if to, ok := w.choose(t, target.Chain); ok {
				return to, true
			}
		}
	}
	return netip.AddrPort{}, false
}

// poolOf returns the chains of the only Port of snap, and the one that is entered.
func poolOf(t *testing.T, snap *service.Snapshot) (map[string][]xt.Rule, string) {
	t.Helper()
	chains := make(map[string][]xt.Rule)
	root := ""
	for ref, rules := range Plan(snap, DefaultConfig(), xt.IPv4).Chains {
		if ref.Table != xt.NAT {
			continue
		}
		chains[ref.Name] = rules
		if strings.HasPrefix(ref.Name, prefixTree) {
			root = rules[0].Target.(xt.Goto).Chain
		}
	}
	if root == "" {
		t.Fatal("nothing leads to a pool")
	}
	return chains, root
}

// chances adds up what is the chance of each endpoint, with 31 bits for each choice.
func chances(t *testing.T, chains map[string][]xt.Rule, chain string, p float64, out map[netip.AddrPort]float64) {
	t.Helper()
	for _, r := range chains[chain] {
		q := 1.0
		for _, m := range r.Match {
			switch m := m.(type) {
			case xt.Random:
				q = float64(threshold(t, m)) / (1 << 31)
			case xt.RecentCheck:
				q = 0
			}
		}
		switch target := r.Target.(type) {
		case xt.DNAT:
			out[target.To] += p * q
		case xt.Goto:
			chances(t, chains, target.Chain, p*q, out)
		case xt.Jump:
			q = 0 // looks for known clients
		}
		p *= 1 - q
	}
}

// TestPoolChances compares what the rules give each endpoint, as exactly as the kernel
// can, with its weight.
func TestPoolChances(t *testing.T) {
	weights := map[string]func(int) uint16{
		"equal":          nil,
		"some weights":   func(s int) uint16 { return uint16(s % 4) },
		"extreme weight": func(s int) uint16 { return []uint16{0, 1000, 65535}[s%3] },
	}
	for name, weight := range weights {
		for _, affinity := range []time.Duration{0, time.Hour} {
			for _, n := range poolSizes() {
				b := newBigService(n, affinity, weight)
				snap := b.store.Snapshot()
				pool := snap.Ports.At(0).Cluster
				chains, root := poolOf(t, snap)
				got := make(map[netip.AddrPort]float64)
				chances(t, chains, root, 1, got)
				total := shares(pool)
				for _, ep := range pool {
					// Each step of the way is off by half of 2^-31 and of 10^-10 at most, of the
					// whole that is left there.
					want := float64(ep.Share()) / float64(total)
					if diff := math.Abs(got[ep.Addr] - want); diff > 1e-9 {
						t.Errorf("%s, %d endpoints: %s has the chance %g, want %g", name, n, ep.Addr, got[ep.Addr], want)
					}
					if got[ep.Addr] == 0 {
						t.Errorf("%s, %d endpoints: %s is never picked", name, n, ep.Addr)
					}
				}
				if len(got) != n {
					t.Errorf("%s: %d endpoints, want %d", name, len(got), n)
				}
			}
		}
	}
}

// TestPoolFairness takes many connections through the rules: the chi-squared of what
// each endpoint gets must be what fair dice give, and a connection must meet no more
// rules than a tree has.
func TestPoolFairness(t *testing.T) {
	for _, n := range poolSizes() {
		b := newBigService(n, 0, nil)
		snap := b.store.Snapshot()
		chains, root := poolOf(t, snap)
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		w := walker{chains: chains, random: func() uint32 { return rng.Uint32() >> 1 }}
		const each = 40
		hits := make(map[netip.AddrPort]int)
		for range each * n {
			to, ok := w.choose(t, root)
			if !ok {
				t.Fatalf("%d endpoints: a connection gets none", n)
			}
			hits[to]++
		}
		chi := 0.0
		for _, ep := range snap.Ports.At(0).Cluster {
			d := float64(hits[ep.Addr] - each)
			chi += d * d / each
		}
		free := float64(n - 1)
		if off := math.Abs(chi - free); off > 5*math.Sqrt(2*free) {
			t.Errorf("%d endpoints: chi-squared %.0f, want about %.0f", n, chi, free)
		}
		rules := float64(w.rules) / float64(each*n)
		t.Logf("%d endpoints: %.1f rules for a connection", n, rules)
		if rules > 32 {
			t.Errorf("%d endpoints: %.1f rules for a connection, want a tree's", n, rules)
		}
	}
}

// TestPoolPath is a guard: one endpoint that takes the place of another rewrites the
// chains on the way to the two, and the cost of that does not grow with the pool.
func TestPoolPath(t *testing.T) {
	for _, affinity := range []time.Duration{0, time.Hour} {
		for _, n := range []int{300, 5000} {
			b := newBigService(n, affinity, nil)
			prev := b.store.Snapshot()
			st := newState(DefaultConfig(), xt.IPv4, &prev.Node)
			st.advance(nil, prev)
			chains, rules := 0, 0
			const rounds = 50
			for i := range rounds {
				b.move(i*n/rounds, i)
				next := b.store.Snapshot()
				d := st.advance(prev, next)
				prev = next
				chains += len(d.write)
				rules += d.rules(xt.NAT)
			}
			t.Logf("%d endpoints, affinity %s: %.1f chains of %.1f rules for a change", n, affinity,
				float64(chains)/rounds, float64(rules)/rounds)
			// The frontend, the root, and twice a branch on each level below; with
			// affinity twice as many chains.
			most := 2 + 2*(poolLevels-1)
			if affinity > 0 {
				most += 2 * (poolLevels - 1)
			}
			if chains > most*rounds || rules > 20*most*rounds {
				t.Errorf("%d endpoints, affinity %s: %d chains and %d rules for %d changes, want at most %d chains of 20 each",
					n, affinity, chains, rules, rounds, most)
			}
		}
	}
}

// BenchmarkPool is one changed endpoint of a large Service, from the slice to the text
// for iptables-restore.
func BenchmarkPool(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		for _, bpf := range []bool{true, false} {
			b.Run(fmt.Sprintf("endpoints=%d/bpf=%v", n, bpf), func(b *testing.B) {
				big := newBigService(n, 0, nil)
				prev := big.store.Snapshot()
				cfg := DefaultConfig()
				cfg.BPF = bpf
				st := newState(cfg, xt.IPv4, &prev.Node)
				st.advance(nil, prev)
				var text []byte
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					big.move(i%n, i%40000)
					next := big.store.Snapshot()
					d := st.advance(prev, next)
					prev = next
					var err error
					if text, err = d.restore(xt.IPv4).AppendText(text[:0]); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(text)), "text-bytes")
				runtime.KeepAlive(st)
			})
		}
	}
}
