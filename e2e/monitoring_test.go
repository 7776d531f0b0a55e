//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// monitoringDir has what operators load into Prometheus and Grafana.
func monitoringDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "deploy", "monitoring"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMonitoring has a real Prometheus scrape fairlead and fairlead l7 on a node
// with a little traffic, and asks it everything that the dashboards and rules of
// deploy/monitoring ask.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	promtool := requireProgram(t, "promtool", "prometheus")
	prometheus := requireProgram(t, "prometheus", "prometheus")
	dir := monitoringDir(t)
	b := newL7Bed(t, "mon", 1)
	m := &monitored{l7Bed: b, web: b.pod(t, b.Nodes[0], 2)}
	for _, args := range [][]string{{"check", "rules", "fairlead.rules.yaml"}, {"test", "rules", "fairlead.rules.test.yaml"}} {
		p := b.Nodes[0].Command(t.Context(), promtool, args...)
		p.Cmd.Dir = dir
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, p.Output())
		}
	}
	m.begin(t)
	m.scrape(t, prometheus, filepath.Join(dir, "fairlead.rules.yaml"))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.traffic(ctx, t) }()
	defer func() { stop(); <-done }()
	for _, name := range []string{"grafana-l4.json", "grafana-l7.json"} {
		m.dashboard(t, filepath.Join(dir, name))
	}
	m.rules(t, filepath.Join(dir, "fairlead.rules.yaml"))
}

type monitored struct {
	*l7Bed
	web    *l7Pod
	proxy  *l7Proxy
	rounds int
}

const prometheusAt = "http://127.0.0.1:9090"

// begin starts fairlead, with a proxy for localhost, and fairlead l7.
func (m *monitored) begin(t *testing.T) {
	t.Helper()
	m.put(t)
	node := m.Nodes[0]
	p := node.Command(context.WithoutCancel(t.Context()), m.binary,
		"--manifests="+m.folder.dir, "--hostname-override=n1", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
		"--proxy-mode=iptables", "--iptables-variant=nft", "--localhost-nodeports-proxy", "--status-socket=", "--oom-score-adj=0")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("fairlead said:\n%s", lastLines(p.Output(), 40))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.WaitOutput(ctx, "first sync done"); err != nil {
		t.Fatal(err)
	}
	m.proxy = m.start(t, l7Start{})
	m.folder.settle(t, m.proxy)
}

// put writes the objects, with endpoints that have changed just now.
func (m *monitored) put(t *testing.T) {
	objects := l7Service("web", "10.96.0.20", 80, 8080, endpoints(m.web)...)
	svc, slice := objects[0].(*corev1.Service), objects[1].(*discoveryv1.EndpointSlice)
	svc.Spec.Type, svc.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	m.rounds++
	slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
	if m.rounds%2 == 0 { // something has to change beside the time
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.244.1.77"}, Conditions: discoveryv1.EndpointConditions{Ready: new(bool)}})
	}
	objects = append(objects, l7Class("fairlead", "fairlead.io/ingress"))
	if m.rounds == 1 {
		objects = append(objects, l7Certificate(t, "crt", "web.test"),
			withTLS(l7Ingress("web", "web.test", map[string]string{"fairlead.io/ssl-redirect": "false"}, l7Path{path: "/", service: "web"}), "crt"))
		m.folder.put(t, "static", objects[2:]...)
	}
	m.folder.put(t, "web", objects[:2]...)
}

// scrape starts Prometheus on the node, and waits until it has both programs.
func (m *monitored) scrape(t *testing.T, prometheus, rules string) {
	t.Helper()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- {job_name: fairlead, static_configs: [{targets: ["127.0.0.1:10249"]}]}
- {job_name: fairlead-l7, static_configs: [{targets: ["127.0.0.1:10262"]}]}
`, rules)
	home := t.TempDir()
	file := filepath.Join(home, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	p := m.Nodes[0].Command(context.WithoutCancel(t.Context()), prometheus, "--config.file="+file,
		"--storage.tsdb.path="+filepath.Join(home, "data"), "--web.listen-address="+strings.TrimPrefix(prometheusAt, "http://"))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", lastLines(p.Output(), 20))
		}
	})
	within(t, time.Minute, func() error {
		n, err := m.query(t.Context(), "count(up == 1) == 2")
		if err == nil && n == 0 {
			err = fmt.Errorf("Prometheus does not have both programs yet")
		}
		return err
	})
}

// client asks from the node.
func (m *monitored) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dialFrom(m.Nodes[0].NS), DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

// traffic makes a bit of everything until ctx is done.
func (m *monitored) traffic(ctx context.Context, t *testing.T) {
	own, client := m.client(), m.proxy.client()
	defer client.CloseIdleConnections()
	get := func(c *http.Client, url string) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return
		}
		if resp, err := c.Do(r); err == nil { // what fails shows in what is asked for
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	for ctx.Err() == nil {
		m.put(t)
		for _, url := range []string{"http://127.0.0.1:10256/healthz", "http://127.0.0.1:10256/livez", "http://127.0.0.1:30080/"} {
			get(own, url)
		}
		for _, url := range []string{"http://web.test/", "https://web.test/", "http://web.test/?status=503", "http://nobody.test/"} {
			get(client, url)
			client.CloseIdleConnections()
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// query returns how many series an expression has now. That it cannot be evaluated
// is an error.
func (m *monitored) query(ctx context.Context, expr string) (int, error) {
	var out struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := m.ask(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &out); err != nil {
		return 0, err
	}
	if out.Status != "success" || out.Data.ResultType != "vector" {
		return 0, fmt.Errorf("%s: %s %s %s", expr, out.Status, out.Data.ResultType, out.Error)
	}
	var list []any
	err := json.Unmarshal(out.Data.Result, &list)
	return len(list), err
}

func (m *monitored) ask(ctx context.Context, path string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, prometheusAt+path, nil)
	if err != nil {
		return err
	}
	resp, err := m.client().Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// yields waits until an expression has series.
func (m *monitored) yields(t *testing.T, what, expr string) {
	t.Helper()
	within(t, 2*time.Minute, func() error {
		n, err := m.query(t.Context(), expr)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s: nothing for %s", what, expr)
		}
		return err
	})
}

// silent are panels that have nothing to show here, and why.
func silent() map[string]string {
	return map[string]string{
		"Virtual servers and destinations": "the mode is iptables",
		"Draining":                         "the mode is iptables",
		"Changes":                          "the mode is iptables",
		"Stale UDP flows":                  "there is no UDP",
		"Requests to the API server":       "there is none",
		"Refused":                          "nobody breaks a rule",
	}
}

// dashboard wants every expression of every panel to yield something, but for the
// silent ones, which must be understood.
func (m *monitored) dashboard(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*", "$namespace", ".*", "$ingress", ".*")
	asked := 0
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			asked++
			expr := fill.Replace(q.Expr)
			if silent()[p.Title] != "" {
				if _, err := m.query(t.Context(), expr); err != nil {
					t.Errorf("%s: %v", p.Title, err)
				}
				continue
			}
			m.yields(t, filepath.Base(path)+": "+p.Title, expr)
		}
	}
	if asked < 20 {
		t.Errorf("%s has only %d expressions", path, asked)
	}
}

// rules wants Prometheus to evaluate every rule, those that record to yield
// something, and nothing to fire.
func (m *monitored) rules(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Record, Alert string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			want++
			if r.Record != "" {
				m.yields(t, "recorded", r.Record)
			}
		}
	}
	within(t, time.Minute, func() error {
		var out struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, Health, LastError, State string }
				}
			}
		}
		if err := m.ask(t.Context(), "/api/v1/rules", &out); err != nil {
			return err
		}
		var names []string
		for _, g := range out.Data.Groups {
			for _, r := range g.Rules {
				if r.Health == "unknown" {
					return fmt.Errorf("rule %s has not been evaluated yet", r.Name)
				}
				// One 503 in six is what our own client asks for.
				if r.Health != "ok" || r.State == "firing" && r.Name != "FairleadL7Errors" {
					t.Errorf("rule %s is %s, %s: %s", r.Name, r.Health, r.State, r.LastError)
				}
				names = append(names, r.Name)
			}
		}
		if len(names) != want || !slices.Contains(names, "FairleadDown") {
			t.Errorf("Prometheus has %d rules, want %d: %v", len(names), want, names)
		}
		return nil
	})
}
