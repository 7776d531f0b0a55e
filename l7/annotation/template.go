package annotation

import (
	"errors"
	"fmt"
	"strings"
)

// A Template is text with variables of nginx in it, such as "$host$request_uri", taken apart. It is never put
// together again as text that something else parses.
type Template []Part

// A Part is a piece of text, or a variable if Variable is not empty.
type Part struct {
	Text     string
	Variable string // without $, in lower case, one of those that Variables lists
}

// Append appends t to dst with every variable replaced by what value says. What comes out is data: it
// may hold anything that the request holds.
func (t Template) Append(dst []byte, value func(variable string) string) []byte {
	for _, p := range t {
		if p.Variable != "" {
			dst = append(dst, value(p.Variable)...)
		} else {
			dst = append(dst, p.Text...)
		}
	}
	return dst
}

// String returns t in the syntax of nginx, with braces only where they are needed.
func (t Template) String() string {
	var b strings.Builder
	for i, p := range t {
		switch {
		case p.Variable == "":
			b.WriteString(p.Text)
		case i+1 < len(t) && t[i+1].Text != "" && nameByte(t[i+1].Text[0]):
			b.WriteString("${" + p.Variable + "}")
		default:
			b.WriteString("$" + p.Variable)
		}
	}
	return b.String()
}

// constant reports whether no variable is in t.
func (t Template) constant() bool {
	for _, p := range t {
		if p.Variable != "" {
			return false
		}
	}
	return true
}

// Variables lists the variables that templates may use. A name that ends in "_"
// stands for all that begin with it: $http_x_tenant is a header field, $cookie_a a cookie, $arg_q a query parameter.
func Variables() []string {
	return []string{
		"args", "escaped_request_uri", "host", "http_host", "is_args", "remote_addr", "remote_user", "request_id",
		"request_method", "request_uri", "scheme", "server_name", "server_port", "uri",
		"namespace", "ingress_name", "service_name", "service_port",
		"arg_", "cookie_", "http_",
	}
}

// variable returns the name by which a variable goes here.
func variable(name string) (string, error) {
	name = strings.ToLower(name)
	switch name {
	case "binary_remote_addr", "the_real_ip", "realip_remote_addr":
		return "remote_addr", nil
	case "query_string":
		return "args", nil
	case "best_http_host", "this_host":
		return "http_host", nil
	case "pass_access_scheme":
		return "scheme", nil
	case "pass_server_port", "pass_port":
		return "server_port", nil
	case "req_id":
		return "request_id", nil
	}
	for _, v := range Variables() {
		family := strings.HasSuffix(v, "_")
		if !family && v == name || family && strings.HasPrefix(name, v) && len(name) > len(v) {
			return name, nil
		}
	}
	return "", fmt.Errorf("there is no variable $%s here", name)
}

// parseTemplate takes text with variables written $name or ${name}.
func parseTemplate(s string) (Template, error) {
	var t Template
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			return append(t, Part{Text: s}), nil
		}
		if i > 0 {
			t = append(t, Part{Text: s[:i]})
		}
		name, rest, err := cutName(s[i+1:])
		if err != nil {
			return nil, err
		}
		v, err := variable(name)
		if err != nil {
			return nil, err
		}
		t = append(t, Part{Variable: v})
		s = rest
	}
	return t, nil
}

// cutName cuts what stands after a $ into the name and the rest.
func cutName(s string) (name, rest string, err error) {
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		name, rest, ok = strings.Cut(inner, "}")
		if !ok || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 || !nameByte(byte(r)) }) {
			return "", "", errors.New("${ is not followed by a name and }")
		}
		return name, rest, nil
	}
	i := 0
	for i < len(s) && nameByte(s[i]) {
		i++
	}
	if i == 0 {
		return "", "", errors.New("$ is not followed by the name of a variable")
	}
	return s[:i], s[i:], nil
}

func nameByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
