package userspace

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// evaluate sends flows through the planned rules and sets to the socket of an
// origin, and tells what the proxy makes of them in the words of the oracle.
func evaluate(cfg Config) servicetest.Eval {
	return func(snap *service.Snapshot) func(service.Flow) (service.Outcome, error) {
		st, _ := Plan(snap, cfg)
		rules := [service.NumFamilies]*xt.Ruleset{st.Rules(xt.IPv4), st.Rules(xt.IPv6)}
		return func(f service.Flow) (service.Outcome, error) {
			results := rules[service.FamilyOf(f.Dst.Addr())].Eval(packet(st, snap, f))
			if len(results) != 1 {
				return service.Outcome{}, fmt.Errorf("chance decides: %+v", results)
			}
			return outcome(st, f, results[0])
		}
	}
}

func outcome(st *State, f service.Flow, r xt.Result) (service.Outcome, error) {
	switch {
	case r.Masqueraded || r.DNAT.IsValid():
		return service.Outcome{}, fmt.Errorf("translated: %+v", r)
	case r.Verdict == xt.Dropped:
		return service.Outcome{Verdict: service.Drop}, nil
	case r.Verdict == xt.Rejected:
		return service.Outcome{Verdict: service.Reject}, nil
	case !r.Proxy.IsValid() && r.Mark != 0:
		return service.Outcome{}, fmt.Errorf("marked and not caught: %+v", r)
	case !r.Proxy.IsValid():
		return service.Outcome{Verdict: service.Pass}, nil
	}
	return st.Outcome(Place{f.Protocol, f.Dst}, f.Src, r.Proxy)
}

func packet(st *State, snap *service.Snapshot, f service.Flow) xt.Packet {
	protos := map[service.Protocol]xt.Protocol{service.TCP: xt.TCP, service.UDP: xt.UDP, service.SCTP: xt.SCTP, service.ICMP: xt.ICMP}
	proto := protos[f.Protocol]
	if proto == xt.ICMP && f.Dst.Addr().Is6() {
		proto = xt.ICMPv6
	}
	return xt.Packet{
		Family: xt.FamilyOf(f.Dst.Addr()), Proto: proto,
		Src: netip.AddrPortFrom(f.Src, 40000), Dst: f.Dst, In: f.In, Out: "eth0",
		Local: func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(snap.Node.Addrs, a) },
		Sets: func(set string, p *xt.Packet, _ string) bool {
			return st.Holds(set, p.Src.Addr(), Place{f.Protocol, p.Dst})
		},
		Routed: func(p *xt.Packet) bool { return st.Routed(p.Mark) },
	}
}

// except names what this dataplane does differently by its nature.
func except(snap *service.Snapshot, f service.Flow) string {
	addr := f.Dst.Addr()
	port, fe := servicetest.PortOf(snap, f)
	switch {
	case f.Protocol == service.SCTP && port != nil:
		return "SCTP is refused"
	case port == nil && addr == netip.IPv6Loopback():
		return "node ports answer at ::1 too"
	case port != nil && fe.Kind == service.NodePort && addr.IsLoopback() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}):
		return "of the loopback addresses, 127.0.0.1 answers"
	case port != nil && fe.Kind == service.NodePort && addr.IsLinkLocalUnicast():
		return "node ports do not answer at link-local addresses"
	case fe != nil && fe.Kind == service.ClusterIP && slices.Contains(snap.Node.Addrs, addr):
		return "a cluster IP that the node has is left to it"
	}
	return ""
}

func TestOracle(t *testing.T) {
	servicetest.Oracle(t, evaluate(DefaultConfig()), servicetest.Except(except))
}
