package policy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// asked is a RoundTripper that answers by itself.
type asked func(*http.Request) (*http.Response, error)

func (f asked) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// says is an answer with fields that are names and values in turn.
func says(status int, body string, fields ...string) asked {
	return func(*http.Request) (*http.Response, error) {
		r := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
		for i := 0; i < len(fields); i += 2 {
			r.Header.Add(fields[i], fields[i+1])
		}
		return r, nil
	}
}

func authEnv(t testing.TB, answer asked) Env {
	t.Helper()
	return Env{Rule: "a", Shared: NewShared(SharedConfig{AuthTransport: answer})}
}

func TestExtAuthVerdicts(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer asked
		want   string
		status int
		body   string
	}{
		{"200", says(200, "ok"), "passed", 0, ""},
		{"202", says(202, ""), "passed", 0, ""},
		{"204", says(204, ""), "passed", 0, ""},
		{"401", says(401, "who are you", "WWW-Authenticate", "Bearer", "Server", "secret"), ReasonAuthExternal, 401, "who are you"},
		{"403", says(403, ""), ReasonAuthExternal, 403, "403 Forbidden\nauth-external\nrequest 0123456789abcdef\n"},
		{"a redirect is no verdict", says(302, "", "Location", "http://169.254.169.254/"), ReasonAuthUnanswered, 500, "500 Internal Server Error\nauth-unanswered\nrequest 0123456789abcdef\n"},
		{"404", says(404, "no"), ReasonAuthUnanswered, 500, "500 Internal Server Error\nauth-unanswered\nrequest 0123456789abcdef\n"},
		{"500", says(500, "no"), ReasonAuthUnanswered, 500, "500 Internal Server Error\nauth-unanswered\nrequest 0123456789abcdef\n"},
		{"101", says(101, ""), ReasonAuthUnanswered, 500, "500 Internal Server Error\nauth-unanswered\nrequest 0123456789abcdef\n"},
		{"nobody", func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") },
			ReasonAuthUnanswered, 500, "500 Internal Server Error\nauth-unanswered\nrequest 0123456789abcdef\n"},
		{"too much to say", says(403, strings.Repeat("x", maxAnswer+1)), ReasonAuthExternal, 403, "403 Forbidden\nauth-external\nrequest 0123456789abcdef\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := compile(t, Config{ExtAuth: &ExtAuth{URL: "http://auth.example/check"}}, authEnv(t, c.answer))
			x := newExchange(t, "GET", "http://a.example/")
			diff(t, "outcome", outcome(x, p.Admit(x)), c.want)
			p.Apply(x)
			if x.Response == nil {
				return
			}
			diff(t, "status", x.Response.Status, c.status)
			diff(t, "body", readBody(t, x), c.body)
			if c.status == 401 {
				diff(t, "WWW-Authenticate", x.Response.Header.Get("WWW-Authenticate"), "Bearer")
			}
			diff(t, "Server", x.Response.Header.Get("Server"), "")
		})
	}
}

// TestExtAuthVerdictIsFinal is CVE-2026-24513: an error page must not make a verdict another.
func TestExtAuthVerdictIsFinal(t *testing.T) {
	e := authEnv(t, says(401, ""))
	e.ErrorPage = func(*exchange.Exchange, exchange.Header) (*exchange.Response, error) {
		t.Error("the error page is asked about a verdict")
		return backend(200, "welcome"), nil
	}
	p := compile(t, Config{ExtAuth: &ExtAuth{URL: "http://auth.example/"}, Errors: &Errors{Statuses: []int{401, 403, 500}}}, e)
	x := newExchange(t, "GET", "http://a.example/")
	p.Admit(x)
	p.Apply(x)
	diff(t, "status", x.Response.Status, 401)
}

func TestExtAuthQuestion(t *testing.T) {
	var got *http.Request
	answer := func(r *http.Request) (*http.Response, error) {
		got = r
		return says(200, "", "X-User", "ann", "X-Groups", "a", "X-Groups", "b", "X-Other", "c", "Set-Cookie", "s=1")(r)
	}
	p := compile(t, Config{ExtAuth: &ExtAuth{
		URL: "$scheme://$host/auth?u=$escaped_request_uri", Method: "HEAD",
		ResponseHeaders: []string{"X-User", "X-Groups", "X-Missing"}, Request: []Field{{"X-Tenant", "t"}, {"User-Agent", ""}},
	}}, authEnv(t, answer))
	x := newExchange(t, "POST", "https://a.example:8443/x/y?z=1",
		"Cookie", "a=b", "Authorization", "Bearer t", "X-User", "forged", "x_user", "forged", "X-Missing", "forged",
		"X-Original-Method", "GET", "Content-Type", "text/plain", "If-None-Match", `"x"`, "Range", "bytes=0-1", "Accept-Encoding", "gzip", "User-Agent", "curl")
	x.Request.Trailer = &exchange.Header{{Name: "X_User", Value: "forged"}, {Name: "X-Sum", Value: "1"}}
	x.Request.Body, x.Request.Length = strings.NewReader("body"), 4
	diff(t, "outcome", outcome(x, p.Admit(x)), "passed")

	diff(t, "question", got.Method+" "+got.URL.String(), "HEAD https://a.example/auth?u=%2Fx%2Fy%3Fz%3D1")
	if got.Body != nil || got.ContentLength != 0 {
		t.Error("the question has a body")
	}
	for name, want := range map[string]string{
		"X-Original-Url": "https://a.example:8443/x/y?z=1", "X-Original-Method": "POST", "X-Sent-From": "fairlead", "X-Real-Ip": "198.51.100.1",
		"X-Forwarded-For": "198.51.100.1", "X-Auth-Request-Redirect": "/x/y?z=1", "X-Request-Id": "0123456789abcdef", "X-Tenant": "t",
		"Cookie": "a=b", "Authorization": "Bearer t", "If-None-Match": "", "Range": "", "Accept-Encoding": "", "User-Agent": "",
	} {
		diff(t, name, strings.Join(got.Header.Values(name), "|"), want)
	}

	h := x.Request.Header
	diff(t, "X-User", h.Values("X-User"), []string{"ann"})
	diff(t, "X-Groups", h.Values("X-Groups"), []string{"a", "b"})
	for _, name := range []string{"x_user", "X-Missing", "X-Other"} {
		if h.Has(name) {
			t.Errorf("the backend gets %s: %q", name, h.Values(name))
		}
	}
	if _, err := io.ReadAll(x.Request.Body); err != nil {
		t.Fatal(err)
	}
	diff(t, "trailer", *x.Request.Trailer, exchange.Header{{Name: "X-Sum", Value: "1"}})
}

func TestExtAuthCookies(t *testing.T) {
	for _, c := range []struct {
		status int
		always bool
		want   []string
	}{
		{200, false, []string{"app=1", "s=1"}},
		{302, false, []string{"app=1", "s=1"}},
		{404, false, []string{"app=1"}},
		{404, true, []string{"app=1", "s=1"}},
	} {
		p := compile(t, Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", AlwaysSetCookie: c.always}}, authEnv(t, says(200, "", "Set-Cookie", "s=1")))
		x := newExchange(t, "GET", "http://a.example/")
		p.Admit(x)
		x.Response = backend(c.status, "", "Set-Cookie", "app=1")
		p.Apply(x)
		diff(t, "Set-Cookie", x.Response.Header.Values("Set-Cookie"), c.want)
	}
}

func TestExtAuthSignIn(t *testing.T) {
	for _, c := range []struct {
		name, signIn, param, url, want string
	}{
		{"a parameter is added", "https://auth.example/start", "", "https://a.example/x?y=z&w",
			"auth-sign-in https://auth.example/start?rd=https://a.example%2Fx%3Fy%3Dz%26w"},
		{"to others", "https://auth.example/start?a=b", "next", "http://a.example:8080/", "auth-sign-in https://auth.example/start?a=b&next=http://a.example:8080%2F"},
		{"it is there", "https://auth.example/start?rd=$scheme://$http_host$escaped_request_uri", "", "https://a.example/x",
			"auth-sign-in https://auth.example/start?rd=https://a.example%2Fx"},
		{"a path", "/oauth2/start", "", "https://a.example/x", "auth-sign-in /oauth2/start?rd=https://a.example%2Fx"},
		{"in front of a fragment", "https://auth.example/#login", "", "https://a.example/x", "auth-sign-in https://auth.example/?rd=https://a.example%2Fx#login"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", SignIn: c.signIn, RedirectParam: c.param}}
			p := compile(t, config, authEnv(t, says(401, "", "Set-Cookie", "csrf=1")))
			x := newExchange(t, "GET", c.url)
			diff(t, "outcome", outcome(x, p.Admit(x)), c.want)
			p.Apply(x)
			diff(t, "status", x.Response.Status, 302)
			diff(t, "Set-Cookie", x.Response.Header.Get("Set-Cookie"), "csrf=1")
		})
	}
	p := compile(t, Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", SignIn: "/in"}}, authEnv(t, says(403, "")))
	x := newExchange(t, "GET", "http://a.example/")
	diff(t, "signing in does not help", outcome(x, p.Admit(x)), ReasonAuthExternal)
}

func TestExtAuthCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		status, extra := 200, []string{"X-User", "ann"}
		answer := func(r *http.Request) (*http.Response, error) {
			n.Add(1)
			return says(status, "", extra...)(r)
		}
		p := compile(t, Config{ExtAuth: &ExtAuth{
			URL: "http://auth.example/", CacheKey: "$cookie_session", ResponseHeaders: []string{"X-User"},
			CacheFor: []CacheTime{{200, time.Minute}, {401, time.Second}},
		}}, authEnv(t, answer))
		ask := func(session string) string {
			x := newExchange(t, "GET", "http://a.example/", "Cookie", "x=y; session="+session)
			out := outcome(x, p.Admit(x))
			return out + " " + x.Request.Header.Get("X-User")
		}
		for range 3 {
			diff(t, "first", ask("1"), "passed ann")
		}
		diff(t, "questions", n.Load(), int64(1))
		diff(t, "another session", ask("2"), "passed ann")
		diff(t, "questions", n.Load(), int64(2))
		time.Sleep(time.Minute)
		status = 401
		diff(t, "after a minute", ask("1"), "auth-external ")
		diff(t, "the other's too", ask("2"), "auth-external ")
		status = 200
		diff(t, "remembered", ask("1"), "auth-external ")
		diff(t, "questions", n.Load(), int64(4))
		time.Sleep(time.Second)
		extra = []string{"Cache-Control", "no-store"}
		ask("3")
		ask("3")
		extra = []string{"Set-Cookie", "a=b"}
		ask("4")
		ask("4")
		diff(t, "questions whose answers are not kept", n.Load(), int64(8))
	})
}

func TestExtAuthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		p := compile(t, Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", Timeout: 3 * time.Second}}, authEnv(t, answer))
		x := newExchange(t, "GET", "http://a.example/")
		start := time.Now()
		diff(t, "outcome", outcome(x, p.Admit(x)), ReasonAuthUnanswered)
		diff(t, "after", time.Since(start), 3*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		x = newExchange(t, "GET", "http://a.example/")
		x.Context = ctx
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		p.Admit(x)
		diff(t, "a client that goes takes the question with it", time.Since(start), time.Second)
	})
}

func TestGuardAddress(t *testing.T) {
	for _, s := range []string{
		"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "0.1.2.3", "::",
		"fd00:ec2::254", "100.100.100.200", "224.0.0.1", "ff02::1", "255.255.255.255", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "::127.0.0.1",
	} {
		if err := guardAddress(netip.MustParseAddr(s)); !errors.Is(err, errGuarded) {
			t.Errorf("%s may be asked: %v", s, err)
		}
	}
	for _, s := range []string{"10.96.0.1", "192.168.1.1", "8.8.8.8", "fd00:10:96::1", "2001:db8::1", "64:ff9b::808:808"} {
		if err := guardAddress(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s may not be asked: %v", s, err)
		}
	}
}

// TestExtAuthGuard asks a real server on this machine, with and without leave.
func TestExtAuthGuard(t *testing.T) {
	var n, followed atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) { n.Add(1) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/followed", http.StatusFound) })
	mux.HandleFunc("/followed", func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	server := httptest.NewServer(mux)
	defer server.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	for _, c := range []struct {
		url   string
		local bool
		want  string
	}{
		{server.URL + "/ok", false, ReasonAuthUnanswered},
		{"http://localhost:" + port + "/ok", false, ReasonAuthUnanswered},
		{server.URL + "/ok", true, "passed"},
		{server.URL + "/elsewhere", true, ReasonAuthUnanswered},
	} {
		p := compile(t, Config{ExtAuth: &ExtAuth{URL: c.url, Local: c.local}}, env(t))
		x := newExchange(t, "GET", "http://a.example/")
		diff(t, c.url, outcome(x, p.Admit(x)), c.want)
	}
	diff(t, "questions that arrived", n.Load(), int64(1))
	diff(t, "redirects that were followed", followed.Load(), int64(0))
}

// TestExtAuthSkipped makes sure that nobody can say about themselves what only the other server may, where it is not asked.
func TestExtAuthSkipped(t *testing.T) {
	asks := 0
	answer := func(r *http.Request) (*http.Response, error) {
		asks++
		return says(200, "", "X-User", "ann")(r)
	}
	for _, nginx := range []bool{false, true} {
		p := compile(t, Config{
			Access:     &Access{Allow: prefixes("198.51.100.0/24"), Except: true},
			ExtAuth:    &ExtAuth{URL: "http://auth.example/", ResponseHeaders: []string{"X-User"}},
			NginxOrder: nginx,
		}, authEnv(t, answer))
		x := newExchange(t, "GET", "http://a.example/", "X-User", "root", "X_USER", "root")
		diff(t, "outcome", outcome(x, p.Admit(x)), "passed")
		diff(t, "header", lines(x.Request.Header), "")
		diff(t, "questions", asks, 0)
	}
}

// TestExtAuthBadRequest looks at requests which an engine should not have let through: the answer is no, and nothing
// of them gets into a header.
func TestExtAuthBadRequest(t *testing.T) {
	for _, host := range []string{"a\r\nX: y", "a b", "user@a", "a/b"} {
		asks := 0
		answer := func(r *http.Request) (*http.Response, error) {
			if asks++; r.URL.Host != "auth.example" {
				t.Errorf("host %q: %s is asked", host, r.URL.Host)
			}
			return says(401, "")(r)
		}
		for _, url := range []string{"http://auth.example/", "http://auth.example/?h=$http_host", "http://$host/"} {
			p := compile(t, Config{ExtAuth: &ExtAuth{URL: url, SignIn: "https://$host/?rd=$http_host"}}, authEnv(t, answer))
			x := newExchange(t, "GET", "http://a.example/")
			x.Request.Host, x.Request.RawHost = host, host
			if p.Admit(x) {
				t.Errorf("host %q: admitted", host)
			}
			if l := x.Response.Header.Get("Location"); strings.ContainsAny(l, "\r\n ") {
				t.Errorf("host %q: Location %q", host, l)
			}
		}
	}
}
