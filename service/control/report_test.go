package control_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

// A recorder keeps level and message of what is logged at Info and above.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler           { return r }
func (r *recorder) WithGroup(string) slog.Handler                { return r }
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, rec.Level.String()+" "+rec.Message)
	return nil
}

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestLogsEdgesOnly(t *testing.T) {
	logs := &recorder{}
	run(t, control.Config{Log: slog.New(logs)}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Minute)
		r.plane.set(func() { r.plane.fail["sync"] = 5 })
		r.add(1)
		r.sleep(10 * time.Minute)
		r.add(2)
		r.sleep(time.Second)
	})
	want := []string{"INFO first sync done", "ERROR sync failed", "INFO sync works again"}
	if d := cmp.Diff(logs.lines, want); d != "" {
		t.Errorf("log (-got +want):\n%s", d)
	}
}

func TestHealthFollowsTheLoop(t *testing.T) {
	health := control.NewHealth(time.Minute, nil)
	check := func(when string, want bool) {
		t.Helper()
		if got := health.Healthy(); got != want {
			t.Errorf("%s: healthy is %t, want %t", when, got, want)
		}
	}
	run(t, control.Config{Health: health}, func(r *rig) {
		r.sleep(time.Hour)
		check("waiting for the sources", true)
		r.loop.Synced()
		r.sleep(time.Hour)
		check("nothing to do", true)

		r.plane.set(func() { r.plane.fail["sync"] = 1000 })
		r.add(1)
		r.sleep(59 * time.Second)
		check("a change not in force for less than a minute", true)
		r.add(2)
		r.sleep(2 * time.Second)
		check("the oldest change not in force for more than a minute", false)
		r.plane.set(func() { r.plane.fail["sync"] = 0 })
		r.sleep(time.Minute)
		check("in force at last", true)

		r.plane.set(func() { r.plane.took = time.Hour })
		r.sleep(2 * time.Minute)
		check("an audit that hangs", false)
	})
}

func TestProblemsAreToldOnce(t *testing.T) {
	var got []string
	cfg := control.Config{Problems: func(ps []service.Problem) {
		for _, p := range ps {
			got = append(got, p.Reason+" "+p.String())
		}
	}}
	run(t, cfg, func(r *rig) {
		deviation := service.Deviation{Port: service.PortID{Service: name(1)}, Reason: "cannot"}
		r.plane.set(func() { r.plane.report = service.Report{Deviations: []service.Deviation{deviation, deviation}} })
		r.loop.Synced()
		r.add(1)
		r.sleep(time.Minute)
		r.add(2)
		r.sleep(time.Minute)
		r.plane.set(func() { r.plane.report = service.Report{} })
		r.add(3)
		r.sleep(time.Minute)
		r.plane.set(func() { r.plane.report = service.Report{Deviations: []service.Deviation{deviation}} })
		r.add(4)
		r.sleep(time.Minute)
	})
	const line = "DataplaneDeviation Service default/s1: default/s1/tcp/IPv4: cannot"
	if d := cmp.Diff(got, []string{line, line}); d != "" {
		t.Errorf("problems (-got +want):\n%s", d)
	}
}

// TestDeviationIsOneProblem: what all ports of a Service lack is told once, about
// the object the API server knows, whether syncs say it or audits.
func TestDeviationIsOneProblem(t *testing.T) {
	var got []service.Problem
	cfg := control.Config{SyncPeriod: 10 * time.Second, Problems: func(ps []service.Problem) { got = append(got, ps...) }}
	const reason = "the kernel has no scheduler twos; rr is used"
	var all []service.Deviation
	for _, f := range []service.Family{service.IPv6, service.IPv4} {
		for _, port := range []string{"http", "dns"} {
			all = append(all, service.Deviation{Port: service.PortID{Service: name(1), Port: port, Family: f}, Reason: reason})
		}
	}
	other := service.Deviation{Port: service.PortID{Service: name(1), Port: "http"}, Reason: "no SCTP"}
	here := service.Deviation{Port: service.PortID{Service: name(1), Port: "http"}, Reason: "somebody has it", Here: true}
	unknown := service.Deviation{Port: service.PortID{Service: name(9)}, Reason: reason}
	run(t, cfg, func(r *rig) {
		r.plane.set(func() { r.plane.report = service.Report{Deviations: append(all, other, here, unknown)} })
		r.update(func(s *service.Store) bool {
			v := svc(1)
			v.UID = "u1"
			return s.SetService(v)
		})
		r.loop.Synced()
		for n := range 10 {
			r.add(2 + n)
			r.sleep(time.Minute)
		}
	})
	object := service.Object{Kind: "Service", Name: name(1), UID: "u1"}
	problem := func(o service.Object, message string) service.Problem {
		return service.Problem{Object: o, Reason: "DataplaneDeviation", Message: message}
	}
	want := []service.Problem{
		problem(object, "default/s1:http/tcp/IPv4: no SCTP"),
		{Object: object, Reason: control.ReasonNodeDeviation, Message: "default/s1:http/tcp/IPv4: somebody has it"},
		problem(object, "default/s1:dns/tcp/IPv4 and others: "+reason),
		problem(service.Object{Kind: "Service", Name: name(9)}, "default/s9/tcp/IPv4: "+reason),
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("problems (-got +want):\n%s", d)
	}
}

func TestStaleComesAfterSuccess(t *testing.T) {
	got := make(chan *service.Stale, 10)
	run(t, control.Config{Stale: func(s *service.Stale) { got <- s }}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		r.add(1)
		r.sleep(time.Second)
		if len(got) != 1 {
			t.Fatalf("%d clean-ups after the first Service, want 1", len(got))
		}
		<-got
		r.plane.set(func() { r.plane.fail["sync"] = 1 })
		r.change(1, 3)
		r.sleep(50 * time.Millisecond)
		if len(got) != 0 {
			t.Fatalf("%d clean-ups after a failed sync, want none", len(got))
		}
		r.sleep(time.Second)
		if len(got) != 1 {
			t.Fatalf("%d clean-ups after the retry, want 1", len(got))
		}
		stale, vip := <-got, svc(1).ClusterIPs[0]
		for host, want := range map[int]bool{2: true, 3: false} {
			orphan := stale.Orphan(service.ConntrackFlow{
				Protocol: service.UDP,
				OrigDst:  netip.AddrPortFrom(vip, 53),
				ReplySrc: netip.AddrPortFrom(slice(1, host).Endpoints[0].Addr(), 53),
			})
			if orphan != want {
				t.Errorf("flow to endpoint %d: orphan is %t, want %t", host, orphan, want)
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	metrics := control.NewMetrics(reg, "v1")
	run(t, control.Config{Metrics: metrics, SyncPeriod: time.Hour}, func(r *rig) {
		r.plane.repairs = true
		triggered := func(n, host int, at time.Time) {
			r.update(func(s *service.Store) bool {
				v := slice(n, host)
				v.Triggered = at
				return s.SetSlice(v)
			})
		}
		r.update(func(s *service.Store) bool { return s.SetService(svc(1)) })
		triggered(1, 2, time.Now().Add(-time.Hour)) // before we started
		r.loop.Synced()
		r.sleep(time.Second)
		r.plane.set(func() { r.plane.fail["sync"] = 2 })
		triggered(1, 3, time.Now())
		r.sleep(50 * time.Millisecond)
		if got := value(t, reg, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", ""); got != 1 {
			t.Errorf("pending endpoint changes %g, want 1", got)
		}
		r.sleep(100 * time.Millisecond)
		triggered(1, 4, time.Now())
		r.sleep(time.Second)
		r.update(func(s *service.Store) bool { return s.SetSlice(slice(99, 2)) }) // no such Service
		r.sleep(130 * time.Minute)                                                // two audits, whatever the jitter
	})
	metrics.ObserveConntrack(service.IPv6, time.Second, 7)
	for _, tt := range []struct {
		name, label string
		want        float64
	}{
		{"kubeproxy_sync_proxy_rules_duration_seconds", "IPv4", 2},
		{"kubeproxy_sync_proxy_rules_duration_seconds", "IPv6", 2},
		{"kubeproxy_sync_partial_proxy_rules_duration_seconds", "IPv4", 2},
		{"kubeproxy_network_programming_duration_seconds", "IPv4", 2},
		{"fairlead_network_programming_duration_seconds", "", 2},
		{"kubeproxy_sync_proxy_rules_service_changes_total", "", 1},
		{"kubeproxy_sync_proxy_rules_endpoint_changes_total", "", 4},
		{"kubeproxy_sync_proxy_rules_service_changes_pending", "", 0},
		{"kubeproxy_sync_proxy_rules_endpoint_changes_pending", "", 0},
		{"kubeproxy_conntrack_reconciler_deleted_entries_total", "IPv6", 7},
		{"kubeproxy_conntrack_reconciler_sync_duration_seconds", "IPv6", 1},
		{"fairlead_sync_total", "ok", 2},
		{"fairlead_sync_total", "error", 2},
		{"fairlead_audit_repairs_total", "", 2},
		{"fairlead_build_info", "v1", 1},
	} {
		if got := value(t, reg, tt.name, tt.label); got != tt.want {
			t.Errorf("%s{%s} = %g, want %g", tt.name, tt.label, got, tt.want)
		}
	}
	queued := value(t, reg, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "IPv4")
	synced := value(t, reg, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "IPv4")
	if queued == 0 || synced <= queued || synced > queued+1 {
		t.Errorf("last queued at %f, last synced at %f, want the sync shortly after", queued, synced)
	}
}

func TestNoLocalEndpoints(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	run(t, control.Config{Metrics: control.NewMetrics(reg, "")}, func(r *rig) {
		r.update(func(s *service.Store) bool {
			v := svc(1)
			v.Internal, v.External = service.Local, service.Local
			v.Ports[0].NodePort = 30053
			return s.SetNode(service.Node{Name: "n1"}) && s.SetService(v)
		})
		place := func(node string) {
			r.update(func(s *service.Store) bool {
				v := slice(1, 2)
				v.Endpoints[0].Node = node
				return s.SetSlice(v)
			})
			r.sleep(time.Second)
		}
		r.loop.Synced()
		for _, tt := range []struct {
			node string
			want float64
		}{{"n2", 1}, {"n1", 0}, {"n3", 1}} {
			place(tt.node)
			for _, policy := range []string{"internal", "external"} {
				if got := value(t, reg, "kubeproxy_sync_proxy_rules_no_local_endpoints_total", policy); got != tt.want {
					t.Errorf("endpoint on %s: %s = %g, want %g", tt.node, policy, got, tt.want)
				}
			}
		}
		r.update(func(s *service.Store) bool { return s.DeleteService(name(1)) })
		r.sleep(time.Second)
		if got := value(t, reg, "kubeproxy_sync_proxy_rules_no_local_endpoints_total", "external"); got != 0 {
			t.Errorf("without the Service: %g, want 0", got)
		}
	})
}

// value returns the value of the metric with the label, or the number of
// observations of a histogram.
func value(t *testing.T, g prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Errorf("no metric %s{%s}", name, label)
	return 0
}
