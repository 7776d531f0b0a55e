package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
	"github.com/fairlead-project/fairlead/userspace/localhost"
)

// A simulation is what a dataplane would have happen to a packet.
type simulation struct {
	results []xt.Result // one for each way through the rules
	met     []string    // what the packet meets beside rules, in order

	takesPing bool // the node answers pings to this address itself
	takesAll  bool // the node has the whole address
	refused   bool // the dataplane does not speak the protocol
}

// known returns why the rules do something else than was decided, if the dataplane
// cannot do otherwise.
func (s *simulation) known(got, want service.Outcome) string {
	switch {
	case s.takesPing && got.Verdict == service.Pass && want.Verdict == service.Reject:
		return "In ipvs mode the node itself answers pings to cluster and load-balancer IPs."
	case s.takesAll && got.Verdict == service.Reject && want.Verdict == service.Pass:
		return "With --ipvs-vip-mode=device the node has the whole address, and rejects what no Service declares."
	case s.refused && got.Verdict == service.Reject && want.Verdict == service.Forward:
		return "In userspace mode SCTP is refused."
	}
	return ""
}

// A simulator sends the first packet of a flow through what a dataplane makes of
// a Snapshot.
type simulator func(*service.Snapshot, service.Flow) simulation

// simulator returns that of the dataplane r asks for.
func (r request) simulator(f *flags) simulator {
	simulate := simulateIptables(iptablesConfig(f))
	switch r.dataplane {
	case modeIPVS:
		simulate = simulateIPVS(r.ipvs.plan(f.MasqueradeBit))
	case modeUserspace:
		simulate = simulateUserspace(r.userspace)
	}
	if r.localhost {
		simulate = besideLocalhost(simulate)
	}
	return simulate
}

// besideLocalhost adds the proxy for localhost to what another dataplane does.
func besideLocalhost(simulate simulator) simulator {
	return func(snap *service.Snapshot, flow service.Flow) simulation {
		sim := simulate(snap, flow)
		if p := localhost.Listener(snap, userspace.Place{Protocol: flow.Protocol, Addr: flow.Dst}); p != nil {
			sim.met = append(sim.met, fmt.Sprintf("proxy for localhost, which listens at %v/%s for %v", flow.Dst, flow.Protocol, p.ID.Service))
		}
		return sim
	}
}

// simulateUserspace shows what the proxy may do with a packet that it gets as what
// IPVS may: as new destinations.
func simulateUserspace(cfg userspace.Config) simulator {
	return func(snap *service.Snapshot, flow service.Flow) simulation {
		plan, _ := userspace.Plan(snap, cfg)
		var sim simulation
		meet := func(format string, args ...any) {
			if what := fmt.Sprintf(format, args...); !slices.Contains(sim.met, what) {
				sim.met = append(sim.met, what)
			}
		}
		at := userspace.Place{Protocol: flow.Protocol, Addr: flow.Dst}
		p := packet(flow, &snap.Node)
		p.Sets = func(set string, p *xt.Packet, _ string) bool {
			held := plan.Holds(set, p.Src.Addr(), at)
			if held {
				meet("set %s", set)
			}
			return held
		}
		p.Routed = func(p *xt.Packet) bool { return plan.Routed(p.Mark) }
		sim.refused = flow.Protocol == service.SCTP
		for _, r := range plan.Rules(p.Family).Trace(p) {
			out, err := plan.Outcome(at, flow.Src, r.Proxy)
			if !r.Proxy.IsValid() || err != nil {
				sim.results = append(sim.results, r)
				continue
			}
			meet("the proxy's socket at %v", r.Proxy)
			for _, h := range out.Hops {
				way := r
				way.DNAT, way.Masqueraded, way.P = h.Endpoint.Addr, h.Masquerade, r.P/float64(len(out.Hops))
				sim.results = append(sim.results, way)
			}
		}
		return sim
	}
}

func simulateIptables(cfg iptables.Config) simulator {
	return func(snap *service.Snapshot, flow service.Flow) simulation {
		rules := iptables.Plan(snap, cfg, xtFamily(service.FamilyOf(flow.Dst.Addr())))
		return simulation{results: rules.Trace(packet(flow, &snap.Node))}
	}
}

func simulateIPVS(cfg ipvs.Config) simulator {
	return func(snap *service.Snapshot, flow service.Flow) simulation {
		plan, _ := ipvs.Plan(snap, cfg)
		var sim simulation
		meet := func(format string, args ...any) {
			if what := fmt.Sprintf(format, args...); !slices.Contains(sim.met, what) {
				sim.met = append(sim.met, what)
			}
		}
		key := func(p *xt.Packet) kernel.ServerKey {
			return kernel.ServerKey{Addr: p.Dst, Protocol: flow.Protocol}
		}
		p := packet(flow, &snap.Node)
		ours := p.Local
		p.Local = func(a netip.Addr) bool { return ours(a) || plan.Local(a) }
		p.Sets = func(set string, p *xt.Packet, _ string) bool {
			held := plan.Holds(set, p.Src.Addr(), key(p))
			if held {
				meet("set %s", set)
			}
			return held
		}
		p.Routed = func(p *xt.Packet) bool {
			routed := p.Mark&plan.RouteMark() != 0 && plan.Routes(p.Dst.Addr())
			if routed {
				meet("the rule for mark %#x and its route to %s, so that the packet is for the node", plan.RouteMark(), p.Dst.Addr())
			}
			return routed
		}
		p.Balance = func(p *xt.Packet) []netip.AddrPort {
			to := plan.Balance(key(p))
			if to != nil {
				meet("virtual server %s", key(p))
			}
			return to
		}
		dst := flow.Dst.Addr()
		sim.takesAll = plan.Local(dst)
		sim.takesPing = flow.Protocol == service.ICMP && (plan.Routes(dst) || plan.Local(dst))
		sim.results = plan.Rules(p.Family).Trace(p)
		return sim
	}
}

// printMet writes what else a packet meets, if it meets anything.
func printMet(w *lines, met []string) {
	if len(met) == 0 {
		return
	}
	w.add("")
	w.add("met on the way, in this order:")
	for _, m := range met {
		w.add("  %s", m)
	}
}

// packet returns flow as the evaluator of rules wants it. The source port is
// one that nothing matches.
func packet(flow service.Flow, node *service.Node) xt.Packet {
	proto := map[service.Protocol]xt.Protocol{service.TCP: xt.TCP, service.UDP: xt.UDP, service.SCTP: xt.SCTP}[flow.Protocol]
	if flow.Protocol == service.ICMP {
		proto = xt.ICMP
		if flow.Dst.Addr().Is6() {
			proto = xt.ICMPv6
		}
	}
	return xt.Packet{
		Family: xt.FamilyOf(flow.Dst.Addr()),
		Proto:  proto,
		Src:    netip.AddrPortFrom(flow.Src, 40000),
		Dst:    flow.Dst,
		In:     flow.In,
		Out:    defaultIn,
		Local: func(a netip.Addr) bool {
			return a.IsLoopback() || slices.Contains(node.Addrs, a)
		},
	}
}

// outcome says what results amount to, in the words of the oracle.
func outcome(results []xt.Result) service.Outcome {
	var out service.Outcome
	for i, r := range results {
		v := service.Pass
		switch {
		case r.Verdict == xt.Dropped:
			v = service.Drop
		case r.Verdict == xt.Rejected:
			v = service.Reject
		case r.DNAT.IsValid():
			v = service.Forward
			out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: r.DNAT}, Masquerade: r.Masqueraded})
		}
		// Different verdicts for one packet are never right; the stricter shows.
		if i == 0 || v > out.Verdict {
			out.Verdict = v
		}
	}
	slices.SortFunc(out.Hops, func(a, b service.Hop) int { return a.Endpoint.Addr.Compare(b.Endpoint.Addr) })
	out.Hops = slices.Compact(out.Hops)
	return out
}

func sameOutcome(a, b service.Outcome) bool {
	return a.Verdict == b.Verdict && slices.Equal(a.Hops, b.Hops)
}

// printRules writes the rules that all ways through have in common once, and
// then what is different: of every way, or of the first as an example.
func printRules(w *lines, results []xt.Result, all bool) {
	w.add("rules met, as iptables-save prints them:")
	common := commonRules(results)
	for _, rule := range results[0].Trace[:common] {
		w.add("  %s", savedRule(rule))
	}
	shown := len(results)
	if !all && shown > 1 {
		shown = 1
	}
	for _, r := range results[:shown] {
		if len(results) > 1 {
			w.add(" then, with probability %.4g:", r.P)
		}
		for _, rule := range r.Trace[common:] {
			w.add("  %s", savedRule(rule))
		}
		w.add("  = %s", describeResult(r))
	}
	switch rest := len(results) - shown; {
	case rest == 1:
		w.add(" and 1 other way; see it with --all")
	case rest > 1:
		w.add(" and %d other ways; see them with --all", rest)
	}
}

func describeResult(r xt.Result) string {
	s := r.Verdict.String()
	if r.DNAT.IsValid() {
		s += ", destination " + r.DNAT.String()
	}
	return s + ifMasq(r.Masqueraded)
}

// commonRules returns how many rules all results begin with.
func commonRules(results []xt.Result) int {
	n := len(results[0].Trace)
	for _, r := range results[1:] {
		n = min(n, len(r.Trace))
		for i := range n {
			if r.Trace[i] != results[0].Trace[i] {
				n = i
				break
			}
		}
	}
	return n
}

// savedRule turns "table/CHAIN args" into what to look for.
func savedRule(traced string) string {
	table, rest, _ := strings.Cut(traced, "/")
	return fmt.Sprintf("%-6s -A %s", table, rest)
}
