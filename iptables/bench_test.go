package iptables

import (
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// large returns a Store with n Services of k endpoints each, and a function that
// moves one endpoint of one of them.
func large(n, k int) (*service.Store, func(i int)) {
	st := service.NewStore()
	st.SetNode(service.Node{
		Name:      "n1",
		Pods:      service.Detector{Prefixes: [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}},
		PortAddrs: [2][]netip.Prefix{{netip.MustParsePrefix("0.0.0.0/0")}},
	})
	set := func(i, shift int) {
		name := service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", i)}
		sl := &service.Slice{
			Service: name, Name: name.Name, Family: service.IPv4,
			Ports: []service.SlicePort{{Name: "http", Protocol: service.TCP, Port: 8080}},
		}
		for j := range k {
			m := i*k + j + shift*(j/(k-1))
			sl.Endpoints = append(sl.Endpoints, service.NewSliceEndpoint(
				netip.AddrFrom4([4]byte{10, byte(128 + m>>16), byte(m >> 8), byte(m)}), &service.EndpointState{Ready: true, Serving: true},
			))
		}
		st.SetSlice(sl)
	}
	for i := range n {
		st.SetService(&service.Service{
			Name:       service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Families:   []service.Family{service.IPv4},
			Ports:      []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80}},
		})
		set(i, 0)
	}
	moved := make(map[int]int)
	return st, func(i int) {
		moved[i]++
		set(i, 100000+moved[i])
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			st, _ := large(n, 5)
			snap := st.Snapshot()
			b.ReportAllocs()
			for b.Loop() {
				Plan(snap, DefaultConfig(), xt.IPv4)
			}
		})
	}
}

// BenchmarkAdvance is what one changed endpoint costs, from the slice to the
// text for iptables-restore.
func BenchmarkAdvance(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			st, move := large(n, 5)
			snap := st.Snapshot()
			plan := newState(DefaultConfig(), xt.IPv4, &snap.Node)
			plan.advance(nil, snap)
			var text []byte
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				move(i % n)
				next := st.Snapshot()
				d := plan.advance(snap, next)
				snap = next
				var err error
				if text, err = d.restore(xt.IPv4).AppendText(text[:0]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(text)), "text-bytes")
		})
	}
}

// TestOneChangeAmongMany is a guard: what one changed endpoint allocates, from the
// slice to the text for iptables-restore, must not grow with the number of Services.
func TestOneChangeAmongMany(t *testing.T) {
	cost := func(n int) (objects, bytes uint64) {
		st, move := large(n, 5)
		snap := st.Snapshot()
		plan := newState(DefaultConfig(), xt.IPv4, &snap.Node)
		plan.advance(nil, snap)
		const rounds = 100
		text := make([]byte, 0, 1<<16)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range rounds {
			move(i * n / rounds)
			next := st.Snapshot()
			d := plan.advance(snap, next)
			snap = next
			var err error
			if text, err = d.restore(xt.IPv4).AppendText(text[:0]); err != nil || len(text) == 0 {
				t.Fatalf("text of %d bytes, error %v", len(text), err)
			}
		}
		runtime.ReadMemStats(&after)
		return (after.Mallocs - before.Mallocs) / rounds, (after.TotalAlloc - before.TotalAlloc) / rounds
	}
	few, fewBytes := cost(500)
	many, manyBytes := cost(10000)
	t.Logf("500 Services: %d objects, %d bytes; 10,000: %d objects, %d bytes", few, fewBytes, many, manyBytes)
	if many > few+5 || manyBytes > fewBytes*3/2 || many > 200 {
		t.Errorf("one change allocates %d objects and %d bytes among 500 Services, %d and %d among 10,000",
			few, fewBytes, many, manyBytes)
	}
}

// TestEntries is a guard: what an ordinary Service needs of the kernel. Legacy iptables
// keeps two entries more for each chain, and copies them all with every change.
func TestEntries(t *testing.T) {
	count := func(n int) (chains, rules int) {
		st, _ := large(n, 5)
		for ref, r := range Plan(st.Snapshot(), DefaultConfig(), xt.IPv4).Chains {
			if ref.Table == xt.NAT && !strings.HasPrefix(ref.Name, prefixTree) {
				chains, rules = chains+1, rules+len(r)
			}
		}
		return chains, rules
	}
	chains, rules := count(17)
	moreChains, moreRules := count(117)
	// The rule that marks, and one for each endpoint.
	if got := moreChains - chains; got != 100 {
		t.Errorf("100 Services have %d chains, want 100", got)
	}
	if got := moreRules - rules; got != 600 {
		t.Errorf("100 Services of 5 endpoints have %d rules, want 600", got)
	}
}

// TestLargeMemory bounds what is remembered of 10,000 Services of 5 endpoints.
func TestLargeMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	st, _ := large(10000, 5)
	snap := st.Snapshot()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	plan := newState(DefaultConfig(), xt.IPv4, &snap.Node)
	plan.advance(nil, snap)
	got := int64(heap()-before) >> 20
	t.Logf("%d MiB for the state, %d MiB for the Store and Snapshot and all else", got, before>>20)
	if got > 40 {
		t.Errorf("got %d MiB, want at most 40", got)
	}
	runtime.KeepAlive(plan)
	runtime.KeepAlive(st)
}

// TestMovesAddUp: what changes of endpoints write, one after the other, is what a plan
// of the outcome says. The trees are deep enough for entries on several levels.
func TestMovesAddUp(t *testing.T) {
	st, move := large(3000, 3)
	st.SetService(&service.Service{
		Name: service.Name{Namespace: "default", Name: "svc-00007"}, Families: []service.Family{service.IPv4},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.97.0.1")}, // alone in its branch
		Ports:      []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}},
	})
	snap := st.Snapshot()
	plan := newState(DefaultConfig(), xt.IPv4, &snap.Node)
	got := make(map[xt.ChainRef][]xt.Rule)
	apply := func(d *delta) {
		maps.Copy(got, d.write)
		for _, ref := range d.remove {
			delete(got, ref)
		}
	}
	apply(plan.advance(nil, snap))
	for i := range 60 {
		move(i * 50)
		move(7)
		next := st.Snapshot()
		d := plan.advance(snap, next)
		if len(d.write) > 6 {
			t.Fatalf("two changed endpoints write %d chains", len(d.write))
		}
		apply(d)
		snap = next
	}
	if diff := cmp.Diff(text(t, got), text(t, Plan(snap, DefaultConfig(), xt.IPv4).Chains)); diff != "" {
		t.Errorf("got and want differ:\n%s", diff)
	}
}

func text(t *testing.T, chains map[xt.ChainRef][]xt.Rule) []string {
	t.Helper()
	b, err := (&xt.Ruleset{Family: xt.IPv4, Chains: chains, Hooks: hooks()}).AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}
