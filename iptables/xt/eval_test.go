package xt

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// filterRules is a Ruleset with chains of the filter table, each rule given as
// a Target, hooked to FORWARD at FL-TOP.
func filterRules(chains map[string][]Rule) *Ruleset {
	r := &Ruleset{Chains: map[ChainRef][]Rule{}, Hooks: []Hook{{Filter, "FORWARD", "FL-TOP"}}}
	for name, rules := range chains {
		r.Chains[ChainRef{Filter, name}] = rules
	}
	return r
}

func forwardedPacket() Packet {
	return Packet{Proto: TCP, Src: ap("198.51.100.1:1234"), Dst: ap("10.244.1.2:80"), In: "eth0", Out: "veth1"}
}

// TestEvalFlow checks where a packet goes on: each chain sets a bit, so the
// final mark says which rules it met.
func TestEvalFlow(t *testing.T) {
	bit := func(n int) Rule { return Rule{Target: OrMark{1 << n}} }
	jump := func(c string) Rule { return Rule{Target: Jump{c}} }
	gotoo := func(c string) Rule { return Rule{Target: Goto{c}} }
	end := func(x Target) Rule { return Rule{Target: x} }
	for _, c := range []struct {
		name    string
		chains  map[string][]Rule
		mark    uint32
		verdict Verdict
	}{
		{"end of chain comes back", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), bit(1)}, "FL-A": {bit(0)}}, 0b11, Accepted},
		{"return comes back", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), bit(1)}, "FL-A": {end(Return{}), bit(0)}}, 0b10, Accepted},
		{"return at the top is the policy", map[string][]Rule{
			"FL-TOP": {end(Return{}), end(DropPacket{})}}, 0, Accepted},
		{"accept ends it", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), end(DropPacket{})}, "FL-A": {bit(0), end(Accept{}), bit(1)}}, 1, Accepted},
		{"goto skips the rest of its chain", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), bit(2)}, "FL-A": {gotoo("FL-B"), bit(1)}, "FL-B": {bit(0)}}, 0b101, Accepted},
		{"goto, goto: still back to the first jump", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), bit(3)}, "FL-A": {gotoo("FL-B"), bit(1)},
			"FL-B": {gotoo("FL-C"), bit(2)}, "FL-C": {bit(0), end(Return{}), bit(4)}}, 0b1001, Accepted},
		{"goto, jump: the jump comes back to its chain", map[string][]Rule{
			"FL-TOP": {jump("FL-A"), bit(3)}, "FL-A": {gotoo("FL-B"), bit(1)},
			"FL-B": {jump("FL-C"), bit(2)}, "FL-C": {bit(0)}}, 0b1101, Accepted},
		{"goto at the top of a hook ends in the policy", map[string][]Rule{
			"FL-TOP": {gotoo("FL-A"), end(DropPacket{})}, "FL-A": {bit(0)}}, 1, Accepted},
		{"drop", map[string][]Rule{"FL-TOP": {jump("FL-A")}, "FL-A": {bit(0), end(DropPacket{}), bit(1)}}, 1, Dropped},
		{"reject", map[string][]Rule{"FL-TOP": {end(Reject{})}}, 0, Rejected},
		{"no target goes on", map[string][]Rule{"FL-TOP": {{}, bit(0)}}, 1, Accepted},
		{"marks", map[string][]Rule{"FL-TOP": {bit(0), bit(1), end(XorMark{0b101})}}, 0b110, Accepted},
		{"clear a mark", map[string][]Rule{"FL-TOP": {bit(0), bit(1), end(ClearMark{0b101})}}, 0b10, Accepted},
	} {
		got := filterRules(c.chains).Eval(forwardedPacket())
		want := []Result{{Verdict: c.verdict, Mark: c.mark, P: 1}}
		if d := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
			t.Errorf("%s, got-want+:\n%s", c.name, d)
		}
		mustCheck(t, filterRules(c.chains))
	}
}

func mustCheck(t *testing.T, r *Ruleset) {
	t.Helper()
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

// TestEvalMatch tries every match against one packet, and its negation.
func TestEvalMatch(t *testing.T) {
	p := forwardedPacket()
	p.Mark, p.State = 0x4001, CTNew
	p.Local = func(a netip.Addr) bool { return a == p.Src.Addr() }
	p.Recent = func(name string, seconds int) bool { return name == "a" && seconds == 10 }
	p.Sets = func(set string, p *Packet, dirs string) bool { return set == "FL4-VIP" && dirs == "dst,dst" }
	for _, c := range []struct {
		match Match
		want  bool
	}{
		{Source{Prefix: pfx("198.51.100.0/24")}, true},
		{Source{Prefix: pfx("198.51.100.0/24"), Not: true}, false},
		{Source{Prefix: pfx("10.0.0.0/8")}, false},
		{Dest{Prefix: pfx("10.244.1.2/32")}, true},
		{Dest{Prefix: pfx("10.244.1.3/32"), Not: true}, true},
		{InIface{Name: "eth0"}, true},
		{InIface{Name: "eth"}, false},
		{InIface{Name: "eth+"}, true},
		{OutIface{Name: "veth+"}, true},
		{OutIface{Name: "veth+", Not: true}, false},
		{Proto{TCP}, true},
		{Proto{UDP}, false},
		{DPort{TCP, 80}, true},
		{DPort{UDP, 80}, false},
		{DPort{TCP, 81}, false},
		{DPortRange{TCP, 80, 81}, true},
		{DPortRange{TCP, 81, 90}, false},
		{DPortRange{UDP, 1, 90}, false},
		{CTState{States: CTNew | CTRelated}, true},
		{CTState{States: CTEstablished}, false},
		{CTState{States: CTInvalid, Not: true}, true},
		{CTState{States: CTDNAT}, false},
		{SrcType{}, true},
		{SrcType{Not: true}, false},
		{DstType{}, false},
		{DstType{Not: true}, true},
		{MarkIs{Value: 0x4000, Mask: 0x4000}, true},
		{MarkIs{Value: 0x4000, Mask: 0x4000, Not: true}, false},
		{MarkIs{Value: 0x4000}, false},
		{MarkIs{Value: 0x4001}, true},
		{RecentCheck{Name: "a", Seconds: 10}, true},
		{RecentCheck{Name: "b", Seconds: 10}, false},
		{RecentSet{"b"}, true},
		{InSet{Set: "FL4-VIP", Dirs: "dst,dst"}, true},
		{InSet{Set: "FL4-VIP", Dirs: "dst,dst", Not: true}, false},
		{InSet{Set: "FL4-VIP", Dirs: "src,src"}, false},
		{InSet{Set: "FL4-OTHER", Dirs: "dst,dst"}, false},
		{ViaIPVS{}, false},
	} {
		r := filterRules(map[string][]Rule{"FL-TOP": {{Match: []Match{c.match}, Target: DropPacket{}}}})
		if got := r.Eval(p)[0].Verdict == Dropped; got != c.want {
			t.Errorf("%s: got %v, want %v", c.match.appendArgs(nil), got, c.want)
		}
	}
	p.Local, p.Recent, p.Sets = nil, nil, nil
	for _, m := range []Match{SrcType{}, RecentCheck{Name: "a", Seconds: 10}, InSet{Set: "FL4-VIP", Dirs: "dst,dst"}} {
		if m.matches(&p) {
			t.Errorf("%s matches without a function to ask", m.appendArgs(nil))
		}
	}
}

// natRules balances 10.96.0.1:80 over three endpoints, masquerades what is
// marked, and rejects 10.96.0.2.
func natRules() *Ruleset {
	vip := []Match{Dest{Prefix: pfx("10.96.0.1/32")}, DPort{TCP, 80}}
	dnat := func(to string) Rule { return Rule{Match: []Match{Proto{TCP}}, Target: DNAT{ap(to)}} }
	return &Ruleset{
		Chains: map[ChainRef][]Rule{
			{NAT, "FL-SERVICES"}: {{Match: vip, Target: Jump{"FL-MARK"}}, {Match: vip, Target: Goto{"FL-POOL"}}},
			{NAT, "FL-MARK"}:     {{Match: []Match{Source{Prefix: pfx("10.244.0.0/16")}}, Target: Return{}}, {Target: OrMark{0x4000}}},
			{NAT, "FL-POOL"}: {
				{Match: []Match{Random{1.0 / 3}}, Target: Jump{"FL-E-1"}},
				{Match: []Match{Random{0.5}}, Target: Jump{"FL-E-2"}},
				{Target: Jump{"FL-E-3"}},
			},
			{NAT, "FL-E-1"}: {dnat("10.244.1.1:8080")},
			{NAT, "FL-E-2"}: {dnat("10.244.1.2:8080")},
			{NAT, "FL-E-3"}: {dnat("172.18.0.11:8080")}, // on the host network of this node
			{NAT, "FL-POSTROUTING"}: {
				{Match: []Match{MarkIs{Value: 0x4000, Mask: 0x4000, Not: true}}, Target: Return{}},
				{Target: XorMark{0x4000}},
				{Target: Masquerade{RandomFully: true}},
			},
			{Filter, "FL-FILTER"}: {
				{Match: []Match{CTState{States: CTNew, Not: true}}, Target: Return{}},
				{Match: []Match{Dest{Prefix: pfx("10.96.0.2/32")}}, Target: Reject{}},
			},
			{Filter, "FL-INPUT"}: {{Match: []Match{CTState{States: CTDNAT}, InIface{Name: "eth0"}}, Target: DropPacket{}}},
		},
		Hooks: []Hook{
			{NAT, "PREROUTING", "FL-SERVICES"}, {NAT, "OUTPUT", "FL-SERVICES"}, {NAT, "POSTROUTING", "FL-POSTROUTING"},
			{Filter, "FORWARD", "FL-FILTER"}, {Filter, "OUTPUT", "FL-FILTER"}, {Filter, "INPUT", "FL-INPUT"},
		},
	}
}

func TestEvalHooks(t *testing.T) {
	r := natRules()
	mustCheck(t, r)
	node := netip.MustParseAddr("172.18.0.11")
	third := 1.0 / 3
	e1, e2, e3 := ap("10.244.1.1:8080"), ap("10.244.1.2:8080"), ap("172.18.0.11:8080")
	for _, c := range []struct {
		name string
		p    Packet
		want []Result
	}{
		{"outside: masqueraded unless local, where INPUT drops it", Packet{Src: ap("198.51.100.1:9"), Dst: ap("10.96.0.1:80"), In: "eth0", Out: "veth1"}, []Result{
			{DNAT: e1, Masqueraded: true, P: third}, {DNAT: e2, Masqueraded: true, P: third},
			{Verdict: Dropped, DNAT: e3, Mark: 0x4000, P: third}}},
		{"host: all pass POSTROUTING, INPUT sees lo", Packet{Src: ap("172.18.0.11:9"), Dst: ap("10.96.0.1:80"), Out: "eth0"}, []Result{
			{DNAT: e1, Masqueraded: true, P: third}, {DNAT: e2, Masqueraded: true, P: third}, {DNAT: e3, Masqueraded: true, P: third}}},
		{"pod: not masqueraded", Packet{Src: ap("10.244.1.9:9"), Dst: ap("10.96.0.1:80"), In: "veth9", Out: "veth1"}, []Result{
			{DNAT: e1, P: third}, {DNAT: e2, P: third}, {DNAT: e3, P: third}}},
		{"other port", Packet{Src: ap("10.244.1.9:9"), Dst: ap("10.96.0.1:81"), In: "veth9", Out: "eth0"}, []Result{{P: 1}}},
		{"rejected", Packet{Src: ap("10.244.1.9:9"), Dst: ap("10.96.0.2:80"), In: "veth9", Out: "eth0"}, []Result{{Verdict: Rejected, P: 1}}},
		{"rejected from the host", Packet{Src: ap("172.18.0.11:9"), Dst: ap("10.96.0.2:80"), Out: "eth0"}, []Result{{Verdict: Rejected, P: 1}}},
		{"established skips nat", Packet{Src: ap("10.244.1.9:9"), Dst: ap("10.96.0.1:80"), In: "veth9", Out: "eth0", State: CTEstablished}, []Result{{P: 1}}},
	} {
		c.p.Proto = TCP
		c.p.Local = func(a netip.Addr) bool { return a == node }
		got := r.Eval(c.p)
		opts := cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateApprox(0, 1e-9),
			cmpopts.SortSlices(func(a, b Result) bool { return a.DNAT.Compare(b.DNAT) < 0 })}
		if d := cmp.Diff(got, c.want, opts); d != "" {
			t.Errorf("%s, got-want+:\n%s", c.name, d)
		}
	}
}

// TestEvalMerge: three ways to one endpoint are one result, and the parts add
// up; Trace keeps them apart.
func TestEvalMerge(t *testing.T) {
	r := filterRules(map[string][]Rule{"FL-TOP": {
		{Match: []Match{Random{0.25}, Random{0.5}}, Target: DropPacket{}},
		{Match: []Match{Random{0.5}}, Target: Accept{}},
		{Match: []Match{Random{0.5}}, Target: DropPacket{}},
	}})
	got := r.Eval(forwardedPacket())
	want := []Result{{P: 0.875 * 0.75}, {Verdict: Dropped, P: 0.125 + 0.875*0.25}}
	if d := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateApprox(0, 1e-9)); d != "" {
		t.Errorf("got-want+:\n%s", d)
	}
	all := r.Trace(forwardedPacket())
	sum := 0.0
	var traces []string
	for _, x := range all {
		sum += x.P
		traces = append(traces, strings.Join(x.Trace, "; "))
	}
	slices.Sort(traces)
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("probabilities add up to %v", sum)
	}
	const random = "filter/FL-TOP -m statistic --mode random --probability "
	wantTraces := []string{"",
		random + "0.2500000000 -m statistic --mode random --probability 0.5000000000 -j DROP",
		random + "0.5000000000 -j ACCEPT", random + "0.5000000000 -j DROP"}
	if d := cmp.Diff(traces, wantTraces); d != "" {
		t.Errorf("traces, got-want+:\n%s", d)
	}
}
