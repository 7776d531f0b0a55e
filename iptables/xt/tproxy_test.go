package xt

import (
	"net/netip"
	"testing"
)

// tproxyRuleset catches what goes to port 80 and has no socket yet.
func tproxyRuleset(f Family) *Ruleset {
	on := "127.0.0.1:10265"
	if f == IPv6 {
		on = "[::1]:10265"
	}
	return &Ruleset{Family: f, Hooks: []Hook{{Mangle, "PREROUTING", "FL-PROXY"}}, Chains: map[ChainRef][]Rule{
		{Mangle, "FL-PROXY"}: {
			{Match: []Match{ToSocket{}}, Target: Goto{"FL-OURS"}},
			{Match: []Match{DPort{TCP, 80}}, Target: TProxy{On: netip.MustParseAddrPort(on), MarkBits: 0x8000}},
		},
		{Mangle, "FL-OURS"}: {
			{Match: []Match{ConnMarkIs{0x8000}}, Target: Return{}},
			{Target: OrMark{0x8000}},
			{Target: OrConnMark{0x8000}},
		},
	}}
}

func TestTProxyText(t *testing.T) {
	for f, want := range map[Family]string{
		IPv4: "-p tcp -m tcp --dport 80 -j TPROXY --on-port 10265 --on-ip 127.0.0.1 --tproxy-mark 0x8000/0x8000",
		IPv6: "-p tcp -m tcp --dport 80 -j TPROXY --on-port 10265 --on-ip ::1 --tproxy-mark 0x8000/0x8000",
	} {
		rules := tproxyRuleset(f).Chains[ChainRef{Mangle, "FL-PROXY"}]
		if got := rules[1].Text(); got != want {
			t.Errorf("%v: got %s\nwant %s", f, got, want)
		}
		ours := tproxyRuleset(f).Chains[ChainRef{Mangle, "FL-OURS"}]
		if got, want := ours[0].Text(), "-m connmark --mark 0x8000/0x8000 -j RETURN"; got != want {
			t.Errorf("%v: got %s, want %s", f, got, want)
		}
		if got, want := ours[2].Text(), "-j CONNMARK --set-xmark 0x8000/0x8000"; got != want {
			t.Errorf("%v: got %s, want %s", f, got, want)
		}
		if got, want := rules[0].Text(), "-m socket --transparent -g FL-OURS"; got != want {
			t.Errorf("%v: got %s, want %s", f, got, want)
		}
	}
}

func TestTProxyCheck(t *testing.T) {
	good := TProxy{On: netip.MustParseAddrPort("127.0.0.1:80"), MarkBits: 1}
	tcp := []Match{Proto{TCP}}
	for _, c := range []struct {
		name  string
		f     Family
		table Table
		rule  Rule
		ok    bool
	}{
		{"good", IPv4, Mangle, Rule{Match: tcp, Target: good}, true},
		{"any protocol", IPv4, Mangle, Rule{Target: good}, false},
		{"SCTP", IPv4, Mangle, Rule{Match: []Match{Proto{SCTP}}, Target: good}, false},
		{"in nat", IPv4, NAT, Rule{Match: tcp, Target: good}, false},
		{"of the other family", IPv6, Mangle, Rule{Match: tcp, Target: good}, false},
		{"to no port", IPv4, Mangle, Rule{Match: tcp, Target: TProxy{On: netip.MustParseAddrPort("127.0.0.1:0")}}, false},
		{"to nothing", IPv4, Mangle, Rule{Match: tcp, Target: TProxy{}}, false},
	} {
		if err := c.rule.check(c.f, c.table); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestTProxyEval: what has a socket is marked only, what has none is handed to the
// listener, and other packets pass.
func TestTProxyEval(t *testing.T) {
	r := tproxyRuleset(IPv4)
	p := Packet{Proto: TCP, Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("10.0.0.1:80"), In: "eth0"}
	known := p
	known.Socket = true
	other := p
	other.Dst = netip.MustParseAddrPort("10.0.0.1:81")
	for _, c := range []struct {
		p     Packet
		proxy string
		mark  uint32
	}{{p, "127.0.0.1:10265", 0x8000}, {known, "invalid AddrPort", 0x8000}, {other, "invalid AddrPort", 0}} {
		got := r.Eval(c.p)
		if len(got) != 1 || got[0].Verdict != Accepted || got[0].Proxy.String() != c.proxy || got[0].Mark != c.mark {
			t.Errorf("%v, socket %v: got %+v", c.p.Dst, c.p.Socket, got)
		}
	}
}

func TestFakeTProxy(t *testing.T) {
	f := NewFake()
	for _, family := range []Family{IPv4, IPv6} {
		checkRoundTrip(t, f, tproxyRuleset(family))
	}
	for name, text := range misplaced() {
		if err := f.RestoreText(IPv4, text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// misplaced are rules that the kernel refuses.
func misplaced() map[string]string {
	in := func(builtin, rule string) string {
		return "*mangle\n:FL-A - [0:0]\n-A FL-A " + rule + "\n-I " + builtin + " 1 -j FL-A\nCOMMIT\n"
	}
	return map[string]string{
		"TPROXY after routing":   in("INPUT", "-p tcp -j TPROXY --on-port 1 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1"),
		"TPROXY of any protocol": in("PREROUTING", "-j TPROXY --on-port 1 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1"),
		"TPROXY without a port":  in("PREROUTING", "-p tcp -j TPROXY --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1"),
		"socket of what is sent": in("OUTPUT", "-m socket --transparent"),
	}
}

func TestExecTProxy(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		for _, f := range []Family{IPv4, IPv6} {
			checkPrinted(t, e, tproxyRuleset(f))
			checkRoundTrip(t, e, tproxyRuleset(f))
		}
		for name, text := range misplaced() {
			if _, err := e.raw(t.Context(), text); err == nil {
				t.Errorf("%s: the kernel took it", name)
			}
		}
	})
}
