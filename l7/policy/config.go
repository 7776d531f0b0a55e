package policy

import (
	"net/netip"
	"regexp"
	"time"
)

// A Config is every policy of one rule, already parsed and checked: annotations
// become these values and nothing else, so nothing that a user writes is ever pasted into
// anything. A nil pointer or a zero value means that the policy is not there, and then it
// costs nothing.
type Config struct {
	Redirect  Redirect
	Rewrite   *Rewrite
	Access    *Access
	CORS      *CORS
	Limits    []Limit // in the order in which they are asked
	Limiting  Limiting
	BasicAuth *BasicAuth
	ExtAuth   *ExtAuth
	Headers   Headers
	Compress  *Compress
	Errors    *Errors
	HSTS      *HSTS
	Body      Body

	// Refused closes the rule: a policy that protects it could not be understood, so
	// every request gets 503 until the Ingress is mended. The text is for logs.
	Refused string

	// NginxOrder asks rate limits before source ranges and authentication, as nginx does;
	// the other order is cheaper under attack.
	NginxOrder bool
}

// Redirect sends clients elsewhere. Of several that apply, the first counts, in the order of the fields.
type Redirect struct {
	HTTPS         bool     // plain text goes to https; whether there is a certificate has been looked at already
	HTTPSCode     int      // 308 unless the operator has said otherwise
	HTTPSPort     int      // the port clients are sent to; 0 or 443 is left out
	KeepSlash     bool     // nginx drops a single slash at the end of such a redirect unless this is set
	ExemptPrefix  []string // paths that stay in plain text, such as /.well-known/acme-challenge/
	Temporal      string   // where to, an URL or a path, with variables such as $host and $request_uri; wins over Permanent
	TemporalCode  int
	Permanent     string
	PermanentCode int
	WWW           string // the host to go to instead, when this rule is the twin that only redirects
	AppRoot       string // "/" goes here
	Slash         bool   // nginx sends "/foo" to "/foo/" where only the latter is a rule: this rule is the former
}

// Rewrite replaces the path that the backend sees.
type Rewrite struct {
	Pattern *regexp.Regexp // matched against the canonical path; nil: the whole path is replaced
	Target  string         // with $1 or ${1} for captures; may have a query, which goes in front of the client's
	Prefix  string         // X-Forwarded-Prefix for the backend, or empty
}

// Access lets source addresses in or keeps them out. A client that is denied is refused even if it is allowed
// too. Refused clients get 403.
type Access struct {
	Allow  []netip.Prefix // nil means all
	Deny   []netip.Prefix
	Except bool // satisfy: any; an address in Allow needs no authentication, and one that authenticates needs no allowed address
}

// CORS answers preflights with 204 and marks answers, after the Fetch standard.
type CORS struct {
	Origins     []Origin // nil means any
	Methods     string   // header values, checked
	Headers     string
	Expose      string
	Credentials bool
	MaxAge      time.Duration
}

// An Origin is an allowed origin: exact, or with one label left open ("https://*.example.com").
type Origin struct {
	Scheme, Host, Port string // Host may begin with "*."
}

// A Limit bounds what one client, an IPv4 address or an IPv6 /64, may ask of one rule on this node. A rule has at most four with
// Requests; a request that one of them refuses counts for none.
type Limit struct {
	Connections int           // requests at the same time; or else
	Requests    int           // this many
	Per         time.Duration // in this time,
	Burst       int           // and this many more at once
}

// Limiting is what is common to the limits of a rule.
type Limiting struct {
	Exempt []netip.Prefix
	Status int // 429, or 503 as nginx has it
}

// BasicAuth asks for a name and a password (RFC 7617).
type BasicAuth struct {
	Realm string
	Users Htpasswd // nil: the Secret is missing or bad, and nobody is let in: 503
}

// Htpasswd checks passwords. It is safe for concurrent use. The pipeline remembers what it says and bounds how many checks
// run. ParseHtpasswd and ParseHtpasswdMap make one.
type Htpasswd interface {
	Check(user, password string) bool
}

// ExtAuth asks another server whether a request may pass: 2xx lets it, 401 and 403 are returned, anything else is 500.
type ExtAuth struct {
	URL             string // with variables such as $request_uri; in front of the path, with $scheme and $host alone
	Method          string // GET if empty
	SignIn          string // 401 becomes a redirect there, with RedirectParam added
	RedirectParam   string // "rd" if empty
	ResponseHeaders []string
	Request         []Field // added to the question
	AlwaysSetCookie bool
	CacheKey        string // empty means no cache
	CacheFor        []CacheTime
	Timeout         time.Duration
	Local           bool // link-local addresses and this machine may be asked
}

// A CacheTime says how long a verdict with that status is remembered. Status 0 means any.
type CacheTime struct {
	Status int
	For    time.Duration
}

// A Field is a header field that an operator or a user has set; name and value are checked by Compile too. An empty Value
// removes it.
type Field struct {
	Name, Value string
}

// Headers is what happens to header fields besides the forwarding ones.
type Headers struct {
	Request  []Field // to the backend
	Response []Field // to the client
	Hide     []string
	Upstream string // Host that the backend sees, instead of the client's
	Server   bool   // the backend's Server field is passed on; see Pipeline.Server
	Nginx    bool   // the set of X-… fields that ingress-nginx sends; else the shorter one; see Forwarder.Forward
}

// Compress is how answers are made smaller for clients that take it.
type Compress struct {
	Gzip, Brotli int // levels; 0 switches one off
	MinLength    int // bytes
	Types        []string
}

// Errors replaces answers with these statuses by what another Service says to them. The status stays.
type Errors struct {
	Statuses []int
}

// HSTS is Strict-Transport-Security (RFC 6797) on answers over TLS.
type HSTS struct {
	MaxAge            time.Duration
	IncludeSubDomains bool
	Preload           bool
}

// Body bounds what clients send.
type Body struct {
	Max    int64 // bytes; 0 means no limit
	Buffer int   // bodies known to have no more bytes are read before a backend is asked, so that it may be asked again
}
