package ipvs

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
)

// Metrics are those of the dataplane. A nil *Metrics measures nothing.
type Metrics struct {
	servers  prometheus.Gauge
	dests    prometheus.Gauge
	draining prometheus.Gauge
	ops      prometheus.Counter
	refused  prometheus.Counter
	failures prometheus.Counter
	rules    *prometheus.CounterVec // failures, by family, under kube-proxy's name
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "fairlead_ipvs_" + name, Help: help})
		r.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "fairlead_ipvs_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	rules := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", Help: "Times the static rules of iptables could not be read or written.",
	}, []string{"ip_family"})
	r.MustRegister(rules)
	return &Metrics{
		rules:    rules,
		servers:  gauge("virtual_servers", "Virtual servers of fairlead in the kernel."),
		dests:    gauge("destinations", "Destinations of these servers, draining ones included."),
		draining: gauge("draining_destinations", "Destinations that take no new connections and still have old ones."),
		ops:      counter("changes_total", "Changes sent to the kernel: servers, destinations, set elements, addresses, routes."),
		refused:  counter("changes_refused_total", "Changes that the kernel refused."),
		failures: counter("write_failures_total", "Times the kernel could not be reached or did not answer."),
	}
}

// applied notes a transaction.
func (m *Metrics) applied(ops, refused int, err error) {
	if m == nil {
		return
	}
	m.ops.Add(float64(ops))
	m.refused.Add(float64(refused))
	if err != nil {
		m.failures.Inc()
	}
}

// serve makes the series of families that have not failed yet.
func (m *Metrics) serve(families []service.Family) {
	if m == nil {
		return
	}
	for _, f := range families {
		m.rules.WithLabelValues(f.String())
	}
}

// rulesFailed notes that the rules of a family are not known to be right.
func (m *Metrics) rulesFailed(f service.Family) {
	if m != nil {
		m.rules.WithLabelValues(f.String()).Inc()
	}
}

// state notes what the kernel has.
func (m *Metrics) state(h *have, d *drainer) {
	if m == nil {
		return
	}
	m.draining.Set(float64(d.count()))
	if h != nil {
		m.servers.Set(float64(h.servers))
		m.dests.Set(float64(h.dests))
	}
}
