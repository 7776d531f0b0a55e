package ingress

import (
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// Objects is everything that Build goes by. Nothing in it is changed or kept
// after it has been replaced, and it must not change while it is in use.
type Objects struct {
	Ingresses  []*Ingress
	Classes    []*Class
	Secrets    []*Secret
	ConfigMaps []*ConfigMap
}

// An Ingress is a networking.k8s.io/v1 Ingress, as written: nothing in it has been checked.
type Ingress struct {
	service.Name
	UID         string
	Generation  int64
	Created     time.Time // zero, for one from a file, is older than any other
	Annotations map[string]string

	Class   string // spec.ingressClassName; empty if there is none
	Default *Backend
	TLS     []TLS
	Rules   []Rule
}

// A TLS is one element of spec.tls.
type TLS struct {
	Hosts  []string
	Secret string // empty: the default certificate
}

// A Rule is one element of spec.rules.
type Rule struct {
	Host string // empty: all hosts that nobody has named
	// Paths is nil for a rule without http, which names a host and leaves it to the default backend.
	Paths []Path
}

// A Path is one element of spec.rules[].http.paths.
type Path struct {
	Path    string
	Type    PathType
	Backend Backend
}

// A PathType is what the API calls it.
type PathType string

// The path types that there are.
const (
	Exact                  PathType = "Exact"
	Prefix                 PathType = "Prefix"
	ImplementationSpecific PathType = "ImplementationSpecific"
)

// A Backend is where a path leads: a port of a Service in the namespace of the
// Ingress, or some other resource, of which we know none.
type Backend struct {
	Service  string
	Port     Port
	Resource string // "apiGroup/kind/name" for messages; empty if there is none
}

// A Port is a port of a Service by name or by number, one of the two.
type Port struct {
	Name   string
	Number int32
}

// A Class is a networking.k8s.io/v1 IngressClass.
type Class struct {
	Name       string
	UID        string
	Controller string
}

// A Secret is a core/v1 Secret: a certificate, or names and passwords.
type Secret struct {
	service.Name
	UID  string
	Type string // such as kubernetes.io/tls
	Data map[string][]byte
}

// A ConfigMap is a core/v1 ConfigMap that an annotation may point to.
type ConfigMap struct {
	service.Name
	Data map[string]string
}
