package watch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/service"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// An Address is where clients reach what is served: an IP address or a DNS name.
type Address struct {
	IP   netip.Addr
	Host string // lower-case; empty if IP is valid
}

func (a Address) compare(o Address) int {
	return cmp.Or(a.IP.Compare(o.IP), strings.Compare(a.Host, o.Host))
}

// ParseAddress returns the address that s spells.
func ParseAddress(s string) (Address, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.Zone() != "" {
			return Address{}, fmt.Errorf("%.80q has a zone", s)
		}
		return Address{IP: ip.Unmap()}, nil
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	if len(validation.IsDNS1123Subdomain(host)) > 0 {
		return Address{}, fmt.Errorf("%.80q is neither an IP address nor a DNS name", s)
	}
	return Address{Host: host}, nil
}

// ParseAddresses returns the addresses in a list with commas, sorted, each once. The
// list of --publish-status-address is one. An empty list has none.
func ParseAddresses(list string) ([]Address, error) {
	var out []Address
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		a, err := ParseAddress(s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return sorted(out), nil
}

func sorted(list []Address) []Address {
	slices.SortFunc(list, Address.compare)
	return slices.Compact(list)
}

// ServiceAddresses returns where clients reach the Service o, sorted: what its load
// balancer says, and its external IPs; failing both the name that it stands for, or its
// cluster IPs. What is no address is left out.
func ServiceAddresses(o *corev1.Service) []Address {
	ips := o.Spec.ExternalIPs
	var hosts []string
	switch o.Spec.Type {
	case corev1.ServiceTypeExternalName:
		ips, hosts = nil, []string{o.Spec.ExternalName}
	case corev1.ServiceTypeLoadBalancer:
		// Its cluster IP is not where clients are: while it has no address yet, nor have we.
		for _, in := range o.Status.LoadBalancer.Ingress {
			ips, hosts = append(ips[:len(ips):len(ips)], in.IP), append(hosts, in.Hostname)
		}
	default:
		if len(ips) == 0 {
			ips = append(ips, o.Spec.ClusterIPs...)
		}
		if len(ips) == 0 {
			ips = append(ips, o.Spec.ClusterIP)
		}
	}
	var out []Address
	for _, s := range ips {
		if a, err := ParseAddress(s); err == nil && a.IP.IsValid() {
			out = append(out, a)
		}
	}
	for _, s := range hosts {
		if a, err := ParseAddress(s); err == nil && a.Host != "" {
			out = append(out, a)
		}
	}
	return sorted(out)
}

// loadBalancer returns addresses as the API has them.
func loadBalancer(list []Address) []networkingv1.IngressLoadBalancerIngress {
	out := make([]networkingv1.IngressLoadBalancerIngress, 0, len(list))
	for _, a := range list {
		in := networkingv1.IngressLoadBalancerIngress{Hostname: a.Host}
		if a.IP.IsValid() {
			in.IP = a.IP.String()
		}
		out = append(out, in)
	}
	return out
}

// A Publisher follows the Service that makes L7 reachable, and tells where that is.
type Publisher struct {
	Client  kubernetes.Interface      // required
	Service service.Name              // required
	Log     *slog.Logger              // required
	Publish func(addresses []Address) // required; Statuses.Publish
}

// Run follows the Service until ctx is done. While the Service does not exist nothing is
// published, and when it goes the last word stands: what was reachable may well be again.
func (p *Publisher) Run(ctx context.Context) {
	api := p.Client.CoreV1().Services(p.Service.Namespace)
	f := &feed{
		client: p.Client,
		kind: &servicewatch.Kind{
			Name: "Service", Sample: &corev1.Service{}, Log: p.Log, Watch: api.Watch,
			List:   func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			Fields: fields.OneTermEqualSelector(metav1.ObjectNameField, p.Service.Name).String(),
		},
		convert: func(o metav1.Object) *converted {
			if in, ok := o.(*corev1.Service); ok && in.Name == p.Service.Name {
				return &converted{addresses: ServiceAddresses(in), isService: true}
			}
			return &converted{}
		},
	}
	f.send = func(n news) error {
		for _, c := range n.set {
			if c.isService {
				p.Publish(c.addresses)
				return nil
			}
		}
		p.Log.Warn("the Service whose address is published does not exist; the status of Ingresses stays as it is", "service", p.Service.String())
		return nil
	}
	f.run(ctx)
}
