package ipvs

import (
	"context"
	"errors"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// probeSet is the set that Probe tries rules with.
const probeSet = "PROBE"

// features lists what the rules for f need.
func features(f service.Family, randomFully bool) []xt.Feature {
	reject := "ipt_REJECT"
	if f == service.IPv6 {
		reject = "ip6t_REJECT"
	}
	match := func(m ...xt.Match) xt.Rule { return rule(xt.Return{}, m...) }
	return []xt.Feature{
		{Name: "set", Module: "xt_set", Table: xt.Mangle, Rule: match(xt.InSet{Set: setName(f, probeSet), Dirs: "dst,dst"})},
		{Name: "ipvs", Module: "xt_ipvs", Table: xt.NAT, Rule: match(xt.ViaIPVS{})},
		{Name: "bpf", Module: "xt_bpf", Table: xt.NAT, Rule: match(xt.SameAddr{Family: xt.Family(f)})},
		{Name: "addrtype", Module: "xt_addrtype", Table: xt.Mangle, Rule: match(xt.SrcType{})},
		{Name: "conntrack", Module: "xt_conntrack", Table: xt.Mangle, Rule: match(isNew)},
		{Name: "mark", Module: "xt_mark", Table: xt.Mangle, Rule: match(xt.MarkIs{Value: 1, Mask: 1})},
		{Name: "MARK", Module: "xt_mark", Table: xt.Mangle, Rule: rule(xt.OrMark{Bits: 1})},
		{Name: "NETMAP", Module: "xt_NETMAP", Table: xt.NAT, Rule: rule(xt.NetMap{To: aliasPrefix(f)})},
		{Name: "MASQUERADE", Module: "xt_MASQUERADE", Table: xt.NAT, Rule: rule(xt.Masquerade{RandomFully: randomFully})},
		{Name: "REJECT", Module: reject, Table: xt.Filter, Rule: rule(xt.Reject{})},
	}
}

// Probe tries all that a family needs of the kernel beside IPVS: a set of each
// type and a rule of each kind, in a chain that no packet comes by. It removes
// everything again. The error names what is missing, with the kernel module that
// has it.
func Probe(ctx context.Context, k kernel.Kernel, run xt.Runner, f service.Family, randomFully bool) (err error) {
	set := setName(f, probeSet)
	defer func() { err = errors.Join(err, kernel.ReleaseSet(ctx, k, set)) }()
	if err := kernel.ProbeSets(ctx, k, f, set); err != nil {
		return err
	}
	return xt.Probe(ctx, run, xt.Family(f), features(f, randomFully)...)
}
