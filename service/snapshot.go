package service

import (
	"iter"
	"net/netip"
	"time"
)

// A Snapshot is everything this node must make true, with every choice already
// made: which endpoints, for whom, and what to do when there are none. It is
// immutable once returned, and sorted, so equal states compare equal.
type Snapshot struct {
	Rev    uint64 // grows with every Snapshot of a Store
	Node   Node
	Ports  PortList     // by ID; a Port unchanged since the last Snapshot keeps its pointer
	Health []HealthPort // by Service and family

	// External are the Services that stand for a DNS name, by Service, which only
	// L7 uses. One unchanged since the last Snapshot keeps its pointer.
	External []*External

	// Problems are the conflicts found while deciding, in order of Object.
	Problems []Problem

	// Triggered are the trigger times of the slice changes that this Snapshot
	// is the first to hold, for measuring programming latency.
	Triggered []time.Time
}

// A Port is one port of one Service in one family.
type Port struct {
	ID        PortID
	Number    uint16        // of the Service, not of its endpoints
	Index     int           // of this port among those that the Service lists
	Affinity  time.Duration // zero means none
	Frontends []Frontend    // empty for headless Services, which only L7 uses
	Cluster   Pool          // what a client with no locality constraint may reach
	Serving   Pool          // every serving endpoint, whatever the policy, for judging stale UDP flows

	// Departing are the endpoints whose pods are being deleted, whether they
	// still serve or not. When one of them is gone, so is its pod, and nothing
	// will ever answer its connections.
	Departing Pool

	Scheduling Scheduling // what the Service asks for; the zero value leaves it to the dataplane

	// AppProtocol is ServicePort.AppProtocol.
	AppProtocol string

	internal Route
}

// A Kind says where a Frontend's address comes from.
type Kind uint8

// The kinds of Frontend.
const (
	ClusterIP Kind = iota
	ExternalIP
	LoadBalancerIP
	NodePort
)

// String returns the name used in rules, logs and traces.
func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "cluster IP"
	case ExternalIP:
		return "external IP"
	case LoadBalancerIP:
		return "load-balancer IP"
	default:
		return "node port"
	}
}

// A Frontend is an address this node answers for a Port. No two Frontends of a
// Snapshot have the same Addr and protocol.
type Frontend struct {
	Kind    Kind
	Addr    netip.AddrPort    // for NodePort the address is Family.Any(): see Node.PortAddrs
	Sources []netip.Prefix    // allowed callers; nil means all, empty means none
	Routes  [NumOrigins]Route // indexed by Origin
}

// An Origin says who is calling. When more than one applies, the first counts.
type Origin uint8

// The origins. FromPod is a pod on this node as told by Node.Pods, FromHost a
// caller whose source address is local to the node.
const (
	FromPod Origin = iota
	FromHost
	FromOutside
	NumOrigins = 3
)

// String returns "pod", "host" or "outside".
func (o Origin) String() string {
	switch o {
	case FromPod:
		return "pod"
	case FromHost:
		return "host"
	default:
		return "outside"
	}
}

// A Verdict is what happens to a new connection.
type Verdict uint8

// The verdicts. A Route never says Pass: it is the oracle's word for a packet
// that is none of our business.
const (
	Pass    Verdict = iota // untouched
	Forward                // to one endpoint of the Pool
	Drop                   // silently: endpoints exist, but none this caller may use
	Reject                 // with ICMP port unreachable: nothing serves this
)

// String returns the lower-case name.
func (v Verdict) String() string {
	return [...]string{"pass", "forward", "drop", "reject"}[v]
}

// A Route says what happens to a new connection from one Origin.
type Route struct {
	Pool       Pool    // never empty when Verdict is Forward, else nil
	Verdict    Verdict // Forward, Drop (none here), Reject (none anywhere)
	Masquerade bool    // meaningful when Verdict is Forward
}

// An Endpoint is the address and port of a pod, and its share of the
// connections.
type Endpoint struct {
	Addr   netip.AddrPort
	Weight uint16 // relative to the others of the pool; 0 stands for 1, which is never spelled out
}

// Share returns the weight of e as a number from 1 up.
func (e Endpoint) Share() int { return max(1, int(e.Weight)) }

// A Scheduling is the algorithm that a Service asks for. Not every dataplane has
// a choice.
type Scheduling struct {
	Algorithm string // one of Schedulers, or empty for the default
	Flags     string // of SchedulerFlags, sorted, with commas; empty for the algorithm's default
}

// Schedulers returns the algorithms a Service may ask for, which are those of the
// kernel's IPVS by their module names (net/netfilter/ipvs), sorted.
func Schedulers() []string {
	return []string{"dh", "fo", "lblc", "lblcr", "lc", "mh", "nq", "ovf", "rr", "sed", "sh", "twos", "wlc", "wrr"}
}

// SchedulerFlags returns the flags a Service may ask for, by ipvsadm's names,
// sorted.
func SchedulerFlags() []string {
	return []string{"flag-1", "flag-2", "flag-3", "mh-fallback", "mh-port", "sh-fallback", "sh-port"}
}

// A Pool is a list of endpoints, sorted by address and port, without doubles.
// Routes of one Port share the backing array of equal Pools.
type Pool []Endpoint

// An External is a Service that stands for a DNS name outside of the cluster. It
// has no endpoints: whoever uses it asks DNS.
type External struct {
	Service Name
	Host    string         // lower-case, without a final dot
	Ports   []ExternalPort // as the Service lists them; often none, and then any number will do
}

// An ExternalPort is one port of an External.
type ExternalPort struct {
	Name        string
	Protocol    Protocol
	Number      uint16
	AppProtocol string // ServicePort.AppProtocol
}

// A HealthPort is what the health-check node port of one Service answers in one
// family.
type HealthPort struct {
	Service Name
	Family  Family
	Port    uint16
	Local   int // distinct addresses of ready endpoints on this node
}

// Internal returns the Route a client on this node gets for the cluster IP, or
// would get if a headless Service had one. L7 picks upstreams with it.
func (p *Port) Internal() Route { return p.internal }

// Urgent reports whether much else waits for p: it is the API server's, or a DNS
// server's of the cluster. A dataplane that needs several steps for a whole Snapshot
// puts such ports in force with the first.
func (p *Port) Urgent() bool {
	if p.ID.Service == (Name{"default", "kubernetes"}) {
		return true
	}
	return p.ID.Service.Namespace == "kube-system" && p.Number == 53
}

// Changed yields the ports that differ between prev and s, as (old, new) pairs;
// old or new is nil for an addition or removal. A nil prev is empty. It compares
// pointers only, allocates nothing, and costs next to nothing where a Store has made
// both and little has changed.
func (s *Snapshot) Changed(prev *Snapshot) iter.Seq2[*Port, *Port] {
	var olds PortList
	if prev != nil {
		olds = prev.Ports
	}
	return s.Ports.changed(olds)
}
