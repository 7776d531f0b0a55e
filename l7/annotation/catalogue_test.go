package annotation

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

func TestCatalogue(t *testing.T) {
	names, keys := map[string]bool{}, map[string]bool{}
	for _, a := range Catalogue() {
		if a.Scope != Process {
			for _, n := range append([]string{a.Name}, a.Aliases...) {
				if names[n] {
					t.Errorf("%s is there twice", n)
				}
				names[n] = true
			}
		}
		if a.Global != "" {
			if keys[a.Global] {
				t.Errorf("the key %s is there twice", a.Global)
			}
			keys[a.Global] = true
		}
		if a.Scope == Process && (a.Global != a.Name || a.Support != Served || a.Closed) {
			t.Errorf("%s: a key of the ConfigMap has its own name, is served and closes nothing", a.Name)
		}
		if a.Group == "" || a.Values == "" || !strings.HasSuffix(a.Text, ".") && !strings.HasSuffix(a.Text, "…") {
			t.Errorf("%s: group, values and a sentence are required", a.Name)
		}
		if a.Support != Served && (a.Default != "" || a.NginxDefault != "") {
			t.Errorf("%s: what is not served has no default", a.Name)
		}
		for _, text := range []string{a.Name, a.Values, a.Default, a.Text} {
			if strings.ContainsAny(text, "\n\t") {
				t.Errorf("%s: a cell of a table has one line", a.Name)
			}
		}
	}
}

// TestCatalogueIsRead makes sure that everything that is said to be served is asked for, and that defaults can be read.
func TestCatalogueIsRead(t *testing.T) {
	asked := map[string]bool{}
	for _, d := range []route.Dialect{route.Strict, route.Nginx} {
		g := DefaultGlobals()
		for _, list := range [][]string{{}, {"affinity=cookie", "enable-cors=true", "use-gzip=true", "enable-brotli=true", "hsts=true", "limit-rps=1",
			"custom-http-errors=404", "canary=true", "temporal-redirect=/a", "permanent-redirect=/a"}, {"limit-connections=1", "canary=true"}} {
			in := testInput(t, d, list...)
			r := &reader{in: &in, globals: g.values, index: indexed(), found: map[string][]source{}, asked: func(name string) { asked[name] = true }}
			r.scan()
			var s Settings
			get(r, "ssl-passthrough", parseBool)
			s.parse(r, &g)
			s.Canary = canary(r)
			s.parse(r, &g)
			g.process(r)
			for _, f := range r.findings {
				if f.Severity == Refused || f.Severity == Invalid {
					t.Errorf("%v: %v", d, f)
				}
			}
		}
	}
	for _, a := range Catalogue() {
		if a.Support == Served && !asked[a.Name] {
			t.Errorf("%s is said to be served, but nobody asks for it", a.Name)
		}
	}
}

// TestDefaults pins what holds without a single annotation.
func TestDefaults(t *testing.T) {
	strict, findings := Parse(Input{Namespace: "default", Name: "web"})
	if len(findings) > 0 {
		t.Error(findings)
	}
	if strict.Policy.HSTS != nil || strict.Policy.Body.Max != 0 || strict.Policy.Headers.Nginx || strict.Policy.NginxOrder || !strict.Policy.Redirect.KeepSlash {
		t.Errorf("the strict dialect is not: %+v", strict.Policy)
	}
	nginx, findings := Parse(Input{Namespace: "default", Name: "web", Dialect: route.Nginx})
	if len(findings) > 0 {
		t.Error(findings)
	}
	p := nginx.Policy
	if p.HSTS == nil || !p.HSTS.IncludeSubDomains || p.Body.Max != 1<<20 || !p.Headers.Nginx || !p.NginxOrder || p.Redirect.KeepSlash {
		t.Errorf("the dialect of nginx is not: %+v", p)
	}
	for _, s := range []*Settings{&strict, &nginx} {
		if !s.SSLRedirect || s.ForceSSLRedirect || !s.AccessLog || s.Canary != nil || s.Rewrite.Target != "" {
			t.Errorf("bad defaults: %+v", s)
		}
		compiles(t, s)
	}
}

func TestUnserved(t *testing.T) {
	for _, c := range []struct {
		list    []string
		globals map[string]string
		want    []string // key, severity
		closed  bool
	}{
		{list: []string{NginxPrefix + "configuration-snippet=deny all;"}, want: []string{NginxPrefix + "configuration-snippet refused"}, closed: true},
		{list: []string{"server-snippet=x"}, want: []string{OwnPrefix + "server-snippet refused"}, closed: true},
		{
			list: []string{NginxPrefix + "configuration-snippet=deny all;"}, globals: map[string]string{"refused-annotations": "ignore"},
			want: []string{NginxPrefix + "configuration-snippet ignored"},
		},
		{list: []string{NginxPrefix + "enable-modsecurity=false"}},
		{list: []string{NginxPrefix + "enable-modsecurity=true"}, want: []string{NginxPrefix + "enable-modsecurity refused"}, closed: true},
		{list: []string{NginxPrefix + "auth-tls-secret=default/ca"}, want: []string{NginxPrefix + "auth-tls-secret refused"}, closed: true},
		{
			list: []string{NginxPrefix + "auth-tls-secret=default/ca"}, globals: map[string]string{"refused-annotations": "ignore"},
			want: []string{NginxPrefix + "auth-tls-secret refused"}, closed: true,
		},
		{list: []string{NginxPrefix + "auth-tls-secret=default/ca", NginxPrefix + "auth-tls-verify-client=off"}, want: []string{NginxPrefix + "auth-tls-secret ignored"}},
		{list: []string{NginxPrefix + "mirror-target=https://a"}, want: []string{NginxPrefix + "mirror-target ignored"}},
		{list: []string{NginxPrefix + "proxy-buffering=on"}, want: []string{NginxPrefix + "proxy-buffering ignored"}},
		{list: []string{NginxPrefix + "proxy-buffering=off", NginxPrefix + "session-cookie-conditional-samesite-none=false"}},
		{list: []string{NginxPrefix + "slow-start=5"}, want: []string{NginxPrefix + "slow-start ignored"}},
		{list: []string{"nonsense=1"}, want: []string{OwnPrefix + "nonsense ignored"}},
		{list: []string{"proxy-bodysize=1"}, want: []string{OwnPrefix + "proxy-bodysize ignored"}},
		{list: []string{NginxPrefix + "whitelist-source-rang=10.0.0.0/8"}, want: []string{NginxPrefix + "whitelist-source-rang refused"}, closed: true},
		{list: []string{"auth-urls=https://a"}, want: []string{OwnPrefix + "auth-urls refused"}, closed: true},
		{list: []string{"http-redirect-code=301"}, want: []string{OwnPrefix + "http-redirect-code ignored"}},
		{list: []string{"kubernetes.io/ingress.class=nginx", "example.com/auth-url=x"}},
		{list: []string{"auth-url="}, want: []string{OwnPrefix + "auth-url refused"}, closed: true},
		{list: []string{"limit-rps=\n"}, want: []string{OwnPrefix + "limit-rps refused"}, closed: true},
	} {
		in := testInput(t, route.Nginx, c.list...)
		in.Globals = testGlobals(t, c.globals)
		s, findings := Parse(in)
		var got []string
		for _, f := range findings {
			got = append(got, f.Key+" "+f.Severity.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: want -, got +:\n%s", c.list, diff)
		}
		if (s.Policy.Refused != "") != c.closed {
			t.Errorf("%q: closed: %q", c.list, s.Policy.Refused)
		}
	}
}

func TestDocument(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	golden.File(t, filepath.Join("..", "..", "docs", "annotations.md"), b.String())
	for _, v := range Variables() {
		if !strings.Contains(b.String(), "$"+strings.ReplaceAll(v+"NAME`", "_NAME`", "_NAME`")) && !strings.Contains(b.String(), "$"+v+"`") {
			t.Errorf("$%s is not mentioned", v)
		}
	}
}

func TestNearest(t *testing.T) {
	ix := indexed()
	for name, want := range map[string]string{
		"limit-rpx":              "limit-rpm",
		"whitelist-source-rangs": "whitelist-source-range",
		"ssl-redirct":            "ssl-redirect",
		"hst":                    "",
		"a-name-of-its-own":      "",
	} {
		if got := ix.nearest(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// No name of ingress-nginx may be taken for a mistake.
	for _, a := range Catalogue() {
		if a.Scope != Process && ix.annotations[a.Name] == nil {
			t.Errorf("%s is not found", a.Name)
		}
	}
}

func TestSlips(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"abc", "xabcx", 2}, {"abc", "xyz", 3}, {"a", "abcd", 3}} {
		if got := slips(c.a, c.b, 2); got != c.want {
			t.Errorf("%s, %s: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
