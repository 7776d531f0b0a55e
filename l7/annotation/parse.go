package annotation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
)

// Input is what Parse works on. It does not keep any of it.
type Input struct {
	Namespace   string            // of the Ingress; required
	Name        string            // of the Ingress
	Annotations map[string]string // all of them; those with other prefixes are passed over
	Dialect     route.Dialect
	Globals     *Globals // nil: DefaultGlobals

	// SecretData returns the data of a Secret of the namespace; false if there is none. nil: they cannot be looked at;
	// then nobody is let in where one is needed, and nothing is said about it.
	SecretData func(name string) (map[string][]byte, bool)
	// ConfigMapData does the same for ConfigMaps. nil: they count as empty.
	ConfigMapData func(name string) (map[string]string, bool)
}

// Parse turns the annotations of one Ingress into Settings. They are always usable: what is wrong has
// been left out, or closes the rules, and is said in the findings, the gravest first.
func Parse(in Input) (Settings, []Finding) {
	globals := in.Globals
	if globals == nil {
		g := DefaultGlobals()
		globals = &g
	}
	r := &reader{in: &in, globals: globals.values, index: indexed(), found: map[string][]source{}}
	r.scan()
	s := Settings{dialect: in.Dialect}
	switch through, at := lookup(r, "ssl-passthrough", parseBool); {
	case through && globals.SSLPassthrough:
		s.Routing.SSLPassthrough = true
		r.onlyServe("the connections are passed through undecrypted", "ssl-passthrough")
	case through:
		r.note(at.key, Ignored, "no effect: the process does not allow it")
	}
	s.Canary = canary(r)
	s.parse(r, globals)
	s.Policy.Refused = strings.Join(r.refused, "; ")
	return s, sortFindings(r.findings)
}

// parse asks for everything, group by group.
func (s *Settings) parse(r *reader, g *Globals) {
	p := &s.Policy
	s.SSLRedirect = get(r, "ssl-redirect", parseBool)
	s.ForceSSLRedirect = get(r, "force-ssl-redirect", parseBool)
	p.Redirect = redirects(r)
	s.Routing = routing(r, s.Routing)
	s.Rewrite = rewrite(r)
	p.Access = access(r)
	p.Limits, p.Limiting = limits(r)
	p.NginxOrder = r.nginx()
	p.CORS = cors(r)
	p.BasicAuth = basicAuth(r)
	p.ExtAuth = extAuth(r)
	s.exempt, _ = listOf(parsePath)(r.text("no-auth-locations"))
	p.Headers = headers(r, g)
	p.Compress = compression(r)
	p.Errors = customErrors(r)
	p.HSTS = hsts(r)
	p.Body = body(r)
	s.AccessLog = get(r, "enable-access-log", parseBool) && !get(r, "disable-access-log", parseBool)
	s.Upstream = upstream(r)
	s.Balance, s.HashBy = balancing(r)
	if s.Upstream.ServiceAddress {
		s.Balance.Sticky, s.Upstream.Retry = nil, Retry{Tries: 1}
		r.unused("service-upstream", "the Service's own address is asked", "affinity", "proxy-next-upstream")
	}
	if s.Canary != nil {
		s.Canary.Legacy = get(r, "affinity-canary-behavior", oneOf("sticky", "legacy")) == "legacy"
	}
}

// A source is one place where a value is written.
type source struct {
	key   string // whole, as written
	name  string // without prefix
	value string
}

// A reader finds values and notes what is wrong with them.
type reader struct {
	in       *Input
	globals  map[dialectKey]string
	index    index
	found    map[string][]source // annotations by the name of their entry, those that win first
	findings []Finding
	refused  []string // why the rules are closed

	noGlobals bool // defaults of annotations are those of the catalogue

	asked func(name string) // tells tests what is asked for; may be nil
}

func (r *reader) nginx() bool { return r.in.Dialect == route.Nginx }

// note adds a finding.
func (r *reader) note(key string, s Severity, format string, args ...any) {
	r.findings = append(r.findings, Finding{Key: key, Severity: s, Message: fmt.Sprintf(format, args...)})
}

// close adds a finding that closes the rules.
func (r *reader) close(key, format string, args ...any) {
	r.note(key, Refused, format, args...)
	r.refused = append(r.refused, key+": "+fmt.Sprintf(format, args...))
}

// scan sorts the annotations by entry and settles those that are not served.
func (r *reader) scan() {
	for _, prefix := range []string{OwnPrefix, NginxPrefix} {
		for _, key := range slices.Sorted(maps.Keys(r.in.Annotations)) {
			name, ours := strings.CutPrefix(key, prefix)
			if !ours {
				continue
			}
			a := r.index.annotations[name]
			if a == nil || a.Own && prefix == NginxPrefix {
				r.unknown(key, name, a)
				continue
			}
			src := source{key: key, name: name, value: trim(r.in.Annotations[key])}
			if a.Support == Served {
				r.add(a, src)
			} else {
				r.unserved(a, src)
			}
		}
	}
}

// add keeps a value, if it is one.
func (r *reader) add(a *Annotation, src source) {
	switch err := clean(src.value, a.lines); {
	case err != nil:
		r.bad(a, src, err)
	case src.value == "" && a.Closed:
		r.bad(a, src, errEmpty)
	case src.value == "":
		r.note(src.key, Ignored, "the value is empty")
	default:
		r.found[a.Name] = append(r.found[a.Name], src)
	}
}

// bad settles a value that is not understood.
func (r *reader) bad(a *Annotation, src source, err error) {
	if a.Closed {
		r.close(src.key, "%v", err)
		return
	}
	r.note(src.key, Invalid, "%v", err)
}

// unserved settles an annotation that is known and not honoured.
func (r *reader) unserved(a *Annotation, src source) {
	asksNothing := func(h string) bool { return strings.EqualFold(h, src.value) }
	if src.value == "" || slices.ContainsFunc(a.harmless, asksNothing) {
		return
	}
	what := map[Support]string{Later: "not supported yet: ", Never: "refused: ", Dead: "no effect: "}[a.Support] + a.Text
	if a.Name == "auth-tls-secret" && strings.EqualFold(r.in.Annotations[NginxPrefix+"auth-tls-verify-client"], "off") {
		r.note(src.key, Ignored, "%s", what)
		return
	}
	if a.Closed && (a.Support != Never || r.text("refused-annotations") != "ignore") {
		r.close(src.key, "%s", what)
		return
	}
	r.note(src.key, Ignored, "%s", what)
}

// unknown settles an annotation that is not in the catalogue. What may be meant
// to protect something closes the rules: a mistyped name must not open them.
func (r *reader) unknown(key, name string, own *Annotation) {
	if own != nil {
		r.note(key, Ignored, "ingress-nginx has no such annotation; it is %s%s", OwnPrefix, name)
		return
	}
	near := r.index.nearest(name)
	switch {
	case near == "":
		r.note(key, Ignored, "there is no such annotation")
	case r.index.annotations[near].Closed:
		r.close(key, "there is no such annotation; if %s is meant, the rules must not stay open", near)
	default:
		r.note(key, Ignored, "there is no such annotation; perhaps %s is meant", near)
	}
}

// get returns the value of what is called name. The zero value means that there is none, not even a default.
func get[T any](r *reader, name string, parse func(string) (T, error)) T {
	v, _ := lookup(r, name, parse)
	return v
}

// lookup does the same and says where the value is written; a default has no key.
func lookup[T any](r *reader, name string, parse func(string) (T, error)) (v T, at source) {
	if r.asked != nil {
		r.asked(name)
	}
	a := r.index.served(name)
	sources := r.found[a.Name]
	for i, src := range sources {
		v, err := parse(src.value)
		if err == nil {
			r.found[a.Name] = sources[i:] // what was bad is said once
			return v, src
		}
		r.bad(a, src, err)
	}
	delete(r.found, a.Name)
	if src, ok := r.global(a); ok {
		v, err := parse(src.value)
		if err == nil {
			return v, src
		}
		r.bad(a, src, err)
	}
	text := a.defaultIn(r.nginx())
	if text == "" {
		return v, source{}
	}
	v, err := parse(text)
	if err != nil {
		panic(fmt.Sprintf("annotation: the default of %s: %v", name, err))
	}
	return v, source{}
}

// global returns what the ConfigMap says about a.
func (r *reader) global(a *Annotation) (source, bool) {
	if a.Global == "" || r.noGlobals && a.Scope != Process {
		return source{}, false
	}
	text, ok := r.globals[dialectKey{r.in.Dialect, a.Global}]
	return source{key: a.Global, name: a.Name, value: text}, ok
}

// text returns the value as it is written, or its default.
func (r *reader) text(name string) string {
	return get(r, name, func(s string) (string, error) { return s, nil })
}

// written reports whether an annotation of that name is there, and where.
func (r *reader) written(name string) (source, bool) {
	if list := r.found[name]; len(list) > 0 {
		return list[0], true
	}
	return source{}, false
}

// unused notes that those of names that are written have no effect, unless because itself is not.
func (r *reader) unused(because, why string, names ...string) {
	if _, ok := r.written(because); !ok {
		return
	}
	for _, name := range names {
		if src, ok := r.written(name); ok {
			r.note(src.key, Ignored, "no effect: %s", why)
		}
	}
}

// onlyServe drops everything but keep, and what it has done so far to the rules.
func (r *reader) onlyServe(why string, keep ...string) {
	for _, name := range slices.Sorted(maps.Keys(r.found)) {
		if slices.Contains(keep, name) {
			continue
		}
		for _, src := range r.found[name] {
			r.note(src.key, Ignored, "no effect: %s", why)
		}
		delete(r.found, name)
	}
	r.refused = nil
	for i := range r.findings {
		if r.findings[i].Severity == Refused {
			r.findings[i].Severity = Ignored
		}
	}
}

// object returns the name of a Secret or ConfigMap of the namespace that is written as value.
func (r *reader) object(value string) (string, error) {
	namespace, name, err := parseObjectName(value)
	if err != nil {
		return "", err
	}
	if namespace != "" && namespace != r.in.Namespace {
		return "", fmt.Errorf("%q is in another namespace", value)
	}
	return name, nil
}
