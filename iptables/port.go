package iptables

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// A planner renders Ports for one family. It is pure.
type planner struct {
	cfg    Config
	family xt.Family
	node   *service.Node

	// written says of a chain that is named by its contents that it need not be
	// rendered: a large pool is mostly what it was before a change.
	written func(chain string) bool
}

// A portPlan is what one Port needs of the kernel. Chains are in the nat table.
type portPlan struct {
	chains  []xt.Chain          // frontends and pools; without rules if written already
	nat     []*entry            // where its frontends are entered
	filter  []*entry            // what to do with packets that nat left alone
	ports   []*entry            // as nat, for node ports
	closed  []*entry            // as filter, for node ports
	hairpin []*entry            // endpoints that may be their own callers, without xt_bpf
	callers map[netip.Addr]bool // those in hairpin
}

// port renders one Port.
func (pl *planner) port(p *service.Port) *portPlan {
	out := &portPlan{}
	if !pl.can(p) {
		return out
	}
	routes := make([][]way, len(p.Frontends))
	for i := range p.Frontends {
		if fe := &p.Frontends[i]; forwards(fe) {
			routes[i] = pl.routes(p, fe)
		}
	}
	for i := range p.Frontends {
		if last := len(routes[i]) - 1; last > 0 {
			routes[i][last].alone = users(routes, routes[i][last].pool) == 1
		}
		pl.frontend(p, &p.Frontends[i], routes[i], out)
	}
	return out
}

// A way is one rule of the Routes of a frontend.
type way struct {
	rule  xt.Rule      // its target is missing if it leads to pool
	pool  service.Pool // nil for another target
	alone bool         // no other way of the Port leads to pool
}

// users returns how many ways lead to pool.
func users(routes [][]way, pool service.Pool) int {
	n := 0
	for _, ways := range routes {
		for i := range ways {
			if slices.Equal(ways[i].pool, pool) {
				n++
			}
		}
	}
	return n
}

// can reports whether the kernel can match the ports of p.
func (pl *planner) can(p *service.Port) bool {
	return p.ID.Protocol != service.SCTP || pl.cfg.SCTP
}

// frontend adds one frontend: a leaf rule that enters its chain, the chain, the
// pools behind it, and in filter what happens to those it does not forward.
func (pl *planner) frontend(p *service.Port, fe *service.Frontend, routes []way, out *portPlan) {
	e := entry{protocol: p.ID.Protocol, port: fe.Addr.Port(), comment: comment(p, fe)}
	nat, filter := &out.nat, &out.filter
	if fe.Kind == service.NodePort {
		nat, filter = &out.ports, &out.closed
		e.key = portKey(e.protocol, e.port)
	} else {
		e.addr = fe.Addr.Addr()
		e.key = addrKey(e.addr)
	}
	if len(routes) > 0 {
		enter := e
		enter.target = xt.Goto{Chain: pl.entrance(p, fe, routes, out)}
		*nat = append(*nat, &enter)
	}
	switch fe.Leftover() {
	case service.Reject:
		if fe.Kind != service.ClusterIP { // the rest entry below does it
			refuse := e
			refuse.target = xt.Reject{}
			*filter = append(*filter, &refuse)
		}
	case service.Drop:
		lose := e
		lose.target = xt.DropPacket{}
		*filter = append(*filter, &lose)
	}
	if fe.Kind == service.ClusterIP {
		*filter = append(*filter, &entry{
			key: e.key, addr: e.addr, rest: true,
			target: xt.Reject{}, comment: p.ID.Service.String() + " has no such port",
		})
	}
}

func comment(p *service.Port, fe *service.Frontend) string {
	s := p.ID.Service.String()
	if p.ID.Port != "" {
		s += ":" + p.ID.Port
	}
	return s + " " + fe.Kind.String()
}

func forwards(fe *service.Frontend) bool {
	for i := range fe.Routes {
		if fe.Routes[i].Verdict == service.Forward {
			return true
		}
	}
	return false
}

// entrance returns the chain that packets to fe enter, after adding it: the one
// with its Routes, or one before it that lets only allowed callers through.
// Others return, and the filter table drops them.
func (pl *planner) entrance(p *service.Port, fe *service.Frontend, routes []way, out *portPlan) string {
	name := pl.start(p, fe, routes, out)
	if fe.Sources == nil {
		return name
	}
	allowed := xt.Chain{Name: frontendName(prefixAllowed, p.ID, fe)}
	for _, src := range fe.Sources {
		allowed.Rules = append(allowed.Rules, xt.Rule{
			Match:  []xt.Match{xt.Source{Prefix: src}},
			Target: xt.Goto{Chain: name},
		})
	}
	out.chains = append(out.chains, allowed)
	return allowed.Name
}

// start returns the chain with the Routes of fe, after adding it. A pool that is
// chosen last, and nowhere else, is chosen from in that same chain, which is named by
// its contents then: the entry of the tree leads to another chain when an endpoint
// changes. All others have a chain of their own, which the Routes lead to.
func (pl *planner) start(p *service.Port, fe *service.Frontend, routes []way, out *portPlan) string {
	rules := make([]xt.Rule, 0, len(routes))
	for i, w := range routes {
		if w.pool != nil {
			if i == len(routes)-1 && len(w.rule.Match) == 0 && (w.alone || i == 0) {
				return pl.pool(p, w.pool, rules, out)
			}
			w.rule.Target = xt.Goto{Chain: pl.pool(p, w.pool, nil, out)}
		}
		rules = append(rules, w.rule)
	}
	name := frontendName(prefixFrontend, p.ID, fe)
	out.chains = append(out.chains, xt.Chain{Name: name, Rules: rules})
	return name
}

// routes renders the three Routes of a frontend in as few rules as they allow.
func (pl *planner) routes(p *service.Port, fe *service.Frontend) []way {
	pod, host, outside := fe.Routes[service.FromPod], fe.Routes[service.FromHost], fe.Routes[service.FromOutside]
	detects := pl.node.Pods.Detects(p.ID.Family)
	hostDiffers := !sameRoute(host, outside)
	if detects && !hostDiffers && outside.Masquerade && !pod.Masquerade && sameTarget(pod, outside) {
		// The common cluster IP: everyone but pods is masqueraded.
		mark := xt.Rule{Match: pl.fromPod(true), Target: xt.Jump{Chain: chainMark}}
		return append([]way{{rule: mark}}, forward(nil, pod)...)
	}
	var ways []way
	if detects && (!sameRoute(pod, outside) || hostDiffers && !sameRoute(pod, host)) {
		ways = forward(pl.fromPod(false), pod)
	}
	if hostDiffers {
		ways = append(ways, forward([]xt.Match{xt.SrcType{}}, host)...)
	}
	if outside.Verdict == service.Forward {
		ways = append(ways, forward(nil, outside)...)
	}
	return ways
}

func sameRoute(a, b service.Route) bool {
	return sameTarget(a, b) && a.Masquerade == b.Masquerade
}

func sameTarget(a, b service.Route) bool {
	return a.Verdict == b.Verdict && slices.Equal(a.Pool, b.Pool)
}

// fromPod matches packets from pods on this node, or with not all others.
func (pl *planner) fromPod(not bool) []xt.Match {
	d := pl.node.Pods
	if d.Interface == "" {
		return []xt.Match{xt.Source{Prefix: d.Prefixes[pl.family], Not: not}}
	}
	name := d.Interface
	if d.IsPrefix {
		name += "+"
	}
	return []xt.Match{xt.InIface{Name: name, Not: not}}
}

// forward renders one Route for the packets that match. Where nothing may be
// reached they return, still addressed to the frontend, to what the filter table
// does with them.
func forward(match []xt.Match, r service.Route) []way {
	if r.Verdict != service.Forward {
		return []way{{rule: xt.Rule{Match: match, Target: xt.Return{}}}}
	}
	var ways []way
	if r.Masquerade {
		ways = append(ways, way{rule: xt.Rule{Match: match, Target: xt.Jump{Chain: chainMark}}})
	}
	return append(ways, way{rule: xt.Rule{Match: match}, pool: r.Pool})
}

// caller notes, for a kernel without xt_bpf, the address at which ep may turn out
// to be its own caller.
func (pl *planner) caller(p *service.Port, ep service.Endpoint, out *portPlan) {
	addr := ep.Addr.Addr()
	if pl.cfg.BPF || out.callers[addr] {
		return
	}
	if out.callers == nil {
		out.callers = make(map[netip.Addr]bool)
	}
	out.callers[addr] = true
	out.hairpin = append(out.hairpin, &entry{
		key: addrKey(addr), addr: addr, rest: true, source: true,
		target: xt.Goto{Chain: chainMark}, comment: "sent back to its caller",
	})
}

func protocol(p service.Protocol) xt.Protocol {
	switch p {
	case service.UDP:
		return xt.UDP
	case service.SCTP:
		return xt.SCTP
	default:
		return xt.TCP
	}
}
