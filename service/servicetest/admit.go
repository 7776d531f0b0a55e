package servicetest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// An admission checks by the rules of the API server that are easily broken by
// writing objects by hand, and that nothing is left for the server to allocate:
// a case must say every address and port it depends on.
type admission struct {
	addrs     map[netip.Addr]string // owner of a cluster IP
	nodePorts map[int32]string      // owner of a node port or health-check port
}

// admit reports the first object of s that a real cluster would not hold as
// written.
func admit(s *Step) error {
	a := admission{make(map[netip.Addr]string), make(map[int32]string)}
	for _, svc := range s.Services {
		if err := a.service(svc); err != nil {
			return fmt.Errorf("the API server would refuse or change Service %s/%s: %w", svc.Namespace, svc.Name, err)
		}
	}
	for _, sl := range s.Slices {
		if err := admitSlice(sl); err != nil {
			return fmt.Errorf("the API server would refuse or change EndpointSlice %s/%s: %w", sl.Namespace, sl.Name, err)
		}
	}
	return nil
}

func (a admission) service(svc *corev1.Service) error {
	spec := &svc.Spec
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
	lb := spec.Type == corev1.ServiceTypeLoadBalancer
	local := spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	switch {
	case spec.Type == "":
		return errors.New("spec.type is not explicit")
	case spec.Type == corev1.ServiceTypeExternalName && len(spec.ClusterIPs) > 0:
		return errors.New("ExternalName with cluster IPs")
	case local && !external && len(spec.ExternalIPs) == 0:
		return errors.New("externalTrafficPolicy without an external address")
	case lb && local != (spec.HealthCheckNodePort != 0):
		return errors.New("healthCheckNodePort belongs to load balancers with policy Local")
	case !lb && spec.HealthCheckNodePort != 0:
		return errors.New("healthCheckNodePort without load balancer")
	case !lb && (len(svc.Status.LoadBalancer.Ingress) > 0 || len(spec.LoadBalancerSourceRanges) > 0):
		return errors.New("load-balancer fields without load balancer")
	case spec.SessionAffinity == "" && spec.SessionAffinityConfig != nil:
		return errors.New("sessionAffinityConfig without sessionAffinity")
	}
	if hc := spec.HealthCheckNodePort; hc != 0 {
		if err := a.takeNodePort(hc, svc.Name); err != nil {
			return err
		}
	}
	if err := a.clusterIPs(svc); err != nil {
		return err
	}
	return a.ports(svc, external)
}

func (a admission) clusterIPs(svc *corev1.Service) error {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if len(spec.ClusterIPs) == 0 || spec.ClusterIP != spec.ClusterIPs[0] {
		return errors.New("clusterIP must be clusterIPs[0]")
	}
	if spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if len(spec.IPFamilies) != len(spec.ClusterIPs) {
		return errors.New("ipFamilies and clusterIPs differ in length")
	}
	for i, s := range spec.ClusterIPs {
		ip, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return err
		case !within(ip, serviceNet):
			return fmt.Errorf("%s is outside the service CIDRs", ip)
		case ip.Is4() != (spec.IPFamilies[i] == corev1.IPv4Protocol):
			return fmt.Errorf("%s is not of its ipFamily", ip)
		case a.addrs[ip] != "":
			return fmt.Errorf("%s belongs to %s", ip, a.addrs[ip])
		}
		a.addrs[ip] = svc.Name
	}
	return nil
}

func (a admission) ports(svc *corev1.Service, external bool) error {
	spec := &svc.Spec
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		return errors.New("no ports")
	}
	noNodePorts := spec.AllocateLoadBalancerNodePorts != nil && !*spec.AllocateLoadBalancerNodePorts
	own := make(map[int32]bool)
	for _, p := range spec.Ports {
		switch {
		case len(spec.Ports) > 1 && p.Name == "":
			return errors.New("one of several ports has no name")
		case p.NodePort == 0 && external && !noNodePorts:
			return errors.New("a node port would be allocated: write it, or allocateLoadBalancerNodePorts: false")
		case p.NodePort != 0 && !external:
			return errors.New("nodePort on an internal service")
		case p.NodePort == 0 || own[p.NodePort]:
			continue // one Service may use a number for several protocols
		}
		own[p.NodePort] = true
		if err := a.takeNodePort(p.NodePort, svc.Name); err != nil {
			return err
		}
	}
	return nil
}

func (a admission) takeNodePort(port int32, owner string) error {
	switch {
	case port < 30000 || port > 32767:
		return fmt.Errorf("node port %d is out of range", port)
	case a.nodePorts[port] != "":
		return fmt.Errorf("node port %d belongs to %s", port, a.nodePorts[port])
	}
	a.nodePorts[port] = owner
	return nil
}

func admitSlice(s *discoveryv1.EndpointSlice) error {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			return errors.New("endpoint without address")
		}
		for _, text := range e.Addresses {
			ip, err := netip.ParseAddr(text)
			switch {
			case err != nil:
				return err
			case ip.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4):
				return fmt.Errorf("%s is not %s", ip, s.AddressType)
			case !within(ip, foreignNet):
				return fmt.Errorf("%s is nowhere in the world", ip)
			}
		}
	}
	for _, p := range s.Ports {
		if p.Name != nil && strings.ToLower(*p.Name) != *p.Name {
			return fmt.Errorf("port name %q", *p.Name)
		}
		if p.Port != nil && *p.Port < 1024 {
			return fmt.Errorf("port %d: the world has no pods with privileged ports", *p.Port)
		}
	}
	return nil
}
