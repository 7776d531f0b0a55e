package service

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// weighted returns a Store with one Service on port 80 whose slices are given.
func weighted(list ...*Slice) *Store {
	s := NewStore()
	s.SetNode(Node{Name: "n1"})
	s.SetService(&Service{
		Name:       Name{"default", "web"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		Families:   []Family{IPv4},
		Scheduling: Scheduling{Algorithm: "wrr", Flags: "flag-1"},
		Ports:      []ServicePort{{Port: 80}},
	})
	for _, sl := range list {
		s.SetSlice(sl)
	}
	return s
}

// slice80 returns a slice of endpoints in the conditions that the word before the
// address names: up, draining (serves and terminates) or dying (only terminates).
func slice80(name string, weight uint16, endpoints ...string) *Slice {
	sl := &Slice{Service: Name{"default", "web"}, Name: name, Weight: weight, Ports: []SlicePort{{Port: 80}}}
	for i := 0; i < len(endpoints); i += 2 {
		state := endpoints[i]
		sl.Endpoints = append(sl.Endpoints, NewSliceEndpoint(netip.MustParseAddr(endpoints[i+1]), &EndpointState{
			Node: "n1", Ready: state == "up", Serving: state != "dying", Terminating: state != "up",
		}))
	}
	return sl
}

func pool(weights ...any) Pool {
	var out Pool
	for i := 0; i < len(weights); i += 2 {
		out = append(out, Endpoint{
			Addr:   netip.AddrPortFrom(netip.MustParseAddr(weights[i].(string)), 80),
			Weight: uint16(weights[i+1].(int)),
		})
	}
	return out
}

func TestWeightsAndDeparting(t *testing.T) {
	const a, b, c = "10.244.1.2", "10.244.1.3", "10.244.1.4"
	tests := []struct {
		name                        string
		slices                      []*Slice
		cluster, serving, departing Pool
	}{
		{"no weights", []*Slice{slice80("x", 0, "up", a, "up", b)}, pool(a, 0, b, 0), pool(a, 0, b, 0), nil},
		{"a weight for each slice", []*Slice{slice80("x", 5, "up", b), slice80("y", 0, "up", a), slice80("z", 7, "up", c)},
			pool(a, 0, b, 5, c, 7), pool(a, 0, b, 5, c, 7), nil},
		{"a duplicate has the weight of the first slice", []*Slice{slice80("y", 2, "up", a), slice80("x", 9, "up", a)},
			pool(a, 9), pool(a, 9), nil},
		{"a duplicate has the weight of the one that counts", []*Slice{slice80("x", 9, "draining", a), slice80("y", 2, "up", a)},
			pool(a, 2), pool(a, 2), nil},
		{"terminating", []*Slice{slice80("x", 3, "up", a, "draining", b, "dying", c)},
			pool(a, 3), pool(a, 3, b, 3), pool(b, 3, c, 3)},
		{"all terminating", []*Slice{slice80("x", 3, "draining", b, "draining", a)},
			pool(a, 3, b, 3), pool(a, 3, b, 3), pool(a, 3, b, 3)},
		{"none serves", []*Slice{slice80("x", 0, "dying", b, "dying", a), slice80("y", 0, "dying", a)},
			nil, nil, pool(a, 0, b, 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := weighted(tt.slices...).Snapshot().Ports.At(0)
			for _, check := range []struct {
				name      string
				got, want Pool
			}{{"Cluster", p.Cluster, tt.cluster}, {"Serving", p.Serving, tt.serving}, {"Departing", p.Departing, tt.departing}} {
				if !slices.Equal(check.got, check.want) {
					t.Errorf("%s: got %v, want %v", check.name, check.got, check.want)
				}
			}
			if want := (Scheduling{Algorithm: "wrr", Flags: "flag-1"}); p.Scheduling != want {
				t.Errorf("got %+v, want %+v", p.Scheduling, want)
			}
		})
	}
}

// TestWeightChangeIsAChange: nothing but a weight need differ, and nothing but the
// time of the change may differ without notice.
func TestWeightChangeIsAChange(t *testing.T) {
	s := weighted(slice80("x", 2, "up", "10.244.1.2"))
	before := s.Snapshot().Ports.At(0)
	later := slice80("x", 2, "up", "10.244.1.2")
	later.Triggered = time.Unix(1, 0)
	if s.SetSlice(later) {
		t.Error("the same weight again is said to matter")
	}
	if !s.SetSlice(slice80("x", 3, "up", "10.244.1.2")) {
		t.Error("another weight is said not to matter")
	}
	after := s.Snapshot().Ports.At(0)
	if before == after || after.Cluster[0].Weight != 3 || before.Cluster[0].Weight != 2 {
		t.Errorf("before %+v, after %+v: want weights 2 and 3 in two Ports", before.Cluster, after.Cluster)
	}
}

// TestEqualPoolsAreShared also requires that pools that differ in a weight only
// are not.
func TestEqualPoolsAreShared(t *testing.T) {
	p := weighted(slice80("x", 4, "draining", "10.244.1.2"), slice80("y", 0, "draining", "10.244.1.3")).Snapshot().Ports.At(0)
	first := &p.Cluster[0]
	for name, got := range map[string]Pool{"Serving": p.Serving, "Departing": p.Departing, "local": p.Internal().Pool} {
		if &got[0] != first {
			t.Errorf("%s is another slice than Cluster", name)
		}
	}
	c := choice{cluster: pool("10.244.1.2", 2), local: pool("10.244.1.2", 3)}.shared()
	if c.local[0].Weight != 3 {
		t.Error("pools of different weights are shared")
	}
}

func TestHopsHaveNoWeight(t *testing.T) {
	snap := weighted(slice80("x", 4, "up", "10.244.1.2")).Snapshot()
	got := snap.Resolve(Flow{Src: netip.MustParseAddr("10.244.1.9"), In: "veth0", Dst: netip.MustParseAddrPort("10.96.0.10:80")})
	if len(got.Hops) != 1 || got.Hops[0].Endpoint != pool("10.244.1.2", 0)[0] {
		t.Errorf("got %+v, want one hop without a weight", got)
	}
}

func TestShare(t *testing.T) {
	for weight, want := range map[uint16]int{0: 1, 2: 2, 65535: 65535} {
		if got := (Endpoint{Weight: weight}).Share(); got != want {
			t.Errorf("weight %d: got %d, want %d", weight, got, want)
		}
	}
	if !slices.IsSorted(Schedulers()) || !slices.IsSorted(SchedulerFlags()) {
		t.Error("schedulers or flags are not sorted")
	}
}
