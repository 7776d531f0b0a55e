package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

func ask(h http.Handler, path string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Result()
}

type (
	familyAnswer struct {
		LastUpdated time.Time `json:"lastUpdated"`
		Healthy     bool      `json:"healthy"`
	}
	healthAnswer struct {
		LastUpdated  time.Time               `json:"lastUpdated"`
		CurrentTime  time.Time               `json:"currentTime"`
		NodeEligible *bool                   `json:"nodeEligible"`
		Healthy      bool                    `json:"healthy"`
		Status       map[string]familyAnswer `json:"status"`
	}
)

// checkHealth requires exactly the fields of want.
func checkHealth(t *testing.T, h http.Handler, path string, code int, want healthAnswer) {
	t.Helper()
	res := ask(h, path)
	if res.StatusCode != code {
		t.Errorf("%s answers %d, want %d", path, res.StatusCode, code)
	}
	for key, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"} {
		if got := res.Header.Get(key); got != want {
			t.Errorf("%s: %s is %q, want %q", path, key, got, want)
		}
	}
	dec := json.NewDecoder(res.Body)
	dec.DisallowUnknownFields()
	var got healthAnswer
	if err := dec.Decode(&got); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("%s (-got +want):\n%s", path, d)
	}
}

func TestHealthAnswers(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	metrics := control.NewMetrics(reg, "")
	health := control.NewHealth(time.Minute, nil)
	h := health.Handler(metrics)
	both := func(f familyAnswer) map[string]familyAnswer { return map[string]familyAnswer{"IPv4": f, "IPv6": f} }
	yes, no := true, false
	run(t, control.Config{Health: health, Metrics: metrics}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		synced := r.plane.start.Add(control.DefaultCoalesce).UTC().Round(0)
		now := func() time.Time { return time.Now().UTC().Round(0) }

		well := both(familyAnswer{synced, true})
		checkHealth(t, h, "/livez", 200, healthAnswer{now(), now(), nil, true, well})
		checkHealth(t, h, "/healthz", 200, healthAnswer{now(), now(), &yes, true, well})
		health.SetNodeEligible(false)
		checkHealth(t, h, "/livez", 200, healthAnswer{now(), now(), nil, true, well})
		checkHealth(t, h, "/healthz", 503, healthAnswer{synced, now(), &no, true, well})
		health.SetNodeEligible(true)

		r.plane.set(func() { r.plane.fail["sync"] = 1000 })
		r.add(1)
		r.sleep(2 * time.Minute)
		ill := both(familyAnswer{synced, false})
		checkHealth(t, h, "/livez", 503, healthAnswer{synced, now(), nil, false, ill})
		checkHealth(t, h, "/healthz", 503, healthAnswer{synced, now(), &yes, false, ill})
		checkHealth(t, h, "/readyz", 503, healthAnswer{synced, now(), nil, false, ill})
	})
	if got := ask(h, "/other").StatusCode; got != 404 {
		t.Errorf("/other answers %d, want 404", got)
	}
	for name, want := range map[string]float64{"kubeproxy_proxy_healthz_total": 2, "kubeproxy_proxy_livez_total": 1} {
		if got := value(t, reg, name, "503"); got != want {
			t.Errorf("%s{503} = %g, want %g", name, got, want)
		}
	}
}

func TestMetricsHandler(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	control.NewMetrics(reg, "v1")
	extra := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "extra") })
	h := control.MetricsHandler(control.MetricsConfig{
		Gatherer: reg, ProxyMode: "iptables", Profiling: true,
		Handlers: map[string]http.Handler{"/configz": extra},
	})
	for _, tt := range []struct{ path, want string }{
		{"/healthz", `^ok$`},
		{"/proxyMode", `^iptables$`},
		{"/configz", `^extra$`},
		{"/metrics", `(?m)^fairlead_build_info{goversion=".*",version="v1"} 1$`},
		{"/debug/pprof/cmdline", `control\.test`},
	} {
		res := ask(h, tt.path)
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 200 || !regexp.MustCompile(tt.want).Match(body) {
			t.Errorf("%s answers %d %.60q, want %s", tt.path, res.StatusCode, body, tt.want)
		}
	}
	h = control.MetricsHandler(control.MetricsConfig{Gatherer: reg})
	if got := ask(h, "/debug/pprof/").StatusCode; got != 404 {
		t.Errorf("/debug/pprof/ without profiling answers %d, want 404", got)
	}
}

func TestServer(t *testing.T) {
	addr := freeAddr(t, "127.0.0.1")
	var failures []error
	s := control.Server{
		Name: "test", Addr: addr.String(), Log: slog.New(slog.DiscardHandler),
		Failed:  func(err error) { failures = append(failures, err) },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if got := fetch(t, addr); got.body != "hello" {
		t.Errorf("answer %q, want hello", got.body)
	}
	s.HardFail = true
	if err := s.Run(t.Context()); err == nil || len(failures) != 1 {
		t.Errorf("a second server on the address: %v, told %v, want an error, once", err, failures)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if _, err := net.DialTimeout("tcp", addr.String(), time.Second); err == nil {
		t.Error("still listening after Run")
	}
	s.Addr = ""
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("Run of a disabled server: %v, want nil", err)
	}
}

func TestServerKeepsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := &recorder{}
		failures := 0
		s := control.Server{
			Name: "test", Addr: "192.0.2.1:1", Log: slog.New(logs), // an address of nobody
			Failed: func(error) { failures++ },
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v, want nil", err)
		}
		if failures != 1 || len(logs.lines) != 1 {
			t.Errorf("told %d times, logged %q, want once each", failures, logs.lines)
		}
	})
}

// hcnp returns a snapshot of a node that answers node ports at the addresses,
// with the health-check ports.
func hcnp(addrs []string, ports ...service.HealthPort) *service.Snapshot {
	snap := &service.Snapshot{Health: ports}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		f := service.FamilyOf(a)
		snap.Node.Addrs = append(snap.Node.Addrs, a)
		snap.Node.PortAddrs[f] = append(snap.Node.PortAddrs[f], netip.PrefixFrom(a, a.BitLen()))
	}
	return snap
}

func TestHealthPorts(t *testing.T) {
	a, b := freeAddr(t, "127.0.0.1"), freeAddr(t, "127.0.0.1")
	here := []string{"127.0.0.1"}
	port := func(n int, at netip.AddrPort, local int) service.HealthPort {
		return service.HealthPort{Service: name(n), Port: at.Port(), Local: local}
	}
	h := control.NewHealthPorts(control.NewHealth(time.Minute, nil), slog.New(slog.DiscardHandler))
	defer h.Close()
	// One step after the other on the same HealthPorts.
	for _, tt := range []struct {
		name     string
		snap     *service.Snapshot
		want     map[netip.AddrPort]string // "code weight"; no entry: closed
		problems []string
	}{
		{name: "one", snap: hcnp(here, port(1, a, 3)), want: map[netip.AddrPort]string{a: "200 3 s1"}},
		{name: "none left", snap: hcnp(here, port(1, a, 0)), want: map[netip.AddrPort]string{a: "503 0 s1"}},
		{name: "another Service takes the port", snap: hcnp(here, port(2, a, 1), port(1, b, 2)), want: map[netip.AddrPort]string{a: "200 1 s2", b: "200 2 s1"}},
		{name: "swap", snap: hcnp(here, port(1, a, 2), port(2, b, 1)), want: map[netip.AddrPort]string{a: "200 2 s1", b: "200 1 s2"}},
		{
			name: "two claim one port", snap: hcnp(here, port(1, a, 2), port(2, a, 1)),
			want:     map[netip.AddrPort]string{a: "200 2 s1"},
			problems: []string{"Service default/s2: spec.healthCheckNodePort: cannot answer health checks at " + a.String() + ": taken by Service default/s1"},
		},
		{name: "not at these addresses", snap: hcnp(nil, port(1, a, 2))},
		{name: "back", snap: hcnp(here, port(1, a, 2)), want: map[netip.AddrPort]string{a: "200 2 s1"}},
		{name: "everywhere", snap: everywhere(port(1, a, 2)), want: map[netip.AddrPort]string{a: "200 2 s1"}},
		{name: "and nowhere", snap: hcnp(here)},
	} {
		var problems []string
		for _, p := range h.Sync(tt.snap) {
			problems = append(problems, p.String())
		}
		if d := cmp.Diff(problems, tt.problems); d != "" {
			t.Errorf("%s: problems (-got +want):\n%s", tt.name, d)
		}
		for _, at := range []netip.AddrPort{a, b} {
			got := "closed"
			if conn, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
				conn.Close()
				r := fetch(t, at)
				got = fmt.Sprintf("%d %s %s", r.code, r.header.Get("X-Load-Balancing-Endpoint-Weight"), r.service(t))
			}
			want := tt.want[at]
			if want == "" {
				want = "closed"
			}
			if got != want {
				t.Errorf("%s: %s answers %q, want %q", tt.name, at, got, want)
			}
		}
	}
}

func everywhere(ports ...service.HealthPort) *service.Snapshot {
	snap := hcnp([]string{"127.0.0.1"}, ports...)
	snap.Node.PortAddrs[service.IPv4] = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	return snap
}

func TestHealthPortBody(t *testing.T) {
	at := freeAddr(t, "::1")
	h := control.NewHealthPorts(control.NewHealth(time.Minute, nil), slog.New(slog.DiscardHandler))
	defer h.Close()
	problems := h.Sync(hcnp([]string{"::1"}, service.HealthPort{Service: name(1), Family: service.IPv6, Port: at.Port(), Local: 2}))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := fetch(t, at)
	want := "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"s1\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
	if d := cmp.Diff(got.body, want); d != "" {
		t.Errorf("body (-got +want):\n%s", d)
	}
	for key, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "2"} {
		if v := got.header.Get(key); v != want {
			t.Errorf("%s: %q, want %q", key, v, want)
		}
	}
}

// TestHealthPortIsTriedAgain has a port taken by a stranger at first.
func TestHealthPortIsTriedAgain(t *testing.T) {
	stranger, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := stranger.Addr().(*net.TCPAddr).AddrPort()
	h := control.NewHealthPorts(control.NewHealth(time.Minute, nil), slog.New(slog.DiscardHandler))
	defer h.Close()
	snap := hcnp([]string{"127.0.0.1"}, service.HealthPort{Service: name(1), Port: at.Port(), Local: 1})
	problems := h.Sync(snap)
	if len(problems) != 1 || problems[0].Reason != "FailedToStartServiceHealthcheck" || problems[0].Object.Name != name(1) {
		t.Errorf("problems %v, want one of Service s1", problems)
	}
	if err := stranger.Close(); err != nil {
		t.Fatal(err)
	}
	if problems := h.Sync(snap); len(problems) > 0 {
		t.Errorf("problems %v, want none", problems)
	}
	if got := fetch(t, at).code; got != 200 {
		t.Errorf("answer %d, want 200", got)
	}
}

// TestHealthPortOfUnhealthyNode has a loop that fails and serves no /healthz.
func TestHealthPortOfUnhealthyNode(t *testing.T) {
	at := freeAddr(t, "127.0.0.1")
	health := control.NewHealth(time.Nanosecond, nil)
	h := control.NewHealthPorts(health, slog.New(slog.DiscardHandler))
	defer h.Close()
	if problems := h.Sync(hcnp([]string{"127.0.0.1"}, service.HealthPort{Service: name(1), Port: at.Port(), Local: 1})); len(problems) > 0 {
		t.Fatal(problems)
	}
	run(t, control.Config{Health: health}, func(r *rig) {
		r.plane.set(func() { r.plane.fail["sync"] = 1000 })
		r.loop.Synced()
		r.sleep(time.Minute)
	})
	got := fetch(t, at)
	if got.code != 503 || !strings.Contains(got.body, `"serviceProxyHealthy": false`) {
		t.Errorf("answer %d %s, want 503 and serviceProxyHealthy false", got.code, got.body)
	}
}

// TestLoopServesHealthPorts goes all the way from a Service to an answer, in
// real time: a bubble's time stands still while somebody listens.
func TestLoopServesHealthPorts(t *testing.T) {
	at := freeAddr(t, "127.0.0.1")
	log := slog.New(slog.DiscardHandler)
	health := control.NewHealth(time.Minute, nil)
	r := start(t, control.Config{Log: log, Health: health, HealthPorts: control.NewHealthPorts(health, log)})
	r.update(func(s *service.Store) bool {
		node := hcnp([]string{"127.0.0.1"}).Node
		node.Name = "n1"
		v := svc(1)
		v.External, v.HealthCheckNodePort = service.Local, at.Port()
		ep := slice(1, 2)
		ep.Endpoints[0].Node = "n1"
		return s.SetNode(node) && s.SetService(v) && s.SetSlice(ep)
	})
	r.loop.Synced()
	if got := fetch(t, at); got.code != 200 || got.service(t) != "s1" {
		t.Errorf("answer %d %s, want 200 for s1", got.code, got.body)
	}
	r.stop()
	if _, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
		t.Error("still listening after Run")
	}
}

type response struct {
	code   int
	header http.Header
	body   string
}

func (r response) service(t *testing.T) string {
	t.Helper()
	var b struct{ Service struct{ Name string } }
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		t.Fatal(err)
	}
	return b.Service.Name
}

// fetch asks until somebody listens, for a few seconds.
func fetch(t *testing.T, at netip.AddrPort) response {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	var res *http.Response
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if res, err = client.Post("http://"+at.String()+"/any/path", "text/plain", strings.NewReader("x")); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(body)}
}

// freeAddr returns a port at host that was free a moment ago.
func freeAddr(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// TestMetricNames requires kube-proxy's names and buckets where dashboards look
// for them.
func TestMetricNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	metrics := control.NewMetrics(reg, "")
	run(t, control.Config{Metrics: metrics}, func(r *rig) {
		r.add(1)
		r.update(func(s *service.Store) bool {
			v := slice(1, 3)
			v.Triggered = time.Now()
			return s.SetSlice(v)
		})
		r.loop.Synced()
		r.sleep(time.Second)
	})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	buckets := make(map[string]int)
	for _, f := range families {
		if hist := f.GetMetric()[0].GetHistogram(); hist != nil {
			buckets[f.GetName()] = len(hist.GetBucket())
		}
	}
	want := map[string]int{
		"kubeproxy_sync_proxy_rules_duration_seconds":         18,
		"kubeproxy_sync_partial_proxy_rules_duration_seconds": 18,
		"kubeproxy_network_programming_duration_seconds":      85,
		"fairlead_network_programming_duration_seconds":       18,
	}
	if d := cmp.Diff(buckets, want); d != "" {
		t.Errorf("buckets (-got +want):\n%s", d)
	}
}
