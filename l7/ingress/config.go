package ingress

import (
	"fmt"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/route"
)

// The controllers whose classes can be served.
const (
	Controller      = "fairlead.io/ingress"
	NginxController = "k8s.io/ingress-nginx"
)

// A Config is what the operator has chosen. The zero value serves nothing; Classes is required.
type Config struct {
	// Classes says which Ingresses are ours.
	Classes []ClassConfig
	// WithoutClass also serves Ingresses that name no class, in the dialect of the first of Classes.
	WithoutClass bool

	// NoCatchAll refuses rules without a host and default backends without rules, which would get the
	// requests for everybody's unknown hosts.
	NoCatchAll bool
	// OwnedHosts gives each host to the namespace of the oldest Ingress that names it. Otherwise all
	// namespaces may add paths to it.
	OwnedHosts bool
	// ExternalNames lets Services of type ExternalName be backends in the strict dialect, too.
	ExternalNames bool

	// Globals are the defaults of annotations; nil means annotation.DefaultGlobals.
	Globals *annotation.Globals
	// Certificate parses a Secret; nil means ParseCertificate. It is asked once for each version of a
	// Secret that some tls names.
	Certificate func(*Secret) (Certificate, error)
}

// A ClassConfig is one controller and how Ingresses say that they want it.
type ClassConfig struct {
	Controller string // of IngressClasses
	Dialect    route.Dialect
	Annotation string // value of kubernetes.io/ingress.class; empty: there is none
	ByName     string // an IngressClass of this name is ours whoever its controller is; empty: none
}

// DefaultClasses returns our own class, and with nginx the one adopted from ingress-nginx.
func DefaultClasses(nginx bool) []ClassConfig {
	list := []ClassConfig{{Controller: Controller, Dialect: route.Strict, Annotation: "fairlead"}}
	if nginx {
		list = append(list, ClassConfig{Controller: NginxController, Dialect: route.Nginx, Annotation: "nginx"})
	}
	return list
}

// A Certificate is what has to be known of a certificate to choose it. A certs.Pair is one.
type Certificate interface {
	// ValidFor reports whether clients accept it for host. If that is "*." and a name, the certificate has to hold
	// that very wildcard.
	ValidFor(host string) bool
}

// ParseCertificate takes a Secret of type kubernetes.io/tls, or another with the same keys, and
// returns its certs.Pair.
func ParseCertificate(s *Secret) (Certificate, error) {
	pair, err := certs.Parse(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		return nil, fmt.Errorf("Secret %s: %w", s.Name, err)
	}
	return pair, nil
}
