//go:build linux

package world

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A Deviation is a way in which a mode is known to differ from the corpus, and
// meant to.
type Deviation struct {
	Reason string
	// Instead returns what happens to a flow in place of what the corpus says. It
	// is not ok if the deviation has nothing to do with the flow. Nil is about no
	// flow.
	Instead func(snap *service.Snapshot, f *servicetest.FlowExpect) (want service.Outcome, ok bool)
	// Told reports whether the proxy complains about the Service of a Port. Nil is
	// about none.
	Told func(p *service.Port) bool
}

// Deviations returns all that are known of a mode on a kernel that lacks some
// schedulers of IPVS. At most one is about a flow.
func Deviations(m Mode, lacks ...string) []Deviation {
	loopback := Deviation{
		Reason:  "the kernel forwards nothing whose source is a loopback address, so node ports at 127.0.0.1 are left alone",
		Instead: loopbackPort,
	}
	scheduler := Deviation{
		Reason: "the kernel lacks the scheduler",
		Told:   func(p *service.Port) bool { return slices.Contains(lacks, p.Scheduling.Algorithm) },
	}
	switch m {
	case IPVS:
		return []Deviation{loopback, scheduler, {
			Reason:  "the node answers pings to cluster and load-balancer IPs, which are its own as far as ICMP goes",
			Instead: pingTo(service.ClusterIP, service.LoadBalancerIP),
		}}
	case IPVSDevice:
		return []Deviation{loopback, scheduler, {
			Reason:  "the node answers pings to addresses that are on its device",
			Instead: pingTo(service.ClusterIP, service.LoadBalancerIP, service.ExternalIP),
		}, {
			Reason:  "other ports of an address that is on the device are closed, rather than the business of others",
			Instead: undeclaredPort,
		}}
	case Userspace:
		return []Deviation{{
			Reason:  "the proxy speaks TCP and UDP only, and refuses SCTP",
			Instead: noSCTP,
			Told:    func(p *service.Port) bool { return p.ID.Protocol == service.SCTP && len(p.Frontends) > 0 },
		}, {
			Reason: "the proxy does not have the scheduler",
			Told: func(p *service.Port) bool {
				return p.ID.Protocol != service.SCTP && len(p.Frontends) > 0 && slices.Contains([]string{"lblc", "lblcr", "twos"}, p.Scheduling.Algorithm)
			},
		}, {
			Reason:  "of the loopback addresses only 127.0.0.1 answers at node ports",
			Instead: otherLoopback,
		}, {
			Reason:  "node ports answer at ::1 too",
			Instead: loopback6,
		}, {
			Reason:  "where the answers of an endpoint would not pass the node it sees the node's address: the proxy needs them",
			Instead: bypass,
		}}
	default:
		return nil
	}
}

// otherLoopback leaves node ports at other loopback addresses than the first alone.
func otherLoopback(_ *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	a := f.Flow.Dst.Addr()
	first := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return service.Outcome{Verdict: service.Pass}, a.IsLoopback() && a != first && f.Want.Verdict != service.Pass
}

// loopback6 has node ports answer at ::1 as they do at the node's own address.
func loopback6(snap *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	if f.Flow.Dst.Addr() != netip.IPv6Loopback() || !snap.Node.LocalhostPorts || f.Want.Verdict != service.Pass {
		return service.Outcome{}, false
	}
	there := f.Flow
	there.Src = netns.NodeAddr(1).V6
	there.Dst = netip.AddrPortFrom(there.Src, f.Flow.Dst.Port())
	want := snap.Resolve(there)
	return want, want.Verdict != service.Pass
}

// bypass masquerades calls to an endpoint that has the same way to its caller as to
// the node: both are elsewhere, or behind one bridge.
func bypass(snap *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	here := func(a netip.Addr) bool {
		_, local := slices.BinarySearchFunc(snap.Node.Addrs, a, netip.Addr.Compare)
		return local || netns.PodCIDR(1).Contains(a)
	}
	bridged := snap.Node.Pods.Interface != "" && !snap.Node.Pods.IsPrefix
	want := service.Outcome{Verdict: f.Want.Verdict}
	changed := false
	for _, h := range f.Want.Hops {
		src, dst := f.Flow.Src, h.Endpoint.Addr.Addr()
		pods := netns.PodCIDR(1).Contains(src) && netns.PodCIDR(1).Contains(dst)
		if f.Flow.In != "" && !h.Masquerade && (!here(src) && !here(dst) || bridged && pods) {
			h.Masquerade, changed = true, true
		}
		want.Hops = append(want.Hops, h)
	}
	return want, changed
}

// noSCTP refuses what would be forwarded.
func noSCTP(_ *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	return service.Outcome{Verdict: service.Reject}, f.Flow.Protocol == service.SCTP && f.Want.Verdict == service.Forward
}

// pingTo has the node answer pings to addresses of these kinds.
func pingTo(kinds ...service.Kind) func(*service.Snapshot, *servicetest.FlowExpect) (service.Outcome, bool) {
	return func(snap *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
		dst := f.Flow.Dst.Addr()
		node := service.Endpoint{Addr: netip.AddrPortFrom(netns.NodeAddr(1).Like(dst), 0)}
		return service.Outcome{Verdict: service.Forward, Hops: []service.Hop{{Endpoint: node}}},
			f.Flow.Protocol == service.ICMP && serves(snap, dst, kinds...)
	}
}

// undeclaredPort rejects what would pass by a load-balancer or external IP.
func undeclaredPort(snap *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	return service.Outcome{Verdict: service.Reject},
		f.Flow.Protocol != service.ICMP && f.Want.Verdict == service.Pass &&
			serves(snap, f.Flow.Dst.Addr(), service.LoadBalancerIP, service.ExternalIP)
}

// loopbackPort leaves node ports at loopback addresses alone.
func loopbackPort(_ *service.Snapshot, f *servicetest.FlowExpect) (service.Outcome, bool) {
	return service.Outcome{Verdict: service.Pass}, f.Flow.Dst.Addr().IsLoopback() && f.Want.Verdict != service.Pass
}

// serves reports whether an address that is not the node's has frontends of one
// of these kinds.
func serves(snap *service.Snapshot, a netip.Addr, kinds ...service.Kind) bool {
	if slices.Contains(snap.Node.Addrs, a) {
		return false
	}
	for p := range snap.Ports.All() {
		if slices.ContainsFunc(p.Frontends, func(fe service.Frontend) bool {
			return fe.Addr.Addr() == a && slices.Contains(kinds, fe.Kind)
		}) {
			return true
		}
	}
	return false
}

// Deviate returns a case as a mode with these deviations plays it. The snapshots
// are those of [servicetest.Case.Snapshots]. A flow under a deviation must not go
// as the corpus says: that would be a deviation that is not one, and an error.
func Deviate(c *servicetest.Case, snaps []*service.Snapshot, table []Deviation) (*servicetest.Case, error) {
	out := *c
	out.Steps = slices.Clone(c.Steps)
	for i := range out.Steps {
		step := &out.Steps[i]
		step.Flows = slices.Clone(step.Flows)
		for j := range step.Flows {
			if err := deviate(&step.Flows[j], snaps[i], table); err != nil {
				return nil, fmt.Errorf("%s.txtar:%d: %w", c.Name, step.Flows[j].Line, err)
			}
		}
		step.Problems = slices.Concat(step.Problems, told(snaps[i], step, table))
	}
	return &out, nil
}

func deviate(f *servicetest.FlowExpect, snap *service.Snapshot, table []Deviation) error {
	said, reason := f.Want, ""
	for _, d := range table {
		if d.Instead == nil {
			continue
		}
		instead, ok := d.Instead(snap, f)
		switch {
		case !ok:
			continue
		case reason != "":
			return fmt.Errorf("%s: two deviations: %s; and %s", f.Text, reason, d.Reason)
		case reflect.DeepEqual(instead, said):
			return fmt.Errorf("%s: not a deviation: %s", f.Text, d.Reason)
		}
		f.Want, reason = instead, d.Reason
	}
	if reason != "" {
		f.Text += fmt.Sprintf(" (here: %v, because %s)", f.Want.Verdict, reason)
	}
	return nil
}

// told lists what the proxy complains of because of deviations, each Service once.
func told(snap *service.Snapshot, step *servicetest.Step, table []Deviation) []servicetest.ProblemExpect {
	var out []servicetest.ProblemExpect
	for p := range snap.Ports.All() {
		e := servicetest.ProblemExpect{Line: step.Line, Kind: "Service", Object: p.ID.Service, Reason: "DataplaneDeviation"}
		about := slices.ContainsFunc(table, func(d Deviation) bool { return d.Told != nil && d.Told(p) })
		if about && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}
