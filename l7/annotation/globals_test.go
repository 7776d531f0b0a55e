package annotation

import (
	"crypto/tls"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

func TestGlobalsDefaults(t *testing.T) {
	g := DefaultGlobals()
	want := Globals{
		Clients: Clients{
			ForwardedForHeader: "X-Forwarded-For", GenerateRequestID: true, ProxyProtocolTimeout: 5 * time.Second,
		},
		Listeners: Listeners{
			Idle: 75 * time.Second, Requests: 10_000, HeadTimeout: 30 * time.Second, BodyTimeout: time.Minute, MaxLine: 8 << 10, MaxHead: 32 << 10,
			HTTP2: true, MaxConcurrent: 128, Drain: 240 * time.Second,
		},
		Keepalive: Keepalive{Connections: 320, Timeout: time.Minute, Requests: 10_000, Age: time.Hour},
		TLS:       TLS{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13, Tickets: true},
	}
	want.strictPaths[route.Nginx], want.values = true, map[dialectKey]string{}
	if diff := cmp.Diff(want, g, cmp.AllowUnexported(Globals{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if g.StrictPaths(route.Strict) || !g.StrictPaths(route.Nginx) {
		t.Error("paths are strict in the wrong dialect")
	}
}

// A globalCase is one key of the ConfigMap. A nil want means that the value is bad.
type globalCase struct {
	key, value string
	get        func(*Globals) any
	want       any
}

func globalCases() []globalCase {
	rule := func(f func(*Settings) any) func(*Globals) any {
		return func(g *Globals) any {
			s, _ := Parse(Input{Namespace: "default", Name: "web", Globals: g, Dialect: route.Nginx, Annotations: written("limit-rps=1", "auth-type=basic", "auth-secret=x")})
			return f(&s)
		}
	}
	clients := func(f func(*Clients) any) func(*Globals) any { return func(g *Globals) any { return f(&g.Clients) } }
	listen := func(f func(*Listeners) any) func(*Globals) any {
		return func(g *Globals) any { return f(&g.Listeners) }
	}
	return []globalCase{
		{"http-redirect-code", "301", rule(func(s *Settings) any { return s.Policy.Redirect.HTTPSCode }), 301},
		{"http-redirect-code", "303", nil, nil},
		{"no-tls-redirect-locations", "/a,/b", rule(func(s *Settings) any { return strings.Join(s.Policy.Redirect.ExemptPrefix, " ") }), "/a /b"},
		{"no-auth-locations", "/open", rule(func(s *Settings) any {
			c, _ := s.Rule(Rule{Path: "/open/door"})
			return c.BasicAuth == nil
		}), true},
		{"auth-allow-local", "true", func(g *Globals) any {
			s, _ := Parse(Input{Globals: g, Annotations: written("auth-url=http://a.example")})
			return s.Policy.ExtAuth.Local
		}, true},
		{"refused-annotations", "serve", nil, nil},
		{"limit-req-status-code", "429", rule(func(s *Settings) any { return s.Policy.Limiting.Status }), 429},
		{"limit-conn-status-code", "420", func(g *Globals) any {
			s, _ := Parse(Input{Globals: g, Annotations: written("limit-connections=1")})
			return s.Policy.Limiting.Status
		}, 420},
		{"block-cidrs", "192.0.2.1, 2001:db8::/32", clients(func(c *Clients) any { return len(c.BlockRanges) }), 2},
		{"block-user-agents", "curl/8.0, ~*bot", clients(func(c *Clients) any {
			return c.BlockAgents[0].Match("curl/8.0") && !c.BlockAgents[0].Match("curl/8.01") && c.BlockAgents[1].Match("GoogleBot/2")
		}), true},
		{"block-user-agents", "~(?=a)", nil, nil},
		{"block-referers", "~^https://spam", clients(func(c *Clients) any { return c.BlockReferers[0].Match("https://spam.example") }), true},
		{"retry-non-idempotent", "true", rule(func(s *Settings) any { return s.Upstream.Retry.NonIdempotent }), true},
		{"global-allowed-response-headers", "X-A", func(g *Globals) any {
			s, findings := Parse(Input{Globals: g, Dialect: route.Nginx, Annotations: written("response-headers=X-A: 1\nX-B: 2")})
			return len(s.Policy.Headers.Response) == 1 && said(findings, OwnPrefix+"response-headers") == "invalid"
		}, true},
		{"proxy-set-headers", "ingress/up", func(g *Globals) any { return g.ProxySetHeaders }, service.Name{Namespace: "ingress", Name: "up"}},
		{"proxy-set-headers", "up", func(g *Globals) any { return g.ProxySetHeaders }, service.Name{Name: "up"}},
		{"proxy-set-headers", "a/b/c", nil, nil},
		{"add-headers", "ingress/down", func(g *Globals) any { return g.AddHeaders }, service.Name{Namespace: "ingress", Name: "down"}},
		{"allow-backend-server-header", "true", rule(func(s *Settings) any { return s.Policy.Headers.Server }), true},
		{"generate-request-id", "false", clients(func(c *Clients) any { return c.GenerateRequestID }), false},
		{"proxy-add-original-uri-header", "true", clients(func(c *Clients) any { return c.OriginalURI }), true},
		{"use-forwarded-headers", "true", clients(func(c *Clients) any { return c.UseForwardedHeaders }), true},
		{"proxy-real-ip-cidr", "10.0.0.0/8", clients(func(c *Clients) any { return c.Trusted[0] }), netip.MustParsePrefix("10.0.0.0/8")},
		{"forwarded-for-header", "CF-Connecting-IP", clients(func(c *Clients) any { return c.ForwardedForHeader }), "CF-Connecting-IP"},
		{"forwarded-for-header", "Host", nil, nil},
		{"compute-full-forwarded-for", "true", clients(func(c *Clients) any { return c.FullForwardedFor }), true},
		{"enable-forwarded-rfc7239", "true", clients(func(c *Clients) any { return c.Forwarded }), true},
		{"use-proxy-protocol", "true", clients(func(c *Clients) any { return c.ProxyProtocol }), true},
		{"proxy-protocol-header-timeout", "2s", clients(func(c *Clients) any { return c.ProxyProtocolTimeout }), 2 * time.Second},
		{"enable-underscores-in-headers", "true", clients(func(c *Clients) any { return c.Underscores }), true},
		{"ignore-invalid-headers", "false", nil, nil},
		{"ignore-invalid-headers", "true", func(*Globals) any { return true }, true},
		{"strict-validate-path-type", "false", func(g *Globals) any { return g.StrictPaths(route.Nginx) }, false},
		{"keep-alive", "0", listen(func(l *Listeners) any { return l.Idle }), time.Duration(0)},
		{"keep-alive-requests", "100", listen(func(l *Listeners) any { return l.Requests }), 100},
		{"client-header-timeout", "10", listen(func(l *Listeners) any { return l.HeadTimeout }), 10 * time.Second},
		{"client-body-timeout", "10", listen(func(l *Listeners) any { return l.BodyTimeout }), 10 * time.Second},
		{"large-client-header-buffers", "8 16k", listen(func(l *Listeners) any { return []int64{l.MaxLine, l.MaxHead} }), []int64{16 << 10, 128 << 10}},
		{"large-client-header-buffers", "8k", nil, nil},
		{"large-client-header-buffers", "0 8k", nil, nil},
		{"large-client-header-buffers", "4 1", nil, nil},
		{"http2-max-concurrent-streams", "64", listen(func(l *Listeners) any { return l.MaxConcurrent }), 64},
		{"use-http2", "false", listen(func(l *Listeners) any { return l.HTTP2 }), false},
		{"worker-shutdown-timeout", "10s", listen(func(l *Listeners) any { return l.Drain }), 10 * time.Second},
		{"upstream-keepalive-connections", "10", func(g *Globals) any { return g.Keepalive.Connections }, 10},
		{"upstream-keepalive-timeout", "10", func(g *Globals) any { return g.Keepalive.Timeout }, 10 * time.Second},
		{"upstream-keepalive-requests", "10", func(g *Globals) any { return g.Keepalive.Requests }, 10},
		{"upstream-keepalive-time", "10m", func(g *Globals) any { return g.Keepalive.Age }, 10 * time.Minute},
		{"ssl-protocols", "TLSv1.1 TLSv1.3", func(g *Globals) any { return g.TLS.MinVersion }, uint16(tls.VersionTLS13)},
		{"ssl-protocols", "SSLv3", nil, nil},
		{"ssl-ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-SHA",
			func(g *Globals) any { return g.TLS.Ciphers },
			[]uint16{
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
				tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
			}},
		{"ssl-ciphers", "RC4-SHA", nil, nil},
		{"ssl-session-tickets", "false", func(g *Globals) any { return g.TLS.Tickets }, false},
		{"ssl-reject-handshake", "true", func(g *Globals) any { return g.TLS.RejectHandshake }, true},
		{"disable-access-log", "true", rule(func(s *Settings) any { return s.AccessLog }), false},
		{"skip-access-log-urls", "/healthz", func(g *Globals) any { return strings.Join(g.Log.Skip, " ") }, "/healthz"},
		{"log-format-upstream", "$remote_addr $status", func(g *Globals) any { return g.Log.Format }, "$remote_addr $status"},
		{"log-format-escape-json", "true", func(g *Globals) any { return g.Log.EscapeJSON }, true},
		{"hsts", "false", rule(func(s *Settings) any { return s.Policy.HSTS == nil }), true},
		{"whitelist-source-range", "10.0.0.0/8", rule(func(s *Settings) any { return len(s.Policy.Access.Allow) }), 1},
		{"proxy-body-size", "20m", rule(func(s *Settings) any { return s.Policy.Body.Max }), int64(20 << 20)},
		{"custom-http-errors", "500,503", rule(func(s *Settings) any { return len(s.Policy.Errors.Statuses) }), 2},
		{"global-auth-url", "https://auth.example", rule(func(s *Settings) any { return s.Policy.ExtAuth.URL }), "https://auth.example"},
	}
}

func TestGlobals(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range globalCases() {
		seen[c.key] = true
		g, findings := ParseGlobals(map[string]string{c.key: c.value})
		if c.want == nil {
			if said(findings, c.key) != "invalid" {
				t.Errorf("%s: %s: got %v, want it to be invalid", c.key, c.value, findings)
			}
			if diff := cmp.Diff(DefaultGlobals(), g, cmp.AllowUnexported(Globals{})); diff != "" {
				t.Errorf("%s: %s: not the default:\n%s", c.key, c.value, diff)
			}
			continue
		}
		if len(findings) > 0 {
			t.Errorf("%s: %s: %v", c.key, c.value, findings)
		}
		if diff := cmp.Diff(c.want, c.get(&g), compare()); diff != "" {
			t.Errorf("%s: %s: want -, got +:\n%s", c.key, c.value, diff)
		}
	}
	for _, a := range processEntries {
		if !seen[a.Name] {
			t.Errorf("%s has no case", a.Name)
		}
	}
}

func TestGlobalsFindings(t *testing.T) {
	g, findings := ParseGlobals(map[string]string{
		"map-hash-bucket-size": "128", "proxy-buffering": "on", "proxy-buffers-number": "4", "keep-alive": "x\x00", "custom-http-errors": "",
		"limit-rate": "0", "ssl-ciphers": "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256", "proxy-connect-timeout": "soon",
	})
	var got []string
	for _, f := range findings {
		got = append(got, f.Key+" "+f.Severity.String())
	}
	want := []string{"keep-alive invalid", "proxy-connect-timeout invalid", "map-hash-bucket-size ignored", "proxy-buffering ignored", "proxy-buffers-number ignored", "ssl-ciphers differs"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if len(g.TLS.Ciphers) != 1 {
		t.Errorf("got %v, want the one that Go has", g.TLS.Ciphers)
	}
}

// TestGlobalsFailClosed makes sure that a list which protects everything does not become no list.
func TestGlobalsFailClosed(t *testing.T) {
	for key, value := range map[string]string{"whitelist-source-range": "10.0.0.0/99", "denylist-source-range": "x", "global-auth-url": "nonsense"} {
		g, findings := ParseGlobals(map[string]string{key: value})
		if said(findings, key) != "refused" {
			t.Errorf("%s: got %v, want it to be refused", key, findings)
		}
		if s, _ := Parse(Input{Globals: &g}); s.Policy.Refused == "" {
			t.Errorf("%s: the rule is open", key)
		}
	}
	g, _ := ParseGlobals(map[string]string{"whitelist-source-range": "10.0.0.0/99", "global-auth-url": "nonsense"})
	s, _ := Parse(Input{Globals: &g, Annotations: written("whitelist-source-range=10.0.0.0/8", "enable-global-auth=false")})
	if s.Policy.Refused != "" {
		t.Errorf("what goes by neither is closed: %s", s.Policy.Refused)
	}
}

func TestGlobalAuth(t *testing.T) {
	g, findings := ParseGlobals(map[string]string{
		"global-auth-url": "https://auth.example", "global-auth-signin": "https://signin.example", "global-auth-response-headers": "X-User",
	})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	for _, c := range []struct {
		list []string
		want *policy.ExtAuth
	}{
		{nil, &policy.ExtAuth{URL: "https://auth.example", SignIn: "https://signin.example", ResponseHeaders: []string{"X-User"}}},
		{[]string{"enable-global-auth=false"}, nil},
		{[]string{"auth-url=https://own.example"}, &policy.ExtAuth{URL: "https://own.example"}},
	} {
		s, _ := Parse(Input{Globals: &g, Annotations: written(c.list...)})
		if c.want != nil {
			c.want.Method, c.want.RedirectParam, c.want.Timeout = "GET", "rd", 10*time.Second
		}
		if diff := cmp.Diff(c.want, s.Policy.ExtAuth); diff != "" {
			t.Errorf("%q: want -, got +:\n%s", c.list, diff)
		}
	}
}

func TestWithHeaders(t *testing.T) {
	g, _ := ParseGlobals(map[string]string{"proxy-set-headers": "up", "add-headers": "ns/down"})
	g, findings := g.WithHeaders("own", func(n service.Name) (map[string]string, bool) {
		return map[string]string{"X-A": "1", "X-Bad": "a\nb", "Connection": "x"}, n == service.Name{Namespace: "own", Name: "up"}
	})
	if want := []policy.Field{{Name: "X-A", Value: "1"}}; !slices.Equal(g.RequestHeaders, want) || g.ResponseHeaders != nil {
		t.Errorf("got %v and %v, want %v and nothing", g.RequestHeaders, g.ResponseHeaders, want)
	}
	if len(findings) != 3 || said(findings, "add-headers") != "invalid" {
		t.Errorf("got %v", findings)
	}
	s, _ := Parse(Input{Globals: &g, Annotations: written("request-headers=X-B: 2")})
	if want := []policy.Field{{Name: "X-A", Value: "1"}, {Name: "X-B", Value: "2"}}; !slices.Equal(s.Policy.Headers.Request, want) {
		t.Errorf("got %v, want %v", s.Policy.Headers.Request, want)
	}
}

func FuzzParseGlobals(f *testing.F) {
	for _, c := range globalCases() {
		f.Add(c.key, c.value)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		g, findings := ParseGlobals(map[string]string{key: value})
		eachString(reflect.ValueOf(g.Log), func(s string) {
			if clean(s, false) != nil {
				t.Errorf("%q got through", s)
			}
		})
		if clean(trim(value), false) != nil && len(findings) == 0 {
			t.Errorf("nothing is said about %q", value)
		}
		for _, d := range []route.Dialect{route.Strict, route.Nginx} {
			s, again := Parse(Input{Globals: &g, Dialect: d})
			for _, f := range again {
				if f.Severity == Invalid {
					t.Errorf("%v is said of each Ingress, too", f)
				}
			}
			compiles(t, &s)
		}
	})
}
