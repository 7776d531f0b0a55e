package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// evaluate sends flows through the planned rules of both families and tells
// what becomes of them in the words of the oracle.
func evaluate(cfg Config) servicetest.Eval {
	return func(snap *service.Snapshot) func(service.Flow) (service.Outcome, error) {
		var rules [service.NumFamilies]*xt.Ruleset
		for _, f := range []xt.Family{xt.IPv4, xt.IPv6} {
			rules[f] = Plan(snap, cfg, f)
		}
		return func(f service.Flow) (service.Outcome, error) {
			return evalFlow(rules[service.FamilyOf(f.Dst.Addr())], snap, f)
		}
	}
}

// evalFlow requires of a forwarding ruleset that every endpoint is as likely as its
// weight says.
func evalFlow(rules *xt.Ruleset, snap *service.Snapshot, f service.Flow) (service.Outcome, error) {
	results := rules.Eval(packet(snap, f))
	first := results[0]
	if !first.DNAT.IsValid() {
		if len(results) != 1 {
			return service.Outcome{}, fmt.Errorf("chance decides between a verdict and endpoints: %+v", results)
		}
		switch first.Verdict {
		case xt.Dropped:
			return service.Outcome{Verdict: service.Drop}, nil
		case xt.Rejected:
			return service.Outcome{Verdict: service.Reject}, nil
		}
		if first.Masqueraded {
			return service.Outcome{}, fmt.Errorf("an untranslated packet is masqueraded")
		}
		return service.Outcome{Verdict: service.Pass}, nil
	}
	out := service.Outcome{Verdict: service.Forward}
	share, total := weights(snap, f), 0
	for _, r := range results {
		total += share[r.DNAT]
	}
	for _, r := range results {
		if r.Verdict != xt.Accepted || !r.DNAT.IsValid() {
			return service.Outcome{}, fmt.Errorf("translated to %v, then %v", r.DNAT, r.Verdict)
		}
		if want := float64(share[r.DNAT]) / float64(total); r.P < want-1e-6 || r.P > want+1e-6 {
			return service.Outcome{}, fmt.Errorf("%v has a chance of %v, want %v", r.DNAT, r.P, want)
		}
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: r.DNAT}, Masquerade: r.Masqueraded})
	}
	slices.SortFunc(out.Hops, func(a, b service.Hop) int { return a.Endpoint.Addr.Compare(b.Endpoint.Addr) })
	return out, nil
}

// weights returns the share of each endpoint behind the frontend of f.
func weights(snap *service.Snapshot, f service.Flow) map[netip.AddrPort]int {
	out := make(map[netip.AddrPort]int)
	_, fe := servicetest.PortOf(snap, f)
	if fe == nil {
		return out
	}
	for _, r := range fe.Routes {
		for _, ep := range r.Pool {
			out[ep.Addr] = ep.Share()
		}
	}
	return out
}

func packet(snap *service.Snapshot, f service.Flow) xt.Packet {
	proto := map[service.Protocol]xt.Protocol{
		service.TCP: xt.TCP, service.UDP: xt.UDP, service.SCTP: xt.SCTP, service.ICMP: xt.ICMP,
	}[f.Protocol]
	if proto == xt.ICMP && f.Dst.Addr().Is6() {
		proto = xt.ICMPv6
	}
	return xt.Packet{
		Family: xt.FamilyOf(f.Dst.Addr()),
		Proto:  proto,
		Src:    netip.AddrPortFrom(f.Src, 40000),
		Dst:    f.Dst,
		In:     f.In,
		Out:    "eth0",
		Local: func(a netip.Addr) bool {
			return a.IsLoopback() || slices.Contains(snap.Node.Addrs, a)
		},
	}
}

func TestOracle(t *testing.T) {
	t.Run("with xt_bpf", func(t *testing.T) { servicetest.Oracle(t, evaluate(DefaultConfig())) })
	t.Run("without", func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.BPF = false
		servicetest.Oracle(t, evaluate(cfg))
	})
}
