package servicetest_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A model is a slow and obvious twin of Store and Resolve: it answers every
// flow from the objects, in the words of the Kubernetes documentation, and
// shares no code with package service beyond the types and Detector.Match.
type model struct {
	node     service.Node
	services []*service.Service // in the order in which they win addresses
	slices   []*service.Slice
}

func newModel(w *servicetest.World) *model {
	m := &model{node: w.Node}
	for _, v := range w.Services {
		m.services = append(m.services, v)
	}
	slices.SortFunc(m.services, func(a, b *service.Service) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return a.Name.Compare(b.Name)
	})
	for _, s := range w.Slices {
		m.slices = append(m.slices, s)
	}
	return m
}

func family(a netip.Addr) service.Family {
	if a.Is4() {
		return service.IPv4
	}
	return service.IPv6
}

func (m *model) local(a netip.Addr) bool { return slices.Contains(m.node.Addrs, a) }

// find returns whose fl is, and as what. The first Service that claims an
// address has it, but a cluster IP comes before all else and an exact address
// before a node port.
func (m *model) find(fl service.Flow) (*service.Service, service.ServicePort, service.Kind, bool) {
	dst, f := fl.Dst.Addr(), family(fl.Dst.Addr())
	for _, kind := range []service.Kind{service.ClusterIP, service.ExternalIP} {
		for _, v := range m.services {
			for _, p := range v.Ports {
				if p.Protocol != fl.Protocol || p.Port != fl.Dst.Port() || !slices.Contains(v.Families, f) {
					continue
				}
				switch {
				case kind == service.ClusterIP && slices.Contains(v.ClusterIPs, dst):
					return v, p, service.ClusterIP, true
				case kind == service.ClusterIP:
				case slices.Contains(v.ExternalIPs, dst):
					return v, p, service.ExternalIP, true
				case slices.Contains(v.LoadBalancerIPs, dst):
					return v, p, service.LoadBalancerIP, true
				}
			}
		}
	}
	if !m.nodePortAddr(dst) {
		return nil, service.ServicePort{}, 0, false
	}
	for _, v := range m.services {
		if !slices.Contains(v.Families, f) {
			continue
		}
		if v.HealthCheckNodePort == fl.Dst.Port() && fl.Protocol == service.TCP {
			return nil, service.ServicePort{}, 0, false
		}
		for _, p := range v.Ports {
			if p.NodePort != 0 && p.NodePort == fl.Dst.Port() && p.Protocol == fl.Protocol {
				return v, p, service.NodePort, true
			}
		}
	}
	return nil, service.ServicePort{}, 0, false
}

func (m *model) nodePortAddr(a netip.Addr) bool {
	if a == netip.IPv6Loopback() || a.IsLoopback() && !m.node.LocalhostPorts || !a.IsLoopback() && !m.local(a) {
		return false
	}
	return slices.ContainsFunc(m.node.PortAddrs[family(a)], func(p netip.Prefix) bool { return p.Contains(a) })
}

// An entry is an endpoint as a slice says it is.
type entry struct {
	service.SliceEndpoint
	weight uint16
}

// endpoints returns what the slices say of one port, one entry for each address
// and port. Of several entries the one that does not terminate counts; ok is
// false when that does not settle it. Which one counts then is nobody's promise.
func (m *model) endpoints(v *service.Service, p service.ServicePort, f service.Family) (out map[netip.AddrPort]entry, ok bool) {
	all := make(map[netip.AddrPort][]entry)
	for _, s := range m.slices {
		for _, sp := range s.Ports {
			if s.Service != v.Name || s.Family != f || sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, e := range s.Endpoints {
				a := netip.AddrPortFrom(e.Addr(), sp.Port)
				all[a] = append(all[a], entry{e, s.Weight})
			}
		}
	}
	out = make(map[netip.AddrPort]entry)
	for a, list := range all {
		if stay := slices.DeleteFunc(slices.Clone(list), func(e entry) bool { return e.Terminating }); len(stay) > 0 {
			list = stay
		}
		for _, e := range list[1:] {
			if !reflect.DeepEqual(e, list[0]) {
				return nil, false
			}
		}
		out[a] = list[0]
	}
	return out, true
}

type pools struct {
	cluster, local []netip.AddrPort
	usable         bool
}

func (m *model) pools(eps map[netip.AddrPort]entry) pools {
	collect := func(keep func(entry) bool) (out []netip.AddrPort) {
		for a, e := range eps {
			if keep(e) {
				out = append(out, a)
			}
		}
		return out
	}
	ready := func(e entry) bool { return e.Ready }
	draining := func(e entry) bool { return e.Serving && e.Terminating }
	here := func(e entry) bool { return e.Node == m.node.Name }

	all := collect(ready)
	hinted := func(hints func(entry) []string, me string) []netip.AddrPort {
		if me == "" || len(collect(func(e entry) bool { return ready(e) && len(hints(e)) > 0 })) < len(all) {
			return nil
		}
		return collect(func(e entry) bool { return ready(e) && slices.Contains(hints(e), me) })
	}
	p := pools{cluster: all}
	if zone := hinted(func(e entry) []string { return e.ForZones }, m.node.Zone); len(zone) > 0 {
		p.cluster = zone
	}
	if node := hinted(func(e entry) []string { return e.ForNodes }, m.node.Name); len(node) > 0 {
		p.cluster = node
	}
	if len(p.cluster) == 0 {
		p.cluster = collect(draining)
	}
	p.local = collect(func(e entry) bool { return here(e) && ready(e) })
	if len(p.local) == 0 {
		p.local = collect(func(e entry) bool { return here(e) && draining(e) })
	}
	p.usable = len(p.cluster) > 0
	return p
}

func (m *model) allowed(v *service.Service, fl service.Flow) bool {
	f := family(fl.Src)
	if !v.Restricted {
		return true
	}
	for _, r := range v.SourceRanges {
		if family(r.Addr()) != f {
			continue
		}
		if r.Contains(fl.Src) || r.Contains(m.node.Primary[f]) && fl.Src == fl.Dst.Addr() {
			return true
		}
	}
	return false
}

// resolve answers fl; ok is false where the objects contradict each other.
func (m *model) resolve(fl service.Flow) (out service.Outcome, ok bool) {
	v, p, kind, found := m.find(fl)
	if fl.Protocol == service.ICMP || !found {
		return service.Outcome{Verdict: m.unclaimed(fl)}, true
	}
	f := family(fl.Dst.Addr())
	eps, ok := m.endpoints(v, p, f)
	if !ok {
		return out, false
	}
	ps := m.pools(eps)
	switch {
	case !ps.usable:
		return service.Outcome{Verdict: service.Reject}, true
	case kind == service.LoadBalancerIP && !m.allowed(v, fl):
		return service.Outcome{Verdict: service.Drop}, true
	}
	detects := m.node.Pods.Interface != "" || m.node.Pods.Prefixes[f].IsValid()
	pod := detects && m.node.Pods.Match(fl.Src, fl.In)
	host := !pod && (fl.Src.IsLoopback() || m.local(fl.Src))

	pool, masq := ps.cluster, true
	if kind == service.ClusterIP {
		masq = m.node.MasqueradeAll || detects && !pod
		if v.Internal == service.Local {
			pool = ps.local
		}
	} else if v.External == service.Local {
		masq = host
		if !pod && !host {
			pool = ps.local
		}
	}
	if len(pool) == 0 {
		return service.Outcome{Verdict: service.Drop}, true
	}
	out.Verdict = service.Forward
	slices.SortFunc(pool, netip.AddrPort.Compare)
	for _, a := range pool {
		// What comes in and ends on this machine never passes the place where
		// source addresses are replaced.
		ends := fl.In != "" && m.local(a.Addr())
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: a}, Masquerade: !ends && (masq || a.Addr() == fl.Src)})
	}
	return out, true
}

// unclaimed: cluster IPs reject what is not theirs to forward.
func (m *model) unclaimed(fl service.Flow) service.Verdict {
	for _, v := range m.services {
		if slices.Contains(v.ClusterIPs, fl.Dst.Addr()) {
			return service.Reject
		}
	}
	return service.Pass
}

// TestResolveTwin holds Resolve against the model.
func TestResolveTwin(t *testing.T) {
	const worlds, flows = 2000, 40
	counts := make(map[service.Verdict]int)
	skipped := 0
	for seed := range uint64(worlds) {
		w := servicetest.NewWorld(seed)
		m, snap := newModel(w), w.Snapshot()
		for range flows {
			fl := w.Flow()
			want, ok := m.resolve(fl)
			if !ok {
				skipped++
				continue
			}
			got, why := snap.Explain(fl)
			counts[got.Verdict]++
			if got.Verdict != want.Verdict || !slices.Equal(got.Hops, want.Hops) {
				t.Fatalf("seed %d: %+v\ngot  %+v\nbecause %q\nwant %+v\n%s", seed, fl, got, why, want, w)
			}
		}
	}
	t.Logf("%v, %d ambiguous", counts, skipped)
	for v := service.Pass; v <= service.Reject; v++ {
		if counts[v] < worlds*flows/100 {
			t.Errorf("only %d of %d flows end in %s: the worlds are too dull", counts[v], worlds*flows, v)
		}
	}
}

// TestPortsTwin holds what Ports say besides Routes against the model: weights,
// who is leaving, and what the Service asks for.
func TestPortsTwin(t *testing.T) {
	const worlds = 1000
	var ports, weighted, departing, scheduled int
	for seed := range uint64(worlds) {
		w := servicetest.NewWorld(seed)
		m := newModel(w)
		for p := range w.Snapshot().Ports.All() {
			v := w.Services[p.ID.Service]
			i := slices.IndexFunc(v.Ports, func(sp service.ServicePort) bool {
				return sp.Name == p.ID.Port && sp.Protocol == p.ID.Protocol
			})
			if p.Scheduling != v.Scheduling {
				t.Fatalf("seed %d: %s has %+v\n%s", seed, p.ID, p.Scheduling, w)
			}
			eps, ok := m.endpoints(v, v.Ports[i], p.ID.Family)
			if !ok {
				continue
			}
			if d := m.checkPort(p, eps); d != "" {
				t.Fatalf("seed %d: %s: %s\n%s", seed, p.ID, d, w)
			}
			ports++
			if p.Scheduling != (service.Scheduling{}) {
				scheduled++
			}
			if len(p.Departing) > 0 {
				departing++
			}
			if slices.ContainsFunc(p.Cluster, func(e service.Endpoint) bool { return e.Weight > 0 }) {
				weighted++
			}
		}
	}
	for name, n := range map[string]int{"weights": weighted, "departing endpoints": departing, "schedulings": scheduled} {
		if n < ports/20 {
			t.Errorf("only %d of %d ports have %s: the worlds are too dull", n, ports, name)
		}
	}
}

// checkPort returns what is wrong with p, whose entries are eps, or "".
func (m *model) checkPort(p *service.Port, eps map[netip.AddrPort]entry) string {
	pools := map[string]service.Pool{"Cluster": p.Cluster, "Serving": p.Serving, "Departing": p.Departing, "Internal": p.Internal().Pool}
	for _, fe := range p.Frontends {
		for origin, r := range fe.Routes {
			pools[fmt.Sprintf("%s from %s", fe.Addr, service.Origin(origin))] = r.Pool
		}
	}
	for name, pool := range pools {
		for _, ep := range pool {
			if e, ok := eps[ep.Addr]; !ok || e.weight != ep.Weight {
				return fmt.Sprintf("%s: %v has the weight %d, want %d", name, ep.Addr, ep.Weight, e.weight)
			}
		}
	}
	var want []netip.AddrPort
	for a, e := range eps {
		if e.Terminating {
			want = append(want, a)
		}
	}
	slices.SortFunc(want, netip.AddrPort.Compare)
	var got []netip.AddrPort
	for _, ep := range p.Departing {
		got = append(got, ep.Addr)
	}
	if !slices.Equal(got, want) {
		return fmt.Sprintf("departing %v, want %v", got, want)
	}
	return ""
}
