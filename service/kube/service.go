package kube

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
)

// LabelProxyName is the label that hands a Service, whatever its value, to
// another implementation of Services.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

// The range of spec.sessionAffinityConfig.clientIP.timeoutSeconds.
const (
	defaultAffinity = 10800 * time.Second
	minAffinity     = 1 * time.Second
	maxAffinity     = 86400 * time.Second
)

// Headless reports whether o is a headless Service. Nothing at L4 is to be done
// for it; L7 sends requests to its endpoints all the same.
func Headless(o *corev1.Service) bool {
	if o.Spec.ClusterIP == "" && len(o.Spec.ClusterIPs) > 0 {
		return o.Spec.ClusterIPs[0] == corev1.ClusterIPNone
	}
	return o.Spec.ClusterIP == corev1.ClusterIPNone
}

// AnyService is [Service] for L7, which is a client of Services, not one of those
// that put them in force. It takes also a Service with the label [LabelProxyName],
// one of type ExternalName, which has Ports and an ExternalName and nothing else,
// and one without a cluster IP, as if it were headless: in a folder nobody hands
// out cluster IPs. Ports have their AppProtocol.
func AnyService(o *corev1.Service) (*service.Service, []service.Problem) { return anyService(o, nil) }

func anyService(o *corev1.Service, in *interner) (*service.Service, []service.Problem) {
	c := newServiceConversion(o, in)
	c.any = true
	external := o.Spec.Type == corev1.ServiceTypeExternalName
	c.out.Headless = !external && (c.out.Headless || o.Spec.ClusterIP == "" && len(o.Spec.ClusterIPs) == 0)
	switch {
	case !c.named():
	case external:
		c.ports()
		c.out.ExternalName = c.externalName()
	default:
		c.convert()
	}
	if c.out.ExternalName == "" && (len(c.out.Families) == 0 || len(c.out.Ports) == 0) {
		c.out = nil
	}
	return c.out, c.all()
}

// Service converts o. It returns nil for a Service that is none of ours: of type
// ExternalName, with the label [LabelProxyName], or without a cluster IP that
// can be used. The Problems are about what o says and cannot be done; they may
// come with a nil Service, and the Service holds everything else. A headless
// Service has Families and Ports and nothing that is answered.
func Service(o *corev1.Service) (*service.Service, []service.Problem) { return plainService(o, nil) }

// plainService is Service. With an interner, it keeps no string of o but its
// namespace and name.
func plainService(o *corev1.Service, in *interner) (*service.Service, []service.Problem) {
	if _, other := o.Labels[LabelProxyName]; other || o.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, nil
	}
	if o.Spec.ClusterIP == "" && len(o.Spec.ClusterIPs) == 0 {
		return nil, nil
	}
	c := newServiceConversion(o, in)
	if c.named() {
		c.convert()
	}
	if len(c.out.Families) == 0 || len(c.out.Ports) == 0 {
		c.out = nil
	}
	return c.out, c.all()
}

// A serviceConversion is the conversion of one Service.
type serviceConversion struct {
	complaints
	in  *corev1.Service
	out *service.Service
	any bool // it is for AnyService
}

func newServiceConversion(o *corev1.Service, in *interner) *serviceConversion {
	name, uid := service.Name{Namespace: o.Namespace, Name: o.Name}, in.own(string(o.UID))
	return &serviceConversion{
		complaints: complaints{object: service.Object{Kind: "Service", Name: name, UID: uid}, intern: in},
		in:         o,
		out:        &service.Service{Name: name, UID: uid, Created: o.CreationTimestamp.Time, Headless: Headless(o)},
	}
}

// named reports whether the object has a name that can be used.
func (c *serviceConversion) named() bool {
	ok := true
	if err := checkLabel(c.in.Namespace); err != nil {
		c.add(reasonName, "metadata.namespace", "%v", err)
		ok = false
	}
	if err := checkLabel(c.in.Name); err != nil {
		c.add(reasonName, "metadata.name", "%v", err)
		ok = false
	}
	return ok
}

func (c *serviceConversion) convert() {
	c.ports()
	c.out.Internal = c.internal()
	c.out.Affinity = c.affinity()
	if c.out.Headless {
		c.out.Families = c.headlessFamilies()
		return
	}
	c.clusterIPs()
	c.externalIPs()
	c.loadBalancer()
	c.sourceRanges()
	c.out.External = c.external()
	c.out.HealthCheckNodePort = c.healthCheck()
	c.out.Scheduling = c.scheduling()
}

// clusterIPs sets ClusterIPs and Families. An address counts for its own family;
// spec.ipFamilies only says how many of the addresses count. Objects from before
// dual stack have no families, and perhaps no list.
func (c *serviceConversion) clusterIPs() {
	list, field := c.in.Spec.ClusterIPs, "spec.clusterIPs"
	if len(list) == 0 {
		list, field = []string{c.in.Spec.ClusterIP}, "spec.clusterIP"
	} else if ip := c.in.Spec.ClusterIP; ip != "" && ip != list[0] {
		c.add(reasonAddress, "spec.clusterIP", "%.80q differs from spec.clusterIPs[0], which is used", ip)
	}
	families := c.in.Spec.IPFamilies
	for i, s := range list {
		path := field
		if field == "spec.clusterIPs" {
			path = at(field, i)
		}
		if len(families) > 0 && i >= len(families) {
			c.add(reasonAddress, path, "has no family in spec.ipFamilies; not answered")
			continue
		}
		a, ok := c.vip(path, s)
		if !ok {
			continue
		}
		f := service.FamilyOf(a)
		if slices.Contains(c.out.Families, f) {
			c.add(reasonAddress, path, "is a second %v address; not answered", f)
			continue
		}
		if len(families) > 0 && string(families[i]) != f.String() {
			c.add(reasonAddress, at("spec.ipFamilies", i), "is %.80q, but the cluster IP is %v", families[i], f)
		}
		c.out.ClusterIPs = append(c.out.ClusterIPs, a)
		c.out.Families = append(c.out.Families, f)
	}
}

// externalName returns spec.externalName in the form in which names are compared,
// or nothing if it is no DNS name. An address is none: the API documents it as a
// name made of digits, and it would let whoever writes a Service reach any address
// in the name of L7.
func (c *serviceConversion) externalName() string {
	name := c.intern.own(strings.ToLower(strings.TrimSuffix(c.in.Spec.ExternalName, ".")))
	if err := checkSubdomain(name); err != nil {
		c.add(reasonName, "spec.externalName", "%v", err)
		return ""
	}
	if _, err := parseAddr(name); err == nil {
		c.add(reasonAddress, "spec.externalName", "%v is an address, not a name", name)
		return ""
	}
	return name
}

// headlessFamilies returns spec.ipFamilies, or both families where the object
// does not say: slices of a family that is not there do no harm.
func (c *serviceConversion) headlessFamilies() []service.Family {
	var out []service.Family
	for i, f := range c.in.Spec.IPFamilies {
		var family service.Family
		switch f {
		case corev1.IPv4Protocol:
			family = service.IPv4
		case corev1.IPv6Protocol:
			family = service.IPv6
		default:
			c.add(reasonValue, at("spec.ipFamilies", i), "%.80q is not an IP family", f)
			continue
		}
		if !slices.Contains(out, family) {
			out = append(out, family)
		}
	}
	if len(out) == 0 {
		return []service.Family{service.IPv4, service.IPv6}
	}
	return out
}

// vip parses an address the Service wants to be answered, and complains if that
// cannot be.
func (c *serviceConversion) vip(field, s string) (netip.Addr, bool) {
	a, err := parseAddr(s)
	if err != nil {
		c.add(reasonAddress, field, "%v; not answered", err)
		return a, false
	}
	if err := checkVIP(a); err != nil {
		c.add(reasonAddress, field, "%v %v; not answered", a, err)
		return a, false
	}
	return a, true
}

// externalIPs sets ExternalIPs. A Service without a cluster IP in a family has
// no ports in it, and so no external IPs: unlike for a load balancer, which may
// serve that family by itself, this is worth a word.
func (c *serviceConversion) externalIPs() {
	for i, s := range c.in.Spec.ExternalIPs {
		path := at("spec.externalIPs", i)
		a, ok := c.vip(path, s)
		switch {
		case !ok:
		case slices.Contains(c.out.ExternalIPs, a):
			c.add(reasonAddress, path, "%v is there twice", a)
		case !slices.Contains(c.out.Families, service.FamilyOf(a)):
			c.add(reasonAddress, path, "the Service has no %v cluster IP; %v is not answered", service.FamilyOf(a), a)
		default:
			c.out.ExternalIPs = append(c.out.ExternalIPs, a)
		}
	}
}

// loadBalancer sets LoadBalancerIPs from what the load balancer wants this node
// to answer: its addresses unless packets reach the node by node port anyway.
func (c *serviceConversion) loadBalancer() {
	for i, in := range c.in.Status.LoadBalancer.Ingress {
		if in.IP == "" || in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		path := at("status.loadBalancer.ingress", i) + ".ip"
		a, ok := c.vip(path, in.IP)
		switch {
		case !ok:
		case slices.Contains(c.out.LoadBalancerIPs, a):
			c.add(reasonAddress, path, "%v is there twice", a)
		case slices.Contains(c.out.Families, service.FamilyOf(a)):
			c.out.LoadBalancerIPs = append(c.out.LoadBalancerIPs, a)
		}
	}
}

// sourceRanges sets SourceRanges and Restricted. A range of everything makes the
// other ranges of its family superfluous. A range that cannot be read allows
// nobody: kube-proxy ignores it, and opens the Service to the world if it was
// the only one.
func (c *serviceConversion) sourceRanges() {
	ranges := c.in.Spec.LoadBalancerSourceRanges
	c.out.Restricted = len(ranges) > 0
	var all [service.NumFamilies]bool
	var out []netip.Prefix
	for i, s := range ranges {
		p, err := parsePrefix(strings.TrimSpace(s))
		if err != nil {
			c.add(reasonRange, at("spec.loadBalancerSourceRanges", i), "%v; it allows nobody", err)
			continue
		}
		if p.Bits() == 0 {
			all[service.FamilyOf(p.Addr())] = true
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	c.out.SourceRanges = slices.DeleteFunc(out, func(p netip.Prefix) bool {
		return p.Bits() > 0 && all[service.FamilyOf(p.Addr())]
	})
}

func (c *serviceConversion) internal() service.Policy {
	p := c.in.Spec.InternalTrafficPolicy
	switch {
	case p == nil || *p == "" || *p == corev1.ServiceInternalTrafficPolicyCluster:
		return service.Cluster
	case *p == corev1.ServiceInternalTrafficPolicyLocal:
		return service.Local
	}
	c.add(reasonValue, "spec.internalTrafficPolicy", "%.80q is not a policy; using Cluster", *p)
	return service.Cluster
}

// external returns the external traffic policy. It counts only for Services
// that can be reached from outside by their type or external IPs.
func (c *serviceConversion) external() service.Policy {
	spec := &c.in.Spec
	outside := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		len(spec.ExternalIPs) > 0
	switch spec.ExternalTrafficPolicy {
	case "", corev1.ServiceExternalTrafficPolicyCluster:
		return service.Cluster
	case corev1.ServiceExternalTrafficPolicyLocal:
		if outside {
			return service.Local
		}
		return service.Cluster
	}
	c.add(reasonValue, "spec.externalTrafficPolicy", "%.80q is not a policy; using Cluster", spec.ExternalTrafficPolicy)
	return service.Cluster
}

// healthCheck returns the health-check node port of a load-balancer Service with
// a Local external policy, the only kind that has one.
func (c *serviceConversion) healthCheck() uint16 {
	if c.in.Spec.Type != corev1.ServiceTypeLoadBalancer || c.out.External != service.Local {
		return 0
	}
	port, ok := portNumber(c.in.Spec.HealthCheckNodePort)
	if !ok {
		c.add(reasonPort, "spec.healthCheckNodePort",
			"%d is not a port number; the load balancer cannot tell which nodes have endpoints", c.in.Spec.HealthCheckNodePort)
	}
	return port
}

func (c *serviceConversion) affinity() time.Duration {
	switch c.in.Spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return 0
	case corev1.ServiceAffinityClientIP:
	default:
		c.add(reasonValue, "spec.sessionAffinity", "%.80q is not an affinity; using None", c.in.Spec.SessionAffinity)
		return 0
	}
	config := c.in.Spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity
	}
	wanted := time.Duration(*config.ClientIP.TimeoutSeconds) * time.Second
	got := min(max(wanted, minAffinity), maxAffinity)
	if got != wanted {
		c.add(reasonValue, "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
			"%d is not between 1 and 86400; using %d", *config.ClientIP.TimeoutSeconds, int(got.Seconds()))
	}
	return got
}
