package policy

import (
	"strings"
	"testing"
	"time"
)

func TestCORS(t *testing.T) {
	wild := CORS{
		Origins: []Origin{{"https", "shop.example", ""}, {"https", "*.shop.example", "8443"}, {"http", "[2001:db8::1]", "80"}, {"https", "Caps.Example", "443"}},
		Methods: "GET, PUT", Headers: "X-A", Expose: "X-B", Credentials: true, MaxAge: 20 * time.Minute,
	}
	star := CORS{Methods: "GET", Credentials: true}
	const preflight, plain = "preflight", "plain"
	for _, c := range []struct {
		name, kind string
		cors       CORS
		origin     string
		want       string // Allow-Origin, Credentials, Methods, Headers, Expose, Max-Age, Vary; "-" for none
	}{
		{"allowed", plain, wild, "https://shop.example", "https://shop.example true - - X-B - Origin"},
		{"allowed preflight", preflight, wild, "https://shop.example", "https://shop.example true GET,PUT X-A - 1200 Origin"},
		{"the default port", plain, wild, "https://shop.example:443", "https://shop.example:443 true - - X-B - Origin"},
		{"the default port in the list", plain, wild, "https://caps.example", "https://caps.example true - - X-B - Origin"},
		{"one label", plain, wild, "https://a.shop.example:8443", "https://a.shop.example:8443 true - - X-B - Origin"},
		{"an address", plain, wild, "http://[2001:db8::1]", "http://[2001:db8::1] true - - X-B - Origin"},
		{"two labels", plain, wild, "https://a.b.shop.example:8443", "- - - - - - Origin"},
		{"no label", plain, wild, "https://shop.example:8443", "- - - - - - Origin"},
		{"an empty label", plain, wild, "https://.shop.example:8443", "- - - - - - Origin"},
		{"another port", plain, wild, "https://a.shop.example", "- - - - - - Origin"},
		{"another scheme", plain, wild, "http://shop.example", "- - - - - - Origin"},
		{"a suffix", plain, wild, "https://evilshop.example", "- - - - - - Origin"},
		{"a prefix", plain, wild, "https://shop.example.evil", "- - - - - - Origin"},
		{"null", plain, wild, "null", "- - - - - - Origin"},
		{"a path", plain, wild, "https://shop.example/", "- - - - - - Origin"},
		{"nobody asks", plain, wild, "", "- - - - - - Origin"},
		{"a stranger's preflight", preflight, wild, "https://evil.example", "- - - - - - Origin"},
		{"anybody", plain, star, "https://evil.example", "* - - - - - -"},
		{"anybody's preflight", preflight, star, "https://evil.example", "* - GET - - - -"},
		{"anybody by a star in the list", plain, CORS{Origins: []Origin{{}}}, "null", "* - - - - - -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", "https://api.example/")
			if c.origin != "" {
				x.Request.Header.Add("Origin", c.origin)
			}
			p := compile(t, Config{CORS: &c.cors}, Env{})
			if c.kind == preflight {
				x.Request.Method = "OPTIONS"
				x.Request.Header.Add("Access-Control-Request-Method", "PUT")
				diff(t, "outcome", outcome(x, p.Admit(x)), ReasonPreflight)
				diff(t, "status", x.Response.Status, 204)
			} else {
				diff(t, "outcome", outcome(x, p.Admit(x)), "passed")
				x.Response = backend(200, "ok", "Access-Control-Allow-Origin", "*", "Access-Control-Allow-Credentials", "true")
			}
			p.Apply(x)
			var got []string
			for _, name := range []string{"Allow-Origin", "Allow-Credentials", "Allow-Methods", "Allow-Headers", "Expose-Headers", "Max-Age"} {
				got = append(got, strings.Join(x.Response.Header.Values("Access-Control-"+name), "|"))
			}
			got = append(got, strings.Join(x.Response.Header.Values("Vary"), "|"))
			for i := range got {
				if got[i] = strings.ReplaceAll(got[i], " ", ""); got[i] == "" {
					got[i] = "-"
				}
			}
			diff(t, "fields", strings.Join(got, " "), c.want)
		})
	}
}

func TestCORSLeavesOtherOptionsAlone(t *testing.T) {
	for _, fields := range [][]string{
		nil,
		{"Origin", "https://shop.example"},
		{"Access-Control-Request-Method", "PUT"},
	} {
		x := newExchange(t, "OPTIONS", "https://api.example/", fields...)
		diff(t, "outcome", outcome(x, compile(t, Config{CORS: &CORS{}}, Env{}).Admit(x)), "passed")
	}
}

func TestCORSTwoOrigins(t *testing.T) {
	c := Config{CORS: &CORS{Origins: []Origin{{"https", "a.example", ""}}}}
	x := newExchange(t, "GET", "https://api.example/", "Origin", "https://a.example", "Origin", "https://b.example")
	x.Response = backend(200, "")
	compile(t, c, Env{}).Apply(x)
	diff(t, "Access-Control-Allow-Origin", x.Response.Header.Get("Access-Control-Allow-Origin"), "")
}

func TestVary(t *testing.T) {
	for _, c := range []struct {
		have []string
		want string
	}{
		{nil, "Origin"},
		{[]string{"Vary", "Accept"}, "Accept|Origin"},
		{[]string{"Vary", "Accept, origin"}, "Accept, origin"},
		{[]string{"Vary", "*"}, "*"},
	} {
		r := backend(200, "", c.have...)
		vary(&r.Header, "Origin")
		diff(t, "Vary", strings.Join(r.Header.Values("Vary"), "|"), c.want)
	}
}

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example", "http://[::1]:80", "null", "https://a:b", "a://", "https://a.example:", "https://[::1", "x+y://h_h.-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, ok := parseOrigin(s)
		if !ok {
			return
		}
		host := o.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		again := o.Scheme + "://" + host
		if o.Port != "" {
			again += ":" + o.Port
		}
		if o2, ok := parseOrigin(again); !ok || o2 != o {
			t.Errorf("%q is %+v, which is written %q, which is %+v, %v", s, o, again, o2, ok)
		}
		if strings.ContainsAny(s, "\r\n\x00 /?#@\\,\"") && strings.Count(s, "/") != 2 {
			t.Errorf("%q is an origin", s)
		}
		if !o.admits(o) || (Origin{o.Scheme, "*." + o.Host, o.Port}).admits(o) {
			t.Errorf("%+v does not admit itself, or is its own child", o)
		}
	})
}
