package iptables

import (
	"net/netip"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// Plan returns the rules that put snap in force in one family. It is pure: equal
// Snapshots give equal Rulesets.
func Plan(snap *service.Snapshot, cfg Config, f xt.Family) *xt.Ruleset {
	full := newState(cfg, f, &snap.Node).advance(nil, snap)
	return &xt.Ruleset{Family: f, Chains: full.write, Hooks: hooks()}
}

// hooks are our jumps in the built-in chains. Conditions are in our own chains,
// so that the hooks are always the same.
func hooks() []xt.Hook {
	return []xt.Hook{
		{Table: xt.NAT, Builtin: "PREROUTING", Chain: chainServices},
		{Table: xt.NAT, Builtin: "OUTPUT", Chain: chainServices},
		{Table: xt.NAT, Builtin: "POSTROUTING", Chain: chainPostrouting},
		{Table: xt.Filter, Builtin: "INPUT", Chain: chainInput},
		{Table: xt.Filter, Builtin: "FORWARD", Chain: chainForward},
		{Table: xt.Filter, Builtin: "OUTPUT", Chain: chainOutput},
	}
}

// static renders the chains that are not a Port's: a dozen, whatever the number
// of Services.
func (st *state) static(snap *service.Snapshot) map[xt.ChainRef][]xt.Rule {
	mark, pl := st.cfg.mark(), &st.planner
	out := map[xt.ChainRef][]xt.Rule{
		{Table: xt.NAT, Name: chainMark}: {{Target: xt.OrMark{Bits: mark}}},
		{Table: xt.NAT, Name: chainPostrouting}: append(st.toCallers(xt.Jump{Chain: chainMark}),
			xt.Rule{Match: []xt.Match{xt.MarkIs{Value: mark, Mask: mark, Not: true}}, Target: xt.Return{}},
			// Cleared, so that a packet that is encapsulated and comes by again
			// is not masqueraded twice.
			xt.Rule{Target: xt.XorMark{Bits: mark}},
			xt.Rule{Target: xt.Masquerade{RandomFully: st.cfg.RandomFully}},
		),
		{Table: xt.NAT, Name: chainServices}:     append(st.nat.root(), pl.toNodePorts(st.ports)...),
		{Table: xt.NAT, Name: chainNodePorts}:    st.ports.root(),
		{Table: xt.Filter, Name: chainServices}:  st.filter.root(),
		{Table: xt.Filter, Name: chainNodePorts}: st.closed.root(),
		{Table: xt.Filter, Name: chainHealth}:    pl.health(snap),
		{Table: xt.Filter, Name: chainInput}:     pl.input(st.closed),
		{Table: xt.Filter, Name: chainForward}:   pl.forwarded(),
		{Table: xt.Filter, Name: chainOutput}:    pl.output(),
	}
	return out
}

// toCallers finds translated connections that are sent back to their caller.
func (st *state) toCallers(target xt.Target) []xt.Rule {
	translated := xt.CTState{States: xt.CTDNAT}
	if st.cfg.BPF {
		return []xt.Rule{{Match: []xt.Match{translated, xt.SameAddr{Family: st.family}}, Target: target}}
	}
	rules := st.hairpin.root()
	for i := range rules {
		rules[i].Match = append([]xt.Match{translated}, rules[i].Match...)
	}
	return rules
}

var ( // matches that need no argument
	newConnection = xt.CTState{States: xt.CTNew}
	known         = xt.CTState{States: xt.CTRelated | xt.CTEstablished}
)

func loopback(f xt.Family) netip.Prefix {
	if f == xt.IPv4 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// toNodePorts sends packets to local addresses at which node ports answer to the
// node-port chain of the same table. It comes after the tree of addresses: an
// address that is a frontend of its own goes before a node port.
func (pl *planner) toNodePorts(t *tree) []xt.Rule {
	prefixes := pl.node.PortAddrs[pl.family]
	if len(t.entries) == 0 || len(prefixes) == 0 {
		return nil
	}
	var rules []xt.Rule
	if lo := loopback(pl.family); pl.family == xt.IPv6 || !pl.node.LocalhostPorts {
		rules = append(rules, xt.Rule{Match: []xt.Match{xt.Dest{Prefix: lo}}, Target: xt.Return{}})
	}
	for _, p := range prefixes {
		var m []xt.Match
		if p.Bits() > 0 {
			m = append(m, xt.Dest{Prefix: p})
		}
		rules = append(rules, xt.Rule{Match: append(m, xt.DstType{}), Target: xt.Jump{Chain: chainNodePorts}})
	}
	return rules
}

// health accepts connections to the health-check node ports, which a firewall
// on INPUT would otherwise have to know about.
func (pl *planner) health(snap *service.Snapshot) []xt.Rule {
	var rules []xt.Rule
	for _, h := range snap.Health {
		if xt.Family(h.Family) == pl.family {
			rules = append(rules, xt.Rule{
				Match:   []xt.Match{xt.DPort{Protocol: xt.TCP, Port: h.Port}},
				Target:  xt.Accept{},
				Comment: h.Service.String() + " health check",
			})
		}
	}
	return rules
}

// input guards what reaches the node itself.
func (pl *planner) input(closed *tree) []xt.Rule {
	rules := []xt.Rule{{Target: xt.Jump{Chain: chainHealth}}}
	if pl.family == xt.IPv4 && pl.node.LocalhostPorts {
		// Node ports at 127.0.0.1 need the sysctl route_localnet, which would
		// let neighbours reach everything that listens there (CVE-2020-8558).
		lo := loopback(pl.family)
		rules = append(rules, xt.Rule{
			Match: []xt.Match{
				xt.Source{Prefix: lo, Not: true},
				xt.Dest{Prefix: lo},
				xt.CTState{States: xt.CTRelated | xt.CTEstablished | xt.CTDNAT, Not: true},
			},
			Target: xt.DropPacket{},
		})
	}
	rules = append(rules, xt.Rule{Match: []xt.Match{newConnection}, Target: xt.Jump{Chain: chainServices}})
	return append(rules, pl.closedNodePorts(closed)...)
}

// closedNodePorts enters the node ports that nat left alone.
func (pl *planner) closedNodePorts(closed *tree) []xt.Rule {
	rules := pl.toNodePorts(closed)
	for i := range rules {
		rules[i].Match = append([]xt.Match{newConnection}, rules[i].Match...)
	}
	return rules
}

// forwarded guards what passes through the node.
func (pl *planner) forwarded() []xt.Rule {
	mark := pl.cfg.mark()
	var rules []xt.Rule
	if pl.cfg.DropInvalid {
		rules = append(rules, xt.Rule{Match: []xt.Match{xt.CTState{States: xt.CTInvalid}}, Target: xt.DropPacket{}})
	}
	rules = append(rules,
		xt.Rule{Match: []xt.Match{known}, Target: xt.Accept{}},
		// What we masquerade must pass, even where the policy of FORWARD is DROP.
		xt.Rule{Match: []xt.Match{xt.MarkIs{Value: mark, Mask: mark}}, Target: xt.Accept{}},
	)
	if pl.cfg.BPF { // also what POSTROUTING will mark
		toCaller := []xt.Match{xt.CTState{States: xt.CTDNAT}, xt.SameAddr{Family: pl.family}}
		rules = append(rules, xt.Rule{Match: toCaller, Target: xt.Accept{}})
	}
	return append(rules, xt.Rule{Match: []xt.Match{newConnection}, Target: xt.Jump{Chain: chainServices}})
}

// output guards what the node itself sends.
func (pl *planner) output() []xt.Rule {
	return []xt.Rule{{Match: []xt.Match{newConnection}, Target: xt.Jump{Chain: chainServices}}}
}
