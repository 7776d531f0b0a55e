package stats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/h1"
	"github.com/fairlead-project/fairlead/l7/upstream"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

func TestDocument(t *testing.T) {
	want := newDefinitions().markdown()
	golden.File(t, filepath.Join("..", "..", "docs", "l7-metrics.md"), want)
	for _, s := range endpointStates() {
		if !strings.Contains(want, "`"+s+"`") {
			t.Errorf("the state %s is not explained", s)
		}
	}
}

// gather returns all numbers by name and labels, histograms by their _count, _sum and buckets.
func gather(t *testing.T, s *Stats) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), prefix) + labels(m)
			switch {
			case m.Counter != nil:
				out[name] = m.Counter.GetValue()
			case m.Gauge != nil:
				out[name] = m.Gauge.GetValue()
			default:
				out[name+" count"] = float64(m.Histogram.GetSampleCount())
				out[name+" sum"] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					out[fmt.Sprintf("%s <=%v", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return out
}

func labels(m *dto.Metric) string {
	var list []string
	for _, l := range m.Label {
		list = append(list, l.GetName()+"="+l.GetValue())
	}
	if len(list) == 0 {
		return ""
	}
	return "{" + strings.Join(list, ",") + "}"
}

func expect(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok || v != want[name] {
			t.Errorf("%s: got %v (there: %v), want %v", name, v, ok, want[name])
		}
	}
}

func TestRules(t *testing.T) {
	s := New()
	r := s.Rule(Key{"shop", "web", "front", "nginx"})
	s.Rule(Key{"shop", "idle", "front", "nginx"})
	r.Observe(200, "GET", 3*time.Millisecond, 2*time.Millisecond, 0, 5000)
	r.Observe(201, "POST", 2*time.Second, 0, 2000, 0)
	r.Observe(200, "GET", time.Minute, 90*time.Millisecond, 0, 20<<20)
	got := gather(t, s)
	const l = "class=nginx,ingress=web,namespace=shop,service=front}"
	expect(t, got, map[string]float64{
		"requests_total{class=nginx,code=2xx,ingress=web,method=read,namespace=shop,service=front}":  2,
		"requests_total{class=nginx,code=2xx,ingress=web,method=write,namespace=shop,service=front}": 1,
		"request_duration_seconds{" + l + " count":                                                   3,
		"request_duration_seconds{" + l + " sum":                                                     62.003,
		"request_duration_seconds{" + l + " <=0.001":                                                 0,
		"request_duration_seconds{" + l + " <=0.005":                                                 1,
		"request_duration_seconds{" + l + " <=2.5":                                                   2,
		"request_duration_seconds{" + l + " <=10":                                                    2,
		"upstream_duration_seconds{" + l + " count":                                                  2,
		"upstream_duration_seconds{" + l + " <=0.005":                                                1,
		"upstream_duration_seconds{" + l + " <=0.1":                                                  2,
		"request_bytes_total{" + l:                                                                   2000,
		"response_bytes_total{" + l:                                                                  20<<20 + 5000,
		"response_size_bytes{class=nginx} count":                                                     3,
		"response_size_bytes{class=nginx} <=1024":                                                    1,
		"response_size_bytes{class=nginx} <=10240":                                                   2,
		"response_size_bytes{class=nginx} sum":                                                       20<<20 + 5000,
		"request_size_bytes{class=nginx} <=10240":                                                    3,
		"rules": 2,
	})
	for name := range got {
		if strings.Contains(name, "idle") {
			t.Errorf("%s: nobody has asked that Ingress", name)
		}
	}
}

// TestDropKeepsClasses looks whether what is told by class never goes back.
func TestDropKeepsClasses(t *testing.T) {
	s := New()
	for i := range 3 {
		s.Rule(key(i)).Observe(200, "GET", 1, 1, 10, 10)
	}
	none := func(Key) bool { return false }
	s.Drop(none)
	if n := s.Drop(none); n != 0 {
		t.Fatalf("%d rules remain", n)
	}
	s.Rule(key(9)).Observe(200, "GET", 1, 1, 10, 10)
	for range 2 { // telling it changes nothing
		expect(t, gather(t, s), map[string]float64{
			"request_size_bytes{class=nginx} count": 4, "request_size_bytes{class=nginx} sum": 40, "response_size_bytes{class=nginx} <=1024": 4, "rules": 1,
		})
	}
}

func endpoints(list ...balance.EndpointStatus) iter.Seq[balance.EndpointStatus] {
	return slices.Values(list)
}

func pair(end time.Time) *certs.Pair {
	return &certs.Pair{Certificate: tls.Certificate{Leaf: &x509.Certificate{NotAfter: end}}}
}

// everything is Stats in which each metric has something to tell.
func everything() *Stats {
	s := New()
	s.Rule(key(0)).Observe(200, "GET", 1, 1, 10, 10)
	s.InFlight.Store(4)
	s.Retries.Store(5)
	s.Panics.Store(6)
	s.Answers.Add("no-endpoints")
	s.Answers.Add("no-endpoints")
	s.Answers.Add("")
	s.Handshakes.Done(&tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true})
	s.Handshakes.Done(&tls.ConnectionState{Version: tls.VersionTLS12})
	s.Handshakes.Done(&tls.ConnectionState{Version: 0x9999})
	s.Handshakes.Failed()
	gates, client := new(h1.Stats), new(upstream.Stats)
	gates.Bytes.Store(77)
	client.Requests.Store(88)
	client.Tunnels.Store(2)
	now := time.Unix(1_800_000_000, 0)
	shared := pair(now.Add(2 * time.Hour))
	s.SetSources(Sources{
		H1: gates, Upstream: client,
		Listeners: func() []Listener {
			return []Listener{{Name: "https", Accepted: 10, Refused: map[string]uint64{"client": 1}, Cut: map[string]uint64{"room": 4}, Open: 3, Protocols: map[string]uint64{"h2": 7}}}
		},
		Endpoints: func() iter.Seq[balance.EndpointStatus] {
			return endpoints(
				balance.EndpointStatus{Used: true, SlowStart: 1}, balance.EndpointStatus{Used: true, SlowStart: 0.2}, balance.EndpointStatus{SlowStart: 1},
				balance.EndpointStatus{Used: true, Ejected: 1, SlowStart: 1}, balance.EndpointStatus{Ejected: 1, Trial: true}, balance.EndpointStatus{CheckErr: errors.New("x"), Ejected: 1},
				balance.EndpointStatus{Leaving: true, CheckErr: errors.New("x")})
		},
		Ejections:      func() uint64 { return 9 },
		HandshakesBusy: func() uint64 { return 11 },
		AccessLog:      func() (uint64, uint64) { return 100, 12 },
		Refused: func() iter.Seq2[string, uint64] {
			return maps.All(map[string]uint64{"bad-line": 1, "h2-only": 2})
		},
		Config: func() Config {
			return Config{Generation: 3, Applied: now, Compile: 1500 * time.Microsecond, Hosts: 1, Routes: 2, Ingresses: 3, Backends: 4, Problems: 5}
		},
		MaxCertificates: 2,
		Certificates: func() []certs.HostStatus {
			return []certs.HostStatus{
				{Pairs: []*certs.Pair{pair(now.Add(90 * time.Hour))}},
				{Host: "late", Pairs: []*certs.Pair{pair(now.Add(time.Hour * 24))}},
				{Host: "b", Pairs: []*certs.Pair{shared, pair(now.Add(3 * time.Hour))}},
				{Host: "a", Pairs: []*certs.Pair{shared}},
				{Host: "none"},
			}
		},
	})
	return s
}

func TestSources(t *testing.T) {
	got := gather(t, everything())
	expect(t, got, map[string]float64{
		"requests_in_flight": 4, "retries_total": 5, "panics_total": 6, "answers_total{reason=no-endpoints}": 2,
		"tls_handshakes_total{resumed=true,version=1.3}": 1, "tls_handshakes_total{resumed=false,version=1.2}": 1, "tls_handshakes_total{resumed=false,version=other}": 1,
		"tls_handshake_failures_total": 1, "tls_handshakes_busy_total": 11,
		"connections_total{listener=https}": 10, "connections_refused_total{listener=https,reason=client}": 1, "connections_cut_total{listener=https,reason=room}": 4, "connections_open{listener=https}": 3,
		"connection_protocols_total{listener=https,protocol=h2}": 7, "received_bytes_total": 77,
		"endpoints{state=used}": 1, "endpoints{state=slow-start}": 1, "endpoints{state=unused}": 1, "endpoints{state=ejected}": 1,
		"endpoints{state=trial}": 1, "endpoints{state=unhealthy}": 1, "endpoints{state=leaving}": 1, "endpoint_ejections_total": 9,
		"upstream_requests_total": 88, "tunnels": 2, "access_log_lines_total": 100, "access_log_dropped_total": 12,
		"requests_refused_total{reason=h2-only}": 2,
		"config_generation":                      3, "config_applied_timestamp_seconds": 1_800_000_000, "config_compile_seconds": 0.0015,
		"config_objects{kind=hosts}": 1, "config_objects{kind=routes}": 2, "config_objects{kind=ingresses}": 3, "config_objects{kind=backends}": 4, "config_problems": 5,
		"certificates": 4, "certificate_first_expiry_timestamp_seconds": 1_800_007_200,
		"certificate_expiry_timestamp_seconds{host=a}": 1_800_007_200, "certificate_expiry_timestamp_seconds{host=b}": 1_800_007_200,
	})
	n := 0
	for name := range got {
		if strings.HasPrefix(name, "certificate_expiry") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d hosts' certificates have a metric, want 2", n)
	}
}

// TestEveryMetric looks whether everything that is documented exists.
func TestEveryMetric(t *testing.T) {
	got := gather(t, everything())
	for _, d := range newDefinitions().list {
		there := false
		for name := range got {
			there = there || name == d.name || strings.HasPrefix(name, d.name+"{") || strings.HasPrefix(name, d.name+" ")
		}
		if !there {
			t.Errorf("nothing tells %s", d.name)
		}
		if (d.kind == counter) != strings.HasSuffix(d.name, "_total") || !strings.HasSuffix(d.help, ".") {
			t.Errorf("%s, a %s: %q", d.name, d.kind, d.help)
		}
	}
}

// TestOddValues looks whether what would make a whole scrape fail does not.
func TestOddValues(t *testing.T) {
	s := New()
	s.Rule(Key{"\xff", "a\nb", "", "\xfe"}).Observe(200, "GET", 1, 1, 0, 0)
	s.Answers.Add("\xc0")
	s.SetSources(Sources{Listeners: func() []Listener {
		return []Listener{
			{Name: "http", Accepted: 1, Refused: map[string]uint64{"full": 2}, Open: 3}, {Name: "https", Accepted: 100},
			{Name: "http", Accepted: 10, Refused: map[string]uint64{"full": 20, "client": 5}, Cut: map[string]uint64{"idle": 7}, Open: 30, Protocols: map[string]uint64{"h2": 5}}, {Name: "http", Protocols: map[string]uint64{"h2": 6}},
		}
	}})
	expect(t, gather(t, s), map[string]float64{
		"requests_total{class=�,code=2xx,ingress=a\nb,method=read,namespace=�,service=}": 1, "answers_total{reason=�}": 1,
		"connections_total{listener=http}": 11, "connections_refused_total{listener=http,reason=full}": 22,
		"connections_refused_total{listener=http,reason=client}": 5, "connections_cut_total{listener=http,reason=idle}": 7, "connections_open{listener=http}": 33,
		"connection_protocols_total{listener=http,protocol=h2}": 11, "connections_total{listener=https}": 100,
	})
}

func TestWithoutSources(t *testing.T) {
	got := gather(t, New())
	expect(t, got, map[string]float64{"requests_in_flight": 0, "panics_total": 0, "rules": 0})
	if _, ok := got["upstream_requests_total"]; ok {
		t.Error("there is a metric of what nobody has said")
	}
}

func TestReasonsAreBounded(t *testing.T) {
	var r Reasons
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				r.Add(fmt.Sprintf("reason-%d", (i+w)%500))
			}
		})
	}
	wg.Wait()
	n, sum := 0, uint64(0)
	for _, v := range r.All() {
		n++
		sum += v
	}
	if n > maxReasons+1 || n < maxReasons || sum != 4000 {
		t.Errorf("%d reasons with %d in all, want at most %d with 4000", n, sum, maxReasons+1)
	}
	for range r.All() {
		break // must not panic
	}
}

// BenchmarkCollect is a scrape of as many rules as there can be.
func BenchmarkCollect(b *testing.B) {
	s := New()
	for i := range MaxRules {
		s.Rule(key(i)).Observe(200, "GET", time.Millisecond, time.Millisecond, 1, 1)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
