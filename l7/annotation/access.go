package annotation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/policy"
)

// access reads the lists of source addresses.
func access(r *reader) *policy.Access {
	out := policy.Access{
		Allow:  get(r, "allowlist-source-range", listOf(parseRange)),
		Deny:   get(r, "denylist-source-range", listOf(parseRange)),
		Except: get(r, "satisfy", oneOf("all", "any")) == "any",
	}
	if list := r.found["allowlist-source-range"]; len(list) > 1 && list[0].value != list[1].value && list[0].name != list[1].name {
		r.note(list[1].key, Ignored, "no effect: %s wins", list[0].key)
	}
	if out.Allow == nil && out.Deny == nil {
		return nil
	}
	return &out
}

// limits reads the limits, in the order in which ingress-nginx asks them.
func limits(r *reader) ([]policy.Limit, policy.Limiting) {
	const most = 1_000_000
	connections := get(r, "limit-connections", intIn(0, most))
	minute := get(r, "limit-rpm", intIn(0, most))
	second := get(r, "limit-rps", intIn(0, most))
	times := get(r, "limit-burst-multiplier", intIn(1, 1000))
	exempt := get(r, "limit-allowlist", listOf(parseRange))

	var out []policy.Limit
	if connections > 0 {
		out = append(out, policy.Limit{Connections: connections})
	}
	if minute > 0 {
		out = append(out, policy.Limit{Requests: minute, Per: time.Minute, Burst: minute * times})
	}
	if second > 0 {
		out = append(out, policy.Limit{Requests: second, Per: time.Second, Burst: second * times})
	}
	if out == nil {
		return nil, policy.Limiting{}
	}
	status := get(r, "limit-req-status-code", parseStatus)
	if minute == 0 && second == 0 {
		status = get(r, "limit-conn-status-code", parseStatus)
	}
	return out, policy.Limiting{Exempt: exempt, Status: status}
}

// cors reads what pages of other origins may do.
func cors(r *reader) *policy.CORS {
	if !get(r, "enable-cors", parseBool) {
		delete(r.found, "cors-allow-credentials") // what is wrong with it harms nobody
		return nil
	}
	credentials, at := lookup(r, "cors-allow-credentials", parseBool)
	origins, any := r.origins(credentials)
	if origins == nil && !any {
		return nil
	}
	if any && credentials && at.key != "" && !r.nginx() {
		r.close(at.key, "any origin and credentials cannot go together: list the origins")
	}
	join := func(list []string) string { return strings.Join(list, ", ") }
	return &policy.CORS{
		Origins:     origins,
		Methods:     join(get(r, "cors-allow-methods", listOf(parseCORSMethod))),
		Headers:     join(get(r, "cors-allow-headers", listOf(parseToken))),
		Expose:      join(get(r, "cors-expose-headers", listOf(parseToken))),
		Credentials: credentials,
		MaxAge:      get(r, "cors-max-age", timeIn(0, 100*year)),
	}
}

// origins reads the list of origins, or that it is any. A bad one closes the rule if credentials are allowed; else it
// is left out, and if none is left, nothing is allowed.
func (r *reader) origins(credentials bool) (list []policy.Origin, any bool) {
	const name = "cors-allow-origin"
	origins, at := lookup(r, name, func(s string) ([]policy.Origin, error) {
		var bad []error
		good, err := listOf(func(s string) (policy.Origin, error) {
			o, err := parseOrigin(s)
			if err != nil {
				bad = append(bad, err)
			}
			return o, nil
		})(s)
		if len(bad) == 0 {
			return good, err
		}
		src, _ := r.written(name)
		r.badOrigin(src.key, credentials, errors.Join(bad...))
		return slices.DeleteFunc(good, func(o policy.Origin) bool { return o == nobody }), nil
	})
	if at.key == "" {
		if key, there := r.present(name); there { // it was bad as a text already
			r.badOrigin(key, credentials, errors.New("no origin is allowed"))
			return nil, false
		}
	}
	if slices.Contains(origins, policy.Origin{}) {
		return nil, true
	}
	if len(origins) == 0 {
		return nil, false
	}
	return origins, false
}

func (r *reader) badOrigin(key string, credentials bool, err error) {
	if credentials {
		r.close(key, "%v", err)
	} else {
		r.note(key, Invalid, "%v", err)
	}
}

// present reports whether an annotation is there at all, good or bad.
func (r *reader) present(name string) (key string, ok bool) {
	for _, prefix := range []string{OwnPrefix, NginxPrefix} {
		if _, ok := r.in.Annotations[prefix+name]; ok {
			return prefix + name, true
		}
	}
	return "", false
}

// parseCORSMethod takes methods in upper case, as Fetch has them.
func parseCORSMethod(s string) (string, error) {
	t, err := parseToken(s)
	return strings.ToUpper(t), err
}

// parseFieldName takes the name of a header field that may be set or removed. Fields about the connection and
// the framing are not among them.
func parseFieldName(s string) (string, error) {
	if !httpguts.ValidHeaderFieldName(s) || len(s) > 256 {
		return "", fmt.Errorf("%q is not the name of a header field", s)
	}
	switch strings.ToLower(strings.ReplaceAll(s, "_", "-")) {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
		"transfer-encoding", "upgrade", "content-length", "expect", "host":
		return "", fmt.Errorf("%s belongs to the connection or the framing", s)
	}
	return s, nil
}
