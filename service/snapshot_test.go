package service

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func manyPorts(n int) *Snapshot {
	var ports []*Port
	for i := range n {
		ports = append(ports, &Port{ID: PortID{Service: Name{"default", fmt.Sprintf("svc-%05d", i)}}})
	}
	return &Snapshot{Ports: NewPortList(ports...)}
}

func TestChanged(t *testing.T) {
	a := manyPorts(4)
	changed := *a.Ports.At(1)
	added := &Port{ID: PortID{Service: Name{"default", "svc-00003"}, Protocol: UDP}}
	b := &Snapshot{Ports: NewPortList(a.Ports.At(0), &changed, a.Ports.At(3), added)}

	type pair struct{ old, new *Port }
	collect := func(s, prev *Snapshot) (out []pair) {
		for o, n := range s.Changed(prev) {
			out = append(out, pair{o, n})
		}
		return out
	}
	want := []pair{{a.Ports.At(1), &changed}, {a.Ports.At(2), nil}, {nil, added}}
	if got := collect(b, a); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := collect(b, b); got != nil {
		t.Errorf("against itself: got %v, want nothing", got)
	}
	if got := collect(a, nil); len(got) != 4 || got[0] != (pair{nil, a.Ports.At(0)}) {
		t.Errorf("against nothing: got %v, want all as additions", got)
	}
}

func TestChangedAllocatesNothing(t *testing.T) {
	a := manyPorts(1000)
	ports := slices.Collect(a.Ports.All())
	port := *ports[500]
	ports[500] = &port
	b := &Snapshot{Ports: NewPortList(ports...)}
	n := 0
	allocs := testing.AllocsPerRun(10, func() {
		for range b.Changed(a) {
			n++
		}
	})
	if allocs != 0 || n == 0 {
		t.Errorf("%v allocations and %d changes, want none and some", allocs, n)
	}
}

func TestUrgent(t *testing.T) {
	tests := []struct {
		namespace, name string
		number          uint16
		want            bool
	}{
		{"default", "kubernetes", 443, true},
		{"kube-system", "kube-dns", 53, true},
		{"kube-system", "rke2-coredns", 53, true},
		{"kube-system", "kube-dns", 9153, false},
		{"shop", "dns", 53, false},
		{"shop", "kubernetes", 443, false},
	}
	for _, tt := range tests {
		p := Port{ID: PortID{Service: Name{tt.namespace, tt.name}}, Number: tt.number}
		if got := p.Urgent(); got != tt.want {
			t.Errorf("port %d of %s: got %v, want %v", tt.number, p.ID.Service, got, tt.want)
		}
	}
}

// TestRoutes spells out the table of the package comment.
func TestRoutes(t *testing.T) {
	remote := Endpoint{Addr: netip.MustParseAddrPort("10.244.2.2:80")}
	local := Endpoint{Addr: netip.MustParseAddrPort("10.244.1.2:80")}
	both, here := Pool{local, remote}, Pool{local}
	detector := Detector{Prefixes: [NumFamilies]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	fwd := func(p Pool, masq bool) Route { return Route{Verdict: Forward, Pool: p, Masquerade: masq} }
	drop, reject := Route{Verdict: Drop}, Route{Verdict: Reject}
	full := choice{cluster: both, local: here, any: true}
	elsewhere := choice{cluster: Pool{remote}, any: true}
	type routes = [NumOrigins]Route
	same := func(r Route) routes { return routes{r, r, r} }
	tests := []struct {
		name     string
		node     Node
		policy   Policy
		c        choice
		internal routes
		external routes
	}{
		{"Cluster", Node{Pods: detector}, Cluster, full,
			routes{fwd(both, false), fwd(both, true), fwd(both, true)}, same(fwd(both, true))},
		{"Local", Node{Pods: detector}, Local, full,
			routes{fwd(here, false), fwd(here, true), fwd(here, true)},
			routes{fwd(both, false), fwd(both, true), fwd(here, false)}},
		{"Local, none here", Node{Pods: detector}, Local, elsewhere,
			same(drop),
			routes{fwd(Pool{remote}, false), fwd(Pool{remote}, true), drop}},
		{"none anywhere", Node{Pods: detector}, Local, choice{}, same(reject), same(reject)},
		{"Cluster without a detector", Node{}, Cluster, full, same(fwd(both, false)), same(fwd(both, true))},
		{"Local without a detector", Node{}, Local, full,
			same(fwd(here, false)),
			routes{fwd(here, false), fwd(both, true), fwd(here, false)}},
		{"masquerade all", Node{Pods: detector, MasqueradeAll: true}, Cluster, full, same(fwd(both, true)), same(fwd(both, true))},
		{"masquerade all, Local", Node{MasqueradeAll: true}, Local, full,
			same(fwd(here, true)),
			routes{fwd(here, false), fwd(both, true), fwd(here, false)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			equal := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
			if d := cmp.Diff(clusterRoutes(tt.policy, tt.c, &tt.node, IPv4), tt.internal, equal); d != "" {
				t.Errorf("cluster IP (-got +want):\n%s", d)
			}
			if d := cmp.Diff(externalRoutes(tt.policy, tt.c, &tt.node, IPv4), tt.external, equal); d != "" {
				t.Errorf("external (-got +want):\n%s", d)
			}
		})
	}
}
