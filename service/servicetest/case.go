package servicetest

import (
	"iter"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/service"
)

// A Case is one file of the corpus.
type Case struct {
	Name   string // file name without .txtar
	Doc    string // the leading comment, without marks
	Covers []string
	Config Config       // as written, for a runner that starts a real process
	Node   service.Node // what Config means
	Steps  []Step       // at least one

	// ManifestOnly says that an API server would refuse some object, so that
	// only manifests can bring it here.
	ManifestOnly bool

	// Skip holds reasons by the name of the tier or dataplane that cannot play
	// this case.
	Skip map[string]string
}

// A Config is the node directive as written. Empty strings mean the default.
type Config struct {
	Zone           string
	Addrs          string // additional local addresses, comma separated
	NodePorts      string // CIDRs, "primary" or "none"
	Detector       string // "cidr", "cidr:…", "none", "bridge:…", "prefix:…", "node:…"
	LocalhostPorts bool
	MasqueradeAll  bool
}

// A Step is one moment of a Case: all objects in force then, and what must hold.
type Step struct {
	Name     string // empty for the first
	Line     int
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice

	Flows      []FlowExpect
	Problems   []ProblemExpect
	Health     []HealthExpect
	Affinity   []AffinityExpect
	Scheduling []SchedulingExpect
	Pools      []PoolExpect
	Internal   []RouteExpect
}

// A FlowExpect is one flow directive.
type FlowExpect struct {
	Line int
	Text string         // as written
	From service.Origin // where the caller is, whatever a detector thinks of it
	Flow service.Flow
	Want service.Outcome
}

// A ProblemExpect is one problem directive.
type ProblemExpect struct {
	Line   int
	Kind   string
	Object service.Name
	Reason string
}

// A HealthExpect is one health directive.
type HealthExpect struct {
	Line int
	Want service.HealthPort
}

// An AffinityExpect is one affinity directive; it speaks of every Port with
// this name, whatever its protocol and family.
type AffinityExpect struct {
	Line    int
	Service service.Name
	Port    string
	Want    time.Duration
}

// A SchedulingExpect is one scheduling directive; it speaks of every Port of the
// Service.
type SchedulingExpect struct {
	Line    int
	Service service.Name
	Want    service.Scheduling
}

// A PoolExpect is one cluster, serving or departing directive.
type PoolExpect struct {
	Line  int
	Which string // "cluster", "serving" or "departing"
	Port  service.PortID
	Want  service.Pool // with weights
}

// A RouteExpect is one internal directive. Whether hops are masqueraded is not
// compared: L7 dials with its own address.
type RouteExpect struct {
	Line int
	Port service.PortID
	Want service.Outcome
}

// Corpus yields every case in order of name. It panics when the corpus, which
// is part of the program, is malformed; Load returns that error instead.
func Corpus() iter.Seq[*Case] {
	cases, err := Load()
	if err != nil {
		panic(err)
	}
	return func(yield func(*Case) bool) {
		for _, c := range cases {
			if !yield(c) {
				return
			}
		}
	}
}
