package control

import (
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
)

// Metrics are the loop's. Names and labels of what begins with kubeproxy_ are those
// of kube-proxy 1.36, and its buckets are among theirs, so that dashboards and
// alerts go on working; below them there are finer ones, for a sync here is often
// over before kube-proxy's first. One loop serves both families here: what kube-proxy measures for each
// is observed for each, with the same value.
type Metrics struct {
	syncs                  *prometheus.HistogramVec // by family
	full, partial          *prometheus.HistogramVec // by family
	programming            *prometheus.HistogramVec // by family
	lastSync, lastQueued   *prometheus.GaugeVec     // by family
	endpoints, services    changeMetrics
	noLocal                *prometheus.GaugeVec // by policy and family
	healthz, livez         *prometheus.CounterVec
	conntrackTime          *prometheus.HistogramVec
	conntrackDeleted       *prometheus.CounterVec
	results                *prometheus.CounterVec
	repairs, auditFailures prometheus.Counter
	finer                  prometheus.Histogram

	ports                *prometheus.GaugeVec // by family
	deviations, problems prometheus.Gauge

	lacking map[lack]int // the values behind noLocal
	serving [service.NumFamilies]int
}

// changeMetrics count the changes of one kind of object.
type changeMetrics struct {
	total   prometheus.Counter
	pending prometheus.Gauge
	seen    uint64 // as the Store counts
	inForce uint64 // of seen, what the last sync covered or did not have to
}

// A lack is a traffic policy that has no endpoint on this node to offer.
type lack struct {
	policy string // "internal" or "external"
	family service.Family
}

// NewMetrics returns metrics registered with reg, or with nobody if reg is nil.
// Version is the program's, for fairlead_build_info. It panics if reg already
// has metrics of these names.
func NewMetrics(reg prometheus.Registerer, version string) *Metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	r := registrar{reg}
	syncBuckets := syncBuckets()
	m := &Metrics{
		syncs:       r.histograms("kubeproxy_sync_proxy_rules_duration_seconds", "Time a sync of the rules took.", syncBuckets),
		full:        r.histograms("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time a sync took that read the kernel first.", syncBuckets),
		partial:     r.histograms("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time a sync took that wrote only what changed.", syncBuckets),
		programming: r.histograms("kubeproxy_network_programming_duration_seconds", "Time from a change in the cluster to its being in force on this node.", programmingBuckets()),
		lastSync:    r.gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When rules were last synced successfully.", "ip_family"),
		lastQueued:  r.gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for.", "ip_family"),
		endpoints:   r.changes("endpoint", "EndpointSlices"),
		services:    r.changes("service", "Services"),
		noLocal:     r.gauges("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "Service ports with a Local traffic policy and endpoints on other nodes only.", "traffic_policy", "ip_family"),
		healthz:     r.counters("kubeproxy_proxy_healthz_total", "Answers to /healthz.", "code"),
		livez:       r.counters("kubeproxy_proxy_livez_total", "Answers to /livez.", "code"),
		results:     r.counters("fairlead_sync_total", "Syncs by result.", "result"),
		lacking:     make(map[lack]int),
		repairs:     r.counter("fairlead_audit_repairs_total", "Audits that found and repaired what somebody else had changed."),
		finer:       r.histogram("fairlead_network_programming_duration_seconds", "Time from a change in the cluster to its being in force on this node.", prometheus.ExponentialBuckets(0.001, 2, 18)),
		conntrackTime: r.histograms("kubeproxy_conntrack_reconciler_sync_duration_seconds",
			"Time a clean-up of stale UDP flows took.", syncBuckets),
		conntrackDeleted: r.counters("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale UDP flows deleted.", "ip_family"),
		auditFailures:    r.counter("fairlead_audit_failures_total", "Audits that failed."),
		ports:            r.gauges("fairlead_service_ports", "Ports of Services that are in force.", "ip_family"),
		deviations:       r.gauge("fairlead_deviations", "Promises of Services that this dataplane cannot keep."),
		problems:         r.gauge("fairlead_problems", "Things wrong with Services, or with this node, that somebody should look at."),
	}
	r.gauges("fairlead_build_info", "1, labelled with what this program was built from.", "version", "goversion").
		WithLabelValues(version, runtime.Version()).Set(1)
	return m
}

// syncBuckets are kube-proxy's, from a millisecond to 16 seconds, and three below.
func syncBuckets() []float64 {
	return slices.Concat([]float64{0.0001, 0.00025, 0.0005}, prometheus.ExponentialBuckets(0.001, 2, 15))
}

// programmingBuckets are kube-proxy's, two below a second, one a second up to a
// minute, then wider; and some where fairlead mostly is.
func programmingBuckets() []float64 {
	return slices.Concat(
		[]float64{0.005, 0.01, 0.025, 0.05, 0.1},
		prometheus.LinearBuckets(0.25, 0.25, 2),
		prometheus.LinearBuckets(1, 1, 59),
		prometheus.LinearBuckets(60, 5, 12),
		prometheus.LinearBuckets(120, 30, 7))
}

// ObserveConntrack records one clean-up of stale flows. It is safe for
// concurrent use, and fits conntrack.Config.Observe.
func (m *Metrics) ObserveConntrack(f service.Family, took time.Duration, deleted int) {
	m.conntrackTime.WithLabelValues(f.String()).Observe(took.Seconds())
	m.conntrackDeleted.WithLabelValues(f.String()).Add(float64(deleted))
}

// changed records how many changes the Store has accepted by now. What does not
// matter to the node is in force as it is.
func (m *Metrics) changed(services, slices uint64, matters bool) {
	m.services.set(services, matters)
	m.endpoints.set(slices, matters)
}

func (c *changeMetrics) set(seen uint64, matters bool) {
	if !matters {
		c.inForce += seen - c.seen
	}
	c.total.Add(float64(seen - c.seen))
	c.seen = seen
	c.pending.Set(float64(c.seen - c.inForce))
}

func (c *changeMetrics) done() {
	c.inForce = c.seen
	c.pending.Set(0)
}

func (m *Metrics) queued(families []service.Family, now time.Time) {
	setTime(m.lastQueued, families, now)
}

// synced records a successful sync. No change arrives while one is running:
// there is but one goroutine.
func (m *Metrics) synced(families []service.Family, rep service.Report, start, end time.Time) {
	kind := m.partial
	if rep.Resynced {
		kind = m.full
	}
	took := end.Sub(start).Seconds()
	for _, f := range families {
		m.syncs.WithLabelValues(f.String()).Observe(took)
		kind.WithLabelValues(f.String()).Observe(took)
	}
	setTime(m.lastSync, families, end)
	m.services.done()
	m.endpoints.done()
	m.results.WithLabelValues("ok").Inc()
}

// failures records that a "sync" or an "audit" failed.
func (m *Metrics) failures(what string) {
	if what == "audit" {
		m.auditFailures.Inc()
		return
	}
	m.results.WithLabelValues("error").Inc()
}

// faults records how much is wrong at present.
func (m *Metrics) faults(deviations, problems int) {
	m.deviations.Set(float64(deviations))
	m.problems.Set(float64(problems))
}

// programmed records the latency of the changes made at the times triggered.
func (m *Metrics) programmed(families []service.Family, triggered []time.Time, now time.Time) {
	for _, t := range triggered {
		took := now.Sub(t).Seconds()
		m.finer.Observe(took)
		for _, f := range families {
			m.programming.WithLabelValues(f.String()).Observe(took)
		}
	}
}

// inForce brings the state of Services up to date for the step from prev, which
// must be the snapshot of the last call.
func (m *Metrics) inForce(families []service.Family, prev, snap *service.Snapshot) {
	for old, port := range snap.Changed(prev) {
		m.count(old, -1)
		m.count(port, +1)
	}
	for _, f := range families { // zero is an answer too
		m.lacking[lack{"internal", f}] += 0
		m.lacking[lack{"external", f}] += 0
	}
	for _, f := range families {
		m.ports.WithLabelValues(f.String()).Set(float64(m.serving[f]))
	}
	for l, n := range m.lacking {
		m.noLocal.WithLabelValues(l.policy, l.family.String()).Set(float64(n))
	}
}

func (m *Metrics) count(p *service.Port, by int) {
	if p == nil {
		return
	}
	m.serving[p.ID.Family] += by
	var internal, external int
	for i := range p.Frontends {
		fe := &p.Frontends[i]
		switch {
		case fe.Kind != service.ClusterIP:
			if fe.Routes[service.FromOutside].Verdict == service.Drop {
				external = by
			}
		case slices.ContainsFunc(fe.Routes[:], func(r service.Route) bool { return r.Verdict == service.Drop }):
			internal = by
		}
	}
	m.lacking[lack{"internal", p.ID.Family}] += internal
	m.lacking[lack{"external", p.ID.Family}] += external
}

func setTime(v *prometheus.GaugeVec, families []service.Family, t time.Time) {
	for _, f := range families {
		v.WithLabelValues(f.String()).Set(float64(t.UnixNano()) / 1e9)
	}
}

func countCode(v *prometheus.CounterVec, code int) {
	v.WithLabelValues(strconv.Itoa(code)).Inc()
}

// A registrar makes metrics and registers them.
type registrar struct{ prometheus.Registerer }

func register[T prometheus.Collector](r registrar, c T) T {
	r.MustRegister(c)
	return c
}

func (r registrar) counter(name, help string) prometheus.Counter {
	return register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
}

func (r registrar) counters(name, help string, labels ...string) *prometheus.CounterVec {
	return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

func (r registrar) gauge(name, help string) prometheus.Gauge {
	return register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
}

func (r registrar) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

func (r registrar) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
}

func (r registrar) histograms(name, help string, buckets []float64) *prometheus.HistogramVec {
	return register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"ip_family"}))
}

func (r registrar) changes(name, objects string) changeMetrics {
	const prefix = "kubeproxy_sync_proxy_rules_"
	return changeMetrics{
		total:   r.counter(prefix+name+"_changes_total", "Changes of "+objects+" received."),
		pending: r.gauge(prefix+name+"_changes_pending", "Changes of "+objects+" not yet in force."),
	}
}
