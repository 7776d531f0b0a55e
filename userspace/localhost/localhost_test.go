package localhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
	"github.com/fairlead-project/fairlead/userspace"
)

// A fake is a Server that remembers, and takes nothing that does not make sense.
type fake struct {
	ports     map[service.PortID]*service.Port
	served    map[userspace.Place]userspace.PlaceChange
	listening map[userspace.Place]bool
	fail      func(userspace.Place) error // nil: never
	wrong     []string
}

func newFake() *fake {
	return &fake{
		ports:     make(map[service.PortID]*service.Port),
		served:    make(map[userspace.Place]userspace.PlaceChange),
		listening: make(map[userspace.Place]bool),
	}
}

func (s *fake) complain(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// Follow implements [userspace.Server].
func (s *fake) Follow(_ *service.Node, ports []userspace.PortChange, places []userspace.PlaceChange) {
	for _, c := range ports {
		switch {
		case c.Old != nil && s.ports[c.Old.ID] != c.Old:
			s.complain("%v is said to have been another", c.Old.ID)
		case c.Old == nil && s.ports[c.New.ID] != nil:
			s.complain("%v is said to be new", c.New.ID)
		}
		if c.New == nil {
			delete(s.ports, c.Old.ID)
		} else {
			s.ports[c.New.ID] = c.New
		}
	}
	for _, c := range places {
		if c.Frontend == nil {
			delete(s.served, c.Place)
			continue
		}
		s.served[c.Place] = c
	}
	for at, c := range s.served {
		if s.ports[c.Port.ID] != c.Port {
			s.complain("%v is served for a Port that is no more", at)
		}
	}
	for at := range s.listening {
		if !s.forwards(at) {
			s.complain("%v is listened at and not forwarded", at)
		}
	}
	for id := range s.ports {
		if !slices.ContainsFunc(slices.Collect(maps.Values(s.served)), func(c userspace.PlaceChange) bool { return c.Port.ID == id }) {
			s.complain("%v is told of for nothing", id)
		}
	}
}

func (s *fake) forwards(at userspace.Place) bool {
	c, ok := s.served[at]
	return ok && c.Frontend.Routes[service.FromHost].Verdict == service.Forward
}

// Listen implements [Server].
func (s *fake) Listen(at userspace.Place) error {
	if s.listening[at] || !s.forwards(at) || at.Protocol == service.SCTP || !at.Addr.Addr().IsLoopback() {
		s.complain("Listen(%v), which is listened at already or forwards nothing", at)
	}
	if s.fail != nil {
		if err := s.fail(at); err != nil {
			return err
		}
	}
	s.listening[at] = true
	return nil
}

// Unlisten implements [Server].
func (s *fake) Unlisten(at userspace.Place) {
	if !s.listening[at] {
		s.complain("Unlisten(%v), which is not listened at", at)
	}
	delete(s.listening, at)
}

func (s *fake) state(t *testing.T) []byte {
	t.Helper()
	for _, w := range s.wrong {
		t.Error(w)
	}
	s.wrong = nil
	var out []byte
	for _, at := range slices.SortedFunc(maps.Keys(s.served), comparePlaces) {
		out = fmt.Appendf(out, "%v for %v: %v, listening %v\n", at, s.served[at].Port.ID, *s.served[at].Frontend, s.listening[at])
	}
	return out
}

func newPlane(t *testing.T, s Server) *Dataplane {
	t.Helper()
	d, err := New(Config{Log: slog.New(slog.DiscardHandler)}, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// An impatient Dataplane takes for an error what will be tried again.
type impatient struct{ *Dataplane }

func (d impatient) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	r, err := d.Dataplane.Sync(ctx, snap)
	return r, errors.Join(err, failedHere(r))
}

func (d impatient) Audit(ctx context.Context) (service.Report, error) {
	r, err := d.Dataplane.Audit(ctx)
	return r, errors.Join(err, failedHere(r))
}

func failedHere(r service.Report) error {
	for _, d := range r.Deviations {
		if d.Here {
			return errors.New(d.Reason)
		}
	}
	return nil
}

func TestWalk(t *testing.T) {
	s, rng := newFake(), rand.New(rand.NewPCG(1, 7))
	fresh := func(snap *service.Snapshot) []byte {
		s := newFake()
		if _, err := newPlane(t, s).Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		return s.state(t)
	}
	fault := func(p float64) {
		s.fail = func(userspace.Place) error {
			if rng.Float64() < p {
				return syscall.EADDRINUSE
			}
			return nil
		}
	}
	servicetest.Walk(t, impatient{newPlane(t, s)}, fault, func() []byte { return s.state(t) }, fresh)
}

// TestOracle compares what is served at 127.0.0.1 with what kube-proxy's rules would
// do there, and at ::1 with what is done at an address of the node.
func TestOracle(t *testing.T) {
	seen := make(map[string]int)
	for c := range servicetest.Corpus() {
		s := newFake()
		d := newPlane(t, s)
		for step, snap := range c.Snapshots(t) {
			if _, err := d.Sync(t.Context(), snap); err != nil {
				t.Fatal(err)
			}
			s.state(t)
			asKernel := *snap
			asKernel.Node.LocalhostPorts = true
			for p := range snap.Ports.All() {
				for i := range p.Frontends {
					if fe := &p.Frontends[i]; fe.Kind == service.NodePort && p.ID.Protocol != service.SCTP {
						want, ok := wanted(&asKernel, p.ID, fe.Addr.Port())
						if !ok {
							continue
						}
						got := s.outcome(p.ID, fe.Addr.Port())
						seen[p.ID.Family.String()+" "+want.Verdict.String()]++
						if d := cmp.Diff(got, addrsOf(want), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
							t.Errorf("%s, step %d: %v port %d (-got +want):\n%s", c.Name, step, p.ID, fe.Addr.Port(), d)
						}
					}
				}
			}
		}
	}
	t.Log(seen)
	for _, need := range []string{"IPv4 forward", "IPv4 reject", "IPv4 pass", "IPv6 forward", "IPv6 reject"} {
		if seen[need] < 5 {
			t.Errorf("only %d outcomes %s in the corpus", seen[need], need)
		}
	}
}

// wanted asks the oracle for a call of the node itself.
func wanted(snap *service.Snapshot, id service.PortID, port uint16) (service.Outcome, bool) {
	to := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if id.Family == service.IPv6 {
		to = snap.Node.Primary[service.IPv6]
		local := slices.ContainsFunc(snap.Node.PortAddrs[service.IPv6], func(p netip.Prefix) bool { return p.Contains(netip.IPv6Loopback()) })
		if !local || !snap.Node.AnswersNodePorts(to) {
			return service.Outcome{}, false
		}
	}
	at := netip.AddrPortFrom(to, port)
	out := snap.Resolve(service.Flow{Protocol: id.Protocol, Src: to, Dst: at})
	_, fe := servicetest.PortOf(snap, service.Flow{Protocol: id.Protocol, Src: to, Dst: at})
	return out, fe == nil || fe.Kind == service.NodePort // an external IP of the node's own is something else
}

// outcome returns the endpoints that are listened for, nil if nobody listens.
func (s *fake) outcome(id service.PortID, port uint16) []netip.AddrPort {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if id.Family == service.IPv6 {
		addr = netip.IPv6Loopback()
	}
	at := userspace.Place{Protocol: id.Protocol, Addr: netip.AddrPortFrom(addr, port)}
	if !s.listening[at] {
		return nil
	}
	var out []netip.AddrPort
	for _, ep := range s.served[at].Frontend.Routes[service.FromHost].Pool {
		out = append(out, ep.Addr)
	}
	return out
}

func addrsOf(o service.Outcome) []netip.AddrPort {
	var out []netip.AddrPort
	for _, h := range o.Hops {
		out = append(out, h.Endpoint.Addr)
	}
	return out
}

// nodePort is a Port with a node port that goes to these endpoints.
func nodePort(name string, proto service.Protocol, f service.Family, number uint16, v service.Verdict, to ...netip.AddrPort) *service.Port {
	p := &service.Port{ID: service.PortID{Service: service.Name{Namespace: "default", Name: name}, Protocol: proto, Family: f}}
	fe := service.Frontend{Kind: service.NodePort, Addr: netip.AddrPortFrom(f.Any(), number)}
	var pool service.Pool
	for _, a := range to {
		pool = append(pool, service.Endpoint{Addr: a})
	}
	p.Serving = pool
	for o := range fe.Routes {
		fe.Routes[o] = service.Route{Verdict: v, Pool: pool}
	}
	p.Frontends = []service.Frontend{fe}
	return p
}

func snapshot(ports ...*service.Port) *service.Snapshot {
	slices.SortFunc(ports, func(a, b *service.Port) int { return a.ID.Compare(b.ID) })
	s := &service.Snapshot{Ports: service.NewPortList(ports...)}
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		s.Node.PortAddrs[f] = []netip.Prefix{netip.PrefixFrom(f.Any(), 0)}
	}
	return s
}

// TestTaken: a port that somebody else has is no error. It is a Deviation that names
// it, and is tried again.
func TestTaken(t *testing.T) {
	ep := netip.MustParseAddrPort("10.244.1.2:8080")
	s := newFake()
	taken := true
	s.fail = func(at userspace.Place) error {
		if taken && at.Addr.Port() == 30001 {
			return fmt.Errorf("bind: %w", syscall.EADDRINUSE)
		}
		return nil
	}
	d := newPlane(t, s)
	snap := snapshot(
		nodePort("a", service.TCP, service.IPv4, 30001, service.Forward, ep),
		nodePort("b", service.UDP, service.IPv4, 30002, service.Forward, ep))
	for _, do := range []func() (service.Report, error){
		func() (service.Report, error) { return d.Sync(t.Context(), snap) },
		func() (service.Report, error) { return d.Sync(t.Context(), snap) },
		func() (service.Report, error) { return d.Audit(t.Context()) },
	} {
		r, err := do()
		want := []service.Deviation{{
			Port: snap.Ports.At(0).ID, Here: true,
			Reason: "node port 30001 does not answer at localhost: another program of the node has 127.0.0.1:30001/tcp",
		}}
		if diff := cmp.Diff(r.Deviations, want); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
	}
	if len(s.listening) != 1 {
		t.Errorf("%d places are listened at, want the other one", len(s.listening))
	}
	taken = false
	if r, err := d.Audit(t.Context()); err != nil || r.Added != 1 || r.Repaired || len(r.Deviations) != 0 {
		t.Errorf("when it is free: %+v, %v", r, err)
	}
	taken = true // by us
	if r, err := d.Sync(t.Context(), snap); err != nil || r.Added+r.Removed != 0 || len(r.Deviations) != 0 {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
	s.state(t)
}

// TestDeviations is about what a program that listens cannot do.
func TestDeviations(t *testing.T) {
	ep := netip.MustParseAddrPort("10.244.1.2:8080")
	s := newFake()
	d := newPlane(t, s)
	sctp := nodePort("s", service.SCTP, service.IPv4, 30001, service.Forward, ep)
	drop := nodePort("d", service.TCP, service.IPv6, 30002, service.Drop)
	r, err := d.Sync(t.Context(), snapshot(sctp, drop, nodePort("r", service.TCP, service.IPv4, 30003, service.Reject)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range r.Deviations {
		got = append(got, fmt.Sprintf("%v %v %s", v.Port, v.Here, strings.SplitAfter(v.Reason, ":")[0]))
	}
	want := []string{
		"default/d/tcp/IPv6 false node port 30002:",
		"default/s/sctp/IPv4 false node port 30001:",
	}
	if d := cmp.Diff(got, want); d != "" || len(s.listening) != 0 {
		t.Errorf("%d listeners, (-got +want):\n%s", len(s.listening), d)
	}
	if r, err := d.Sync(t.Context(), snapshot()); err != nil || len(r.Deviations) != 0 {
		t.Errorf("when they are gone: %v, %v", r.Deviations, err)
	}
	s.state(t)
}
