package service

import (
	"fmt"
	"net/netip"
	"slices"
)

// Resolve is the oracle: what must happen to the first packet of f. Every
// dataplane is tested against it; none may call it. It walks all ports, so that
// it is too plain to be wrong.
func (s *Snapshot) Resolve(f Flow) Outcome {
	out, _ := s.Explain(f)
	return out
}

// Explain is Resolve with the reasons, in order, one line each, for `fairlead
// trace`.
func (s *Snapshot) Explain(f Flow) (Outcome, []string) {
	port, fe := s.find(f)
	if fe == nil {
		return s.unclaimed(f)
	}
	origin := s.Node.Origin(f)
	why := []string{
		fmt.Sprintf("%s/%s is the %s of %s", f.Dst, f.Protocol, fe.Kind, port.ID),
		fmt.Sprintf("the caller %s counts as %s", f.Src, describe(origin)),
	}
	if fe.dead() {
		return Outcome{Verdict: Reject}, append(why, "no endpoint is usable anywhere in the cluster: rejected")
	}
	if !fe.allows(f.Src) {
		return Outcome{Verdict: Drop}, append(why, fmt.Sprintf("the caller is in none of the source ranges %v: dropped", fe.Sources))
	}
	r := fe.Routes[origin]
	if r.Verdict != Forward {
		return Outcome{Verdict: r.Verdict}, append(why, "this caller may only use endpoints on this node, and there are none: dropped")
	}
	return s.Node.forward(f, r), append(why, explainForward(r, port))
}

func describe(o Origin) string {
	return [...]string{"a pod on this node", "this node itself", "a caller from outside"}[o]
}

func explainForward(r Route, p *Port) string {
	line := fmt.Sprintf("forwarded to one of %d endpoints", len(r.Pool))
	if p.Affinity > 0 {
		line += fmt.Sprintf(" (the same one for %s per client)", p.Affinity)
	}
	if r.Masquerade {
		return line + ", which see the node's address"
	}
	return line + ", which see the caller's address unless it is their own"
}

// forward lists the hops of a Route for f, without weights: what may happen does
// not depend on how often. A packet that arrived and is sent to the node itself
// keeps its source whatever the Route says: it does not leave the node again, so
// its answer cannot bypass it.
func (n *Node) forward(f Flow, r Route) Outcome {
	out := Outcome{Verdict: Forward, Hops: make([]Hop, 0, len(r.Pool))}
	for _, ep := range r.Pool {
		stays := f.In != "" && n.isLocal(ep.Addr.Addr())
		masq := !stays && (r.Masquerade || ep.Addr.Addr() == f.Src)
		out.Hops = append(out.Hops, Hop{Endpoint: Endpoint{Addr: ep.Addr}, Masquerade: masq})
	}
	return out
}

// unclaimed handles a flow to no frontend. Whatever else is sent to a cluster IP
// would leave by the default route, so it is rejected, ping included.
func (s *Snapshot) unclaimed(f Flow) (Outcome, []string) {
	for p := range s.Ports.All() {
		for i := range p.Frontends {
			if fe := &p.Frontends[i]; fe.Kind == ClusterIP && fe.Addr.Addr() == f.Dst.Addr() {
				return Outcome{Verdict: Reject}, []string{fmt.Sprintf(
					"%s is the cluster IP of %s, which has no such port: rejected", f.Dst.Addr(), p.ID.Service)}
			}
		}
	}
	return Outcome{Verdict: Pass}, []string{fmt.Sprintf("%s/%s belongs to no Service: left alone", f.Dst, f.Protocol)}
}

// find returns the frontend f is sent to, or nil. An exact address comes before
// a node port.
func (s *Snapshot) find(f Flow) (*Port, *Frontend) {
	if f.Protocol == ICMP {
		return nil, nil
	}
	wild := netip.AddrPortFrom(FamilyOf(f.Dst.Addr()).Any(), f.Dst.Port())
	var nodePort *Port
	var nodeFrontend *Frontend
	for p := range s.Ports.All() {
		if p.ID.Protocol != f.Protocol {
			continue
		}
		for i := range p.Frontends {
			switch fe := &p.Frontends[i]; {
			case fe.Kind != NodePort && fe.Addr == f.Dst:
				return p, fe
			case fe.Kind == NodePort && fe.Addr == wild && s.Node.AnswersNodePorts(f.Dst.Addr()):
				nodePort, nodeFrontend = p, fe
			}
		}
	}
	return nodePort, nodeFrontend
}

// AnswersNodePorts reports whether node ports answer at a.
func (n *Node) AnswersNodePorts(a netip.Addr) bool {
	f := FamilyOf(a)
	if a.IsLoopback() {
		if f == IPv6 || !n.LocalhostPorts {
			return false
		}
	} else if !n.isLocal(a) {
		return false
	}
	return slices.ContainsFunc(n.PortAddrs[f], func(p netip.Prefix) bool { return p.Contains(a) })
}

// Origin says who sent f.
func (n *Node) Origin(f Flow) Origin {
	switch {
	case n.Pods.Detects(FamilyOf(f.Src)) && n.Pods.Match(f.Src, f.In):
		return FromPod
	case f.Src.IsLoopback() || n.isLocal(f.Src):
		return FromHost
	default:
		return FromOutside
	}
}

func (n *Node) isLocal(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(n.Addrs, a, netip.Addr.Compare)
	return ok
}
