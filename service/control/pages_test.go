package control_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

// request asks a handler, with a header Accept if there is one.
func request(t *testing.T, h http.Handler, method, path, body, accept string) (int, http.Header, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	text, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, w.Result().Header, string(text)
}

func pagesHandler(set func(string) error) http.Handler {
	return control.MetricsHandler(control.MetricsConfig{
		Gatherer: prometheus.NewRegistry(), ProxyMode: "ipvs", Profiling: set != nil,
		Name: "fairlead", Version: "v9", Kubernetes: "1.36", Started: time.Now().Add(-3723 * time.Second),
		Flags:        func() map[string]string { return map[string]string{"v": "2", "config": ""} },
		SetVerbosity: set,
	})
}

// TestPages asks for /statusz and /flagz in every way there is.
func TestPages(t *testing.T) {
	h := pagesHandler(nil)
	const object = "application/json;v=v1beta1;g=config.k8s.io;as="
	for _, tt := range []struct {
		path, accept string
		code         int
		want         []string // parts of the body
	}{
		{"/statusz", "", 200, []string{"\nfairlead statusz\n", "Up: 1 hr 02 min 03 sec", "Binary version: v9", "Emulation version: 1.36", "Paths: /flagz /healthz /metrics /proxyMode /statusz"}},
		{"/statusz", "text/html,*/*;q=0.1", 200, []string{"fairlead statusz"}},
		{"/statusz", "application/json", 406, []string{"as=Statusz"}},
		{"/statusz", object + "Flagz", 406, nil},
		{"/statusz", strings.Replace(object, "v1beta1", "v9", 1) + "Statusz", 406, nil},
		{"/statusz", "image/png, " + object + "Statusz", 200, []string{`"kind": "Statusz"`, `"uptimeSeconds": 3723`, `"emulationVersion": "1.36"`}},
		{"/flagz", "", 200, []string{"\nfairlead flagz\n", "\nconfig=\nv=2\n"}},
		{"/flagz", object + "Flagz", 200, []string{`"apiVersion": "config.k8s.io/v1beta1"`, `"v": "2"`}},
	} {
		code, header, body := request(t, h, http.MethodGet, tt.path, "", tt.accept)
		if code != tt.code {
			t.Errorf("%s for %q answers %d, want %d: %s", tt.path, tt.accept, code, tt.code, body)
		}
		for _, part := range tt.want {
			if !strings.Contains(body, part) {
				t.Errorf("%s for %q lacks %q:\n%s", tt.path, tt.accept, part, body)
			}
		}
		if strings.Contains(tt.accept, object) && code == 200 && (!json.Valid([]byte(body)) || !strings.HasPrefix(header.Get("Content-Type"), "application/json;g=config.k8s.io;v=v1beta1;as=")) {
			t.Errorf("%s for %q is %s: %s", tt.path, tt.accept, header.Get("Content-Type"), body)
		}
	}
}

// TestVerbosity sets the verbosity, which takes PUT, a number, and profiling.
func TestVerbosity(t *testing.T) {
	var got []string
	h := pagesHandler(func(v string) error {
		got = append(got, v)
		if v == "x" {
			return errors.New("not a number")
		}
		return nil
	})
	for _, tt := range []struct {
		method, body string
		code         int
	}{
		{http.MethodPut, "5", 200}, {http.MethodPut, "4\n", 200}, {http.MethodPut, "x", 400},
		{http.MethodGet, "", 406}, {http.MethodPost, "5", 406}, {http.MethodPut, strings.Repeat("1", 100), 400},
	} {
		if code, _, body := request(t, h, tt.method, "/debug/flags/v", tt.body, ""); code != tt.code {
			t.Errorf("%s %.10q answers %d, want %d: %s", tt.method, tt.body, code, tt.code, body)
		}
	}
	if d := cmp.Diff(got, []string{"5", "4", "x"}); d != "" {
		t.Errorf("set to (-got +want):\n%s", d)
	}
	for path, want := range map[string]int{"/debug/flags/": 200, "/debug/flags/w": 404, "/debug/pprof/": 200} {
		if code, _, _ := request(t, h, http.MethodGet, path, "", ""); code != want {
			t.Errorf("%s answers %d, want %d", path, code, want)
		}
		if code, _, _ := request(t, pagesHandler(nil), http.MethodGet, path, "", ""); code != 404 {
			t.Errorf("without profiling %s answers %d, want 404", path, code)
		}
	}
}

// TestReadiness follows /readyz, /healthz, health-check node ports and the metrics
// of the checks from the start to the end.
func TestReadiness(t *testing.T) {
	health := control.NewHealth(time.Minute, nil)
	h := health.Handler(control.NewMetrics(nil, ""))
	pages := control.MetricsHandler(control.MetricsConfig{Gatherer: prometheus.NewRegistry(), Health: health, Started: time.Unix(1e9, 0)})
	check := func(when string, want map[string]int) {
		t.Helper()
		got := make(map[string]int)
		for path := range want {
			got[path] = ask(h, path).StatusCode
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("%s (-got +want):\n%s", when, d)
		}
	}
	slis := func(when string, want ...string) {
		t.Helper()
		_, header, body := request(t, pages, http.MethodGet, "/metrics/slis", "", "")
		for _, line := range want {
			if !strings.Contains(body, line+"\n") {
				t.Errorf("%s: /metrics/slis lacks %q:\n%s", when, line, body)
			}
		}
		if got := header.Get("Process-Start-Time-Unix"); got != "1000000000" {
			t.Errorf("the process began at %q", got)
		}
	}
	run(t, control.Config{Health: health}, func(r *rig) {
		check("before the first sync", map[string]int{"/readyz": 503, "/healthz": 200, "/livez": 200})
		if _, _, body := request(t, h, http.MethodGet, "/livez", "", ""); strings.Contains(body, "status") {
			t.Errorf("families have a status before the first sync: %s", body)
		}
		slis("before the first sync", `kubernetes_healthcheck{name="first-sync",type="readyz"} 0`,
			`kubernetes_healthcheck{name="sync",type="livez"} 1`, `process_start_time_seconds 1e+09`)
		r.loop.Synced()
		r.sleep(time.Second)
		check("after it", map[string]int{"/readyz": 200, "/healthz": 200, "/livez": 200})
		r.plane.set(func() { r.plane.fail["sync"] = 1000 })
		r.add(1)
		r.sleep(2 * time.Minute)
		check("behind", map[string]int{"/readyz": 503, "/healthz": 503, "/livez": 503})
		r.plane.set(func() { r.plane.fail["sync"] = 0 })
		r.sleep(time.Minute)
		health.Stopping()
		check("about to end", map[string]int{"/readyz": 503, "/healthz": 503, "/livez": 200})
		slis("about to end", `kubernetes_healthcheck{name="shutdown",type="healthz"} 0`, `kubernetes_healthcheck{name="sync",type="healthz"} 1`,
			`kubernetes_healthchecks_total{name="first-sync",status="error",type="readyz"} 1`,
			`kubernetes_healthchecks_total{name="sync",status="success",type="livez"} 4`)
	})
	if !health.Healthy() {
		t.Error("a program that is about to end is not ill")
	}
}

// TestHealthPortsWhileStopping: load balancers that look at a health-check node port
// are told to look elsewhere too.
func TestHealthPortsWhileStopping(t *testing.T) {
	at := freeAddr(t, "127.0.0.1")
	health := control.NewHealth(time.Minute, nil)
	ports := control.NewHealthPorts(health, slog.New(slog.DiscardHandler))
	t.Cleanup(ports.Close)
	snap := hcnp([]string{"127.0.0.1"}, service.HealthPort{Service: name(1), Port: at.Port(), Family: service.IPv4, Local: 2})
	if problems := ports.Sync(snap); len(problems) > 0 {
		t.Fatal(problems)
	}
	if got := fetch(t, at); got.code != 200 {
		t.Errorf("a Service with local endpoints: %+v", got)
	}
	health.Stopping()
	if got := fetch(t, at); got.code != 503 || !strings.Contains(got.body, `"serviceProxyHealthy": false`) {
		t.Errorf("while stopping: %+v", got)
	}
}
