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
	for i := range p.Frontends {
		pl.frontend(p, &p.Frontends[i], out)
	}
	return out
}

// can reports whether the kernel can match the ports of p.
func (pl *planner) can(p *service.Port) bool {
	return p.ID.Protocol != service.SCTP || pl.cfg.SCTP
}

// frontend adds one frontend: a leaf rule that enters its chain, the chain, the
// pools behind it, and in filter what happens to those it does not forward.
func (pl *planner) frontend(p *service.Port, fe *service.Frontend, out *portPlan) {
	e := entry{protocol: p.ID.Protocol, port: fe.Addr.Port(), comment: comment(p, fe)}
	nat, filter := &out.nat, &out.filter
	if fe.Kind == service.NodePort {
		nat, filter = &out.ports, &out.closed
		e.key = portKey(e.protocol, e.port)
	} else {
		e.addr = fe.Addr.Addr()
		e.key = addrKey(e.addr)
	}
	if forwards(fe) {
		enter := e
		enter.target = xt.Goto{Chain: pl.entrance(p, fe, out)}
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

// entrance returns the chain that packets to fe enter, after adding it: the
// frontend's own, or one before it that lets only allowed callers through.
// Others return, and the filter table drops them.
func (pl *planner) entrance(p *service.Port, fe *service.Frontend, out *portPlan) string {
	name := frontendName(prefixFrontend, p.ID, fe)
	out.chains = append(out.chains, xt.Chain{Name: name, Rules: pl.routes(p, fe, out)})
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

// routes renders the three Routes of a frontend in as few rules as they allow.
func (pl *planner) routes(p *service.Port, fe *service.Frontend, out *portPlan) []xt.Rule {
	pod, host, outside := fe.Routes[service.FromPod], fe.Routes[service.FromHost], fe.Routes[service.FromOutside]
	detects := pl.node.Pods.Detects(p.ID.Family)
	hostDiffers := !sameRoute(host, outside)
	if detects && !hostDiffers && outside.Masquerade && !pod.Masquerade && sameTarget(pod, outside) {
		// The common cluster IP: everyone but pods is masqueraded.
		mark := xt.Rule{Match: pl.fromPod(true), Target: xt.Jump{Chain: chainMark}}
		return append([]xt.Rule{mark}, pl.forward(p, nil, pod, out)...)
	}
	var rules []xt.Rule
	if detects && (!sameRoute(pod, outside) || hostDiffers && !sameRoute(pod, host)) {
		rules = pl.forward(p, pl.fromPod(false), pod, out)
	}
	if hostDiffers {
		rules = append(rules, pl.forward(p, []xt.Match{xt.SrcType{}}, host, out)...)
	}
	if outside.Verdict == service.Forward {
		rules = append(rules, pl.forward(p, nil, outside, out)...)
	}
	return rules
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
func (pl *planner) forward(p *service.Port, match []xt.Match, r service.Route, out *portPlan) []xt.Rule {
	if r.Verdict != service.Forward {
		return []xt.Rule{{Match: match, Target: xt.Return{}}}
	}
	var rules []xt.Rule
	if r.Masquerade {
		rules = append(rules, xt.Rule{Match: match, Target: xt.Jump{Chain: chainMark}})
	}
	return append(rules, xt.Rule{Match: match, Target: xt.Goto{Chain: pl.pool(p, r.Pool, out)}})
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
