//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

var redirectRows = []l7Row{
	{notes: []string{"ssl-redirect: true"}, tls: true, check: func(q *l7Query) {
		q.redirected(q.get("/x?y"), 308, "https://"+q.host+"/x?y")
		q.status(q.gets("/x"), 200)
		q.status(q.get("/.well-known/acme-challenge/x"), 200)
	}},
	{notes: []string{"ssl-redirect: false"}, tls: true, check: func(q *l7Query) { q.status(q.get("/x"), 200) }},
	{notes: []string{"force-ssl-redirect: true"}, check: func(q *l7Query) { q.redirected(q.get("/x"), 308, "https://"+q.host+"/x") }},
	{notes: []string{"preserve-trailing-slash: true"}, tls: true, check: func(q *l7Query) { q.redirected(q.get("/x/"), 308, "https://"+q.host+"/x/") }},
	{notes: []string{"preserve-trailing-slash: false"}, tls: true, check: func(q *l7Query) { q.redirected(q.get("/x/"), 308, "https://"+q.host+"/x") }},
	{notes: []string{"permanent-redirect: https://new.test$request_uri"}, check: func(q *l7Query) { q.redirected(q.get("/x?y"), 301, "https://new.test/x?y") }},
	{notes: []string{"permanent-redirect: /fixed", "permanent-redirect-code: 308"}, check: func(q *l7Query) { q.redirected(q.get("/x"), 308, "/fixed") }},
	{notes: []string{"temporal-redirect: https://new.test/t", "permanent-redirect: https://new.test/p"}, check: func(q *l7Query) { q.redirected(q.get("/x"), 302, "https://new.test/t") }},
	{notes: []string{"temporal-redirect: https://new.test/t", "temporal-redirect-code: 307"}, check: func(q *l7Query) { q.redirected(q.get("/x"), 307, "https://new.test/t") }},
	{notes: []string{"from-to-www-redirect: true"}, check: func(q *l7Query) {
		q.redirected(fetch(q.T, q.client, "http://www."+q.host+"/x?y"), 308, "http://"+q.host+"/x?y")
	}},
	{notes: []string{"app-root: /app"}, check: func(q *l7Query) {
		q.redirected(q.get("/"), 302, "http://"+q.host+"/app")
		q.status(q.get("/other"), 200)
	}},
}

var pathRows = []l7Row{
	{notes: []string{"use-regex: true"}, path: "/a(b|c)+$", regex: true, check: func(q *l7Query) {
		q.status(q.get("/aBc"), 200)
		q.status(q.get("/ad"), 404)
	}},
	{notes: []string{"rewrite-target: /new/$2", "use-regex: true", "x-forwarded-prefix: /app"}, path: "/app(/|$)(.*)", regex: true, check: func(q *l7Query) {
		s := q.status(q.get("/app/x/y?z"), 200).Seen
		q.equal("URI", s.URI, "/new/x/y?z")
		q.equal("prefix", s.Header.Get("X-Forwarded-Prefix"), "/app")
	}},
	{notes: []string{"upstream-vhost: internal.test"}, check: func(q *l7Query) { q.equal("Host", q.status(q.get("/"), 200).Seen.Host, "internal.test") }},
	{notes: []string{"server-alias: alias-HOST"}, check: func(q *l7Query) {
		q.equal("Host", q.status(fetch(q.T, q.client, "http://alias-"+q.host+"/"), 200).Seen.Host, "alias-"+q.host)
	}},
	{notes: []string{"default-backend: sorry"}, service: "empty", check: func(q *l7Query) { q.equal("by", q.status(q.get("/x"), 200).Seen.By, "sorry") }},
	{notes: []string{"ssl-passthrough: true"}, service: "secure", check: func(q *l7Query) {
		q.equal("certificate", q.certificate(q.host).Subject.CommonName, "secure.internal")
	}},
}

// canaryOf adds a second Ingress for the row's host, as a canary.
func canaryOf(notes ...string) func(q *l7Query) []any {
	return func(q *l7Query) []any {
		in := q.ingress(q.name+"-canary", append([]string{"canary: true"}, notes...)...)
		in.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Name = "sorry"
		return []any{in}
	}
}

// to holds which of the two backends is asked.
func (q *l7Query) to(want string, fields ...string) {
	q.Helper()
	q.equal(fmt.Sprintf("backend for %q", fields), q.status(q.get("/", fields...), 200).Seen.By, want)
}

var canaryRows = []l7Row{
	{notes: []string{"enable-access-log: true", "canary:", "canary-by-header:"}, more: canaryOf("canary-by-header: X-Try"), check: func(q *l7Query) {
		q.to("web")
		q.to("sorry", "X-Try: always")
		q.to("web", "X-Try: never")
		q.to("web", "X-Try: other")
	}},
	{notes: []string{"enable-access-log: true", "canary-by-header-value:"}, more: canaryOf("canary-by-header: X-Try", "canary-by-header-value: blue"), check: func(q *l7Query) {
		q.to("sorry", "X-Try: blue")
		q.to("web", "X-Try: always")
	}},
	{notes: []string{"enable-access-log: true", "canary-by-header-pattern:"}, more: canaryOf("canary-by-header: X-Try", "canary-by-header-pattern: ^b.u"), check: func(q *l7Query) {
		q.to("sorry", "X-Try: blue")
		q.to("web", "X-Try: green")
	}},
	{notes: []string{"enable-access-log: true", "canary-by-cookie:"}, more: canaryOf("canary-by-cookie: try"), check: func(q *l7Query) {
		q.to("sorry", "Cookie: a=b; try=always")
		q.to("web", "Cookie: try=never")
		q.to("web")
	}},
	{notes: []string{"enable-access-log: true", "canary-weight:"}, more: canaryOf("canary-weight: 100"), check: func(q *l7Query) { q.to("sorry") }},
}

var backendRows = []l7Row{
	{notes: []string{"backend-protocol: HTTPS"}, service: "secure", check: func(q *l7Query) {
		a := q.status(q.get("/"), 200)
		q.equal("SNI", a.Header.Get("X-Server-Name"), byDialect(q, q.host, ""))
	}},
	{notes: []string{"backend-protocol: GRPC"}, check: func(q *l7Query) { q.equal("protocol", q.status(q.get("/"), 200).Seen.Proto, "HTTP/2.0") }},
	{notes: []string{"service-upstream: true"}, service: "direct", check: func(q *l7Query) { q.equal("by", q.status(q.get("/"), 200).Seen.By, "address") }},
	{notes: []string{"proxy-connect-timeout: 1"}, service: "silent", check: func(q *l7Query) {
		q.takes(700*time.Millisecond, 5*time.Second, func() { q.status(q.get("/"), 504) })
	}},
	{notes: []string{"proxy-read-timeout: 1"}, check: func(q *l7Query) {
		q.takes(900*time.Millisecond, 3*time.Second, func() { q.status(q.get("/?sleep=8s"), 504) })
		q.status(q.get("/?sleep=300ms"), 200)
	}},
	{notes: []string{"proxy-send-timeout: 1", "proxy-request-buffering: off", "proxy-body-size: 0"}, check: func(q *l7Query) {
		q.takes(900*time.Millisecond, 6*time.Second, func() {
			q.status(send(q.T, q.client, http.MethodPost, "http://"+q.host+"/?sleep=8s", strings.Repeat("x", 96<<20)), 504)
		})
	}},
	{notes: []string{"proxy-buffer-size: 256k"}, check: func(q *l7Query) { q.status(q.get("/?head=150000"), 200) }},
	{notes: []string{"proxy-buffer-size: 256k", "backend-protocol: GRPC"}, check: func(q *l7Query) {
		q.status(q.get("/?head=150000"), 200)
		q.status(q.get("/?head=300000"), 502)
	}},
	{notes: []string{"proxy-buffer-size: 1k"}, check: func(q *l7Query) {
		q.status(q.get("/?head=50000"), 200)
		q.status(q.get("/?head=150000"), 502)
	}},
	{notes: []string{"client-body-buffer-size: 4k", "proxy-request-buffering: on"}, check: func(q *l7Query) {
		if s := q.status(send(q.T, q.client, http.MethodPost, "http://"+q.host+"/", strings.Repeat("x", 100_000)), 200).Seen; s.Body != 100_000 {
			q.Errorf("%d bytes of 100000 have come", s.Body)
		}
	}},
}

// takes bounds how long something takes.
func (q *l7Query) takes(least, most time.Duration, do func()) {
	q.Helper()
	begun := time.Now()
	do()
	if took := time.Since(begun); took < least || took > most {
		q.Errorf("it took %v, want from %v to %v", took, least, most)
	}
}

var upstreamTLSRows = []l7Row{
	{notes: []string{"proxy-ssl-secret: trust", "backend-protocol: HTTPS", "proxy-ssl-verify: on", "proxy-ssl-name: secure.internal", "proxy-ssl-server-name: on"}, service: "secure", check: func(q *l7Query) {
		a := q.status(q.get("/"), 200)
		q.equal("certificates of the client", a.Header.Get("X-Certificates"), "1")
		q.equal("SNI", a.Header.Get("X-Server-Name"), "secure.internal")
	}},
	{notes: []string{"proxy-ssl-verify: on", "proxy-ssl-secret: trust", "backend-protocol: HTTPS", "proxy-ssl-name: other.internal"}, service: "secure", check: func(q *l7Query) { q.status(q.get("/"), 502) }},
	{notes: []string{"proxy-ssl-verify: on", "proxy-ssl-secret: distrust", "backend-protocol: HTTPS", "proxy-ssl-name: secure.internal"}, service: "secure", check: func(q *l7Query) { q.status(q.get("/"), 502) }},
	{notes: []string{"proxy-ssl-secret: missing", "backend-protocol: HTTPS"}, service: "secure", check: func(q *l7Query) { q.status(q.get("/"), 503) }},
	{notes: []string{"proxy-ssl-server-name: off", "backend-protocol: HTTPS"}, service: "secure", check: func(q *l7Query) {
		q.equal("SNI", q.status(q.get("/"), 200).Header.Get("X-Server-Name"), "")
	}},
	{notes: []string{"proxy-ssl-protocols: TLSv1.3", "backend-protocol: HTTPS"}, service: "old", check: func(q *l7Query) { q.status(q.get("/"), 502) }},
	{notes: []string{"proxy-ssl-protocols: TLSv1.2", "backend-protocol: HTTPS"}, service: "secure", check: func(q *l7Query) {
		q.equal("version", q.status(q.get("/"), 200).Header.Get("X-Version"), "TLS 1.2")
	}},
}

// cookie returns the cookie that an answer sets.
func (q *l7Query) cookie(a *l7Answer, name string) *http.Cookie {
	q.Helper()
	for _, c := range (&http.Response{Header: a.Header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	q.Errorf("no cookie %s in %q", name, a.Header["Set-Cookie"])
	return &http.Cookie{}
}

var affinityRows = []l7Row{
	{notes: []string{"affinity: cookie"}, path: "/p", check: func(q *l7Query) {
		c := q.cookie(q.status(q.get("/p"), 200), "INGRESSCOOKIE")
		if c.Path != "/p" || !c.HttpOnly || c.Secure || c.MaxAge != 0 || c.Domain != "" {
			q.Errorf("got %v", c)
		}
		if a := q.get("/p", "Cookie: INGRESSCOOKIE="+c.Value); a.Header.Get("Set-Cookie") != "" {
			q.Errorf("it is set again: %q", a.Header["Set-Cookie"])
		}
	}},
	{notes: []string{
		"affinity: cookie", "affinity-mode: persistent", "session-cookie-name: sticky", "session-cookie-path: /elsewhere", "session-cookie-domain: test",
		"session-cookie-samesite: Lax", "session-cookie-secure: true", "session-cookie-max-age: 100", "session-cookie-expires: 200",
	}, check: func(q *l7Query) {
		c := q.cookie(q.status(q.get("/"), 200), "sticky")
		if c.Path != "/elsewhere" || c.Domain != "test" || c.SameSite != http.SameSiteLaxMode || !c.Secure || c.MaxAge != 100 || time.Until(c.Expires) < 150*time.Second {
			q.Errorf("got %v", c)
		}
	}},
}

var accessRows = []l7Row{
	{notes: []string{"whitelist-source-range: 192.0.2.0/24, 198.51.100.0/24"}, check: func(q *l7Query) { q.status(q.get("/"), 200) }},
	{notes: []string{"whitelist-source-range: 192.0.2.0/24"}, check: func(q *l7Query) {
		q.status(q.get("/", "X-Forwarded-For: 192.0.2.1"), 403)
	}},
	{notes: []string{"allowlist-source-range: 192.0.2.0/24"}, check: func(q *l7Query) { q.status(q.get("/"), 403) }},
	{notes: []string{"allowlist-source-range: nonsense"}, check: func(q *l7Query) { q.status(q.get("/"), 503) }},
	{notes: []string{"denylist-source-range: 198.51.100.1", "whitelist-source-range: 198.51.100.0/24"}, check: func(q *l7Query) { q.status(q.get("/"), 403) }},
	{notes: []string{"satisfy: any", "whitelist-source-range: 192.0.2.0/24", "auth-type: basic", "auth-secret: file"}, check: func(q *l7Query) {
		q.status(q.get("/"), 401)
		q.status(q.get("/", "Authorization: Basic YW5uYTpzZWNyZXQ="), 200)
	}},
	{notes: []string{"satisfy: all", "whitelist-source-range: 192.0.2.0/24", "auth-type: basic", "auth-secret: file"}, check: func(q *l7Query) {
		q.status(q.get("/", "Authorization: Basic YW5uYTpzZWNyZXQ="), 403)
	}},
}
