package service

import (
	"net/netip"
	"time"
)

// A Policy says whether a caller may be sent to endpoints on other nodes.
type Policy uint8

// The two traffic policies of the Service API.
const (
	Cluster Policy = iota
	Local
)

// A Service is what the Store needs of a Service object: parsed, checked,
// defaulted. Addresses that could not be parsed are not in it. The Store keeps
// the pointer: a caller must not change a Service it has handed over.
type Service struct {
	Name    Name
	UID     string
	Created time.Time // the older of two Services that claim one address keeps it

	ClusterIPs []netip.Addr // at most one per family; none for a headless Service
	Headless   bool         // ports exist for Families, without frontends

	// ExternalName is the DNS name the Service stands for, lower-case and without
	// a final dot; empty for every other Service. One that has it has no Families
	// and nothing that is answered: it becomes an External of the Snapshot.
	ExternalName string

	Families []Family // families the Service has ports in

	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr // status.loadBalancer.ingress with ipMode VIP

	// SourceRanges are the callers allowed at the load-balancer IPs. Restricted
	// says that the object has ranges at all, so that ranges of one family do
	// not leave the other open.
	SourceRanges []netip.Prefix
	Restricted   bool

	Internal Policy // internalTrafficPolicy
	External Policy // externalTrafficPolicy

	// HealthCheckNodePort is zero unless the Service is of type LoadBalancer
	// and External is Local.
	HealthCheckNodePort uint16

	Affinity   time.Duration // ClientIP affinity timeout; zero means no affinity
	Scheduling Scheduling    // from annotations; the zero value asks for nothing
	Ports      []ServicePort
}

// A ServicePort is one entry of spec.ports.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // zero for none

	// AppProtocol is what is spoken at the port, such as kubernetes.io/h2c, as the
	// object spells it; empty if it does not say. It matters only to L7.
	AppProtocol string
}

// A Slice is what the Store needs of an EndpointSlice. The Store keeps the
// pointer: a caller must not change a Slice it has handed over.
type Slice struct {
	Service   Name   // from the label kubernetes.io/service-name
	Name      string // in the namespace of Service
	Family    Family // addressType; FQDN slices never get here
	Ports     []SlicePort
	Endpoints []SliceEndpoint

	// Weight is the weight of each endpoint of the slice, from the annotation
	// fairlead.io/weight; 0 stands for 1, which is never spelled out.
	Weight uint16

	// Triggered is the time of the change that led to this slice, from the
	// annotation endpoints.kubernetes.io/last-change-trigger-time; zero if
	// unknown.
	Triggered time.Time
}

// A SlicePort is one entry of an EndpointSlice's ports. Entries without a name
// field or a number are dropped before they get here.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// A Node is what decides policy on the machine we run on. The zero Node has no
// address, no pod detector, and answers no node ports.
type Node struct {
	Name string // as in nodeName of endpoints
	Zone string // label topology.kubernetes.io/zone

	// Primary is the node's main address in each family, or the zero Addr.
	Primary [NumFamilies]netip.Addr

	// Addrs are all addresses local to the machine, sorted, without loopback.
	Addrs []netip.Addr

	// PortAddrs are the prefixes of local addresses at which node ports answer.
	// A family without prefixes answers nowhere.
	PortAddrs [NumFamilies][]netip.Prefix

	// LocalhostPorts says that node ports also answer at 127.0.0.0/8, as far
	// as PortAddrs holds it. ::1 never answers.
	LocalhostPorts bool

	Pods          Detector
	MasqueradeAll bool // masquerade all traffic to cluster IPs
}

// A Detector tells connections of pods on this node from all others, by source
// address or by the interface they arrive on. The zero Detector detects nobody.
type Detector struct {
	Prefixes  [NumFamilies]netip.Prefix // zero Prefix: no detection in that family
	Interface string                    // interface name; empty for detection by source
	IsPrefix  bool                      // Interface is only the beginning of the name
}

// Detects reports whether d can detect pods in family f at all.
func (d Detector) Detects(f Family) bool {
	return d.Interface != "" || d.Prefixes[f].IsValid()
}

// Match reports whether a packet from src that arrived on interface in comes
// from a pod on this node. Locally generated packets arrive on no interface.
func (d Detector) Match(src netip.Addr, in string) bool {
	switch {
	case d.Interface == "":
		p := d.Prefixes[FamilyOf(src)]
		return p.IsValid() && p.Contains(src)
	case d.IsPrefix:
		return len(in) >= len(d.Interface) && in[:len(d.Interface)] == d.Interface
	default:
		return in == d.Interface
	}
}
