package servicetest_test

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// state is what of a Snapshot must not depend on history.
func state(s *service.Snapshot) service.Snapshot {
	c := *s
	c.Rev, c.Triggered = 0, nil
	c.Ports = service.NewPortList(slices.Collect(c.Ports.All())...) // which parts are shared depends on it
	return c
}

// exported lets cmp look into everything; it is slow, and only for reports.
var exported = gocmp.Options{
	gocmp.Exporter(func(reflect.Type) bool { return true }),
	cmpopts.EquateEmpty(),
}

func requireSame(t *testing.T, what string, got, want *service.Snapshot) {
	t.Helper()
	if reflect.DeepEqual(state(got), state(want)) {
		return
	}
	t.Fatalf("%s (-want +got)\n%s", what, gocmp.Diff(state(want), state(got), exported))
}

// TestStoreTwin walks one Store through random changes and compares it at each
// step with a Store that was told everything at once.
func TestStoreTwin(t *testing.T) {
	const worlds, steps = 50, 100 // 5000 in all
	for seed := range uint64(worlds) {
		w := servicetest.NewWorld(seed)
		store := w.Store()
		prev := store.Snapshot()
		requireSame(t, "first Snapshot", prev, w.Snapshot())
		for i := range steps {
			change := w.Mutate()
			at := fmt.Sprintf("seed %d step %d: %s", seed, i, change.What)
			matters := change.Apply(store)
			cur, want := store.Snapshot(), w.Snapshot()
			requireSame(t, at, cur, want)
			if !matters {
				requireSame(t, at+": said not to matter", cur, prev)
			}
			checkChanged(t, at, prev, cur)
			prev = cur
		}
	}
}

// checkChanged requires that Changed yields what differs, in order, and that
// nothing else got a new pointer.
func checkChanged(t *testing.T, at string, prev, cur *service.Snapshot) {
	t.Helper()
	olds := make(map[service.PortID]*service.Port)
	for p := range prev.Ports.All() {
		olds[p.ID] = p
	}
	want := make(map[service.PortID]bool)
	for p := range cur.Ports.All() {
		old := olds[p.ID]
		switch {
		case old == nil || !reflect.DeepEqual(old, p):
			want[p.ID] = true
		case old != p:
			t.Fatalf("%s: %s is unchanged and has a new pointer", at, p.ID)
		}
		delete(olds, p.ID)
	}
	for id := range olds {
		want[id] = true
	}
	var last service.PortID
	for o, n := range cur.Changed(prev) {
		id := cmp.Or(o, n).ID
		if !want[id] {
			t.Fatalf("%s: Changed yields %s, which did not change or came before", at, id)
		}
		if last.Compare(id) >= 0 && last != (service.PortID{}) {
			t.Fatalf("%s: Changed yields %s after %s", at, id, last)
		}
		delete(want, id)
		last = id
	}
	if len(want) > 0 {
		t.Fatalf("%s: Changed leaves out %v", at, want)
	}
}

// TestSnapshotsStay requires that a Snapshot is not touched by what its Store is
// told later.
func TestSnapshotsStay(t *testing.T) {
	for seed := range uint64(30) {
		w := servicetest.NewWorld(seed)
		store := w.Store()
		var got, want []*service.Snapshot
		for range 20 {
			got, want = append(got, store.Snapshot()), append(want, w.Snapshot())
			w.Mutate().Apply(store)
		}
		for i := range got {
			requireSame(t, fmt.Sprintf("seed %d: Snapshot %d after the walk", seed, i), got[i], want[i])
		}
	}
}

// TestSnapshotRules checks what the types promise in words.
func TestSnapshotRules(t *testing.T) {
	for seed := range uint64(500) {
		s := servicetest.NewWorld(seed).Snapshot()
		type address struct {
			addr  any
			proto service.Protocol
		}
		seen := make(map[address]service.PortID)
		if !slices.IsSortedFunc(slices.Collect(s.Ports.All()), func(a, b *service.Port) int { return a.ID.Compare(b.ID) }) {
			t.Errorf("seed %d: ports are not sorted", seed)
		}
		for p := range s.Ports.All() {
			checkPool(t, p.ID, p.Cluster)
			checkPool(t, p.ID, p.Serving)
			checkPool(t, p.ID, p.Departing)
			checkRoute(t, p.ID, p.Internal())
			for _, fe := range p.Frontends {
				a := address{fe.Addr, p.ID.Protocol}
				if other, ok := seen[a]; ok {
					t.Errorf("seed %d: %v belongs to %s and %s", seed, a, other, p.ID)
				}
				seen[a] = p.ID
				if (fe.Kind == service.NodePort) != fe.Addr.Addr().IsUnspecified() {
					t.Errorf("seed %d: %s of %s has address %s", seed, fe.Kind, p.ID, fe.Addr)
				}
				if fe.Sources != nil && fe.Kind != service.LoadBalancerIP {
					t.Errorf("seed %d: %s of %s has source ranges", seed, fe.Kind, p.ID)
				}
				for _, r := range fe.Routes {
					checkRoute(t, p.ID, r)
				}
			}
		}
	}
}

func checkRoute(t *testing.T, id service.PortID, r service.Route) {
	t.Helper()
	if r.Verdict == service.Pass || (r.Verdict == service.Forward) != (r.Pool != nil) || r.Pool != nil && len(r.Pool) == 0 {
		t.Errorf("%s: route %+v", id, r)
	}
	checkPool(t, id, r.Pool)
}

func checkPool(t *testing.T, id service.PortID, p service.Pool) {
	t.Helper()
	for i := range p {
		if p[i].Weight == 1 {
			t.Errorf("%s: weight 1 is spelled out: %v", id, p)
		}
		if i > 0 && p[i-1].Addr.Compare(p[i].Addr) >= 0 {
			t.Errorf("%s: pool is not sorted or has doubles: %v", id, p)
		}
	}
}
