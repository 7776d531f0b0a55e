package iptables

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// weightedSnapshot returns a Service at 10.96.0.10:80 with a slice for each weight
// in list, of n endpoints each.
func weightedSnapshot(n int, affinity time.Duration, list ...uint16) *service.Snapshot {
	name := service.Name{Namespace: "default", Name: "web"}
	st := service.NewStore()
	st.SetService(&service.Service{
		Name: name, Families: []service.Family{service.IPv4}, Affinity: affinity,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		Ports:      []service.ServicePort{{Port: 80}},
	})
	for i, w := range list {
		sl := &service.Slice{Service: name, Name: fmt.Sprint(i), Weight: w, Ports: []service.SlicePort{{Port: 8080}}}
		for j := range n {
			a := netip.AddrFrom4([4]byte{10, 244, byte(i), byte(j + 1)})
			sl.Endpoints = append(sl.Endpoints, service.NewSliceEndpoint(a, &service.EndpointState{Ready: true, Serving: true}))
		}
		st.SetSlice(sl)
	}
	return st.Snapshot()
}

// TestWeights adds up the chances of the endpoints of each slice.
func TestWeights(t *testing.T) {
	tests := []struct {
		name     string
		n        int // endpoints of a slice
		affinity time.Duration
		weights  []uint16
		want     []float64 // share of each slice
	}{
		{"none", 2, 0, []uint16{0, 0}, []float64{0.5, 0.5}},
		{"two", 1, 0, []uint16{3, 0}, []float64{0.75, 0.25}},
		{"the last is the heaviest", 1, 0, []uint16{0, 2, 7}, []float64{0.1, 0.2, 0.7}},
		{"several endpoints", 3, 0, []uint16{4, 0}, []float64{0.8, 0.2}},
		{"equal weights", 2, 0, []uint16{9, 9}, []float64{0.5, 0.5}},
		{"extremes", 1, 0, []uint16{0, 65535}, []float64{1.0 / 65536, 65535.0 / 65536}},
		{"affinity", 2, time.Hour, []uint16{3, 0}, []float64{0.75, 0.25}},
		{"groups", 40, 0, []uint16{3, 0}, []float64{0.75, 0.25}},
		{"groups of very different weights", 100, 0, []uint16{1000, 0, 10}, []float64{1000.0 / 1011, 1.0 / 1011, 10.0 / 1011}},
		{"groups with affinity", 20, time.Hour, []uint16{0, 4}, []float64{0.2, 0.8}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := Plan(weightedSnapshot(tt.n, tt.affinity, tt.weights...), DefaultConfig(), xt.IPv4)
			results := rules.Eval(xt.Packet{
				Proto: xt.TCP, Src: netip.MustParseAddrPort("10.244.9.9:40000"), Dst: netip.MustParseAddrPort("10.96.0.10:80"),
				In: "veth0", Out: "eth0", Local: func(netip.Addr) bool { return false },
			})
			got := make([]float64, len(tt.want))
			for _, r := range results {
				i := r.DNAT.Addr().As4()[2]
				got[i] += r.P
				if each := tt.want[i] / float64(tt.n); math.Abs(r.P-each) > 1e-9 {
					t.Errorf("%s has the chance %v, want %v", r.DNAT, r.P, each)
				}
			}
			for i := range got {
				if math.Abs(got[i]-tt.want[i]) > 1e-7 {
					t.Errorf("slice %d has the chance %v, want %v", i, got[i], tt.want[i])
				}
			}
			if len(results) != tt.n*len(tt.want) {
				t.Errorf("%d endpoints, want %d", len(results), tt.n*len(tt.want))
			}
		})
	}
}

// chains returns the names of the pool chains and of the lists of clients in the
// plan for snap.
func chains(t *testing.T, snap *service.Snapshot) (pools, clients []string) {
	t.Helper()
	text, err := Plan(snap, DefaultConfig(), xt.IPv4).AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	distinct := func(prefix string) []string {
		found := make(map[string]bool)
		for _, name := range regexp.MustCompile(regexp.QuoteMeta(prefix)+"[A-Z2-7]+").FindAllString(string(text), -1) {
			found[name] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	return distinct(prefixPool), distinct(prefixClients)
}

// TestWeightNamesPools: a pool chain is trusted by its name, so a weight must be in
// it; the lists of clients must stay, or affinity is lost with every change.
func TestWeightNamesPools(t *testing.T) {
	for _, n := range []int{1, 30} { // without groups and with them
		plainPools, plainClients := chains(t, weightedSnapshot(n, time.Hour, 0, 0))
		pools, clients := chains(t, weightedSnapshot(n, time.Hour, 0, 5))
		again, _ := chains(t, weightedSnapshot(n, time.Hour, 0, 6))
		if d := cmp.Diff(clients, plainClients); d != "" || len(clients) != 2*n {
			t.Errorf("lists of clients (-weights +none):\n%s", d)
		}
		both := slices.Concat(plainPools, pools, again)
		slices.Sort(both)
		if got, want := len(slices.Compact(both)), len(plainPools)+len(pools)+len(again); n == 1 && got != want {
			t.Errorf("%d names for %d different chains", got, want)
		}
		if slices.Equal(pools, plainPools) || slices.Equal(pools, again) {
			t.Error("a weight makes no difference to names")
		}
	}
}

// TestWeightChange requires that a change of weights alone comes into force.
func TestWeightChange(t *testing.T) {
	kernel := xt.NewFake()
	d := newDataplane(t, kernel)
	for _, w := range []uint16{0, 3, 4, 0} {
		snap := weightedSnapshot(1, 0, w, 0)
		if _, err := d.Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("--probability %.10f", float64(max(1, w))/float64(max(1, w)+1))
		if dump := kernel.Dump(); strings.Count(dump, "--probability") != 1 || !strings.Contains(dump, want) {
			t.Errorf("weight %d: want one rule with %s in\n%s", w, want, dump)
		}
	}
}
