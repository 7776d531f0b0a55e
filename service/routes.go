package service

import (
	"net/netip"
	"slices"
)

// clusterRoutes is the cluster-IP part of the table in the package comment.
func clusterRoutes(p Policy, c choice, node *Node, f Family) [NumOrigins]Route {
	pool := c.cluster
	if p == Local {
		pool = c.local
	}
	detects := node.Pods.Detects(f)
	return [NumOrigins]Route{
		FromPod:     route(pool, c.any, node.MasqueradeAll),
		FromHost:    route(pool, c.any, node.MasqueradeAll || detects),
		FromOutside: route(pool, c.any, node.MasqueradeAll || detects),
	}
}

// externalRoutes is the part of the table for external IPs, load-balancer IPs
// and node ports.
func externalRoutes(p Policy, c choice, node *Node, f Family) [NumOrigins]Route {
	if p == Cluster {
		r := route(c.cluster, c.any, true)
		return [NumOrigins]Route{r, r, r}
	}
	outside := route(c.local, c.any, false)
	pod := outside
	if node.Pods.Detects(f) {
		pod = route(c.cluster, c.any, false)
	}
	return [NumOrigins]Route{
		FromPod:     pod,
		FromHost:    route(c.cluster, c.any, true),
		FromOutside: outside,
	}
}

// route is the rule for empty pools: Drop when an endpoint is usable elsewhere,
// Reject when there is none.
func route(p Pool, usable, masquerade bool) Route {
	switch {
	case len(p) > 0:
		return Route{Verdict: Forward, Pool: p, Masquerade: masquerade}
	case usable:
		return Route{Verdict: Drop}
	default:
		return Route{Verdict: Reject}
	}
}

// sources returns who may call the load-balancer IP vip of v: nil for everyone.
// Ranges of the other family leave nobody here, where kube-proxy would let
// everyone in. A range that holds the node's own address lets the VIP itself
// in too, since a node that has the VIP on an interface calls from it.
func sources(v *Service, vip netip.Addr, node *Node) []netip.Prefix {
	if !v.Restricted {
		return nil
	}
	f := FamilyOf(vip)
	out := []netip.Prefix{}
	self := false
	for _, r := range v.SourceRanges {
		if FamilyOf(r.Addr()) != f {
			continue
		}
		if r.Bits() == 0 {
			return nil
		}
		self = self || r.Contains(node.Primary[f])
		out = append(out, r.Masked())
	}
	if self {
		out = append(out, netip.PrefixFrom(vip, f.Bits()))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// allows reports whether src is among the allowed callers of fe.
func (fe *Frontend) allows(src netip.Addr) bool {
	return fe.Sources == nil ||
		slices.ContainsFunc(fe.Sources, func(p netip.Prefix) bool { return p.Contains(src) })
}

// dead reports whether nobody can be served at fe, because no endpoint is
// usable anywhere. It is decided before source ranges.
func (fe *Frontend) dead() bool {
	return fe.Routes[FromHost].Verdict == Reject
}

// Leftover says what must happen to a new connection to fe that no Route
// forwards: Reject if nothing serves it, Drop if only this caller is not
// served, Pass if every caller is served.
func (fe *Frontend) Leftover() Verdict {
	if fe.dead() {
		return Reject
	}
	if fe.Sources != nil {
		return Drop
	}
	for _, r := range fe.Routes {
		if r.Verdict != Forward {
			return Drop
		}
	}
	return Pass
}
