package annotation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

// redirects reads everything about redirects. Redirect.HTTPS and Redirect.WWW are for the rule.
func redirects(r *reader) policy.Redirect {
	place := urlRule{relative: true, fragment: true, vars: true, hosts: clientHosts()}.parse
	out := policy.Redirect{
		HTTPSCode:    get(r, "http-redirect-code", redirectStatus),
		KeepSlash:    get(r, "preserve-trailing-slash", parseBool),
		ExemptPrefix: get(r, "no-tls-redirect-locations", listOf(parsePath)),
		Temporal:     get(r, "temporal-redirect", place),
		Permanent:    get(r, "permanent-redirect", place),
	}
	if out.Temporal != "" {
		out.TemporalCode = redirectCode(r, "temporal-redirect-code", 302, 307)
		if src, ok := r.written("permanent-redirect"); ok {
			r.note(src.key, Ignored, "no effect: temporal-redirect wins")
		}
	}
	if out.Permanent != "" {
		out.PermanentCode = redirectCode(r, "permanent-redirect-code", 301, 308)
	}
	root, at := lookup(r, "app-root", parsePath)
	if root == "/" {
		r.note(at.key, Invalid, "it would redirect / to itself")
		root = ""
	}
	out.AppRoot = root
	return out
}

func redirectStatus(s string) (int, error) {
	code, err := intIn(301, 308)(s)
	if err != nil || code != 301 && code != 302 && code != 307 && code != 308 {
		return 0, fmt.Errorf("%q is none of 301, 302, 307 and 308", s)
	}
	return code, nil
}

// redirectCode reads a status, and takes fallback for those that do not redirect, as ingress-nginx does.
func redirectCode(r *reader, name string, fallback, last int) int {
	code, at := lookup(r, name, intIn(0, 999))
	if code < 300 || code > last || code == 304 {
		r.note(at.key, Invalid, "%d is no redirect; %d is used", code, fallback)
		return fallback
	}
	return code
}

// routing reads what decides which requests the rules get.
func routing(r *reader, out Routing) Routing {
	out.UseRegex = get(r, "use-regex", parseBool)
	out.FromToWWW = get(r, "from-to-www-redirect", parseBool)
	out.DefaultBackend = get(r, "default-backend", parseServiceName)
	out.Aliases = get(r, "server-alias", listOf(parseAlias))
	return out
}

// rewrite reads where paths are rewritten to.
func rewrite(r *reader) Rewrite {
	out := Rewrite{Target: get(r, "rewrite-target", parseTarget)}
	prefix, at := lookup(r, "x-forwarded-prefix", parsePath)
	if out.Target != "" {
		out.Prefix = prefix
	} else if at.key != "" {
		r.note(at.key, Ignored, "no effect without rewrite-target")
	}
	return out
}

// parseTarget takes a path in which $1 to $9 and ${1} to ${99} stand for captures. It may begin with one.
func parseTarget(s string) (string, error) {
	if s[0] != '/' && s[0] != '$' {
		return "", errors.New("the target does not begin with a slash")
	}
	if strings.HasPrefix(s, "//") {
		return "", errors.New("the target begins with two slashes")
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune("#\\\"<>^`|", c) }); i >= 0 {
		return "", fmt.Errorf("the target holds %q, which may not be in a path", s[i:i+1])
	}
	if _, err := captures(s); err != nil {
		return "", err
	}
	return s, nil
}

// captures returns the highest number of a capture in a target.
func captures(s string) (highest int, err error) {
	for {
		_, rest, found := strings.Cut(s, "$")
		if !found {
			return highest, nil
		}
		number := ""
		if inner, ok := strings.CutPrefix(rest, "{"); ok {
			number, rest, ok = strings.Cut(inner, "}")
			if !ok || len(number) > 2 {
				number = ""
			}
		} else if rest != "" {
			number, rest = rest[:1], rest[1:]
		}
		n, err := intIn(1, 99)(number)
		if err != nil {
			return 0, errors.New("$ is not followed by the number of a group, and other variables are not taken")
		}
		highest, s = max(highest, n), rest
	}
}

// vhost reads the Host for the backend. A client's own Host needs no setting.
func vhost(r *reader) string {
	host := get(r, "upstream-vhost", func(s string) (string, error) {
		t, err := parseTemplate(s)
		if err != nil {
			return "", err
		}
		if len(t) == 1 && (t[0].Variable == "host" || t[0].Variable == "http_host") {
			return "", nil
		}
		plain := string(t.Append(nil, func(v string) string {
			switch v {
			case "namespace":
				return r.in.Namespace
			case "service_name":
				return serviceMark
			default:
				err = fmt.Errorf("$%s is not taken here", v)
				return ""
			}
		}))
		if err != nil {
			return "", err
		}
		return parseHostPort(plain)
	})
	return host
}

// serviceMark stands for the Service of the rule until that is known. A label cannot be so long.
const serviceMark = "service-of-the-rule"

// Rule says what the Settings of an Ingress have to know of one of its rules.
type Rule struct {
	Path        string // as in the Ingress
	Regex       bool   // the path is a pattern
	Service     string // the name of its Service, or empty
	Certificate bool   // there is one for the host
}

// Rule returns the policies of one rule. The error says that the pattern of the path is bad, or that the
// target of its rewrite has captures that it does not make; the Config is closed then, as its Refused says.
func (s *Settings) Rule(of Rule) (policy.Config, error) {
	c := s.Policy
	c.Redirect.HTTPS = s.ForceSSLRedirect || s.SSLRedirect && of.Certificate
	c.Headers.Upstream = strings.ReplaceAll(c.Headers.Upstream, serviceMark, of.Service)
	for _, p := range s.exempt {
		if strings.HasPrefix(of.Path, p) {
			c.BasicAuth, c.ExtAuth = nil, nil
		}
	}
	if s.Rewrite.Target == "" || s.Rewrite.Target == of.Path && !of.Regex {
		return c, nil
	}
	c.Rewrite = &policy.Rewrite{Target: s.Rewrite.Target, Prefix: s.Rewrite.Prefix}
	groups := 0
	if of.Regex {
		re, err := CompilePath(s.dialect, of.Path)
		if err != nil {
			c.Refused = err.Error()
			return c, err
		}
		c.Rewrite.Pattern, groups = re, re.NumSubexp()
	}
	if n, _ := captures(s.Rewrite.Target); n > groups && (s.dialect == route.Strict || !of.Regex) {
		err := fmt.Errorf("rewrite-target uses $%d, but the path %q captures %d groups", n, of.Path, groups)
		if !of.Regex {
			err = fmt.Errorf("rewrite-target uses $%d, but the path %q is no pattern: see use-regex", n, of.Path)
		}
		c.Refused = err.Error()
		return c, err
	}
	return c, nil
}

// CookiePath returns the path of the sticky cookie of a rule.
func (s *Settings) CookiePath(of Rule) string {
	switch {
	case s.Balance.Sticky != nil && s.Balance.Sticky.Path != "":
		return s.Balance.Sticky.Path
	case of.Regex || of.Path == "":
		return "/"
	default:
		return of.Path
	}
}
