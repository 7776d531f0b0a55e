package service

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
)

// portsOf returns new ports of Service number i.
func portsOf(i, n int) []*Port {
	var out []*Port
	for j := range n {
		out = append(out, &Port{ID: PortID{Service: Name{"default", fmt.Sprintf("svc-%05d", i)}, Port: fmt.Sprintf("p%03d", j)}})
	}
	return out
}

// TestPortListWalk changes lists step by step and compares each with a list made at
// once, and the difference to an earlier one with what a plain comparison finds.
func TestPortListWalk(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 1))
		content := make(map[Name][]*Port)
		lists := []PortList{{}}
		for step := range 100 {
			changes := make(map[Name][]*Port)
			for range rng.IntN(1 << rng.IntN(9)) {
				i, n := rng.IntN(700), rng.IntN(4)
				if rng.IntN(300) == 0 {
					n = 300 // more than a run
				}
				if step%50 > 40 {
					n = 0 // runs become short
				}
				changes[Name{"default", fmt.Sprintf("svc-%05d", i)}] = portsOf(i, n)
			}
			names := slices.SortedFunc(maps.Keys(changes), Name.Compare)
			next := lists[len(lists)-1].replace(names, func(n Name) []*Port { return changes[n] })
			maps.Copy(content, changes)
			var want []*Port
			for _, n := range slices.SortedFunc(maps.Keys(content), Name.Compare) {
				want = append(want, content[n]...)
			}
			if got := slices.Collect(next.All()); !slices.Equal(got, want) || next.Len() != len(want) {
				t.Fatalf("seed %d step %d: got %d ports (Len %d), want %d", seed, step, len(got), next.Len(), len(want))
			}
			checkRuns(t, next)
			lists = append(lists, next)
			checkDifference(t, lists[rng.IntN(len(lists))], next)
		}
	}
}

func checkRuns(t *testing.T, l PortList) {
	t.Helper()
	for i, r := range l.runs {
		if len(r.ports) == 0 || len(r.ports) > maxRun+300 { // 300: the longest Service here
			t.Fatalf("a run of %d ports", len(r.ports))
		}
		if i > 0 && l.runs[i-1].ports[len(l.runs[i-1].ports)-1].ID.Service == r.ports[0].ID.Service {
			t.Fatalf("the ports of %s are in two runs", r.ports[0].ID.Service)
		}
	}
	if most := l.Len()/minRun + 2; len(l.runs) > most {
		t.Fatalf("%d runs of %d ports, want at most %d", len(l.runs), l.Len(), most)
	}
}

func checkDifference(t *testing.T, prev, cur PortList) {
	t.Helper()
	olds := make(map[PortID]*Port)
	for p := range prev.All() {
		olds[p.ID] = p
	}
	type pair struct{ old, new *Port }
	want := make(map[PortID]pair)
	for p := range cur.All() {
		if old := olds[p.ID]; old != p {
			want[p.ID] = pair{old, p}
		}
		delete(olds, p.ID)
	}
	for id, p := range olds {
		want[id] = pair{p, nil}
	}
	got := make(map[PortID]pair)
	for o, n := range cur.changed(prev) {
		p := o
		if p == nil {
			p = n
		}
		got[p.ID] = pair{o, n}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%d differences, want %d", len(got), len(want))
	}
}

// storeOf returns a Store of n Services with one endpoint each, and what moves the
// endpoint of one.
func storeOf(n int) (*Store, func(i int)) {
	s := NewStore()
	moved := 0
	name := func(i int) Name { return Name{"default", fmt.Sprintf("svc-%05d", i)} }
	set := func(i, to int) {
		s.SetSlice(&Slice{
			Service: name(i), Name: "x", Ports: []SlicePort{{Port: 8080}},
			Endpoints: []SliceEndpoint{NewSliceEndpoint(netip.AddrFrom4([4]byte{10, byte(to >> 16), byte(to >> 8), byte(to)}), &EndpointState{Ready: true, Serving: true})},
		})
	}
	for i := range n {
		s.SetService(&Service{
			Name: name(i), Families: []Family{IPv4}, Ports: []ServicePort{{Port: 80, NodePort: uint16(10000 + i)}},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
		})
		set(i, 1)
	}
	return s, func(i int) {
		moved++
		set(i, 1+moved)
	}
}

// TestOneChangeAmongMany is a guard: what a Snapshot with one changed endpoint
// allocates must not grow with the number of Services.
func TestOneChangeAmongMany(t *testing.T) {
	cost := func(n int) (objects, bytes uint64) {
		s, move := storeOf(n)
		prev := s.Snapshot()
		const rounds = 200
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range rounds {
			move(i * n / rounds)
			next := s.Snapshot()
			changes := 0
			for range next.Changed(prev) {
				changes++
			}
			if changes != 1 {
				t.Fatalf("%d changes, want 1", changes)
			}
			if !NewStale(prev, next).Empty() {
				t.Fatal("a change of TCP makes UDP flows stale")
			}
			prev = next
		}
		runtime.ReadMemStats(&after)
		return (after.Mallocs - before.Mallocs) / rounds, (after.TotalAlloc - before.TotalAlloc) / rounds
	}
	few, fewBytes := cost(1000)
	many, manyBytes := cost(20000)
	t.Logf("1,000 Services: %d objects, %d bytes; 20,000: %d objects, %d bytes", few, fewBytes, many, manyBytes)
	if many > few+3 || manyBytes > 2*fewBytes {
		t.Errorf("one change allocates %d objects and %d bytes among 1,000 Services, %d and %d among 20,000",
			few, fewBytes, many, manyBytes)
	}
}

// BenchmarkOneChange is one changed endpoint, to the difference of two Snapshots as
// many times as the loop and two planes ask for it.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{1000, 10000, 30000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			s, move := storeOf(n)
			prev := s.Snapshot()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				move(i % n)
				next := s.Snapshot()
				for range 5 {
					for range next.Changed(prev) {
					}
				}
				prev = next
			}
		})
	}
}
