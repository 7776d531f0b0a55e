package annotation

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

// A goodCase is a value that is understood. More annotations that it needs stand after it, as name=value.
type goodCase struct {
	name, value string
	with        []string
	get         func(*Settings) any
	want        any
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func redirectCases() []goodCase {
	redirect := func(s *Settings) any { return s.Policy.Redirect }
	base := policy.Redirect{HTTPSCode: 308, KeepSlash: true, ExemptPrefix: []string{"/.well-known/acme-challenge"}}
	with := func(change func(*policy.Redirect)) policy.Redirect {
		r := base
		change(&r)
		return r
	}
	return []goodCase{
		{"ssl-redirect", "false", nil, func(s *Settings) any { return s.SSLRedirect }, false},
		{"ssl-redirect", "TRUE", nil, func(s *Settings) any { return s.SSLRedirect }, true},
		{"force-ssl-redirect", "true", nil, func(s *Settings) any { return s.ForceSSLRedirect }, true},
		{"preserve-trailing-slash", "false", nil, redirect, with(func(r *policy.Redirect) { r.KeepSlash = false })},
		{"permanent-redirect", "https://example.com", nil, redirect, with(func(r *policy.Redirect) { r.Permanent, r.PermanentCode = "https://example.com", 301 })},
		{"permanent-redirect-code", "308", []string{"permanent-redirect=/new"}, redirect, with(func(r *policy.Redirect) { r.Permanent, r.PermanentCode = "/new", 308 })},
		{"permanent-redirect-code", "200", []string{"permanent-redirect=/new"}, redirect, with(func(r *policy.Redirect) { r.Permanent, r.PermanentCode = "/new", 301 })},
		{"temporal-redirect", "$scheme://${host}/x$request_uri", nil, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "$scheme://$host/x$request_uri", 302 })},
		{"temporal-redirect", "https://www.example.com$request_uri", nil, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "https://www.example.com$request_uri", 302 })},
		{"temporal-redirect", "$scheme://$host:8443${uri}$is_args$args", nil, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "$scheme://$host:8443$uri$is_args$args", 302 })},
		{"temporal-redirect", "$request_uri&again#x", nil, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "$request_uri&again#x", 302 })},
		{"temporal-redirect", "https://example.com/${uri}a", nil, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "https://example.com/${uri}a", 302 })},
		{"temporal-redirect-code", "307", []string{"temporal-redirect=/t", "permanent-redirect=/p"}, redirect,
			with(func(r *policy.Redirect) {
				r.Temporal, r.TemporalCode, r.Permanent, r.PermanentCode = "/t", 307, "/p", 301
			})},
		{"temporal-redirect-code", "308", []string{"temporal-redirect=/t"}, redirect, with(func(r *policy.Redirect) { r.Temporal, r.TemporalCode = "/t", 302 })},
		{"from-to-www-redirect", "true", nil, func(s *Settings) any { return s.Routing.FromToWWW }, true},
		{"app-root", "/app?x=1", nil, redirect, with(func(r *policy.Redirect) { r.AppRoot = "/app?x=1" })},
	}
}

func routingCases() []goodCase {
	canary := func(s *Settings) any { return s.Canary }
	on := "canary=true"
	return []goodCase{
		{"use-regex", "true", nil, func(s *Settings) any { return s.Routing.UseRegex }, true},
		{"rewrite-target", "/a/$1?b=${2}", nil, func(s *Settings) any { return s.Rewrite }, Rewrite{Target: "/a/$1?b=${2}"}},
		{"rewrite-target", "$1", nil, func(s *Settings) any { return s.Rewrite }, Rewrite{Target: "$1"}},
		{"x-forwarded-prefix", "/api", []string{"rewrite-target=/"}, func(s *Settings) any { return s.Rewrite }, Rewrite{Target: "/", Prefix: "/api"}},
		{"x-forwarded-prefix", "/api", nil, func(s *Settings) any { return s.Rewrite }, Rewrite{}},
		{"upstream-vhost", "Backend.example:8080", nil, func(s *Settings) any { return s.Policy.Headers.Upstream }, "Backend.example:8080"},
		{"upstream-vhost", "$host", nil, func(s *Settings) any { return s.Policy.Headers.Upstream }, ""},
		{"server-alias", "A.example, *.b.example", nil, func(s *Settings) any { return s.Routing.Aliases }, []string{"a.example", "*.b.example"}},
		{"default-backend", "fallback", nil, func(s *Settings) any { return s.Routing.DefaultBackend }, "fallback"},
		{"ssl-passthrough", "true", nil, func(s *Settings) any { return s.Routing.SSLPassthrough }, true},
		{"canary", "true", nil, canary, &Canary{Total: 100}},
		{"canary", "false", nil, canary, (*Canary)(nil)},
		{"canary-by-header", "X-Canary", []string{on}, canary, &Canary{Header: "X-Canary", Total: 100}},
		{"canary-by-header-value", "yes please", []string{on, "canary-by-header=X-Canary"}, canary, &Canary{Header: "X-Canary", Value: "yes please", Total: 100}},
		{"canary-by-header-value", "yes", []string{on}, canary, &Canary{Total: 100}},
		{"canary-by-header-pattern", "^(a|b)$", []string{on, "canary-by-header=X-Canary"}, canary, &Canary{Header: "X-Canary", Pattern: regexp.MustCompile("^(a|b)$"), Total: 100}},
		{"canary-by-header-pattern", "^a$", []string{on, "canary-by-header=X-Canary", "canary-by-header-value=b"}, canary, &Canary{Header: "X-Canary", Value: "b", Total: 100}},
		{"canary-by-cookie", "always_me", []string{on}, canary, &Canary{Cookie: "always_me", Total: 100}},
		{"canary-weight", "30", []string{on}, canary, &Canary{Weight: 30, Total: 100}},
		{"canary-weight", "300", []string{on}, canary, &Canary{Weight: 100, Total: 100}},
		{"canary-weight-total", "1000", []string{on, "canary-weight=300"}, canary, &Canary{Weight: 300, Total: 1000}},
		{"canary-weight-total", "50", []string{on, "canary-weight=50"}, canary, &Canary{Weight: 50, Total: 100}},
		{"affinity-canary-behavior", "legacy", []string{on}, canary, &Canary{Total: 100, Legacy: true}},
	}
}

func backendCases() []goodCase {
	up := func(s *Settings) any { return s.Upstream }
	retry := func(s *Settings) any { return s.Upstream.Retry }
	tlsOf := func(s *Settings) any { return s.Upstream.TLS }
	base := Upstream{
		ConnectTimeout: 5 * time.Second, ReadTimeout: time.Minute, SendTimeout: time.Minute, MaxHead: 64 << 10,
		Retry: Retry{Error: true, Timeouts: true, Tries: 3},
	}
	with := func(change func(*Upstream)) Upstream {
		u := base
		change(&u)
		return u
	}
	https := "backend-protocol=HTTPS"
	return []goodCase{
		{"backend-protocol", "GRPC", nil, up, with(func(u *Upstream) { u.Protocol = GRPC })},
		{"backend-protocol", "grpcs", nil, func(s *Settings) any { return s.Upstream.Protocol }, GRPCS},
		{"service-upstream", "true", []string{"affinity=cookie"}, up, with(func(u *Upstream) { u.ServiceAddress, u.Retry = true, Retry{Tries: 1} })},
		{"service-upstream", "true", []string{"affinity=cookie"}, func(s *Settings) any { return s.Balance.Sticky }, (*balance.Sticky)(nil)},
		{"proxy-connect-timeout", "10", nil, up, with(func(u *Upstream) { u.ConnectTimeout = 10 * time.Second })},
		{"proxy-read-timeout", "1h30m", nil, up, with(func(u *Upstream) { u.ReadTimeout = 90 * time.Minute })},
		{"proxy-send-timeout", "3600", nil, up, with(func(u *Upstream) { u.SendTimeout = time.Hour })},
		{"proxy-next-upstream", "error http_503, http_502 non_idempotent", nil, retry, Retry{Error: true, Statuses: []int{502, 503}, NonIdempotent: true, Tries: 3}},
		{"proxy-next-upstream", "invalid_header", nil, retry, Retry{InvalidHeader: true, Tries: 3}},
		{"proxy-next-upstream", "off", nil, retry, Retry{Tries: 1}},
		{"proxy-next-upstream-tries", "0", nil, retry, Retry{Error: true, Timeouts: true}},
		{"proxy-next-upstream-timeout", "7", nil, retry, Retry{Error: true, Timeouts: true, Tries: 3, Within: 7 * time.Second}},
		{"proxy-buffer-size", "8k", nil, up, base},
		{"proxy-buffer-size", "16m", nil, up, with(func(u *Upstream) { u.MaxHead = 1 << 20 })},
		{"proxy-connect-timeout", "3600", nil, up, with(func(u *Upstream) { u.ConnectTimeout = time.Hour })},
		{"proxy-buffer-size", "128k", nil, up, with(func(u *Upstream) { u.MaxHead = 128 << 10 })},
		{"proxy-ssl-secret", "default/tls", []string{https}, tlsOf, UpstreamTLS{Secret: "tls", ServerName: true}},
		{"proxy-ssl-secret", "tls", nil, tlsOf, UpstreamTLS{}},
		{"proxy-ssl-verify", "on", []string{https, "proxy-ssl-secret=tls"}, tlsOf, UpstreamTLS{Secret: "tls", Verify: true, ServerName: true}},
		{"proxy-ssl-name", "internal.example", []string{https}, tlsOf, UpstreamTLS{Name: "internal.example", ServerName: true}},
		{"proxy-ssl-server-name", "off", []string{https}, tlsOf, UpstreamTLS{}},
		{"proxy-ssl-protocols", "TLSv1 TLSv1.2", []string{https}, tlsOf, UpstreamTLS{ServerName: true, MinVersion: 0x303, MaxVersion: 0x303}},
	}
}

func balanceCases() []goodCase {
	algorithm := func(s *Settings) any { return s.Balance.Algorithm }
	sticky := func(s *Settings) any { return s.Balance.Sticky }
	health := func(s *Settings) any { return s.Balance.Health }
	check := func(s *Settings) any { return s.Balance.Health.Check }
	on, path := "affinity=cookie", "health-check-path=/ok"
	cookie := func(change func(*balance.Sticky)) *balance.Sticky {
		s := &balance.Sticky{Name: "INGRESSCOOKIE"}
		change(s)
		return s
	}
	codes, _ := balance.ParseCodes("200-399")
	checked := func(change func(*balance.Check)) *balance.Check {
		c := &balance.Check{Path: "/ok", Method: "GET", Interval: 5 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Expected: codes}
		change(c)
		return c
	}
	some, _ := balance.ParseCodes("204,300-399")
	return []goodCase{
		{"load-balance", "ewma", nil, algorithm, balance.EWMA},
		{"load-balance", "ip_hash", nil, algorithm, balance.IPHash},
		{"load-balance", "least-requests", nil, algorithm, balance.LeastRequests},
		{"load-balance", "hash", nil, algorithm, balance.RoundRobin},
		{"load-balance", "hash", []string{"upstream-hash-by=$host"}, algorithm, balance.Hash},
		{"upstream-hash-by", "$binary_remote_addr", nil, func(s *Settings) any { return s.Balance }, balance.Config{Algorithm: balance.Hash, HashBy: "$remote_addr"}},
		{"upstream-hash-by", "${request_uri}-x", []string{"load-balance=ewma"}, func(s *Settings) any { return s.HashBy }, Template{{Variable: "request_uri"}, {Text: "-x"}}},
		{"max-fails", "3", nil, health, balance.Health{Passive: balance.Passive{MaxFails: 3, FailTimeout: 10 * time.Second}}},
		{"max-fails", "0", nil, health, balance.Health{Passive: balance.Passive{Off: true}}},
		{"fail-timeout", "30s", []string{"max-fails=2"}, health, balance.Health{Passive: balance.Passive{MaxFails: 2, FailTimeout: 30 * time.Second}}},
		{"slow-start", "30", nil, health, balance.Health{SlowStart: 30 * time.Second}},
		{"health-check-path", "/ok", nil, check, checked(func(c *balance.Check) {})},
		{"health-check-path", "/ok", []string{"backend-protocol=HTTPS"}, check, checked(func(c *balance.Check) { c.TLS = true })},
		{"health-check-method", "head", []string{path}, check, checked(func(c *balance.Check) { c.Method = "HEAD" })},
		{"health-check-host", "check.example", []string{path}, check, checked(func(c *balance.Check) { c.Host = "check.example" })},
		{"health-check-interval", "10s", []string{path}, check, checked(func(c *balance.Check) { c.Interval = 10 * time.Second })},
		{"health-check-timeout", "200ms", []string{path}, check, checked(func(c *balance.Check) { c.Timeout = 200 * time.Millisecond })},
		{"health-check-rise", "1", []string{path}, check, checked(func(c *balance.Check) { c.Rise = 1 })},
		{"health-check-fall", "5", []string{path}, check, checked(func(c *balance.Check) { c.Fall = 5 })},
		{"health-check-expected-codes", "204,3xx", []string{path}, check, checked(func(c *balance.Check) { c.Expected = some })},
		{"health-check-fall", "5", nil, check, (*balance.Check)(nil)},
		{"affinity", "cookie", nil, sticky, cookie(func(s *balance.Sticky) {})},
		{"affinity-mode", "persistent", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Mode = balance.Persistent })},
		{"session-cookie-name", "route", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Name = "route" })},
		{"session-cookie-path", "/shop", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Path = "/shop" })},
		{"session-cookie-domain", ".Example.com", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Domain = "example.com" })},
		{"session-cookie-samesite", "strict", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.SameSite = http.SameSiteStrictMode })},
		{"session-cookie-secure", "true", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Secure = balance.SecureAlways })},
		{"session-cookie-secure", "false", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Secure = balance.SecureNever })},
		{"session-cookie-secure", "false", []string{on, "session-cookie-samesite=None"}, sticky, cookie(func(s *balance.Sticky) { s.SameSite = http.SameSiteNoneMode })},
		{"session-cookie-max-age", "172800", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.MaxAge = 48 * time.Hour })},
		{"session-cookie-expires", "-1", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.Expires = -time.Second })},
		{"session-cookie-change-on-failure", "true", []string{on}, sticky, cookie(func(s *balance.Sticky) { s.ChangeOnFailure = true })},
	}
}

func guardCases() []goodCase {
	access := func(s *Settings) any { return s.Policy.Access }
	basic := func(s *Settings) any { return s.Policy.BasicAuth.Realm }
	user := func(s *Settings) any { return s.Policy.BasicAuth.Users.Check("ann", "secret") }
	limits := func(s *Settings) any { return s.Policy.Limits }
	limiting := func(s *Settings) any { return s.Policy.Limiting }
	return []goodCase{
		{"allowlist-source-range", "10.1.2.3/8, 2001:db8::1", nil, access, &policy.Access{Allow: prefixes("10.0.0.0/8", "2001:db8::1/128")}},
		{"denylist-source-range", "::ffff:192.0.2.0/120", nil, access, &policy.Access{Deny: prefixes("192.0.2.0/24")}},
		{"satisfy", "any", []string{"whitelist-source-range=10.0.0.0/8"}, access, &policy.Access{Allow: prefixes("10.0.0.0/8"), Except: true}},
		{"satisfy", "any", nil, access, (*policy.Access)(nil)},
		{"auth-type", "basic", []string{"auth-secret=users"}, basic, "Restricted"},
		{"auth-secret", "default/users", []string{"auth-type=basic"}, user, true},
		{"auth-secret", "users", nil, user, true},
		{"auth-secret-type", "auth-map", []string{"auth-type=basic", "auth-secret=map"}, user, true},
		{"auth-realm", "Staff only", []string{"auth-type=basic", "auth-secret=users"}, basic, "Staff only"},
		{"limit-connections", "4", nil, limits, []policy.Limit{{Connections: 4}}},
		{"limit-rpm", "30", nil, limits, []policy.Limit{{Requests: 30, Per: time.Minute, Burst: 150}}},
		{"limit-rps", "2", []string{"limit-rpm=30", "limit-connections=4", "limit-burst-multiplier=3"}, limits, []policy.Limit{
			{Connections: 4}, {Requests: 30, Per: time.Minute, Burst: 90}, {Requests: 2, Per: time.Second, Burst: 6}}},
		{"limit-rps", "0", nil, limits, []policy.Limit(nil)},
		{"limit-burst-multiplier", "1", []string{"limit-rps=7"}, limits, []policy.Limit{{Requests: 7, Per: time.Second, Burst: 7}}},
		{"limit-allowlist", "10.0.0.0/8", []string{"limit-rps=1"}, limiting, policy.Limiting{Exempt: prefixes("10.0.0.0/8"), Status: 429}},
	}
}

func extAuthCases() []goodCase {
	ext := func(s *Settings) any { return s.Policy.ExtAuth }
	url := "auth-url=http://auth.default.svc"
	asked := func(change func(*policy.ExtAuth)) *policy.ExtAuth {
		e := &policy.ExtAuth{URL: "http://auth.default.svc", Method: "GET", RedirectParam: "rd", Timeout: 10 * time.Second}
		change(e)
		return e
	}
	return []goodCase{
		{"auth-url", "http://auth.default.svc", nil, ext, asked(func(e *policy.ExtAuth) {})},
		{"auth-url", "https://$host/oauth2/auth?u=$request_uri", nil, ext, asked(func(e *policy.ExtAuth) { e.URL = "https://$host/oauth2/auth?u=$request_uri" })},
		{"auth-url", "http://oauth2-proxy.auth.svc.cluster.local:4180/oauth2/auth", nil, ext, asked(func(e *policy.ExtAuth) { e.URL = "http://oauth2-proxy.auth.svc.cluster.local:4180/oauth2/auth" })},
		{"auth-signin", "https://login.example/oauth2/start?rd=$scheme://$http_host$request_uri$is_args$args", []string{url}, ext,
			asked(func(e *policy.ExtAuth) {
				e.SignIn = "https://login.example/oauth2/start?rd=$scheme://$http_host$request_uri$is_args$args"
			})},
		{"auth-method", "post", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.Method = "POST" })},
		{"auth-signin", "https://$host/oauth2/start?rd=$escaped_request_uri", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.SignIn = "https://$host/oauth2/start?rd=$escaped_request_uri" })},
		{"auth-signin-redirect-param", "next", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.RedirectParam = "next" })},
		{"auth-response-headers", "X-User, X-Email", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.ResponseHeaders = []string{"X-User", "X-Email"} })},
		{"auth-request-redirect", "https://example.com/back", []string{url}, ext,
			asked(func(e *policy.ExtAuth) {
				e.Request = []policy.Field{{Name: "X-Auth-Request-Redirect", Value: "https://example.com/back"}}
			})},
		{"auth-proxy-set-headers", "fields", []string{url}, ext,
			asked(func(e *policy.ExtAuth) {
				e.Request = []policy.Field{{Name: "X-A", Value: "1"}, {Name: "X-B", Value: "two"}}
			})},
		{"auth-always-set-cookie", "true", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.AlwaysSetCookie = true })},
		{"auth-cache-key", "$cookie_session", []string{url}, ext, asked(func(e *policy.ExtAuth) {
			e.CacheKey = "$cookie_session"
			e.CacheFor = []policy.CacheTime{{Status: 200, For: 5 * time.Minute}, {Status: 202, For: 5 * time.Minute}, {Status: 401, For: 5 * time.Minute}}
		})},
		{"auth-cache-duration", "200 1m, any 5s", []string{url, "auth-cache-key=$remote_user$http_authorization"}, ext, asked(func(e *policy.ExtAuth) {
			e.CacheKey = "$remote_user$http_authorization"
			e.CacheFor = []policy.CacheTime{{Status: 200, For: time.Minute}, {For: 5 * time.Second}}
		})},
		{"auth-timeout", "500ms", []string{url}, ext, asked(func(e *policy.ExtAuth) { e.Timeout = 500 * time.Millisecond })},
		{"enable-global-auth", "false", nil, ext, (*policy.ExtAuth)(nil)},
	}
}

func corsCases() []goodCase {
	cors := func(s *Settings) any { return s.Policy.CORS }
	on := "enable-cors=true"
	allowed := func(change func(*policy.CORS)) *policy.CORS {
		c := &policy.CORS{
			Methods: "GET, PUT, POST, DELETE, PATCH, OPTIONS", MaxAge: 1728000 * time.Second,
			Headers: "DNT, Keep-Alive, User-Agent, X-Requested-With, If-Modified-Since, Cache-Control, Content-Type, Range, Authorization",
		}
		change(c)
		return c
	}
	return []goodCase{
		{"enable-cors", "true", nil, cors, allowed(func(c *policy.CORS) {})},
		{"enable-cors", "false", nil, cors, (*policy.CORS)(nil)},
		{"cors-allow-origin", "https://a.example, HTTP://*.B.example:8080", []string{on}, cors, allowed(func(c *policy.CORS) {
			c.Origins = []policy.Origin{{Scheme: "https", Host: "a.example"}, {Scheme: "http", Host: "*.b.example", Port: "8080"}}
		})},
		{"cors-allow-origin", "https://a.example, *", []string{on}, cors, allowed(func(c *policy.CORS) {})},
		{"cors-allow-methods", "get,PUT", []string{on}, cors, allowed(func(c *policy.CORS) { c.Methods = "GET, PUT" })},
		{"cors-allow-headers", "X-A,X-B", []string{on}, cors, allowed(func(c *policy.CORS) { c.Headers = "X-A, X-B" })},
		{"cors-expose-headers", "*", []string{on}, cors, allowed(func(c *policy.CORS) { c.Expose = "*" })},
		{"cors-allow-credentials", "true", []string{on, "cors-allow-origin=https://a.example"}, cors, allowed(func(c *policy.CORS) {
			c.Credentials, c.Origins = true, []policy.Origin{{Scheme: "https", Host: "a.example"}}
		})},
		{"cors-max-age", "600", []string{on}, cors, allowed(func(c *policy.CORS) { c.MaxAge = 10 * time.Minute })},
	}
}

func answerCases() []goodCase {
	headers := func(s *Settings) any { return s.Policy.Headers }
	compress := func(s *Settings) any { return s.Policy.Compress }
	body := func(s *Settings) any { return s.Policy.Body }
	hsts := func(s *Settings) any { return s.Policy.HSTS }
	year := 365 * 24 * time.Hour
	types := []string{"text/plain", "text/html"}
	return []goodCase{
		{"proxy-body-size", "8m", nil, body, policy.Body{Max: 8 << 20, Buffer: 16 << 10}},
		{"proxy-body-size", "0", nil, body, policy.Body{Buffer: 16 << 10}},
		{"client-body-buffer-size", "64k", nil, body, policy.Body{Buffer: 64 << 10}},
		{"client-body-buffer-size", "1g", nil, body, policy.Body{Buffer: 1 << 20}},
		{"proxy-request-buffering", "off", nil, body, policy.Body{}},
		{"use-gzip", "true", []string{"gzip-types=text/plain"}, compress, &policy.Compress{Gzip: 1, MinLength: 256, Types: types}},
		{"gzip-level", "9", []string{"use-gzip=true", "gzip-types=text/plain"}, compress, &policy.Compress{Gzip: 9, MinLength: 256, Types: types}},
		{"gzip-min-length", "0", []string{"use-gzip=true", "gzip-types=text/plain"}, compress, &policy.Compress{Gzip: 1, Types: types}},
		{"gzip-types", "*", []string{"use-gzip=true"}, compress, &policy.Compress{Gzip: 1, MinLength: 256, Types: []string{"*"}}},
		{"gzip-types", "text/plain", nil, compress, (*policy.Compress)(nil)},
		{"enable-brotli", "true", []string{"gzip-types=text/plain"}, compress, &policy.Compress{Brotli: 4, MinLength: 20, Types: types}},
		{"brotli-level", "11", []string{"enable-brotli=true", "use-gzip=true", "gzip-types=text/plain"}, compress, &policy.Compress{Gzip: 1, Brotli: 11, MinLength: 256, Types: types}},
		{"brotli-min-length", "1000", []string{"enable-brotli=true", "gzip-types=text/plain"}, compress, &policy.Compress{Brotli: 4, MinLength: 1000, Types: types}},
		{"custom-http-errors", "503,404 404", nil, func(s *Settings) any { return s.Policy.Errors }, &policy.Errors{Statuses: []int{404, 503}}},
		{"disable-proxy-intercept-errors", "true", []string{"custom-http-errors=404"}, func(s *Settings) any { return s.Policy.Errors }, (*policy.Errors)(nil)},
		{"custom-headers", "fields", nil, headers, policy.Headers{Response: []policy.Field{{Name: "X-A", Value: "1"}, {Name: "X-B", Value: "two"}}}},
		{"response-headers", "Cache-Control: no-store\n\nX-Frame-Options: DENY\r\nX-Gone:\n", nil, headers,
			policy.Headers{Response: []policy.Field{{Name: "Cache-Control", Value: "no-store"}, {Name: "X-Frame-Options", Value: "DENY"}, {Name: "X-Gone"}}}},
		{"request-headers", "x-tenant: a:b", nil, headers, policy.Headers{Request: []policy.Field{{Name: "X-Tenant", Value: "a:b"}}}},
		{"hide-headers", "X-Powered-By", nil, headers, policy.Headers{Hide: []string{"X-Powered-By"}}},
		{"hsts", "true", nil, hsts, &policy.HSTS{MaxAge: year}},
		{"hsts-max-age", "3600", []string{"hsts=true"}, hsts, &policy.HSTS{MaxAge: time.Hour}},
		{"hsts-include-subdomains", "true", []string{"hsts=true"}, hsts, &policy.HSTS{MaxAge: year, IncludeSubDomains: true}},
		{"hsts-preload", "true", []string{"hsts=true"}, hsts, &policy.HSTS{MaxAge: year, Preload: true}},
		{"hsts-preload", "true", nil, hsts, (*policy.HSTS)(nil)},
		{"enable-access-log", "false", nil, func(s *Settings) any { return s.AccessLog }, false},
	}
}

func goodCases() []goodCase {
	return slices.Concat(redirectCases(), routingCases(), backendCases(), balanceCases(), guardCases(), extAuthCases(), corsCases(), answerCases())
}

// testGlobals is a process that allows all that a flag must allow.
func testGlobals(t testing.TB, data map[string]string) *Globals {
	t.Helper()
	g, findings := ParseGlobals(data)
	if len(findings) > 0 {
		t.Fatalf("globals: %v", findings)
	}
	g.SSLPassthrough = true
	return &g
}

// testInput is an Ingress default/web with annotations written as name=value; names without a slash are fairlead's.
func testInput(t testing.TB, d route.Dialect, list ...string) Input {
	t.Helper()
	return Input{
		Namespace: "default", Name: "web", Dialect: d, Annotations: written(list...), Globals: testGlobals(t, nil),
		SecretData: func(name string) (map[string][]byte, bool) {
			sha := "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=" // of "secret"
			switch name {
			case "users":
				return map[string][]byte{"auth": []byte("ann:" + sha + "\n")}, true
			case "map":
				return map[string][]byte{"ann": []byte(sha)}, true
			case "empty", "tls":
				return map[string][]byte{}, true
			case "mixed":
				return map[string][]byte{"auth": []byte("ann:" + sha + "\nbob:plain\n")}, true
			}
			return nil, false
		},
		ConfigMapData: func(name string) (map[string]string, bool) {
			switch name {
			case "fields":
				return map[string]string{"X-B": "two", "x-a": "1"}, true
			case "bad-fields":
				return map[string]string{"X-A": "1\r\nSet-Cookie: a=b", "Content-Length": "1", "X-B": "2"}, true
			}
			return nil, false
		},
	}
}

func written(list ...string) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		name, value, _ := strings.Cut(a, "=")
		if !strings.Contains(name, "/") {
			name = OwnPrefix + name
		}
		out[name] = value
	}
	return out
}

// compare compares settings.
func compare() cmp.Options {
	return cmp.Options{
		cmp.Comparer(func(a, b *regexp.Regexp) bool { return a == b || a != nil && b != nil && a.String() == b.String() }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.AllowUnexported(Settings{}),
		cmpopts.IgnoreTypes(policy.Users{}),
	}
}

func TestParseGood(t *testing.T) {
	for _, c := range goodCases() {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			s, findings := Parse(testInput(t, route.Strict, append(c.with, c.name+"="+c.value)...))
			if diff := cmp.Diff(c.want, c.get(&s), compare()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if s.Policy.Refused != "" {
				t.Errorf("closed: %s", s.Policy.Refused)
			}
			for _, f := range findings {
				if f.Severity == Refused {
					t.Error(f)
				}
			}
		})
	}
}

// TestParsePrefixes makes sure that the two names of an annotation mean the same.
func TestParsePrefixes(t *testing.T) {
	ix := indexed()
	for _, c := range goodCases() {
		if ix.annotations[c.name].Own {
			continue
		}
		for _, name := range append([]string{c.name}, ix.annotations[c.name].Aliases...) {
			list := []string{NginxPrefix + name + "=" + c.value}
			for _, w := range c.with {
				other, _, _ := strings.Cut(w, "=")
				if ix.annotations[other].Own {
					list = append(list, w)
				} else {
					list = append(list, NginxPrefix+w)
				}
			}
			s, _ := Parse(testInput(t, route.Strict, list...))
			if diff := cmp.Diff(c.want, c.get(&s), compare()); diff != "" {
				t.Errorf("%s=%s: want -, got +:\n%s", name, c.value, diff)
			}
		}
	}
}

func TestParsePrecedence(t *testing.T) {
	for _, c := range []struct {
		name    string
		list    []string
		globals map[string]string
		want    time.Duration
	}{
		{"default", nil, nil, 5 * time.Second},
		{"global", nil, map[string]string{"proxy-connect-timeout": "6"}, 6 * time.Second},
		{"nginx over global", []string{NginxPrefix + "proxy-connect-timeout=7"}, map[string]string{"proxy-connect-timeout": "6"}, 7 * time.Second},
		{"own over nginx", []string{NginxPrefix + "proxy-connect-timeout=7", "proxy-connect-timeout=8"}, nil, 8 * time.Second},
		{"own is bad", []string{NginxPrefix + "proxy-connect-timeout=7", "proxy-connect-timeout=soon"}, nil, 7 * time.Second},
		{"both are bad", []string{NginxPrefix + "proxy-connect-timeout=x", "proxy-connect-timeout=soon"}, map[string]string{"proxy-connect-timeout": "6"}, 6 * time.Second},
		{"empty", []string{"proxy-connect-timeout="}, map[string]string{"proxy-connect-timeout": "6"}, 6 * time.Second},
	} {
		in := testInput(t, route.Strict, c.list...)
		in.Globals = testGlobals(t, c.globals)
		s, _ := Parse(in)
		if got := s.Upstream.ConnectTimeout; got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// badCases is values that are not understood, by annotation.
func badCases() map[string][]string {
	notBool, notTime := []string{"yes", "ja", "2"}, []string{"soon", "-1", "5 s", "1.5s", "1y", "99999999999999999999", "40000d"}
	notURL := []string{"example.com", "ftp://example.com", "https://", "https://user:pw@example.com", "javascript:alert(1)", "https:example.com",
		"https://$request_uri/", "https://example.com:0/", "https://exa mple.com", "https://example.com/$nonsense", "https://example.com/${", "https://$request_uri.example/", "https://a:b@$host/", "https://example.com:$request_uri", "$uri", "$scheme$host", "x$scheme://a/", "https://$remote_addr/", "http://a\"b/"}
	notPath := []string{"a", "//evil.example", `/\evil.example`, "https://example.com/"}
	notRange := []string{"10.0.0.0/33", "10.0.0", "example.com", "10.0.0.0/8;", "fe80::1%eth0", "::ffff:10.0.0.0/40", ","}
	notToken := []string{"a b", "a=b", "a;b", "ä"}
	return map[string][]string{
		"ssl-redirect": notBool, "force-ssl-redirect": notBool, "preserve-trailing-slash": notBool, "from-to-www-redirect": notBool,
		"permanent-redirect": append(notURL, "//evil.example", `/\evil.example`), "temporal-redirect": append(notURL, "//evil.example"),
		"permanent-redirect-code": {"x", "-301"}, "temporal-redirect-code": {"x"}, "app-root": append(notPath, "/"),
		"use-regex": notBool, "ssl-passthrough": notBool, "canary": notBool,
		"rewrite-target":     {"a", "//a", "/a b", "/$", "/$0", "/$a", "/${x}", "/${100}", "/${1", "/a#b", `/a"b`, "/a\\b", "https://a/", "/ä"},
		"x-forwarded-prefix": notPath,
		"upstream-vhost":     {"a b", "http://a", "a/b", "a:", "a:b", "a@b", "$http_x", "a:99999", "-a"},
		"server-alias":       {"~^www\\d+", "a b/", "10.0.0.1", "a..b", "*", "*.*.a", "a_b"},
		"default-backend":    {"a.b", "A", "a/b", "-a"},
		"canary-by-header":   notToken, "canary-by-cookie": notToken, "canary-by-header-value": {"ä"},
		"canary-by-header-pattern": {"(?=a)", "(", `(a)\1`, "a++"},
		"canary-weight":            {"x", "-1", "1.5"}, "canary-weight-total": {"0", "x"},
		"backend-protocol":      {"HTTPSS", "FCGI", "AJP", "AUTO_HTTP"},
		"service-upstream":      notBool,
		"proxy-connect-timeout": append(notTime, "0"), "proxy-read-timeout": append(notTime, "0"), "proxy-send-timeout": append(notTime, "0"),
		"proxy-next-upstream": {"errors", "off error", "http_501", "http_", ","}, "proxy-next-upstream-tries": {"x", "-1", "1001"}, "proxy-next-upstream-timeout": notTime,
		"proxy-buffer-size": {"x", "-1", "k"},
		"proxy-ssl-secret":  {"other/tls", "a/b/c", "A"}, "proxy-ssl-verify": {"yes"}, "proxy-ssl-name": {"a b", "*.a"},
		"proxy-ssl-server-name": {"yes"}, "proxy-ssl-protocols": {"TLSv9", "TLSv1 TLSv1.1"},
		"load-balance": {"random"}, "upstream-hash-by": {"constant", "$lua_x", "$", "${a b}"},
		"max-fails": {"-1", "x"}, "fail-timeout": notTime, "slow-start": append(notTime, "2h"),
		"health-check-path": notPath, "health-check-method": {"POST", "x"}, "health-check-host": {"a b"}, "health-check-interval": append(notTime, "0"),
		"health-check-timeout": append(notTime, "2m"), "health-check-rise": {"0", "101"}, "health-check-fall": {"0", "x"},
		"health-check-expected-codes": {"99", "600", "300-200", "abc", ","},
		"affinity":                    {"ip"}, "affinity-mode": {"sometimes"}, "affinity-canary-behavior": {"x"},
		"session-cookie-name": notToken, "session-cookie-path": {"a", "/a;b", "/a b"}, "session-cookie-domain": {"a b", "a;b"}, "session-cookie-samesite": {"x"},
		"session-cookie-secure": notBool, "session-cookie-max-age": {"x", "--1"}, "session-cookie-expires": {"x"}, "session-cookie-change-on-failure": notBool,
		"allowlist-source-range": notRange, "denylist-source-range": notRange, "limit-allowlist": notRange, "satisfy": {"some"},
		"auth-type": {"digest", "bearer"}, "auth-secret": {"other/users", "a b"}, "auth-secret-type": {"file"}, "auth-realm": {`a"b`, "ä"},
		"auth-url": append(notURL, "/relative", "https://$http_host/", "$request_uri", "https://example.com/#frag"), "auth-method": {"get;", "BREW"}, "auth-signin": append(notURL, "//evil.example"),
		"auth-signin-redirect-param": {"a&b", "a=b"}, "auth-response-headers": {"a b;", "Content-Length", "host"}, "auth-request-redirect": append(notURL, "$host"),
		"auth-proxy-set-headers": {"missing", "other/fields", "bad-fields"}, "auth-always-set-cookie": notBool, "auth-cache-key": {"constant", "$nonsense"},
		"auth-cache-duration": {"200", "200 soon", "x 5m", ",", "999 5m"}, "auth-timeout": append(notTime, "0"), "enable-global-auth": notBool,
		"limit-connections": {"-1", "x", "10000000"}, "limit-rpm": {"x"}, "limit-rps": {"1.5"}, "limit-burst-multiplier": {"0", "x"},
		"enable-cors": notBool, "cors-allow-origin": {"example.com", "https://", "https://a.example/path", "https://*", "https://a.*.example", "https://*.10.0.0.1", "null"},
		"cors-allow-methods": {"GET/1", ","}, "cors-allow-headers": {"a b:", ","}, "cors-expose-headers": {"a:b"}, "cors-allow-credentials": notBool, "cors-max-age": notTime,
		"proxy-body-size": {"8 m", "x", "-1", "9999999999g", "1t"}, "client-body-buffer-size": {"x"}, "proxy-request-buffering": {"yes"},
		"use-gzip": notBool, "gzip-level": {"0", "10"}, "gzip-min-length": {"x"}, "gzip-types": {"text", "a/b/c"}, "enable-brotli": notBool, "brotli-level": {"12"}, "brotli-min-length": {"x"},
		"custom-http-errors": {"200", "x", "4xx", ","}, "disable-proxy-intercept-errors": notBool, "custom-headers": {"missing", "other/fields", "bad-fields"},
		"response-headers": {"no colon", "Content-Length: 1", "Connection: x", "a b: c", "X-A: ä"},
		"request-headers":  {"X-Forwarded-For: 1.2.3.4", "X_Real_IP: 1", "Host: a", "Transfer-Encoding: chunked"},
		"hide-headers":     {"a b:", "Connection"},
		"hsts":             notBool, "hsts-max-age": {"x", "-1"}, "hsts-include-subdomains": notBool, "hsts-preload": notBool, "enable-access-log": notBool,
	}
}

// companions are what else has to be written for a value to be looked at.
func companions(name string) []string {
	switch {
	case name == "canary-by-header-pattern", name == "canary-by-header-value":
		return []string{"canary=true", "canary-by-header=X-Canary"}
	case strings.HasPrefix(name, "canary-"), name == "affinity-canary-behavior":
		return []string{"canary=true"}
	case strings.HasPrefix(name, "session-cookie-"), name == "affinity-mode":
		return []string{"affinity=cookie"}
	case strings.HasPrefix(name, "health-check-") && name != "health-check-path":
		return []string{"health-check-path=/"}
	case strings.HasPrefix(name, "proxy-ssl-"):
		return []string{"backend-protocol=HTTPS"}
	case name == "auth-realm", name == "auth-secret-type", name == "auth-secret":
		return []string{"auth-type=basic"}
	case name == "auth-type":
		return []string{"auth-secret=users"}
	case strings.HasPrefix(name, "auth-"):
		return []string{"auth-url=https://auth.example"}
	case strings.HasPrefix(name, "cors-"):
		return []string{"enable-cors=true"}
	case strings.HasPrefix(name, "gzip-"):
		return []string{"use-gzip=true"}
	case strings.HasPrefix(name, "brotli-"):
		return []string{"enable-brotli=true"}
	case strings.HasPrefix(name, "hsts-"):
		return []string{"hsts=true"}
	case name == "temporal-redirect-code":
		return []string{"temporal-redirect=/"}
	case name == "permanent-redirect-code":
		return []string{"permanent-redirect=/"}
	case name == "disable-proxy-intercept-errors":
		return []string{"custom-http-errors=404"}
	case strings.HasPrefix(name, "limit-"):
		return []string{"limit-connections=1"}
	}
	return nil
}

func TestParseBad(t *testing.T) {
	bad := badCases()
	ix := indexed()
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		a := ix.annotations[name]
		for _, value := range append(bad[name], "a\x00b", "\x7f", "a\u0085", "\xff", strings.Repeat("a", maxValue+1)) {
			t.Run(fmt.Sprintf("%s=%.40q", name, value), func(t *testing.T) {
				in := testInput(t, route.Strict, append(companions(name), name+"="+value)...)
				s, findings := Parse(in)
				i := slices.IndexFunc(findings, func(f Finding) bool {
					return f.Key == OwnPrefix+name && (f.Severity == Invalid || f.Severity == Refused)
				})
				if i < 0 {
					t.Fatalf("nothing is said about it: %v", findings)
				}
				if got, want := s.Policy.Refused != "", a.Closed; got != want {
					t.Errorf("closed: got %v, want %v: %s", got, want, s.Policy.Refused)
				}
				if got, want := findings[i].Severity, map[bool]Severity{true: Refused, false: Invalid}[a.Closed]; got != want {
					t.Errorf("got %v, want %v", got, want)
				}
				compiles(t, &s)
			})
		}
	}
}

// TestCasesAreComplete makes sure that every annotation that is served has a good and a bad case.
func TestCasesAreComplete(t *testing.T) {
	good, bad := map[string]bool{}, badCases()
	for _, c := range goodCases() {
		good[c.name] = true
	}
	for _, a := range Catalogue() {
		if a.Scope == Process || a.Support != Served {
			continue
		}
		if !good[a.Name] {
			t.Errorf("%s has no good case", a.Name)
		}
		if len(bad[a.Name]) == 0 {
			t.Errorf("%s has no bad case", a.Name)
		}
	}
}

// compiles makes sure that package policy takes what comes out.
func compiles(t *testing.T, s *Settings) {
	t.Helper()
	for _, rule := range []Rule{{Path: "/"}, {Path: "/a(/|$)(.*)", Regex: true, Service: "s"}} {
		c, err := s.Rule(rule)
		if err != nil && c.Refused == "" {
			t.Errorf("%v: %v, but the rule is open", rule, err)
		}
		_, err = policy.Compile(c, policy.Env{
			Rule: "r", Shared: policy.NewShared(policy.SharedConfig{}),
			Canonical: func(p string) (string, error) { return route.Canonical(p, route.Options{}) },
			ErrorPage: noErrorPage,
		})
		if err != nil {
			t.Errorf("policy refuses %+v: %v", c, err)
		}
	}
	if err := s.Balance.Validate(); err != nil {
		t.Errorf("balance refuses %+v: %v", s.Balance, err)
	}
}
