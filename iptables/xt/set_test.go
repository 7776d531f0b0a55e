package xt

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// setRules is every match and target that rules over ipsets need, with the text
// wanted. The sets are those of makeSets. The chain FL-REDIRECT is for what is
// possible only before routing.
func setRules(f Family) []struct {
	ref  ChainRef
	rule Rule
	want string
} {
	n, network, alias := "4", "240.0.0.0/4", "169.254.77.77"
	if f == IPv6 {
		n, network, alias = "6", "fdfa::/16", "fdfa::4d4d"
	}
	vip, fw := "FL"+n+"-VIP", "FL"+n+"-FWSRC"
	all := func(t Table) ChainRef { return ChainRef{t, "FL-SETS"} }
	redirect := ChainRef{NAT, "FL-REDIRECT"}
	return []struct {
		ref  ChainRef
		rule Rule
		want string
	}{
		{all(Mangle), Rule{Match: []Match{InSet{Set: vip, Dirs: "dst,dst"}}, Target: OrMark{0x8000}},
			"-m set --match-set " + vip + " dst,dst -j MARK --set-xmark 0x8000/0x8000"},
		{all(Mangle), Rule{Match: []Match{InSet{Set: fw, Dirs: "dst,dst,src", Not: true}}, Target: DropPacket{}},
			"-m set ! --match-set " + fw + " dst,dst,src -j DROP"},
		{all(Mangle), Rule{Target: ClearMark{0x8000}}, "-j MARK --set-xmark 0x0/0x8000"},
		{all(Filter), Rule{Match: []Match{InSet{Set: "FL" + n + "-ADDR", Dirs: "dst"}, Proto{TCP}}, Target: Reject{}},
			"-p tcp -m set --match-set FL" + n + "-ADDR dst -j REJECT"},
		{all(Filter), Rule{Match: []Match{InSet{Set: "FL-HC", Dirs: "dst"}, CTState{States: CTRelated}}, Target: Accept{}},
			"-m set --match-set FL-HC dst -m conntrack --ctstate RELATED -j ACCEPT"},
		{all(NAT), Rule{Match: []Match{InSet{Set: vip, Dirs: "src,dst"}}, Target: Return{}}, "-m set --match-set " + vip + " src,dst -j RETURN"},
		{redirect, Rule{Match: []Match{InSet{Set: vip, Dirs: "dst,dst"}}, Target: NetMap{pfx(network)}},
			"-m set --match-set " + vip + " dst,dst -j NETMAP --to " + network},
		{redirect, Rule{Target: DNATAddr{netip.MustParseAddr(alias)}}, "-j DNAT --to-destination " + alias},
	}
}

// setRuleset hooks setRules where they are possible.
func setRuleset(f Family) *Ruleset {
	r := &Ruleset{Family: f, Chains: map[ChainRef][]Rule{}, Hooks: []Hook{
		{Mangle, "PREROUTING", "FL-SETS"}, {Filter, "INPUT", "FL-SETS"}, {NAT, "POSTROUTING", "FL-SETS"},
		{NAT, "PREROUTING", "FL-REDIRECT"}, {NAT, "OUTPUT", "FL-REDIRECT"},
	}}
	for _, c := range setRules(f) {
		r.Chains[c.ref] = append(r.Chains[c.ref], c.rule)
	}
	return r
}

func TestSetRuleText(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, c := range setRules(f) {
			if err := c.rule.check(f, c.ref.Table); err != nil {
				t.Errorf("%v %q: %v", f, c.want, err)
			}
			if got := c.rule.Text(); got != c.want {
				t.Errorf("%v: got %s\n want %s", f, got, c.want)
			}
		}
	}
	if got, want := (&Rule{Match: []Match{ViaIPVS{}}, Target: Masquerade{}}).Text(), "-m ipvs --ipvs -j MASQUERADE"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSetRuleCheck(t *testing.T) {
	match := func(m Match) Rule { return Rule{Match: []Match{m}} }
	for _, c := range []struct {
		name  string
		table Table
		rule  Rule
	}{
		{"no set", NAT, match(InSet{Dirs: "dst"})},
		{"long set name", NAT, match(InSet{Set: strings.Repeat("x", MaxSetName+1), Dirs: "dst"})},
		{"set name with a blank", NAT, match(InSet{Set: "a b", Dirs: "dst"})},
		{"no direction", NAT, match(InSet{Set: "a"})},
		{"unknown direction", NAT, match(InSet{Set: "a", Dirs: "dst,dest"})},
		{"too many directions", NAT, match(InSet{Set: "a", Dirs: "dst,dst,dst,dst,dst,dst,dst"})},
		{"NETMAP in mangle", Mangle, Rule{Target: NetMap{pfx("240.0.0.0/4")}}},
		{"NETMAP of the other family", NAT, Rule{Target: NetMap{pfx("fdfa::/16")}}},
		{"NETMAP to one address", NAT, Rule{Target: NetMap{pfx("10.0.0.1/32")}}},
		{"NETMAP to nothing", NAT, Rule{Target: NetMap{}}},
		{"DNAT in filter", Filter, Rule{Target: DNATAddr{netip.MustParseAddr("10.0.0.1")}}},
		{"DNAT of the other family", NAT, Rule{Target: DNATAddr{netip.MustParseAddr("fd00::1")}}},
		{"DNAT to nothing", NAT, Rule{Target: DNATAddr{}}},
		{"REJECT in mangle", Mangle, Rule{Target: Reject{}}},
		{"MASQUERADE in mangle", Mangle, Rule{Target: Masquerade{}}},
	} {
		if c.rule.check(IPv4, c.table) == nil {
			t.Errorf("%s: no error for %s", c.name, c.rule.Text())
		}
	}
}

func TestNetMap(t *testing.T) {
	for _, c := range []struct{ to, addr, want string }{
		{"240.0.0.0/4", "10.96.0.1", "250.96.0.1"},
		{"240.0.0.0/4", "203.0.113.9", "251.0.113.9"},
		{"192.0.2.0/24", "10.96.0.1", "192.0.2.1"},
		{"10.128.0.0/9", "192.0.2.1", "10.128.2.1"},
		{"fdfa::/16", "fd00:10:96::1", "fdfa:10:96::1"},
		{"fdfa::/16", "2001:db8:113::7", "fdfa:db8:113::7"},
	} {
		if got := (NetMap{pfx(c.to)}).of(netip.MustParseAddr(c.addr)).String(); got != c.want {
			t.Errorf("%s to %s: got %s, want %s", c.addr, c.to, got, c.want)
		}
	}
}

// makeSets creates the sets of setRules in the network namespace of the test.
func makeSets(t *testing.T) {
	t.Helper()
	var text strings.Builder
	for _, f := range []string{"4 family inet", "6 family inet6"} {
		n, family, _ := strings.Cut(f, " ")
		text.WriteString("create FL" + n + "-VIP hash:ip,port " + family + "\n")
		text.WriteString("create FL" + n + "-FWSRC hash:ip,port,net " + family + "\n")
		text.WriteString("create FL" + n + "-ADDR hash:ip " + family + "\n")
	}
	text.WriteString("create FL-HC bitmap:port range 0-65535\n")
	cmd := exec.CommandContext(t.Context(), "ipset", "restore")
	cmd.Stdin = strings.NewReader(text.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("this machine has no ipsets: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ipset", "destroy").Run() }) // the next variant makes its own
}

// wantSums returns the chains of r as a save that prints them just so would
// tell them.
func wantSums(t *testing.T, r *Ruleset) map[ChainRef]ChainState {
	t.Helper()
	var text strings.Builder
	for _, table := range r.tables() {
		text.WriteString("*" + string(table) + "\n")
		for _, ref := range r.sorted(table) {
			text.WriteString(":" + ref.Name + " - [0:0]\n")
			for i := range r.Chains[ref] {
				text.WriteString("-A " + ref.Name + " " + r.Chains[ref][i].Text() + "\n")
			}
		}
		text.WriteString("COMMIT\n")
	}
	reader := newSaveReader()
	if err := reader.read(strings.NewReader(text.String())); err != nil {
		t.Fatal(err)
	}
	return reader.state.Chains
}

// checkPrinted has the kernel take r and print it as we would. Table filter is
// not looked at: to REJECT, save adds its default.
func checkPrinted(t *testing.T, e *Exec, r *Ruleset) {
	t.Helper()
	mustRestore(t, e, Diff(nil, r, nil))
	got, want := mustSave(t, e, r.Family), wantSums(t, r)
	for ref := range r.Chains {
		if ref.Table == Filter {
			continue
		}
		if d := cmp.Diff(got.Chains[ref], want[ref]); d != "" {
			t.Errorf("%v chain %v is printed differently, got-want+:\n%s", r.Family, ref, d)
		}
	}
	mustRestore(t, e, Diff(got, &Ruleset{Family: r.Family}, nil))
}

func TestExecSets(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		makeSets(t)
		for _, f := range []Family{IPv4, IPv6} {
			if err := e.Test(t.Context(), Diff(nil, setRuleset(f), nil)); err != nil {
				t.Errorf("--test: %v", err)
			}
			checkPrinted(t, e, setRuleset(f))
			checkRoundTrip(t, e, setRuleset(f))
		}
	})
}

// TestExecViaIPVS needs xt_ipvs, which kernels without IPVS lack.
func TestExecViaIPVS(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		for _, f := range []Family{IPv4, IPv6} {
			r := &Ruleset{Family: f, Chains: map[ChainRef][]Rule{
				{NAT, "FL-HAIR"}: {{Match: []Match{ViaIPVS{}, SameAddr{f}}, Target: Masquerade{}}, {Match: []Match{ViaIPVS{}}, Target: Return{}}},
			}, Hooks: []Hook{{NAT, "POSTROUTING", "FL-HAIR"}}}
			try := "*nat\n:FL-TRY - [0:0]\n-A FL-TRY -m ipvs --ipvs\nCOMMIT\n*nat\n:FL-TRY - [0:0]\n-X FL-TRY\nCOMMIT\n"
			if said, err := e.raw(t.Context(), try); err != nil && strings.Contains(said, "missing kernel module") {
				t.Skipf("this kernel has no xt_ipvs: %s", said)
			}
			checkPrinted(t, e, r)
			checkRoundTrip(t, e, r)
		}
	})
}

func TestFakeSets(t *testing.T) {
	f := NewFake()
	have := map[string]bool{}
	f.HasSet = func(set string) bool { return have[set] }
	for _, family := range []Family{IPv4, IPv6} {
		want := setRuleset(family)
		if err := f.Restore(t.Context(), Diff(nil, want, nil)); err == nil || f.Dump() != "" {
			t.Errorf("%v: got error %v without the sets, and\n%s", family, err, f.Dump())
		}
		for _, set := range []string{"VIP", "FWSRC", "ADDR"} {
			have["FL4-"+set], have["FL6-"+set] = true, true
		}
		have["FL-HC"] = true
		checkRoundTrip(t, f, want)
		mustRestore(t, f, Diff(nil, want, nil))
		if !f.UsesSet("FL-HC") || f.UsesSet("FL-NOPE") {
			t.Errorf("%v: UsesSet says %v and %v, want true and false", family, f.UsesSet("FL-HC"), f.UsesSet("FL-NOPE"))
		}
		mustRestore(t, f, Diff(mustSave(t, f, family), &Ruleset{Family: family}, nil))
		clear(have)
	}
	if d := f.Dump(); d != "" || f.UsesSet("FL-HC") {
		t.Errorf("left behind:\n%s", d)
	}
}
