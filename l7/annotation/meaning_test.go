package annotation

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

func noErrorPage(*exchange.Exchange, exchange.Header) (*exchange.Response, error) { return nil, nil }

// said returns the severity of what is said about key, or nothing.
func said(findings []Finding, key string) string {
	for _, f := range findings {
		if f.Key == key {
			return f.Severity.String()
		}
	}
	return ""
}

// TestDialects is what the two dialects make of the same annotations.
func TestDialects(t *testing.T) {
	for _, c := range []struct {
		list          []string
		get           func(*Settings) any
		strict, nginx any
	}{
		{[]string{"limit-rps=1"}, func(s *Settings) any { return s.Policy.Limiting.Status }, 429, 503},
		{[]string{"limit-connections=1"}, func(s *Settings) any { return s.Policy.Limiting.Status }, 429, 503},
		{[]string{"enable-cors=true"}, func(s *Settings) any { return s.Policy.CORS.Credentials }, false, true},
		{[]string{"enable-cors=true", "cors-allow-credentials=true"}, func(s *Settings) any { return s.Policy.Refused != "" }, true, false},
		{[]string{"auth-url=https://a.example"}, func(s *Settings) any { return s.Policy.ExtAuth.Timeout }, 10 * time.Second, time.Minute},
		{[]string{"auth-secret=users"}, func(s *Settings) any { return s.Policy.BasicAuth != nil }, true, false},
		{[]string{"custom-headers=fields"}, func(s *Settings) any { return len(s.Policy.Headers.Response) }, 2, 0},
		{[]string{"backend-protocol=HTTPS"}, func(s *Settings) any { return s.Upstream.TLS.ServerName }, true, false},
	} {
		for d, want := range map[route.Dialect]any{route.Strict: c.strict, route.Nginx: c.nginx} {
			s, _ := Parse(testInput(t, d, c.list...))
			if got := c.get(&s); got != want {
				t.Errorf("%q, %v: got %v, want %v", c.list, d, got, want)
			}
			compiles(t, &s)
		}
	}
}

// TestFailClosed is about what looks harmless and would open something.
func TestFailClosed(t *testing.T) {
	for _, c := range []struct {
		name   string
		list   []string
		closed bool
		key    string // what something is said about
		said   string
	}{
		{"no secret named", []string{"auth-type=basic"}, true, OwnPrefix + "auth-type", "refused"},
		{"secret missing", []string{"auth-type=basic", "auth-secret=missing"}, false, OwnPrefix + "auth-secret", "refused"},
		{"secret without auth", []string{"auth-type=basic", "auth-secret=empty"}, false, OwnPrefix + "auth-secret", "refused"},
		{"one user is bad", []string{"auth-type=basic", "auth-secret=mixed"}, false, OwnPrefix + "auth-secret", "invalid"},
		{"bad origin, no credentials", []string{"enable-cors=true", "cors-allow-origin=https://a.example/x"}, false, OwnPrefix + "cors-allow-origin", "invalid"},
		{"bad origin, credentials", []string{"enable-cors=true", "cors-allow-credentials=true", "cors-allow-origin=https://a.example,https://b/x"}, true, OwnPrefix + "cors-allow-origin", "refused"},
		{"no origin, credentials", []string{"enable-cors=true", "cors-allow-credentials=true", "cors-allow-origin="}, true, OwnPrefix + "cors-allow-origin", "refused"},
		{"cors off, all of it bad", []string{"cors-allow-credentials=x", "cors-allow-origin=x"}, false, "", ""},
		{"verify without CA", []string{"backend-protocol=HTTPS", "proxy-ssl-verify=on"}, true, OwnPrefix + "proxy-ssl-verify", "refused"},
		{"own is bad, nginx' is good", []string{"limit-rps=x", NginxPrefix + "limit-rps=5"}, true, OwnPrefix + "limit-rps", "refused"},
		{"two names", []string{"allowlist-source-range=10.0.0.0/8", "whitelist-source-range=0.0.0.0/0"}, false, OwnPrefix + "whitelist-source-range", "ignored"},
		{"canary", []string{"canary=true", "auth-url=nonsense", "configuration-snippet=x"}, false, OwnPrefix + "auth-url", "ignored"},
		{"passthrough", []string{"ssl-passthrough=true", "auth-url=nonsense", "limit-rps=5"}, false, OwnPrefix + "limit-rps", "ignored"},
	} {
		s, findings := Parse(testInput(t, route.Strict, c.list...))
		if got := s.Policy.Refused != ""; got != c.closed {
			t.Errorf("%s: closed %v, want %v: %s", c.name, got, c.closed, s.Policy.Refused)
		}
		if c.key != "" && said(findings, c.key) != c.said {
			t.Errorf("%s: want %s to be %s; %v", c.name, c.key, c.said, findings)
		}
		compiles(t, &s)
	}
}

func TestPassthroughNeedsTheProcess(t *testing.T) {
	in := testInput(t, route.Strict, "ssl-passthrough=true", "limit-rps=1")
	in.Globals.SSLPassthrough = false
	s, findings := Parse(in)
	if s.Routing.SSLPassthrough || s.Policy.Limits == nil || said(findings, OwnPrefix+"ssl-passthrough") != "ignored" {
		t.Errorf("got %+v and %v", s.Routing, findings)
	}
}

func TestBadSecretLetsNobodyIn(t *testing.T) {
	for _, secret := range []string{"missing", "empty"} {
		s, _ := Parse(testInput(t, route.Strict, "auth-type=basic", "auth-secret="+secret))
		if s.Policy.BasicAuth == nil || s.Policy.BasicAuth.Users != nil {
			t.Errorf("%s: got %+v, want a question that nobody can answer", secret, s.Policy.BasicAuth)
		}
	}
	in := testInput(t, route.Strict, "auth-type=basic", "auth-secret=users")
	in.SecretData = nil
	s, findings := Parse(in)
	if s.Policy.BasicAuth == nil || s.Policy.BasicAuth.Users != nil || len(findings) > 0 {
		t.Errorf("without Secrets: got %+v and %v", s.Policy.BasicAuth, findings)
	}
}

func TestBadOriginsAllowNothing(t *testing.T) {
	s, _ := Parse(testInput(t, route.Strict, "enable-cors=true", "cors-allow-origin=https://a.example/x"))
	if s.Policy.CORS != nil {
		t.Errorf("got %+v, want none", s.Policy.CORS)
	}
	s, _ = Parse(testInput(t, route.Strict, "enable-cors=true", "cors-allow-origin=\x00"))
	if s.Policy.CORS != nil {
		t.Errorf("got %+v, want none", s.Policy.CORS)
	}
	s, _ = Parse(testInput(t, route.Strict, "enable-cors=true", "cors-allow-origin=https://a.example/x,https://b.example"))
	if want := []policy.Origin{{Scheme: "https", Host: "b.example"}}; s.Policy.CORS == nil || !slices.Equal(s.Policy.CORS.Origins, want) {
		t.Errorf("got %+v, want %v", s.Policy.CORS, want)
	}
}

func TestRule(t *testing.T) {
	for _, c := range []struct {
		name    string
		list    []string
		dialect route.Dialect
		rule    Rule
		rewrite *policy.Rewrite
		bad     string
	}{
		{name: "none", rule: Rule{Path: "/a"}},
		{name: "whole path", list: []string{"rewrite-target=/b"}, rule: Rule{Path: "/a"}, rewrite: &policy.Rewrite{Target: "/b"}},
		{name: "same path", list: []string{"rewrite-target=/a"}, rule: Rule{Path: "/a"}},
		{
			name: "captures", list: []string{"rewrite-target=/$2"}, rule: Rule{Path: "/a(/|$)(.*)", Regex: true},
			rewrite: &policy.Rewrite{Pattern: regexp.MustCompile("(?i)^(?:/a(/|$)(.*))"), Target: "/$2"},
		},
		{name: "too few captures", list: []string{"rewrite-target=/$3"}, rule: Rule{Path: "/a(/|$)(.*)", Regex: true}, bad: "captures 2 groups"},
		{
			name: "too few captures, as nginx has it", list: []string{"rewrite-target=/$3"}, dialect: route.Nginx, rule: Rule{Path: "/a(/|$)(.*)", Regex: true},
			rewrite: &policy.Rewrite{Pattern: regexp.MustCompile("(?i)^/a(/|$)(.*)"), Target: "/$3"},
		},
		{name: "captures of no pattern", list: []string{"rewrite-target=/$1"}, rule: Rule{Path: "/a"}, bad: "see use-regex"},
		{name: "look-ahead", list: []string{"rewrite-target=/$1"}, rule: Rule{Path: "/(?!admin)(.*)", Regex: true}, bad: "look-ahead"},
	} {
		s, _ := Parse(testInput(t, c.dialect, c.list...))
		got, err := s.Rule(c.rule)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) || got.Refused == "" {
				t.Errorf("%s: got %v and closed %q, want an error with %q", c.name, err, got.Refused, c.bad)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.rewrite, got.Rewrite, compare()); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", c.name, diff)
		}
	}
}

func TestRuleFacts(t *testing.T) {
	s, _ := Parse(testInput(t, route.Strict, "auth-type=basic", "auth-secret=users", "auth-url=https://a.example", "upstream-vhost=$service_name.$namespace.svc"))
	c, _ := s.Rule(Rule{Path: "/", Service: "cart", Certificate: true})
	if !c.Redirect.HTTPS || c.BasicAuth == nil || c.ExtAuth == nil || c.Headers.Upstream != "cart.default.svc" {
		t.Errorf("got %+v", c)
	}
	c, _ = s.Rule(Rule{Path: "/.well-known/acme-challenge/x"})
	if c.Redirect.HTTPS || c.BasicAuth != nil || c.ExtAuth != nil {
		t.Errorf("got %+v", c)
	}
	s, _ = Parse(testInput(t, route.Strict, "force-ssl-redirect=true", "affinity=cookie"))
	if c, _ := s.Rule(Rule{Path: "/"}); !c.Redirect.HTTPS {
		t.Error("no redirect without a certificate")
	}
	for _, c := range []struct {
		rule Rule
		want string
	}{{Rule{Path: "/a"}, "/a"}, {Rule{Path: "/a.*", Regex: true}, "/"}, {Rule{}, "/"}} {
		if got := s.CookiePath(c.rule); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.rule, got, c.want)
		}
	}
}

func TestTemplate(t *testing.T) {
	for s, want := range map[string]string{
		"":                       "",
		"a":                      "a",
		"$host":                  "$host",
		"${host}":                "$host",
		"${host}a":               "${host}a",
		"a$HTTP_X_Tenant-b":      "a$http_x_tenant-b",
		"$binary_remote_addr":    "$remote_addr",
		"$query_string$is_args":  "$args$is_args",
		"$cookie_a${arg_b}$uri/": "$cookie_a$arg_b$uri/",
	} {
		tpl, err := parseTemplate(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if got := tpl.String(); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
		again, err := parseTemplate(tpl.String())
		if diff := cmp.Diff(tpl, again); err != nil || diff != "" {
			t.Errorf("%q: once more: %v\n%s", s, err, diff)
		}
	}
	tpl, err := parseTemplate("a${host}b")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(tpl.Append([]byte(">"), strings.ToUpper)); got != ">aHOSTb" {
		t.Errorf("got %q", got)
	}
	for _, s := range []string{"$", "a$", "$$", "${", "${}", "${a b}", "${host", "$lua_x", "$http_", "$1", "${ä}"} {
		if tpl, err := parseTemplate(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, tpl)
		}
	}
}

func TestPattern(t *testing.T) {
	for _, s := range []string{"/a", "/a(/|$)(.*)", "(?i)^x", `\d+\.`, "[^]]", "[]a]", "(?P<n>a)", "(?<n>a)", `[\1]`, `a\++`, "a+?"} {
		if _, err := CompilePattern(s); err != nil && s != `[\1]` {
			t.Errorf("%q: %v", s, err)
		}
	}
	for s, want := range map[string]string{
		"(?=a)":                   "look-ahead",
		"/(?!admin).*":            "look-ahead",
		"(?<=a)b":                 "look-behind",
		"(?<!a)b":                 "look-behind",
		`(a)\1`:                   "back-reference",
		`(?P<n>a)(?P=n)`:          "back-reference",
		`(?<n>a)\k<n>`:            "back-reference",
		"(?>a)":                   "atomic group",
		"a++":                     "possessive",
		"(?(1)a)":                 "condition",
		"(?R)":                    "recursion",
		"(":                       "missing closing",
		"a{1001}":                 "repeat count",
		strings.Repeat("a", 1025): "longer than 1024",
		"(a{1000}){1}" + strings.Repeat("b{1000}", 20): "too large",
		"a\nb": "control character",
	} {
		if _, err := CompilePattern(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want it to say %q", s, err, want)
		}
	}
}

func TestFindings(t *testing.T) {
	for _, c := range []struct {
		f    Finding
		want string
	}{
		{Finding{Key: NginxPrefix + "server-snippet", Severity: Refused}, "RefusedSnippet"},
		{Finding{Key: "a", Severity: Invalid}, "InvalidAnnotation"},
		{Finding{Key: "a", Severity: Ignored}, "UnsupportedAnnotation"},
		{Finding{Key: "a", Severity: Differs}, "AnnotationDiffers"},
	} {
		if got := c.f.Reason(); got != c.want {
			t.Errorf("%v: got %s, want %s", c.f, got, c.want)
		}
	}
	b, err := json.Marshal(Finding{Key: "k", Severity: Ignored, Message: "m"})
	if want := `{"key":"k","severity":"ignored","message":"m"}`; err != nil || string(b) != want {
		t.Errorf("got %s and %v, want %s", b, err, want)
	}
}

// eachString calls do for every string in v.
func eachString(v reflect.Value, do func(string)) {
	switch v.Kind() {
	case reflect.String:
		do(v.String())
	case reflect.Pointer, reflect.Interface:
		if v.Type() == reflect.TypeFor[*regexp.Regexp]() || v.Type() == reflect.TypeFor[policy.Htpasswd]() {
			return
		}
		if !v.IsNil() {
			eachString(v.Elem(), do)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			eachString(v.Field(i), do)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			eachString(v.Index(i), do)
		}
	}
}

func TestEachStringBites(t *testing.T) {
	s := Settings{Policy: policy.Config{Headers: policy.Headers{Request: []policy.Field{{Name: "a"}}}}, exempt: []string{"b"}, Canary: &Canary{Header: "c"}}
	seen := map[string]bool{}
	eachString(reflect.ValueOf(s), func(s string) { seen[s] = true })
	for _, want := range []string{"a", "b", "c"} {
		if !seen[want] {
			t.Errorf("%q is not seen", want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range goodCases() {
		f.Add(c.name, c.value, strings.Join(c.with, "\x00"), false)
	}
	for name, list := range badCases() {
		for _, v := range list {
			f.Add(name, v, strings.Join(companions(name), "\x00"), true)
		}
	}
	f.Add("permanent-redirect", "$scheme://xflvarxax.example/", "", false)
	base := testInput(f, route.Strict)
	f.Fuzz(func(t *testing.T, name, value, with string, nginx bool) {
		in := base
		in.Annotations = written(strings.Split(with, "\x00")...)
		in.Annotations[OwnPrefix+name] = value
		if nginx {
			in.Dialect = route.Nginx
			in.Annotations[NginxPrefix+name] = value
		}
		s, findings := Parse(in)
		again, findingsAgain := Parse(in)
		if diff := cmp.Diff(s, again, compare()); diff != "" || !slices.Equal(findings, findingsAgain) {
			t.Fatalf("the second time it is different:\n%s", diff)
		}
		eachString(reflect.ValueOf(s), func(text string) {
			if clean(text, false) != nil && text != s.Policy.Refused {
				t.Errorf("%q got through", text)
			}
		})
		compiles(t, &s)
	})
}

func BenchmarkParse(b *testing.B) {
	in := testInput(b, route.Strict, NginxPrefix+"proxy-body-size=8m", NginxPrefix+"rewrite-target=/$2", NginxPrefix+"use-regex=true",
		NginxPrefix+"limit-rps=5", NginxPrefix+"enable-cors=true")
	b.ReportAllocs()
	for b.Loop() {
		Parse(in)
	}
}
