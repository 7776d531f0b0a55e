package status

import (
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Document is the answer to the question how a process is. Its JSON form is what
// `fairlead status -o json` prints; fields are added to it, and not taken away.
type Document struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"`
	Node    string    `json:"node"`
	Source  string    `json:"source"` // where Services come from

	Mode       string            `json:"mode"`
	ModeReason string            `json:"modeReason"`
	Tools      []string          `json:"tools,omitempty"` // of the mode, with their versions
	Families   []string          `json:"families"`
	Unserved   map[string]string `json:"unservedFamilies,omitempty"` // why, by family

	Healthy  bool   `json:"healthy"`      // as /livez says
	Eligible bool   `json:"nodeEligible"` // for new connections of load balancers, as /healthz says
	Revision uint64 `json:"revision"`     // in force in every dataplane; 0 before the first sync
	Counts   Counts `json:"counts"`

	Dataplanes []Dataplane `json:"dataplanes"`
	Objects    []Count     `json:"objects,omitempty"` // in the kernel
	Problems   []string    `json:"problems"`          // of what is in force and of single objects; those of deviations are there
	Notes      []Note      `json:"notes"`             // the last warnings and errors, oldest first
	L7         *L7         `json:"l7,omitempty"`      // nil without a child
}

// Counts say how much is in force.
type Counts struct {
	Services  int            `json:"services"`  // with an address
	Ports     map[string]int `json:"ports"`     // of these, by family
	Addresses int            `json:"addresses"` // with a port, that this node answers; a node port is one
	Endpoints int            `json:"endpoints"` // distinct addresses with a port
}

// A Dataplane is what is known of one dataplane.
type Dataplane struct {
	Name       string      `json:"name"`
	Revision   uint64      `json:"revision"`           // in force; 0 before the first sync
	Attempted  uint64      `json:"attempted"`          // of the last try
	LastSync   *Call       `json:"lastSync,omitempty"` // that succeeded
	LastAudit  *Call       `json:"lastAudit,omitempty"`
	Syncs      uint64      `json:"syncs"` // that succeeded
	Repairs    uint64      `json:"repairs"`
	Failures   uint64      `json:"failures"`
	Failing    *Failure    `json:"failing,omitempty"`   // nil while it works
	LastError  *Failure    `json:"lastError,omitempty"` // also when it works again
	Deviations []Deviation `json:"deviations"`
}

// A Call is a sync or an audit that succeeded.
type Call struct {
	At       time.Time     `json:"at"` // when it ended
	Took     time.Duration `json:"tookNanoseconds"`
	Added    int           `json:"added"`
	Changed  int           `json:"changed"`
	Removed  int           `json:"removed"`
	Resynced bool          `json:"resynced"` // the kernel was read, not remembered
	Repaired bool          `json:"repaired"`
}

// A Failure is one or more tries that failed in a row.
type Failure struct {
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"`
	Times int       `json:"times"`
	What  string    `json:"what"` // "sync" or "audit", of the last
	Error string    `json:"error"`
}

// A Deviation is a service.Deviation as text.
type Deviation struct {
	Port   string `json:"port"`
	Reason string `json:"reason"`
	Here   bool   `json:"thisNodeOnly"`
}

// A Count is how many there are of something.
type Count struct {
	Name   string `json:"name"`
	Number int64  `json:"number"`
}

// A Note is something that was logged as a warning or an error.
type Note struct {
	At    time.Time `json:"at"` // the last time
	Level string    `json:"level"`
	Text  string    `json:"text"`
	Times int       `json:"times"` // in a row
}

// L7 is the child that serves Ingresses.
type L7 struct {
	PID    int       `json:"pid"` // 0 while there is none
	Since  time.Time `json:"since"`
	Starts int       `json:"starts"`
}

// count counts what snap holds.
func count(snap *service.Snapshot) Counts {
	c := Counts{Ports: make(map[string]int)}
	if snap == nil {
		return c
	}
	endpoints := make(map[service.Endpoint]bool)
	var last service.Name
	for p := range snap.Ports.All() {
		if len(p.Frontends) == 0 {
			continue
		}
		if c.Services == 0 || p.ID.Service != last { // ports are sorted by Service
			c.Services++
			last = p.ID.Service
		}
		c.Ports[p.ID.Family.String()]++
		c.Addresses += len(p.Frontends)
		for _, e := range p.Serving {
			endpoints[service.Endpoint{Addr: e.Addr}] = true
		}
	}
	c.Endpoints = len(endpoints)
	return c
}

// Well reports whether everything that is wanted is in force.
func (d *Document) Well() bool {
	for i := range d.Dataplanes {
		if d.Dataplanes[i].Failing != nil {
			return false
		}
	}
	return d.Healthy && d.Revision > 0
}
