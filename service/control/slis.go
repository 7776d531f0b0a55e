package control

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// An answer is one kind of thing the health server has said.
type answer struct {
	page, check string
	ok          bool
}

// checks are what a page looks at, by the names they have in /metrics/slis.
func (v verdict) checks(page string) map[string]bool {
	out := map[string]bool{"sync": v.keepsUp}
	switch page {
	case "healthz":
		out["node-eligible"], out["shutdown"] = v.eligible, v.stays
	case "readyz":
		out["first-sync"], out["shutdown"] = v.prepared, v.stays
	}
	return out
}

func healthPages() []string { return []string{"healthz", "livez", "readyz"} }

// said counts what a page has answered, and returns whether that is 200.
func (h *Health) said(page string, v verdict) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers == nil {
		h.answers = make(map[answer]float64)
	}
	for check, ok := range v.checks(page) {
		h.answers[answer{page, check, ok}]++
	}
	return v.of(page)
}

// slis shows a Health the way Kubernetes components show theirs at /metrics/slis:
// how each check is just now, and how the answers to those who asked came out.
type slis struct {
	health  *Health
	started time.Time

	check, total, start *prometheus.Desc
}

func newSLIs(h *Health, started time.Time) *slis {
	return &slis{
		health: h, started: started,
		check: prometheus.NewDesc("kubernetes_healthcheck",
			"1 if a check of a health page would succeed now.", []string{"name", "type"}, nil),
		total: prometheus.NewDesc("kubernetes_healthchecks_total",
			"Checks of health pages that were asked for.", []string{"name", "type", "status"}, nil),
		start: prometheus.NewDesc("process_start_time_seconds",
			"When the process began.", nil, nil),
	}
}

// Describe implements [prometheus.Collector].
func (s *slis) Describe(out chan<- *prometheus.Desc) {
	out <- s.check
	out <- s.total
	out <- s.start
}

// Collect implements [prometheus.Collector].
func (s *slis) Collect(out chan<- prometheus.Metric) {
	_, v := s.health.look()
	for _, page := range healthPages() {
		for check, ok := range v.checks(page) {
			value := 0.0
			if ok {
				value = 1
			}
			out <- prometheus.MustNewConstMetric(s.check, prometheus.GaugeValue, value, check, page)
		}
	}
	if !s.started.IsZero() {
		out <- prometheus.MustNewConstMetric(s.start, prometheus.GaugeValue, float64(s.started.UnixMilli())/1e3)
	}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	for a, n := range s.health.answers {
		status := "error"
		if a.ok {
			status = "success"
		}
		out <- prometheus.MustNewConstMetric(s.total, prometheus.CounterValue, n, a.check, a.page, status)
	}
}

// kubernetesLabels are those of kubernetes_build_info.
func kubernetesLabels() []string {
	return []string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"}
}

// NewBuildInfo registers kubernetes_build_info, which every Kubernetes component
// has, with the given values of its labels. Labels without a value are empty. It
// panics if reg has it already.
func NewBuildInfo(reg prometheus.Registerer, values map[string]string) {
	names := kubernetesLabels()
	list := slices.Clone(names)
	for i, name := range names {
		list[i] = values[name]
	}
	registrar{reg}.gauges("kubernetes_build_info",
		"1, labelled with the Kubernetes this program behaves like and with what it was built with.", names...).
		WithLabelValues(list...).Set(1)
}

// A Feature is a feature gate of Kubernetes, for kubernetes_feature_enabled.
type Feature struct {
	Name, Stage string
	Enabled     bool
}

// NewFeatureInfo registers kubernetes_feature_enabled, which every Kubernetes
// component has. It panics if reg has it already.
func NewFeatureInfo(reg prometheus.Registerer, list []Feature) {
	v := registrar{reg}.gauges("kubernetes_feature_enabled", "1 if a feature gate of Kubernetes is on.", "name", "stage")
	for _, f := range list {
		value := 0.0
		if f.Enabled {
			value = 1
		}
		v.WithLabelValues(f.Name, f.Stage).Set(value)
	}
}
