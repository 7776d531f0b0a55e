package iptables

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// Metrics are what the iptables dataplane counts, under kube-proxy's names where
// kube-proxy has one. A nil *Metrics counts nothing.
type Metrics struct {
	rules           *prometheus.GaugeVec   // by table and family: all rules
	rulesLast       *prometheus.GaugeVec   // by table and family: rules in the last restore
	failures        *prometheus.CounterVec // by family
	partialFailures *prometheus.CounterVec // by family
	lockWait        prometheus.Counter
	verified        *prometheus.GaugeVec // by family
}

// NewMetrics registers the metrics. It panics if they are registered already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const prefix = "kubeproxy_sync_proxy_rules_iptables_"
	m := &Metrics{
		rules: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "total", Help: "Total number of iptables rules owned by this proxy.",
		}, []string{"table", "ip_family"}),
		rulesLast: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "last", Help: "Number of iptables rules written in the last sync.",
		}, []string{"table", "ip_family"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "restore_failures_total", Help: "Failed runs of iptables-restore.",
		}, []string{"ip_family"}),
		partialFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "partial_restore_failures_total", Help: "Failed runs of iptables-restore that wrote only a difference.",
		}, []string{"ip_family"}),
		lockWait: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fairlead_iptables_lock_wait_seconds_total", Help: "Time spent waiting for another program to release the xtables lock.",
		}),
	}
	m.verified = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_iptables_verified", Help: "1 if the tables were read and found right since they were last written.",
	}, []string{"ip_family"})
	reg.MustRegister(m.rules, m.rulesLast, m.failures, m.partialFailures, m.lockWait, m.verified)
	return m
}

// serve makes the series of a family that has not failed yet.
func (m *Metrics) serve(f xt.Family) {
	if m != nil {
		m.failures.WithLabelValues(f.String())
		m.partialFailures.WithLabelValues(f.String())
	}
}

// LockWaited counts time spent waiting for the xtables lock.
func (m *Metrics) LockWaited(d time.Duration) {
	if m != nil {
		m.lockWait.Add(d.Seconds())
	}
}

func (m *Metrics) synced(f xt.Family, totals map[xt.Table]int, d *delta) {
	if m == nil {
		return
	}
	for _, t := range []xt.Table{xt.NAT, xt.Filter} {
		m.rules.WithLabelValues(string(t), f.String()).Set(float64(totals[t]))
		m.rulesLast.WithLabelValues(string(t), f.String()).Set(float64(d.rules(t)))
	}
}

func (m *Metrics) failed(f xt.Family, partial bool) {
	if m == nil {
		return
	}
	if partial {
		m.partialFailures.WithLabelValues(f.String()).Inc()
	}
	m.failures.WithLabelValues(f.String()).Inc()
}

func (m *Metrics) verify(f xt.Family, right bool) {
	if m == nil {
		return
	}
	value := 0.0
	if right {
		value = 1
	}
	m.verified.WithLabelValues(f.String()).Set(value)
}
