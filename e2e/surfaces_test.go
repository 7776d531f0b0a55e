//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestSurfaces runs kube-proxy and then fairlead on one node, does the same to both,
// and compares what they say of themselves: pages, metrics, health, Events.
func TestSurfaces(t *testing.T) {
	t.Parallel()
	binary := requireWorld(t)
	kubeProxy, err := controlplane.KubeProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, world.Config{Prefix: "flsurf"})
	s := &surfaces{World: w, api: newAPI(t, w).(*world.API)}
	lb := web(2, 2, 3)
	lb.lb, lb.local = []string{"203.0.113.44"}, true
	s.fixtures = []fixture{web(1, 2), lb}
	if s.marker, err = w.NewMarker(); err != nil {
		t.Fatal(err)
	}
	theirs := s.look(t, "kube-proxy", world.Program{Path: kubeProxy})
	ours := s.look(t, "fairlead", world.Program{Path: binary, Args: []string{"--iptables-variant=nft", "--status-socket="}, Mode: world.IPTables})
	t.Run("pages", func(t *testing.T) { samePages(t, ours, theirs) })
	t.Run("metrics", func(t *testing.T) { sameMetrics(t, ours, theirs) })
	t.Run("events", func(t *testing.T) {
		if d := cmp.Diff(ours.started, theirs.started); d != "" || theirs.started == (startEvent{}) {
			t.Errorf("the Event Starting (-fairlead +kube-proxy):\n%s", d)
		}
	})
}

type surfaces struct {
	*world.World
	api      *world.API
	marker   *world.Marker
	fixtures []fixture
}

// What a program has said of itself.
type surface struct {
	pages   map[string]page
	metrics map[string]*dto.MetricFamily
	started startEvent
}

type page struct {
	status int
	header http.Header
	body   string
}

// A startEvent is what an Event says, as far as programs should agree.
type startEvent struct{ Reason, Type, Action, Kind, Name, Note string }

// Addresses of the two servers, and the health-check node port.
const (
	metricsServer = "http://127.0.0.1:10249"
	healthServer  = "http://127.0.0.1:10256"
)

// look runs a program until it has put a change in force, asks it everything, and
// ends it.
func (s *surfaces) look(t *testing.T, name string, prog world.Program) surface {
	t.Helper()
	for i := range s.fixtures {
		s.fixtures[i].endpoints = podsOf(2, 3)
	}
	s.put(t)
	s.taint(t, false)
	prog.Args = append(prog.Args,
		"--proxy-mode=iptables", "--hostname-override=n1", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48", "--profiling",
		// A namespace may not size the table of the machine, which kube-proxy insists on.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		"--iptables-min-sync-period=100ms", "--oom-score-adj=0")
	p, err := s.Start(context.Background(), prog, s.api.Args()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.Tail(60))
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}()
	s.awaitSync(t, 0)
	out := surface{pages: make(map[string]page)}
	out.started = s.startEvent(t)
	s.fixtures[0].endpoints = podsOf(2, 3, 4)
	s.put(t)
	s.awaitSync(t, 2) // a partial one after the first
	for _, path := range askedPages() {
		out.pages[path] = s.get(t, http.MethodGet, path, "")
	}
	out.pages["PUT v"] = s.get(t, http.MethodPut, metricsServer+"/debug/flags/v", "5")
	out.pages["PUT nonsense"] = s.get(t, http.MethodPut, metricsServer+"/debug/flags/v", "x")
	out.pages["POST mode"] = s.get(t, http.MethodPost, metricsServer+"/proxyMode", "")
	out.pages["hcnp"] = s.get(t, http.MethodGet, s.healthPort(t), "")
	s.taint(t, true)
	within(t, time.Minute, func() error {
		out.pages["tainted"] = s.get(t, http.MethodGet, healthServer+"/healthz", "")
		if got := out.pages["tainted"].status; got != http.StatusServiceUnavailable {
			return fmt.Errorf("%s answers %d on a node that is to be deleted", name, got)
		}
		return nil
	})
	out.pages["tainted livez"] = s.get(t, http.MethodGet, healthServer+"/livez", "")
	out.metrics = s.gather(t)
	return out
}

func askedPages() []string {
	var out []string
	for _, path := range []string{
		"/healthz", "/healthz?verbose", "/healthz/ping", "/proxyMode", "/configz", "/metrics/slis", "/statusz", "/flagz",
		"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/flags/", "/debug/flags/v", "/", "/nothing",
	} {
		out = append(out, metricsServer+path)
	}
	for _, path := range []string{"/healthz", "/livez", "/", "/nothing"} {
		out = append(out, healthServer+path)
	}
	return out
}

func (s *surfaces) put(t *testing.T) {
	t.Helper()
	if err := s.api.Put(t.Context(), stateOf(s.marker, s.fixtures)); err != nil {
		t.Fatal(err)
	}
}

// taint marks the Node as the cluster autoscaler does before it takes one away.
func (s *surfaces) taint(t *testing.T, on bool) {
	t.Helper()
	patch := `{"spec":{"taints":[]}}`
	if on {
		patch = `{"spec":{"taints":[{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}`
	}
	_, err := s.api.Client.CoreV1().Nodes().Patch(t.Context(), "n1", "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// healthPort is where n1 says how many endpoints it has.
func (s *surfaces) healthPort(t *testing.T) string {
	t.Helper()
	svc, err := s.api.Client.CoreV1().Services(metav1.NamespaceDefault).Get(t.Context(), s.fixtures[1].name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if svc.Spec.HealthCheckNodePort == 0 {
		t.Fatal("the Service has no health-check node port")
	}
	return fmt.Sprintf("http://%s:%d/", netns.NodeAddr(1).V4, svc.Spec.HealthCheckNodePort)
}

// startEvent waits for the Event about the start, and removes it.
func (s *surfaces) startEvent(t *testing.T) (out startEvent) {
	t.Helper()
	events := s.api.Client.EventsV1().Events(metav1.NamespaceDefault)
	within(t, time.Minute, func() error {
		list, err := events.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == "Starting" })
		if i < 0 {
			return fmt.Errorf("no Event tells of the start; there are %d others", len(list.Items))
		}
		e := list.Items[i]
		out = startEvent{e.Reason, e.Type, e.Action, e.Regarding.Kind, e.Regarding.Name, e.Note}
		return events.Delete(t.Context(), e.Name, metav1.DeleteOptions{})
	})
	return out
}

// awaitSync waits until both families have been synced more than n times, and have
// nothing left to do.
func (s *surfaces) awaitSync(t *testing.T, n uint64) {
	t.Helper()
	within(t, time.Minute, func() error {
		page, err := s.tryGet(t.Context(), http.MethodGet, metricsServer+"/metrics", "")
		if err != nil {
			return err
		}
		got := parseMetrics(t, page.body)
		syncs := got["kubeproxy_sync_proxy_rules_duration_seconds"].GetMetric()
		if len(syncs) != 2 {
			return fmt.Errorf("%d families are synced", len(syncs))
		}
		for _, m := range syncs {
			if m.GetHistogram().GetSampleCount() < max(n, 1) {
				return fmt.Errorf("only %d syncs", m.GetHistogram().GetSampleCount())
			}
		}
		for _, kind := range []string{"endpoint", "service"} {
			if left := got["kubeproxy_sync_proxy_rules_"+kind+"_changes_pending"].GetMetric(); len(left) != 1 || left[0].GetGauge().GetValue() != 0 {
				return fmt.Errorf("changes of %ss are pending", kind)
			}
		}
		return nil
	})
}

func (s *surfaces) gather(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	page := s.get(t, http.MethodGet, metricsServer+"/metrics", "")
	if page.header.Get("Process-Start-Time-Unix") == "" {
		t.Error("/metrics does not say when the process began")
	}
	return parseMetrics(t, page.body)
}

func parseMetrics(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	return out
}

func (s *surfaces) get(t *testing.T, method, url, body string) page {
	t.Helper()
	p, err := s.tryGet(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryGet asks from n1.
func (s *surfaces) tryGet(ctx context.Context, method, url, body string) (page, error) {
	client := http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				err = s.N1.Do(func() error {
					c, err = new(net.Dialer).DialContext(ctx, network, addr)
					return err
				})
				return c, err
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return page{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return page{resp.StatusCode, resp.Header, string(text)}, err
}

// samePages compares status, type and shape of what was asked. Bodies that are for
// people may differ, and one page more is fairlead's.
func samePages(t *testing.T, ours, theirs surface) {
	for _, path := range slices.Sorted(maps.Keys(theirs.pages)) {
		got, want := ours.pages[path], theirs.pages[path]
		if got.status != want.status {
			t.Errorf("%s answers %d, kube-proxy's %d: %.200q", path, got.status, want.status, got.body)
			continue
		}
		kind := func(p page) string { k, _, _ := strings.Cut(p.header.Get("Content-Type"), ";"); return k }
		if kind(got) != kind(want) {
			t.Errorf("%s is %s, kube-proxy's %s", path, kind(got), kind(want))
		}
		if sniff := "X-Content-Type-Options"; want.header.Get(sniff) != got.header.Get(sniff) && want.header.Get(sniff) != "" {
			t.Errorf("%s: %s is %q, kube-proxy's %q", path, sniff, got.header.Get(sniff), want.header.Get(sniff))
		}
		if strings.HasSuffix(path, "/configz") { // fairlead's own settings are there too, and may differ
			if d := cmp.Diff(configKeys(t, got.body), configKeys(t, want.body)); d != "" {
				t.Errorf("%s (-fairlead +kube-proxy):\n%s", path, d)
			}
			continue
		}
		if json.Valid([]byte(want.body)) {
			if d := cmp.Diff(shape(t, got.body), shape(t, want.body)); d != "" {
				t.Errorf("%s (-fairlead +kube-proxy):\n%s", path, d)
			}
		}
	}
	for _, path := range []string{"hcnp", "POST mode", metricsServer + "/proxyMode", metricsServer + "/healthz", metricsServer + "/healthz?verbose"} {
		if d := cmp.Diff(ours.pages[path].body, theirs.pages[path].body); d != "" {
			t.Errorf("%s (-fairlead +kube-proxy):\n%s", path, d)
		}
	}
	if got := parseMetrics(t, ours.pages[metricsServer+"/metrics/slis"].body); got["kubernetes_healthcheck"] == nil || got["process_start_time_seconds"] == nil {
		t.Errorf("/metrics/slis has %v", slices.Sorted(maps.Keys(got)))
	}
}

// configKeys are the fields of the object that both have at /configz.
func configKeys(t *testing.T, text string) []string {
	t.Helper()
	var v map[string]map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("/configz: %v in %.200q", err, text)
	}
	return slices.Sorted(maps.Keys(v["kubeproxy.config.k8s.io"]))
}

// shape replaces the values of JSON by their types, but for those that say yes or
// no.
func shape(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&v); err != nil {
		t.Errorf("not JSON: %.200q", text)
	}
	var walk func(any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			out := make(map[string]any)
			for k, e := range v {
				out[k] = walk(e)
			}
			return out
		case []any:
			return "a list"
		case bool:
			return v
		default:
			return fmt.Sprintf("%T", v)
		}
	}
	return walk(v)
}

// documented reads the table of kube-proxy's metrics in docs/metrics.md: whether
// fairlead has each in iptables mode.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Metrics of kube-proxy\n")
	table, _, ok2 := strings.Cut(table, "\n## ")
	if !ok || !ok2 {
		t.Fatal("docs/metrics.md has no table of kube-proxy's metrics")
	}
	out := make(map[string]bool)
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|.*\\| (yes|no) \\|")
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		out[m[1]] = m[2] == "yes"
	}
	return out
}

// sameMetrics wants every metric that is kube-proxy's own, or of its client, with
// its type, its labels and its buckets, or a word in the documentation.
func sameMetrics(t *testing.T, ours, theirs surface) {
	known := documented(t)
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(theirs.metrics)) {
		own := strings.HasPrefix(name, "kubeproxy_")
		if !own && !regexp.MustCompile(`^(rest_client|kubernetes|process|go)_`).MatchString(name) {
			continue // of libraries that are in kube-proxy by chance
		}
		want, got := theirs.metrics[name], ours.metrics[name]
		have, listed := known[name]
		switch {
		case own && !listed:
			t.Errorf("%s is not in docs/metrics.md", name)
		case listed && !have && got != nil:
			t.Errorf("%s: docs/metrics.md says that fairlead has none", name)
		case listed && !have:
		case got == nil:
			t.Errorf("%s: fairlead has none", name)
		default:
			compared++
			sameFamily(t, name, got, want)
		}
	}
	if compared < 100 {
		t.Errorf("only %d metrics were compared", compared)
	}
}

func sameFamily(t *testing.T, name string, got, want *dto.MetricFamily) {
	if got.GetType() != want.GetType() {
		t.Errorf("%s is a %s, kube-proxy's a %s", name, got.GetType(), want.GetType())
		return
	}
	if d := cmp.Diff(labelNames(got), labelNames(want)); d != "" {
		t.Errorf("%s: labels (-fairlead +kube-proxy):\n%s", name, d)
	}
	if h := want.GetMetric()[0].GetHistogram(); h != nil {
		have := make(map[float64]bool)
		for _, b := range got.GetMetric()[0].GetHistogram().GetBucket() {
			have[b.GetUpperBound()] = true
		}
		for _, b := range h.GetBucket() {
			if !have[b.GetUpperBound()] {
				t.Errorf("%s has no bucket %g", name, b.GetUpperBound())
			}
		}
	}
	if name == "kubernetes_feature_enabled" || name == "kubeproxy_sync_proxy_rules_no_local_endpoints_total" {
		if d := cmp.Diff(series(got), series(want)); d != "" {
			t.Errorf("%s (-fairlead +kube-proxy):\n%s", name, d)
		}
	}
}

func labelNames(f *dto.MetricFamily) []string {
	names := make(map[string]bool)
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			names[l.GetName()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func series(f *dto.MetricFamily) map[string]float64 {
	out := make(map[string]float64)
	for _, m := range f.GetMetric() {
		key := ""
		for _, l := range m.GetLabel() {
			key += l.GetName() + "=" + l.GetValue() + " "
		}
		out[key] = m.GetGauge().GetValue()
	}
	return out
}

// TestHealthOfAnAbsentNode: load balancers are told not to come while the API server
// knows no Node of our name, and that there is one when it does.
func TestHealthOfAnAbsentNode(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft", "--bind-address=172.18.0.11")
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.serve(t, netns.TCP, 8080, pod(2))
	b.begin(t, web(1, 2))
	s := &surfaces{World: b.World, api: api}
	s.status(t, "/healthz", http.StatusOK)
	node := nodeOf(t, api)
	node.remove(t)
	s.status(t, "/healthz", http.StatusServiceUnavailable)
	s.status(t, "/livez", http.StatusOK)
	s.status(t, "/readyz", http.StatusOK)
	b.answers(t, "without a Node object", web(1))
	node.create(t)
	s.status(t, "/healthz", http.StatusOK)
}
