package xt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAppendText is the canonical form as a whole.
func TestAppendText(t *testing.T) {
	r := natRules()
	text, err := r.AppendText([]byte("# kept\n"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `# kept
*filter
:FL-FILTER - [0:0]
:FL-INPUT - [0:0]
-A FL-FILTER -m conntrack ! --ctstate NEW -j RETURN
-A FL-FILTER -d 10.96.0.2/32 -j REJECT
-A FL-INPUT -i eth0 -m conntrack --ctstate DNAT -j DROP
-I OUTPUT 1 -m comment --comment fairlead -j FL-FILTER
-I INPUT 1 -m comment --comment fairlead -j FL-INPUT
-I FORWARD 1 -m comment --comment fairlead -j FL-FILTER
COMMIT
*nat
:FL-E-1 - [0:0]
:FL-E-2 - [0:0]
:FL-E-3 - [0:0]
:FL-MARK - [0:0]
:FL-POOL - [0:0]
:FL-POSTROUTING - [0:0]
:FL-SERVICES - [0:0]
-A FL-E-1 -p tcp -j DNAT --to-destination 10.244.1.1:8080
-A FL-E-2 -p tcp -j DNAT --to-destination 10.244.1.2:8080
-A FL-E-3 -p tcp -j DNAT --to-destination 172.18.0.11:8080
-A FL-MARK -s 10.244.0.0/16 -j RETURN
-A FL-MARK -j MARK --set-xmark 0x4000/0x4000
-A FL-POOL -m statistic --mode random --probability 0.3333333333 -j FL-E-1
-A FL-POOL -m statistic --mode random --probability 0.5000000000 -j FL-E-2
-A FL-POOL -j FL-E-3
-A FL-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A FL-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A FL-POSTROUTING -j MASQUERADE --random-fully
-A FL-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j FL-MARK
-A FL-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -g FL-POOL
-I PREROUTING 1 -m comment --comment fairlead -j FL-SERVICES
-I POSTROUTING 1 -m comment --comment fairlead -j FL-POSTROUTING
-I OUTPUT 1 -m comment --comment fairlead -j FL-SERVICES
COMMIT
`
	if d := cmp.Diff(string(text), want); d != "" {
		t.Errorf("got-want+:\n%s", d)
	}
	for range 10 { // map order must not show
		if again, _ := natRules().AppendText(nil); "# kept\n"+string(again) != string(text) {
			t.Fatal("the same rules gave other text")
		}
	}
}

func TestAppendTextRefuses(t *testing.T) {
	rules := func(rs ...Rule) *Ruleset {
		return &Ruleset{Chains: map[ChainRef][]Rule{{NAT, "FL-A"}: rs}}
	}
	match := func(m ...Match) *Ruleset { return rules(Rule{Match: m}) }
	deep := &Ruleset{Chains: map[ChainRef][]Rule{}}
	for i := range MaxDepth {
		deep.Chains[ChainRef{NAT, fmt.Sprintf("FL-%d", i)}] = []Rule{{Target: Jump{fmt.Sprintf("FL-%d", min(i+1, MaxDepth))}}}
	}
	deep.Chains[ChainRef{NAT, fmt.Sprintf("FL-%d", MaxDepth)}] = nil
	named := func(name string) *Ruleset { return &Ruleset{Chains: map[ChainRef][]Rule{{NAT, name}: nil}} }
	for _, c := range []struct {
		name string
		r    *Ruleset
		want string
	}{
		{"long name", named("FL-" + strings.Repeat("x", 26)), "longer than 28"},
		{"foreign chain", named("KUBE-SERVICES"), "does not start with FL-"},
		{"bare prefix", named("FL-"), "does not start with FL-"},
		{"line end in name", named("FL-A\n-P INPUT DROP"), "cannot be written"},
		{"jump to undeclared", rules(Rule{}, Rule{Target: Jump{"FL-B"}}), "rule 2: jumps to FL-B, which is not declared"},
		{"loop", rules(Rule{Target: Goto{"FL-A"}}), "loop"},
		{"deep", deep, "nested deeper than 16"},
		{"hook to undeclared", &Ruleset{Hooks: []Hook{{NAT, "OUTPUT", "FL-A"}}}, "is not declared"},
		{"hook in no built-in", &Ruleset{Hooks: []Hook{{NAT, "FORWARD", "FL-A"}}}, "no built-in chain FORWARD"},
		{"table", &Ruleset{Chains: map[ChainRef][]Rule{{"raw", "FL-A"}: nil}}, `unknown table "raw"`},
		{"family of prefix", match(Source{Prefix: pfx("fd00::/8")}), "is not IPv4"},
		{"family of protocol", match(Proto{ICMPv6}), "not for IPv4"},
		{"invalid prefix", match(Dest{}), "invalid prefix"},
		{"two sources", match(Source{Prefix: pfx("10.0.0.0/8")}, Source{Prefix: pfx("11.0.0.0/8")}), "twice"},
		{"two protocols", match(Proto{TCP}, DPort{UDP, 1}), "both tcp and udp"},
		{"port of icmp", match(DPort{ICMP, 1}), "no ports"},
		{"interface", match(InIface{Name: "eth0 -j ACCEPT"}), "cannot be written"},
		{"long interface", match(OutIface{Name: "abcdefghijklmnop"}), "1 to 15"},
		{"no state", match(CTState{}), "connection states"},
		{"probability", match(Random{0}), "probability"},
		{"recent name", match(RecentSet{"a/b"}), "recent list name"},
		{"recent seconds", match(RecentCheck{Name: "a"}), "0 seconds"},
		{"mark", match(MarkIs{Value: 2, Mask: 1}), "can never be"},
		{"drop in nat", rules(Rule{Target: DropPacket{}}), "not exist in table nat"},
		{"reject in nat", rules(Rule{Target: Reject{}}), "only in table filter"},
		{"dnat without protocol", rules(Rule{Target: DNAT{ap("10.0.0.1:80")}}), "protocol"},
		{"dnat family", rules(Rule{Match: []Match{Proto{TCP}}, Target: DNAT{ap("[::1]:80")}}), "is not IPv4"},
		{"dnat port", rules(Rule{Match: []Match{Proto{TCP}}, Target: DNAT{ap("10.0.0.1:0")}}), "no port"},
	} {
		got, err := c.r.AppendText([]byte("x"))
		if err == nil || !strings.Contains(err.Error(), c.want) || string(got) != "x" {
			t.Errorf("%s: got %q, %v\nwant error with %q", c.name, got, err, c.want)
		}
	}
}

// TestDiff looks at the text of small changes.
func TestDiff(t *testing.T) {
	want := &Ruleset{
		Chains: map[ChainRef][]Rule{
			{NAT, "FL-A-TOP"}: {{Target: Jump{"FL-B-LEAF"}}}, {NAT, "FL-B-LEAF"}: {{Target: Return{}}}, {Filter, "FL-F"}: nil,
		},
		Hooks: []Hook{{NAT, "OUTPUT", "FL-A-TOP"}, {NAT, "PREROUTING", "FL-A-TOP"}},
	}
	have := func(change func(*State)) *State {
		s := &State{
			Chains: map[ChainRef]ChainState{{NAT, "FL-A-TOP"}: {Rules: 1}, {NAT, "FL-B-LEAF"}: {Rules: 1}, {Filter, "FL-F"}: {}},
			Hooks:  map[Hook]int{want.Hooks[0]: 1, want.Hooks[1]: 1},
		}
		change(s)
		return s
	}
	hook := want.Hooks[0]
	for _, c := range []struct {
		name  string
		have  *State
		trust func(string) bool
		want  string
	}{
		{"nothing to do", have(func(*State) {}), trustAll, ""},
		{"not trusted", have(func(*State) {}), func(c string) bool { return c != "FL-A-TOP" },
			"*nat\n:FL-A-TOP - [0:0]\n-A FL-A-TOP -j FL-B-LEAF\nCOMMIT\n"},
		{"count", have(func(s *State) { s.Chains[ChainRef{NAT, "FL-B-LEAF"}] = ChainState{Rules: 2} }), trustAll,
			"*nat\n:FL-B-LEAF - [0:0]\n-A FL-B-LEAF -j RETURN\nCOMMIT\n"},
		{"nothing known", nil, trustAll,
			"*nat\n:FL-B-LEAF - [0:0]\n:FL-A-TOP - [0:0]\n-A FL-B-LEAF -j RETURN\n-A FL-A-TOP -j FL-B-LEAF\n" +
				"-I PREROUTING 1 -m comment --comment fairlead -j FL-A-TOP\n-I OUTPUT 1 -m comment --comment fairlead -j FL-A-TOP\nCOMMIT\n" +
				"*filter\n:FL-F - [0:0]\nCOMMIT\n"},
		{"unwanted", have(func(s *State) {
			s.Chains[ChainRef{NAT, "FL-Z"}], s.Chains[ChainRef{NAT, "FL-Y"}] = ChainState{}, ChainState{}
			s.Hooks[Hook{NAT, "OUTPUT", "FL-Z"}] = 2
			s.Strays = []Stray{{NAT, "OTHER", "FL-Y", "-j FL-Y"}, {NAT, "OTHER", "FL-A-TOP", "-j FL-A-TOP"}}
		}), trustAll, "*nat\n:FL-Y - [0:0]\n:FL-Z - [0:0]\n" + strings.Repeat("-D OUTPUT -m comment --comment fairlead -j FL-Z\n", 2) +
			"-D OTHER -j FL-Y\n-X FL-Y\n-X FL-Z\nCOMMIT\n"},
		{"hooks", have(func(s *State) { s.Hooks = map[Hook]int{hook: 3} }), trustAll, "*nat\n" +
			strings.Repeat("-D OUTPUT -m comment --comment fairlead -j FL-A-TOP\n", 2) +
			"-I PREROUTING 1 -m comment --comment fairlead -j FL-A-TOP\nCOMMIT\n"},
	} {
		r := Diff(c.have, want, c.trust)
		got, err := r.AppendText(nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(string(got), c.want); d != "" {
			t.Errorf("%s, got-want+:\n%s", c.name, d)
		}
		if r.Empty() != (c.want == "") {
			t.Errorf("%s: Empty is %v", c.name, r.Empty())
		}
		var b strings.Builder
		if n, err := r.WriteTo(&b); b.String() != c.want || int(n) != len(c.want) || err != nil {
			t.Errorf("%s: WriteTo wrote %q, %d, %v", c.name, b.String(), n, err)
		}
	}
}

// TestFakeFaults: a failed table changes nothing, earlier ones stay, and an
// answer that is lost leaves the change in place.
// TestDiffText: a chain that is there as the tools print it is not written again, whoever
// has written it, and one that differs in a word is.
func TestDiffText(t *testing.T) {
	for _, c := range []struct {
		family Family
		saved  string
		dest   string
		write  bool
	}{
		{IPv4, "-d 10.96.0.2/32 -m comment --comment \"a b\" -j REJECT --reject-with icmp-port-unreachable", "10.96.0.2/32", false},
		{IPv4, "-d 10.96.0.3/32 -m comment --comment \"a b\" -j REJECT --reject-with icmp-port-unreachable", "10.96.0.2/32", true},
		{IPv4, "-d 10.96.0.2/32 -m comment --comment \"a b\" -j REJECT --reject-with icmp-host-prohibited", "10.96.0.2/32", true},
		{IPv6, "-d fd00::2/128 -m comment --comment \"a b\" -j REJECT --reject-with icmp6-port-unreachable", "fd00::2/128", false},
	} {
		save := newSaveReader()
		text := "*filter\n:FL-X - [0:0]\n-A FL-X -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FL-X " + c.saved + "\nCOMMIT\n"
		if err := save.read(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		want := &Ruleset{Family: c.family, Chains: map[ChainRef][]Rule{{Filter, "FL-X"}: {
			{Match: []Match{CTState{States: CTEstablished | CTRelated}}, Target: Accept{}},
			{Match: []Match{Dest{Prefix: pfx(c.dest)}}, Comment: "a b", Target: Reject{}},
		}}}
		if got := !Diff(&save.state, want, nil).Empty(); got != c.write {
			t.Errorf("%s: written: %v, want %v", c.saved, got, c.write)
		}
	}
}

func TestFakeFaults(t *testing.T) {
	bang := errors.New("bang")
	f := NewFake()
	change := Diff(nil, natRules(), nil)
	var ops []string
	failOn := ""
	f.Fail = func(op string) error {
		ops = append(ops, op)
		if op == failOn {
			return bang
		}
		return nil
	}
	for _, c := range []struct {
		op           string
		nat, filters bool // committed
	}{
		{"restore IPv4 nat", false, false},
		{"restore IPv4 filter", true, false},
		{"restored IPv4 filter", true, true},
	} {
		failOn, ops = c.op, nil
		if err := f.Restore(t.Context(), change); !errors.Is(err, bang) {
			t.Errorf("%s: got %v", c.op, err)
		}
		if ops[len(ops)-1] != c.op {
			t.Errorf("%s: went on: %v", c.op, ops)
		}
		if got := strings.Contains(f.Dump(), "IPv4 nat :FL-POOL\n"); got != c.nat {
			t.Errorf("%s: nat committed: %v", c.op, got)
		}
		if got := strings.Contains(f.Dump(), "IPv4 filter :FL-FILTER\n"); got != c.filters {
			t.Errorf("%s: filter committed: %v", c.op, got)
		}
	}
	failOn = "save IPv4"
	if _, err := f.Save(t.Context(), IPv4); !errors.Is(err, bang) {
		t.Errorf("save: got %v", err)
	}
	failOn = "probe IPv6"
	if _, err := f.Probe(t.Context(), IPv6, nil, nil); !errors.Is(err, bang) {
		t.Errorf("probe: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Restore(ctx, change); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// TestFakeTamper: what others do shows, and stays out of what is ours.
func TestFakeTamper(t *testing.T) {
	f := NewFake()
	if err := f.AddForeign(IPv4, NAT, ":DOCKER - [0:0]", "-A DOCKER -j RETURN", "-A OUTPUT -j DOCKER"); err != nil {
		t.Fatal(err)
	}
	before := f.Dump()
	if want := "IPv4 nat :DOCKER\nIPv4 nat -A DOCKER -j RETURN\nIPv4 nat -A OUTPUT -j DOCKER\n"; before != want {
		t.Errorf("got %q\nwant %q", before, want)
	}
	want := natRules()
	mend := func(what string) {
		t.Helper()
		mustRestore(t, f, Diff(mustSave(t, f, IPv4), want, trustAll))
		if d := Diff(mustSave(t, f, IPv4), want, trustAll); !d.Empty() {
			t.Errorf("%s: not mended: %v", what, d)
		}
	}
	mend("start")
	if got, want := f.Stats(), (FakeStats{Saves: 2, Restores: 1, Tables: 2, Chains: 9, Rules: 22}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	f.RemoveRule(IPv4, NAT, "FL-POOL", 1)
	f.ResetStats()
	mend("rule removed")
	if got := f.Stats(); got.Chains != 1 || strings.Count(f.LastRestore(), "\n-A ") != 3 {
		t.Errorf("one chain to write: %+v\n%s", got, f.LastRestore())
	}
	f.DeleteChain(IPv4, NAT, "FL-POOL")
	mend("chain deleted")
	mustRestore(t, f, Diff(mustSave(t, f, IPv4), &Ruleset{}, nil))
	if d := cmp.Diff(f.Dump(), before); d != "" {
		t.Errorf("what is not ours changed:\n%s", d)
	}
	mend("again")
	f.Flush(IPv4, NAT)
	mend("flushed")
}

// BenchmarkText is what a full sync of about 10,000 Services costs to print.
func BenchmarkText(b *testing.B) {
	r := &Ruleset{Chains: map[ChainRef][]Rule{}}
	for i := range 100_000 {
		r.Chains[ChainRef{NAT, fmt.Sprintf("FL-E-%d", i)}] = []Rule{
			{Match: []Match{Source{Prefix: pfx("10.244.1.2/32")}}, Target: OrMark{1}, Comment: "default/web:http"},
			{Match: []Match{Proto{TCP}, RecentSet{"FL-E"}}, Target: DNAT{ap("10.244.1.2:80")}},
		}
	}
	buf := make([]byte, 0, 64<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.AppendText(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
