package ingress

import (
	"fmt"
	"regexp"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// A Model is what is to be served. It is a snapshot: neither it nor anything in it changes.
type Model struct {
	// Hosts has the keys of route.Table: a name, "*." and a name, or "" for all hosts that nobody has named.
	Hosts map[string]*HostModel
	// Backends has everything that routes lead to.
	Backends map[BackendKey]*BackendModel
	// Certs names the Secrets with certificates for a host, each of them good and valid for it. Hosts that
	// have none, or only bad ones, get the default certificate.
	Certs map[string][]service.Name
	// Passthrough has the hosts whose TLS connections go to a backend as they are.
	Passthrough map[string]BackendKey

	Problems []service.Problem // by object
	Served   []service.Name    // the Ingresses whose status is ours to write, by name
}

// A HostModel is the rules of one host. It is immutable.
type HostModel struct {
	Name     string
	Dialect  route.Dialect // of the oldest Ingress that names the host
	Routes   []*Route      // the oldest first
	Fallback *Route        // what unmatched paths get; nil: the controller's default
	// TLS says that there is a certificate for the host, be it the default one because of an Ingress's tls:
	// then clients in plain text are redirected.
	TLS     bool
	AliasOf string // the host whose alias this is, or empty
}

// A Route is one path of one host, or its fallback. It is immutable.
type Route struct {
	Ingress service.Name
	UID     string // of the Ingress
	Host    string // the key of the HostModel
	Path    string // as written; empty for a fallback
	Type    PathType

	Kind   route.Kind
	Match  string         // the path to match: canonical, or a pattern
	Regexp *regexp.Regexp // for route.Regex; else nil

	Backend BackendKey
	// Refused says why there can be no backend; then every request gets 503. Policy has a Refused of its own.
	Refused string
	// Default is the Service that the annotation default-backend names, or nil.
	Default *BackendKey
	// External says that the backend may be a Service of type ExternalName.
	External bool
	// WWW is the host to redirect to: the Route does nothing else. Its Backend is empty.
	WWW string

	Dialect  route.Dialect        // of the class of the Ingress
	Class    string               // its name, or the value of the annotation; empty: the Ingress names none
	Settings *annotation.Settings // of the Ingress, shared
	Policy   *policy.Config       // what Settings come to for this Route; shared by Routes for which it is the same
	Canary   *CanaryRoute         // nil: there is none
}

// A CanaryRoute is where some requests of a Route go instead. Everything but Canary and Balance
// is as the Route's Settings have it.
type CanaryRoute struct {
	Ingress  service.Name
	UID      string
	Backend  BackendKey
	Refused  string // as in Route
	Settings *annotation.Settings
}

// A BackendKey is a port of a Service. The zero Port is the first.
type BackendKey struct {
	Service service.Name
	Port    Port
	Address bool // the Service's own address is asked, not its endpoints
}

// String returns "namespace/name:port".
func (k BackendKey) String() string {
	s := k.Service.String() + ":" + k.Port.String()
	if k.Address {
		s += " (address)"
	}
	return s
}

// String returns the name, or the number, or nothing for the zero Port.
func (p Port) String() string {
	switch {
	case p.Name != "":
		return p.Name
	case p.Number != 0:
		return fmt.Sprint(p.Number)
	}
	return ""
}

// A BackendModel is what is the same for all Routes to one backend: how endpoints are told good or bad. Where they
// differ, the oldest Ingress that says something about it counts. It is immutable.
type BackendModel struct {
	Key      BackendKey
	Health   balance.Health
	Protocol annotation.Protocol // that active checks speak
}

// A ServicePort is one port of a Service, as ChoosePort needs it.
type ServicePort struct {
	Name     string
	Number   uint16
	Protocol service.Protocol
}

// ChoosePort returns the index of the port that want means, or an error for the owner of the Ingress: there is no such port, or it
// is not TCP. The zero Port means the first.
func ChoosePort(want Port, ports []ServicePort) (int, error) {
	udp := false
	for i, p := range ports {
		switch {
		case want.Name != "" && p.Name != want.Name, want.Name == "" && want.Number != 0 && int32(p.Number) != want.Number:
		case p.Protocol != service.TCP:
			udp = true
		default:
			return i, nil
		}
	}
	switch {
	case udp:
		return -1, fmt.Errorf("port %s is not TCP", want)
	case want == Port{}:
		return -1, fmt.Errorf("the Service has no ports")
	}
	return -1, fmt.Errorf("the Service has no port %s", want)
}

// Compile makes the table entry of h, with what value makes of each of its Routes.
func Compile[T any](h *HostModel, value func(*Route) T) *route.Host[T] {
	paths := make([]route.Path[T], 0, len(h.Routes))
	for _, r := range h.Routes {
		paths = append(paths, route.Path[T]{Kind: r.Kind, Path: r.Match, Regexp: r.Regexp, Value: value(r)})
	}
	var fallback *T
	if h.Fallback != nil {
		v := value(h.Fallback)
		fallback = &v
	}
	return route.NewHost(h.Dialect, paths, fallback)
}

// Problem returns a Problem about the Ingress of r, for what only shows when requests are
// to be served, such as a backend that does not exist.
func (r *Route) Problem(reason, format string, args ...any) service.Problem {
	return service.Problem{
		Object:  service.Object{Kind: "Ingress", Name: r.Ingress, UID: r.UID},
		Reason:  reason,
		Message: fmt.Sprintf(format, args...),
	}
}
