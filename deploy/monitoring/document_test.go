package monitoring

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
	"github.com/fairlead-project/fairlead/takeover"
	"github.com/fairlead-project/fairlead/userspace"
)

// A metric is one that the code defines.
type metric struct {
	name, help, kind string
	labels           []string
}

// A registry notes what is registered.
type registry struct {
	prometheus.Registerer
	list []metric
}

// Register implements [prometheus.Registerer].
func (r *registry) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 256)
	c.Describe(descs)
	close(descs)
	text := regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)".*variableLabels: \{([^}]*)\}`)
	for d := range descs {
		m := text.FindStringSubmatch(d.String())
		if m == nil {
			return fmt.Errorf("cannot read %s", d)
		}
		one := metric{name: m[1], help: strings.ReplaceAll(m[2], `\"`, `"`), kind: kindOf(c, d)}
		if m[3] != "" {
			one.labels = strings.Split(m[3], ",")
		}
		r.list = append(r.list, one)
	}
	return nil
}

// MustRegister implements [prometheus.Registerer].
func (r *registry) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// kindOf returns what a collector collects. A gauge can do all a counter can, so it
// is looked for first.
func kindOf(c prometheus.Collector, d *prometheus.Desc) string {
	switch c.(type) {
	case prometheus.Gauge, *prometheus.GaugeVec:
		return "gauge"
	case prometheus.Counter, *prometheus.CounterVec:
		return "counter"
	case prometheus.Histogram, *prometheus.HistogramVec:
		return "histogram"
	}
	found := make(chan prometheus.Metric, 256)
	go func() { c.Collect(found); close(found) }()
	kind := "counter" // one that is there only once there is something to count
	for m := range found {
		var out dto.Metric
		if m.Desc().String() == d.String() && m.Write(&out) == nil && out.GetGauge() != nil {
			kind = "gauge"
		}
	}
	return kind
}

// A source is a part of fairlead with metrics.
type source struct {
	title, intro string
	register     func(prometheus.Registerer)
}

func sources() []source {
	return []source{
		{"Every mode", "", func(r prometheus.Registerer) {
			control.NewMetrics(r, "")
			control.NewBuildInfo(r, nil)
			control.NewFeatureInfo(r, nil)
			takeover.NewMetrics(r)
		}},
		{"The mode iptables", "", func(r prometheus.Registerer) { iptables.NewMetrics(r) }},
		{"The mode ipvs", "", func(r prometheus.Registerer) { ipvs.NewMetrics(r) }},
		{"The mode userspace, and node ports at localhost", "They are there in the mode userspace, and in the others with `--localhost-nodeports-proxy`.\n\n",
			func(r prometheus.Registerer) {
				userspace.NewMetrics(r, func() userspace.Counts { return userspace.Counts{} })
			}},
	}
}

// defined returns every metric of a source.
func (s source) defined() []metric {
	r := &registry{Registerer: prometheus.NewRegistry()}
	s.register(r)
	slices.SortStableFunc(r.list, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return r.list
}

const documentHead = `# Metrics, health and other pages

<!-- Made from the code and from the list of kube-proxy's in deploy/monitoring; tests keep it equal. -->

fairlead serves these at ` + "`--metrics-bind-address`" + `, 127.0.0.1:10249 unless something else is asked for; an empty address means none. Those of
` + "`fairlead l7`" + ` are in [l7-metrics.md](l7-metrics.md). Dashboards and alerts are in [deploy/monitoring](../deploy/monitoring/README.md).

Beside them are those of every Kubernetes component, with its names and labels: ` + "`go_*`, `process_*`, `rest_client_*`" + ` (requests to the API
server), ` + "`kubernetes_build_info`" + ` and ` + "`kubernetes_feature_enabled`" + `; and at ` + "`/metrics/slis`, `kubernetes_healthcheck` and\n`kubernetes_healthchecks_total`" + `
for the checks of /healthz, /livez and /readyz. kubernetes_build_info has the version of Kubernetes whose kube-proxy fairlead behaves like:
who compares versions within a cluster compares those. fairlead_build_info has fairlead's own.

## Metrics of kube-proxy

All that kube-proxy 1.36 defines itself. Where fairlead has one, name, type and labels are the same, and its buckets are among fairlead's; a test
reads both programs' side by side.

| metric | type | labels | kube-proxy's modes | fairlead | |
| --- | --- | --- | --- | --- | --- |
`

func document() string {
	var b strings.Builder
	b.WriteString(documentHead)
	for _, m := range upstreamMetrics() {
		here := "no"
		if m.here {
			here = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", m.name, m.kind, labels(m.labels), m.modes, here, m.remark)
	}
	b.WriteString("\n## Metrics of fairlead\n")
	for _, s := range sources() {
		fmt.Fprintf(&b, "\n### %s\n\n%s| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n", s.title, s.intro)
		for _, m := range s.defined() {
			if !strings.HasPrefix(m.name, "kubeproxy_") {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, labels(m.labels), m.help)
			}
		}
	}
	b.WriteString(documentTail)
	return b.String()
}

const documentTail = `
## Pages

Both servers speak HTTP without TLS and without authentication, as kube-proxy's do. An address that cannot be listened on is tried again every five
seconds, with an Event about the Node, or ends the process with ` + "`--bind-address-hard-fail`" + `.

The health server, ` + "`--healthz-bind-address`" + `, 0.0.0.0:10256; 200 or 503, with JSON:

| page | for | 503 when |
| --- | --- | --- |
| ` + "`/healthz`" + ` | load balancers | a change, a sync or an audit is older than twice the sync period; the Node object is absent, is being deleted, or has the taint ` + "`ToBeDeletedByClusterAutoscaler`" + `; fairlead is about to end (` + "`--shutdown-grace`" + `) |
| ` + "`/livez`" + ` | supervisors | a change, a sync or an audit is older than twice the sync period |
| ` + "`/readyz`" + ` | rolling updates; not in kube-proxy | nothing is in force yet, or as ` + "`/livez`" + `, or fairlead is about to end |

The keys of the JSON are kube-proxy's: ` + "`lastUpdated`, `currentTime`, `nodeEligible`" + ` (/healthz only), ` + "`healthy`, and `status`" + ` for each family, which is not
there before the first sync. Both families are in force or neither is, so they say the same.

The metrics server, ` + "`--metrics-bind-address`" + `, 127.0.0.1:10249:

| page | what |
| --- | --- |
| ` + "`/metrics`, `/metrics/slis`" + ` | the metrics |
| ` + "`/healthz`" + ` | ` + "`ok`" + `: this server answers; how the node is, the health server says |
| ` + "`/proxyMode`" + ` | the bare word, without a newline |
| ` + "`/configz`" + ` | the configuration in force |
| ` + "`/flagz`, `/statusz`" + ` | text, or with ` + "`Accept: application/json;g=config.k8s.io;v=v1beta1;as=Flagz`" + ` (` + "`as=Statusz`" + `) the object; YAML and CBOR, which kube-proxy has too, are not there |
| ` + "`/debug/pprof/`" + ` | with ` + "`--profiling`" + `: profiles of Go |
| ` + "`/debug/flags/v`" + ` | with ` + "`--profiling`" + `: ` + "`curl -X PUT --data 4 http://127.0.0.1:10249/debug/flags/v`" + ` changes the verbosity at once |

Health-check node ports of Services answer on every path with 200 if the node has a local endpoint and keeps up, else 503; with the count in
` + "`X-Load-Balancing-Endpoint-Weight`" + ` and the same JSON as kube-proxy's.

## Events

| reason | about | when |
| --- | --- | --- |
| ` + "`Starting`" + ` | the Node | fairlead has begun to serve it, as kube-proxy's |
| ` + "`FailedToStartProxierHealthcheck`, `FailedToStartMetricServer`" + ` | the Node | an address cannot be listened on |
| ` + "`FailedToStartServiceHealthcheck`" + ` | a Service | its health-check node port cannot be listened on |

Other Events are about what is wrong with Services, EndpointSlices and Ingresses; their reasons say what.
`

func labels(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return "`" + strings.Join(names, "`, `") + "`"
}

func TestDocument(t *testing.T) {
	golden.File(t, filepath.Join("..", "..", "docs", "metrics.md"), document())
}

// TestUpstreamMetrics holds the list of kube-proxy's metrics against the code: what
// it says is there is, as it says, and there is nothing under kube-proxy's name
// beside.
func TestUpstreamMetrics(t *testing.T) {
	have := make(map[string]metric)
	for _, s := range sources() {
		for _, m := range s.defined() {
			if strings.HasPrefix(m.name, "kubeproxy_") {
				have[m.name] = m
			}
		}
	}
	for _, want := range upstreamMetrics() {
		got, ok := have[want.name]
		delete(have, want.name)
		if ok != want.here {
			t.Errorf("%s is there: %v, want %v", want.name, ok, want.here)
			continue
		}
		if !ok {
			continue
		}
		if got.kind != want.kind || !slices.Equal(slices.Sorted(slices.Values(got.labels)), slices.Sorted(slices.Values(want.labels))) {
			t.Errorf("%s is a %s by %v, want a %s by %v", want.name, got.kind, got.labels, want.kind, want.labels)
		}
	}
	for name := range have {
		t.Errorf("%s: kube-proxy has no such metric", name)
	}
}

// known returns the names of the series that fairlead and fairlead l7 may show.
func known(t *testing.T) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	add := func(m metric) {
		out[m.name] = true
		if m.kind == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				out[m.name+suffix] = true
			}
		}
	}
	for _, s := range sources() {
		for _, m := range s.defined() {
			add(m)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "l7-metrics.md")) // which is made from the code too
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(fairlead_l7_[a-z0-9_]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(text), -1) {
		add(metric{name: m[1], kind: m[2]})
	}
	return out
}
