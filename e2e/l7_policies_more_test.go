//go:build linux

package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/andybalholm/brotli"
)

const annasPassword = "Authorization: Basic YW5uYTpzZWNyZXQ=" // anna:secret

var authRows = []l7Row{
	{notes: []string{"auth-type: basic", "auth-secret: file", "auth-realm: Our realm"}, check: func(q *l7Query) {
		a := q.status(q.get("/"), 401)
		q.equal("challenge", a.Header.Get("Www-Authenticate"), `Basic realm="Our realm", charset="UTF-8"`)
		q.status(q.get("/", "Authorization: Basic YW5uYTp3cm9uZw=="), 401)
		s := q.status(q.get("/", annasPassword), 200).Seen
		q.equal("Authorization", s.Header.Get("Authorization"), "")
	}},
	{notes: []string{"auth-secret-type: auth-map", "auth-type: basic", "auth-secret: map"}, check: func(q *l7Query) {
		q.status(q.get("/", "Authorization: Basic YmVydGE6c2VjcmV0"), 200)
		q.status(q.get("/", annasPassword), 401)
	}},
	{notes: []string{"auth-secret: missing", "auth-type: basic"}, check: func(q *l7Query) { q.status(q.get("/", annasPassword), 503) }},
	{notes: []string{"auth-url: http://AUTH/auth", "auth-response-headers: X-User", "auth-method: POST", "auth-proxy-set-headers: question-fields", "auth-request-redirect: /back"}, check: func(q *l7Query) {
		q.status(q.get("/a?b"), 401)
		q.status(q.get("/", "X-Token: forbidden"), 403)
		s := q.status(q.get("/a?b", "X-Token: good", "X-User: forged"), 200).Seen
		q.equal("X-User", strings.Join(s.Header["X-User"], ","), "carla")
		asked, _ := q.question()
		for name, want := range map[string]string{
			"X-Method": "POST", "X-Original-Url": "http://" + q.host + "/a?b", "X-Original-Method": "GET", "X-Question": "from the ConfigMap",
			"X-Auth-Request-Redirect": "/back", "X-Real-Ip": "198.51.100.1",
		} {
			q.equal(name, asked.Get(name), want)
		}
	}},
	{notes: []string{"auth-signin: https://login.test/start", "auth-signin-redirect-param: from", "auth-url: http://AUTH/auth"}, check: func(q *l7Query) {
		q.redirected(q.get("/a?b=c"), 302, "https://login.test/start?from=http://"+q.host+"%2Fa%3Fb%3Dc")
	}},
	{notes: []string{"auth-always-set-cookie: true", "auth-url: http://AUTH/auth"}, check: func(q *l7Query) {
		q.equal("cookie", q.status(q.get("/?status=500", "X-Token: good"), 500).Header.Get("Set-Cookie"), "verdict=1")
	}},
	{notes: []string{"auth-always-set-cookie: false", "auth-url: http://AUTH/auth"}, check: func(q *l7Query) {
		q.equal("cookie", q.status(q.get("/?status=500", "X-Token: good"), 500).Header.Get("Set-Cookie"), "")
	}},
	{notes: []string{"auth-cache-key: $http_x_token", "auth-cache-duration: 200 1m, 401 1m", "auth-url: http://AUTH/auth?cookie=no"}, check: func(q *l7Query) {
		for range 5 {
			q.status(q.get("/", "X-Token: good"), 200)
			q.status(q.get("/", "X-Token: bad"), 401)
		}
		if _, n := q.question(); n != 2 {
			q.Errorf("the server was asked %d times, want twice", n)
		}
	}},
	{notes: []string{"auth-timeout: 500ms", "auth-url: http://AUTH/auth?slow=yes"}, check: func(q *l7Query) { q.status(q.get("/", "X-Token: good"), 500) }},
	{notes: []string{"auth-url: http://127.0.0.1:10261/readyz"}, check: func(q *l7Query) {
		if a := q.get("/"); a.Status < 500 {
			q.Errorf("an address of this machine was asked: %d", a.Status)
		}
	}},
	{notes: []string{"enable-global-auth: true"}, check: func(q *l7Query) {
		q.status(q.get("/"), 401)
		q.status(q.get("/", "X-Token: good"), 200)
	}},
}

// times makes n requests, one after the other, and counts their statuses.
func (q *l7Query) times(n int) map[int]int {
	q.Helper()
	got := make(map[int]int)
	for range n {
		got[q.get("/").Status]++
	}
	return got
}

// limited is the status of those who ask too often.
func (q *l7Query) limited() int { return byDialect(q, 429, 503) }

var limitRows = []l7Row{
	{notes: []string{"limit-rps: 1"}, check: func(q *l7Query) {
		if got := q.times(12); got[200] < 5 || got[200] > 7 || got[200]+got[q.limited()] != 12 {
			q.Errorf("got %v, want a burst of 5 and no more", got)
		}
	}},
	{notes: []string{"limit-rpm: 60", "limit-burst-multiplier: 1"}, check: func(q *l7Query) {
		if got := q.times(70); got[200] < 60 || got[200] > 63 || got[200]+got[q.limited()] != 70 {
			q.Errorf("got %v, want about 60 good ones", got)
		}
	}},
	{notes: []string{"limit-burst-multiplier: 2", "limit-rps: 2"}, check: func(q *l7Query) {
		if got := q.times(12); got[200] < 4 || got[200] > 6 {
			q.Errorf("got %v, want a burst of 4", got)
		}
	}},
	{notes: []string{"limit-allowlist: 198.51.100.0/24", "limit-rps: 1"}, check: func(q *l7Query) {
		if got := q.times(12); got[200] != 12 {
			q.Errorf("got %v, want no limit", got)
		}
	}},
	{notes: []string{"limit-connections: 2"}, check: func(q *l7Query) {
		var group sync.WaitGroup
		var mu sync.Mutex
		got := make(map[int]int)
		for range 5 {
			group.Go(func() {
				a := q.get("/?sleep=1s")
				mu.Lock()
				defer mu.Unlock()
				got[a.Status]++
			})
		}
		group.Wait()
		if got[200] != 2 || got[q.limited()] != 3 {
			q.Errorf("got %v, want 2 good ones at a time", got)
		}
		q.status(q.get("/"), 200)
	}},
}

// preflight asks as browsers do.
func (q *l7Query) preflight(origin string) *l7Answer {
	q.Helper()
	return send(q.T, q.client, http.MethodOptions, "http://"+q.host+"/", "", "Origin: "+origin, "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: X-Want")
}

var corsRows = []l7Row{
	{notes: []string{"enable-cors: true"}, check: func(q *l7Query) {
		a := q.status(q.preflight("https://a.test"), 204)
		q.equal("origin", a.Header.Get("Access-Control-Allow-Origin"), "*")
		q.equal("methods", a.Header.Get("Access-Control-Allow-Methods"), "GET, PUT, POST, DELETE, PATCH, OPTIONS")
		q.equal("age", a.Header.Get("Access-Control-Max-Age"), "1728000")
		q.equal("credentials", a.Header.Get("Access-Control-Allow-Credentials"), "") // which browsers do not take together with a star
		q.equal("origin", q.status(q.get("/", "Origin: https://a.test"), 200).Header.Get("Access-Control-Allow-Origin"), "*")
	}},
	{notes: []string{
		"cors-allow-origin: https://a.test, https://*.b.test", "enable-cors: true", "cors-allow-methods: GET, PUT", "cors-allow-headers: X-Want",
		"cors-expose-headers: X-Shown", "cors-allow-credentials: true", "cors-max-age: 60",
	}, check: func(q *l7Query) {
		for origin, want := range map[string]string{"https://a.test": "https://a.test", "https://x.b.test": "https://x.b.test", "https://evil.test": "", "http://a.test": ""} {
			a := q.preflight(origin)
			q.equal("origin", a.Header.Get("Access-Control-Allow-Origin"), want)
			if want == "" {
				continue
			}
			q.status(a, 204)
			q.equal("methods", a.Header.Get("Access-Control-Allow-Methods"), "GET, PUT")
			q.equal("headers", a.Header.Get("Access-Control-Allow-Headers"), "X-Want")
			q.equal("credentials", a.Header.Get("Access-Control-Allow-Credentials"), "true")
			q.equal("age", a.Header.Get("Access-Control-Max-Age"), "60")
		}
		a := q.status(q.get("/", "Origin: https://a.test"), 200)
		q.equal("exposed", a.Header.Get("Access-Control-Expose-Headers"), "X-Shown")
		if !strings.Contains(strings.Join(a.Header["Vary"], ","), "Origin") {
			q.Errorf("Vary is %q", a.Header["Vary"])
		}
	}},
}

// unpacked returns the body of an answer that is compressed.
func (q *l7Query) unpacked(a *l7Answer) string {
	q.Helper()
	var from io.Reader = strings.NewReader(a.Body)
	switch a.Header.Get("Content-Encoding") {
	case "gzip":
		z, err := gzip.NewReader(from)
		if err != nil {
			q.Error(err)
			return ""
		}
		from = z
	case "br":
		from = brotli.NewReader(from)
	}
	text, err := io.ReadAll(from)
	if err != nil {
		q.Error(err)
	}
	return string(text)
}

// packed holds how an answer is compressed, and that nothing of it is lost.
func (q *l7Query) packed(path, accept, want string, size int) {
	q.Helper()
	a := q.status(q.get(path, "Accept-Encoding: "+accept), 200)
	q.equal("coding of "+path+" for "+accept, a.Header.Get("Content-Encoding"), want)
	if got := len(q.unpacked(a)); got != size {
		q.Errorf("%d bytes, want %d", got, size)
	}
}

var answerRows = []l7Row{
	{notes: []string{"proxy-body-size: 1k"}, check: func(q *l7Query) {
		q.status(send(q.T, q.client, http.MethodPost, "http://"+q.host+"/", strings.Repeat("x", 1025)), 413)
		q.status(send(q.T, q.client, http.MethodPost, "http://"+q.host+"/", strings.Repeat("x", 1024)), 200)
	}},
	{notes: []string{"app-root: /never"}, path: "/x", check: func(q *l7Query) { // the default of proxy-body-size
		q.status(send(q.T, q.client, http.MethodPost, "http://"+q.host+"/x", strings.Repeat("x", 1<<20+1)), byDialect(q, 200, 413))
	}},
	{notes: []string{"use-gzip: true", "gzip-level: 9", "gzip-min-length: 1000", "gzip-types: text/plain application/x-own"}, nginx: 1, check: func(q *l7Query) {
		q.packed("/?size=5000&type=text/plain", "gzip, br", "gzip", 5000)
		q.packed("/?size=5000&type=application/x-own", "gzip", "gzip", 5000)
		q.packed("/?size=5000&type=image/png", "gzip", "", 5000)
		q.packed("/?size=999&type=text/plain&set=Content-Length:999", "gzip", "", 999)
		q.packed("/?size=5000&type=text/plain", "identity", "", 5000)
		q.packed("/?size=5000&type=text/plain", "gzip;q=0", "", 5000)
	}},
	{notes: []string{"enable-brotli: true", "brotli-level: 5", "brotli-min-length: 100", "use-gzip: true"}, nginx: 1, check: func(q *l7Query) {
		q.packed("/?size=5000&type=text/plain", "gzip, br", "br", 5000)
		q.packed("/?size=5000&type=text/plain", "gzip", "gzip", 5000)
	}},
	{notes: []string{"custom-http-errors: 404,503", "default-backend: sorry"}, check: func(q *l7Query) {
		a := q.status(q.get("/x?status=404"), 404)
		q.equal("page", a.Body, "a page for 404")
		q.equal("question", a.Header.Get("X-Asked"), "404 /x?status=404 web")
		q.equal("by", q.status(q.get("/?status=500"), 500).Seen.By, "web")
	}},
	{notes: []string{"disable-proxy-intercept-errors: true", "custom-http-errors: 404", "default-backend: sorry"}, check: func(q *l7Query) {
		q.equal("by", q.status(q.get("/?status=404"), 404).Seen.By, "web")
	}},
	{notes: []string{"custom-headers: answer-fields"}, check: func(q *l7Query) {
		q.equal("X-Custom", q.status(q.get("/"), 200).Header.Get("X-Custom"), "from the ConfigMap")
	}},
	{notes: []string{"response-headers: X-Added: yes\nCache-Control:", "request-headers: X-Tenant: a\nX-Gone:", "hide-headers: X-Hidden"}, nginx: 1, check: func(q *l7Query) {
		a := q.status(q.get("/?set=X-Hidden:1&set=Cache-Control:private", "X-Gone: here", "X-Tenant: forged"), 200)
		q.equal("X-Added", a.Header.Get("X-Added"), "yes")
		q.equal("Cache-Control", a.Header.Get("Cache-Control"), "")
		q.equal("X-Hidden", a.Header.Get("X-Hidden"), "")
		q.equal("X-Tenant", strings.Join(a.Seen.Header["X-Tenant"], ","), "a")
		q.equal("X-Gone", a.Seen.Header.Get("X-Gone"), "")
	}},
	{notes: []string{"hsts: true", "hsts-max-age: 100", "hsts-include-subdomains: true", "hsts-preload: true"}, nginx: 1, tls: true, check: func(q *l7Query) {
		q.equal("HSTS", q.status(q.gets("/"), 200).Header.Get("Strict-Transport-Security"), "max-age=100; includeSubDomains; preload")
		q.equal("HSTS in plain text", q.get("/.well-known/acme-challenge/x").Header.Get("Strict-Transport-Security"), "")
	}},
	{notes: []string{"ssl-redirect: true"}, tls: true, check: func(q *l7Query) { // the default of hsts
		q.equal("HSTS", q.gets("/").Header.Get("Strict-Transport-Security"), byDialect(q, "", "max-age=31536000; includeSubDomains"))
	}},
	{notes: []string{"enable-access-log: false"}, check: func(q *l7Query) {
		q.status(q.get("/unlogged"), 200)
		time.Sleep(300 * time.Millisecond) // the log is written behind requests
		if strings.Contains(q.proxy.Stdout(), q.host) {
			q.Error("it is in the log")
		}
	}},
	{notes: []string{"enable-access-log: true"}, check: func(q *l7Query) {
		q.status(q.get("/logged?x=y"), 200)
		within(q.T, 5*time.Second, func() error {
			if out := q.proxy.Stdout(); !strings.Contains(out, q.host) || !strings.Contains(out, "/logged") {
				return fmt.Errorf("it is not in the log:\n%s", lastLines(out, 5))
			}
			return nil
		})
	}},
}
