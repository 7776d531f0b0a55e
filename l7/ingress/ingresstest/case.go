package ingresstest

import (
	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// A Case is one file of the corpus.
type Case struct {
	Name    string // file name without .txtar
	Doc     string // the leading comment, without marks
	Covers  []string
	Config  Config
	Globals map[string]string // of the ConfigMap
	Steps   []*Step           // at least one
}

// Config is the config directive: the options of the process. Each stands there under
// its flag.
type Config struct {
	Nginx          bool         // nginx: the class of ingress-nginx is served, too
	WithoutClass   bool         // without-class
	NoCatchAll     bool         // no-catch-all
	OwnedHosts     bool         // owned-hosts
	ExternalNames  bool         // external-names
	Passthrough    bool         // passthrough: of TLS, where an annotation wants it
	ClassByName    string       // class-by-name=NAME, for our own controller; the value of the annotation, too
	DefaultBackend service.Name // default-backend=NAMESPACE/NAME
}

// Build returns c, with globals, as package ingress takes it.
func (c Config) Build(globals map[string]string) ingress.Config {
	g, _ := annotation.ParseGlobals(globals)
	g.SSLPassthrough = c.Passthrough
	classes := ingress.DefaultClasses(c.Nginx)
	if c.ClassByName != "" {
		classes[0].ByName, classes[0].Annotation = c.ClassByName, c.ClassByName
	}
	return ingress.Config{
		Classes: classes, WithoutClass: c.WithoutClass, NoCatchAll: c.NoCatchAll,
		OwnedHosts: c.OwnedHosts, ExternalNames: c.ExternalNames, Globals: &g,
	}
}

// A Step is one moment of a Case: all objects in force then, and what must hold.
type Step struct {
	Name     string // empty for the first
	Line     int
	Objects  ingress.Objects
	YAML     []string // of Objects, one document each; Secrets of the secret directive are among them
	Services []Service

	Requests    []Request
	Certs       []CertExpect
	Passthrough []PassthroughExpect
	Problems    []ProblemExpect
	Asked       []ProblemExpect
	Served      []service.Name // nil: not said
}

// A Service is one service directive.
type Service struct {
	service.Name
	Ports    []ingress.ServicePort
	External string // the name that an ExternalName Service stands for; empty for others
	Headless bool
	Empty    bool // it has no endpoints
}

// A Request is one request directive: what is asked and what the answer must be.
type Request struct {
	Line   int
	Text   string // as written
	Method string
	Secure bool   // over TLS, with the host as the server name
	Host   string // for the Host field, with the port if there is one; empty: none
	Target string // path and query, as they are sent
	Fields []Field
	Want   Answer
}

// A Field is a header field of a Request.
type Field struct{ Name, Value string }

// An Answer is what a client gets and who has given it.
type Answer struct {
	Status   int
	Backend  service.Name // the zero Name if it was the proxy itself
	Port     uint16       // of Backend
	Path     string       // that Backend has seen, without query
	Location string       // of a redirect
}

// A CertExpect is one cert directive.
type CertExpect struct {
	Line    int
	Host    string
	Secrets []service.Name // empty: the default certificate
}

// A PassthroughExpect is one passthrough directive.
type PassthroughExpect struct {
	Line    int
	Host    string
	Service service.Name
	Port    string
}

// A ProblemExpect is one problem directive.
type ProblemExpect struct {
	Line   int
	Kind   string
	Object service.Name
	Reason string
}
