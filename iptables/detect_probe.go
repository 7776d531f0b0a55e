package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// probeChain is where Probe puts its rules. No packet ever comes by, and being
// named like our other chains, a chain left behind by a crash is swept away.
const probeChain = xt.Prefix + "PROBE"

// A feature is something a plan may need of the kernel.
type feature struct {
	name   string
	module string // what to load or configure, for the error message
	table  xt.Table
	rule   xt.Rule
}

// A Support says which optional features the kernel has.
type Support struct {
	SCTP bool // destination ports of SCTP can be matched
	BPF  bool // xt_bpf is there
}

// features lists what every plan for f needs.
func features(f xt.Family, randomFully bool) []feature {
	reject, to := "ipt_REJECT", netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 80)
	if f == xt.IPv6 {
		reject, to = "ip6t_REJECT", netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), 80)
	}
	match := func(m ...xt.Match) xt.Rule { return xt.Rule{Match: m, Target: xt.Return{}} }
	return []feature{
		{"comment", "xt_comment", xt.NAT, xt.Rule{Comment: "probe", Target: xt.Return{}}},
		{"tcp --dport", "xt_tcpudp", xt.NAT, match(xt.DPort{Protocol: xt.TCP, Port: 80})},
		{"udp --dport", "xt_tcpudp", xt.NAT, match(xt.DPort{Protocol: xt.UDP, Port: 80})},
		{"addrtype", "xt_addrtype", xt.NAT, match(xt.SrcType{}, xt.DstType{})},
		{"conntrack", "xt_conntrack", xt.Filter, match(xt.CTState{States: xt.CTNew})},
		{"mark", "xt_mark", xt.Filter, match(xt.MarkIs{Value: 1, Mask: 1})},
		{"statistic", "xt_statistic", xt.NAT, match(xt.Random{P: 0.5})},
		{"recent", "xt_recent", xt.NAT, match(xt.RecentCheck{Name: probeChain, Seconds: 1})},
		{"MARK", "xt_mark", xt.NAT, xt.Rule{Target: xt.OrMark{Bits: 1}}},
		{"REJECT", reject, xt.Filter, xt.Rule{Target: xt.Reject{}}},
		{"DNAT", "xt_nat", xt.NAT, xt.Rule{Match: []xt.Match{xt.Proto{Protocol: xt.TCP}}, Target: xt.DNAT{To: to}}},
		{"MASQUERADE", "xt_MASQUERADE", xt.NAT, xt.Rule{Target: xt.Masquerade{RandomFully: randomFully}}},
	}
}

// Probe adds a rule of each kind we may need, in a chain of its own that it
// removes again: all at once, and less at once only if that fails. Asking the tools with
// --test would not do: that of the nft variant does not ask the kernel. The error names
// each feature that is missing and the kernel module that has it.
func (t Tools) Probe(ctx context.Context, run xt.Runner) (Support, error) {
	support := Support{SCTP: true, BPF: true}
	var errs []error
	for _, f := range t.Families {
		all := features(f, t.RandomFully)
		sctp := feature{"sctp --dport", "xt_sctp", xt.NAT, xt.Rule{Match: []xt.Match{xt.DPort{Protocol: xt.SCTP, Port: 80}}}}
		bpf := feature{"bpf", "xt_bpf", xt.NAT, xt.Rule{Match: []xt.Match{xt.SameAddr{Family: f}}}}
		if try(ctx, run, f, append(all, sctp, bpf)...) == nil {
			continue
		}
		if err := probeAll(ctx, run, f, all); err != nil {
			errs = append(errs, err)
		}
		support.SCTP = support.SCTP && try(ctx, run, f, sctp) == nil
		support.BPF = support.BPF && try(ctx, run, f, bpf) == nil
	}
	return support, errors.Join(errs...)
}

// probeAll tries everything at once, and one by one only if that fails: only
// then is it clear what is missing.
func probeAll(ctx context.Context, run xt.Runner, f xt.Family, all []feature) error {
	first := try(ctx, run, f, all...)
	if first == nil {
		return nil
	}
	var errs []error
	for _, x := range all {
		if err := try(ctx, run, f, x); err != nil {
			errs = append(errs, fmt.Errorf("%v: %s is not possible; perhaps the kernel lacks %s: %w", f, x.name, x.module, err))
		}
	}
	if len(errs) == 0 || len(errs) == len(all) { // not a matter of single features
		return fmt.Errorf("%v: add rules: %w", f, first)
	}
	return errors.Join(errs...)
}

// try adds rules for all and deletes them, whatever happened.
func try(ctx context.Context, run xt.Runner, f xt.Family, all ...feature) (err error) {
	add, remove := &xt.Restore{Family: f}, &xt.Restore{Family: f}
	for _, table := range []xt.Table{xt.NAT, xt.Filter} {
		chain := xt.Chain{Name: probeChain}
		for _, x := range all {
			if x.table == table {
				chain.Rules = append(chain.Rules, x.rule)
			}
		}
		if len(chain.Rules) == 0 {
			continue
		}
		add.Tables = append(add.Tables, xt.TableRestore{Table: table, Write: []xt.Chain{chain}})
		remove.Tables = append(remove.Tables, xt.TableRestore{Table: table, Delete: []string{probeChain}})
	}
	defer func() {
		// The tables before the one that failed are committed.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, run.Restore(late, remove))
	}()
	return run.Restore(ctx, add)
}
