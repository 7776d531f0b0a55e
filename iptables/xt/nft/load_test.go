package nft_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// many returns rules, and what leads from a hook to each of them: those of 400 chains are
// too many for one transaction.
func many(f xt.Family, chains int) *xt.Ruleset {
	to := netip.MustParseAddr("192.0.2.1")
	if f == xt.IPv6 {
		to = netip.MustParseAddr("2001:db8::1")
	}
	top := xt.ChainRef{Table: xt.NAT, Name: "FL-TOP"}
	r := &xt.Ruleset{Family: f, Chains: map[xt.ChainRef][]xt.Rule{{Table: xt.NAT, Name: "FL-EMPTY"}: nil},
		Hooks: []xt.Hook{{Table: xt.NAT, Builtin: "PREROUTING", Chain: top.Name}}}
	for i := range chains {
		c := xt.ChainRef{Table: xt.NAT, Name: fmt.Sprintf("FL-C-%d", i)}
		enter := []xt.Match{xt.DPort{Protocol: xt.TCP, Port: uint16(i + 1)}}
		r.Chains[top] = append(r.Chains[top], xt.Rule{Match: enter, Target: xt.Goto{Chain: c.Name}, Comment: c.Name})
		r.Chains[c] = []xt.Rule{
			{Match: []xt.Match{xt.Proto{Protocol: xt.TCP}, xt.Random{P: 0.5}}, Target: xt.DNAT{To: netip.AddrPortFrom(to, uint16(i+1))}},
			{Match: []xt.Match{xt.Proto{Protocol: xt.TCP}}, Target: xt.DNAT{To: netip.AddrPortFrom(to, uint16(i+1000))}},
		}
	}
	return r
}

// TestLoadAgain wants a load of what is there already to write nothing, and one of what
// somebody has edited to write that.
func TestLoadAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, f xt.Family) {
		byTool := tool(t)
		run := nft.New(nft.Config{Tool: noTool{byTool, t}})
		want := many(f, 400)
		if err := run.Restore(t.Context(), xt.Diff(nil, want, nil)); err != nil {
			t.Fatal(err)
		}
		clean, err := run.Save(t.Context(), f)
		if err != nil || !xt.Diff(clean, want, func(string) bool { return true }).Empty() {
			t.Fatalf("after the load: %d chains, hooks %v, %v", len(clean.Chains), clean.Hooks, err)
		}
		before := byTool.Fingerprint(f)
		if err := run.Restore(t.Context(), xt.Diff(clean, want, nil)); err != nil {
			t.Fatal(err)
		}
		if after := byTool.Fingerprint(f); after != before || before == "" {
			t.Errorf("loaded again: %q, want %q as before", after, before)
		}
		edited := &xt.Restore{Family: f, Tables: []xt.TableRestore{{Table: xt.NAT, Write: []xt.Chain{
			{Name: "FL-C-7", Rules: []xt.Rule{{Target: xt.Return{}}, {Target: xt.Accept{}}}},
		}}}}
		if err := byTool.Restore(t.Context(), edited); err != nil {
			t.Fatal(err)
		}
		if err := run.Restore(t.Context(), xt.Diff(clean, want, nil)); err != nil {
			t.Fatal(err)
		}
		got, err := run.Save(t.Context(), f)
		ref := xt.ChainRef{Table: xt.NAT, Name: "FL-C-7"}
		if err != nil || got.Chains[ref] != clean.Chains[ref] || got.Chains[ref].Rules != 2 {
			t.Errorf("edited and loaded again: %+v, %v; want %+v", got.Chains[ref], err, clean.Chains[ref])
		}
		if err := run.Restore(t.Context(), xt.Diff(got, &xt.Ruleset{Family: f}, nil)); err != nil {
			t.Fatal(err)
		}
		if left, err := run.Save(t.Context(), f); err != nil || len(left.Chains)+len(left.Hooks) > 0 {
			t.Errorf("after all was removed: %v, %v", left, err)
		}
	})
}

// TestRestart wants a program that is started again to write nothing of what is there,
// however little that is, and to write what somebody has edited.
func TestRestart(t *testing.T) {
	eachFamily(t, func(t *testing.T, f xt.Family) {
		byTool := tool(t)
		restart := func() (*nft.Runner, *xt.State) {
			run := nft.New(nft.Config{Tool: byTool})
			if err := run.Prove(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			state, err := run.Save(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			return run, state
		}
		want := many(f, 4)
		run, state := restart()
		if err := run.Restore(t.Context(), xt.Diff(state, want, nil)); err != nil {
			t.Fatal(err)
		}
		run, state = restart()
		before := byTool.Fingerprint(f)
		if err := run.Restore(t.Context(), xt.Diff(state, want, nil)); err != nil {
			t.Fatal(err)
		}
		if after := byTool.Fingerprint(f); after != before || before == "" {
			t.Errorf("after a restart: %q, want %q as before", after, before)
		}
		edited := &xt.Restore{Family: f, Tables: []xt.TableRestore{{Table: xt.NAT, Write: []xt.Chain{
			{Name: "FL-C-3", Rules: []xt.Rule{{Target: xt.Return{}}, {Target: xt.Accept{}}}},
		}}}}
		clean := state.Chains[xt.ChainRef{Table: xt.NAT, Name: "FL-C-3"}]
		for _, restarted := range []bool{false, true} {
			if err := byTool.Restore(t.Context(), edited); err != nil {
				t.Fatal(err)
			}
			if restarted {
				run, state = restart()
			}
			if err := run.Restore(t.Context(), xt.Diff(state, want, nil)); err != nil {
				t.Fatal(err)
			}
			_, state = restart()
			if got := state.Chains[xt.ChainRef{Table: xt.NAT, Name: "FL-C-3"}]; got != clean {
				t.Errorf("edited, restarted %t: %+v, want %+v", restarted, got, clean)
			}
		}
	})
}
