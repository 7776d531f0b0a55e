package kube

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/service"
)

// LabelHeadless is the label of slices that belong to a headless Service.
const LabelHeadless = corev1.IsHeadlessService

// Slice converts o. It returns nil for a slice that is none of ours: of address
// type FQDN, without the name of a Service, or with the label [LabelHeadless].
// The Problems are about endpoints and ports that were left out, and about a weight
// that is none; they may come with a nil Slice.
func Slice(o *discoveryv1.EndpointSlice) (*service.Slice, []service.Problem) {
	return new(sliceConversion).slice(o)
}

// AnySlice is [Slice] for L7, which also sends requests to the endpoints of
// headless Services: the label [LabelHeadless] does not count.
func AnySlice(o *discoveryv1.EndpointSlice) (*service.Slice, []service.Problem) {
	return new(sliceConversion).any(o)
}

// slice is Slice.
func (c *sliceConversion) slice(o *discoveryv1.EndpointSlice) (*service.Slice, []service.Problem) {
	if _, headless := o.Labels[LabelHeadless]; headless {
		return nil, nil
	}
	return c.any(o)
}

// any is AnySlice. With an interner, it keeps no string of o but its namespace
// and name.
func (c *sliceConversion) any(o *discoveryv1.EndpointSlice) (*service.Slice, []service.Problem) {
	owner := o.Labels[discoveryv1.LabelServiceName]
	if owner == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	c.in, c.out = o, &service.Slice{Name: o.Name, Triggered: triggered(o)}
	c.complaints = complaints{
		object: service.Object{Kind: "EndpointSlice", Name: service.Name{Namespace: o.Namespace, Name: o.Name}, UID: string(o.UID)},
		intern: c.intern,
	}
	if !c.named(owner) || !c.family() {
		return nil, c.all()
	}
	c.out.Service = service.Name{Namespace: o.Namespace, Name: c.intern.share(owner)}
	c.out.Weight = c.weight()
	c.ports()
	c.endpoints()
	return c.out, c.all()
}

// triggered returns the time of the change that led to o, or the zero Time.
func triggered(o *discoveryv1.EndpointSlice) time.Time {
	s := o.Annotations[corev1.EndpointsLastChangeTriggerTime]
	if s == "" { // an error costs much more to make
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// A sliceConversion is the conversion of one EndpointSlice, and then of the next:
// the lists are used again.
type sliceConversion struct {
	complaints
	in  *discoveryv1.EndpointSlice
	out *service.Slice

	portList           []service.SlicePort
	zoneList, nodeList []string
}

// named reports whether the object and the Service it names have names that can
// be used.
func (c *sliceConversion) named(owner string) bool {
	ok := true
	check := func(field string, err error) {
		if err != nil {
			c.add(reasonName, field, "%v", err)
			ok = false
		}
	}
	check("metadata.namespace", checkLabel(c.in.Namespace))
	check("metadata.name", checkSubdomain(c.in.Name))
	check("metadata.labels["+discoveryv1.LabelServiceName+"]", checkLabel(owner))
	return ok
}

// family sets Family and reports whether it is one.
func (c *sliceConversion) family() bool {
	switch c.in.AddressType {
	case discoveryv1.AddressTypeIPv4:
		c.out.Family = service.IPv4
	case discoveryv1.AddressTypeIPv6:
		c.out.Family = service.IPv6
	default:
		c.add(reasonValue, "addressType", "%.80q is not an address type", c.in.AddressType)
		return false
	}
	return true
}

// ports sets Ports. A port without a name field belongs to no port of a Service,
// one without a number stands for all ports, which no Service can use: neither
// is worth a Problem.
func (c *sliceConversion) ports() {
	c.portList = c.portList[:0]
	for i := range c.in.Ports {
		in := &c.in.Ports[i]
		if in.Name == nil || in.Port == nil || *in.Port == 0 {
			continue
		}
		path := func(field string) string { return at("ports", i) + field } // rarely needed
		if *in.Name != "" {
			if err := checkLabel(*in.Name); err != nil {
				c.add(reasonPort, path(".name"), "%v; the port is not used", err)
				continue
			}
		}
		number, ok := portNumber(*in.Port)
		if !ok {
			c.add(reasonPort, path(".port"), "%d is not a port number; the port is not used", *in.Port)
			continue
		}
		var name string
		if in.Protocol != nil {
			name = string(*in.Protocol)
		}
		proto, ok := protocol(name)
		if !ok {
			c.add(reasonPort, path(".protocol"), "%.80q is not a protocol; the port is not used", name)
			continue
		}
		if c.hasPort(*in.Name, proto) {
			c.add(reasonPort, path(".name"), "another port has the name %q and protocol %v; this one is not used", *in.Name, proto)
			continue
		}
		c.portList = append(c.portList, service.SlicePort{Name: *in.Name, Protocol: proto, Port: number})
	}
	c.out.Ports = c.intern.portList(c.portList)
}

func (c *sliceConversion) hasPort(name string, proto service.Protocol) bool {
	return slices.ContainsFunc(c.portList, func(p service.SlicePort) bool {
		return p.Name == name && p.Protocol == proto
	})
}

// endpoints sets Endpoints, leaving out those that have no usable address.
func (c *sliceConversion) endpoints() {
	if len(c.in.Endpoints) == 0 {
		return
	}
	c.out.Endpoints = make([]service.SliceEndpoint, 0, len(c.in.Endpoints))
	for i := range c.in.Endpoints {
		in := &c.in.Endpoints[i]
		a, ok := c.address(in, i)
		if !ok {
			continue
		}
		c.out.Endpoints = append(c.out.Endpoints, service.NewSliceEndpoint(a, c.state(in)))
	}
}

// state returns everything about an endpoint but its address.
func (c *sliceConversion) state(in *discoveryv1.Endpoint) *service.EndpointState {
	c.zoneList, c.nodeList = c.zoneList[:0], c.nodeList[:0]
	s := service.EndpointState{
		Ready:       orTrue(in.Conditions.Ready),
		Serving:     orTrue(in.Conditions.Serving),
		Terminating: in.Conditions.Terminating != nil && *in.Conditions.Terminating,
	}
	if in.NodeName != nil {
		s.Node = nodeName(*in.NodeName)
	}
	if in.Hints != nil {
		for i := range in.Hints.ForZones {
			c.zoneList = append(c.zoneList, in.Hints.ForZones[i].Name)
		}
		for i := range in.Hints.ForNodes {
			c.nodeList = append(c.nodeList, nodeName(in.Hints.ForNodes[i].Name))
		}
	}
	s.ForZones, s.ForNodes = c.zoneList, c.nodeList
	return c.intern.state(&s)
}

// address returns the first address of in. The others are copies by contract,
// and nobody has ever used them.
func (c *sliceConversion) address(in *discoveryv1.Endpoint, i int) (netip.Addr, bool) {
	if len(in.Addresses) == 0 {
		c.add(reasonAddress, at("endpoints", i)+".addresses", "is empty; the endpoint is not used")
		return netip.Addr{}, false
	}
	path := func() string { return at("endpoints", i) + ".addresses[0]" } // rarely needed
	a, err := parseAddr(in.Addresses[0])
	if err != nil {
		c.add(reasonAddress, path(), "%v; the endpoint is not used", err)
		return a, false
	}
	if f := service.FamilyOf(a); f != c.out.Family {
		c.add(reasonAddress, path(), "%v is an %v address in a slice of type %v; the endpoint is not used", a, f, c.out.Family)
		return a, false
	}
	if err := checkEndpoint(a); err != nil {
		c.add(reasonAddress, path(), "%v %v; the endpoint is not used", a, err)
		return a, false
	}
	return a, true
}

func orTrue(b *bool) bool { return b == nil || *b }
