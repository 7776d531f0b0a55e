package annotation

import (
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

// The beginnings of the names of annotations. What is written under OwnPrefix wins.
const (
	OwnPrefix   = "fairlead.io/"
	NginxPrefix = "nginx.ingress.kubernetes.io/"
)

// Settings is what the annotations of one Ingress come to. It is shared by the rules of the Ingress and
// must not be changed; Settings.Rule makes what belongs to one rule.
type Settings struct {
	// Policy holds what is the same for all rules. What depends on the rule
	// (Rewrite, Redirect.HTTPS, exemptions) is filled in by Rule.
	Policy policy.Config

	Routing  Routing
	Rewrite  Rewrite
	Balance  balance.Config // Sticky.Path is empty where it is the path of the rule
	HashBy   Template       // what Balance.HashBy says, taken apart
	Upstream Upstream
	Canary   *Canary // nil: the Ingress is no canary

	// SSLRedirect sends plain text to https where there is a certificate for the host;
	// ForceSSLRedirect always.
	SSLRedirect, ForceSSLRedirect bool

	AccessLog bool

	dialect route.Dialect
	exempt  []string // beginnings of the paths of rules that need no authentication
}

// Routing is what decides which requests the rules of an Ingress get.
type Routing struct {
	// UseRegex makes paths patterns: those of type ImplementationSpecific in this Ingress, or in
	// the dialect of nginx all of the host.
	UseRegex       bool
	Aliases        []string // more hosts, in lower case; they lose against real rules
	FromToWWW      bool     // the twin with or without "www." redirects here, unless somebody has it
	DefaultBackend string   // a Service of the namespace, asked on its first port when the rule's has no endpoints, and for error pages
	SSLPassthrough bool     // connections go to the backend undecrypted, by SNI; all the rest has no effect
}

// Rewrite is the annotation rewrite-target before it is put together with the path of a rule.
type Rewrite struct {
	Target string // with $1 or ${1} for captures; empty: none
	Prefix string // X-Forwarded-Prefix
}

// A Protocol is how backends are spoken to.
type Protocol uint8

// The protocols of backends.
const (
	HTTP Protocol = iota
	HTTPS
	GRPC  // h2c
	GRPCS // h2 over TLS
)

// String returns the protocol as it stands in the annotation backend-protocol.
func (p Protocol) String() string { return [...]string{"HTTP", "HTTPS", "GRPC", "GRPCS"}[p] }

// TLS reports whether p is spoken over TLS.
func (p Protocol) TLS() bool { return p == HTTPS || p == GRPCS }

// Upstream is how a backend is asked.
type Upstream struct {
	Protocol       Protocol
	ServiceAddress bool // the cluster IP is asked, not endpoints: no affinity, no next endpoint

	ConnectTimeout time.Duration
	ReadTimeout    time.Duration // between two reads; also how long a websocket may be idle
	SendTimeout    time.Duration // between two writes
	MaxHead        int64         // bytes of the head of an answer

	Retry Retry
	TLS   UpstreamTLS
}

// Retry says after which failures another endpoint is asked, if the request may be repeated at all.
type Retry struct {
	Error         bool  // no connection, or it broke
	Timeouts      bool  // connecting, writing or reading took too long
	InvalidHeader bool  // the answer was none
	Statuses      []int // answers with these statuses, ascending
	NonIdempotent bool  // methods that must not be repeated are repeated all the same

	Tries  int           // in all, the first one counted; 0 means no limit
	Within time.Duration // no further try after this time; 0 means no limit
}

// UpstreamTLS is for the protocols HTTPS and GRPCS.
type UpstreamTLS struct {
	Secret     string // of the namespace: tls.crt and tls.key to show, ca.crt to trust; empty: none
	Verify     bool   // the backend's certificate is checked
	Name       string // for SNI and for checking; empty: the Host that the backend sees
	ServerName bool   // SNI is sent
	MinVersion uint16 // of crypto/tls; 0 is Go's default
	MaxVersion uint16
}

// A Canary says which requests of a rule go to this Ingress instead of the one it is a canary of. Its Total is 100 at least,
// and its Weight not more.
type Canary = balance.Canary
