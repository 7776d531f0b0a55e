//go:build linux

package e2e

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// A fixture is a dual-stack Service with one port and its endpoints.
type fixture struct {
	name      string
	ip        netns.Dual
	protocol  corev1.Protocol // empty means TCP
	port      uint16
	target    uint16
	nodePort  uint16
	external  []string
	lb        []string
	endpoints []endpoint
	local     bool     // externalTrafficPolicy: Local
	sticky    bool     // sessionAffinity: ClientIP
	sources   []string // loadBalancerSourceRanges
}

// An endpoint is a pod, of n1 unless its address is one of n2's.
type endpoint struct {
	pod      netns.Dual
	draining bool // terminating and serving
}

// clusterIP is the i-th address pair for a Service of a test. The API server has
// taken the first for itself.
func clusterIP(i int) netns.Dual {
	i += 0x200
	v6 := netip.MustParseAddr("fd00:10:96::").As16()
	v6[14], v6[15] = byte(i>>8), byte(i)
	return netns.Dual{V4: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), V6: netip.AddrFrom16(v6)}
}

// pod is the m-th pod of n1.
func pod(m int) netns.Dual { return netns.PodAddr(1, m) }

func podsOf(ms ...int) []endpoint {
	var out []endpoint
	for _, m := range ms {
		out = append(out, endpoint{pod: pod(m)})
	}
	return out
}

// others are n Services nobody asks for anything. Another generation of them has
// other ports and other endpoints.
func others(n, generation int) []fixture {
	var out []fixture
	for i := range n {
		out = append(out, fixture{
			name: fmt.Sprintf("other-%d", i), ip: clusterIP(0x1000 + i),
			port: uint16(1000 + generation), target: 8080, nodePort: uint16(31000 + i),
			endpoints: podsOf(20+(i+generation)%7, 30+(i*generation)%11),
		})
	}
	return out
}

// stateOf turns fixtures into what a source takes.
func stateOf(m *world.Marker, fixtures []fixture) world.State {
	s := world.State{Zone: "a", Marker: m}
	for i := range fixtures {
		s.Services = append(s.Services, fixtures[i].service())
		s.Slices = append(s.Slices, fixtures[i].slices()...)
	}
	return s
}

func (f *fixture) proto() corev1.Protocol {
	if f.protocol == "" {
		return corev1.ProtocolTCP
	}
	return f.protocol
}

func (f *fixture) service() *corev1.Service {
	dual := corev1.IPFamilyPolicyRequireDualStack
	o := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: f.name},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: f.ip.V4.String(), ClusterIPs: []string{f.ip.V4.String(), f.ip.V6.String()},
			IPFamilies:     []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			IPFamilyPolicy: &dual,
			ExternalIPs:    f.external,
			Ports:          []corev1.ServicePort{{Protocol: f.proto(), Port: int32(f.port), NodePort: int32(f.nodePort)}},
		},
	}
	if f.nodePort != 0 {
		o.Spec.Type = corev1.ServiceTypeNodePort
	}
	if f.local {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if f.sticky {
		o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	o.Spec.LoadBalancerSourceRanges = f.sources
	for _, a := range f.lb {
		o.Spec.Type = corev1.ServiceTypeLoadBalancer
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return o
}

func (f *fixture) slices() []*discoveryv1.EndpointSlice {
	target, proto, portName := int32(f.target), f.proto(), ""
	var out []*discoveryv1.EndpointSlice
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		sl := &discoveryv1.EndpointSlice{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s-%d", f.name, i),
				Labels: map[string]string{discoveryv1.LabelServiceName: f.name},
			},
			AddressType: family,
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: &proto, Port: &target}},
			Endpoints:   []discoveryv1.Endpoint{},
		}
		for _, e := range f.endpoints {
			node, yes, no := "n1", true, false
			if netns.PodCIDR(2).Contains(e.pod.V4) {
				node = "n2"
			}
			one := discoveryv1.Endpoint{Addresses: []string{e.pod.Slice()[i].String()}, NodeName: &node}
			if e.draining {
				one.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
			}
			sl.Endpoints = append(sl.Endpoints, one)
		}
		out = append(out, sl)
	}
	return out
}
