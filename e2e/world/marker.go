//go:build linux

package world

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

const (
	markerName  = "zz-marker"
	nothingName = "zz-nothing"
)

func dual(v4, v6 string) netns.Dual {
	return netns.Dual{V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)}
}

// The addresses of the markers, which no case uses at these ports.
func markerPod() netns.Dual  { return netns.PodAddr(1, 60) }
func markerIP() netns.Dual   { return dual("10.96.255.1", "fd00:10:96::ff01") }
func nothingIP() netns.Dual  { return dual("10.96.255.2", "fd00:10:96::ff02") }
func nothingVIP() netns.Dual { return dual("203.0.113.250", "2001:db8:113::250") }

// aliveTarget is a port of the marker's pod that always answers.
const aliveTarget = 39999

// ahead is how many generations of the second Service have endpoints in advance.
const ahead = 20

// A Marker is one generation of two Services. One has endpoints and is forwarded
// when the translation of addresses is in force. The other has an external IP and
// is rejected when filtering is in force, which a proxy may write apart from the
// translation; and as a proxy may write what filtering gains apart from what it
// loses, the address of the generation before must not be rejected any more.
//
// A proxy that follows Services and slices apart must have seen both. So the
// first Service changes its port, and its slices the target; the second changes
// the name of its port to one its old slices have an endpoint for, and its new
// slices do not: it is not rejected before both are known.
type Marker struct {
	generation   int
	port, target uint16
	servers      []*netns.Server
	closed       atomic.Bool
}

// NewMarker prepares another generation: its endpoint answers already, and so
// does what is behind the second Service as long as nobody rejects it.
func (w *World) NewMarker() (*Marker, error) {
	w.mu.Lock()
	w.markers++
	n := w.markers
	w.mu.Unlock()
	m := &Marker{generation: n, port: uint16(10000 + n%10000), target: uint16(40000 + n%20000)}
	var at []netip.AddrPort
	for _, a := range markerPod().Slice() {
		if err := w.Serve(netns.TCP, netip.AddrPortFrom(a, aliveTarget)); err != nil {
			return nil, err
		}
		at = append(at, netip.AddrPortFrom(a, m.target))
	}
	for _, a := range nothingVIP().Slice() {
		at = append(at, netip.AddrPortFrom(a, m.port))
	}
	for _, a := range at {
		ns, err := w.Place(a.Addr())
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		s, err := serve(ns, netns.TCP, a)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		m.servers = append(m.servers, s)
	}
	return m, nil
}

// Close ends the marker's endpoint.
func (m *Marker) Close() error {
	m.closed.Store(true)
	var errs []error
	for _, s := range m.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Services are the Services of the marker.
func (m *Marker) Services() []*corev1.Service {
	marker := m.service(markerName, "", markerIP())
	nothing := m.service(nothingName, portName(m.generation), nothingIP())
	for _, a := range nothingVIP().Slice() {
		nothing.Spec.ExternalIPs = append(nothing.Spec.ExternalIPs, a.String())
	}
	return []*corev1.Service{nothing, marker}
}

func portName(generation int) string { return fmt.Sprintf("g%d", generation) }

func (m *Marker) service(name, port string, ip netns.Dual) *corev1.Service {
	policy := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: ip.V4.String(), ClusterIPs: []string{ip.V4.String(), ip.V6.String()},
			IPFamilies:     []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			IPFamilyPolicy: &policy,
			Ports:          []corev1.ServicePort{{Name: port, Protocol: corev1.ProtocolTCP, Port: int32(m.port)}},
		},
	}
}

// Slices are the marker's EndpointSlices.
func (m *Marker) Slices() []*discoveryv1.EndpointSlice {
	var next []discoveryv1.EndpointPort
	for g := m.generation + 1; g <= m.generation+ahead; g++ {
		next = append(next, endpointPort(portName(g), aliveTarget))
	}
	var out []*discoveryv1.EndpointSlice
	for _, a := range markerPod().Slice() {
		out = append(out,
			endpointSlice(nothingName, a, next),
			endpointSlice(markerName, a, []discoveryv1.EndpointPort{endpointPort("", m.target)}))
	}
	return out
}

func endpointPort(name string, port uint16) discoveryv1.EndpointPort {
	number, protocol := int32(port), corev1.ProtocolTCP
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
}

func endpointSlice(service string, a netip.Addr, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	family, name, node := discoveryv1.AddressTypeIPv4, service+"-4", "n1"
	if a.Is6() {
		family, name = discoveryv1.AddressTypeIPv6, service+"-6"
	}
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: family,
		Ports:       ports,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{a.String()}, NodeName: &node}},
	}
}

// Await waits until the marker is in force on n1 in both families, for a minute
// at most, and the marker that the same proxy was awaited with before, if it is
// still open, is no more. The error quotes the end of what the proxy says; the
// proxy may be nil.
func (w *World) Await(ctx context.Context, m *Marker, p *Proxy) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w.mu.Lock()
	old := w.awaited
	if w.awaitedOf != p || p != nil && p.mode == IPVSDevice {
		old = nil // in device mode, nobody else gets what is sent to its addresses
	}
	w.mu.Unlock()
	for i, pod := range markerPod().Slice() {
		forwarded := func(r netns.Result) bool {
			return r.Class == netns.Reply && r.From.Addr == netip.AddrPortFrom(pod, m.target)
		}
		rejected := func(r netns.Result) bool { return r.Class == netns.Refused }
		err := await(ctx, w.N1.NS, netip.AddrPortFrom(markerIP().Slice()[i], m.port), p, forwarded)
		if err == nil {
			// Not from n1: kube-proxy does not filter external IPs there.
			err = await(ctx, w.Client, netip.AddrPortFrom(nothingVIP().Slice()[i], m.port), p, rejected)
		}
		if err == nil && old != nil && old != m && !old.closed.Load() {
			answered := func(r netns.Result) bool { return r.Class == netns.Reply }
			err = await(ctx, w.Client, netip.AddrPortFrom(nothingVIP().Slice()[i], old.port), p, answered)
		}
		if err == nil {
			continue
		}
		if p != nil {
			err = fmt.Errorf("%w\n%s", err, p.Tail(20))
		}
		return fmt.Errorf("wait for the proxy to apply what it was given: %w", err)
	}
	w.mu.Lock()
	w.awaited, w.awaitedOf = m, p
	w.mu.Unlock()
	return nil
}

func await(ctx context.Context, from *netns.NS, dst netip.AddrPort, p *Proxy, done func(netns.Result) bool) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		r := from.Probe(ctx, netns.Request{Proto: netns.TCP, Dst: dst, Timeout: 500 * time.Millisecond})
		if done(r) {
			return nil
		}
		if p != nil {
			if err := p.ended(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("marker at %v: %w: %v", dst, ctx.Err(), r)
		case <-time.After(pause):
		}
	}
}
