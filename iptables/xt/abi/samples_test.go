package abi_test

import (
	"net/netip"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A sample is a rule of some kind.
type sample struct {
	name  string
	table xt.Table
	rule  xt.Rule
	needs string // a module that kernels are built without now and then
}

// Addresses for the samples of a family.
type samplesOf struct {
	f            xt.Family
	addr         netip.Addr
	net, oddBits netip.Prefix
}

func samples(f xt.Family) []sample {
	s := samplesOf{f, netip.MustParseAddr("10.1.2.3"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.2.0/23")}
	if f == xt.IPv6 {
		s = samplesOf{f, netip.MustParseAddr("fd00:1::3"), netip.MustParsePrefix("fd00:1::/64"), netip.MustParsePrefix("fd00:1::/61")}
	}
	out := s.header()
	out = append(out, s.matches()...)
	out = append(out, s.kept()...)
	return append(out, s.targets()...)
}

func when(m ...xt.Match) xt.Rule { return xt.Rule{Match: m, Target: xt.Return{}} }

func (s samplesOf) header() []sample {
	host := netip.PrefixFrom(s.addr, s.addr.BitLen())
	any := netip.PrefixFrom(s.addr, 0)
	icmp := xt.ICMP
	if s.f == xt.IPv6 {
		icmp = xt.ICMPv6
	}
	return []sample{
		{name: "nothing", table: xt.NAT},
		{name: "return", table: xt.NAT, rule: when()},
		{name: "source", table: xt.NAT, rule: when(xt.Source{Prefix: host})},
		{name: "not source", table: xt.NAT, rule: when(xt.Source{Prefix: host, Not: true})},
		{name: "source network", table: xt.NAT, rule: when(xt.Source{Prefix: s.net})},
		{name: "source odd network", table: xt.NAT, rule: when(xt.Source{Prefix: s.oddBits})},
		{name: "source any", table: xt.NAT, rule: when(xt.Source{Prefix: any})},
		{name: "dest", table: xt.NAT, rule: when(xt.Dest{Prefix: host})},
		{name: "not dest network", table: xt.NAT, rule: when(xt.Dest{Prefix: s.oddBits, Not: true})},
		{name: "in", table: xt.NAT, rule: when(xt.InIface{Name: "eth0"})},
		{name: "not in prefix", table: xt.NAT, rule: when(xt.InIface{Name: "veth+", Not: true})},
		{name: "out", table: xt.NAT, rule: when(xt.OutIface{Name: "an-interface-01"})},
		{name: "not out prefix", table: xt.NAT, rule: when(xt.OutIface{Name: "v+", Not: true})},
		{name: "both and all", table: xt.NAT, rule: when(
			xt.Source{Prefix: s.net}, xt.Dest{Prefix: host}, xt.InIface{Name: "a"}, xt.OutIface{Name: "b+"}, xt.Proto{Protocol: xt.TCP})},
		{name: "tcp", table: xt.NAT, rule: when(xt.Proto{Protocol: xt.TCP})},
		{name: "udp", table: xt.NAT, rule: when(xt.Proto{Protocol: xt.UDP})},
		{name: "sctp", table: xt.NAT, rule: when(xt.Proto{Protocol: xt.SCTP})},
		{name: "icmp", table: xt.NAT, rule: when(xt.Proto{Protocol: icmp})},
	}
}

func (s samplesOf) matches() []sample {
	var out []sample
	for _, p := range []xt.Protocol{xt.TCP, xt.UDP, xt.SCTP} {
		out = append(out,
			sample{name: "port " + p.String(), table: xt.NAT, rule: when(xt.DPort{Protocol: p, Port: 0x1234})},
			sample{name: "ports " + p.String(), table: xt.NAT, rule: when(xt.DPortRange{Protocol: p, Low: 1, High: 0xfffe})})
	}
	for i := range 31 {
		states := xt.CTStates(i + 1)
		out = append(out, sample{name: "states", table: xt.NAT, rule: when(xt.CTState{States: states, Not: i%2 == 0})})
	}
	for _, p := range []float64{1, 0.5, 1. / 3, 0.1, 1. / 354, 1. / 10000, 0.0000000003} {
		out = append(out, sample{name: "random", table: xt.NAT, rule: when(xt.Random{P: p})})
	}
	return append(out,
		sample{name: "syn", table: xt.NAT, rule: when(xt.Proto{Protocol: xt.TCP}, xt.TCPSyn{})},
		sample{name: "not syn", table: xt.NAT, rule: when(xt.Proto{Protocol: xt.TCP}, xt.TCPSyn{Not: true})},
		sample{name: "port and syn", table: xt.NAT, rule: when(xt.DPort{Protocol: xt.TCP, Port: 80}, xt.TCPSyn{Not: true})},
		sample{name: "reply", table: xt.NAT, rule: when(xt.CTReply{})},
		sample{name: "local source", table: xt.NAT, rule: when(xt.SrcType{})},
		sample{name: "not local source", table: xt.NAT, rule: when(xt.SrcType{Not: true})},
		sample{name: "local dest", table: xt.NAT, rule: when(xt.DstType{})},
		sample{name: "not local dest", table: xt.NAT, rule: when(xt.DstType{Not: true})},
		sample{name: "mark", table: xt.NAT, rule: when(xt.MarkIs{Value: 0x4000})},
		sample{name: "not masked mark", table: xt.NAT, rule: when(xt.MarkIs{Value: 0x4000, Mask: 0xc000, Not: true})},
		sample{name: "connection mark", table: xt.NAT, rule: when(xt.ConnMarkIs{Bits: 0x80})},
		sample{name: "same address", table: xt.NAT, rule: when(xt.SameAddr{Family: s.f})},
		sample{name: "set", table: xt.NAT, rule: when(xt.InSet{Set: setName(s.f), Dirs: "dst,dst,src"})},
		sample{name: "not set", table: xt.NAT, rule: when(xt.InSet{Set: setName(s.f), Dirs: "src,dst,dst", Not: true})},
		sample{name: "ipvs", table: xt.NAT, rule: when(xt.ViaIPVS{}), needs: "ip_vs"},
		sample{name: "socket", table: xt.Mangle, rule: when(xt.ToSocket{})},
		sample{name: "several", table: xt.NAT, rule: xt.Rule{Match: []xt.Match{
			xt.Dest{Prefix: s.net}, xt.DPort{Protocol: xt.UDP, Port: 53}, xt.CTState{States: xt.CTNew}, xt.DstType{}, xt.Random{P: 0.25},
		}, Target: xt.Accept{}, Comment: "all of it"}})
}

// kept are the matches of lists, and comments.
func (s samplesOf) kept() []sample {
	out := []sample{
		{name: "recent", table: xt.NAT, rule: when(xt.RecentCheck{Name: "FL-ONE", Seconds: 10800})},
		{name: "recent refresh", table: xt.NAT, rule: when(xt.RecentCheck{Name: "FL-ONE", Seconds: 1, Refresh: true})},
		{name: "recent set", table: xt.NAT, rule: xt.Rule{Match: []xt.Match{xt.RecentSet{Name: strings.Repeat("n", 199)}}}},
	}
	for _, text := range []string{
		"fairlead", "with spaces", `a "quote" and a \`, "tab\tand\x7f", "Grüße 世界", "bad \xff bytes",
		strings.Repeat("x", 300), strings.Repeat("é", 200), " ", "-j DROP", "it's",
	} {
		out = append(out, sample{name: "comment", table: xt.NAT, rule: xt.Rule{Comment: text}})
	}
	return out
}

func (s samplesOf) targets() []sample {
	to := func(name string, table xt.Table, t xt.Target, m ...xt.Match) sample {
		return sample{name: name, table: table, rule: xt.Rule{Match: m, Target: t}}
	}
	tcp := xt.Proto{Protocol: xt.TCP}
	tproxy := to("tproxy", xt.Mangle, xt.TProxy{On: netip.AddrPortFrom(s.addr, 0x1234), MarkBits: 0x40}, tcp)
	tproxy.needs = "xt_TPROXY"
	return []sample{
		to("jump", xt.NAT, xt.Jump{Chain: "FL-OTHER"}), to("goto", xt.NAT, xt.Goto{Chain: "FL-OTHER"}),
		to("goto, tcp", xt.NAT, xt.Goto{Chain: "FL-OTHER"}, tcp),
		to("accept", xt.Filter, xt.Accept{}), to("drop", xt.Filter, xt.DropPacket{}),
		to("reject", xt.Filter, xt.Reject{}), to("reset", xt.Filter, xt.Reset{}, tcp),
		to("dnat", xt.NAT, xt.DNAT{To: netip.AddrPortFrom(s.addr, 0x1234)}, tcp),
		to("dnat address", xt.NAT, xt.DNATAddr{To: s.addr}),
		to("netmap", xt.NAT, xt.NetMap{To: s.net}), to("netmap odd", xt.NAT, xt.NetMap{To: s.oddBits}),
		to("masquerade", xt.NAT, xt.Masquerade{}), to("masquerade random", xt.NAT, xt.Masquerade{RandomFully: true}),
		to("or mark", xt.NAT, xt.OrMark{Bits: 0x4000}), to("clear mark", xt.NAT, xt.ClearMark{Bits: 0x4000}),
		to("xor mark", xt.NAT, xt.XorMark{Bits: 0x4000}), to("connection mark", xt.Mangle, xt.OrConnMark{Bits: 0x80}),
		tproxy,
	}
}

func setName(f xt.Family) string { return "FL-SET-" + f.String() }
