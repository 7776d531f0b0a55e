package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// An oblivious kernel takes everything and keeps nothing but the sets.
type oblivious struct {
	*kernel.Fake
	calls, ops, most int               // of Apply
	seen             func([]kernel.Op) // may be nil
}

// Apply implements [kernel.Kernel].
func (k *oblivious) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	k.calls, k.ops, k.most = k.calls+1, k.ops+len(ops), max(k.most, len(ops))
	if k.seen != nil {
		k.seen(ops)
	}
	var sets []kernel.Op
	for _, op := range ops {
		if _, is := op.(kernel.NewSet); is {
			sets = append(sets, op)
		}
	}
	if len(sets) == 0 {
		return nil, nil
	}
	return k.Fake.Apply(ctx, sets)
}

func newOblivious(t *testing.T) (*oblivious, *Dataplane) {
	t.Helper()
	b := newBed()
	k := &oblivious{Fake: b.kernel}
	d, err := New(testConfig(), k, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k, d
}

// TestAllocationsPerChange holds that a Sync for one endpoint allocates the same, and
// sends the same, whatever else there is.
func TestAllocationsPerChange(t *testing.T) {
	measure := func(n int) (allocs float64, perSync float64) {
		tn := newTown(n, 2)
		k, d := newOblivious(t)
		mustSync(t, d, tn)
		tn.tcpOnly(5, append(endpointsOf(5, 2), endpoint(9000))...)
		mustSync(t, d, tn) // the other port goes, which is more than an endpoint
		tn.tcpOnly(5, append(endpointsOf(5, 2), endpoint(9001), endpoint(9000))...)
		more := tn.store.Snapshot()
		tn.tcpOnly(5, append(endpointsOf(5, 2), endpoint(9000))...)
		less := tn.store.Snapshot()
		k.ops = 0
		const runs = 50
		allocs = testing.AllocsPerRun(runs-1, func() {
			for _, s := range []*service.Snapshot{more, less} {
				if _, err := d.Sync(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		})
		return allocs, float64(k.ops) / (2 * runs)
	}
	few, ops := measure(10)
	many, opsOfMany := measure(4000)
	t.Logf("one endpoint more and one less: %.0f allocations among 10 Services, %.0f among 4000; %.1f messages for each", few, many, ops)
	if many > few+4 {
		t.Errorf("one endpoint more and one less: %.0f allocations among 4000 Services, %.0f among 10", many, few)
	}
	// One more is one message. One less is two: it gets no new connections, and goes when
	// it has no old ones.
	if ops != opsOfMany || ops > 1.5 {
		t.Errorf("%.1f messages among 4000 Services, %.1f among 10, want 1.5 at most", opsOfMany, ops)
	}
}

// TestMemoryPerDestination holds that destinations cost nothing beside what the Snapshot
// has of them, and how much a Port does.
func TestMemoryPerDestination(t *testing.T) {
	const n = 2000
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	measure := func(endpoints int) int {
		tn := newTown(n, endpoints)
		_, d := newOblivious(t)
		snap := tn.store.Snapshot()
		before := heap()
		if _, err := d.Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		used := heap() - before
		runtime.KeepAlive(tn)
		runtime.KeepAlive(d)
		return used
	}
	few, many := measure(1), measure(31)
	perDest, perPort := (many-few)/(2*30*n), few/(2*n)
	t.Logf("%d bytes for each destination, %d for each Port", perDest, perPort)
	if perDest > 4 { // a copy would be 40
		t.Errorf("the dataplane keeps %d bytes for each destination, want none", perDest)
	}
	if perPort > 1000 {
		t.Errorf("the dataplane keeps %d bytes for each Port, want 1000 at most", perPort)
	}
}

// city is a town where pods wait for two Services.
func city(n int) (town, []kernel.ServerKey) {
	tn := newTown(n, 2)
	var awaited []kernel.ServerKey
	for i, c := range []struct {
		name  service.Name
		proto service.Protocol
		port  uint16
	}{{service.Name{Namespace: "default", Name: "kubernetes"}, service.TCP, 443}, {service.Name{Namespace: "kube-system", Name: "kube-dns"}, service.UDP, 53}} {
		a := netip.AddrFrom4([4]byte{10, 97, 0, byte(i)})
		tn.store.SetService(&service.Service{
			Name: c.name, ClusterIPs: []netip.Addr{a}, Families: []service.Family{service.IPv4},
			Ports: []service.ServicePort{{Name: "main", Protocol: c.proto, Port: c.port}},
		})
		tn.store.SetSlice(&service.Slice{
			Service: c.name, Name: "one", Family: service.IPv4, Endpoints: endpointsOf(n+i, 2),
			Ports: []service.SlicePort{{Name: "main", Protocol: c.proto, Port: 8080}},
		})
		awaited = append(awaited, kernel.ServerKey{Addr: netip.AddrPortFrom(a, c.port), Protocol: c.proto})
	}
	return tn, awaited
}

// TestPortions: a cold start serves what pods wait for before it writes anything else,
// and is never one large transaction.
func TestPortions(t *testing.T) {
	const n = 3 * portionKeys
	tn, awaited := city(n)
	k, d := newOblivious(t)
	var published, made []kernel.ServerKey
	k.seen = func(ops []kernel.Op) {
		for _, op := range ops {
			switch op := op.(type) {
			case kernel.NewServer:
				made = append(made, op.Key)
			case kernel.AddElem:
				if op.Set == setName(service.IPv4, "VIP") {
					published = append(published, kernel.ServerKey{Addr: netip.AddrPortFrom(op.Elem.Addr, op.Elem.Port), Protocol: op.Elem.Protocol})
				}
			}
		}
		if len(published) < len(awaited) && len(made) > len(awaited) {
			t.Fatalf("%d servers were made before what pods wait for was published", len(made))
		}
	}
	mustSync(t, d, tn)
	if want := 2*n + len(awaited); len(published) != want {
		t.Errorf("%d were published, want %d", len(published), want)
	}
	if first := published[:len(awaited)]; !slices.Contains(first, awaited[0]) || !slices.Contains(first, awaited[1]) {
		t.Errorf("first published: %v, want %v", first, awaited)
	}
	if most := 12 * portionKeys; k.most > most {
		t.Errorf("one transaction had %d changes, want %d at most", k.most, most)
	}
}

// TestPortionsHold looks at the kernel after every portion of a start, of a change of
// everything and of the end of everything.
func TestPortionsHold(t *testing.T) {
	const n = portionKeys
	tn, _ := city(n)
	b := newBed()
	calls := 0
	k := &afterApply{Fake: b.kernel, look: func() { published(t, b.kernel); calls++ }}
	d, err := New(testConfig(), k, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		mustSync(t, d, tn)
		if _, err := d.Audit(t.Context()); err != nil { // where nothing drains any more
			t.Fatal(err)
		}
		other := newBed()
		mustSync(t, other.dataplane(t, testConfig()), tn)
		if got, want := string(b.state(t)), string(other.state(t)); got != want {
			t.Fatalf("%s: the end is not that of a new start:\n%.2000s", what, diffLines(want, got))
		}
	}
	same("start")
	for i := range n {
		tn.slice(i, endpoint(3*n+i))
	}
	same("change")
	for i := range n {
		tn.store.DeleteService(name(i))
	}
	same("end")
	if calls < 12 {
		t.Errorf("only %d portions were looked at", calls)
	}
}

// An afterApply is looked at after every transaction.
type afterApply struct {
	*kernel.Fake
	look func()
}

// Apply implements [kernel.Kernel].
func (k *afterApply) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	refused, err := k.Fake.Apply(ctx, ops)
	k.look()
	return refused, err
}

// diffLines is where two texts begin to differ.
func diffLines(want, got string) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			at := max(0, i-100)
			return fmt.Sprintf("want …%.300s\ngot  …%.300s", want[at:], got[at:])
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}
