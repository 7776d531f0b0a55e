package xt

import (
	"net/netip"
	"testing"
)

func pfx(s string) netip.Prefix  { return netip.MustParsePrefix(s) }
func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// everyRule is every match and target, with the text wanted, by the table it
// is possible in.
func everyRule(f Family) []struct {
	table Table
	rule  Rule
	want  string
} {
	net, one, to, all, icmp := "10.0.0.0/8", "10.96.0.1/32", "10.244.1.2:8080", "0.0.0.0/0", Proto{ICMP}
	icmpName := "icmp"
	if f == IPv6 {
		net, one, to, all, icmp = "fd00::/64", "fd00:10:96::1/128", "[fd00:10:244:1::2]:8080", "::/0", Proto{ICMPv6}
		icmpName = "ipv6-icmp"
	}
	return []struct {
		table Table
		rule  Rule
		want  string
	}{
		{Filter, Rule{}, ""},
		{Filter, Rule{Target: Return{}}, "-j RETURN"},
		{Filter, Rule{Match: []Match{Source{Prefix: pfx(net)}}, Target: Accept{}}, "-s " + net + " -j ACCEPT"},
		{Filter, Rule{Match: []Match{Source{Prefix: pfx(all)}}, Target: Accept{}}, "-s " + all + " -j ACCEPT"},
		{Filter, Rule{Match: []Match{Source{Prefix: pfx(net), Not: true}}, Target: DropPacket{}}, "! -s " + net + " -j DROP"},
		{NAT, Rule{Match: []Match{Dest{Prefix: pfx(one), Not: true}}, Target: Jump{"FL-OTHER"}}, "! -d " + one + " -j FL-OTHER"},
		{NAT, Rule{Match: []Match{DPort{TCP, 80}, Dest{Prefix: pfx(one)}, Source{Prefix: pfx(net)}}, Target: Goto{"FL-OTHER"}, Comment: "default/web:http cluster IP"},
			"-s " + net + " -d " + one + ` -p tcp -m tcp --dport 80 -m comment --comment "default/web:http cluster IP" -g FL-OTHER`},
		{NAT, Rule{Match: []Match{Proto{UDP}, DPort{UDP, 53}}, Target: Jump{"FL-OTHER"}}, "-p udp -m udp --dport 53 -j FL-OTHER"},
		{NAT, Rule{Match: []Match{DPort{SCTP, 65535}}, Target: Jump{"FL-OTHER"}}, "-p sctp -m sctp --dport 65535 -j FL-OTHER"},
		{NAT, Rule{Match: []Match{DPortRange{TCP, 30000, 32767}}, Target: Jump{"FL-OTHER"}}, "-p tcp -m tcp --dport 30000:32767 -j FL-OTHER"},
		{Filter, Rule{Match: []Match{icmp}, Target: Reject{}}, "-p " + icmpName + " -j REJECT"},
		{Filter, Rule{Match: []Match{InIface{Name: "eth0"}, OutIface{Name: "veth+", Not: true}}, Target: Return{}}, "-i eth0 ! -o veth+ -j RETURN"},
		{Filter, Rule{Match: []Match{InIface{Name: "eth0.100", Not: true}}, Target: Return{}}, "! -i eth0.100 -j RETURN"},
		{Filter, Rule{Match: []Match{Proto{TCP}, TCPSyn{Not: true}}, Target: Reset{}},
			"-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset"},
		{Filter, Rule{Match: []Match{Proto{TCP}, TCPSyn{}}, Target: Return{}}, "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN"},
		{Filter, Rule{Match: []Match{CTState{States: CTNew | CTInvalid}}, Target: DropPacket{}}, "-m conntrack --ctstate INVALID,NEW -j DROP"},
		{Mangle, Rule{Match: []Match{CTReply{}}, Target: Return{}}, "-m conntrack --ctdir REPLY -j RETURN"},
		{Filter, Rule{Match: []Match{CTState{States: CTEstablished | CTRelated | CTDNAT, Not: true}}, Target: Return{}},
			"-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j RETURN"},
		{NAT, Rule{Match: []Match{SrcType{}, DstType{Not: true}}, Target: Return{}}, "-m addrtype --src-type LOCAL -m addrtype ! --dst-type LOCAL -j RETURN"},
		{NAT, Rule{Match: []Match{SrcType{Not: true}, DstType{}}, Target: Return{}}, "-m addrtype ! --src-type LOCAL -m addrtype --dst-type LOCAL -j RETURN"},
		{NAT, Rule{Match: []Match{MarkIs{Value: 0x4000, Mask: 0x4000, Not: true}}, Target: Return{}}, "-m mark ! --mark 0x4000/0x4000 -j RETURN"},
		{NAT, Rule{Match: []Match{MarkIs{Value: 7}}, Target: Return{}}, "-m mark --mark 0x7 -j RETURN"},
		{NAT, Rule{Match: []Match{Random{1.0 / 3}}, Target: Jump{"FL-OTHER"}}, "-m statistic --mode random --probability 0.3333333333 -j FL-OTHER"},
		{NAT, Rule{Match: []Match{Random{1}}, Target: Jump{"FL-OTHER"}}, "-m statistic --mode random --probability 1.0000000000 -j FL-OTHER"},
		{NAT, Rule{Match: []Match{RecentCheck{Name: "FL-E-abc", Seconds: 10800}}, Target: Jump{"FL-OTHER"}},
			"-m recent --rcheck --seconds 10800 --reap --name FL-E-abc --rsource -j FL-OTHER"},
		{NAT, Rule{Match: []Match{RecentCheck{Name: "FL-E-abc", Seconds: 60, Refresh: true}}, Target: Jump{"FL-OTHER"}},
			"-m recent --update --seconds 60 --reap --name FL-E-abc --rsource -j FL-OTHER"},
		{NAT, Rule{Match: []Match{SameAddr{f}}, Target: Jump{"FL-OTHER"}}, string(SameAddr{f}.appendArgs(nil)) + " -j FL-OTHER"},
		{NAT, Rule{Match: []Match{DPortRange{TCP, 80, 95}}, Target: Jump{"FL-OTHER"}}, "-p tcp -m tcp --dport 80:95 -j FL-OTHER"},
		{NAT, Rule{Match: []Match{RecentSet{"FL-E-abc"}}}, "-m recent --set --name FL-E-abc --rsource"},
		{NAT, Rule{Match: []Match{Proto{TCP}, RecentSet{"FL-E-abc"}}, Target: DNAT{ap(to)}},
			"-p tcp -m recent --set --name FL-E-abc --rsource -j DNAT --to-destination " + to},
		{NAT, Rule{Target: OrMark{0x4000}}, "-j MARK --set-xmark 0x4000/0x4000"},
		{NAT, Rule{Target: XorMark{0x80000000}}, "-j MARK --set-xmark 0x80000000/0x0"},
		{NAT, Rule{Target: Masquerade{}}, "-j MASQUERADE"},
		{NAT, Rule{Target: Masquerade{RandomFully: true}}, "-j MASQUERADE --random-fully"},
		{NAT, Rule{Comment: `it's "a" \ $(b) ` + "`c`;|é\n"}, `-m comment --comment "it's \"a\" \\ $(b) ` + "`c`;|é?" + `"`},
	}
}

func TestRuleText(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, c := range everyRule(f) {
			if err := c.rule.check(f, c.table); err != nil {
				t.Errorf("%v %q: %v", f, c.want, err)
			}
			if got := c.rule.Text(); got != c.want {
				t.Errorf("%v: got %s\n want %s", f, got, c.want)
			}
		}
	}
}

// everything returns a Ruleset with every rule in it, each reachable only from
// where the kernel allows it.
func everything(f Family) *Ruleset {
	r := &Ruleset{Family: f, Chains: map[ChainRef][]Rule{
		{NAT, "FL-OTHER"}:      nil,
		{NAT, "FL-PRE"}:        {{Match: []Match{Random{0.5}}, Target: Jump{"FL-OTHER"}}},
		{NAT, "FL-POST"}:       {{Target: Jump{"FL-ALL-MASQUERADE"}}},
		{Filter, "FL-FORWARD"}: {{Target: Jump{"FL-ALL"}}},
		{Mangle, "FL-MARK"}:    {{Target: OrMark{1}}},
	}, Hooks: []Hook{
		{NAT, "PREROUTING", "FL-PRE"}, {NAT, "OUTPUT", "FL-PRE"}, {NAT, "POSTROUTING", "FL-POST"},
		{Filter, "FORWARD", "FL-FORWARD"}, {Mangle, "PREROUTING", "FL-MARK"},
	}}
	for _, c := range everyRule(f) {
		name := "FL-ALL"
		switch c.rule.Target.(type) {
		case DNAT:
			name = "FL-ALL-DNAT"
			r.Chains[ChainRef{NAT, "FL-PRE"}] = append(r.Chains[ChainRef{NAT, "FL-PRE"}], Rule{Target: Jump{name}})
		case Masquerade:
			name = "FL-ALL-MASQUERADE"
		}
		ref := ChainRef{c.table, name}
		r.Chains[ref] = append(r.Chains[ref], c.rule)
	}
	return r
}
