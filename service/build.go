package service

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// build turns a Service and its slices, by name, into ports.
func (s *Store) build(v *Service, all []*Slice) built {
	b := built{ports: make([]*Port, 0, len(v.Families)*len(v.Ports)), external: v.external()}
	for _, f := range v.Families {
		var local map[netip.Addr]bool
		if v.HealthCheckNodePort != 0 {
			local = make(map[netip.Addr]bool)
		}
		for i := range v.Ports {
			id := PortID{Service: v.Name, Port: v.Ports[i].Name, Protocol: v.Ports[i].Protocol, Family: f}
			cs := s.desk.candidates(all, id, s.node.Name)
			b.ports = append(b.ports, s.port(v, i, id, s.desk.choose(cs, &s.node), &b))
			if local == nil {
				continue
			}
			for _, c := range cs {
				if c.local && c.Ready {
					local[c.addr.Addr()] = true
				}
			}
		}
		s.health(v, f, len(local), &b)
	}
	slices.SortStableFunc(b.ports, func(x, y *Port) int { return x.ID.Compare(y.ID) })
	b.ports = slices.CompactFunc(b.ports, func(x, y *Port) bool { return x.ID == y.ID })
	return b
}

// external returns v as an External, or nil if it has endpoints.
func (v *Service) external() *External {
	if v.ExternalName == "" {
		return nil
	}
	e := &External{Service: v.Name, Host: v.ExternalName}
	for _, p := range v.Ports {
		e.Ports = append(e.Ports, ExternalPort{Name: p.Name, Protocol: p.Protocol, Number: p.Port, AppProtocol: p.AppProtocol})
	}
	return e
}

// port builds one Port with the frontends it has won.
func (s *Store) port(v *Service, i int, id PortID, c choice, b *built) *Port {
	p := &Port{
		ID: id, Number: v.Ports[i].Port, Index: i, Affinity: v.Affinity, Scheduling: v.Scheduling,
		AppProtocol: v.Ports[i].AppProtocol,
		Cluster:     c.cluster, Serving: c.serving, Departing: c.departing,
	}
	internal := clusterRoutes(v.Internal, c, &s.node, id.Family)
	external := externalRoutes(v.External, c, &s.node, id.Family)
	p.internal = internal[FromHost]
	if v.Headless {
		return p
	}
	for kind, addr := range v.addresses(id.Family, v.Ports[i]) {
		if slices.ContainsFunc(p.Frontends, func(fe Frontend) bool { return fe.Addr == addr }) {
			continue
		}
		won, problem := s.ledger.wins(claim{addr, id.Protocol}, claimant{v, int32(i), kind})
		if !won {
			if problem.Reason != "" {
				b.problems = append(b.problems, problem)
			}
			continue
		}
		fe := Frontend{Kind: kind, Addr: addr, Routes: external}
		switch kind {
		case ClusterIP:
			fe.Routes = internal
		case LoadBalancerIP:
			fe.Sources = sources(v, addr.Addr(), &s.node)
		}
		p.Frontends = append(p.Frontends, fe)
	}
	return p
}

// health adds the health-check node port of v in one family.
func (s *Store) health(v *Service, f Family, local int, b *built) {
	if v.HealthCheckNodePort == 0 {
		return
	}
	c := claim{netip.AddrPortFrom(f.Any(), v.HealthCheckNodePort), TCP}
	won, problem := s.ledger.wins(c, claimant{v, healthCheck, NodePort})
	if !won {
		b.problems = append(b.problems, problem)
		return
	}
	b.health = append(b.health, HealthPort{Service: v.Name, Family: f, Port: v.HealthCheckNodePort, Local: local})
}

func (h HealthPort) compare(o HealthPort) int {
	return cmp.Or(h.Service.Compare(o.Service), cmp.Compare(h.Family, o.Family))
}

func (p Problem) compare(o Problem) int {
	return cmp.Or(
		strings.Compare(p.Object.Kind, o.Object.Kind),
		p.Object.Name.Compare(o.Object.Name),
		strings.Compare(p.Field, o.Field),
		strings.Compare(p.Message, o.Message),
	)
}
