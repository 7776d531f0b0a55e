package status

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/service"
)

func now() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func pair(host string, end time.Time, warnings ...string) certs.HostStatus {
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: host}, Issuer: pkix.Name{CommonName: "CA"}, DNSNames: []string{host},
		NotBefore: now().Add(-time.Hour), NotAfter: end, PublicKeyAlgorithm: x509.ECDSA,
	}
	leaf.IPAddresses = append(leaf.IPAddresses, netip.MustParseAddr("10.0.0.1").AsSlice())
	return certs.HostStatus{Host: host, Pairs: []*certs.Pair{{Certificate: tls.Certificate{Leaf: leaf}, Warnings: warnings}}}
}

// filled is a View with something of everything.
func filled() View {
	at := netip.MustParseAddrPort
	return View{
		Version: "v1.2.3", Started: now().Add(-time.Hour), Now: now(), Generation: 42, Applied: now().Add(-time.Minute), Serving: true,
		Classes:   []Class{{Name: "nginx", Controller: "k8s.io/ingress-nginx", Dialect: "nginx", Ingresses: 3}, {Name: "fairlead", Controller: "fairlead.io/ingress", Dialect: "strict"}},
		Listeners: []Listener{{Name: "http", Address: "[::]:80", Protocol: "HTTP/1.1", Open: 3, Accepted: 77}, {Name: "https", Address: "[::]:443", Problem: "address already in use"}},
		Ingresses: []service.Name{{Namespace: "shop", Name: "web"}, {Namespace: "default", Name: "all"}},
		Hosts: []Host{
			{Name: "shop.example.com", Dialect: "nginx", TLS: true, Paths: []Path{
				{Path: "/b", Kind: "Prefix", Ingress: "shop/web", Backend: "shop/front:http", Policies: []string{"cors", "limits"}, Canary: "shop/next:80, 10 of 100"},
				{Path: "/a", Kind: "Exact", Ingress: "shop/web", Backend: "shop/api:80", Refused: "auth-secret is missing"},
			}},
			{Name: "", Dialect: "strict", Paths: []Path{{Ingress: "default/all", Backend: "default/web:80"}}},
			{Name: "www.example.com", Dialect: "nginx", AliasOf: "shop.example.com"},
			{Name: "raw.example.com", Dialect: "nginx", Passthrough: "shop/tls:443"},
		},
		Backends: []Backend{
			{Name: "shop/front:http", Endpoints: []balance.EndpointStatus{
				{Addr: at("10.244.1.4:8080"), Weight: 1, InFlight: 2, Requests: 100, Failures: 1, Latency: 12 * time.Millisecond, SlowStart: 1, Used: true},
				{Addr: at("[fd00::5]:8080"), Weight: 1, SlowStart: 1, Ejected: 8 * time.Second},
			}},
			{Name: "shop/api:80", Endpoints: []balance.EndpointStatus{{Addr: at("10.244.2.4:80"), SlowStart: 1, CheckErr: errors.New("status 500")}}},
			{Name: "default/web:80", Problem: "there is no such Service"},
			{Name: "a/slow:1", Endpoints: []balance.EndpointStatus{{Addr: at("10.244.2.9:1"), Used: true, SlowStart: 0.25}}},
		},
		Certificates: []certs.HostStatus{
			pair("", now().Add(1000*24*time.Hour)), pair("shop.example.com", now().Add(24*time.Hour), "no chain"), pair("old.example.com", now().Add(-time.Second)),
		},
		Problems: []service.Problem{
			{Object: service.Object{Kind: "Secret", Name: service.Name{Namespace: "shop", Name: "tls"}}, Reason: "CertExpired", Message: "ended yesterday"},
			{Object: service.Object{Kind: "Ingress", Name: service.Name{Namespace: "shop", Name: "web"}}, Reason: "BackendMissing", Field: "spec.rules[0]", Message: "there is no such Service"},
		},
		Counters: []Counter{{"retries", 5}},
	}
}

func ask(t *testing.T, h http.Handler, method, target, peer string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = peer
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func show200(t *testing.T, v View, target string) string {
	t.Helper()
	w := ask(t, Handler(Config{View: func() View { return v }}), "GET", target, "127.0.0.1:1")
	if w.Code != 200 {
		t.Fatalf("%s: %d %s", target, w.Code, w.Body)
	}
	return w.Body.String()
}

func TestGuard(t *testing.T) {
	own := Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}
	for _, c := range []struct {
		config Config
		peer   string
		want   int
	}{
		{Config{}, "127.0.0.1:1", 200}, {Config{}, "127.9.9.9:1", 200}, {Config{}, "[::1]:1", 200}, {Config{}, "[::ffff:127.0.0.1]:1", 200},
		{Config{}, "10.0.0.1:1", 403}, {Config{}, "[fe80::1%eth0]:1", 403}, {Config{}, "", 403}, {Config{}, "@", 403}, {Config{}, "127.0.0.1", 403},
		{own, "10.1.2.3:1", 200}, {own, "[::ffff:10.1.2.3]:1", 200}, {own, "[2001:db8::1%x]:1", 200},
		{own, "127.0.0.1:1", 403}, {own, "11.0.0.1:1", 403}, {own, "[::1]:1", 403},
	} {
		c.config.View = filled
		h := Handler(c.config)
		for _, target := range []string{"/", "/status.json"} {
			r := ask(t, h, "GET", target, c.peer)
			if r.Code != c.want {
				t.Errorf("%s for %q of %v: %d, want %d", target, c.peer, c.config.Allow, r.Code, c.want)
			}
			if c.want == 403 && strings.Contains(r.Body.String(), "example.com") {
				t.Errorf("%s for %q tells something", target, c.peer)
			}
		}
		if c.want == 403 {
			if r := ask(t, h, "GET", "/other", c.peer); r.Code != 403 {
				t.Errorf("/other for %q: %d, want 403", c.peer, r.Code)
			}
		}
	}
	// The list is taken when the Handler is made.
	own.View = filled
	h := Handler(own)
	own.Allow[0] = netip.MustParsePrefix("0.0.0.0/0")
	if r := ask(t, h, "GET", "/", "192.0.2.1:1"); r.Code != 403 {
		t.Errorf("after a change of the caller's list: %d", r.Code)
	}
}

func TestForwardedAddressesDoNotCount(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:5"
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	r.Header.Set("X-Real-Ip", "127.0.0.1")
	w := httptest.NewRecorder()
	Handler(Config{View: filled}).ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("got %d, want 403", w.Code)
	}
}

func TestPathsAndMethods(t *testing.T) {
	h := Handler(Config{View: filled})
	for _, c := range []struct {
		method, target string
		want           int
	}{
		{"GET", "/", 200}, {"HEAD", "/", 200}, {"GET", "/?q=a&page=zzz&x=%zz", 200}, {"GET", "/status.json", 200}, {"HEAD", "/status.json", 200},
		{"GET", "/status.json/", 404}, {"GET", "/index.html", 404}, {"GET", "/favicon.ico", 404}, {"GET", "//", 404}, {"POST", "/x", 404},
		{"POST", "/", 405}, {"PUT", "/status.json", 405}, {"OPTIONS", "/", 405}, {"get", "/", 405},
	} {
		w := ask(t, h, c.method, c.target, "127.0.0.1:1")
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.target, w.Code, c.want)
		}
		if w.Code == 405 && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: Allow is %q", c.method, c.target, w.Header().Get("Allow"))
		}
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %v", c.method, c.target, w.Header())
		}
	}
}

// TestPolicy looks whether the page is made of nothing but itself, and whether the policy allows exactly its style and its script.
func TestPolicy(t *testing.T) {
	w := ask(t, Handler(Config{View: filled}), "GET", "/", "127.0.0.1:1")
	policy := w.Header().Get("Content-Security-Policy")
	doc := parse(t, w.Body.String())
	for _, tag := range []string{"style", "script"} {
		list := doc.all(tag)
		if len(list) != 1 {
			t.Fatalf("%d %s, want 1", len(list), tag)
		}
		sum := sha256.Sum256([]byte(list[0].text()))
		if want := tag + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
			t.Errorf("the policy %q has not %s", policy, want)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
	doc.walk(func(n node) {
		for _, a := range n.Attr {
			if a.Key == "src" || a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
			if a.Key == "href" && !strings.HasPrefix(a.Val, "/") {
				t.Errorf("a link to %q", a.Val)
			}
		}
	})
}

func TestHTML(t *testing.T) {
	doc := parse(t, show200(t, filled(), "/"))
	for section, want := range map[string][]string{
		"problems": {
			"Ingress shop/web | BackendMissing | spec.rules[0] | there is no such Service",
			"Secret shop/tls | CertExpired | | ended yesterday",
		},
		"hosts": {
			"* | (all others) | | default/all | default/web:80 |",
			"raw.example.com passed through to shop/tls:443 | | | | |",
			"shop.example.com TLS | /a | Exact | shop/web | shop/api:80 refused auth-secret is missing |",
			"shop.example.com TLS | /b | Prefix | shop/web | shop/front:http canary shop/next:80, 10 of 100 | cors limits",
			"www.example.com alias of shop.example.com | | | | |",
		},
		"backends": {
			"a/slow:1 | good | 10.244.2.9:1 | slow-start 25 % | 0 | 0 | 0 | 0 |",
			"default/web:80 | empty | there is no such Service",
			"shop/api:80 | down | 10.244.2.4:80 | unhealthy status 500 | 0 | 0 | 0 | 0 |",
			"shop/front:http | degraded | 10.244.1.4:8080 | used | 1 | 2 | 100 | 1 | 12ms",
			"shop/front:http | degraded | [fd00::5]:8080 | ejected for 8s | 1 | 0 | 0 | 0 |",
		},
		"certificates": {
			"old.example.com | expired | 2026-03-04 05:06:06 UTC | CN=old.example.com | CN=CA | old.example.com, 10.0.0.1 | ECDSA",
			"shop.example.com | expiring | 2026-03-05 05:06:07 UTC | CN=shop.example.com | CN=CA | shop.example.com, 10.0.0.1 no chain | ECDSA",
			"* | good | 2028-11-28 05:06:07 UTC | | CN=CA | , 10.0.0.1 | ECDSA",
		},
		"listeners": {"http | [::]:80 | HTTP/1.1 | 3 | 77 | open", "https | [::]:443 | | 0 | 0 | down address already in use"},
		"classes":   {"fairlead | fairlead.io/ingress | strict | 0", "nginx | k8s.io/ingress-nginx | nginx | 3"},
		"counters":  {"retries | 5"},
	} {
		if d := cmp.Diff(doc.rows(section), want); d != "" {
			t.Errorf("%s (-got +want):\n%s", section, d)
		}
	}
	if got := doc.id("ready"); got.attr("data-state") != "good" || got.text() != "ready" {
		t.Errorf("ready is %q, %q", got.attr("data-state"), got.text())
	}
	if got := doc.id("generation").text(); got != "42" {
		t.Errorf("generation is %q", got)
	}
}

func TestNotServing(t *testing.T) {
	v := filled()
	v.Serving, v.Why = false, "not everything is in force yet"
	doc := parse(t, show200(t, v, "/"))
	if got := doc.id("ready"); got.attr("data-state") != "down" || got.text() != "not ready" || doc.id("why").text() != v.Why {
		t.Errorf("ready is %q, %q", got.attr("data-state"), got.text())
	}
	var d Document
	if err := json.Unmarshal([]byte(show200(t, v, "/status.json")), &d); err != nil || d.Serving || d.Why != v.Why {
		t.Errorf("%v: %+v", err, d)
	}
}

func TestEmpty(t *testing.T) {
	doc := parse(t, show200(t, View{}, "/"))
	for _, section := range []string{"problems", "hosts", "backends", "certificates", "listeners", "classes", "counters"} {
		if rows := doc.rows(section); rows != nil {
			t.Errorf("%s: %v", section, rows)
		}
	}
	if body := show200(t, View{}, "/status.json"); strings.Contains(body, "null") {
		t.Errorf("a list is null in %s", body)
	}
}

// TestHostile puts markup and worse in every text that others choose.
func TestHostile(t *testing.T) {
	for _, evil := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</script><script>`, `</style>`, `{{.Version}}`, `javascript:alert(1)`,
		"<!--", "]]>", "\x00\x1b[31m", "a\u202egpj.exe", "\ufeff\u200b", "\xff\xfe", "&lt;b&gt;", "</tbody></table></section>",
	} {
		v := hostile(evil)
		got, plain := parse(t, show200(t, v, "/")), parse(t, show200(t, hostile("x"), "/"))
		if d := cmp.Diff(got.skeleton(), plain.skeleton()); d != "" {
			t.Errorf("%q changes the page (-got +want):\n%s", evil, d)
		}
		shown := show(strings.ToValidUTF8(evil, "�"))
		if rows := got.rows("classes"); len(rows) != 1 || !strings.Contains(rows[0], strings.Join(strings.Fields(shown), " ")) {
			t.Errorf("%q is shown as %q, want %q", evil, rows, shown)
		}
		for _, r := range got.text() {
			if r != '\n' && hidden(r) {
				t.Errorf("%q: %U is on the page", evil, r)
			}
		}
		var d Document
		if err := json.Unmarshal([]byte(show200(t, v, "/status.json")), &d); err != nil || d.Hosts[0].Name != string([]rune(evil)) {
			t.Errorf("%q as JSON: %v, %q", evil, err, d.Hosts[0].Name)
		}
		page := parse(t, show200(t, filled(), "/?"+url.Values{"q": {evil}}.Encode()))
		want := strings.ReplaceAll(strings.ToValidUTF8(evil, "�"), "\x00", "�") // which is how HTML reads a NUL
		if got := page.id("filter").attr("value"); got != want {
			t.Errorf("the filter %q comes back as %q", evil, got)
		}
	}
}

func hostile(s string) View {
	return View{
		Version: s, Why: s, Now: now(),
		Classes:      []Class{{Name: s, Controller: s, Dialect: s}},
		Listeners:    []Listener{{Name: s, Address: s, Protocol: s, Problem: s}},
		Hosts:        []Host{{Name: s, Dialect: s, AliasOf: s, Passthrough: s, Paths: []Path{{s, s, s, s, []string{s}, s, s}}}},
		Backends:     []Backend{{Name: s, Problem: s}, {Name: s, Endpoints: []balance.EndpointStatus{{CheckErr: errors.New(s)}}}},
		Certificates: []certs.HostStatus{pair(s, now().Add(1e18), s)},
		Problems:     []service.Problem{{Object: service.Object{Kind: s, Name: service.Name{Namespace: s, Name: s}}, Reason: s, Field: s, Message: s}},
		Counters:     []Counter{{Name: s}},
	}
}

func TestFilterAndPages(t *testing.T) {
	v := filled()
	for _, c := range []struct {
		query    string
		hosts    int
		problems int
	}{
		{"", 5, 2}, {"SHOP.example", 3, 0}, {"shop/web exact", 1, 0}, {"cors", 1, 0}, {"certexpired", 0, 1}, {"no such", 0, 1}, {"nowhere", 0, 0}, {"shop/web", 2, 1},
	} {
		doc := parse(t, show200(t, v, "/?q="+url.QueryEscape(c.query)))
		if h, p := len(doc.rows("hosts")), len(doc.rows("problems")); h != c.hosts || p != c.problems {
			t.Errorf("%q: %d rows of hosts and %d problems, want %d and %d", c.query, h, p, c.hosts, c.problems)
		}
	}
	v.Hosts = nil
	for i := range 1201 {
		v.Hosts = append(v.Hosts, Host{Name: fmt.Sprintf("h%04d.example.com", i), Paths: []Path{{Path: "/"}, {Path: "/x"}}})
	}
	for _, c := range []struct {
		target      string
		first, rows int
		nav         string
	}{
		{"/", 0, 1000, "page 1 of 3 next"}, {"/?page=2", 500, 1000, "previous page 2 of 3 next"}, {"/?page=3", 1000, 402, "previous page 3 of 3"},
		{"/?page=99", 1000, 402, "previous page 3 of 3"}, {"/?page=-1", 0, 1000, "page 1 of 3 next"}, {"/?q=h0&page=2", 500, 1000, "previous page 2 of 2"},
		{"/?q=h1200", 1200, 2, ""},
	} {
		doc := parse(t, show200(t, v, c.target))
		rows := doc.rows("hosts")
		if len(rows) != c.rows || !strings.HasPrefix(rows[0], fmt.Sprintf("h%04d.", c.first)) {
			t.Errorf("%s: %d rows from %q, want %d from h%04d", c.target, len(rows), rows[:1], c.rows, c.first)
		}
		nav := ""
		for _, n := range doc.all("nav") {
			nav = squeeze(n.text())
		}
		if nav != c.nav {
			t.Errorf("%s: navigation is %q, want %q", c.target, nav, c.nav)
		}
	}
	doc := parse(t, show200(t, v, "/?q=h0&page=1"))
	if links := doc.all("a"); !slices.ContainsFunc(links, func(n node) bool { return n.attr("href") == "/?page=2&q=h0" && n.attr("rel") == "next" }) {
		t.Error("no link to the next page keeps the filter")
	}
}

// TestJSONNames holds the names that others may rely on.
func TestJSONNames(t *testing.T) {
	got := show200(t, filled(), "/status.json")
	var whole map[string]any
	if err := json.Unmarshal([]byte(got), &whole); err != nil {
		t.Fatal(err)
	}
	compact := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for key, want := range map[string]string{
		"version": `"v1.2.3"`, "started": `"2026-03-04T04:06:07Z"`, "now": `"2026-03-04T05:06:07Z"`, "generation": `42`, "applied": `"2026-03-04T05:05:07Z"`, "ready": `true`,
		"ingresses": `["default/all","shop/web"]`,
		"counters":  `[{"name":"retries","value":5}]`,
		"listeners": `[{"accepted":77,"address":"[::]:80","name":"http","open":3,"protocol":"HTTP/1.1"},{"accepted":0,"address":"[::]:443","name":"https","open":0,"problem":"address already in use","protocol":""}]`,
		"problems": `[{"field":"spec.rules[0]","kind":"Ingress","message":"there is no such Service","name":"web","namespace":"shop","reason":"BackendMissing"},` +
			`{"kind":"Secret","message":"ended yesterday","name":"tls","namespace":"shop","reason":"CertExpired"}]`,
	} {
		if got := compact(whole[key]); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	var first map[string]any
	pick := func(path ...any) map[string]any {
		var v any = whole
		for _, p := range path {
			switch p := p.(type) {
			case string:
				v = v.(map[string]any)[p]
			case int:
				v = v.([]any)[p]
			}
		}
		return v.(map[string]any)
	}
	first = pick("hosts", 2)
	if got, want := compact(first), `{"dialect":"nginx","name":"shop.example.com","paths":[`+
		`{"backend":"shop/api:80","ingress":"shop/web","kind":"Exact","path":"/a","policies":[],"refused":"auth-secret is missing"},`+
		`{"backend":"shop/front:http","canary":"shop/next:80, 10 of 100","ingress":"shop/web","kind":"Prefix","path":"/b","policies":["cors","limits"]}],"tls":true}`; got != want {
		t.Errorf("a host: got %s, want %s", got, want)
	}
	if got, want := compact(pick("backends", 3, "endpoints", 0)),
		`{"address":"10.244.1.4:8080","failures":1,"inFlight":2,"latencySeconds":0.012,"requests":100,"state":"used","weight":1}`; got != want {
		t.Errorf("an endpoint: got %s, want %s", got, want)
	}
	if got, want := compact(pick("backends", 3, "endpoints", 1)),
		`{"address":"[fd00::5]:8080","ejectedForSeconds":8,"failures":0,"inFlight":0,"requests":0,"state":"ejected","weight":1}`; got != want {
		t.Errorf("an ejected endpoint: got %s, want %s", got, want)
	}
	if got, want := compact(pick("certificates", 1)), `{"host":"shop.example.com","issuer":"CN=CA","key":"ECDSA","names":["shop.example.com","10.0.0.1"],`+
		`"notAfter":"2026-03-05T05:06:07Z","state":"expiring","subject":"CN=shop.example.com","warnings":["no chain"]}`; got != want {
		t.Errorf("a certificate: got %s, want %s", got, want)
	}
}

// TestViewStays looks whether the Handler leaves the View alone.
func TestViewStays(t *testing.T) {
	v := filled()
	show200(t, v, "/?q=shop")
	show200(t, v, "/status.json")
	if v.Hosts[0].Name != "shop.example.com" || v.Hosts[0].Paths[0].Path != "/b" || v.Problems[0].Object.Kind != "Secret" {
		t.Error("the View has been changed")
	}
}

// BenchmarkPage is what looking costs with 10,000 hosts.
func BenchmarkPage(b *testing.B) {
	v := filled()
	for i := range 10_000 {
		v.Hosts = append(v.Hosts, Host{Name: fmt.Sprintf("h%05d.example.com", i), Paths: make([]Path, 6)})
	}
	h := Handler(Config{View: func() View { return v }})
	for _, target := range []string{"/", "/?q=h09", "/status.json"} {
		b.Run(target[1:], func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequest("GET", target, nil)
				r.RemoteAddr = "127.0.0.1:1"
				w := &httptest.ResponseRecorder{Body: new(bytes.Buffer)}
				h.ServeHTTP(w, r)
			}
		})
	}
}

// A node is an element of a page.
type node struct{ *html.Node }

func parse(t *testing.T, s string) node {
	t.Helper()
	n, err := html.Parse(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return node{n}
}

func (n node) walk(do func(node)) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode {
			do(node{d})
		}
	}
}

func (n node) all(tag string) (list []node) {
	n.walk(func(e node) {
		if e.Data == tag {
			list = append(list, e)
		}
	})
	return list
}

func (n node) id(id string) (found node) {
	n.walk(func(e node) {
		if e.attr("id") == id {
			found = e
		}
	})
	return found
}

func (n node) attr(key string) string {
	if n.Node == nil {
		return ""
	}
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func (n node) text() string {
	if n.Node == nil {
		return ""
	}
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
		if d.Data == "br" {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// rows returns the rows of the table of a section, the head left out.
func (n node) rows(section string) []string {
	var rows []string
	for _, body := range n.id(section).all("tbody") {
		for _, tr := range body.all("tr") {
			var cells []string
			for c := range tr.ChildNodes() {
				if c.Type == html.ElementNode {
					cells = append(cells, squeeze(node{c}.text()))
				}
			}
			rows = append(rows, squeeze(strings.Join(cells, " | ")))
		}
	}
	return rows
}

// skeleton is the elements of a page and the names of their attributes.
func (n node) skeleton() []string {
	var out []string
	n.walk(func(e node) {
		s := e.Data
		for _, a := range e.Attr {
			s += " " + a.Key
		}
		out = append(out, s)
	})
	return out
}
