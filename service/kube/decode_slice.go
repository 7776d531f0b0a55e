package kube

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The numbers of fields are those of discovery/v1/generated.proto.

// A sliceScratch is an EndpointSlice to decode into, again and again.
type sliceScratch struct {
	o         discoveryv1.EndpointSlice
	endpoints []*endpointScratch
	ports     []*portScratch
}

// An endpointScratch is what an Endpoint points to.
type endpointScratch struct {
	addresses                   [1]string
	node                        string
	ready, serving, terminating bool
	hints                       discoveryv1.EndpointHints
}

// A portScratch is what an EndpointPort points to.
type portScratch struct {
	name     string
	protocol corev1.Protocol
	port     int32
}

// maxScratch is how many endpoints a scratch is kept for.
const maxScratch = 1024

// reset returns the object, empty.
func (s *sliceScratch) reset() *discoveryv1.EndpointSlice {
	if len(s.endpoints) > maxScratch {
		*s = sliceScratch{}
	}
	o := &s.o
	resetMeta(&o.ObjectMeta)
	o.AddressType, o.Endpoints, o.Ports = "", o.Endpoints[:0], o.Ports[:0]
	return o
}

func resetMeta(o *metav1.ObjectMeta) {
	labels, annotations := o.Labels, o.Annotations
	if labels == nil {
		labels, annotations = make(map[string]string), make(map[string]string)
	}
	clear(labels)
	clear(annotations)
	*o = metav1.ObjectMeta{Labels: labels, Annotations: annotations}
}

func (s *sliceScratch) read(m message) error {
	for m.next() {
		switch m.num {
		case 1:
			m.sub(func(m message) error { return readMeta(m, &s.o.ObjectMeta) })
		case 2:
			m.sub(s.readEndpoint)
		case 3:
			m.sub(s.readPort)
		case 4:
			s.o.AddressType = discoveryv1.AddressType(m.text())
		}
	}
	return m.err
}

func (s *sliceScratch) readEndpoint(m message) error {
	n := len(s.o.Endpoints)
	if n == len(s.endpoints) {
		s.endpoints = append(s.endpoints, new(endpointScratch))
	}
	s.o.Endpoints = append(s.o.Endpoints, discoveryv1.Endpoint{})
	e, to := &s.o.Endpoints[n], s.endpoints[n]
	for m.next() {
		switch m.num {
		case 1: // the first address is the only one that counts
			if a := m.text(); e.Addresses == nil {
				to.addresses[0] = a
				e.Addresses = to.addresses[:]
			}
		case 2:
			m.sub(func(m message) error { return to.readConditions(m, &e.Conditions) })
		case 6:
			to.node = m.text()
			e.NodeName = &to.node
		case 8:
			if e.Hints == nil {
				to.hints.ForZones, to.hints.ForNodes = to.hints.ForZones[:0], to.hints.ForNodes[:0]
				e.Hints = &to.hints
			}
			m.sub(to.readHints)
		}
	}
	return m.err
}

func (s *endpointScratch) readConditions(m message, c *discoveryv1.EndpointConditions) error {
	for m.next() {
		switch m.num {
		case 1:
			s.ready = m.bool()
			c.Ready = &s.ready
		case 2:
			s.serving = m.bool()
			c.Serving = &s.serving
		case 3:
			s.terminating = m.bool()
			c.Terminating = &s.terminating
		}
	}
	return m.err
}

func (s *endpointScratch) readHints(m message) error {
	for m.next() {
		switch m.num {
		case 1:
			name, err := m.hint()
			s.hints.ForZones, m.err = append(s.hints.ForZones, discoveryv1.ForZone{Name: name}), err
		case 2:
			name, err := m.hint()
			s.hints.ForNodes, m.err = append(s.hints.ForNodes, discoveryv1.ForNode{Name: name}), err
		}
	}
	return m.err
}

// hint returns the name in the field, which is a hint.
func (m *message) hint() (string, error) {
	b := m.bytes()
	if m.err != nil {
		return "", m.err
	}
	name := ""
	in := message{rest: b}
	for in.next() {
		if in.num == 1 {
			name = in.text()
		}
	}
	return name, in.err
}

func (s *sliceScratch) readPort(m message) error {
	n := len(s.o.Ports)
	if n == len(s.ports) {
		s.ports = append(s.ports, new(portScratch))
	}
	s.o.Ports = append(s.o.Ports, discoveryv1.EndpointPort{})
	p, to := &s.o.Ports[n], s.ports[n]
	for m.next() {
		switch m.num {
		case 1:
			to.name = m.text()
			p.Name = &to.name
		case 2:
			to.protocol = corev1.Protocol(m.text())
			p.Protocol = &to.protocol
		case 3:
			to.port = m.int32()
			p.Port = &to.port
		}
	}
	return m.err
}
