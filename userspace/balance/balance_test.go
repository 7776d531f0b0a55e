package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// A bed is a Balancer with one frontend, a clock and what its connections hold.
type bed struct {
	*Balancer
	t    testing.TB
	now  time.Time
	pool service.Pool
	open map[netip.AddrPort][]*Conn
}

// endpoint returns the address of the nth endpoint, from 1.
func addr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), 80)
}

func caller(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), uint16(1024+n%60000))
}

func poolOf(weights ...int) service.Pool {
	var p service.Pool
	for i, w := range weights {
		p = append(p, service.Endpoint{Addr: addr(i + 1), Weight: uint16(w)})
	}
	return p
}

func same(n int) []int { return slices.Repeat([]int{1}, n) }

func without(p service.Pool, n int) service.Pool {
	return slices.DeleteFunc(slices.Clone(p), func(e service.Endpoint) bool { return e.Addr == addr(n) })
}

func portOf(algorithm, flags string, affinity time.Duration, pools ...service.Pool) *service.Port {
	p := &service.Port{Affinity: affinity, Scheduling: service.Scheduling{Algorithm: algorithm, Flags: flags}}
	for i, pool := range pools {
		fe := service.Frontend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 1)}), 80)}
		for o := range fe.Routes {
			fe.Routes[o] = service.Route{Verdict: service.Forward, Pool: pool}
		}
		p.Frontends = append(p.Frontends, fe)
	}
	return p
}

func newBed(t testing.TB, cfg Config, port *service.Port) *bed {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b := &bed{Balancer: New(cfg), t: t, now: time.Unix(1e9, 0), open: map[netip.AddrPort][]*Conn{}}
	b.update(port)
	return b
}

func (b *bed) update(port *service.Port) {
	b.Update(port, b.now)
	b.pool = port.Frontends[0].Routes[0].Pool
}

func (b *bed) conn(client int) *Conn {
	return &Conn{Client: caller(client), Frontend: netip.MustParseAddrPort("10.96.0.1:80"), Pool: b.pool}
}

// connect makes a connection that stays open, and returns its endpoint.
func (b *bed) connect(client int) netip.AddrPort {
	b.t.Helper()
	c := b.conn(client)
	a, ok := b.Pick(c, b.now)
	if !ok {
		return netip.AddrPort{}
	}
	b.Connected(c, b.now)
	b.open[a] = append(b.open[a], c)
	return a
}

// once makes a connection that ends at once.
func (b *bed) once(client int) netip.AddrPort {
	b.t.Helper()
	a := b.connect(client)
	b.closeAll(a)
	return a
}

func (b *bed) closeAll(a netip.AddrPort) {
	for _, c := range b.open[a] {
		b.Finished(c)
	}
	delete(b.open, a)
}

// fail lets client pick, and fail there; it returns where.
func (b *bed) fail(client int) netip.AddrPort {
	b.t.Helper()
	c := b.conn(client)
	a, ok := b.Pick(c, b.now)
	if !ok {
		b.t.Fatal("nobody to fail at")
	}
	b.Failed(c, b.now)
	return a
}

// counts returns the open connections of each endpoint of the pool.
func (b *bed) counts() string {
	var out []string
	for _, e := range b.pool {
		out = append(out, fmt.Sprint(len(b.open[e.Addr])))
	}
	return strings.Join(out, " ")
}

// TestLikeIPVS is the table that docs/ipvs.md has for the kernel's schedulers:
// endpoints of the weights 1, 2, 3 and 4, connections that stay open.
func TestLikeIPVS(t *testing.T) {
	for _, c := range []struct{ algorithm, script string }{
		{"rr", "40: 10 10 10 10, free, 24: 6 6 6 16"},
		{"wrr", "40: 4 8 12 16, free, 20: 2 4 6 24"},
		{"lc", "40: 10 10 10 10, free, 30: 10 10 10 10"},
		{"wlc", "6: 1 1 2 2, 34: 4 8 12 16, free, 24: 4 8 12 16"},
		{"sed", "6: 0 1 2 3, 10: 1 3 5 7, 24: 4 8 12 16, free, 24: 4 8 12 16"},
		{"nq", "6: 1 1 2 2, 10: 1 3 5 7"},
		{"fo", "20: 0 0 0 20"},
		{"ovf", "5: 0 0 0 5, 4: 0 0 4 5, 5: 2 3 4 5, 1: 2 3 4 5"},
	} {
		for _, seed := range []uint64{0, 1, 2} {
			b := newBed(t, Config{Seed: seed}, portOf(c.algorithm, "", 0, poolOf(1, 2, 3, 4)))
			for step := range strings.SplitSeq(c.script, ", ") {
				count, want, ok := strings.Cut(step, ": ")
				if !ok { // free: close all but those of the last endpoint
					for n := range 3 {
						b.closeAll(addr(n + 1))
					}
					continue
				}
				n := 0
				fmt.Sscan(count, &n)
				for i := range n {
					b.connect(i)
				}
				if got := b.counts(); got != want {
					t.Errorf("%s, seed %d, after %s: got %s, want %s", c.algorithm, seed, count, got, want)
				}
			}
		}
	}
}

// TestOrder says in which order endpoints get connections that do not last.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		algorithm string
		want      string
	}{
		{"rr", "1 2 3 4 1 2 3 4 1 2"},
		{"wrr", "4 3 2 4 1 3 4 2 3 4"},
		{"", "1 2 3 4 1 2 3 4 1 2"},
		{"twos", "1 2 3 4 1 2 3 4 1 2"}, // not built
		{"lc", "1 2 3 4 1 2 3 4 1 2"},
		{"wlc", "1 2 3 4 1 2 3 4 1 2"},
		{"sed", "4 4 4 4 4 4 4 4 4 4"},
		{"nq", "1 2 3 4 1 2 3 4 1 2"},
	} {
		b := newBed(t, Config{}, portOf(c.algorithm, "", 0, poolOf(1, 2, 3, 4)))
		var got []string
		for i := range 10 {
			got = append(got, fmt.Sprint(b.once(i).Addr().As4()[3]))
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.algorithm, got, c.want)
		}
	}
}

func TestSeedMovesTheStart(t *testing.T) {
	first := map[netip.AddrPort]bool{}
	for seed := range uint64(40) {
		b := newBed(t, Config{Seed: seed}, portOf("rr", "", 0, poolOf(same(5)...)))
		seen := map[netip.AddrPort]bool{}
		for i := range 5 {
			a := b.once(i)
			if seen[a] {
				t.Errorf("seed %d: %v twice in one round", seed, a)
			}
			seen[a] = true
			first[a] = first[a] || i == 0
		}
	}
	for i := range 5 {
		if !first[addr(i+1)] {
			t.Errorf("no node of 40 begins at %v", addr(i+1))
		}
	}
}

// TestWeightsExact has random weights, and Updates at random moments that change
// nothing but the array: wrr is exact over each cycle all the same, and rr over
// each round.
func TestWeightsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for trial := range 60 {
		weights := make([]int, 1+r.IntN(12))
		sum := 0
		for i := range weights {
			weights[i] = 1 + r.IntN(20)
			sum += weights[i]
		}
		for _, algorithm := range []string{"wrr", "rr"} {
			want, cycle := weights, sum
			if algorithm == "rr" {
				want, cycle = same(len(weights)), len(weights)
			}
			b := newBed(t, Config{Seed: uint64(trial)}, portOf(algorithm, "", 0, poolOf(weights...)))
			for range 3 {
				got := make([]int, len(weights))
				for i := range cycle {
					got[int(b.once(i).Addr().As4()[3])-1]++
					if r.IntN(4) == 0 {
						// Another endpoint comes and goes, never being picked.
						pool := append(poolOf(weights...), service.Endpoint{Addr: addr(99)})
						b.update(portOf(algorithm, "", 0, pool))
						b.update(portOf(algorithm, "", 0, poolOf(weights...)))
					}
				}
				if d := cmp.Diff(got, want); d != "" {
					t.Fatalf("trial %d: %s of %v: got-want+\n%s", trial, algorithm, weights, d)
				}
			}
		}
	}
}

// TestTreeTwin compares what the tree says after random events with what looking
// at all members says.
func TestTreeTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, algorithm := range []string{"lc", "wlc", "sed", "nq", "fo", "ovf", "wrr"} {
		for n := 1; n < 40; n += 1 + r.IntN(4) {
			weights := make([]int, n)
			for i := range weights {
				weights[i] = 1 + r.IntN(5)
			}
			b := newBed(t, Config{Seed: 9, Outlier: Outlier{Failures: 2}}, portOf(algorithm, "", 0, poolOf(weights...), poolOf(weights[:(n+1)/2]...)))
			for i := range 200 {
				b.now = b.now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
				switch r.IntN(4) {
				case 0:
					b.closeAll(addr(1 + r.IntN(n)))
				case 1:
					c := b.conn(i)
					if _, ok := b.Pick(c, b.now); ok {
						b.Failed(c, b.now)
					}
				default:
					b.connect(i)
				}
				for _, p := range b.pools {
					want := 0
					for i := range p.members {
						if p.before(i, want) {
							want = i
						}
					}
					if got := p.root(); got != want {
						t.Fatalf("%s of %d, step %d: got %d, want %d", algorithm, n, i, got, want)
					}
				}
			}
		}
	}
}

func TestUpdateKeepsCounts(t *testing.T) {
	b := newBed(t, Config{}, portOf("lc", "", 0, poolOf(same(3)...)))
	for i := range 6 {
		b.connect(i)
	}
	b.update(portOf("lc", "", 0, without(b.pool, 1)))
	b.closeAll(addr(2))
	if got, want := b.once(1), addr(2); got != want {
		t.Errorf("the idle one: got %v, want %v", got, want)
	}
	b.update(portOf("lc", "", 0, poolOf(same(3)...)))
	b.connect(1)
	b.connect(1)
	if got, want := b.counts(), "2 2 2"; got != want {
		t.Errorf("the first one was away with its connections: got %s, want %s", got, want)
	}
	if got, want := b.Stats().Active, int64(6); got != want {
		t.Errorf("active: got %d, want %d", got, want)
	}
	for n := range 3 {
		b.closeAll(addr(n + 1))
	}
	b.update(portOf("lc", "", 0, poolOf(1)))
	if got, want := len(b.endpoints), 1; got != want {
		t.Errorf("endpoints remembered: got %d, want %d", got, want)
	}
}

// TestPools has frontends with different pools, and a caller that is late.
func TestPools(t *testing.T) {
	cluster := poolOf(same(4)...)
	local := cluster[1:2:2]
	port := portOf("lc", "", 0, cluster, local)
	b := newBed(t, Config{}, port)
	late := b.pool
	b.pool = local
	for i := range 3 {
		if got := b.connect(i); got != addr(2) {
			t.Errorf("local: got %v", got)
		}
	}
	b.pool = cluster
	for i := range 9 {
		b.connect(i)
	}
	if got, want := b.counts(), "3 3 3 3"; got != want {
		t.Errorf("connections of one pool count in the other: got %s, want %s", got, want)
	}
	for i := range 10 {
		b.update(portOf("lc", "", 0, without(cluster, 1+i%4)))
		b.pool = late // as a Snapshot ago
		if got := b.once(i); !got.IsValid() {
			t.Error("a caller with the Pool of before gets nobody")
		}
	}
	for range 20 { // unknown arrays do not add up
		b.pool = slices.Clone(late)[:1+len(b.pools)%4]
		b.once(1)
	}
	if got, want := len(b.pools), 1+maxStray; got > want {
		t.Errorf("pools: got %d, want at most %d", got, want)
	}
	if c := (&Conn{Client: caller(1)}); true {
		if a, ok := b.Pick(c, b.now); ok {
			t.Errorf("no pool: got %v", a)
		}
		b.Connected(c, b.now)
		b.Failed(c, b.now)
		b.Finished(c)
	}
}

func TestAttempts(t *testing.T) {
	for _, c := range []struct{ attempts, endpoints, want int }{{0, 10, 4}, {0, 3, 3}, {1, 3, 1}, {8, 10, 8}} {
		for _, algorithm := range Algorithms() {
			b := newBed(t, Config{Attempts: c.attempts}, portOf(algorithm, "", time.Hour, poolOf(same(c.endpoints)...)))
			conn := b.conn(7)
			seen := map[netip.AddrPort]bool{}
			for range 20 {
				a, ok := b.Pick(conn, b.now)
				if !ok {
					break
				}
				if seen[a] {
					t.Errorf("%s: %v twice", algorithm, a)
				}
				seen[a] = true
				b.Failed(conn, b.now)
			}
			if got := len(seen); got != c.want || conn.Attempts() != c.want {
				t.Errorf("%s: %d of %d endpoints tried, want %d", algorithm, got, c.endpoints, c.want)
			}
			if got := b.Stats().Active; got != 0 {
				t.Errorf("%s: %d active", algorithm, got)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	for _, algorithm := range Algorithms() {
		b := newBed(t, Config{MaxClients: 50, Outlier: Outlier{Failures: 3, Base: time.Millisecond, Max: time.Second}}, portOf(algorithm, "", time.Second, poolOf(same(9)...)))
		pool := b.pool
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 5))
				for i := range 2000 {
					c := &Conn{Client: caller(r.IntN(200)), Pool: pool}
					now := b.now.Add(time.Duration(i) * time.Millisecond)
					for {
						if _, ok := b.Pick(c, now); !ok {
							break
						}
						if r.IntN(3) > 0 {
							b.Connected(c, now)
							break
						}
						b.Failed(c, now)
					}
					if i%500 == 0 {
						b.Update(portOf(algorithm, "", time.Second, without(pool, 1+r.IntN(9))), now)
						b.Update(portOf(algorithm, "", time.Second, pool), now)
					}
					b.Finished(c)
				}
			})
		}
		wg.Wait()
		s := b.Stats()
		if s.Active != 0 || s.Endpoints != 9 || s.Clients > 50 {
			t.Errorf("%s: %+v", algorithm, s)
		}
	}
}
