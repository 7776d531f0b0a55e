package annotation

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/policy"
)

// parseHost takes a DNS name, which may begin with "*." if wild, and returns it in lower case. With wild
// there are no addresses either, as in rules.
func parseHost(s string, wild bool) (string, error) {
	bad := fmt.Errorf("%q is not a host name", s)
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	if wild {
		if strings.HasPrefix(s, "~") {
			return "", fmt.Errorf("%q is a pattern, which is not taken for hosts", s)
		}
		name = strings.TrimPrefix(name, "*.")
	}
	if name == "" || len(name) > 253 {
		return "", bad
	}
	for label := range strings.SplitSeq(name, ".") {
		if !dnsLabel(label) {
			return "", bad
		}
	}
	if _, err := netip.ParseAddr(name); err == nil && wild {
		return "", bad
	}
	if wild && strings.HasPrefix(s, "*.") {
		name = "*." + name
	}
	return name, nil
}

// dnsLabel reports whether s is a label of DNS-1123 in lower case.
func dnsLabel(s string) bool {
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

// parseAlias takes a host of a rule.
func parseAlias(s string) (string, error) { return parseHost(s, true) }

// parseServiceName takes the name of a Service.
func parseServiceName(s string) (string, error) {
	if !dnsLabel(s) {
		return "", fmt.Errorf("%q is not the name of a Service", s)
	}
	return s, nil
}

// parseObjectName takes the name of a Secret or ConfigMap, with or without a namespace.
func parseObjectName(s string) (namespace, name string, err error) {
	namespace, name, both := strings.Cut(s, "/")
	if !both {
		namespace, name = "", s
	}
	if both && !dnsLabel(namespace) || len(name) > 253 {
		return "", "", fmt.Errorf("%q is not a name or namespace/name", s)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !dnsLabel(label) {
			return "", "", fmt.Errorf("%q is not a name or namespace/name", s)
		}
	}
	return namespace, name, nil
}

// parseHostPort takes a host with or without a port, such as goes into a Host field.
func parseHostPort(s string) (string, error) {
	u, err := url.Parse("//" + s)
	if err != nil || u.Host != s || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is not a host with or without a port", s)
	}
	if err := checkAuthority(u); err != nil {
		return "", err
	}
	return s, nil
}

// clientHosts are the variables that hold the host the client asks for, which is no more than a redirect back to it needs.
func clientHosts() []string { return []string{"host", "http_host", "server_name"} }

// checkAuthority makes sure that the host of u is a name or an address, and its port a number.
func checkAuthority(u *url.URL) error {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		host = ""
	}
	if host != "" {
		if _, err := parseHost(strings.ReplaceAll(host, "_", "-"), false); err != nil {
			return err
		}
	}
	if u.Host == "" || strings.HasSuffix(u.Host, ":") {
		return errors.New("there is no host, or a colon without a port")
	}
	if p := u.Port(); p != "" {
		if _, err := intIn(1, 65535)(p); err != nil {
			return fmt.Errorf("the port %w", err)
		}
	}
	return nil
}

// urlRule is what an URL may be.
type urlRule struct {
	relative bool     // a path alone will do
	fragment bool     // it may have one
	vars     bool     // variables may be in it,
	hosts    []string // and these in its host
}

// Stand-ins for variables while an URL is parsed. They are legal in each of its parts.
const (
	standIn      = "xflvarx"
	standInEnd   = "x"
	maxVariables = 12 // so that one letter tells them apart
)

func mark(i int) string { return standIn + string(rune('a'+i)) + standInEnd }

// parse returns the URL in the form that net/url writes. Variables stand in it as $name
// or ${name}. In the scheme only $scheme may stand, and in the host only what hosts lists. Right after the host, or at the
// beginning of a relative one, $request_uri and $uri may stand for the path, as they begin with a slash.
func (r urlRule) parse(s string) (string, error) {
	t, err := parseTemplate(s)
	switch {
	case err != nil:
		return "", err
	case !r.vars && !t.constant():
		return "", errors.New("variables are not taken here")
	case strings.Contains(s, standIn):
		return "", fmt.Errorf("%q may not be in it", standIn)
	case len(t) > 2*maxVariables:
		return "", fmt.Errorf("holds more than %d variables", maxVariables)
	}
	plain, slashed := t.standIns()
	u, err := url.Parse(plain)
	if err != nil {
		return "", fmt.Errorf("%q is not a URL", s)
	}
	if err := r.check(u, t); err != nil {
		return "", err
	}
	return t.restore(u.String(), slashed)
}

// standIns returns t with stand-ins for its variables. Before the one that is the whole path there is a slash.
func (t Template) standIns() (plain string, slashed int) {
	slashed = -1
	for i, p := range t {
		plain += p.Text
		if p.Variable == "" {
			continue
		}
		_, rest, absolute := strings.Cut(plain, "://")
		path := p.Variable == "request_uri" || p.Variable == "uri" && plain != ""
		if path && (plain == "" || absolute && rest != "" && !strings.ContainsAny(rest, "/?#")) {
			plain, slashed = plain+"/", i
		}
		plain += mark(i)
	}
	return plain, slashed
}

// restore puts the variables back.
func (t Template) restore(s string, slashed int) (string, error) {
	var out Template
	for {
		before, rest, found := strings.Cut(s, standIn)
		i := -1
		if found && len(rest) >= 2 {
			i = int(rest[0]) - 'a'
		}
		if found && i == slashed {
			before = strings.TrimSuffix(before, "/")
		}
		if before != "" {
			out = append(out, Part{Text: before})
		}
		if !found {
			return out.String(), nil
		}
		if i < 0 || i >= len(t) || t[i].Variable == "" || rest[1:2] != standInEnd {
			return "", errors.New("a variable stands where none may be")
		}
		out = append(out, Part{Variable: t[i].Variable})
		s = rest[2:]
	}
}

func (r urlRule) check(u *url.URL, t Template) error {
	switch {
	case u.Opaque != "":
		return errors.New("there is no // after the scheme")
	case u.User != nil:
		return errors.New("user names and passwords may not be in it")
	case u.Fragment != "" && !r.fragment:
		return errors.New("a fragment may not be in it")
	case u.Host != "" || u.Scheme != "":
		return r.checkAbsolute(u, t)
	case !r.relative || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, `\`):
		return errors.New("it has to begin with http:// or https://")
	}
	return nil
}

func (r urlRule) checkAbsolute(u *url.URL, t Template) error {
	scheme := u.Scheme
	for i, p := range t {
		if p.Variable == "" {
			continue
		}
		m := mark(i)
		if p.Variable == "scheme" && scheme == m {
			scheme = "https"
		}
		if strings.Contains(u.Host, m) && !slices.Contains(r.hosts, p.Variable) {
			return fmt.Errorf("$%s may not stand in the host", p.Variable)
		}
	}
	if scheme != "http" && scheme != "https" {
		return errors.New("it has to begin with http:// or https://")
	}
	return checkAuthority(u)
}

// parsePath takes an absolute path on some host. Two slashes at its beginning would make it
// another host for browsers.
func parsePath(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.Contains(s, `\`) || u.Host != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is not a path that begins with one slash", s)
	}
	return u.String(), nil
}

// parseOrigin takes an origin of the Fetch standard, in which one label may be open, or "*", which is the zero
// Origin. With an error it returns nobody.
func parseOrigin(s string) (policy.Origin, error) {
	if s == "*" {
		return policy.Origin{}, nil
	}
	bad := fmt.Errorf("%q is not an origin such as https://example.com or https://*.example.com:8443", s)
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok || scheme == "" || strings.ContainsFunc(scheme, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '+' && r != '-' && r != '.'
	}) {
		return nobody, bad
	}
	u, err := url.Parse("//" + strings.TrimPrefix(rest, "*."))
	if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(rest, "?#") || checkAuthority(u) != nil {
		return nobody, bad
	}
	o := policy.Origin{Scheme: scheme, Host: u.Hostname(), Port: u.Port()}
	if strings.HasPrefix(rest, "*.") {
		if _, err := netip.ParseAddr(o.Host); err == nil {
			return nobody, bad
		}
		o.Host = "*." + o.Host
	}
	return o, nil
}

// nobody is an origin that no request has.
var nobody = policy.Origin{Scheme: "none"}
