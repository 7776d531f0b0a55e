package service

import (
	"cmp"
	"net/netip"
	"strings"
)

// A Family is an IP address family.
type Family uint8

// The address families, usable as array indices.
const (
	IPv4 Family = iota
	IPv6
	NumFamilies = 2
)

// FamilyOf returns the family of a. An IPv4-mapped IPv6 address counts as IPv6;
// callers unmap first.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6", the spelling of kube-proxy's metric labels.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Bits returns the length of an address of f in bits.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// Any returns the unspecified address of f, which stands for "any address of
// this node" in the Addr of a NodePort Frontend.
func (f Family) Any() netip.Addr {
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// A Protocol is a transport protocol.
type Protocol uint8

// The protocols a Service can name. ICMP occurs only in a Flow: a ping.
const (
	TCP Protocol = iota
	UDP
	SCTP
	ICMP
)

// String returns the lower-case name, as iptables spells it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	default:
		return "icmp"
	}
}

// A Name identifies a namespaced object of a kind known from the context.
type Name struct {
	Namespace, Name string
}

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n Name) Compare(o Name) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// A PortID identifies a Port: one port of one Service in one address family.
type PortID struct {
	Service  Name
	Port     string // the port's name, empty for the single unnamed port
	Protocol Protocol
	Family   Family
}

// String returns "namespace/name:port/tcp/IPv4", without ":port" for an unnamed
// port.
func (id PortID) String() string {
	s := id.Service.String()
	if id.Port != "" {
		s += ":" + id.Port
	}
	return s + "/" + id.Protocol.String() + "/" + id.Family.String()
}

// Compare orders IDs by Service, port name, protocol and family.
func (id PortID) Compare(o PortID) int {
	return cmp.Or(
		id.Service.Compare(o.Service),
		strings.Compare(id.Port, o.Port),
		cmp.Compare(id.Protocol, o.Protocol),
		cmp.Compare(id.Family, o.Family),
	)
}

// An Object names an API object well enough to attach an Event to it.
type Object struct {
	Kind string // "Service", "EndpointSlice", "Node"
	Name
	UID string // empty when not known
}

// A Problem is something an operator should hear about one object. What can
// still be served is served all the same.
type Problem struct {
	Object  Object
	Reason  string // CamelCase, as in a Kubernetes Event
	Field   string // path of the offending field, such as spec.externalIPs[0]; may be empty
	Message string
}

// String returns one line that names the object, the field and the trouble.
func (p Problem) String() string {
	s := p.Object.Kind + " " + p.Object.String() + ": "
	if p.Field != "" {
		s += p.Field + ": "
	}
	return s + p.Message
}
