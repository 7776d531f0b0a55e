package stats

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/l7/certs"
)

// Describe sends what there can be.
func (s *Stats) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range s.defs.list {
		ch <- f.desc
	}
}

// Collect sends what there is.
func (s *Stats) Collect(ch chan<- prometheus.Metric) {
	e := &emitter{defs: s.defs, ch: ch}
	src := s.src.Load()
	s.collectRules(e)
	s.collectClients(e, src)
	s.collectAnswers(e, src)
	collectEndpoints(e, src)
	collectConfig(e, src)
	collectCertificates(e, src)
}

// An emitter sends metrics by their names.
type emitter struct {
	defs *definitions
	ch   chan<- prometheus.Metric
}

func (e *emitter) number(name string, v float64, labels ...string) {
	d := e.defs.byName[name]
	e.ch <- prometheus.MustNewConstMetric(d.desc, d.kind.value(), v, valid(labels)...)
}

// valid changes values that Prometheus does not take: it would panic.
func valid(labels []string) []string {
	for i, l := range labels {
		if !utf8.ValidString(l) {
			labels[i] = strings.ToValidUTF8(l, "�")
		}
	}
	return labels
}

func (e *emitter) count(name string, v uint64, labels ...string) {
	e.number(name, float64(v), labels...)
}

// times sends a histogram of durations.
func (e *emitter) times(name string, counts *[numTimes]uint64, sum uint64, labels ...string) {
	buckets := make(map[float64]uint64, numTimes-1)
	var n uint64
	for i, b := range timeBounds() {
		n += counts[i]
		buckets[b.Seconds()] = n
	}
	n += counts[numTimes-1]
	e.ch <- prometheus.MustNewConstHistogram(e.defs.byName[name].desc, n, time.Duration(sum).Seconds(), buckets, valid(labels)...)
}

// sizes sends a histogram of bytes.
func (e *emitter) sizes(name string, counts *[numSizes]uint64, sum uint64, labels ...string) {
	buckets := make(map[float64]uint64, numSizes-1)
	var n uint64
	for i, b := range sizeBounds() {
		n += counts[i]
		buckets[float64(b)] = n
	}
	n += counts[numSizes-1]
	e.ch <- prometheus.MustNewConstHistogram(e.defs.byName[name].desc, n, float64(sum), buckets, valid(labels)...)
}

func (s *Stats) collectRules(e *emitter) {
	// A Rule is either among the rules or in what is folded, so a size never counts twice or goes back.
	s.mu.Lock()
	classes := make(map[string]*totals, len(s.folded)+1)
	for class, t := range s.folded {
		c := *t
		classes[class] = &c
	}
	rules := make([]*Rule, 0, len(s.rules)+1)
	for _, r := range s.rules {
		rules = append(rules, r)
	}
	s.mu.Unlock()
	e.number("rules", float64(len(rules)))
	for _, r := range append(rules, s.other) {
		t := r.totals()
		if t.count() == 0 {
			continue
		}
		e.rule(&r.key, t)
		c := classes[r.key.Class]
		if c == nil {
			c = new(totals)
			classes[r.key.Class] = c
		}
		c.add(t)
	}
	for class, t := range classes {
		e.sizes("request_size_bytes", &t.inSize, t.in, class)
		e.sizes("response_size_bytes", &t.outSize, t.out, class)
	}
}

func (e *emitter) rule(k *Key, t *totals) {
	methods, codes := methodNames(), codeNames()
	for m := range t.requests {
		for c, n := range t.requests[m] {
			if n > 0 {
				e.count("requests_total", n, k.Namespace, k.Ingress, k.Service, k.Class, methods[m], codes[c])
			}
		}
	}
	labels := []string{k.Namespace, k.Ingress, k.Service, k.Class}
	e.times("request_duration_seconds", &t.duration, t.durationSum, labels...)
	if t.upstream != [numTimes]uint64{} {
		e.times("upstream_duration_seconds", &t.upstream, t.upstreamSum, labels...)
	}
	e.count("request_bytes_total", t.in, labels...)
	e.count("response_bytes_total", t.out, labels...)
}

func (s *Stats) collectClients(e *emitter, src *Sources) {
	if src.Listeners != nil {
		for _, l := range byListener(src.Listeners()) {
			e.count("connections_total", l.Accepted, l.Name)
			for reason, n := range l.Refused {
				e.count("connections_refused_total", n, l.Name, reason)
			}
			for reason, n := range l.Cut {
				e.count("connections_cut_total", n, l.Name, reason)
			}
			e.number("connections_open", float64(l.Open), l.Name)
			for protocol, n := range l.Protocols {
				e.count("connection_protocols_total", n, l.Name, protocol)
			}
		}
	}
	if h := src.H1; h != nil {
		e.count("connections_unused_total", h.Idle.Load())
		e.count("connections_truncated_total", h.Truncated.Load())
		e.count("received_bytes_total", h.Bytes.Load())
	}
	for v, name := range versionNames() {
		for r, resumed := range [...]string{"false", "true"} {
			if n := s.Handshakes.done[v][r].Load(); n > 0 {
				e.count("tls_handshakes_total", n, name, resumed)
			}
		}
	}
	e.count("tls_handshake_failures_total", s.Handshakes.failed.Load())
	if src.HandshakesBusy != nil {
		e.count("tls_handshakes_busy_total", src.HandshakesBusy())
	}
}

// byListener makes one of those with the same name, such as a port that is open for both families: no series may be told twice.
func byListener(list []Listener) []Listener {
	var out []Listener
	for _, l := range list {
		i := slices.IndexFunc(out, func(o Listener) bool { return o.Name == l.Name })
		if i < 0 {
			l.Protocols, l.Refused, l.Cut = maps.Clone(l.Protocols), maps.Clone(l.Refused), maps.Clone(l.Cut)
			out = append(out, l)
			continue
		}
		o := &out[i]
		o.Accepted, o.Open = o.Accepted+l.Accepted, o.Open+l.Open
		o.Protocols, o.Refused, o.Cut = plus(o.Protocols, l.Protocols), plus(o.Refused, l.Refused), plus(o.Cut, l.Cut)
	}
	return out
}

// plus adds b to a.
func plus(a, b map[string]uint64) map[string]uint64 {
	if a == nil {
		return maps.Clone(b)
	}
	for name, n := range b {
		a[name] += n
	}
	return a
}

func (s *Stats) collectAnswers(e *emitter, src *Sources) {
	e.number("requests_in_flight", float64(s.InFlight.Load()))
	refused := map[string]uint64{}
	if src.H1 != nil {
		for reason, n := range src.H1.Refused() {
			refused[reason] += n
		}
	}
	if src.Refused != nil {
		for reason, n := range src.Refused() {
			refused[reason] += n
		}
	}
	for reason, n := range refused {
		e.count("requests_refused_total", n, reason)
	}
	for reason, n := range s.Answers.All() {
		e.count("answers_total", n, reason)
	}
	e.count("retries_total", s.Retries.Load())
	e.count("panics_total", s.Panics.Load())
	if src.AccessLog != nil {
		written, dropped := src.AccessLog()
		e.count("access_log_lines_total", written)
		e.count("access_log_dropped_total", dropped)
	}
}

func collectEndpoints(e *emitter, src *Sources) {
	if src.Endpoints != nil {
		states := map[string]int{}
		for ep := range src.Endpoints() {
			states[EndpointState(&ep)]++
		}
		for _, state := range endpointStates() {
			e.number("endpoints", float64(states[state]), state)
		}
	}
	if src.Ejections != nil {
		e.count("endpoint_ejections_total", src.Ejections())
	}
	if u := src.Upstream; u != nil {
		e.count("upstream_requests_total", u.Requests.Load())
		e.count("upstream_dials_total", u.Dials.Load())
		e.count("upstream_dial_errors_total", u.DialErrors.Load())
		e.count("upstream_reused_total", u.Reused.Load())
		e.count("upstream_stale_total", u.Stale.Load())
		e.count("upstream_unexpected_total", u.Unexpected.Load())
		e.count("upstream_expired_total", u.Expired.Load())
		e.count("upstream_aborted_total", u.Aborted.Load())
		e.count("upstream_spliced_bytes_total", u.Spliced.Load())
		e.number("upstream_connections_idle", float64(u.Idle.Load()))
		e.number("upstream_connections_active", float64(u.Active.Load()))
		e.number("tunnels", float64(u.Tunnels.Load()))
	}
}

func collectConfig(e *emitter, src *Sources) {
	if src.Config == nil {
		return
	}
	c := src.Config()
	e.count("config_generation", c.Generation)
	if !c.Applied.IsZero() {
		e.number("config_applied_timestamp_seconds", float64(c.Applied.UnixMilli())/1e3)
	}
	e.number("config_compile_seconds", c.Compile.Seconds())
	e.number("config_objects", float64(c.Hosts), "hosts")
	e.number("config_objects", float64(c.Routes), "routes")
	e.number("config_objects", float64(c.Ingresses), "ingresses")
	e.number("config_objects", float64(c.Backends), "backends")
	e.number("config_problems", float64(c.Problems))
}

// A hostExpiry is when the first of a host's certificates ends.
type hostExpiry struct {
	host string
	end  time.Time
}

func collectCertificates(e *emitter, src *Sources) {
	if src.Certificates == nil {
		return
	}
	seen := make(map[*certs.Pair]struct{})
	var hosts []hostExpiry
	for _, h := range src.Certificates() {
		x := hostExpiry{host: h.Host}
		for _, p := range h.Pairs {
			if p.Certificate.Leaf == nil {
				continue
			}
			seen[p] = struct{}{}
			if end := p.Certificate.Leaf.NotAfter; x.end.IsZero() || end.Before(x.end) {
				x.end = end
			}
		}
		if !x.end.IsZero() {
			hosts = append(hosts, x)
		}
	}
	e.number("certificates", float64(len(seen)))
	slices.SortFunc(hosts, func(a, b hostExpiry) int {
		return cmp.Or(a.end.Compare(b.end), cmp.Compare(a.host, b.host))
	})
	if len(hosts) == 0 {
		return
	}
	e.number("certificate_first_expiry_timestamp_seconds", float64(hosts[0].end.Unix()))
	for _, h := range hosts[:min(len(hosts), max(0, cmp.Or(src.MaxCertificates, 20)))] {
		e.number("certificate_expiry_timestamp_seconds", float64(h.end.Unix()), h.host)
	}
}
