package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// evaluate sends flows through the planned rules, sets, routes and virtual
// servers, and tells what becomes of them in the words of the oracle.
func evaluate(cfg Config) servicetest.Eval {
	return func(snap *service.Snapshot) func(service.Flow) (service.Outcome, error) {
		st, _ := Plan(snap, cfg)
		rules := [service.NumFamilies]*xt.Ruleset{st.Rules(xt.IPv4), st.Rules(xt.IPv6)}
		return func(f service.Flow) (service.Outcome, error) {
			results := rules[service.FamilyOf(f.Dst.Addr())].Eval(packet(st, snap, f))
			if err := leftover(cfg, results); err != nil {
				return service.Outcome{}, err
			}
			return outcome(results)
		}
	}
}

// leftover requires that no packet keeps a mark that has been acted upon: it
// would be acted upon again where the packet comes by once more, encapsulated or
// on its way through IPVS.
func leftover(cfg Config, results []xt.Result) error {
	for _, r := range results {
		if r.Verdict == xt.Accepted && (r.Mark&cfg.routeMark() != 0 || r.Masqueraded && r.Mark&cfg.masqMark() != 0) {
			return fmt.Errorf("the packet to %v keeps the mark %#x", r.DNAT, r.Mark)
		}
	}
	return nil
}

// outcome requires that every endpoint is as likely as any other.
func outcome(results []xt.Result) (service.Outcome, error) {
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
	for _, r := range results {
		if r.Verdict != xt.Accepted || !r.DNAT.IsValid() {
			return service.Outcome{}, fmt.Errorf("translated to %v, then %v", r.DNAT, r.Verdict)
		}
		if want := 1 / float64(len(results)); r.P < want-1e-6 || r.P > want+1e-6 {
			return service.Outcome{}, fmt.Errorf("%v has a chance of %v, want %v", r.DNAT, r.P, want)
		}
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: r.DNAT}, Masquerade: r.Masqueraded})
	}
	return out, nil
}

func packet(st *State, snap *service.Snapshot, f service.Flow) xt.Packet {
	protos := map[service.Protocol]xt.Protocol{service.TCP: xt.TCP, service.UDP: xt.UDP, service.SCTP: xt.SCTP, service.ICMP: xt.ICMP}
	key := func(p *xt.Packet) kernel.ServerKey { return kernel.ServerKey{Addr: p.Dst, Protocol: f.Protocol} }
	proto := protos[f.Protocol]
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
			return a.IsLoopback() || slices.Contains(snap.Node.Addrs, a) || st.Local(a)
		},
		Sets: func(set string, p *xt.Packet, _ string) bool { return st.Holds(set, p.Src.Addr(), key(p)) },
		Routed: func(p *xt.Packet) bool {
			return p.Mark&st.RouteMark() != 0 && st.Routes(p.Dst.Addr())
		},
		Balance: func(p *xt.Packet) []netip.AddrPort { return st.Balance(key(p)) },
	}
}

// except names what this dataplane does differently by its nature.
func except(mode VIPMode) func(*service.Snapshot, service.Flow) string {
	return func(snap *service.Snapshot, f service.Flow) string {
		addr := f.Dst.Addr()
		port, fe := servicetest.PortOf(snap, f)
		switch kind, is := vipKind(snap, addr); {
		case f.Protocol != service.ICMP && addr.IsLoopback() && port != nil:
			return "the kernel routes nothing from a loopback address to another machine"
		case f.Protocol == service.ICMP && is && kind == service.ClusterIP:
			return "cluster IPs answer ping"
		case mode == Device && is && kind != service.ClusterIP && fe == nil && f.Protocol != service.ICMP && !slices.Contains(snap.Node.Addrs, addr):
			return "the node has the address, and rejects what nobody has declared"
		}
		return ""
	}
}

// vipKind returns what kind of frontend has an address, the cluster IP first.
func vipKind(snap *service.Snapshot, a netip.Addr) (service.Kind, bool) {
	var kind service.Kind
	found := false
	for p := range snap.Ports.All() {
		for i := range p.Frontends {
			if fe := &p.Frontends[i]; fe.Addr.Addr() == a && (!found || fe.Kind < kind) {
				kind, found = fe.Kind, true
			}
		}
	}
	return kind, found
}

func TestOracle(t *testing.T) {
	for _, mode := range []VIPMode{Routed, Device} {
		t.Run(mode.String(), func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.VIPMode = mode
			servicetest.Oracle(t, evaluate(cfg), servicetest.Except(except(mode)))
		})
	}
}

// corpusFlows calls do for every flow of the corpus.
func corpusFlows(t *testing.T, do func(where string, snap *service.Snapshot, f service.Flow)) {
	t.Helper()
	for c := range servicetest.Corpus() {
		for i, snap := range c.Snapshots(t) {
			for _, f := range c.Steps[i].Flows {
				do(fmt.Sprintf("%s.txtar:%d: %s", c.Name, f.Line, f.Text), snap, f.Flow)
			}
		}
	}
}

// TestKnownConnections sends a later packet of each connection: to IPVS, like the
// first, unless the first was sent to an alias. Then the kernel's NAT translates
// it, and IPVS must not see it under the address it was sent to.
func TestKnownConnections(t *testing.T) {
	for _, mode := range []VIPMode{Routed, Device} {
		cfg := DefaultConfig()
		cfg.VIPMode = mode
		corpusFlows(t, func(where string, snap *service.Snapshot, f service.Flow) {
			st, _ := Plan(snap, cfg)
			rules := st.Rules(xt.FamilyOf(f.Dst.Addr()))
			first := rules.Eval(packet(st, snap, f))
			if first[0].Verdict != xt.Accepted || !first[0].DNAT.IsValid() {
				return
			}
			translated := false
			p := packet(st, snap, f)
			balance := p.Balance
			p.Balance = func(p *xt.Packet) []netip.AddrPort {
				translated = translated || p.State&xt.CTDNAT != 0
				return balance(p)
			}
			rules.Eval(p)
			p = packet(st, snap, f)
			p.State = xt.CTEstablished
			if !translated {
				if got := rules.Eval(p); len(got) != len(first) || got[0].DNAT != first[0].DNAT || got[0].Verdict != xt.Accepted {
					t.Errorf("%v, %s\nlater packets get %+v\nthe first gets   %+v", mode, where, got, first)
				}
				return
			}
			p.State |= xt.CTDNAT
			p.Balance = nil
			marked := false
			p.Routed = func(p *xt.Packet) bool {
				marked = marked || p.Mark != 0
				return false
			}
			if got := rules.Eval(p); len(got) != 1 || got[0].Verdict != xt.Accepted || marked {
				t.Errorf("%v, %s\nlater packets, which the kernel translates, get %+v; marked: %v", mode, where, got, marked)
			}
		})
	}
}

// TestPing: cluster IPs and load-balancer IPs answer, external IPs leave ping to
// whoever has them, and take only what is related to their connections.
func TestPing(t *testing.T) {
	routed := 0
	corpusFlows(t, func(where string, snap *service.Snapshot, f service.Flow) {
		addr := f.Dst.Addr()
		kind, is := vipKind(snap, addr)
		if !is || slices.Contains(snap.Node.Addrs, addr) || addr.IsUnspecified() {
			return
		}
		st, _ := Plan(snap, DefaultConfig())
		for _, state := range []xt.CTStates{xt.CTNew, xt.CTRelated, xt.CTEstablished} {
			f.Protocol, f.Dst = service.ICMP, netip.AddrPortFrom(addr, 0)
			p := packet(st, snap, f)
			p.State = state
			got := st.Rules(xt.FamilyOf(addr)).Trace(p)
			arrived := slices.ContainsFunc(got[0].Trace, func(line string) bool { return strings.HasPrefix(line, "mangle/"+chainIn) })
			want := st.usesOf(addr)&useAddr != 0 || kind == service.ExternalIP && state == xt.CTRelated && f.In != ""
			if arrived != want || got[0].Verdict != xt.Accepted || len(got) != 1 {
				t.Errorf("%s\nICMP in state %d to the %s: arrived %v, want %v: %+v", where, state, kind, arrived, want, got)
			}
			if arrived {
				routed++
			}
		}
	})
	if routed == 0 {
		t.Error("no ping arrived at all")
	}
}
