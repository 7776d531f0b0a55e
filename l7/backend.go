package l7

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"weak"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/upstream"
	"github.com/fairlead-project/fairlead/service"
)

// A backend is one port of one Service with its endpoints. All rules that lead there share it.
type backend struct {
	key  ingress.BackendKey
	pool *balance.Pool

	ports   []*service.Port // that it was resolved from
	name    *externalName   // not nil: the Service stands for a DNS name
	trouble trouble         // why there can be no endpoint
	model   *ingress.BackendModel
	hosts   map[string]struct{} // whose rules lead here
	addrs   []service.Endpoint  // of the name

	ways  map[wayKey]weak.Pointer[way] // that rules have, as long as there are any
	sweep int                          // at how many to look for those that none has any more

	external atomic.Bool   // name is not nil
	app      atomic.Uint32 // upstream.Protocol that the Service says, HTTP if it does not
}

// A trouble is why a backend does not exist. The zero trouble is none.
type trouble struct {
	reason, text string
}

func (s *Server) newBackend(key ingress.BackendKey) *backend {
	return &backend{
		key: key, hosts: make(map[string]struct{}), ways: make(map[wayKey]weak.Pointer[way]),
		pool: balance.NewPool(key.String(), balance.Options{Checker: s.checker, Key: s.key}),
	}
}

// setModel takes over what rules say about all who lead to b. s.mu is held.
func (b *backend) setModel(m *ingress.BackendModel) {
	b.model = m
	b.pool.SetHealth(b.health())
}

// health is how endpoints are told good or bad. What they are asked in active checks is asked in the protocol that they
// speak; of those that speak HTTP/2 alone it only is whether they can be connected to.
func (b *backend) health() balance.Health {
	if b.model == nil {
		return balance.Health{}
	}
	h := b.model.Health
	if h.Check == nil {
		return h
	}
	check := *h.Check
	p := protocolOf(b.model.Protocol)
	if p == upstream.HTTP {
		p = b.protocol()
	}
	switch p {
	case upstream.HTTPS:
		check.TLS = true
	case upstream.GRPC, upstream.GRPCS, upstream.H2C:
		check.Path = ""
	}
	h.Check = &check
	return h
}

// protocol is what the Service says about its port (appProtocol).
func (b *backend) protocol() upstream.Protocol { return upstream.Protocol(b.app.Load()) }

// setEndpoints takes over a Snapshot and returns how many backends have changed. s.mu is held.
func (s *Server) setEndpoints(snap *service.Snapshot) int {
	ports := make(map[service.Name][]*service.Port, len(s.ports))
	for p := range snap.Ports.All() {
		ports[p.ID.Service] = append(ports[p.ID.Service], p)
	}
	external := make(map[service.Name]*service.External, len(snap.External))
	for _, e := range snap.External {
		external[e.Service] = e
	}
	before := slices.Concat(s.missingProblems(), s.fallbackProblems())
	oldPorts, oldExternal, gone := s.ports, s.external, s.last
	s.ports, s.external, s.last = ports, external, snap
	changed := 0
	each := func(b *backend) {
		n := b.key.Service
		if gone != nil && oldExternal[n] == external[n] && slices.Equal(oldPorts[n], ports[n]) {
			return
		}
		s.resolve(b)
		changed++
	}
	for _, b := range s.backends {
		each(b)
	}
	if s.fallback != nil {
		each(s.fallback.backend)
	}
	s.forget(oldPorts)
	s.reportMissing(before)
	return changed
}

// resolve finds the endpoints of b. s.mu is held.
func (s *Server) resolve(b *backend) {
	trouble, name, protocol := b.trouble, b.name != nil, b.protocol()
	s.findEndpoints(b)
	if b.trouble != trouble || name != (b.name != nil) {
		for host := range b.hosts {
			s.missing.doubtful[host] = struct{}{}
		}
	}
	if b.protocol() != protocol {
		b.pool.SetHealth(b.health())
	}
}

func (s *Server) findEndpoints(b *backend) {
	n := b.key.Service
	old := b.name
	b.ports, b.name, b.trouble = nil, nil, trouble{}
	b.external.Store(s.external[n] != nil)
	if e := s.external[n]; e != nil {
		s.resolveExternal(b, e, old)
		return
	}
	list := slices.Clone(s.ports[n])
	slices.SortStableFunc(list, func(p, q *service.Port) int { return p.Index - q.Index })
	if len(list) == 0 {
		b.trouble = trouble{"BackendNotFound", "there is no Service " + n.String() + " with ports"}
		b.pool.Set(nil, nil)
		return
	}
	choices := make([]ingress.ServicePort, len(list))
	for i, p := range list {
		choices[i] = ingress.ServicePort{Name: p.ID.Port, Number: p.Number, Protocol: p.ID.Protocol}
	}
	i, err := ingress.ChoosePort(b.key.Port, choices)
	if err != nil {
		b.trouble = trouble{"PortNotFound", "Service " + n.String() + ": " + err.Error()}
		b.pool.Set(nil, nil)
		return
	}
	for _, p := range list {
		if p.ID.Port == list[i].ID.Port && p.ID.Protocol == list[i].ID.Protocol {
			b.ports = append(b.ports, p)
		}
	}
	b.app.Store(uint32(appProtocol(list[i].AppProtocol)))
	b.pool.Set(s.endpointsOf(b))
}

// endpointsOf returns where b leads: the endpoints of one family, since a pod with two has two
// addresses. That of this node's first address comes first; the other one is for Services without the first.
func (s *Server) endpointsOf(b *backend) (eps, serving []service.Endpoint) {
	sorted := slices.Clone(b.ports)
	first := service.IPv4
	if !s.last.Node.Primary[service.IPv4].IsValid() && s.last.Node.Primary[service.IPv6].IsValid() {
		first = service.IPv6
	}
	slices.SortStableFunc(sorted, func(p, q *service.Port) int {
		return int(p.ID.Family^first) - int(q.ID.Family^first)
	})
	for _, p := range sorted {
		if b.key.Address {
			if vip, ok := clusterIP(p); ok {
				return []service.Endpoint{{Addr: vip}}, nil
			}
			continue
		}
		if r := p.Internal(); r.Verdict == service.Forward {
			return r.Pool, p.Serving
		}
	}
	return nil, nil
}

func clusterIP(p *service.Port) (netip.AddrPort, bool) {
	for i := range p.Frontends {
		if p.Frontends[i].Kind == service.ClusterIP {
			return p.Frontends[i].Addr, true
		}
	}
	return netip.AddrPort{}, false
}

// appProtocol is what KEP-3726 says a Service can say.
func appProtocol(name string) upstream.Protocol {
	switch name {
	case "kubernetes.io/h2c":
		return upstream.H2C
	case "https", "HTTPS", "kubernetes.io/wss":
		return upstream.HTTPS
	}
	return upstream.HTTP
}

// forget closes idle connections to endpoints that no port of a Snapshot has any more.
func (s *Server) forget(old map[service.Name][]*service.Port) {
	for name, ports := range old {
		if slices.Equal(ports, s.ports[name]) {
			continue
		}
		still := make(map[netip.AddrPort]bool)
		for _, p := range s.ports[name] {
			for _, e := range p.Serving {
				still[e.Addr] = true
			}
		}
		for _, p := range ports {
			for _, e := range p.Serving {
				if !still[e.Addr] {
					s.client.Forget(e.Addr)
				}
			}
		}
	}
}
