package ingress

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
)

// maxHostname is the length of a name in DNS; maxPath bounds what one rule may cost.
const (
	maxHostname = 253
	maxPath     = 4096
)

// checkHost returns what is wrong with the host of a rule or of tls, which is not empty: it has to be a
// DNS-1123 subdomain, the first label of which may be "*".
func checkHost(host string) error {
	name := strings.TrimPrefix(host, "*.")
	if name == "" || len(host) > maxHostname {
		return fmt.Errorf("host is empty or longer than %d bytes", maxHostname)
	}
	if strings.Contains(name, "*") {
		return fmt.Errorf("host %q: a wildcard can only be the whole first label", host)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("host %q is an address, not a name", host)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return fmt.Errorf("host %q is not a DNS name in lower case", host)
		}
	}
	return nil
}

// isLabel reports whether s is a DNS-1123 label, as names of Services are.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// checkBackend returns what is wrong with b.
func checkBackend(b *Backend) (reason string, err error) {
	switch {
	case b.Service != "" && b.Resource != "":
		return "InvalidBackend", errors.New("backend is a service and a resource at once")
	case b.Resource != "":
		return "UnsupportedResourceBackend", fmt.Errorf("backend is resource %s; only Services are supported", b.Resource)
	case !isLabel(b.Service):
		return "InvalidBackend", fmt.Errorf("%q is not the name of a Service", b.Service)
	case b.Port.Name != "" && b.Port.Number != 0:
		return "InvalidBackend", errors.New("backend port has a name and a number")
	case b.Port.Name != "" && !isPortName(b.Port.Name):
		return "InvalidBackend", fmt.Errorf("%q is not the name of a port", b.Port.Name)
	case b.Port.Name == "" && (b.Port.Number < 1 || b.Port.Number > 65535):
		return "InvalidBackend", fmt.Errorf("backend port %d is not between 1 and 65535", b.Port.Number)
	}
	return "", nil
}

// isPortName reports whether s is the name of a service port: RFC 6335, in lower case.
func isPortName(s string) bool {
	return isLabel(s) && len(s) <= 15 && !strings.Contains(s, "--") && strings.ContainsFunc(s, func(r rune) bool { return 'a' <= r && r <= 'z' })
}

// checkPath returns what the API server has against the path of an Exact or Prefix rule.
func checkPath(path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("path %q does not begin with a slash", path)
	case strings.HasSuffix(path, "/..") || strings.HasSuffix(path, "/."):
		return fmt.Errorf("path %q ends in a dot segment", path)
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(path, bad) {
			return fmt.Errorf("path %q contains %s", path, bad)
		}
	}
	return nil
}

// isPlainPath reports whether path is what ingress-nginx takes for the types Exact and Prefix.
func isPlainPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r)
	})
}

// A matcher is how a path of an Ingress is looked up.
type matcher struct {
	kind route.Kind
	path string
	re   *regexp.Regexp
}

// matcherOf returns how p matches, given whether it is to be a pattern.
func matcherOf(p *Path, d route.Dialect, regex bool) (matcher, error) {
	if len(p.Path) > maxPath {
		return matcher{}, fmt.Errorf("path is longer than %d bytes", maxPath)
	}
	kind, path := route.Prefix, p.Path
	switch p.Type {
	case Exact, Prefix:
		if p.Type == Exact {
			kind = route.Exact
		}
		if err := checkPath(path); err != nil {
			return matcher{}, err
		}
	case ImplementationSpecific:
		if path == "" {
			path = "/"
		}
		if d == route.Nginx {
			kind = route.String
		}
	default:
		return matcher{}, fmt.Errorf("there is no path type %q", p.Type)
	}
	if regex {
		return patternOf(path, d)
	}
	o := d.Options()
	o.Rewritten = true // dot segments in a rule are a mistake
	canonical, err := route.Canonical(path, o)
	if err != nil {
		return matcher{}, fmt.Errorf("path %q: %w", p.Path, err)
	}
	return matcher{kind: kind, path: canonical}, nil
}
