package nft

import (
	"net/netip"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A sample is a rule of a kind that a dataplane writes.
type sample struct {
	table xt.Table
	rule  xt.Rule
}

// samples returns rules of all kinds that are written to some tables in a family.
func samples(f xt.Family, tables map[xt.Table]bool) []sample {
	var out []sample
	for _, s := range everySample(f) {
		if tables[s.table] {
			out = append(out, s)
		}
	}
	return out
}

// sampleAddrs are of no meaning, except for their lengths.
func sampleAddrs(f xt.Family) (addr netip.Addr, whole, odd netip.Prefix) {
	if f == xt.IPv6 {
		return netip.MustParseAddr("2001:db8::1"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8::/61")
	}
	return netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.0/26")
}

func everySample(f xt.Family) []sample {
	out := sampleHeaders(f)
	out = append(out, sampleMatches(f)...)
	out = append(out, sampleTargets(f)...)
	return append(out, sampleMangle(f)...)
}

func sampleWhen(m ...xt.Match) sample {
	return sample{xt.NAT, xt.Rule{Match: m, Target: xt.Return{}}}
}

func sampleHeaders(f xt.Family) []sample {
	addr, whole, odd := sampleAddrs(f)
	one := netip.PrefixFrom(addr, addr.BitLen())
	icmp := xt.ICMP
	if f == xt.IPv6 {
		icmp = xt.ICMPv6
	}
	return []sample{
		{xt.NAT, xt.Rule{Comment: "a \"comment\" \\ of words"}},
		sampleWhen(xt.Source{Prefix: one}, xt.Dest{Prefix: whole}),
		sampleWhen(xt.Source{Prefix: odd}, xt.Dest{Prefix: one, Not: true}),
		sampleWhen(xt.Source{Prefix: netip.PrefixFrom(addr, 0)}, xt.Dest{Prefix: odd, Not: true}),
		sampleWhen(xt.InIface{Name: "lo"}, xt.OutIface{Name: "veth+", Not: true}),
		sampleWhen(xt.InIface{Name: "veth+"}, xt.OutIface{Name: "eth0", Not: true}),
		sampleWhen(xt.Proto{Protocol: icmp}),
		sampleWhen(xt.Proto{Protocol: xt.TCP}, xt.Source{Prefix: whole}, xt.InIface{Name: "lo"}),
	}
}

func sampleMatches(f xt.Family) []sample {
	return []sample{
		sampleWhen(xt.DPort{Protocol: xt.TCP, Port: 80}),
		sampleWhen(xt.DPort{Protocol: xt.UDP, Port: 53}),
		sampleWhen(xt.DPort{Protocol: xt.SCTP, Port: 9}),
		sampleWhen(xt.DPortRange{Protocol: xt.TCP, Low: 30000, High: 32767}),
		sampleWhen(xt.DPortRange{Protocol: xt.UDP, Low: 0, High: 65535}),
		sampleWhen(xt.Proto{Protocol: xt.TCP}, xt.TCPSyn{}),
		sampleWhen(xt.DPort{Protocol: xt.TCP, Port: 80}, xt.TCPSyn{Not: true}),
		sampleWhen(xt.CTState{States: xt.CTNew}, xt.CTReply{}),
		sampleWhen(xt.CTState{States: xt.CTRelated | xt.CTEstablished | xt.CTDNAT, Not: true}),
		sampleWhen(xt.SrcType{}, xt.DstType{Not: true}),
		sampleWhen(xt.MarkIs{Value: 0x4000, Mask: 0x4000, Not: true}),
		sampleWhen(xt.MarkIs{Value: 7}),
		sampleWhen(xt.Random{P: 1.0 / 3}),
		sampleWhen(xt.RecentCheck{Name: sampleChain, Seconds: 10800, Refresh: true}),
		sampleWhen(xt.RecentCheck{Name: sampleChain, Seconds: 1}),
		sampleWhen(xt.RecentSet{Name: sampleChain}),
		sampleWhen(xt.SameAddr{Family: f}),
	}
}

func sampleTargets(f xt.Family) []sample {
	addr, whole, _ := sampleAddrs(f)
	tcp := []xt.Match{xt.Proto{Protocol: xt.TCP}}
	to := netip.AddrPortFrom(addr, 8080)
	return []sample{
		{xt.NAT, xt.Rule{Target: xt.Accept{}}},
		{xt.NAT, xt.Rule{Target: xt.Jump{Chain: sampleChain}}},
		{xt.NAT, xt.Rule{Target: xt.Goto{Chain: sampleChain}, Comment: "onward"}},
		{xt.NAT, xt.Rule{Match: tcp, Target: xt.DNAT{To: to}}},
		{xt.NAT, xt.Rule{Match: tcp, Target: xt.DNATAddr{To: addr}}},
		{xt.NAT, xt.Rule{Target: xt.NetMap{To: whole}}},
		{xt.NAT, xt.Rule{Target: xt.Masquerade{}}},
		{xt.NAT, xt.Rule{Target: xt.OrMark{Bits: 0x4000}}},
		{xt.NAT, xt.Rule{Target: xt.ClearMark{Bits: 0x4000}}},
		{xt.NAT, xt.Rule{Target: xt.XorMark{Bits: 0x4000}}},
		{xt.Filter, xt.Rule{Target: xt.DropPacket{}}},
		{xt.Filter, xt.Rule{Target: xt.Reject{}}},
		{xt.Filter, xt.Rule{Match: tcp, Target: xt.Reset{}}},
		{xt.Filter, xt.Rule{Match: []xt.Match{xt.CTState{States: xt.CTInvalid}}, Target: xt.Accept{}}},
	}
}

func sampleMangle(f xt.Family) []sample {
	addr, _, _ := sampleAddrs(f)
	tcp := xt.Proto{Protocol: xt.TCP}
	return []sample{
		{xt.Mangle, xt.Rule{Match: []xt.Match{tcp}, Target: xt.TProxy{On: netip.AddrPortFrom(addr, 8080), MarkBits: 0x4000}}},
		{xt.Mangle, xt.Rule{Match: []xt.Match{tcp, xt.ToSocket{}}, Target: xt.OrMark{Bits: 0x4000}}},
		{xt.Mangle, xt.Rule{Match: []xt.Match{xt.ConnMarkIs{Bits: 0x4000}}, Target: xt.OrConnMark{Bits: 0x4000}}},
		{xt.Mangle, xt.Rule{Match: []xt.Match{xt.ViaIPVS{}}, Target: xt.Return{}}},
	}
}
