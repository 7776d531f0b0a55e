package userspace

import (
	"context"
	"errors"
	"net/netip"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// features lists what the rules for f need.
func features(f service.Family, set string) []xt.Feature {
	reject, to := "ipt_REJECT", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1)
	if f == service.IPv6 {
		reject, to = "ip6t_REJECT", netip.AddrPortFrom(netip.IPv6Loopback(), 1)
	}
	match := func(m ...xt.Match) xt.Rule { return rule(xt.Return{}, m...) }
	return []xt.Feature{
		{Name: "set", Module: "xt_set", Table: xt.Mangle, Rule: match(xt.InSet{Set: set, Dirs: "dst,dst"})},
		{Name: "socket", Module: "xt_socket", Table: xt.Mangle, Rule: match(xt.ToSocket{})},
		{Name: "TPROXY", Module: "xt_TPROXY", Table: xt.Mangle, Rule: rule(xt.TProxy{On: to, MarkBits: 1}, isTCP)},
		{Name: "connmark", Module: "xt_connmark", Table: xt.Mangle, Rule: match(xt.ConnMarkIs{Bits: 1})},
		{Name: "CONNMARK", Module: "xt_connmark", Table: xt.Mangle, Rule: rule(xt.OrConnMark{Bits: 1})},
		{Name: "mark", Module: "xt_mark", Table: xt.Mangle, Rule: match(xt.MarkIs{Value: 1, Mask: 1})},
		{Name: "MARK", Module: "xt_mark", Table: xt.Mangle, Rule: rule(xt.OrMark{Bits: 1})},
		{Name: "addrtype", Module: "xt_addrtype", Table: xt.Mangle, Rule: match(xt.SrcType{})},
		{Name: "conntrack", Module: "xt_conntrack", Table: xt.Mangle, Rule: match(isNew)},
		{Name: "REJECT", Module: reject, Table: xt.Filter, Rule: rule(xt.Reject{})},
	}
}

// Probe tries all that a family needs of the kernel: a set of each type and a rule of
// each kind, in a chain that no packet comes by. It removes everything again. The
// error names what is missing, with the kernel module that has it.
func Probe(ctx context.Context, k kernel.Kernel, run xt.Runner, f service.Family) (err error) {
	set := setPrefix(f) + "PROBE"
	defer func() { err = errors.Join(err, kernel.ReleaseSet(ctx, k, set)) }()
	if err := kernel.ProbeSets(ctx, k, f, set); err != nil {
		return err
	}
	return xt.Probe(ctx, run, xt.Family(f), features(f, set)...)
}
