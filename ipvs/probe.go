package ipvs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// Where Probe puts what it tries. Named like all else that is ours, what a crash
// leaves behind is found and removed.
const (
	probeChain = xt.Prefix + "PROBE"
	probeSet   = "PROBE"
)

// A feature is something that the rules need of the kernel.
type feature struct {
	name   string
	module string // what to load or configure, for the error message
	table  xt.Table
	rule   xt.Rule
}

// features lists what the rules for f need.
func features(f service.Family, randomFully bool) []feature {
	reject := "ipt_REJECT"
	if f == service.IPv6 {
		reject = "ip6t_REJECT"
	}
	match := func(m ...xt.Match) xt.Rule { return rule(xt.Return{}, m...) }
	return []feature{
		{"set", "xt_set", xt.Mangle, match(xt.InSet{Set: setName(f, probeSet), Dirs: "dst,dst"})},
		{"ipvs", "xt_ipvs", xt.NAT, match(xt.ViaIPVS{})},
		{"bpf", "xt_bpf", xt.NAT, match(xt.SameAddr{Family: xt.Family(f)})},
		{"addrtype", "xt_addrtype", xt.Mangle, match(xt.SrcType{})},
		{"conntrack", "xt_conntrack", xt.Mangle, match(isNew)},
		{"mark", "xt_mark", xt.Mangle, match(xt.MarkIs{Value: 1, Mask: 1})},
		{"MARK", "xt_mark", xt.Mangle, rule(xt.OrMark{Bits: 1})},
		{"NETMAP", "xt_NETMAP", xt.NAT, rule(xt.NetMap{To: aliasPrefix(f)})},
		{"MASQUERADE", "xt_MASQUERADE", xt.NAT, rule(xt.Masquerade{RandomFully: randomFully})},
		{"REJECT", reject, xt.Filter, rule(xt.Reject{})},
	}
}

// Probe tries all that a family needs of the kernel beside IPVS: a set of each
// type and a rule of each kind, in a chain that no packet comes by. It removes
// everything again. The error names what is missing, with the kernel module that
// has it.
func Probe(ctx context.Context, k kernel.Kernel, run xt.Runner, f service.Family, randomFully bool) (err error) {
	defer func() { err = errors.Join(err, forget(ctx, k, setName(f, probeSet))) }()
	if err := probeSets(ctx, k, f); err != nil {
		return err
	}
	all := features(f, randomFully)
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

// probeSets makes a set of each type. The one that rules are tried with stays.
func probeSets(ctx context.Context, k kernel.Kernel, f service.Family) error {
	var errs []error
	for _, t := range []struct {
		name, module string
		kind         kernel.SetType
	}{
		{probeSet, "ip_set_hash_ipport", kernel.HashIPPort},
		{probeSet + "-PORT", "ip_set_bitmap_port", kernel.BitmapPort},
		{probeSet + "-IP", "ip_set_hash_ip", kernel.HashIP},
		{probeSet + "-NET", "ip_set_hash_ipportnet", kernel.HashIPPortNet},
	} {
		set := kernel.Set{Name: setName(f, t.name), Type: t.kind, Family: f, MaxElem: 64}
		ops := []kernel.Op{kernel.NewSet{Set: set}, kernel.DelSet{Name: set.Name}}
		switch t.name {
		case probeSet:
			ops = ops[:1]
		case probeSet + "-PORT":
			ops[0] = kernel.NewSet{Set: kernel.Set{Name: set.Name, Type: t.kind, Family: f}}
		}
		failed, err := k.Apply(ctx, ops)
		if err != nil {
			return fmt.Errorf("%v: make ipsets: %w", f, err)
		}
		if len(failed) > 0 {
			errs = append(errs, fmt.Errorf("%v: sets of type %s are not possible; perhaps the kernel lacks %s: %w", f, t.kind, t.module, failed[0].Err))
		}
	}
	return errors.Join(errs...)
}

// forgetting is how often, and with which pause, Probe tries to destroy its set:
// the nft tables let go of it some time after the rule is gone.
const (
	forgetting  = 20
	forgetPause = 25 * time.Millisecond
)

// forget destroys a set, if it exists. One that is still held after half a second is left for
// the next Probe.
func forget(ctx context.Context, k kernel.Kernel, set string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for range forgetting {
		failed, err := k.Apply(ctx, []kernel.Op{kernel.DelSet{Name: set}})
		if err != nil || len(failed) == 0 || errors.Is(failed[0].Err, syscall.ENOENT) {
			return err
		}
		if !errors.Is(failed[0].Err, syscall.EBUSY) {
			return failed[0]
		}
		time.Sleep(forgetPause)
	}
	return nil
}

// try adds rules for all and deletes them, whatever happened.
func try(ctx context.Context, run xt.Runner, f service.Family, all ...feature) (err error) {
	add, remove := &xt.Restore{Family: xt.Family(f)}, &xt.Restore{Family: xt.Family(f)}
	for _, table := range []xt.Table{xt.Mangle, xt.NAT, xt.Filter} {
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
