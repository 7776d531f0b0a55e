package kube

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-project/fairlead/service"
)

// A hostile makes objects that decode but were never admitted by anybody.
type hostile struct{ *rand.Rand }

func newHostile(seed uint64) hostile { return hostile{rand.New(rand.NewPCG(seed, 1))} }

// one returns one of list.
func one[T any](h hostile, list ...T) T { return list[h.IntN(len(list))] }

// some returns up to n results of f, or nil.
func some[T any](h hostile, n int, f func() T) []T {
	var out []T
	for range h.IntN(n + 1) {
		out = append(out, f())
	}
	return out
}

// maybe returns a pointer to v, or nil.
func maybe[T any](h hostile, v T) *T {
	if h.IntN(3) == 0 {
		return nil
	}
	return &v
}

func (h hostile) name() string {
	return one(h, "web", "web", "web", "a", "", "A", "a.b", "a\nb", "\x00", "-", strings.Repeat("x", 300), "ö")
}

func (h hostile) addr() string {
	return one(h, "10.96.0.10", "10.96.0.11", "fd00::1", "fd00::2", "::ffff:10.0.0.1", "010.001.1.1", "0.0.0.0", "::", "",
		"127.0.0.1", "::1", "224.0.0.1", "ff02::1", "fe80::1", "fe80::1%eth0", "169.254.169.254", "255.255.255.255",
		"None", "1.2.3", "1.2.3.4.5", "::ffff:127.0.0.1", "1.2.3.4 ", "....", ":", "0", "::ffff:0.0.0.0", ":0.0.0.0", "00.00.00.00")
}

func (h hostile) cidr() string {
	return h.addr() + one(h, "", "/", "/0", "/8", "/24", "/32", "/96", "/104", "/128", "/129", "/-1", "/x", " ", "/8 ")
}

func (h hostile) port() int32 {
	return one(h, int32(80), 80, 81, 443, 0, -1, 65535, 65536, 1<<31-1, -1<<31)
}

func (h hostile) protocol() corev1.Protocol {
	return one(h, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP, "", "tcp", "ICMP")
}

func (h hostile) meta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: h.name(), Name: h.name(), UID: "u", ResourceVersion: "7",
		Labels:      map[string]string{"app": "web"},
		Annotations: map[string]string{"note": "x", "fairlead.io/scheduler": "lc"},
	}
	m.ManagedFields = some(h, 2, func() metav1.ManagedFieldsEntry { return metav1.ManagedFieldsEntry{Manager: "m"} })
	for _, k := range []string{LabelProxyName, LabelHeadless, corev1.LabelTopologyZone} {
		if h.IntN(20) == 0 {
			m.Labels[k] = h.name()
		}
	}
	if h.IntN(4) > 0 {
		m.Labels[discoveryv1.LabelServiceName] = h.name()
	}
	m.Annotations[corev1.EndpointsLastChangeTriggerTime] = one(h, "", "x", "2026-01-02T03:04:05Z")
	for _, k := range []string{AnnotationScheduler, AnnotationSchedulerFlags, AnnotationWeight, annotationRouterScheduler, annotationRouterFlags} {
		if h.IntN(3) == 0 {
			m.Annotations[k] = one(h, "", " ", "rr", "sh", "mh", "RR", "x", "sh-port", "mh-port,flag-1", "flag-2, flag-2,", "0", "1", "+2", "7", " 300 ", "65536", "-1", "\x00")
		}
	}
	if h.IntN(9) == 0 {
		m.Labels, m.Annotations = nil, nil
	}
	return m
}

func (h hostile) service() *corev1.Service {
	o := &corev1.Service{ObjectMeta: h.meta()}
	if h.IntN(2) == 0 {
		o.Namespace, o.Name = "shop", "web"
	}
	o.Spec = corev1.ServiceSpec{
		Type:       one(h, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName, "", "x"),
		ClusterIP:  one(h, h.addr(), "10.96.0.10"),
		ClusterIPs: some(h, 3, h.addr),
		IPFamilies: some(h, 3, func() corev1.IPFamily { return one(h, corev1.IPv4Protocol, corev1.IPv6Protocol, "", "IPv5") }),
		Ports: some(h, 5, func() corev1.ServicePort {
			return corev1.ServicePort{Name: h.name(), Protocol: h.protocol(), Port: h.port(), NodePort: h.port()}
		}),
		ExternalIPs:              some(h, 4, h.addr),
		LoadBalancerSourceRanges: some(h, 4, h.cidr),
		ExternalTrafficPolicy:    one(h, corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster, "", "x"),
		InternalTrafficPolicy:    maybe(h, one(h, corev1.ServiceInternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicyCluster, "", "x")),
		HealthCheckNodePort:      h.port(),
		SessionAffinity:          one(h, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone, "", "x"),
		SessionAffinityConfig:    maybe(h, corev1.SessionAffinityConfig{ClientIP: maybe(h, corev1.ClientIPConfig{TimeoutSeconds: maybe(h, h.port())})}),
		Selector:                 map[string]string{"app": "web"},
	}
	o.Status.LoadBalancer.Ingress = some(h, 3, func() corev1.LoadBalancerIngress {
		return corev1.LoadBalancerIngress{
			IP: h.addr(), Hostname: one(h, "", "lb.example.com"),
			IPMode: maybe(h, one(h, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy, "", "x")),
		}
	})
	return o
}

func (h hostile) slice() *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{ObjectMeta: h.meta()}
	if h.IntN(2) == 0 {
		o.Namespace, o.Name = "shop", "web-1"
	}
	o.AddressType = one(h, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN, "", "x")
	o.Ports = some(h, 4, func() discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: maybe(h, h.name()), Port: maybe(h, h.port()), Protocol: maybe(h, h.protocol())}
	})
	flag := func() *bool { return maybe(h, h.IntN(2) == 0) }
	o.Endpoints = some(h, 6, func() discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			Addresses:  some(h, 2, h.addr),
			Conditions: discoveryv1.EndpointConditions{Ready: flag(), Serving: flag(), Terminating: flag()},
			NodeName:   maybe(h, h.name()),
			TargetRef:  maybe(h, corev1.ObjectReference{Kind: "Pod", Name: "p"}),
			Hints: maybe(h, discoveryv1.EndpointHints{
				ForZones: some(h, 2, func() discoveryv1.ForZone { return discoveryv1.ForZone{Name: h.name()} }),
				ForNodes: some(h, 2, func() discoveryv1.ForNode { return discoveryv1.ForNode{Name: h.name()} }),
			}),
		}
	})
	return o
}

func (h hostile) node() *corev1.Node {
	o := &corev1.Node{ObjectMeta: h.meta()}
	o.Spec.PodCIDR, o.Spec.PodCIDRs = h.cidr(), some(h, 3, h.cidr)
	o.Spec.Taints = some(h, 2, func() corev1.Taint { return corev1.Taint{Key: one(h, taintToBeDeleted, "x")} })
	o.Status.Addresses = some(h, 4, func() corev1.NodeAddress {
		return corev1.NodeAddress{Type: one(h, corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName), Address: h.addr()}
	})
	o.Status.Images = []corev1.ContainerImage{{Names: []string{"x"}}}
	return o
}

// checkService fails unless s keeps what the package promises.
func checkService(t *testing.T, s *service.Service) {
	t.Helper()
	bad := func(format string, args ...any) { t.Helper(); t.Errorf(format+": %+v", append(args, s)...) }
	if checkLabel(s.Name.Namespace) != nil || checkLabel(s.Name.Name) != nil {
		bad("bad name")
	}
	if len(s.Families) == 0 || len(s.Families) > 2 || len(s.Ports) == 0 || s.Headless != (len(s.ClusterIPs) == 0) {
		bad("families, ports or cluster IPs")
	}
	for _, list := range [][]netip.Addr{s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs} {
		seen := map[netip.Addr]bool{}
		for _, a := range list {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" || checkVIP(a) != nil || seen[a] || s.Headless {
				bad("address %v", a)
			}
			if f := service.FamilyOf(a); s.Families[0] != f && s.Families[len(s.Families)-1] != f {
				bad("family of %v", a)
			}
			seen[a] = true
		}
	}
	for _, p := range s.SourceRanges {
		if !p.IsValid() || p != p.Masked() || !s.Restricted {
			bad("range %v", p)
		}
	}
	names, numbers, nodePorts := map[service.ServicePort]bool{}, map[service.ServicePort]bool{}, map[service.ServicePort]bool{}
	for _, p := range s.Ports {
		name := service.ServicePort{Name: p.Name, Protocol: p.Protocol}
		number := service.ServicePort{Port: p.Port, Protocol: p.Protocol}
		np := service.ServicePort{NodePort: p.NodePort, Protocol: p.Protocol}
		if p.Port == 0 || names[name] || numbers[number] || p.NodePort != 0 && nodePorts[np] || p.Protocol > service.SCTP ||
			p.Name != "" && checkLabel(p.Name) != nil {
			bad("port %+v", p)
		}
		names[name], numbers[number], nodePorts[np] = true, true, true
	}
	if s.Affinity < 0 || s.Affinity > 24*time.Hour || s.Internal > service.Local || s.External > service.Local {
		bad("affinity or policy")
	}
	if s.HealthCheckNodePort != 0 && s.External != service.Local {
		bad("health-check node port")
	}
	if a := s.Scheduling.Algorithm; a != "" && !slices.Contains(service.Schedulers(), a) {
		bad("scheduler")
	}
	flags := strings.Split(s.Scheduling.Flags, ",")
	for i, flag := range flags {
		owner, _, _ := strings.Cut(flag, "-")
		if s.Scheduling.Flags != "" && (!slices.Contains(service.SchedulerFlags(), flag) || owner != "flag" && owner != s.Scheduling.Algorithm ||
			i > 0 && flags[i-1] >= flag) {
			bad("scheduler flag %q", flag)
		}
	}
}

// checkSlice fails unless s keeps what the package promises.
func checkSlice(t *testing.T, s *service.Slice) {
	t.Helper()
	if checkLabel(s.Service.Namespace) != nil || checkLabel(s.Service.Name) != nil || checkSubdomain(s.Name) != nil {
		t.Errorf("bad name: %+v", s)
	}
	if s.Weight == 1 {
		t.Error("weight 1 is spelled out")
	}
	for i, p := range s.Ports {
		if p.Port == 0 || p.Protocol > service.SCTP || p.Name != "" && checkLabel(p.Name) != nil {
			t.Errorf("bad port %+v", p)
		}
		for _, q := range s.Ports[:i] {
			if q.Name == p.Name && q.Protocol == p.Protocol {
				t.Errorf("port twice: %+v", s.Ports)
			}
		}
	}
	for _, e := range s.Endpoints {
		if a := e.Addr(); !a.IsValid() || service.FamilyOf(a) != s.Family || checkEndpoint(a) != nil {
			t.Errorf("bad endpoint %+v of %v", e, s.Family)
		}
		if e.Node != nodeName(e.Node) {
			t.Errorf("bad node name %q", e.Node)
		}
	}
}

// checkStable fails unless converting o twice gives the same.
func checkStable[In, Out any](t *testing.T, o In, convert func(In) (Out, []service.Problem)) Out {
	t.Helper()
	want, wantProblems := convert(o)
	got, problems := convert(o)
	if d := cmp.Diff(got, want, values); d != "" {
		t.Errorf("the second conversion (-got +want):\n%s", d)
	}
	if d := cmp.Diff(problems, wantProblems); d != "" {
		t.Errorf("problems of the second conversion (-got +want):\n%s", d)
	}
	return want
}

// TestHostileObjects is the part of the fuzzing that always runs.
func TestHostileObjects(t *testing.T) {
	var services, sliceCount int
	for seed := range uint64(7000) {
		h := newHostile(seed)
		if s := checkStable(t, h.service(), Service); s != nil {
			services++
			checkService(t, s)
		}
		if s := checkStable(t, h.slice(), Slice); s != nil {
			sliceCount++
			checkSlice(t, s)
		}
		checkStable(t, h.node(), Node)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if services < 300 || sliceCount < 300 {
		t.Errorf("only %d services and %d slices could be converted: the test says little", services, sliceCount)
	}
}

func seeds(f *testing.F, make func(hostile) any) {
	for seed := range uint64(50) {
		data, err := json.Marshal(make(newHostile(seed)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

func FuzzService(f *testing.F) {
	seeds(f, func(h hostile) any { return h.service() })
	f.Fuzz(func(t *testing.T, data []byte) {
		var o corev1.Service
		if json.Unmarshal(data, &o) != nil {
			t.Skip()
		}
		if s := checkStable(t, &o, Service); s != nil {
			checkService(t, s)
		}
	})
}

func FuzzSlice(f *testing.F) {
	seeds(f, func(h hostile) any { return h.slice() })
	f.Fuzz(func(t *testing.T, data []byte) {
		var o discoveryv1.EndpointSlice
		if json.Unmarshal(data, &o) != nil {
			t.Skip()
		}
		if s := checkStable(t, &o, Slice); s != nil {
			checkSlice(t, s)
		}
	})
}

func FuzzNode(f *testing.F) {
	seeds(f, func(h hostile) any { return h.node() })
	f.Fuzz(func(t *testing.T, data []byte) {
		var o corev1.Node
		if json.Unmarshal(data, &o) != nil {
			t.Skip()
		}
		checkStable(t, &o, Node)
	})
}

func FuzzParse(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(newHostile(seed).cidr())
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isLabel(s) && len(validation.IsDNS1123Label(s)) > 0 || isSubdomain(s) && len(validation.IsDNS1123Subdomain(s)) > 0 {
			t.Errorf("%q is taken for a DNS name", s)
		}
		if a, err := parseAddr(s); err == nil {
			if again, err := parseAddr(a.String()); err != nil || again != a || a.Is4In6() {
				t.Errorf("%q is %v, which is %v, %v", s, a, again, err)
			}
		}
		if p, err := parsePrefix(s); err == nil {
			if again, err := parsePrefix(p.String()); err != nil || again != p || p != p.Masked() {
				t.Errorf("%q is %v, which is %v, %v", s, p, again, err)
			}
		}
	})
}
