package kube

import corev1 "k8s.io/api/core/v1"

// The numbers of fields are those of core/v1/generated.proto.

// A serviceScratch is a Service to decode into, again and again.
type serviceScratch struct {
	o        corev1.Service
	internal corev1.ServiceInternalTrafficPolicy
}

// reset returns the object, empty.
func (s *serviceScratch) reset() *corev1.Service {
	o := &s.o
	resetMeta(&o.ObjectMeta)
	o.Spec = corev1.ServiceSpec{
		Ports: o.Spec.Ports[:0], ClusterIPs: o.Spec.ClusterIPs[:0], ExternalIPs: o.Spec.ExternalIPs[:0],
		LoadBalancerSourceRanges: o.Spec.LoadBalancerSourceRanges[:0], IPFamilies: o.Spec.IPFamilies[:0],
	}
	o.Status.LoadBalancer.Ingress = o.Status.LoadBalancer.Ingress[:0]
	return o
}

func (s *serviceScratch) read(m message) error {
	for m.next() {
		switch m.num {
		case 1:
			m.sub(func(m message) error { return readMeta(m, &s.o.ObjectMeta) })
		case 2:
			m.sub(s.readSpec)
		case 3:
			m.sub(s.readStatus)
		}
	}
	return m.err
}

func (s *serviceScratch) readSpec(m message) error {
	o := &s.o.Spec
	for m.next() {
		switch m.num {
		case 1:
			m.sub(s.readPort)
		case 3:
			o.ClusterIP = m.text()
		case 4:
			o.Type = corev1.ServiceType(m.text())
		case 5:
			o.ExternalIPs = append(o.ExternalIPs, m.text())
		case 7:
			o.SessionAffinity = corev1.ServiceAffinity(m.text())
		case 9:
			o.LoadBalancerSourceRanges = append(o.LoadBalancerSourceRanges, m.text())
		case 10:
			o.ExternalName = m.text()
		case 11:
			o.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(m.text())
		case 12:
			o.HealthCheckNodePort = m.int32()
		case 14:
			m.sub(s.readAffinity)
		case 18:
			o.ClusterIPs = append(o.ClusterIPs, m.text())
		case 19:
			o.IPFamilies = append(o.IPFamilies, corev1.IPFamily(m.text()))
		case 22:
			s.internal = corev1.ServiceInternalTrafficPolicy(m.text())
			o.InternalTrafficPolicy = &s.internal
		}
	}
	return m.err
}

func (s *serviceScratch) readPort(m message) error {
	var p corev1.ServicePort
	for m.next() {
		switch m.num {
		case 1:
			p.Name = m.text()
		case 2:
			p.Protocol = corev1.Protocol(m.text())
		case 3:
			p.Port = m.int32()
		case 5:
			p.NodePort = m.int32()
		case 6:
			p.AppProtocol = new(m.text())
		}
	}
	s.o.Spec.Ports = append(s.o.Spec.Ports, p)
	return m.err
}

// readAffinity reads a SessionAffinityConfig, which holds a ClientIPConfig, which
// holds a number.
func (s *serviceScratch) readAffinity(m message) error {
	o := &s.o.Spec
	if o.SessionAffinityConfig == nil {
		o.SessionAffinityConfig = new(corev1.SessionAffinityConfig)
	}
	client := func(m message) error {
		if o.SessionAffinityConfig.ClientIP == nil {
			o.SessionAffinityConfig.ClientIP = new(corev1.ClientIPConfig)
		}
		for m.next() {
			if m.num == 1 {
				o.SessionAffinityConfig.ClientIP.TimeoutSeconds = new(m.int32())
			}
		}
		return m.err
	}
	for m.next() {
		if m.num == 1 {
			m.sub(client)
		}
	}
	return m.err
}

func (s *serviceScratch) readStatus(m message) error {
	for m.next() {
		if m.num == 1 {
			m.sub(s.readLoadBalancer)
		}
	}
	return m.err
}

func (s *serviceScratch) readLoadBalancer(m message) error {
	for m.next() {
		if m.num == 1 {
			m.sub(s.readIngress)
		}
	}
	return m.err
}

func (s *serviceScratch) readIngress(m message) error {
	var in corev1.LoadBalancerIngress
	for m.next() {
		switch m.num {
		case 1:
			in.IP = m.text()
		case 3:
			in.IPMode = new(corev1.LoadBalancerIPMode(m.text()))
		}
	}
	s.o.Status.LoadBalancer.Ingress = append(s.o.Status.LoadBalancer.Ingress, in)
	return m.err
}
