package xt

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hookNames has a chain for every table and built-in chain, each with a rule
// that does nothing, so that a trace tells the way of a packet.
func hookNames() *Ruleset {
	r := &Ruleset{Chains: map[ChainRef][]Rule{}}
	for _, t := range []Table{Mangle, NAT, Filter} {
		for _, builtin := range builtins(t) {
			chain := "FL-" + builtin
			r.Hooks = append(r.Hooks, Hook{t, builtin, chain})
			r.Chains[ChainRef{t, chain}] = []Rule{{Comment: "here"}}
		}
	}
	return r
}

// way shortens a trace to "mangle/PREROUTING nat/PREROUTING …".
func way(r Result) string {
	var out []string
	for _, line := range r.Trace {
		ref, _, _ := strings.Cut(line, " ")
		out = append(out, strings.Replace(ref, "FL-", "", 1))
	}
	return strings.Join(out, " ")
}

const (
	preWay  = "mangle/PREROUTING nat/PREROUTING "
	inWay   = "mangle/INPUT filter/INPUT"
	postWay = "filter/OUTPUT mangle/POSTROUTING nat/POSTROUTING"
	outWay  = "mangle/OUTPUT nat/OUTPUT "
	loWay   = " mangle/PREROUTING mangle/INPUT filter/INPUT"
)

// TestEvalIPVS follows packets through IPVS, which balances 10.96.0.1:80 to a
// pod and to the node itself, and has nothing behind 10.96.0.2:80.
func TestEvalIPVS(t *testing.T) {
	node, pod := ap("172.18.0.11:8080"), ap("10.244.2.2:8080")
	balance := func(p *Packet) []netip.AddrPort {
		switch p.Dst {
		case ap("10.96.0.1:80"):
			return []netip.AddrPort{pod, node}
		case ap("10.97.0.2:80"):
			return []netip.AddrPort{pod, node}
		case ap("10.96.0.2:80"):
			return []netip.AddrPort{}
		}
		return nil
	}
	type outcome struct {
		To      netip.AddrPort
		Verdict Verdict
		P       float64
		Way     string
	}
	for _, c := range []struct {
		name string
		p    Packet
		want []outcome
	}{
		{"arrives", Packet{In: "eth0", Dst: ap("10.96.0.1:80")}, []outcome{
			{pod, Accepted, 0.5, preWay + inWay + " mangle/OUTPUT " + postWay},
			{node, Accepted, 0.5, preWay + inWay + " nat/INPUT"}}},
		{"is sent", Packet{Dst: ap("10.96.0.1:80")}, []outcome{
			{pod, Accepted, 0.5, outWay + "mangle/OUTPUT " + postWay},
			{node, Accepted, 0.5, outWay + postWay + loWay}}},
		{"is sent, and not routed here", Packet{Dst: ap("10.97.0.2:80")}, []outcome{
			{pod, Accepted, 0.5, outWay + "mangle/OUTPUT " + postWay},
			{node, Dropped, 0.5, strings.TrimSpace(outWay)}}},
		{"nothing there", Packet{In: "eth0", Dst: ap("10.96.0.2:80")}, []outcome{{netip.AddrPort{}, Rejected, 1, preWay + inWay}}},
		{"nothing there for us", Packet{Dst: ap("10.96.0.2:80")}, []outcome{{netip.AddrPort{}, Rejected, 1, strings.TrimSpace(outWay)}}},
		{"no such server", Packet{In: "eth0", Dst: ap("10.96.0.3:80")}, []outcome{{netip.AddrPort{}, Accepted, 1, preWay + inWay + " nat/INPUT"}}},
		{"not routed here", Packet{In: "eth0", Dst: ap("10.97.0.1:80")}, []outcome{
			{netip.AddrPort{}, Accepted, 1, preWay + "mangle/FORWARD filter/FORWARD mangle/POSTROUTING nat/POSTROUTING"}}},
		{"ping", Packet{In: "eth0", Proto: ICMP, Dst: ap("10.96.0.1:80")}, []outcome{{netip.AddrPort{}, Accepted, 1, preWay + inWay + " nat/INPUT"}}},
		{"was balanced", Packet{In: "eth0", Dst: ap("10.96.0.1:80"), Balanced: true}, []outcome{
			{netip.AddrPort{}, Accepted, 1, preWay + inWay + " nat/INPUT"}}},
	} {
		if c.p.Proto == 0 {
			c.p.Proto = TCP
		}
		c.p.Src, c.p.Out = ap("198.51.100.1:1234"), "eth0"
		c.p.Local = func(a netip.Addr) bool { return a == node.Addr() }
		c.p.Routed = func(p *Packet) bool { return pfx("10.96.0.0/16").Contains(p.Dst.Addr()) }
		c.p.Balance = balance
		var got []outcome
		for _, r := range hookNames().Trace(c.p) {
			got = append(got, outcome{r.DNAT, r.Verdict, r.P, way(r)})
		}
		if d := cmp.Diff(got, c.want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("%s, got-want+:\n%s", c.name, d)
		}
	}
}

// TestEvalRouted marks what is in a set, has it routed to the node, and clears
// the mark there; a second set is sent to an alias. What has been through IPVS
// is masqueraded.
func TestEvalRouted(t *testing.T) {
	inSet := func(name string) []Match { return []Match{InSet{Set: name, Dirs: "dst,dst"}} }
	r := &Ruleset{Chains: map[ChainRef][]Rule{
		{Mangle, "FL-PRE"}:   {{Match: inSet("VIP"), Target: OrMark{0x8000}}},
		{Mangle, "FL-INPUT"}: {{Target: ClearMark{0x8000}}},
		{NAT, "FL-PRE"}:      {{Match: inSet("SHORT"), Target: NetMap{pfx("240.0.0.0/4")}}, {Match: inSet("NODE"), Target: DNATAddr{netip.MustParseAddr("169.254.77.77")}}},
		{NAT, "FL-POST"}:     {{Match: []Match{ViaIPVS{}}, Target: Masquerade{}}},
		{Filter, "FL-INPUT"}: {{Match: []Match{Dest{Prefix: pfx("169.254.77.77/32")}, CTState{States: CTDNAT, Not: true}}, Target: DropPacket{}}},
	}, Hooks: []Hook{
		{Mangle, "PREROUTING", "FL-PRE"}, {Mangle, "INPUT", "FL-INPUT"}, {NAT, "PREROUTING", "FL-PRE"},
		{NAT, "POSTROUTING", "FL-POST"}, {Filter, "INPUT", "FL-INPUT"},
	}}
	mustCheck(t, r)
	servers := map[netip.AddrPort]netip.AddrPort{
		ap("10.96.0.1:80"): ap("10.244.2.2:8080"), ap("250.96.0.2:80"): ap("10.244.2.3:8080"), ap("169.254.77.77:30080"): ap("10.244.2.4:8080"),
	}
	sets := map[string][]netip.AddrPort{"VIP": {ap("10.96.0.1:80")}, "SHORT": {ap("10.96.0.2:80")}, "NODE": {ap("172.18.0.11:30080")}}
	for _, c := range []struct {
		dst  string
		want Result
	}{
		{"10.96.0.1:80", Result{DNAT: ap("10.244.2.2:8080"), Masqueraded: true, P: 1}},
		{"10.96.0.1:81", Result{P: 1}},
		{"10.96.0.2:80", Result{DNAT: ap("10.244.2.3:8080"), Masqueraded: true, P: 1}},
		{"172.18.0.11:30080", Result{DNAT: ap("10.244.2.4:8080"), Masqueraded: true, P: 1}},
		{"169.254.77.77:30080", Result{Verdict: Dropped, P: 1}},
	} {
		got := r.Eval(Packet{
			Proto: TCP, Src: ap("198.51.100.1:1234"), Dst: ap(c.dst), In: "eth0", Out: "eth1",
			Local: func(a netip.Addr) bool {
				return a == netip.MustParseAddr("172.18.0.11") || pfx("240.0.0.0/4").Contains(a) || a.IsLinkLocalUnicast()
			},
			Sets: func(set string, p *Packet, dirs string) bool {
				return dirs == "dst,dst" && slices.Contains(sets[set], p.Dst)
			},
			Routed: func(p *Packet) bool { return p.Mark&0x8000 != 0 },
			Balance: func(p *Packet) []netip.AddrPort {
				if to, ok := servers[p.Dst]; ok {
					return []netip.AddrPort{to}
				}
				return nil
			},
		})
		if d := cmp.Diff(got, []Result{c.want}, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("%s, got-want+:\n%s", c.dst, d)
		}
	}
}
