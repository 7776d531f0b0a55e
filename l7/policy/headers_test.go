package policy

import (
	"testing"
	"time"
)

func TestHeaders(t *testing.T) {
	p := compile(t, Config{Headers: Headers{
		Request:  []Field{{"X-Tenant", "a"}, {"X-Forwarded-Proto", "https"}, {"X-Debug", ""}},
		Response: []Field{{"X-Frame-Options", "DENY"}, {"X-Powered-By", ""}},
		Hide:     []string{"X-Internal"},
		Upstream: "internal.example",
		Server:   true, Nginx: true,
	}}, Env{})
	if !p.Nginx() || !p.Server() {
		t.Errorf("Nginx %v and Server %v, want both", p.Nginx(), p.Server())
	}
	x := newExchange(t, "GET", "http://a.example/", "x-tenant", "forged", "X-Tenant", "twice", "X-Forwarded-Proto", "http", "X-Debug", "1")
	diff(t, "outcome", outcome(x, p.Admit(x)), "passed")
	diff(t, "request", lines(x.Request.Header), "x-tenant: a\nX-Forwarded-Proto: https\n")
	diff(t, "host for the backend", x.Request.RawHost, "internal.example")
	diff(t, "host for logs", x.Request.Host, "a.example")
	x.Response = backend(200, "", "x-internal", "1", "X-Powered-By", "PHP", "Content-Type", "text/html", "X-Internal", "2")
	p.Apply(x)
	diff(t, "response", lines(x.Response.Header), "Content-Type: text/html\nX-Frame-Options: DENY\n")
}

func TestHSTS(t *testing.T) {
	for _, c := range []struct {
		hsts HSTS
		url  string
		want string
	}{
		{HSTS{MaxAge: 8760 * time.Hour}, "https://a.example/", "max-age=31536000"},
		{HSTS{MaxAge: time.Hour, IncludeSubDomains: true, Preload: true}, "https://a.example/", "max-age=3600; includeSubDomains; preload"},
		{HSTS{}, "https://a.example/", "max-age=0"},
		{HSTS{MaxAge: time.Hour}, "http://a.example/", ""},
	} {
		x := newExchange(t, "GET", c.url)
		x.Response = backend(200, "")
		compile(t, Config{HSTS: &c.hsts}, Env{}).Apply(x)
		diff(t, "Strict-Transport-Security", x.Response.Header.Get("Strict-Transport-Security"), c.want)
	}
}
