package accesslog

import (
	"crypto/tls"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// Variables lists what a template may name. A name that ends in "_" stands for all that begin with it: $http_x_tenant is a field of the request,
// $sent_http_etag one of the answer, $cookie_a a cookie and $arg_q a parameter of the query.
func Variables() []string {
	names := []string{"arg_", "cookie_", "http_", "sent_http_"}
	for _, v := range plainVariables() {
		names = append(names, v.name)
	}
	for _, v := range valueVariables() {
		names = append(names, v.name)
	}
	slices.Sort(names)
	return names
}

// variable returns the part for a name.
func variable(name string) (part, bool) {
	for _, v := range plainVariables() {
		if v.name == name {
			return part{plain: v.append}, true
		}
	}
	for _, v := range valueVariables() {
		if v.name == name {
			return part{value: v.value}, true
		}
	}
	for _, f := range []struct {
		prefix string
		field  bool // underscores are dashes
		value  func(ln *line, arg string) (string, bool)
	}{
		{"http_", true, sent},
		{"sent_http_", true, received},
		{"cookie_", false, cookie},
		{"arg_", false, argument},
	} {
		if arg, ok := strings.CutPrefix(name, f.prefix); ok && arg != "" {
			if f.field {
				arg = strings.ReplaceAll(arg, "_", "-")
			}
			return part{value: f.value, arg: arg}, true
		}
	}
	return part{}, false
}

// A valueVariable is a variable whose value others choose, so that it has to be escaped.
type valueVariable struct {
	name  string
	value func(ln *line, arg string) (string, bool)
}

func valueVariables() []valueVariable {
	request := func(get func(r *exchange.Request) string) func(*line, string) (string, bool) {
		return func(ln *line, _ string) (string, bool) {
			s := get(&ln.x.Request)
			return s, s != ""
		}
	}
	host := request(func(r *exchange.Request) string { return r.Host })
	rawHost := request(func(r *exchange.Request) string { return r.RawHost })
	args := func(ln *line, _ string) (string, bool) { return ln.x.Request.Query, ln.x.Request.HasQuery }
	id := request(func(r *exchange.Request) string { return r.ID })
	return slices.Concat([]valueVariable{
		{"args", args},
		{"best_http_host", rawHost},
		{"host", host},
		{"http_host", rawHost},
		{"query_string", args},
		{"reason", func(ln *line, _ string) (string, bool) { s := ln.reason(); return s, s != "" }},
		{"remote_user", func(ln *line, _ string) (string, bool) { return ln.x.User, ln.x.User != "" }},
		{"req_id", id},
		{"request", wholeRequest},
		{"request_id", id},
		{"request_method", request(func(r *exchange.Request) string { return r.Method })},
		{"request_uri", func(ln *line, _ string) (string, bool) { return ln.uri(), true }},
		{"server_name", host},
		{"this_host", rawHost},
		{"trace_id", func(ln *line, _ string) (string, bool) { s := traceID(ln.x.Request.Header); return s, s != "" }},
		{"uri", request(func(r *exchange.Request) string { return r.Path })},
	}, targetVariables(), tlsVariables())
}

func targetVariables() []valueVariable {
	target := func(get func(t *exchange.Target) string) func(*line, string) (string, bool) {
		return func(ln *line, _ string) (string, bool) {
			if ln.x.Target == nil {
				return "", false
			}
			s := get(ln.x.Target)
			return s, s != ""
		}
	}
	return []valueVariable{
		{"ingress_name", target(func(t *exchange.Target) string { return t.Ingress })},
		{"location_path", target(func(t *exchange.Target) string { return t.Path })},
		{"namespace", target(func(t *exchange.Target) string { return t.Namespace })},
		{"proxy_alternative_upstream_name", func(ln *line, _ string) (string, bool) { return ln.upstream(ln.done.Alternative), true }},
		{"proxy_upstream_name", func(ln *line, _ string) (string, bool) {
			s := ln.upstream(ln.x.Target)
			return s, s != ""
		}},
		{"service_name", target(func(t *exchange.Target) string { return t.Service })},
		{"service_port", target(func(t *exchange.Target) string { return t.Port })},
	}
}

func tlsVariables() []valueVariable {
	state := func(get func(s *tls.ConnectionState) string) func(*line, string) (string, bool) {
		return func(ln *line, _ string) (string, bool) {
			if ln.x.Request.TLS == nil {
				return "", false
			}
			s := get(ln.x.Request.TLS)
			return s, s != ""
		}
	}
	return []valueVariable{
		{"ssl_cipher", func(ln *line, _ string) (string, bool) {
			s := ln.x.Request.TLS
			if s == nil {
				return "", false
			}
			return ln.cipherName(s.CipherSuite), true
		}},
		{"ssl_client_i_dn", state(func(s *tls.ConnectionState) string {
			if len(s.PeerCertificates) == 0 {
				return ""
			}
			return s.PeerCertificates[0].Issuer.String()
		})},
		{"ssl_client_s_dn", state(func(s *tls.ConnectionState) string {
			if len(s.PeerCertificates) == 0 {
				return ""
			}
			return s.PeerCertificates[0].Subject.String()
		})},
		{"ssl_client_serial", state(func(s *tls.ConnectionState) string {
			if len(s.PeerCertificates) == 0 {
				return ""
			}
			return strings.ToUpper(s.PeerCertificates[0].SerialNumber.Text(16))
		})},
		{"ssl_protocol", state(func(s *tls.ConnectionState) string { return tlsVersion(s.Version) })},
		{"ssl_server_name", state(func(s *tls.ConnectionState) string { return s.ServerName })},
	}
}

// tlsVersion returns a version as nginx spells it.
func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return ""
}

// uri returns path and query as received. The string is valid until the next call.
func (ln *line) uri() string {
	r := &ln.x.Request
	if !r.HasQuery {
		return r.RawPath
	}
	ln.tmp = append(append(append(ln.tmp[:0], r.RawPath...), '?'), r.Query...)
	return ln.scratch()
}

// wholeRequest is the request line.
func wholeRequest(ln *line, _ string) (string, bool) {
	r := &ln.x.Request
	if r.Method == "" && r.RawPath == "" {
		return "", false // it could not be read
	}
	b := append(append(append(ln.tmp[:0], r.Method...), ' '), r.RawPath...)
	if r.HasQuery {
		b = append(append(b, '?'), r.Query...)
	}
	ln.tmp = append(append(b, ' '), r.Protocol.String()...)
	return ln.scratch(), true
}

// upstream returns the name that ingress-nginx gives to a backend, or "". The string is valid until the next call.
func (ln *line) upstream(t *exchange.Target) string {
	if t == nil || t.Service == "" {
		return ""
	}
	b := append(append(append(ln.tmp[:0], t.Namespace...), '-'), t.Service...)
	ln.tmp = append(append(b, '-'), t.Port...)
	return ln.scratch()
}

func sent(ln *line, name string) (string, bool) { return firstOf(ln.x.Request.Header, name) }

func received(ln *line, name string) (string, bool) {
	if ln.x.Response == nil {
		return "", false
	}
	return firstOf(ln.x.Response.Header, name)
}

// firstOf returns the first field of that name.
func firstOf(h exchange.Header, name string) (string, bool) {
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

func cookie(ln *line, name string) (string, bool) {
	for _, f := range ln.x.Request.Header {
		if !strings.EqualFold(f.Name, "Cookie") {
			continue
		}
		for pair := range strings.SplitSeq(f.Value, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && strings.EqualFold(k, name) {
				return v, true
			}
		}
	}
	return "", false
}

func argument(ln *line, name string) (string, bool) {
	for pair := range strings.SplitSeq(ln.x.Request.Query, "&") {
		if k, v, _ := strings.Cut(pair, "="); strings.EqualFold(k, name) && k != "" {
			return v, true
		}
	}
	return "", false
}
