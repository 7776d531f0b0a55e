package userspace

import "github.com/prometheus/client_golang/prometheus"

// Counts are what a proxy has done since it began, and what it has at present.
type Counts struct {
	Connections, Sessions float64 // at present: TCP, UDP

	Accepted, Refused, Shed, Exhausted, Aborted, Retries float64            // TCP
	Given, Taken                                         float64            // TCP: to and from another process
	Failures                                             map[string]float64 // of attempts to connect, by reason

	Opened, Dropped float64 // UDP sessions, datagrams

	FromClients, ToClients, Spliced float64 // bytes
	Datagrams                       float64

	Ejected, Ejections float64 // endpoints left out at present, and how often one was
}

// A Metrics shows Counts. It implements [prometheus.Collector].
type Metrics struct {
	read   func() Counts
	values []value
	failed *prometheus.Desc
}

type value struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*Counts) float64
}

// NewMetrics registers the metrics with r. Read is called by each scrape, from any
// goroutine.
func NewMetrics(r prometheus.Registerer, read func() Counts) *Metrics {
	m := &Metrics{read: read, failed: prometheus.NewDesc("fairlead_userspace_connect_failures_total",
		"Attempts to connect to an endpoint that failed, by reason.", []string{"reason"}, nil)}
	add := func(kind prometheus.ValueType, name, help string, of func(*Counts) float64) {
		m.values = append(m.values, value{prometheus.NewDesc("fairlead_userspace_"+name, help, nil, nil), kind, of})
	}
	const now, total = prometheus.GaugeValue, prometheus.CounterValue
	add(now, "connections", "TCP connections at present.", func(c *Counts) float64 { return c.Connections })
	add(now, "udp_sessions", "UDP sessions at present.", func(c *Counts) float64 { return c.Sessions })
	add(now, "ejected_endpoints", "Endpoints that are left out at present because they failed to connect.", func(c *Counts) float64 { return c.Ejected })
	add(total, "accepted_total", "TCP connections accepted.", func(c *Counts) float64 { return c.Accepted })
	add(total, "refused_total", "TCP connections reset because nothing is served where they went.", func(c *Counts) float64 { return c.Refused })
	add(total, "shed_total", "TCP connections reset for want of file descriptors or memory.", func(c *Counts) float64 { return c.Shed })
	add(total, "exhausted_total", "TCP connections reset because no endpoint answered.", func(c *Counts) float64 { return c.Exhausted })
	add(total, "aborted_total", "TCP connections reset because their endpoint is gone.", func(c *Counts) float64 { return c.Aborted })
	add(total, "given_total", "TCP connections that another process has taken over.", func(c *Counts) float64 { return c.Given })
	add(total, "taken_total", "TCP connections taken over from another process.", func(c *Counts) float64 { return c.Taken })
	add(total, "retries_total", "Attempts to connect to another endpoint after one failed.", func(c *Counts) float64 { return c.Retries })
	add(total, "ejections_total", "Times an endpoint was left out because it failed to connect.", func(c *Counts) float64 { return c.Ejections })
	add(total, "udp_sessions_total", "UDP sessions begun.", func(c *Counts) float64 { return c.Opened })
	add(total, "udp_dropped_total", "UDP datagrams dropped for want of an endpoint, a session or file descriptors.", func(c *Counts) float64 { return c.Dropped })
	add(total, "udp_datagrams_total", "UDP datagrams passed on, both ways.", func(c *Counts) float64 { return c.Datagrams })
	add(total, "from_clients_bytes_total", "Bytes from clients to endpoints.", func(c *Counts) float64 { return c.FromClients })
	add(total, "to_clients_bytes_total", "Bytes from endpoints to clients.", func(c *Counts) float64 { return c.ToClients })
	add(total, "spliced_bytes_total", "Bytes, both ways, that stayed in the kernel.", func(c *Counts) float64 { return c.Spliced })
	r.MustRegister(m)
	return m
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, v := range m.values {
		out <- v.desc
	}
	out <- m.failed
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	c := m.read()
	for _, v := range m.values {
		out <- prometheus.MustNewConstMetric(v.desc, v.kind, v.of(&c))
	}
	for reason, n := range c.Failures {
		out <- prometheus.MustNewConstMetric(m.failed, prometheus.CounterValue, n, reason)
	}
}
