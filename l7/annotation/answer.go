package annotation

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/policy"
)

// headers reads which fields are set, removed and hidden.
func headers(r *reader, g *Globals) policy.Headers {
	out := policy.Headers{
		Upstream: vhost(r),
		Server:   get(r, "allow-backend-server-header", parseBool),
		Nginx:    r.nginx(),
		Hide:     get(r, "hide-headers", listOf(parseFieldName)),
		Request:  slices.Clone(g.RequestHeaders),
		Response: slices.Clone(g.ResponseHeaders),
	}
	allowed := get(r, "global-allowed-response-headers", listOf(parseFieldName))
	own, at := lookup(r, "response-headers", parseFields(parseFieldName))
	maps := r.fieldsOf("custom-headers", parseFieldName)
	if len(allowed) > 0 {
		own = r.permitted(at, own, allowed)
	}
	if len(allowed) > 0 || r.nginx() {
		at, _ := r.written("custom-headers")
		maps = r.permitted(at, maps, allowed)
	}
	out.Response = slices.Concat(out.Response, maps, own)
	out.Request = append(out.Request, get(r, "request-headers", parseFields(parseRequestField))...)
	if len(out.Request) == 0 {
		out.Request = nil
	}
	if len(out.Response) == 0 {
		out.Response = nil
	}
	return out
}

// permitted returns those of list that the operator permits.
func (r *reader) permitted(at source, list []policy.Field, allowed []string) []policy.Field {
	var out []policy.Field
	for _, f := range list {
		if slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, f.Name) }) {
			out = append(out, f)
		} else {
			r.note(at.key, Invalid, "%s is not among global-allowed-response-headers", f.Name)
		}
	}
	return out
}

// parseRequestField takes the names of fields for backends. Who the client is, is not for an Ingress to say.
func parseRequestField(s string) (string, error) {
	name, err := parseFieldName(s)
	if err != nil {
		return "", err
	}
	folded := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	switch {
	case strings.HasPrefix(folded, "x-forwarded-"), strings.HasPrefix(folded, "x-original-"), strings.HasPrefix(folded, "ssl-client-"),
		folded == "forwarded", folded == "x-real-ip", folded == "x-scheme", folded == "x-request-id", folded == "proxy":
		return "", fmt.Errorf("%s is set by the proxy", name)
	}
	return name, nil
}

// parseFields returns a parser of lines such as "Name: value".
func parseFields(name func(string) (string, error)) func(string) ([]policy.Field, error) {
	return func(s string) ([]policy.Field, error) {
		var out []policy.Field
		for line := range strings.Lines(s) {
			line = trim(line)
			if line == "" {
				continue
			}
			n, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("%q is not a line such as Name: value", line)
			}
			n, err := name(trim(n))
			if err != nil {
				return nil, err
			}
			value = trim(value)
			if err := cmp.Or(clean(value, false), second(parseText(value))); err != nil {
				return nil, fmt.Errorf("%s: the value %w", n, err)
			}
			out = append(out, policy.Field{Name: http.CanonicalHeaderKey(n), Value: value})
		}
		if out == nil {
			return nil, errEmpty
		}
		return out, nil
	}
}

// compression reads how answers are made smaller.
func compression(r *reader) *policy.Compress {
	gzip := get(r, "use-gzip", parseBool)
	brotli := get(r, "enable-brotli", parseBool)
	if !gzip && !brotli {
		return nil
	}
	out := policy.Compress{Types: get(r, "gzip-types", listOf(parseMediaType))}
	if brotli {
		out.Brotli = get(r, "brotli-level", intIn(1, 11))
		out.MinLength = get(r, "brotli-min-length", intIn(0, 1<<30))
	}
	if gzip {
		out.Gzip = get(r, "gzip-level", intIn(1, 9))
		out.MinLength = get(r, "gzip-min-length", intIn(0, 1<<30))
	}
	if !slices.Contains(out.Types, "*") && !slices.Contains(out.Types, "text/html") {
		out.Types = append(out.Types, "text/html")
	}
	return &out
}

// parseMediaType takes "type/subtype" or "*".
func parseMediaType(s string) (string, error) {
	if s == "*" {
		return s, nil
	}
	kind, sub, ok := strings.Cut(strings.ToLower(s), "/")
	if !ok || second(parseToken(kind)) != nil || second(parseToken(sub)) != nil {
		return "", fmt.Errorf("%q is not a media type", s)
	}
	return kind + "/" + sub, nil
}

// customErrors reads which answers are replaced.
func customErrors(r *reader) *policy.Errors {
	statuses := get(r, "custom-http-errors", listOf(parseStatus))
	if len(statuses) == 0 || get(r, "disable-proxy-intercept-errors", parseBool) {
		return nil
	}
	slices.Sort(statuses)
	return &policy.Errors{Statuses: slices.Compact(statuses)}
}

// hsts reads what browsers are told about TLS.
func hsts(r *reader) *policy.HSTS {
	if !get(r, "hsts", parseBool) {
		return nil
	}
	out := policy.HSTS{
		MaxAge:            get(r, "hsts-max-age", timeIn(0, 100*year)),
		IncludeSubDomains: get(r, "hsts-include-subdomains", parseBool),
		Preload:           get(r, "hsts-preload", parseBool),
	}
	return &out
}

// maxBodyBuffer bounds what one request may hold in memory.
const maxBodyBuffer = 1 << 20

// body reads how large bodies may be, and how much of them is kept.
func body(r *reader) policy.Body {
	out := policy.Body{Max: get(r, "proxy-body-size", parseSize)}
	size, at := lookup(r, "client-body-buffer-size", parseSize)
	if size > maxBodyBuffer && at.key != "" {
		r.note(at.key, Differs, "bodies are kept in memory only, so 1m is used; larger ones are passed on as they come")
	}
	if get(r, "proxy-request-buffering", parseSwitch) {
		out.Buffer = int(min(size, maxBodyBuffer))
	}
	return out
}
