package annotation

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// Globals is what the ConfigMap of the process says: the defaults of annotations, and the settings of the process itself.
// DefaultGlobals and ParseGlobals make it. It is shared by all Ingresses, so it is not changed
// once it is in use.
type Globals struct {
	SSLPassthrough bool // the process lets connections through undecrypted; by flag, not by ConfigMap

	// RequestHeaders and ResponseHeaders are for every rule; WithHeaders reads them from the
	// ConfigMaps that ProxySetHeaders and AddHeaders name. A zero name means none; without a
	// namespace it is the one of the ConfigMap of globals.
	RequestHeaders, ResponseHeaders []policy.Field
	ProxySetHeaders, AddHeaders     service.Name

	Clients   Clients
	Listeners Listeners
	Keepalive Keepalive
	TLS       TLS
	Log       Log

	strictPaths [2]bool // by dialect
	values      map[dialectKey]string
}

// A dialectKey is a key of the ConfigMap as it counts in one dialect: what is bad in one may be good in the other.
type dialectKey struct {
	dialect route.Dialect
	key     string
}

// Clients is who clients are, and who of them is not served.
type Clients struct {
	UseForwardedHeaders bool
	Trusted             []netip.Prefix // whose forwarding fields and PROXY protocol are believed
	ForwardedForHeader  string
	FullForwardedFor    bool // the peer is appended to X-Forwarded-For
	Forwarded           bool // RFC 7239 for backends, too
	GenerateRequestID   bool
	OriginalURI         bool // X-Original-URI for backends
	Underscores         bool // field names with "_" are passed on

	ProxyProtocol        bool
	ProxyProtocolTimeout time.Duration

	BlockRanges   []netip.Prefix
	BlockAgents   []Matcher
	BlockReferers []Matcher
}

// Listeners is how clients' connections are treated.
type Listeners struct {
	Idle          time.Duration // 0: no connection is kept
	Requests      int           // in one connection
	HeadTimeout   time.Duration
	BodyTimeout   time.Duration // between two reads
	MaxLine       int64         // bytes of one line of a head
	MaxHead       int64         // bytes of all of it
	HTTP2         bool
	MaxConcurrent int // requests in one HTTP/2 connection
	Drain         time.Duration
}

// Keepalive is how connections to backends are kept.
type Keepalive struct {
	Connections int // idle ones to one endpoint
	Timeout     time.Duration
	Requests    int
	Age         time.Duration
}

// TLS is how clients speak TLS.
type TLS struct {
	MinVersion, MaxVersion uint16   // of crypto/tls
	Ciphers                []uint16 // of TLS 1.2; nil: Go's choice
	Tickets                bool
	RejectHandshake        bool // for hosts without a certificate
}

// Log is what the access log says.
type Log struct {
	Off        bool
	Skip       []string // beginnings of paths
	Format     string   // a template of nginx, or empty for JSON
	EscapeJSON bool
}

// A Matcher is a text to be found as it is, or a pattern.
type Matcher struct {
	Text    string
	Pattern *regexp.Regexp // wins over Text
}

// Match reports whether s is what m is about: equal to its text, or with its pattern somewhere in it.
func (m Matcher) Match(s string) bool {
	if m.Pattern != nil {
		return m.Pattern.MatchString(s)
	}
	return s == m.Text
}

// StrictPaths reports whether paths of type Exact and Prefix may hold letters, digits and ". _ - /" only.
func (g *Globals) StrictPaths(d route.Dialect) bool { return g.strictPaths[d] }

// DefaultGlobals is the Globals without a ConfigMap.
func DefaultGlobals() Globals {
	g, _ := ParseGlobals(nil)
	return g
}

// ParseGlobals reads the data of a ConfigMap. Keys are those of ingress-nginx as far as
// the catalogue has them. What is bad is left out, and said in the findings; but what
// protects something and is bad closes every rule that goes by it. Whoever has good Globals at
// hand had better keep them when a finding is Refused.
func ParseGlobals(data map[string]string) (Globals, []Finding) {
	g := Globals{values: map[dialectKey]string{}}
	var findings []Finding
	ix := indexed()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		value := trim(data[key])
		f := Finding{Key: key}
		switch a := ix.keys[key]; {
		case a == nil:
			f.Severity, f.Message = Ignored, "there is no such key, or it has no meaning here"
		case clean(value, a.lines) != nil:
			f.Severity, f.Message = Invalid, clean(value, a.lines).Error()
		case value == "":
			continue
		case a.Support != Served:
			if slices.ContainsFunc(a.harmless, func(h string) bool { return strings.EqualFold(h, value) }) {
				continue
			}
			f.Severity, f.Message = Ignored, a.Text
		default:
			g.values[dialectKey{route.Strict, key}] = value
			g.values[dialectKey{route.Nginx, key}] = value
			continue
		}
		findings = append(findings, f)
	}
	findings = append(findings, g.try()...)
	return g, sortFindings(findings)
}

// try reads everything in both dialects, drops what is bad and harmless, and returns what was said about it.
func (g *Globals) try() []Finding {
	var out []Finding
	for _, d := range []route.Dialect{route.Strict, route.Nginx} {
		in := Input{Dialect: d, Globals: g}
		r := &reader{in: &in, globals: g.values, index: indexed(), found: map[string][]source{}}
		var s Settings
		s.parse(r, g)
		g.process(r)
		for _, f := range r.findings {
			if f.Severity == Invalid {
				delete(g.values, dialectKey{d, f.Key})
			}
		}
		out = append(out, r.findings...)
	}
	return out
}

// process reads the settings of the process. It is called for both dialects, whose defaults are the same here.
func (g *Globals) process(r *reader) {
	g.strictPaths[r.in.Dialect] = get(r, "strict-validate-path-type", parseBool)
	get(r, "refused-annotations", oneOf("close", "ignore"))
	get(r, "ignore-invalid-headers", func(s string) (bool, error) {
		ignore, err := parseBool(s)
		if err == nil && !ignore {
			err = errors.New("requests with malformed names are always refused")
		}
		return ignore, err
	})
	g.ProxySetHeaders = get(r, "proxy-set-headers", parseConfigMap)
	g.AddHeaders = get(r, "add-headers", parseConfigMap)
	g.Clients = clients(r)
	g.Listeners = listeners(r)
	g.Keepalive = Keepalive{
		Connections: get(r, "upstream-keepalive-connections", intIn(0, 100_000)),
		Timeout:     get(r, "upstream-keepalive-timeout", timeIn(0, day)),
		Requests:    get(r, "upstream-keepalive-requests", intIn(1, 1_000_000_000)),
		Age:         get(r, "upstream-keepalive-time", timeIn(time.Second, 30*day)),
	}
	versions := get(r, "ssl-protocols", parseVersions)
	g.TLS = TLS{
		MinVersion: versions[0], MaxVersion: versions[1],
		Tickets:         get(r, "ssl-session-tickets", parseBool),
		RejectHandshake: get(r, "ssl-reject-handshake", parseBool),
	}
	g.TLS.Ciphers = get(r, "ssl-ciphers", r.ciphers)
	g.Log = Log{
		Off:        get(r, "disable-access-log", parseBool),
		Skip:       get(r, "skip-access-log-urls", listOf(parsePath)),
		Format:     r.text("log-format-upstream"),
		EscapeJSON: get(r, "log-format-escape-json", parseBool),
	}
}

func clients(r *reader) Clients {
	return Clients{
		UseForwardedHeaders:  get(r, "use-forwarded-headers", parseBool),
		Trusted:              get(r, "proxy-real-ip-cidr", listOf(parseRange)),
		ForwardedForHeader:   get(r, "forwarded-for-header", parseFieldName),
		FullForwardedFor:     get(r, "compute-full-forwarded-for", parseBool),
		Forwarded:            get(r, "enable-forwarded-rfc7239", parseBool),
		GenerateRequestID:    get(r, "generate-request-id", parseBool),
		OriginalURI:          get(r, "proxy-add-original-uri-header", parseBool),
		Underscores:          get(r, "enable-underscores-in-headers", parseBool),
		ProxyProtocol:        get(r, "use-proxy-protocol", parseBool),
		ProxyProtocolTimeout: get(r, "proxy-protocol-header-timeout", timeIn(100*time.Millisecond, time.Minute)),
		BlockRanges:          get(r, "block-cidrs", listOf(parseRange)),
		BlockAgents:          get(r, "block-user-agents", parseMatchers),
		BlockReferers:        get(r, "block-referers", parseMatchers),
	}
}

func listeners(r *reader) Listeners {
	out := Listeners{
		Idle:          get(r, "keep-alive", timeIn(0, day)),
		Requests:      get(r, "keep-alive-requests", intIn(1, 1_000_000_000)),
		HeadTimeout:   get(r, "client-header-timeout", timeIn(time.Second, time.Hour)),
		BodyTimeout:   get(r, "client-body-timeout", timeIn(time.Second, time.Hour)),
		HTTP2:         get(r, "use-http2", parseBool),
		MaxConcurrent: get(r, "http2-max-concurrent-streams", intIn(1, 10_000)),
		Drain:         get(r, "worker-shutdown-timeout", timeIn(0, day)),
	}
	buffers := get(r, "large-client-header-buffers", parseBuffers)
	out.MaxLine, out.MaxHead = buffers[0], buffers[1]
	return out
}

// parseBuffers takes "4 8k" and returns the size of one and of all.
func parseBuffers(s string) (out [2]int64, err error) {
	words := strings.Fields(s)
	if len(words) != 2 {
		return out, fmt.Errorf("%q is not a number and a size", s)
	}
	n, err := intIn(1, 64)(words[0])
	if err != nil {
		return out, err
	}
	size, err := sizeTo(1 << 20)(words[1])
	if err != nil || size < 1<<10 {
		return out, fmt.Errorf("%q is not a size from 1k to 1m", words[1])
	}
	return [2]int64{size, size * int64(n)}, nil
}

// parseMatchers takes texts, and patterns that begin with ~ or ~*.
func parseMatchers(s string) ([]Matcher, error) {
	var out []Matcher
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		expr, isPattern := strings.CutPrefix(word, "~")
		switch {
		case word == "":
			return nil, errEmpty
		case !isPattern:
			out = append(out, Matcher{Text: word})
			continue
		}
		if rest, fold := strings.CutPrefix(expr, "*"); fold {
			expr = "(?i)" + rest
		}
		re, err := CompilePattern(expr)
		if err != nil {
			return nil, err
		}
		out = append(out, Matcher{Pattern: re})
	}
	return out, nil
}

// parseConfigMap takes name or namespace/name.
func parseConfigMap(s string) (service.Name, error) {
	namespace, name, err := parseObjectName(s)
	return service.Name{Namespace: namespace, Name: name}, err
}

// ciphers takes names of Go, of IANA or of OpenSSL. Unknown ones are left out with a finding; at least one must be known.
func (r *reader) ciphers(s string) ([]uint16, error) {
	var out []uint16
	var unknown []string
	for word := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == ':' || c == ',' || c == ' ' }) {
		id := cipher(word)
		if id == 0 {
			unknown = append(unknown, word)
			continue
		}
		out = append(out, id)
	}
	if out == nil {
		return nil, fmt.Errorf("%q names no cipher suite of TLS 1.2 that Go has", s)
	}
	if unknown != nil {
		r.note("ssl-ciphers", Differs, "Go has no %s", strings.Join(unknown, ", "))
	}
	return out, nil
}

// cipher returns the suite of TLS 1.2 with that name, or 0.
func cipher(name string) uint16 {
	squeeze := strings.NewReplacer("TLS_", "", "WITH_", "", "_SHA256", "", "-SHA256", "", "_SHA384", "", "-SHA384", "", "-", "", "CBC_", "", "CBC-", "", "_", "")
	plain := squeeze.Replace(strings.ToUpper(name))
	for _, c := range tls.CipherSuites() {
		if slices.Contains(c.SupportedVersions, tls.VersionTLS12) && squeeze.Replace(c.Name) == plain {
			return c.ID
		}
	}
	return 0
}

// WithHeaders returns g with the header fields of the ConfigMaps that it names. The namespace is that of the ConfigMap of
// globals; data returns false if there is no such ConfigMap.
func (g Globals) WithHeaders(namespace string, data func(service.Name) (map[string]string, bool)) (Globals, []Finding) {
	var findings []Finding
	read := func(key string, object service.Name, name func(string) (string, error)) []policy.Field {
		if object == (service.Name{}) {
			return nil
		}
		object.Namespace = cmp.Or(object.Namespace, namespace)
		content, ok := data(object)
		if !ok {
			findings = append(findings, Finding{Key: key, Severity: Invalid, Message: fmt.Sprintf("there is no ConfigMap %s", object)})
			return nil
		}
		out, errs := fields(content, name)
		for _, err := range errs {
			findings = append(findings, Finding{Key: key, Severity: Invalid, Message: fmt.Sprintf("the ConfigMap %s: %v", object, err)})
		}
		return out
	}
	g.RequestHeaders = read("proxy-set-headers", g.ProxySetHeaders, parseFieldName)
	g.ResponseHeaders = read("add-headers", g.AddHeaders, parseFieldName)
	return g, findings
}
