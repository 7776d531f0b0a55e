package service

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// A claim is an address, port and protocol that Services want answered.
type claim struct {
	addr     netip.AddrPort
	protocol Protocol
}

// A claimant is who wants it. A port of -1 stands for the health-check node
// port, which is a listener on every address of the node.
type claimant struct {
	svc  *Service
	port int32
	kind Kind
}

const healthCheck = -1

// compare orders claimants: the first one gets what it claims. Kubernetes leaves
// this undefined; here a cluster IP, which only the API server hands out, goes
// before what a user may write (CVE-2020-8554); then the older Service wins, then
// the one first by name.
func (c claimant) compare(o claimant) int {
	rank := func(k Kind) int { return min(int(k), 1) }
	return cmp.Or(
		cmp.Compare(rank(c.kind), rank(o.kind)),
		c.svc.Created.Compare(o.svc.Created),
		c.svc.Name.Compare(o.svc.Name),
		cmp.Compare(c.port, o.port),
		cmp.Compare(c.kind, o.kind),
	)
}

// claims yields what v wants answered.
func (v *Service) claims() iter.Seq2[claim, claimant] {
	return func(yield func(claim, claimant) bool) {
		for _, f := range v.Families {
			if v.HealthCheckNodePort != 0 {
				c := claim{netip.AddrPortFrom(f.Any(), v.HealthCheckNodePort), TCP}
				if !yield(c, claimant{v, healthCheck, NodePort}) {
					return
				}
			}
			for i, p := range v.Ports {
				for kind, addr := range v.addresses(f, p) {
					if !yield(claim{addr, p.Protocol}, claimant{v, int32(i), kind}) {
						return
					}
				}
			}
		}
	}
}

// addresses yields the frontends of one port in one family, in the order they
// have in a Port. An address may occur more than once.
func (v *Service) addresses(f Family, p ServicePort) iter.Seq2[Kind, netip.AddrPort] {
	return func(yield func(Kind, netip.AddrPort) bool) {
		lists := [...][]netip.Addr{ClusterIP: v.ClusterIPs, ExternalIP: v.ExternalIPs, LoadBalancerIP: v.LoadBalancerIPs}
		for kind, list := range lists {
			for _, a := range sortedOf(list, f) {
				if !yield(Kind(kind), netip.AddrPortFrom(a, p.Port)) {
					return
				}
			}
		}
		if p.NodePort != 0 {
			yield(NodePort, netip.AddrPortFrom(f.Any(), p.NodePort))
		}
	}
}

func sortedOf(list []netip.Addr, f Family) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		if FamilyOf(a) == f {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// A ledger knows who claims what.
type ledger map[claim][]claimant

// add enters the claims of v and calls disturb for every other Service that
// claims one of the same.
func (l ledger) add(v *Service, disturb func(Name)) {
	for c, who := range v.claims() {
		list := l[c]
		notify(list, v, disturb) // before Insert, which shifts the list in place
		i, _ := slices.BinarySearchFunc(list, who, claimant.compare)
		l[c] = slices.Insert(list, i, who)
	}
}

// remove takes the claims of v back.
func (l ledger) remove(v *Service, disturb func(Name)) {
	for c := range v.claims() {
		list := slices.DeleteFunc(l[c], func(who claimant) bool { return who.svc == v })
		if len(list) == 0 {
			delete(l, c)
			continue
		}
		l[c] = list
		notify(list, v, disturb)
	}
}

func notify(list []claimant, v *Service, disturb func(Name)) {
	for _, other := range list {
		if other.svc != v {
			disturb(other.svc.Name)
		}
	}
}

// wins reports whether who gets c. If not, the Problem says who does; it is the
// zero Problem when the same port already has the address by another field.
func (l ledger) wins(c claim, who claimant) (bool, Problem) {
	first := l[c][0]
	switch {
	case first == who:
		return true, Problem{}
	case first.svc == who.svc && first.port == who.port:
		return false, Problem{}
	}
	what := fmt.Sprintf("%s/%s", c.addr, c.protocol)
	if who.kind == NodePort {
		what = fmt.Sprintf("node port %d/%s (%s)", c.addr.Port(), c.protocol, FamilyOf(c.addr.Addr()))
	}
	by := "the older Service " + first.svc.Name.String()
	switch {
	case first.svc == who.svc:
		by = "another port of this Service"
	case first.kind == ClusterIP && who.kind != ClusterIP:
		by = "the Service " + first.svc.Name.String() + ", whose cluster IP it is"
	case first.svc.Created.Equal(who.svc.Created):
		by = "the Service " + first.svc.Name.String() + ", which is first by name"
	}
	return false, Problem{
		Object:  who.svc.object(),
		Reason:  "FrontendConflict",
		Field:   who.field(),
		Message: what + " is already answered for " + by + "; it is not answered for this one",
	}
}

// field returns the path of the claim in the API object.
func (c claimant) field() string {
	if c.port == healthCheck {
		return "spec.healthCheckNodePort"
	}
	return [...]string{
		ClusterIP:      "spec.clusterIPs",
		ExternalIP:     "spec.externalIPs",
		LoadBalancerIP: "status.loadBalancer.ingress",
		NodePort:       fmt.Sprintf("spec.ports[%d].nodePort", c.port),
	}[c.kind]
}

func (v *Service) object() Object {
	return Object{Kind: "Service", Name: v.Name, UID: v.UID}
}
