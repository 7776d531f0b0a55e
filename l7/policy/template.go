package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A template is text with the variables of nginx in it, taken apart once. Text that users write is never put together
// to be parsed by something else: what comes of a template is escaped for where it goes.
type template []part

// A part is a piece of text, or a variable.
type part struct {
	text  string
	value func(x *exchange.Exchange) string // nil for text
	name  string                            // of the variable
}

// parseTemplate takes text with variables written $name or ${name}. A dollar in front of anything else is a dollar.
func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			return t.text(s), nil
		}
		name, rest, err := cutVariable(s[i+1:])
		if err != nil {
			return nil, err
		}
		if name == "" {
			t, s = t.text(s[:i+1]), s[i+1:]
			continue
		}
		value := variable(name)
		if value == nil {
			return nil, fmt.Errorf("there is no variable $%s", name)
		}
		t = append(t.text(s[:i]), part{value: value, name: name})
		s = rest
	}
	return t, nil
}

func (t template) text(s string) template {
	if s == "" {
		return t
	}
	return append(t, part{text: s})
}

// cutVariable cuts what stands after a dollar into the name of a variable, in lower case, and the rest. The name is empty
// if there is none.
func cutVariable(s string) (name, rest string, err error) {
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		name, rest, ok = strings.Cut(inner, "}")
		if !ok || name == "" {
			return "", "", errors.New("${ without a name and }")
		}
		return strings.ToLower(name), rest, nil
	}
	i := 0
	for i < len(s) && (s[i] == '_' || 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z' || i > 0 && '0' <= s[i] && s[i] <= '9') {
		i++
	}
	return strings.ToLower(s[:i]), s[i:], nil
}

// Variable returns what reads a variable of nginx, by its name in lower case and without the dollar; nil if there is none.
func Variable(name string) func(x *exchange.Exchange) string { return variable(name) }

// variable returns what the named variable of nginx stands for, or nil if there is no such variable.
func variable(name string) func(x *exchange.Exchange) string {
	switch name {
	case "host", "server_name":
		return func(x *exchange.Exchange) string { return x.Request.Host }
	case "http_host", "best_http_host":
		return func(x *exchange.Exchange) string { return x.Request.RawHost }
	case "scheme", "pass_access_scheme":
		return scheme
	case "server_port", "pass_server_port":
		return func(x *exchange.Exchange) string { return port(x) }
	case "request_uri":
		return requestURI
	case "escaped_request_uri":
		return func(x *exchange.Exchange) string { return escapeAll(requestURI(x)) }
	case "uri":
		return func(x *exchange.Exchange) string { return x.Request.Path }
	case "args", "query_string":
		return func(x *exchange.Exchange) string { return x.Request.Query }
	case "is_args":
		return func(x *exchange.Exchange) string { return isArgs(x) }
	case "remote_addr":
		return clientAddr
	case "remote_user":
		return func(x *exchange.Exchange) string { return x.User }
	case "request_method":
		return func(x *exchange.Exchange) string { return x.Request.Method }
	case "request_id", "req_id":
		return func(x *exchange.Exchange) string { return x.Request.ID }
	}
	return namedVariable(name)
}

// namedVariable is variable for those of the rule, and for those which name a part of the request.
func namedVariable(name string) func(x *exchange.Exchange) string {
	target := func(get func(*exchange.Target) string) func(*exchange.Exchange) string {
		return func(x *exchange.Exchange) string {
			if x.Target == nil {
				return ""
			}
			return get(x.Target)
		}
	}
	switch name {
	case "namespace":
		return target(func(t *exchange.Target) string { return t.Namespace })
	case "ingress_name":
		return target(func(t *exchange.Target) string { return t.Ingress })
	case "service_name":
		return target(func(t *exchange.Target) string { return t.Service })
	case "service_port":
		return target(func(t *exchange.Target) string { return t.Port })
	}
	if field, ok := strings.CutPrefix(name, "http_"); ok && field != "" {
		field = strings.ReplaceAll(field, "_", "-")
		return func(x *exchange.Exchange) string { return x.Request.Header.Get(field) }
	}
	if cookie, ok := strings.CutPrefix(name, "cookie_"); ok && cookie != "" {
		return func(x *exchange.Exchange) string { return cookieValue(x.Request.Header, cookie) }
	}
	if arg, ok := strings.CutPrefix(name, "arg_"); ok && arg != "" {
		return func(x *exchange.Exchange) string { return argument(x.Request.Query, arg) }
	}
	return nil
}

// expand puts the values of x in, each changed by escape unless that is nil.
func (t template) expand(x *exchange.Exchange, escape func(string) string) string {
	if len(t) == 1 && t[0].value == nil {
		return t[0].text
	}
	var b strings.Builder
	for _, p := range t {
		switch {
		case p.value == nil:
			b.WriteString(p.text)
		case escape == nil:
			b.WriteString(p.value(x))
		default:
			b.WriteString(escape(p.value(x)))
		}
	}
	return b.String()
}

// authority splits t, an URL, into what stands before the end of its authority, and the rest. If t is
// a path, or a variable that is one, the first is empty.
func (t template) authority() (head, rest template) {
	if len(t) == 0 || strings.HasPrefix(t[0].text, "/") || t[0].name == "request_uri" || t[0].name == "uri" {
		return nil, t
	}
	slashes := 0
	for i, p := range t {
		if p.value != nil {
			if slashes == 2 && (p.name == "request_uri" || p.name == "uri") {
				return t[:i:i], t[i:] // it begins with a slash
			}
			continue
		}
		for j := range len(p.text) {
			switch p.text[j] {
			case '/':
				slashes++
			case '?', '#':
				slashes += 3
			}
			if slashes < 3 {
				continue
			}
			return t[:i:i].text(p.text[:j]), append(template{}.text(p.text[j:]), t[i+1:]...)
		}
	}
	return t, nil
}

// absolute says what is wrong with the beginning of an URL, in which only the given variables may name the host.
func (t template) absolute(hosts ...string) error {
	head, _ := t.authority()
	var b strings.Builder
	for _, p := range head {
		b.WriteString(p.text)
		switch {
		case p.value == nil:
		case b.Len() == 0 && (p.name == "scheme" || p.name == "pass_access_scheme"):
			b.WriteString("https")
		case strings.Contains(b.String(), "://") && contains(hosts, p.name):
			b.WriteString("x")
		default:
			return fmt.Errorf("$%s may not stand there", p.name)
		}
	}
	plain := b.String()
	scheme, host, ok := strings.Cut(plain, "://")
	if !ok || host == "" || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return errors.New("does not begin with http:// or https:// and a host")
	}
	if strings.ContainsAny(host, "@\\") {
		return errors.New("has a user name, or a backslash, in the host")
	}
	return nil
}

// A locator is an URL, or a path on the same host, with variables in it.
type locator struct {
	head template // scheme and host; empty if relative
	rest template
}

// newLocator takes t apart.
func newLocator(t template) *locator {
	var l locator
	l.head, l.rest = t.authority()
	return &l
}

// expand puts the values of x in. One that stands in the host cannot lead out of it.
func (l *locator) expand(x *exchange.Exchange) string {
	return l.head.expand(x, escapeHost) + l.rest.expand(x, escapeURL)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func scheme(x *exchange.Exchange) string {
	if x.Request.Secure {
		return "https"
	}
	return "http"
}

// port is the port that the client believes it speaks to.
func port(x *exchange.Exchange) string {
	switch {
	case x.Request.Port != "":
		return x.Request.Port
	case x.Request.Secure:
		return "443"
	}
	return "80"
}

// requestURI is what the client asked for, path and query as received. It begins with a slash.
func requestURI(x *exchange.Exchange) string {
	path := x.Request.RawPath
	if !strings.HasPrefix(path, "/") {
		path = x.Request.Path
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" // OPTIONS *
	}
	if x.Request.HasQuery {
		return path + "?" + x.Request.Query
	}
	return path
}

func isArgs(x *exchange.Exchange) string {
	if x.Request.Query != "" {
		return "?"
	}
	return ""
}

// clientAddr is the client's address without its port, or nothing if that is unknown.
func clientAddr(x *exchange.Exchange) string {
	if a := client(x); a.IsValid() {
		return a.String()
	}
	return ""
}

// client is the client's address: IPv4 in four bytes, IPv6 without a zone. The zero Addr is unknown.
func client(x *exchange.Exchange) netip.Addr { return x.Request.Client.Addr().Unmap().WithZone("") }

// cookieValue returns the value of the first cookie of that name in any case, or nothing.
func cookieValue(h exchange.Header, name string) string {
	for _, f := range h {
		if !strings.EqualFold(f.Name, "Cookie") {
			continue
		}
		for pair := range strings.SplitSeq(f.Value, ";") {
			n, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if same(n, name) {
				return v
			}
		}
	}
	return ""
}

// argument returns the value of the first parameter of that name in the query, as it stands there.
func argument(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if n, v, _ := strings.Cut(pair, "="); strings.EqualFold(n, name) {
			return v
		}
	}
	return ""
}

// escapeAll percent-encodes everything but what RFC 3986 calls unreserved, as ngx.escape_uri does.
func escapeAll(s string) string {
	return escape(s, func(c byte) bool { return unreserved(c) })
}

// escapeHost percent-encodes what may not stand in a host with a port, after which it is none.
func escapeHost(s string) string {
	return escape(s, func(c byte) bool { return unreserved(c) && c != '~' || c == ':' || c == '[' || c == ']' })
}

// escapeURL percent-encodes what may not stand in an URL, and leaves the rest as it is.
func escapeURL(s string) string {
	return escape(s, func(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte("\"#<>\\^`{|}", c) < 0 })
}

// escapeQuery percent-encodes what would end a value in a query, or mean something else there.
func escapeQuery(s string) string {
	return escape(s, func(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte("\"#&+<>\\^`{|}", c) < 0 })
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

func escape(s string, keep func(byte) bool) string {
	n := 0
	for i := range len(s) {
		if !keep(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; keep(c) {
			b = append(b, c)
		} else {
			b = append(b, '%')
			if c < 16 {
				b = append(b, '0')
			}
			b = append(b, strings.ToUpper(strconv.FormatUint(uint64(c), 16))...)
		}
	}
	return string(b)
}
