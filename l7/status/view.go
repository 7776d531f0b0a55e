package status

import (
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/service"
)

// A View is what there is to show, at one moment. The Handler does not change it; the order in it does not matter.
type View struct {
	Version    string
	Started    time.Time
	Now        time.Time // zero: when it is shown
	Generation uint64    // of the configuration in force
	Applied    time.Time // when it was put in force
	Serving    bool      // what /readyz says
	Why        string    // if not Serving, why not

	Classes      []Class
	Ingresses    []service.Name // that are served: those that get a status in a cluster
	Listeners    []Listener
	Hosts        []Host
	Backends     []Backend
	Certificates []certs.HostStatus
	Problems     []service.Problem
	Counters     []Counter
}

// A Class is an IngressClass that is served.
type Class struct {
	Name, Controller, Dialect string
	Ingresses                 int
}

// A Listener is a port that clients connect to.
type Listener struct {
	Name     string // such as "https"
	Address  string // such as "[::]:443"
	Protocol string // such as "HTTP/1.1, HTTP/2 over TLS"
	Open     int64  // connections
	Accepted uint64
	Problem  string // why it is not open
}

// A Host is a name with routes. The empty name stands for all that have none.
type Host struct {
	Name        string
	Dialect     string
	TLS         bool   // there is a certificate for it
	AliasOf     string // the host whose paths these are
	Passthrough string // the backend to which TLS goes undecrypted
	Paths       []Path
}

// A Path is one rule.
type Path struct {
	Path     string // empty for what unmatched paths get
	Kind     string // such as "Prefix"
	Ingress  string // namespace/name
	Backend  string // the Name of a Backend
	Policies []string
	Canary   string // where some requests go instead, and which
	Refused  string // why there is no answer but 503
}

// A Backend is a port of a Service.
type Backend struct {
	Name      string // namespace/name:port
	Problem   string // why it has no endpoints, if that is known
	Endpoints []balance.EndpointStatus
}

// A Counter is a number worth seeing at a glance.
type Counter struct {
	Name  string
	Value uint64
}
