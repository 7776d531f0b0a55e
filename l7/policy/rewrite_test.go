package policy

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/route"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		name, pattern, target, url string
		want                       string // path?query, or the reason
	}{
		{"no pattern", "", "/", "/a/b?c=d", "/?c=d"},
		{"the usual", `(?i)^/api(/|$)(.*)`, "/$2", "/api/users?id=1", "/users?id=1"},
		{"the usual, at its end", `(?i)^/api(/|$)(.*)`, "/$2", "/api", "/"},
		{"braces", `^/(\w+)/(\w+)`, "/${2}0/$1", "/a/b", "/b0/a"},
		{"the whole path goes", `^/a(\d)`, "/x$1", "/a1/and/more", "/x1"},
		{"no match", `^/api/(.*)`, "/$1", "/other", "/other"},
		{"no such capture", `^/(a)`, "/$1$2", "/a", "/a"},
		{"a capture that took no part", `^/(a)?(b)`, "/$1$2", "/b", "/b"},
		{"a query in front", `^/p/(.*)$`, "/show?page=$1", "/p/a&b=c+d?e=f", "/show?page=a%26b=c%2Bd&e=f"},
		{"a query without path", `^/p/(.*)$`, "/?q=$1", "/p/x", "/?q=x"},
		{"escapes stay", `^/p(/.*)$`, "$1", "/p/a%2Fb%20c", "/a%2Fb%20c"},
		{"climbing out", `^/api/?(.*)$`, "/public/$1", "/api/..;/x", "bad-rewrite"},
		{"climbing out by pieces", `^/api(.*)/x(.*)$`, "/p/$1$2", "/api./x./s", "bad-rewrite"},
		{"another host", `^/api(.*)$`, "/$1", "/api//evil.example", "bad-rewrite"},
		{"two slashes", `^/api(.*)$`, "/$1", "/api/users", "bad-rewrite"},
		{"no slash", `^/api/(.*)$`, "$1", "/api/users", "bad-rewrite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pattern *regexp.Regexp
			if c.pattern != "" {
				pattern = regexp.MustCompile(c.pattern)
			}
			x := newExchange(t, "GET", "http://a.example"+c.url)
			p := compile(t, Config{Rewrite: &Rewrite{Pattern: pattern, Target: c.target}}, env(t))
			got := outcome(x, p.Admit(x))
			if got == "passed" {
				got = x.Request.Path
				if x.Request.HasQuery {
					got += "?" + x.Request.Query
				}
			} else {
				diff(t, "status", x.Response.Status, 400)
			}
			diff(t, "rewritten", got, c.want)
		})
	}
}

func TestRewriteMergesWhereTheDialectDoes(t *testing.T) {
	e := env(t)
	e.Canonical = func(p string) (string, error) {
		return route.Canonical(p, route.Options{MergeSlashes: true, Rewritten: true})
	}
	x := newExchange(t, "GET", "http://a.example/api/users")
	p := compile(t, Config{Rewrite: &Rewrite{Pattern: regexp.MustCompile(`^/api(.*)$`), Target: "/$1"}}, e)
	diff(t, "outcome", outcome(x, p.Admit(x)), "passed")
	diff(t, "path", x.Request.Path, "/users")
}

func TestRewritePrefix(t *testing.T) {
	p := compile(t, Config{Rewrite: &Rewrite{Pattern: regexp.MustCompile(`^/api/(.*)$`), Target: "/$1", Prefix: "/api"}}, env(t))
	x := newExchange(t, "GET", "http://a.example/api/users", "X-Forwarded-Prefix", "/forged")
	p.Admit(x)
	diff(t, "X-Forwarded-Prefix", x.Request.Header.Values("X-Forwarded-Prefix"), []string{"/api"})
}

func TestRewriteIsBounded(t *testing.T) {
	p := compile(t, Config{Rewrite: &Rewrite{Pattern: regexp.MustCompile(`^(.*)$`), Target: strings.Repeat("$1", 20)}}, env(t))
	x := newExchange(t, "GET", "http://a.example/"+strings.Repeat("a", 1000))
	diff(t, "outcome", outcome(x, p.Admit(x)), ReasonBadRewrite)
}

func TestRewriteObeysCanonical(t *testing.T) {
	e := env(t)
	e.Canonical = func(string) (string, error) { return "", errors.New("no") }
	x := newExchange(t, "GET", "http://a.example/a")
	diff(t, "outcome", outcome(x, compile(t, Config{Rewrite: &Rewrite{Target: "/b"}}, e).Admit(x)), ReasonBadRewrite)
	diff(t, "path", x.Request.Path, "/a")
}

func FuzzRewrite(f *testing.F) {
	f.Add(`^/api(/|$)(.*)`, "/$2", "/api/users")
	f.Add(`^/(.*)`, "/x/$1", "/%2e%2e/y")
	f.Add(`(.)(.)(.)`, "/$3${2}$1?a=$1", "/..")
	f.Add(`^(/[^/]*)(.*)$`, "$2$1", "/a//b;c=d")
	f.Fuzz(func(t *testing.T, pattern, target, raw string) {
		path, err := route.Canonical(raw, route.Options{})
		if err != nil || len(pattern) > 200 {
			return
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return
		}
		p, err := Compile(Config{Rewrite: &Rewrite{Pattern: re, Target: target}}, env(t))
		if err != nil {
			return
		}
		x := newExchange(t, "GET", "http://a.example/")
		x.Request.Path = path
		if !p.Admit(x) {
			return
		}
		got := x.Request.Path
		if got == path {
			return // nothing matched
		}
		again, err := route.Canonical(got, route.Options{})
		if err != nil || again != got {
			t.Errorf("rewrite of %q by %q to %q: %q is not canonical: %q, %v", path, pattern, target, got, again, err)
		}
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got+x.Request.Query, "\r\n\x00 ") {
			t.Errorf("rewrite of %q by %q to %q: %q?%q", path, pattern, target, got, x.Request.Query)
		}
		for segment := range strings.SplitSeq(got, "/") {
			if s := strings.ReplaceAll(strings.ToLower(segment), "%2e", "."); s == "." || s == ".." {
				t.Errorf("rewrite of %q by %q to %q: %q has dot segments", path, pattern, target, got)
			}
		}
	})
}
