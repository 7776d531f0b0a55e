package stats

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// prefix is in front of all names.
const prefix = "fairlead_l7_"

// A definition is what is known of a metric before there are numbers.
type definition struct {
	group  string
	name   string // without prefix
	kind   kind
	labels []string
	help   string
	desc   *prometheus.Desc
}

type kind uint8

const (
	counter kind = iota
	gauge
	histogram
)

func (k kind) String() string { return [...]string{"counter", "gauge", "histogram"}[k] }

func (k kind) value() prometheus.ValueType {
	if k == counter {
		return prometheus.CounterValue
	}
	return prometheus.GaugeValue
}

// definitions are all metrics by name, and in the order in which they are documented.
type definitions struct {
	list   []*definition
	byName map[string]*definition
}

func newDefinitions() *definitions {
	d := &definitions{byName: make(map[string]*definition)}
	d.ofRules()
	d.ofClients()
	d.ofAnswers()
	d.ofEndpoints()
	d.ofConfig()
	return d
}

func (d *definitions) group(group string, list ...definition) {
	for i := range list {
		f := &list[i]
		f.group = group
		f.desc = prometheus.NewDesc(prefix+f.name, f.help, f.labels, nil)
		d.list = append(d.list, f)
		d.byName[f.name] = f
	}
}

func (d *definitions) ofRules() {
	rule := func(more ...string) []string {
		return append([]string{"namespace", "ingress", "service", "class"}, more...)
	}
	d.group("Requests by rule",
		definition{name: "requests_total", kind: counter, labels: rule("method", "code"),
			help: "Requests that are over, by class of method and of status code."},
		definition{name: "request_duration_seconds", kind: histogram, labels: rule(),
			help: "Time from a request's head to the end of its answer."},
		definition{name: "upstream_duration_seconds", kind: histogram, labels: rule(),
			help: "Time that endpoints took, for requests that came to one."},
		definition{name: "request_bytes_total", kind: counter, labels: rule(), help: "Bytes of requests' bodies."},
		definition{name: "response_bytes_total", kind: counter, labels: rule(), help: "Bytes of answers' bodies."})
	d.group("Sizes by class",
		definition{name: "request_size_bytes", kind: histogram, labels: []string{"class"}, help: "Sizes of requests' bodies."},
		definition{name: "response_size_bytes", kind: histogram, labels: []string{"class"}, help: "Sizes of answers' bodies."})
}

func (d *definitions) ofClients() {
	d.group("Connections of clients",
		definition{name: "connections_total", kind: counter, labels: []string{"listener"}, help: "Connections accepted."},
		definition{name: "connections_refused_total", kind: counter, labels: []string{"listener", "reason"},
			help: "Connections closed at once, by reason."},
		definition{name: "connections_cut_total", kind: counter, labels: []string{"listener", "reason"},
			help: "Connections ended early because there were too many or nearly, by what they were doing."},
		definition{name: "connections_open", kind: gauge, labels: []string{"listener"}, help: "Connections that are open."},
		definition{name: "connection_protocols_total", kind: counter, labels: []string{"listener", "protocol"},
			help: "Connections by what is spoken on them."},
		definition{name: "connections_unused_total", kind: counter, help: "Connections of HTTP/1 that never asked anything."},
		definition{name: "connections_truncated_total", kind: counter,
			help: "Connections of HTTP/1 whose clients left in the middle of a request."},
		definition{name: "received_bytes_total", kind: counter, help: "Bytes that came on connections of HTTP/1, heads included."},
		definition{name: "tls_handshakes_total", kind: counter, labels: []string{"version", "resumed"}, help: "TLS handshakes that succeeded."},
		definition{name: "tls_handshake_failures_total", kind: counter, help: "TLS handshakes that failed."},
		definition{name: "tls_handshakes_busy_total", kind: counter, help: "TLS handshakes refused because too many were waiting for their turn."})
}

func (d *definitions) ofAnswers() {
	d.group("Requests and our own answers",
		definition{name: "requests_in_flight", kind: gauge, help: "Requests that are being served, tunnels included."},
		definition{name: "requests_refused_total", kind: counter, labels: []string{"reason"}, help: "Requests that broke a rule of the wire."},
		definition{name: "answers_total", kind: counter, labels: []string{"reason"},
			help: "Answers that were not a backend's, by reason: redirects, limits, authentication, no endpoints."},
		definition{name: "retries_total", kind: counter, help: "Tries after the first."},
		definition{name: "panics_total", kind: counter, help: "Panics that were caught; each is a mistake in fairlead."},
		definition{name: "access_log_lines_total", kind: counter, help: "Lines of the access log that were written."},
		definition{name: "access_log_dropped_total", kind: counter, help: "Lines of the access log that were dropped because its reader is too slow or fails."})
}

func (d *definitions) ofEndpoints() {
	d.group("Endpoints",
		definition{name: "endpoints", kind: gauge, labels: []string{"state"}, help: "Endpoints by how they are."},
		definition{name: "endpoint_ejections_total", kind: counter, help: "Endpoints taken out for failures."},
		definition{name: "upstream_requests_total", kind: counter, help: "Requests sent to endpoints."},
		definition{name: "upstream_dials_total", kind: counter, help: "Connections to endpoints that were attempted."},
		definition{name: "upstream_dial_errors_total", kind: counter, help: "Connections to endpoints that failed."},
		definition{name: "upstream_reused_total", kind: counter, help: "Requests to endpoints on a kept connection."},
		definition{name: "upstream_stale_total", kind: counter, help: "Kept connections that were found closed when one was wanted."},
		definition{name: "upstream_unexpected_total", kind: counter, help: "Kept connections on which came what nobody had asked for."},
		definition{name: "upstream_expired_total", kind: counter, help: "Kept connections closed for their age or idleness."},
		definition{name: "upstream_aborted_total", kind: counter, help: "Requests to endpoints that the client has given up."},
		definition{name: "upstream_spliced_bytes_total", kind: counter, help: "Bytes of answers that the kernel has moved by itself."},
		definition{name: "upstream_connections_idle", kind: gauge, help: "Connections to endpoints that are kept."},
		definition{name: "upstream_connections_active", kind: gauge, help: "Connections to endpoints with a request."},
		definition{name: "tunnels", kind: gauge, help: "Tunnels that are open, such as WebSockets."})
}

func (d *definitions) ofConfig() {
	d.group("Configuration and certificates",
		definition{name: "config_generation", kind: gauge, help: "Number of the configuration in force; each change adds one."},
		definition{name: "config_applied_timestamp_seconds", kind: gauge, help: "When the configuration in force was put there."},
		definition{name: "config_compile_seconds", kind: gauge, help: "Time that the last change of the configuration took."},
		definition{name: "config_objects", kind: gauge, labels: []string{"kind"}, help: "What is in force: hosts, routes, ingresses, backends."},
		definition{name: "config_problems", kind: gauge, help: "Problems of the configuration that somebody should look at."},
		definition{name: "rules", kind: gauge, help: "Rules with metrics of their own; beyond 10000 they share those of _other."},
		definition{name: "certificates", kind: gauge, help: "Certificates in force."},
		definition{name: "certificate_first_expiry_timestamp_seconds", kind: gauge, help: "When the first of all certificates in force ends."},
		definition{name: "certificate_expiry_timestamp_seconds", kind: gauge, labels: []string{"host"},
			help: "When a host's certificate ends, for the hosts whose end comes first."})
}

// markdown returns docs/l7-metrics.md.
func (d *definitions) markdown() string {
	var b strings.Builder
	b.WriteString(documentHead)
	group := ""
	for _, f := range d.list {
		if f.group != group {
			group = f.group
			fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n", group)
		}
		labels := "-"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s |\n", prefix, f.name, f.kind, labels, f.help)
	}
	b.WriteString(documentTail)
	return b.String()
}

const documentHead = `# Metrics of L7

<!-- Made from the definitions in l7/stats; a test keeps it equal. -->

` + "`fairlead l7`" + ` serves these at ` + "`/metrics`" + ` beside those of Go and of the process. A series is there once there is something to tell: an
Ingress that nobody has asked has none.
`

const documentTail = `
## Values of labels

* ` + "`namespace`, `ingress`, `service`" + `: of the rule that counted, and of its backend; ` + "`class`" + ` is the IngressClass. There are at most
  10000 such combinations; what is beyond is counted under ` + "`_other`" + ` in all four. Those which exist no more go some minutes after
  their last request. Neither hosts nor paths are labels: clients could make any number of them.
* ` + "`method`: `read`" + ` (GET, HEAD, OPTIONS, TRACE), ` + "`write`" + ` (POST, PUT, PATCH, DELETE), ` + "`other`" + `.
* ` + "`code`: `1xx` … `5xx`; `aborted`" + ` when the client has gone (499 in the access log), ` + "`none`" + ` when there was no answer.
* ` + "`state`: `used`, `slow-start`" + `; ` + "`trial`" + ` (a request decides whether it is good again), ` + "`ejected`" + ` (too many failures), ` + "`unhealthy`" + ` (active checks
  fail), ` + "`leaving`" + ` (only for the sessions it has), ` + "`unused`" + ` (others are preferred).
* ` + "`reason`" + ` of answers: the same words as in the access log, such as ` + "`no-endpoints`, `rate-limited`, `auth-failed`, `https-redirect`" + `.
* ` + "`reason`" + ` of refused connections: ` + "`full`" + ` (--max-connections, and nobody was idle), ` + "`client`" + ` (--max-connections-per-client), ` + "`proxy`" + ` (no good
  PROXY header). Of those that were cut: ` + "`room`" + ` (the one that was idle longest, for a new one), ` + "`idle`, `head`, `handshake`" + ` (more than
  three quarters of the connections are in use, and it took too long).
* ` + "`host`" + `: the 20 hosts whose certificates end first. The empty host is the default certificate.

## What to watch

* ` + "`fairlead_l7_certificate_first_expiry_timestamp_seconds - time() < 7*86400`" + `: a certificate is not being renewed.
* ` + "`increase(fairlead_l7_panics_total[5m]) > 0`" + `: please report it.
* ` + "`fairlead_l7_config_problems > 0`" + `: the status page and Events say which.
* ` + "`rate(fairlead_l7_access_log_dropped_total[5m]) > 0`" + `: what collects the log is too slow.
* ` + "`sum by (ingress) (rate(fairlead_l7_requests_total{code=\"5xx\"}[5m])) / sum by (ingress) (rate(fairlead_l7_requests_total[5m]))`" + `: share of errors.
`
