package annotation

import (
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/route"
)

// settings notes what differs in policies: by default between the dialects, or by nature.
func (e *Entry) settings(both *twoSettings) {
	n, s := &both.nginx, &both.strict
	if s.Routing.SSLPassthrough || n.Canary != nil {
		return
	}
	if n.Policy.Body.Max != s.Policy.Body.Max {
		e.differs("proxy-body-size", Moved, "there is no limit unless one is written; with ingress-nginx it is 1m")
	}
	if n.Policy.HSTS != nil && s.Policy.HSTS == nil {
		e.differs("hsts", Moved, "answers over TLS no longer have Strict-Transport-Security unless %shsts is written", OwnPrefix)
	}
	if n.Policy.Redirect.KeepSlash != s.Policy.Redirect.KeepSlash && (n.SSLRedirect || n.ForceSSLRedirect) {
		e.differs("preserve-trailing-slash", Moved, "redirects to https keep a slash at the end of the path")
	}
	if n.Policy.CORS != nil && s.Policy.CORS != nil && n.Policy.CORS.Credentials != s.Policy.CORS.Credentials {
		e.differs("enable-cors", Moved, "without cors-allow-credentials pages of other origins may not send cookies")
	}
	e.guards(both)
	if t := n.Upstream.TLS; n.Upstream.Protocol.TLS() && t.ServerName != s.Upstream.TLS.ServerName {
		e.differs("proxy-ssl-server-name", Moved, "SNI is sent to backends")
	}
	if s.Balance.Sticky != nil {
		e.differs("affinity", Always, "the cookies of ingress-nginx are not understood: each client gets an endpoint and a cookie anew, once")
	}
	if s.Balance.Algorithm == balance.Hash {
		e.differs("upstream-hash-by", Always, "keys lead to other endpoints than with ingress-nginx")
	}
}

// guards notes what differs in limits and authentication.
func (e *Entry) guards(both *twoSettings) {
	n, s := &both.nginx.Policy, &both.strict.Policy
	for _, l := range n.Limits {
		name := "limit-connections"
		switch l.Per {
		case time.Minute:
			name = "limit-rpm"
		case time.Second:
			name = "limit-rps"
		default:
			e.differs(name, Always, "requests under way are counted, also those that share an HTTP/2 connection")
		}
		e.differs(name, Always, "each node counts for itself, as each replica of ingress-nginx does: if there are more of one than of the other, the sum differs")
		if n.Limiting.Status != s.Limiting.Status {
			e.differs(name, Moved, "clients get %d, not %d", s.Limiting.Status, n.Limiting.Status)
		}
		if n.Access != nil {
			e.differs(name, Moved, "source ranges are asked first, so requests from denied addresses do not count")
		}
	}
	if n.ExtAuth != nil && s.ExtAuth != nil && n.ExtAuth.Timeout != s.ExtAuth.Timeout {
		e.differs("auth-url", Moved, "the verdict may take %s, not %s", s.ExtAuth.Timeout, n.ExtAuth.Timeout)
	}
}

// path notes what becomes of one path. It knows the five traps of ingress-nginx: patterns ignore case and match at the
// beginning only; they are made of all paths of a host; a rewrite makes them, too; a path that ends in a slash brings a
// redirect; and paths are normalised before they are matched.
func (rep *reporter) path(e *Entry, ing *ReportIngress, strict *Settings, r ReportRule) {
	if strict.Canary != nil || strict.Routing.SSLPassthrough {
		return
	}
	subject := strings.TrimSpace(r.Host + " " + r.Type + " " + r.Path)
	h := rep.hosts[r.Host]
	stays := strict.Routing.UseRegex && r.Type == "ImplementationSpecific"
	switch {
	case h.regexBy != "" || stays:
		rep.pattern(e, ing, h, r, subject, stays)
	default:
		e.plainPath(h, r, subject)
	}
}

// pattern notes what becomes of a path that ingress-nginx takes for a pattern.
func (rep *reporter) pattern(e *Entry, ing *ReportIngress, h *reportHost, r ReportRule, subject string, stays bool) {
	if _, err := CompilePattern(r.Path); err != nil {
		when := Adopted
		if stays {
			when = Always
		}
		e.Unsupported = append(e.Unsupported, Note{Subject: subject, When: when, Message: err.Error() + "; the rule is not served"})
		return
	}
	if stays {
		if alternates(r.Path) {
			e.differs(subject, Moved, "all alternatives of the pattern have to match at the beginning of the path; with ingress-nginx only the first")
		}
		return
	}
	if r.Path == "" || r.Path == "/" {
		return // as a pattern and as a prefix it matches everything
	}
	cause := "use-regex, which counts only for paths of type ImplementationSpecific"
	switch {
	case h.by != ing.Name:
		cause = fmt.Sprintf("%s of the Ingress %s, which shares the host", h.regexBy, h.by)
	case h.regexBy == "rewrite-target":
		cause = "rewrite-target, which does not make patterns by itself: if it is meant as one, write use-regex"
	}
	was := "a pattern that ignores case and matches the beginning of paths"
	now := map[string]string{
		"Exact":                  "this path alone",
		"Prefix":                 "this path and what is below it",
		"ImplementationSpecific": "this path and what is below it",
	}[r.Type]
	if now == "" {
		now = "as its type says"
	}
	e.differs(subject, Moved, "no longer %s, but %s; the reason was %s", was, now, cause)
}

// alternates reports whether a pattern has a "|" outside of all groups.
func alternates(expr string) bool {
	depth, class := 0, false
	for i := 0; i < len(expr); i++ {
		switch c := expr[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '|' && depth == 0:
			return true
		}
	}
	return false
}

// plainPath notes what becomes of a path that is none.
func (e *Entry) plainPath(h *reportHost, r ReportRule, subject string) {
	if r.Path == "" || r.Path == "/" {
		return
	}
	if canonical, err := route.Canonical(r.Path, route.Options{}); err != nil || canonical != r.Path {
		e.differs(subject, Always, "no request can match it, since the paths of requests are made canonical first")
		return
	}
	bare, slash := strings.CutSuffix(r.Path, "/")
	switch {
	case slash && r.Type == "Exact" && !h.paths[bare]:
		e.differs(subject, Moved, "%s is no longer redirected here with 301", bare)
	case slash && r.Type == "Prefix" && !h.paths[bare]:
		e.differs(subject, Moved, "%s is served as %s is, and no longer redirected with 301", bare, r.Path)
	case slash && r.Type == "ImplementationSpecific" && !h.paths[bare]:
		e.differs(subject, Moved, "it is a prefix: %s is served as %s is, and no longer redirected with 301", bare, r.Path)
	case !slash && r.Type == "ImplementationSpecific":
		e.differs(subject, Moved, "it matches whole elements of paths: %s and %s/a, but no longer %sa", r.Path, r.Path, r.Path)
	}
}
