package kube

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

// values compares what this package produces; addresses compare with ==.
var values = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// webService returns a plain Service, after change.
func webService(change func(*corev1.Service)) *corev1.Service {
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1"},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			ClusterIP:  "10.96.0.10",
			ClusterIPs: []string{"10.96.0.10"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	if change != nil {
		change(o)
	}
	return o
}

// web returns what webService(nil) becomes, after change.
func web(change func(*service.Service)) *service.Service {
	s := &service.Service{
		Name:       service.Name{Namespace: "shop", Name: "web"},
		UID:        "u1",
		ClusterIPs: addrs("10.96.0.10"),
		Families:   []service.Family{service.IPv4},
		Ports:      []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80}},
	}
	if change != nil {
		change(s)
	}
	return s
}

// A serviceCase says what a change of webService does to the result. A nil want
// means no change, none that there is no result. Fields are those of the
// Problems.
type serviceCase struct {
	name   string
	in     func(*corev1.Service)
	want   func(*service.Service)
	none   bool
	fields []string
}

func fields(problems []service.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Field)
	}
	return out
}

func runServiceCases(t *testing.T, cases []serviceCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			in := webService(tc.in)
			got, problems := Service(in)
			want := web(tc.want)
			if tc.none {
				want = nil
			}
			if d := cmp.Diff(got, want, values); d != "" {
				t.Errorf("Service (-got +want):\n%s", d)
			}
			if d := cmp.Diff(fields(problems), tc.fields, values); d != "" {
				t.Errorf("fields of problems (-got +want):\n%s\nproblems: %v", d, problems)
			}
			for _, p := range problems {
				if p.Object.Kind != "Service" || p.Object.Name.Name != in.Name || p.Reason == "" || p.Message == "" {
					t.Errorf("problem does not say enough: %#v", p)
				}
			}
		})
	}
}

func TestServiceIsOurs(t *testing.T) {
	runServiceCases(t, []serviceCase{
		{name: "plain"},
		{name: "ExternalName with a cluster IP", none: true, in: func(o *corev1.Service) {
			o.Spec.Type = corev1.ServiceTypeExternalName
		}},
		{name: "other proxy, empty value", none: true, in: func(o *corev1.Service) {
			o.Labels = map[string]string{LabelProxyName: ""}
		}},
		{name: "no cluster IP yet", none: true, in: func(o *corev1.Service) {
			o.Spec.ClusterIP, o.Spec.ClusterIPs = "", nil
		}},
		{name: "no ports", none: true, in: func(o *corev1.Service) { o.Spec.Ports = nil }},
		{
			name: "no name", none: true, fields: []string{"metadata.name"},
			in: func(o *corev1.Service) { o.Name = "" },
		},
		{
			name: "names that would not be names in a rule", none: true,
			fields: []string{"metadata.namespace", "metadata.name"},
			in:     func(o *corev1.Service) { o.Namespace, o.Name = "a\nCOMMIT", "x\" -j ACCEPT" },
		},
		{
			name: "headless",
			in: func(o *corev1.Service) {
				o.Spec.ClusterIP, o.Spec.ClusterIPs = "None", []string{"None"}
				o.Spec.ExternalIPs = []string{"203.0.113.1"}
				o.Spec.Ports[0].NodePort = 30080
			},
			want: func(s *service.Service) { s.Headless, s.ClusterIPs = true, nil },
		},
		{
			name: "headless without families",
			in: func(o *corev1.Service) {
				o.Spec.ClusterIP, o.Spec.ClusterIPs, o.Spec.IPFamilies = "None", nil, nil
			},
			want: func(s *service.Service) {
				s.Headless, s.ClusterIPs = true, nil
				s.Families = []service.Family{service.IPv4, service.IPv6}
			},
		},
		{
			name: "created", in: func(o *corev1.Service) { o.CreationTimestamp = metav1.Unix(1700000000, 0) },
			want: func(s *service.Service) { s.Created = time.Unix(1700000000, 0) },
		},
	})
}

func TestServiceClusterIPs(t *testing.T) {
	dual := func(s *service.Service) {
		s.ClusterIPs = addrs("10.96.0.10", "fd00:10:96::10")
		s.Families = []service.Family{service.IPv4, service.IPv6}
	}
	six := func(s *service.Service) {
		s.ClusterIPs, s.Families = addrs("fd00:10:96::10"), []service.Family{service.IPv6}
	}
	set := func(ip string, ips []string, families ...corev1.IPFamily) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Spec.ClusterIP, o.Spec.ClusterIPs, o.Spec.IPFamilies = ip, ips, families
		}
	}
	both := []string{"10.96.0.10", "fd00:10:96::10"}
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	runServiceCases(t, []serviceCase{
		{name: "dual stack", in: set("10.96.0.10", both, v4, v6), want: dual},
		{name: "families missing", in: set("10.96.0.10", both), want: dual},
		{name: "before dual stack", in: set("10.96.0.10", nil)},
		{name: "before dual stack, IPv6", in: set("fd00:10:96::10", nil), want: six},
		{name: "list missing", in: set("fd00:10:96::10", nil, v6), want: six},
		{name: "only the list", in: set("", both, v4, v6), want: dual},
		{name: "leading zeros", in: set("010.096.000.010", nil)},
		{name: "IPv4-mapped", in: set("::ffff:10.96.0.10", nil)},
		{name: "IPv4-mapped with zeros", in: set("::ffff:010.96.0.010", nil)},
		{name: "more addresses than families", in: set("10.96.0.10", both, v4), fields: []string{"spec.clusterIPs[1]"}},
		{name: "more families than addresses", in: set("10.96.0.10", both[:1], v4, v6)},
		{name: "families the wrong way round", in: set("10.96.0.10", both, v6, v4), want: dual,
			fields: []string{"spec.ipFamilies[0]", "spec.ipFamilies[1]"}},
		{name: "two of one family", in: set("10.96.0.10", []string{"10.96.0.10", "10.96.0.11"}, v4, v6),
			fields: []string{"spec.clusterIPs[1]"}},
		{name: "one of two is broken", in: set("x", []string{"x", "fd00:10:96::10"}, v4, v6), want: six,
			fields: []string{"spec.clusterIPs[0]"}},
		{name: "list and field differ", in: set("10.96.0.99", both[:1], v4), fields: []string{"spec.clusterIP"}},
		{name: "garbage", none: true, in: set("localhost", nil), fields: []string{"spec.clusterIP"}},
		{name: "unspecified", none: true, in: set("0.0.0.0", nil), fields: []string{"spec.clusterIP"}},
		{name: "loopback", none: true, in: set("127.0.0.1", nil), fields: []string{"spec.clusterIP"}},
		{name: "loopback, mapped", none: true, in: set("::ffff:127.0.0.1", nil), fields: []string{"spec.clusterIP"}},
		{name: "loopback, IPv6", none: true, in: set("::1", nil), fields: []string{"spec.clusterIP"}},
		{name: "multicast", none: true, in: set("ff02::1", nil), fields: []string{"spec.clusterIP"}},
		{name: "broadcast", none: true, in: set("255.255.255.255", nil), fields: []string{"spec.clusterIP"}},
		{name: "zone", none: true, in: set("fe80::1%eth0", nil), fields: []string{"spec.clusterIP"}},
		{name: "octal", none: true, in: set("10.96.0.256", nil), fields: []string{"spec.clusterIP"}},
	})
}

func TestServiceExternalAddresses(t *testing.T) {
	proxy, vip := corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP
	runServiceCases(t, []serviceCase{
		{
			name:   "external IPs",
			fields: []string{"spec.externalIPs[1]", "spec.externalIPs[2]", "spec.externalIPs[3]", "spec.externalIPs[4]", "spec.externalIPs[5]"},
			in: func(o *corev1.Service) {
				o.Spec.ExternalIPs = []string{"203.0.113.1", "nonsense", "203.0.113.1", "2001:db8:113::1", "0.0.0.0", "", "203.0.113.2"}
			},
			want: func(s *service.Service) { s.ExternalIPs = addrs("203.0.113.1", "203.0.113.2") },
		},
		{
			name: "load balancer",
			in: func(o *corev1.Service) {
				o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
					{IP: "203.0.113.1"}, {IP: "203.0.113.2", IPMode: &vip}, {IP: "203.0.113.3", IPMode: &proxy},
					{Hostname: "lb.example.com"}, {IP: "2001:db8:113::1"}, {IP: "127.0.0.1"}, {IP: "203.0.113.1"},
				}
			},
			want:   func(s *service.Service) { s.LoadBalancerIPs = addrs("203.0.113.1", "203.0.113.2") },
			fields: []string{"status.loadBalancer.ingress[5].ip", "status.loadBalancer.ingress[6].ip"},
		},
		{
			name: "source ranges",
			in: func(o *corev1.Service) {
				o.Spec.LoadBalancerSourceRanges = []string{" 198.51.100.7/24 ", "2001:db8:51::/64", "::ffff:10.1.2.3/104", "198.51.100.0/24"}
			},
			want: func(s *service.Service) {
				s.Restricted = true
				s.SourceRanges = prefixes("198.51.100.0/24", "2001:db8:51::/64", "10.0.0.0/8")
			},
		},
		{
			name:   "only broken source ranges stay closed",
			fields: []string{"spec.loadBalancerSourceRanges[0]", "spec.loadBalancerSourceRanges[1]", "spec.loadBalancerSourceRanges[2]"},
			in:     func(o *corev1.Service) { o.Spec.LoadBalancerSourceRanges = []string{"198.51.100.1", "10.0.0.0/33", ""} },
			want:   func(s *service.Service) { s.Restricted = true },
		},
		{
			name: "everything of one family",
			in: func(o *corev1.Service) {
				o.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24", "0.0.0.0/0", "2001:db8:51::/64"}
			},
			want: func(s *service.Service) {
				s.Restricted = true
				s.SourceRanges = prefixes("0.0.0.0/0", "2001:db8:51::/64")
			},
		},
	})
}

func TestServicePolicies(t *testing.T) {
	local, nonsense := corev1.ServiceInternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicy("x")
	affinity := func(seconds *int32) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: seconds}}
		}
	}
	external := func(kind corev1.ServiceType, hcnp int32) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Spec.Type, o.Spec.HealthCheckNodePort = kind, hcnp
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	isLocal := func(s *service.Service) { s.External = service.Local }
	lasts := func(d time.Duration) func(*service.Service) {
		return func(s *service.Service) { s.Affinity = d }
	}
	timeout := "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
	runServiceCases(t, []serviceCase{
		{name: "internal Local", in: func(o *corev1.Service) { o.Spec.InternalTrafficPolicy = &local },
			want: func(s *service.Service) { s.Internal = service.Local }},
		{name: "internal nonsense", in: func(o *corev1.Service) { o.Spec.InternalTrafficPolicy = &nonsense },
			fields: []string{"spec.internalTrafficPolicy"}},
		{name: "external Local, cluster IP only", in: external(corev1.ServiceTypeClusterIP, 30999)},
		{name: "external Local, node port", in: external(corev1.ServiceTypeNodePort, 30999), want: isLocal},
		{name: "external Local, external IP", want: func(s *service.Service) {
			s.External, s.ExternalIPs = service.Local, addrs("203.0.113.1")
		}, in: func(o *corev1.Service) {
			external(corev1.ServiceTypeClusterIP, 0)(o)
			o.Spec.ExternalIPs = []string{"203.0.113.1"}
		}},
		{name: "external Local, load balancer", in: external(corev1.ServiceTypeLoadBalancer, 30999),
			want: func(s *service.Service) { s.External, s.HealthCheckNodePort = service.Local, 30999 }},
		{name: "health check node port missing", in: external(corev1.ServiceTypeLoadBalancer, 0), want: isLocal,
			fields: []string{"spec.healthCheckNodePort"}},
		{name: "health check node port of external Cluster", in: func(o *corev1.Service) {
			external(corev1.ServiceTypeLoadBalancer, 30999)(o)
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		}},
		{name: "external nonsense", in: func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = "local" },
			fields: []string{"spec.externalTrafficPolicy"}},
		{name: "affinity", in: affinity(new(int32(60))), want: lasts(time.Minute)},
		{name: "affinity default", in: affinity(nil), want: lasts(3 * time.Hour)},
		{name: "affinity without config", in: func(o *corev1.Service) { o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
			want: lasts(3 * time.Hour)},
		{name: "affinity too short", in: affinity(new(int32(0))), want: lasts(time.Second), fields: []string{timeout}},
		{name: "affinity too long", in: affinity(new(int32(86401))), want: lasts(24 * time.Hour), fields: []string{timeout}},
		{name: "affinity nonsense", in: func(o *corev1.Service) { o.Spec.SessionAffinity = "Cookie" },
			fields: []string{"spec.sessionAffinity"}},
		{name: "timeout without affinity", in: func(o *corev1.Service) {
			affinity(new(int32(60)))(o)
			o.Spec.SessionAffinity = corev1.ServiceAffinityNone
		}},
	})
}

func TestServicePorts(t *testing.T) {
	ports := func(list ...corev1.ServicePort) func(*corev1.Service) {
		return func(o *corev1.Service) { o.Spec.Ports = list }
	}
	want := func(list ...service.ServicePort) func(*service.Service) {
		return func(s *service.Service) { s.Ports = list }
	}
	runServiceCases(t, []serviceCase{
		{name: "unnamed", in: ports(corev1.ServicePort{Port: 80}), want: want(service.ServicePort{Port: 80})},
		{name: "one number, three protocols", in: ports(
			corev1.ServicePort{Name: "t", Port: 53}, corev1.ServicePort{Name: "u", Port: 53, Protocol: "UDP", NodePort: 30053},
			corev1.ServicePort{Name: "s", Port: 53, Protocol: "SCTP", NodePort: 30053},
		), want: want(
			service.ServicePort{Name: "t", Port: 53}, service.ServicePort{Name: "u", Port: 53, Protocol: service.UDP, NodePort: 30053},
			service.ServicePort{Name: "s", Port: 53, Protocol: service.SCTP, NodePort: 30053},
		)},
		{name: "numbers out of range", in: ports(
			corev1.ServicePort{Name: "a", Port: 0}, corev1.ServicePort{Name: "b", Port: 65536},
			corev1.ServicePort{Name: "c", Port: -1}, corev1.ServicePort{Name: "d", Port: 65535},
		), want: want(service.ServicePort{Name: "d", Port: 65535}),
			fields: []string{"spec.ports[0].port", "spec.ports[1].port", "spec.ports[2].port"}},
		{name: "unknown protocols", none: true, in: ports(
			corev1.ServicePort{Name: "a", Port: 1, Protocol: "tcp"}, corev1.ServicePort{Name: "b", Port: 2, Protocol: "ICMP"},
		), fields: []string{"spec.ports[0].protocol", "spec.ports[1].protocol"}},
		{name: "name that is none", none: true, in: ports(corev1.ServicePort{Name: "a b", Port: 1}), fields: []string{"spec.ports[0].name"}},
		{name: "doubles", in: ports(
			corev1.ServicePort{Name: "a", Port: 1, NodePort: 30001}, corev1.ServicePort{Name: "a", Port: 2},
			corev1.ServicePort{Name: "b", Port: 1}, corev1.ServicePort{Name: "c", Port: 3, NodePort: 30001},
			corev1.ServicePort{Name: "d", Port: 4, NodePort: 30001, Protocol: "UDP"},
		), want: want(
			service.ServicePort{Name: "a", Port: 1, NodePort: 30001}, service.ServicePort{Name: "c", Port: 3},
			service.ServicePort{Name: "d", Port: 4, NodePort: 30001, Protocol: service.UDP},
		), fields: []string{"spec.ports[1].name", "spec.ports[2].port", "spec.ports[3].nodePort"}},
		{name: "node port out of range", in: ports(corev1.ServicePort{Port: 80, NodePort: 70000}),
			want: want(service.ServicePort{Port: 80}), fields: []string{"spec.ports[0].nodePort"}},
		{name: "node port whatever the type", in: ports(corev1.ServicePort{Port: 80, NodePort: 30080}),
			want: want(service.ServicePort{Port: 80, NodePort: 30080})},
	})
}

func TestProblemsAreBounded(t *testing.T) {
	_, problems := Service(webService(func(o *corev1.Service) { o.Spec.ExternalIPs = make([]string, 1000) }))
	if got, want := len(problems), maxProblems+1; got != want {
		t.Fatalf("%d problems, want %d", got, want)
	}
	got, want := problems[maxProblems].String(), "Service shop/web: 990 more problems like these"
	if got != want {
		t.Errorf("last problem is %q, want %q", got, want)
	}
}
