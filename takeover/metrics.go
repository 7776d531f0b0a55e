package takeover

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what was taken over. A nil one counts nothing.
type Metrics struct {
	removed *prometheus.CounterVec
	pending prometheus.Gauge
}

// NewMetrics returns metrics registered with reg. It panics if reg already has metrics
// of these names.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_takeover_removed_total",
			Help: "Objects of another proxy, or of another mode, that were removed from the kernel.",
		}, []string{"kind"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fairlead_takeover_pending",
			Help: "Virtual servers, addresses and sets of another proxy that are still used and will be removed later.",
		}),
	}
	reg.MustRegister(m.removed, m.pending)
	return m
}

func (m *Metrics) passed(r Result) {
	if m == nil {
		return
	}
	for kind, n := range map[string]int{
		"table": r.Tables, "chain": r.Chains, "server": r.Servers, "address": r.Addresses, "set": r.Sets,
	} {
		m.removed.WithLabelValues(kind).Add(float64(n))
	}
	m.pending.Set(float64(r.Draining + r.Held + r.Busy))
}
