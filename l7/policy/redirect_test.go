package policy

import (
	"strings"
	"testing"
)

func TestRedirect(t *testing.T) {
	https := Redirect{HTTPS: true}
	for _, c := range []struct {
		name string
		r    Redirect
		url  string
		want string
		code int
	}{
		{"plain text", https, "http://shop.example/cart?id=1", "https-redirect https://shop.example/cart?id=1", 308},
		{"TLS already", https, "https://shop.example/cart", "passed", 0},
		{"the port is left out", https, "http://shop.example:8080/cart", "https-redirect https://shop.example/cart", 308},
		{"the port is another", Redirect{HTTPS: true, HTTPSPort: 8443}, "http://shop.example/", "https-redirect https://shop.example:8443", 308},
		{"one slash is dropped", https, "http://shop.example/cart//", "https-redirect https://shop.example/cart/", 308},
		{"the slash is kept", Redirect{HTTPS: true, KeepSlash: true}, "http://shop.example/", "https-redirect https://shop.example/", 308},
		{"as received", https, "http://Shop.Example/%7Ea", "https-redirect https://Shop.Example/%7Ea", 308},
		{"an IPv6 address", https, "http://[2001:db8::1]:80/a", "https-redirect https://[2001:db8::1]/a", 308},
		{"another code", Redirect{HTTPS: true, HTTPSCode: 301}, "http://a.example/b", "https-redirect https://a.example/b", 301},
		{"no such code", Redirect{HTTPS: true, HTTPSCode: 200}, "http://a.example/b", "https-redirect https://a.example/b", 308},
		{"exempt", Redirect{HTTPS: true, ExemptPrefix: []string{"/.well-known/acme-challenge"}},
			"http://a.example/.well-known/acme-challenge/x", "passed", 0},
		{"temporal", Redirect{Temporal: "https://b.example/x", Permanent: "https://c.example/"}, "http://a.example/", "redirect https://b.example/x", 302},
		{"temporal, see other", Redirect{Temporal: "/x", TemporalCode: 303}, "http://a.example/", "redirect /x", 303},
		{"temporal is never permanent", Redirect{Temporal: "/x", TemporalCode: 308}, "http://a.example/", "redirect /x", 302},
		{"permanent", Redirect{Permanent: "https://c.example/"}, "http://a.example/", "redirect https://c.example/", 301},
		{"permanent, as asked", Redirect{Permanent: "https://c.example/", PermanentCode: 308}, "http://a.example/", "redirect https://c.example/", 308},
		{"with variables", Redirect{Permanent: "$scheme://new.$host$request_uri"}, "https://a.example/x?y=z", "redirect https://new.a.example/x?y=z", 301},
		{"what may not be in an URL", Redirect{Permanent: "https://c.example$request_uri"}, "http://a.example/a?\"b#c", "redirect https://c.example/a?%22b%23c", 301},
		{"a path alone", Redirect{Temporal: "/new$request_uri"}, "http://a.example/x", "redirect /new/x", 302},
		{"the same path", Redirect{Temporal: "$request_uri&again"}, "http://a.example/x?a=b", "redirect /x?a=b&again", 302},
		{"a path that would be a host", Redirect{Temporal: "$request_uri"}, "http://a.example//evil.example/", "bad-redirect", 400},
		{"an argument that would be a host", Redirect{Temporal: "/$arg_next"}, "http://a.example/?next=/evil.example", "bad-redirect", 400},
		{"www", Redirect{WWW: "www.a.example"}, "http://a.example/x?y", "www-redirect http://www.a.example/x?y", 308},
		{"www on its port", Redirect{WWW: "www.a.example"}, "https://a.example:8443/x", "www-redirect https://www.a.example:8443/x", 308},
		{"app-root", Redirect{AppRoot: "/app"}, "https://a.example/", "app-root https://a.example/app", 302},
		{"app-root is for the root", Redirect{AppRoot: "/app"}, "https://a.example/x", "passed", 0},
		{"slash", Redirect{Slash: true}, "http://a.example/foo?x=1", "slash-redirect http://a.example/foo/?x=1", 301},
		{"https first", Redirect{HTTPS: true, AppRoot: "/app"}, "http://a.example/", "https-redirect https://a.example", 308},
		{"then app-root", Redirect{HTTPS: true, AppRoot: "/app"}, "https://a.example/", "app-root https://a.example/app", 302},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", c.url)
			diff(t, "outcome", outcome(x, compile(t, Config{Redirect: c.r}, Env{}).Admit(x)), c.want)
			if x.Response != nil {
				diff(t, "status", x.Response.Status, c.code)
			}
		})
	}
}

func TestRedirectWithoutHost(t *testing.T) {
	x := newExchange(t, "GET", "http://a.example/")
	x.Request.Host, x.Request.RawHost = "", ""
	diff(t, "to https", outcome(x, compile(t, Config{Redirect: Redirect{HTTPS: true}}, Env{}).Admit(x)), ReasonBadRedirect)
	diff(t, "status", x.Response.Status, 400)
	x.Response = nil
	diff(t, "app-root", outcome(x, compile(t, Config{Redirect: Redirect{AppRoot: "/app"}}, Env{}).Admit(x)), "app-root /app")
}

// TestRedirectInjection looks at hosts and paths which an engine should not have let through.
func TestRedirectInjection(t *testing.T) {
	for _, host := range []string{"a\r\nb", "a b/", "a\x00"} {
		x := newExchange(t, "GET", "http://a.example/")
		x.Request.RawHost = host
		compile(t, Config{Redirect: Redirect{HTTPS: true}}, Env{}).Admit(x)
		if l := x.Response.Header.Get("Location"); strings.ContainsAny(l, "\r\n\x00") {
			t.Errorf("host %q makes the Location %q", host, l)
		}
	}
}
