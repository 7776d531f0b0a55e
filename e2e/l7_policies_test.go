//go:build linux

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
)

// An l7Row is one Ingress, and what its annotations must lead to.
type l7Row struct {
	notes   []string // "name: value"; those after the first without a dialect of their own
	nginx   int      // 0: in both dialects, 1: in the strict one only, 2: in that of nginx only
	path    string   // "/" if empty
	regex   bool     // the path is ImplementationSpecific
	service string   // web if empty
	tls     bool
	more    func(q *l7Query) []any // further objects
	check   func(q *l7Query)
}

// An l7Query is a row in one dialect.
type l7Query struct {
	*testing.T
	*l7Policies
	row   *l7Row
	nginx bool
	name  string // of the Ingress
	host  string
}

// l7Policies is what rows share.
type l7Policies struct {
	bed       *l7Bed
	proxy     *l7Proxy
	client    *http.Client
	web       *l7Pod
	sorry     *l7Pod
	authPod   *l7Pod
	serverCrt map[string]string // that TLS backends show
	clientCrt map[string]string

	mu    sync.Mutex
	asked map[string]http.Header // what the server for authentication was asked last, by host
	count map[string]int
}

// get asks the row's host.
func (q *l7Query) get(path string, fields ...string) *l7Answer {
	q.Helper()
	return fetch(q.T, q.client, "http://"+q.host+path, fields...)
}

func (q *l7Query) gets(path string, fields ...string) *l7Answer {
	q.Helper()
	return fetch(q.T, q.client, "https://"+q.host+path, fields...)
}

// status holds that an answer has a status.
func (q *l7Query) status(a *l7Answer, want int) *l7Answer {
	q.Helper()
	if a.Status != want {
		q.Errorf("got %d, want %d: %.200s", a.Status, want, a.Body)
	}
	if a.Seen == nil {
		a.Seen = &l7Seen{}
	}
	return a
}

func (q *l7Query) equal(what, got, want string) {
	q.Helper()
	if got != want {
		q.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// redirected holds that the answer is a redirect.
func (q *l7Query) redirected(a *l7Answer, status int, location string) {
	q.Helper()
	q.status(a, status)
	q.equal("Location", a.Header.Get("Location"), location)
}

// byDialect returns what holds in the strict dialect, or in that of nginx.
func byDialect[T any](q *l7Query, strict, nginx T) T {
	if q.nginx {
		return nginx
	}
	return strict
}

// l7Web is what the server web answers: after query sleep=, without reading the body for noread, with a head of head= bytes,
// with the field set=, as media type type= with size= bytes, and else as l7Echo.
func l7Web(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if d, err := time.ParseDuration(q.Get("sleep")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
	for _, f := range q["set"] {
		name, value, _ := strings.Cut(f, ":")
		w.Header().Add(name, value)
	}
	if n, err := strconv.Atoi(q.Get("head")); err == nil {
		for i := range n / 10_000 {
			w.Header().Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("f", 9_985))
		}
	}
	if r.TLS != nil {
		w.Header().Set("X-Server-Name", r.TLS.ServerName)
		w.Header().Set("X-Version", tls.VersionName(r.TLS.Version))
		w.Header().Set("X-Certificates", strconv.Itoa(len(r.TLS.PeerCertificates)))
	}
	if n, err := strconv.Atoi(q.Get("size")); err == nil {
		w.Header().Set("Content-Type", q.Get("type"))
		io.Copy(w, io.LimitReader(new(pattern), int64(n)))
		return
	}
	l7Echo("web", w, r)
}

// TestL7Policies shows every annotation that is served at work, in both dialects where it is in both.
func TestL7Policies(t *testing.T) {
	t.Parallel()
	p := newL7Policies(t)
	rows := slices.Concat(redirectRows, pathRows, canaryRows, backendRows, upstreamTLSRows, affinityRows, accessRows, authRows, limitRows, corsRows, answerRows)
	p.checkCovered(t, rows)
	objects := p.objects(t)
	var all []*l7Query
	for i := range rows {
		for _, nginx := range []bool{false, true} {
			if r := &rows[i]; r.nginx == 0 || nginx == (r.nginx == 2) {
				q := &l7Query{T: t, l7Policies: p, row: r, nginx: nginx}
				q.name = fmt.Sprintf("row-%d-%v", i, nginx)
				q.host = q.name + ".test"
				all = append(all, q)
				objects = append(objects, q.objects()...)
			}
		}
	}
	p.bed.folder.put(t, "test", objects...)
	p.proxy = p.bed.start(t, l7Start{log: true, args: []string{"--adopt-ingress-nginx", "--enable-ssl-passthrough", "--configmap", "kube-system/fairlead"}})
	p.bed.folder.settle(t, p.proxy)
	p.client = p.proxy.client()
	t.Run("rows", func(t *testing.T) {
		for _, q := range all {
			t.Run(fmt.Sprintf("%s/nginx=%v", strings.SplitN(q.row.notes[0], ":", 2)[0], q.nginx), func(t *testing.T) {
				t.Parallel()
				own := *q
				own.T = t
				q.row.check(&own)
				if t.Failed() {
					t.Logf("%s: annotations %q", q.host, q.row.notes)
				}
			})
		}
	})
}

// shownByBalance are annotations that TestL7Balance shows, which sees more than one answer.
var shownByBalance = []string{
	"load-balance", "upstream-hash-by", "max-fails", "fail-timeout", "slow-start", "health-check-path", "health-check-method", "health-check-host",
	"health-check-interval", "health-check-timeout", "health-check-rise", "health-check-fall", "health-check-expected-codes",
	"proxy-next-upstream", "proxy-next-upstream-tries", "proxy-next-upstream-timeout", "session-cookie-change-on-failure",
	"affinity-canary-behavior", "canary-weight-total",
}

// checkCovered holds that rows are about all annotations that are served, and no others.
func (p *l7Policies) checkCovered(t *testing.T, rows []l7Row) {
	t.Helper()
	shown := make(map[string]bool)
	for _, name := range shownByBalance {
		shown[name] = true
	}
	for _, r := range rows {
		for _, n := range r.notes {
			name, _, _ := strings.Cut(n, ":")
			shown[name] = true
		}
	}
	for _, a := range annotation.Catalogue() {
		if a.Support == annotation.Served && a.Scope != annotation.Process && !shown[a.Name] {
			t.Errorf("no row shows %s", a.Name)
		}
	}
}

func newL7Policies(t *testing.T) *l7Policies {
	t.Helper()
	b := newL7Bed(t, "policies", 1)
	p := &l7Policies{bed: b, asked: make(map[string]http.Header), count: make(map[string]int)}
	n := b.Nodes[0]
	p.web, p.sorry, p.authPod = b.pod(t, n, 2), b.pod(t, n, 3), b.pod(t, n, 4)
	p.web.answer(l7Web)
	p.authPod.answer(p.authenticate)
	p.sorry.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Asked", fmt.Sprintf("%s %s %s", r.Header.Get("X-Code"), r.Header.Get("X-Original-Uri"), r.Header.Get("X-Service-Name")))
		if code := r.Header.Get("X-Code"); code != "" {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprintf(w, "a page for %s", code)
			return
		}
		l7Echo("sorry", w, r)
	})
	server := l7Certificate(t, "server", "secure.internal")
	client := l7Certificate(t, "client", "client.internal")
	texts := func(data map[string][]byte) map[string]string {
		out := make(map[string]string)
		for key, v := range data {
			out[key] = string(v)
		}
		return out
	}
	p.serverCrt, p.clientCrt = texts(server.Data), texts(client.Data)
	pair, err := tls.X509KeyPair(server.Data["tls.crt"], server.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	p.web.serve(t, 8443, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}})
	p.web.serve(t, 8444, &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	vip := netip.MustParsePrefix("10.96.0.50/32")
	if err := p.web.AddAddr(netns.Uplink, vip); err != nil {
		t.Fatal(err)
	}
	if err := n.SetRoute(netns.Route{Dst: vip, Via: p.web.v4(), Dev: p.web.HostLink}); err != nil {
		t.Fatal(err)
	}
	l, err := p.web.Listen(netip.AddrPortFrom(vip.Addr(), 80))
	if err != nil {
		t.Fatal(err)
	}
	direct := &l7Pod{Pod: p.web.Pod, name: "address"}
	direct.serveOn(t, l, nil)
	silent := b.emptyPod(t, n, 5) // its answers get nowhere
	if err := silent.SetRoute(netns.Route{Dst: netip.PrefixFrom(n.Gateway.V4, 32), Kind: netns.RouteBlackhole}); err != nil {
		t.Fatal(err)
	}
	return p
}

// objects are those that rows share.
func (p *l7Policies) objects(t *testing.T) []any {
	t.Helper()
	out := []any{
		l7Class("fairlead", ingress.Controller), l7Class("nginx", ingress.NginxController),
		l7ConfigMap("kube-system/fairlead", map[string]string{
			"global-auth-url": fmt.Sprintf("http://%s:8080/global", p.authPod.v4()), "global-allowed-response-headers": "X-Custom,Cache-Control,X-Added",
			"no-auth-locations": "/.well-known/acme-challenge", "proxy-next-upstream": "off",
		}),
		l7ConfigMap("default/answer-fields", map[string]string{"X-Custom": "from the ConfigMap"}),
		l7ConfigMap("default/question-fields", map[string]string{"X-Question": "from the ConfigMap"}),
		l7Secret("default/file", map[string]string{"auth": "anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"}), // secret
		l7Secret("default/map", map[string]string{"berta": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="}),
		l7Secret("default/trust", map[string]string{"ca.crt": p.serverCrt["tls.crt"], "tls.crt": p.clientCrt["tls.crt"], "tls.key": p.clientCrt["tls.key"]}),
		l7Secret("default/distrust", map[string]string{"ca.crt": p.clientCrt["tls.crt"]}),
	}
	for _, s := range []struct {
		name, ip string
		port     int
		eps      []l7Endpoint
	}{
		{"web", "", 8080, endpoints(p.web)}, {"sorry", "", 8080, endpoints(p.sorry)}, {"secure", "", 8443, endpoints(p.web)}, {"old", "", 8444, endpoints(p.web)},
		{"empty", "", 8080, nil}, {"direct", "10.96.0.50", 1, endpoints(p.web)},
		{"silent", "", 8080, []l7Endpoint{{addr: netns.PodAddr(1, 5).V4}}},
	} {
		out = append(out, l7Service(s.name, s.ip, 80, s.port, s.eps...)...)
	}
	return out
}

// objects are those of a row.
func (q *l7Query) objects() []any {
	in := q.ingress(q.name, q.row.notes...)
	out := []any{in}
	if q.row.tls {
		withTLS(in, q.name)
		out = append(out, l7Certificate(q.T, q.name, q.host))
	}
	if q.row.more != nil {
		out = append(out, q.row.more(q)...)
	}
	return out
}

func (q *l7Query) ingress(name string, notes ...string) *networkingv1.Ingress {
	r := q.row
	path := l7Path{path: r.path, service: r.service}
	if path.path == "" {
		path.path = "/"
	}
	if path.service == "" {
		path.service = "web"
	}
	if r.regex {
		path.kind = networkingv1.PathTypeImplementationSpecific
	}
	all := map[string]string{"fairlead.io/enable-global-auth": "false"}
	for _, n := range notes {
		key, value, _ := strings.Cut(n, ": ")
		value = strings.NewReplacer("AUTH", q.authPod.v4().String()+":8080", "HOST", q.host).Replace(value)
		prefix := annotation.OwnPrefix
		if i := slices.IndexFunc(annotation.Catalogue(), func(a annotation.Annotation) bool { return a.Name == key }); q.nginx && i >= 0 && !annotation.Catalogue()[i].Own {
			prefix = annotation.NginxPrefix
		}
		if key == "enable-global-auth" {
			prefix = annotation.OwnPrefix
		}
		all[prefix+key] = value
	}
	in := l7Ingress(name, q.host, all, path)
	if q.nginx {
		class := "nginx"
		in.Spec.IngressClassName = &class
	}
	return in
}

// authenticate is the server that is asked whether a request may pass.
func (p *l7Policies) authenticate(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	host := r.Host
	if u := r.Header.Get("X-Original-Url"); u != "" {
		_, rest, _ := strings.Cut(u, "://")
		host, _, _ = strings.Cut(rest, "/")
	}
	h := r.Header.Clone()
	h.Set("X-Method", r.Method)
	p.asked[host] = h
	p.count[host]++
	p.mu.Unlock()
	w.Header().Set("X-User", "carla")
	if r.URL.Query().Get("cookie") != "no" { // verdicts with one are not remembered
		w.Header().Set("Set-Cookie", "verdict=1")
	}
	if r.URL.Query().Get("slow") != "" {
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
		}
	}
	switch r.Header.Get("X-Token") {
	case "good":
	case "forbidden":
		w.WriteHeader(http.StatusForbidden)
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func (q *l7Query) question() (http.Header, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.asked[q.host], q.count[q.host]
}

// passthroughName returns whose certificate a client is shown.
func (q *l7Query) certificate(name string) *x509.Certificate {
	q.Helper()
	c := tls.Client(q.proxy.raw(q.T, 443), &tls.Config{InsecureSkipVerify: true, ServerName: name})
	defer c.Close()
	if err := c.HandshakeContext(q.Context()); err != nil {
		q.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0]
}
