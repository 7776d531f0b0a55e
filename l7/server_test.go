package l7

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/ingress/ingresstest"
	"github.com/fairlead-project/fairlead/service"
)

func TestRouting(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", says(t, "web"))
	w.service("default/api", says(t, "api"))
	w.change(ing("default/a", "a.com", nil, leads("/", "web"), leads("/api", "api")))
	nginx := ing("default/n", "n.com", nil, leads("/foo", "web"))
	nginx.Ingress.Class = "nginx"
	nginx.Ingress.Rules[0].Paths[0].Path, nginx.Ingress.Rules[0].Paths[0].Type = "/foo/", ingress.ImplementationSpecific
	w.change(nginx)
	for _, c := range []struct {
		method, url string
		status      int
		body        string
	}{
		{"GET", "http://a.com/", 200, "web"},
		{"GET", "http://A.com:8080/api/x", 200, "api"},
		{"GET", "http://a.com/apis", 200, "web"},
		{"GET", "http://a.com/x/%2e%2e/api", 200, "api"},
		{"GET", "http://b.com/", 404, "404"},
		{"GET", "http://a.com/%00", 400, "400"},
		{"GET", "http://a.com/%2e%2e/x", 400, "400"},
		{"GET", "http://n.com/foo?x=1", 301, ""},
		{"GET", "http://n.com/foo/x", 200, "web"},
		{"HEAD", "http://a.com/", 200, ""},
	} {
		w.want(w.ask(c.method, c.url), c.status, c.body)
	}
	if got := w.get("http://n.com/foo?x=1").Header.Get("Location"); got != "http://n.com/foo/?x=1" && got != "/foo/?x=1" {
		t.Errorf("the slash redirect goes to %q", got)
	}
	if got := w.get("http://a.com/").Header.Get("Server"); got != "fairlead" {
		t.Errorf("Server: got %q", got)
	}
	if got := w.get("http://b.com/").Header.Get("Server"); got != "fairlead" {
		t.Errorf("Server of our own answer: got %q", got)
	}
	w.change(gone("Ingress", "default/a"))
	w.want(w.get("http://a.com/"), 404, "404")
}

// raw sends bytes and returns what comes back until the other side closes.
func (w *world) raw(text string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	got, _ := io.ReadAll(c)
	return string(got)
}

func TestRawRequests(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", says(t, "web"))
	w.change(ing("default/a", "", nil, leads("/", "web")))
	for _, c := range []struct{ name, send, want string }{
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n", "HTTP/1.1 204 "},
		{"no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 "},
		{"a host that is none", "GET / HTTP/1.1\r\nHost: a_b!c\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 "},
		{"two lengths", "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 400 "},
		{"a wrong protocol", "GET / HTTP/3.0\r\nHost: a.com\r\n\r\n", "HTTP/1.1 "},
	} {
		if got := w.raw(c.send); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %.80q, want %q", c.name, got, c.want)
		}
	}
}

// TestEndpointChurn shows that endpoints come and go without a rule noticing.
func TestEndpointChurn(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", says(t, "one"))
	w.change(ing("default/a", "a.com", nil, leads("/", "web")))
	table, generation := w.s.table.Load(), w.s.compiled.generation.Load()
	for i := range 50 {
		text := fmt.Sprint("endpoint ", i)
		w.service("default/web", says(t, text))
		w.want(w.get("http://a.com/"), 200, text)
	}
	w.service("default/web")
	w.want(w.get("http://a.com/"), 503, "503")
	if w.s.table.Load() != table || w.s.compiled.generation.Load() != generation {
		t.Error("rules were compiled anew for endpoints")
	}
}

func TestDefaultBackend(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DefaultBackend = name("default/fallback") })
	w.want(w.get("http://a.com/"), 503, "503")
	if got := w.reasons(); !slices.Contains(got, "Service default/fallback BackendNotFound") {
		t.Errorf("problems: got %q", got)
	}
	w.service("default/fallback", says(t, "one"), says(t, "two"))
	if got := w.reasons(); got != nil {
		t.Errorf("problems: got %q", got)
	}
	seen := map[string]int{}
	for range 10 {
		a := w.get("http://a.com/x")
		seen[a.body]++
	}
	if seen["one"] != 5 || seen["two"] != 5 {
		t.Errorf("round robin of the default backend: got %v", seen)
	}
}

func TestProblems(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", says(t, "web"))
	w.change(
		ing("default/a", "a.com", nil, leads("/", "web")),
		ing("default/b", "b.com", nil, leads("/", "nothing"), leads("/x", "nothing")),
		ing("default/c", "c.com", nil, ingress.Path{Path: "/", Type: ingress.Prefix, Backend: ingress.Backend{Service: "web", Port: ingress.Port{Number: 81}}}),
		ing("default/d", "d.com", nil, leads("/", "name")),
	)
	w.serviceOf(service.Service{Name: name("default/name"), ExternalName: "example.com"})
	want := []string{"Ingress default/b BackendNotFound", "Ingress default/c PortNotFound", "Ingress default/d ExternalNameRefused"}
	if diff := cmp.Diff(w.reasons(), want); diff != "" {
		t.Errorf("problems (-got +want):\n%s", diff)
	}
	for host, status := range map[string]int{"a": 200, "b": 503, "c": 503, "d": 503} {
		w.want(w.get("http://"+host+".com/"), status, "")
	}
	w.service("default/nothing", says(t, "here"))
	w.change(gone("Ingress", "default/c"), gone("Ingress", "default/d"))
	if got := w.reasons(); got != nil {
		t.Errorf("problems: got %q", got)
	}
	w.want(w.get("http://b.com/"), 200, "here")
	w.store.DeleteService(name("default/nothing"))
	w.sync()
	if diff := cmp.Diff(w.reasons(), want[:1]); diff != "" {
		t.Errorf("problems (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(w.served, []service.Name{name("default/a"), name("default/b")}); diff != "" {
		t.Errorf("served (-got +want):\n%s", diff)
	}
}

func TestRetries(t *testing.T) {
	var bad atomic.Int64
	breaks := serve(t, func(w http.ResponseWriter, r *http.Request) {
		bad.Add(1)
		io.Copy(io.Discard, r.Body)
		conn, _, _ := http.NewResponseController(w).Hijack()
		conn.Close()
	})
	unavailable := serve(t, func(w http.ResponseWriter, _ *http.Request) { bad.Add(1); w.WriteHeader(503) })
	garbage := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		bad.Add(1)
		conn, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(conn, "no HTTP at all\r\n\r\n")
		conn.Close()
	})
	for _, c := range []struct {
		name        string
		first       netip.AddrPort
		method      string
		body        string
		annotations map[string]string
		status      int
		again       bool
	}{
		{"nobody there", nobody(t), "GET", "", nil, 200, true},
		{"nobody there, and it is no question of methods", nobody(t), "POST", "body", nil, 200, true},
		{"breaks off", breaks, "GET", "", nil, 200, true},
		{"breaks off what changes something", breaks, "POST", "body", nil, 502, false},
		{"breaks off what is repeatable by RFC 9110 alone", breaks, "PUT", "body", nil, 502, false},
		{"breaks off, told that it does not matter", breaks, "POST", "body", map[string]string{"proxy-next-upstream": "error timeout non_idempotent"}, 200, true},
		{"503 is an answer", unavailable, "GET", "", nil, 503, false},
		{"503 is none if one says so", unavailable, "GET", "", map[string]string{"proxy-next-upstream": "http_503"}, 200, true},
		{"503 to what changes something", unavailable, "POST", "x", map[string]string{"proxy-next-upstream": "http_503"}, 503, false},
		{"retries are off", breaks, "GET", "", map[string]string{"proxy-next-upstream": "off"}, 502, false},
		{"one try", breaks, "GET", "", map[string]string{"proxy-next-upstream-tries": "1"}, 502, false},
		{"no HTTP", garbage, "GET", "", nil, 502, false},
		{"no HTTP, told to go on", garbage, "GET", "", map[string]string{"proxy-next-upstream": "invalid_header"}, 200, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.service("default/web", c.first, says(t, "good"))
			w.change(ing("default/a", "a.com", c.annotations, leads("/", "web")))
			statuses := map[int]int{}
			for range 4 {
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body)
				}
				statuses[w.send(c.method, "http://a.com/", body).StatusCode]++
			}
			if c.again && statuses[200] != 4 || !c.again && statuses[c.status] != 2 {
				t.Errorf("got %v, want half of them %d and the rest 200", statuses, c.status)
			}
			if got := w.s.stats.Retries.Load(); (got > 0) != c.again {
				t.Errorf("%d retries", got)
			}
			if n := w.s.budget.Retries(); n != 0 {
				t.Errorf("the budget counts %d tries for ever", n)
			}
			w.idle()
		})
	}
}

// idle waits until no endpoint has a request any more.
func (w *world) idle() {
	w.t.Helper()
	w.until("nothing is in flight", func() bool {
		n := w.s.stats.InFlight.Load()
		for e := range w.s.eachEndpoint() {
			n += int64(e.InFlight)
		}
		return n == 0
	})
}

// TestStaleConnection has a backend that closes connections it was to keep. No request may notice, nor may the endpoint be
// blamed.
func TestStaleConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() { // answers once, and closes when it is asked again
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_, _ = http.ReadRequest(r)
			}()
		}
	}()
	w := newWorld(t, nil)
	w.service("default/web", netip.MustParseAddrPort(l.Addr().String()))
	w.change(ing("default/a", "a.com", nil, leads("/", "web")))
	for range 10 {
		w.want(w.get("http://a.com/"), 200, "ok")
	}
	if n := conns.Load(); n != 10 {
		t.Errorf("%d connections for 10 requests, of which each but the first found a closed one", n)
	}
	for e := range w.s.eachEndpoint() {
		if e.Failures != 0 {
			t.Errorf("%v has %d failures", e.Addr, e.Failures)
		}
	}
	w.idle()
}

func TestClientGone(t *testing.T) {
	asked, leave := make(chan struct{}), make(chan struct{})
	slow := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		select {
		case <-r.Context().Done():
		case <-leave:
		}
	})
	defer close(leave)
	w := newWorld(t, nil)
	w.service("default/web", slow)
	w.change(ing("default/a", "a.com", nil, leads("/", "web")))
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
	<-asked
	c.Close()
	w.idle()
	w.until("the log says so", func() bool {
		w.log.mu.Lock()
		defer w.log.mu.Unlock()
		return strings.Contains(w.log.b.String(), "499")
	})
	for e := range w.s.eachEndpoint() {
		if e.Failures != 0 {
			t.Errorf("%v is blamed for a client that went away", e.Addr)
		}
	}
}

func TestFallback(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web")
	w.service("default/sorry", says(t, "sorry"))
	w.change(ing("default/a", "a.com", map[string]string{"default-backend": "sorry"}, leads("/", "web")))
	w.want(w.get("http://a.com/"), 200, "sorry")
	w.service("default/web", says(t, "web"))
	w.want(w.get("http://a.com/"), 200, "web")
	// What may not be asked is not asked as a fallback either.
	w.serviceOf(service.Service{Name: name("default/sorry"), ExternalName: "localhost"})
	w.service("default/web")
	w.want(w.get("http://a.com/"), 503, "503")
}

func TestErrorPages(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "raw", 404) }))
	w.service("default/pages", serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "page for %s of %s", r.Header.Get("X-Code"), r.Header.Get("X-Original-URI"))
	}))
	w.change(ing("default/a", "a.com", map[string]string{"custom-http-errors": "404,503", "default-backend": "pages"}, leads("/", "web")))
	w.want(w.get("http://a.com/x?y"), 404, "page for 404 of /x?y")
	w.idle()
}

func TestCanary(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", says(t, "old"))
	w.service("default/new", says(t, "new"))
	w.change(ing("default/a", "a.com", nil, leads("/", "web")),
		ing("default/b", "a.com", map[string]string{"canary": "true", "canary-by-header": "X-New", "canary-weight": "0"}, leads("/", "new")))
	w.want(w.get("http://a.com/"), 200, "old")
	w.want(w.get("http://a.com/", "X-New: always"), 200, "new")
	w.want(w.get("http://a.com/", "X-New: never"), 200, "old")
	w.change(ing("default/b", "a.com", map[string]string{"canary": "true", "canary-weight": "100"}, leads("/", "new")))
	w.want(w.get("http://a.com/"), 200, "new")
	w.change(gone("Ingress", "default/b"))
	w.want(w.get("http://a.com/"), 200, "old")
}

func TestSticky(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Keys = name("default/keys") })
	eps := []netip.AddrPort{says(t, "one"), says(t, "two"), says(t, "three")}
	w.service("default/web", eps...)
	w.change(secret("default/keys", map[string][]byte{"key": []byte(strings.Repeat("k", 32))}),
		ing("default/a", "a.com", map[string]string{"affinity": "cookie", "session-cookie-name": "stay", "affinity-mode": "persistent"}, leads("/shop", "web")))
	first := w.get("http://a.com/shop")
	cookies := first.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "stay" || cookies[0].Path != "/shop" {
		t.Fatalf("cookies: got %v", first.Header["Set-Cookie"])
	}
	session := "Cookie: stay=" + cookies[0].Value
	for range 6 {
		a := w.get("http://a.com/shop", session)
		w.want(a, 200, first.body)
		if a.Header.Get("Set-Cookie") != "" {
			t.Error("a session that is kept is told again")
		}
	}
	// Another key makes other sessions, with no rule left behind.
	w.change(secret("default/keys", map[string][]byte{"key": []byte(strings.Repeat("l", 32))}))
	if a := w.get("http://a.com/shop", session); a.Header.Get("Set-Cookie") == "" {
		t.Error("a session of the old key is still good")
	}
	if n := len(w.s.pools()); n != 1 {
		t.Errorf("%d backends after a change of the key", n)
	}
}

func TestExternalName(t *testing.T) {
	here := says(t, "external")
	var fail atomic.Bool
	w := newWorld(t, func(c *Config) {
		c.Ingress.ExternalNames = true
		c.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if fail.Load() || host != "good.example" {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			return []netip.Addr{here.Addr()}, nil
		}
	})
	port := []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: here.Port()}}
	w.serviceOf(service.Service{Name: name("default/name"), ExternalName: "good.example", Ports: port})
	w.change(ing("default/a", "a.com", nil, ingress.Path{
		Path: "/", Type: ingress.Prefix, Backend: ingress.Backend{Service: "name", Port: ingress.Port{Name: "http"}},
	}))
	w.until("the name is resolved", func() bool { return w.get("http://a.com/").StatusCode == 200 })
	fail.Store(true)
	w.s.names <- struct{}{}
	w.s.names <- struct{}{} // the first lookup is over by then, or almost
	w.want(w.get("http://a.com/"), 200, "external")
	// Addresses of another name are not kept when the new one leads nowhere.
	w.serviceOf(service.Service{Name: name("default/name"), ExternalName: "bad.example", Ports: port})
	w.until("the old addresses are forgotten", func() bool { return w.get("http://a.com/").StatusCode == 503 })
}

func TestGlobals(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Globals = name("sys/conf") })
	w.service("default/web", serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Real-Ip"), " ", r.Header.Get("X-Forwarded-Port"), " ", r.Header.Get("X-Extra"))
	}))
	w.change(ing("default/a", "a.com", nil, leads("/", "web")))
	forged := []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Port: 8443"}
	w.want(w.get("http://a.com/", forged...), 200, "127.0.0.1 80 ")
	w.change(configMap("sys/conf", map[string]string{
		"use-forwarded-headers": "true", "proxy-real-ip-cidr": "127.0.0.0/8", "proxy-set-headers": "sys/headers",
	}), configMap("sys/headers", map[string]string{"X-Extra": "more"}))
	w.want(w.get("http://a.com/", forged...), 200, "192.0.2.7 8443 more")
	w.change(configMap("sys/headers", map[string]string{"X-Extra": "other"}))
	w.want(w.get("http://a.com/", forged...), 200, "192.0.2.7 8443 other")

	w.change(configMap("sys/conf", map[string]string{"block-cidrs": "127.0.0.0/8,nonsense"}))
	w.want(w.get("http://a.com/", forged...), 200, "192.0.2.7 8443")
	if got := w.reasons(); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "ConfigMap sys/conf ") }) {
		t.Errorf("problems: got %q", got)
	}
	w.change(configMap("sys/conf", map[string]string{"block-cidrs": "127.0.0.0/8"}))
	w.want(w.get("http://a.com/"), 403, "403")
	w.change(gone("ConfigMap", "sys/conf"))
	w.want(w.get("http://a.com/", forged...), 200, "127.0.0.1 80 ")
	if got := w.reasons(); got != nil {
		t.Errorf("problems: got %q", got)
	}
}

// TestEarlyAnswer has a backend that answers a long request before it has come. The client, who has stopped sending, must hear of
// it although policies stand in front of the body.
func TestEarlyAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(409)
		io.WriteString(w, "enough")
	}))
	w.change(ing("default/a", "a.com", map[string]string{"proxy-body-size": "10m"}, leads("/", "web")))
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 409 || string(text) != "enough" {
		t.Errorf("got %d %q, %v", resp.StatusCode, text, err)
	}
	w.idle()
}

func TestBodyTooLarge(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	w.change(ing("default/a", "a.com", map[string]string{"proxy-body-size": "1k"}, leads("/", "web")))
	big := strings.Repeat("x", 2000)
	w.want(w.send("POST", "http://a.com/", strings.NewReader("small")), 200, "small")
	w.want(w.send("POST", "http://a.com/", strings.NewReader(big)), 413, "413")
	w.want(w.send("POST", "http://a.com/", io.MultiReader(strings.NewReader(big))), 413, "413") // chunked
	for e := range w.s.eachEndpoint() {
		if e.Failures != 0 {
			t.Error("an endpoint is blamed for a client")
		}
	}
}

func TestUpgrade(t *testing.T) {
	w := newWorld(t, nil)
	w.service("default/web", serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello ")
		io.Copy(conn, rw)
	}))
	w.change(ing("default/a", "a.com", nil, leads("/", "web")))
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	got := make([]byte, len("hello early"))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello early" {
		t.Fatalf("got %q, %v", got, err)
	}
	if n := w.s.Engine().Stats().Listeners()[0].Open.Load(); n != 1 {
		t.Errorf("%d connections are open, want that of the tunnel", n)
	}
	// At the end of the time to drain it is cut.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.s.Engine().Shutdown(ctx); err == nil || !strings.Contains(err.Error(), "1 tunnels") {
		t.Errorf("Shutdown: got %v", err)
	}
	if _, err := r.ReadByte(); err == nil || os.IsTimeout(err) {
		t.Errorf("the tunnel is still there: %v", err)
	}
	w.idle()
}

func TestHealth(t *testing.T) {
	var up atomic.Bool
	up.Store(true)
	one := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && !up.Load() {
			w.WriteHeader(500)
		}
		io.WriteString(w, "one")
	})
	w := newWorld(t, nil)
	w.service("default/web", one, says(t, "two"))
	w.change(ing("default/a", "a.com", map[string]string{
		"health-check-path": "/health", "health-check-interval": "1s", "health-check-fall": "1", "health-check-rise": "1",
	}, leads("/", "web")))
	if got := w.reasons(); got != nil {
		t.Fatalf("problems: %q", got)
	}
	up.Store(false)
	w.until("the endpoint is out", func() bool {
		for e := range w.s.eachEndpoint() {
			if e.Addr == one && e.CheckErr != nil {
				return true
			}
		}
		return false
	})
	for range 4 {
		w.want(w.get("http://a.com/"), 200, "two")
	}
}

func TestDefaultCertificate(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DefaultCertificate = name("sys/cert") })
	if got := w.reasons(); !slices.Equal(got, []string{"Secret sys/cert SecretNotFound"}) {
		t.Errorf("problems: got %q", got)
	}
	crt, key, err := ingresstest.Certificate(false, "default.example")
	if err != nil {
		t.Fatal(err)
	}
	w.change(secret("sys/cert", map[string][]byte{"tls.crt": crt, "tls.key": key}))
	serial := func() string { return fmt.Sprintf("%x", w.s.certs.Snapshot()[0].Pairs[0].Hash) }
	before := serial()
	if got := w.reasons(); got != nil {
		t.Errorf("problems: got %q", got)
	}
	w.change(secret("sys/cert", map[string][]byte{"tls.crt": []byte("bad"), "tls.key": key}))
	if got := w.reasons(); !slices.Equal(got, []string{"Secret sys/cert CertInvalid"}) {
		t.Errorf("problems: got %q", got)
	}
	if serial() != before {
		t.Error("a bad certificate has replaced a good one")
	}
}
