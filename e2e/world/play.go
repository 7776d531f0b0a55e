//go:build linux

package world

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// How long a probe waits for what ought to come: long enough for TCP to repeat
// itself on a busy machine. And for what ought not to.
const (
	patience = 4 * time.Second
	silence  = time.Second
)

// maxFlows is the number of destinations that flows are under way to at once.
const maxFlows = 48

// A Failure is a flow, or something else, that is not as a case says.
type Failure struct {
	Case string
	Step string // empty for the first
	Line int    // of the case's file
	Text string // of the directive
	Err  error
}

// String returns name.txtar:line: directive: what was seen.
func (f Failure) String() string {
	step := ""
	if f.Step != "" {
		step = " (step " + f.Step + ")"
	}
	return fmt.Sprintf("%s.txtar:%d: %s%s\n\t%v", f.Case, f.Line, f.Text, step, f.Err)
}

// A Report is what came of playing a case or several.
type Report struct {
	Failures  []Failure
	Flows     int // played
	Probes    int
	NotPlayed map[string]int // flows that could not be, by reason
}

// Add adds what came of another case.
func (r *Report) Add(o Report) {
	r.Failures = append(r.Failures, o.Failures...)
	r.Flows += o.Flows
	r.Probes += o.Probes
	for reason, n := range o.NotPlayed {
		r.skip(reason, n)
	}
}

func (r *Report) skip(reason string, n int) {
	if r.NotPlayed == nil {
		r.NotPlayed = make(map[string]int)
	}
	r.NotPlayed[reason] += n
}

// Prepare makes every place of a step, and has every endpoint and decoy listen.
func (w *World) Prepare(s *servicetest.Step) error {
	for _, sl := range s.Slices {
		for _, e := range sl.Endpoints {
			for _, p := range sl.Ports {
				if err := w.serveEndpoint(e.Addresses, p.Protocol, p.Port); err != nil {
					return fmt.Errorf("serve endpoints of EndpointSlice %s/%s: %w", sl.Namespace, sl.Name, err)
				}
			}
		}
	}
	for _, f := range s.Flows {
		if _, err := w.Place(f.Flow.Src); err != nil {
			return fmt.Errorf("place the caller of %q: %w", f.Text, err)
		}
		if _, err := w.Place(f.Flow.Dst.Addr()); err != nil {
			return fmt.Errorf("place the destination of %q: %w", f.Text, err)
		}
		if proto, ok := w.protocol(f.Flow.Protocol); ok && proto != netns.ICMP {
			if err := w.Serve(proto, f.Flow.Dst); err != nil {
				return fmt.Errorf("serve the destination of %q: %w", f.Text, err)
			}
		}
	}
	return nil
}

// serveEndpoint listens at all addresses of an endpoint; a slice may hold some
// that are nowhere, which nobody is sent to.
func (w *World) serveEndpoint(addrs []string, protocol *corev1.Protocol, port *int32) error {
	if port == nil {
		return nil
	}
	proto := netns.TCP
	if protocol != nil && *protocol == corev1.ProtocolUDP {
		proto = netns.UDP
	}
	if protocol != nil && *protocol == corev1.ProtocolSCTP {
		if proto = netns.SCTP; !w.sctp {
			return nil
		}
	}
	for _, text := range addrs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		if _, err := w.Place(a); errors.Is(err, errNowhere) {
			continue
		}
		if err := w.Serve(proto, netip.AddrPortFrom(a, uint16(*port))); err != nil {
			return err
		}
	}
	return nil
}

// protocol reports false for what cannot be played on this kernel.
func (w *World) protocol(p service.Protocol) (netns.Proto, bool) {
	switch p {
	case service.TCP:
		return netns.TCP, true
	case service.UDP:
		return netns.UDP, true
	case service.ICMP:
		return netns.ICMP, true
	case service.SCTP:
		return netns.SCTP, w.sctp
	default:
		return 0, false
	}
}

// Play sends the flows of a step, which must have been prepared and be in force.
// Failures lack the name of the case.
func (w *World) Play(ctx context.Context, s *servicetest.Step) Report {
	var rep Report
	var inOrder []*servicetest.FlowExpect
	// What takes turns among endpoints could give two callers that do so as well
	// always the same ones: only callers of different destinations play at once.
	atOnce := make(map[destination][]*servicetest.FlowExpect)
	for i := range s.Flows {
		f := &s.Flows[i]
		switch _, ok := w.protocol(f.Flow.Protocol); {
		case !ok:
			rep.skip("the kernel has no sockets for "+f.Flow.Protocol.String(), 1)
			continue
		case sticky(s, f):
			// Two first packets of one client at once would both choose.
			inOrder = append(inOrder, f)
		default:
			to := destination{f.Flow.Protocol, f.Flow.Dst}
			atOnce[to] = append(atOnce[to], f)
		}
		rep.Flows++
	}
	var mu sync.Mutex
	one := func(f *servicetest.FlowExpect, sticky bool) {
		probes, err := w.playFlow(ctx, f, sticky)
		mu.Lock()
		defer mu.Unlock()
		rep.Probes += probes
		if err != nil {
			rep.Failures = append(rep.Failures, Failure{Step: s.Name, Line: f.Line, Text: f.Text, Err: err})
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxFlows)
	for _, to := range atOnce {
		slots <- struct{}{}
		wg.Go(func() {
			for _, f := range to {
				one(f, false)
			}
			<-slots
		})
	}
	for _, f := range inOrder {
		one(f, true)
	}
	wg.Wait()
	slices.SortFunc(rep.Failures, func(a, b Failure) int { return a.Line - b.Line })
	return rep
}

// A destination is what flows have in common that one pool may serve.
type destination struct {
	protocol service.Protocol
	addr     netip.AddrPort
}

// sticky reports whether a flow is to a Service with session affinity.
func sticky(s *servicetest.Step, f *servicetest.FlowExpect) bool {
	dst := f.Flow.Dst.Addr().String()
	for _, svc := range s.Services {
		if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
			continue
		}
		addrs := slices.Concat(svc.Spec.ClusterIPs, svc.Spec.ExternalIPs)
		for _, in := range svc.Status.LoadBalancer.Ingress {
			addrs = append(addrs, in.IP)
		}
		for _, p := range svc.Spec.Ports {
			port := int32(f.Flow.Dst.Port())
			if p.Port == port && slices.Contains(addrs, dst) || p.NodePort != 0 && p.NodePort == port {
				return true
			}
		}
	}
	return false
}

// playFlow probes until the flow is understood, and returns how often it did.
func (w *World) playFlow(ctx context.Context, f *servicetest.FlowExpect, sticky bool) (int, error) {
	seen := make(Sightings)
	j := Judge{Flow: f, Sticky: sticky, N1: w.local}
	for n := 1; ; n++ {
		r, err := w.probe(ctx, f)
		if err != nil {
			return n, err
		}
		if err := j.Reply(r, seen); err != nil {
			return n, fmt.Errorf("probe %d: %w", n, err)
		}
		if enough, err := j.Enough(n, seen); enough || err != nil {
			return n, err
		}
	}
}

func (w *World) probe(ctx context.Context, f *servicetest.FlowExpect) (netns.Result, error) {
	from, err := w.Place(f.Flow.Src)
	if err != nil {
		return netns.Result{}, err
	}
	proto, _ := w.protocol(f.Flow.Protocol)
	req := netns.Request{Proto: proto, Dst: f.Flow.Dst, Src: f.Flow.Src, Timeout: patience}
	if f.Want.Verdict == service.Drop {
		req.Timeout = silence
	}
	switch proto {
	case netns.UDP:
		req.SrcPort = w.nextSrcPort()
	case netns.ICMP:
		return w.pingFrom(ctx, from, req)
	}
	return from.Probe(ctx, req), nil
}

// pingFrom pings, and finds out whether a virtual address was answered by n1 or
// where nobody has caught it, which an echo reply does not say.
func (w *World) pingFrom(ctx context.Context, from *netns.NS, req netns.Request) (netns.Result, error) {
	w.ping.Lock()
	defer w.ping.Unlock()
	dst := req.Dst.Addr()
	place, err := w.Place(dst)
	if err != nil {
		return netns.Result{}, err
	}
	answerer := netns.Identity{Name: place.Name(), Addr: netip.AddrPortFrom(dst, 0)}
	if place != w.Elsewhere.NS {
		r := from.Probe(ctx, req)
		r.From = answerer
		return r, nil
	}
	came, err := place.Watch(netns.Uplink, alone(dst))
	if err != nil {
		return netns.Result{}, err
	}
	defer came.Close()
	r := from.Probe(ctx, req)
	n, err := came.Count()
	if n == 0 {
		answerer = netns.Identity{Name: w.N1.Name(), Addr: netip.AddrPortFrom(w.N1.Primary.Like(dst), 0)}
	}
	r.From = answerer
	return r, err
}

// local reports whether an address is n1's.
func (w *World) local(a netip.Addr) bool {
	ns, err := w.Place(a)
	return err == nil && ns == w.N1.NS
}
