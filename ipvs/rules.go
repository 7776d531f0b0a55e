package ipvs

import (
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// Our chains. In each table they are entered from the built-in chain of the same
// name, except as said.
const (
	chainPre     = "FL-PREROUTING"
	chainNew     = "FL-NEW"   // first packets, from FL-PREROUTING
	chainRoute   = "FL-ROUTE" // routes a packet to the node
	chainIn      = "FL-INPUT"
	chainOut     = "FL-OUTPUT"
	chainForward = "FL-FORWARD"
	chainNAT     = "FL-SERVICES" // from nat PREROUTING and OUTPUT
	chainShort   = "FL-SHORT"    // callers on this node that get another pool
	chainPost    = "FL-POSTROUTING"
)

// hooks are our jumps in the built-in chains.
func hooks() []xt.Hook {
	return []xt.Hook{
		{Table: xt.Mangle, Builtin: "PREROUTING", Chain: chainPre},
		{Table: xt.Mangle, Builtin: "INPUT", Chain: chainIn},
		{Table: xt.Mangle, Builtin: "OUTPUT", Chain: chainOut},
		{Table: xt.NAT, Builtin: "PREROUTING", Chain: chainNAT},
		{Table: xt.NAT, Builtin: "OUTPUT", Chain: chainNAT},
		{Table: xt.NAT, Builtin: "POSTROUTING", Chain: chainPost},
		{Table: xt.Filter, Builtin: "INPUT", Chain: chainIn},
		{Table: xt.Filter, Builtin: "FORWARD", Chain: chainForward},
		{Table: xt.Filter, Builtin: "OUTPUT", Chain: chainOut},
	}
}

// A family writes the rules of one family.
type family struct {
	*planner
	f    service.Family
	icmp xt.Match
}

// rules returns all rules of a family. They depend on nothing but the Config and
// on how pods are told from others.
func (pl *planner) rules(f xt.Family) *xt.Ruleset {
	fam := family{planner: pl, f: service.Family(f), icmp: xt.Proto{Protocol: xt.ICMP}}
	if f == xt.IPv6 {
		fam.icmp = xt.Proto{Protocol: xt.ICMPv6}
	}
	r := &xt.Ruleset{Family: f, Hooks: hooks(), Chains: map[xt.ChainRef][]xt.Rule{
		{Table: xt.Mangle, Name: chainPre}:     fam.preRouting(),
		{Table: xt.Mangle, Name: chainNew}:     fam.first(),
		{Table: xt.Mangle, Name: chainRoute}:   fam.toNode(),
		{Table: xt.Mangle, Name: chainIn}:      fam.arrived(),
		{Table: xt.Mangle, Name: chainOut}:     fam.sent(),
		{Table: xt.NAT, Name: chainNAT}:        fam.translate(),
		{Table: xt.NAT, Name: chainShort}:      fam.short(),
		{Table: xt.NAT, Name: chainPost}:       fam.postRouting(),
		{Table: xt.Filter, Name: chainIn}:      fam.input(),
		{Table: xt.Filter, Name: chainForward}: fam.forward(),
		{Table: xt.Filter, Name: chainOut}:     fam.output(),
	}}
	xt.Seal(r, xt.Mangle, xt.NAT, xt.Filter)
	return r
}

var ( // states of connections
	isNew     = xt.CTState{States: xt.CTNew}
	isKnown   = xt.CTState{States: xt.CTRelated | xt.CTEstablished}
	isRelated = xt.CTState{States: xt.CTRelated}
	isTracked = xt.CTState{States: xt.CTNew | xt.CTRelated | xt.CTEstablished}
	isDNAT    = xt.CTState{States: xt.CTDNAT}
)

func rule(t xt.Target, m ...xt.Match) xt.Rule { return xt.Rule{Match: m, Target: t} }

// in matches packets whose destination, address and port, is in a set.
func (fam *family) in(m member) xt.InSet {
	for i := range numMembers {
		if m == 1<<i {
			return xt.InSet{Set: memberSet(fam.f, i), Dirs: "dst,dst"}
		}
	}
	panic("ipvs: not one set")
}

// to matches packets whose destination address has a use.
func (fam *family) to(u use) xt.InSet {
	for i, name := range useNames() {
		if u == 1<<i {
			return xt.InSet{Set: setName(fam.f, name), Dirs: "dst"}
		}
	}
	panic("ipvs: no set for this use")
}

// strangers matches packets of callers that a unit with source ranges does not
// allow.
func (fam *family) strangers() []xt.Match {
	return []xt.Match{fam.in(inFW), xt.InSet{Set: setName(fam.f, allowedSet), Dirs: "dst,dst,src", Not: true}}
}

// pods returns a match for packets from pods on this node, or with not from all
// others; none if they cannot be told.
func (fam *family) pods(not bool) []xt.Match {
	d := fam.node.Pods
	switch {
	case !d.Detects(fam.f):
		return nil
	case d.Interface == "":
		return []xt.Match{xt.Source{Prefix: d.Prefixes[fam.f], Not: not}}
	case d.IsPrefix:
		return []xt.Match{xt.InIface{Name: d.Interface + "+", Not: not}}
	default:
		return []xt.Match{xt.InIface{Name: d.Interface, Not: not}}
	}
}

// preRouting decides what is routed to the node. It sees every packet that
// arrives.
func (fam *family) preRouting() []xt.Rule {
	rules := []xt.Rule{
		// Somebody translates this connection, perhaps we (FL-SHORT): from its
		// second packet on it needs no virtual server.
		rule(xt.Return{}, isDNAT),
		rule(xt.Goto{Chain: chainNew}, isNew),
	}
	if fam.routed() {
		mark := xt.OrMark{Bits: fam.cfg.routeMark()}
		rules = append(rules,
			rule(mark, fam.in(inVIP)),
			rule(mark, fam.icmp, isKnown, fam.to(useAddr)), // not neighbour discovery: see sent
			// External IPs may be addresses of other machines, whose own ICMP is
			// none of our business. Errors about a connection are.
			rule(mark, fam.icmp, isRelated, fam.to(useExt)),
		)
	}
	return rules
}

// first decides about first packets. Those that no endpoint may have, and that
// are not dropped, go on as if there were no virtual server; the filter table
// rejects them.
func (fam *family) first() []xt.Rule {
	rules := []xt.Rule{rule(xt.DropPacket{}, fam.strangers()...)}
	for _, who := range fam.callers() {
		rules = append(rules, rule(xt.Goto{Chain: chainRoute}, append(who, fam.in(inShort))...))
	}
	rules = append(rules,
		rule(xt.DropPacket{}, fam.in(inDrop)),
		rule(xt.Return{}, fam.in(inRefuse)),
	)
	if fam.routed() {
		rules = append(rules,
			rule(xt.Goto{Chain: chainRoute}, fam.in(inVIP)),
			rule(xt.Goto{Chain: chainRoute}, fam.icmp, fam.to(useAddr)),
		)
	}
	return rules
}

// callers returns matches for those who get another pool than callers from
// outside, where there are two: pods on this node, and the node.
func (fam *family) callers() [][]xt.Match {
	host := []xt.Match{xt.SrcType{}}
	if pods := fam.pods(false); pods != nil {
		return [][]xt.Match{pods, host}
	}
	return [][]xt.Match{host}
}

func (fam *family) toNode() []xt.Rule {
	if !fam.routed() {
		return nil
	}
	return []xt.Rule{rule(xt.OrMark{Bits: fam.cfg.routeMark()})}
}

// arrived clears the mark of packets that have reached the node: IPVS sends them
// on, and with the mark they would come straight back.
func (fam *family) arrived() []xt.Rule {
	if !fam.routed() {
		return nil
	}
	mark := fam.cfg.routeMark()
	return []xt.Rule{rule(xt.ClearMark{Bits: mark}, xt.MarkIs{Value: mark, Mask: mark})}
}

// sent decides about packets of the node itself. IPVS takes them in OUTPUT, after
// mangle and nat and before filter, so what is to be dropped is dropped here.
//
// To an endpoint that is the node itself IPVS sends a packet by the route it has
// already, which must lead to the node then: hence the mark. What goes elsewhere
// comes by here again, with a route of its own, and must not be routed back.
//
// A load-balancer IP may be another machine's address too, which asks the node for its
// link-layer address from there. The answer must reach it. Neighbour discovery is
// never tracked (net/netfilter/nf_conntrack_proto_icmpv6.c).
func (fam *family) sent() []xt.Rule {
	mark := fam.cfg.routeMark()
	var rules []xt.Rule
	if fam.routed() {
		rules = append(rules, rule(xt.ClearMark{Bits: mark}, xt.ViaIPVS{}, xt.MarkIs{Value: mark, Mask: mark}))
	}
	rules = append(rules,
		rule(xt.Return{}, xt.ViaIPVS{}),
		rule(xt.Return{}, isDNAT), // as in preRouting
		rule(xt.DropPacket{}, append([]xt.Match{isNew}, fam.strangers()...)...),
	)
	if fam.routed() {
		rules = append(rules,
			rule(xt.OrMark{Bits: mark}, fam.in(inVIP)),
			rule(xt.OrMark{Bits: mark}, fam.in(inShort)),
			rule(xt.OrMark{Bits: mark}, fam.icmp, isTracked, fam.to(useAddr)),
		)
	}
	return append(rules,
		rule(xt.Return{}, isNew, fam.in(inShort)),
		rule(xt.DropPacket{}, isNew, fam.in(inDrop)),
	)
}

// translate marks what is to be masqueraded.
func (fam *family) translate() []xt.Rule {
	masq := xt.OrMark{Bits: fam.cfg.masqMark()}
	rules := []xt.Rule{
		rule(xt.Jump{Chain: chainShort}, fam.in(inShort)),
		rule(masq, fam.in(inMasq)),
	}
	if notPods := fam.pods(true); notPods != nil {
		rules = append(rules, rule(masq, append(notPods, fam.in(inMasqX))...))
	}
	return rules
}

// short sends callers on this node to the alias of what they call.
func (fam *family) short() []xt.Rule {
	alias := xt.NetMap{To: aliasPrefix(fam.f)}
	var rules []xt.Rule
	if pods := fam.pods(false); pods != nil {
		rules = append(rules, rule(alias, pods...))
	}
	return append(rules,
		rule(xt.OrMark{Bits: fam.cfg.masqMark()}, xt.SrcType{}),
		rule(alias, xt.SrcType{}),
	)
}

func (fam *family) postRouting() []xt.Rule {
	mark := fam.cfg.masqMark()
	return []xt.Rule{
		// A connection that is sent back to its caller.
		rule(xt.OrMark{Bits: mark}, xt.ViaIPVS{}, xt.SameAddr{Family: xt.Family(fam.f)}),
		rule(xt.Return{}, xt.MarkIs{Value: mark, Mask: mark, Not: true}),
		// Cleared, so that a packet that is encapsulated and comes by again is
		// not masqueraded twice.
		rule(xt.XorMark{Bits: mark}),
		rule(xt.Masquerade{RandomFully: fam.cfg.RandomFully}),
	}
}

// input guards what reaches the node. Packets for IPVS pass it too.
func (fam *family) input() []xt.Rule {
	rules := []xt.Rule{
		rule(xt.Accept{}, xt.Proto{Protocol: xt.TCP}, xt.InSet{Set: setName(fam.f, healthSet), Dirs: "dst"}),
	}
	rules = append(rules, fam.refuse()...)
	if fam.captures() {
		declared := fam.in(inVIP)
		declared.Not = true
		direct := isDNAT
		direct.Not = true
		rules = append(rules,
			rule(xt.Return{}, fam.icmp, fam.to(useAddr)),
			rule(xt.Reject{}, isNew, fam.to(useAddr), declared),
			rule(xt.Reject{}, xt.Dest{Prefix: aliasPrefix(fam.f)}, isNew, direct),
		)
	}
	return rules
}

func (fam *family) forward() []xt.Rule {
	rules := append([]xt.Rule{rule(xt.Accept{}, isKnown)}, fam.refuse()...)
	return append(rules, rule(xt.Reject{}, isNew, fam.to(useCluster)))
}

// refuse rejects new connections to what nothing serves. What comes from the middle
// of a connection, whose endpoint is no more, is reset.
func (fam *family) refuse() []xt.Rule {
	stray := xt.CTState{States: xt.CTNew | xt.CTInvalid}
	return []xt.Rule{
		rule(xt.Reset{}, xt.Proto{Protocol: xt.TCP}, xt.TCPSyn{Not: true}, stray, fam.in(inRefuse)),
		rule(xt.Reject{}, isNew, fam.in(inRefuse)),
	}
}

// output sees what IPVS has left alone. What comes by at a declared port is the
// middle of a connection whose endpoint is no more, and goes on to the node, which
// resets it: of an ICMP error, TCP would take no notice.
func (fam *family) output() []xt.Rule {
	declared := fam.in(inVIP)
	declared.Not = true
	rules := append([]xt.Rule{rule(xt.Return{}, xt.ViaIPVS{})}, fam.refuse()...)
	return append(rules,
		rule(xt.Return{}, fam.icmp, fam.to(useAddr)),
		rule(xt.Reject{}, isNew, fam.to(useCluster), declared),
	)
}
