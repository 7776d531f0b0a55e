//go:build linux

package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
)

func TestParseFlagsUserspace(t *testing.T) {
	o, err := parseFlags([]string{"-mode", "userspace", "-load", "1s"})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{o.mode, o.rounds, o.load, o.soak}
	want := []any{modeUserspace, 3, time.Second, time.Duration(0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	for _, args := range [][]string{
		{"-soak", "1m"}, {"-mode", "userspace", "-soak", "1s"}, {"-mode", "userspace", "-load", "1ms"},
		{"-mode", "userspace", "-kernel", "uml"}, {"-mode", "userspace", "-loads", "pong"}, {"-mode", "userspace", "-soak-rate", "1"},
	} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestSpent(t *testing.T) {
	var got sample
	from := expense{machine: machine{10 * time.Second, 100 * time.Second}, whole: time.Second, proxy: time.Second / 2}
	to := expense{machine: machine{13 * time.Second, 104 * time.Second}, whole: 3 * time.Second, proxy: time.Second}
	got.spent(from, to, load.Result{Operations: 1000, Elapsed: 2 * time.Second, Slowest: time.Millisecond})
	want := sample{Rate: 500, Whole: 0.002, Proxy: 0.0005, Foreign: 25, Slowest: 0.001}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spent (-want +got):\n%s", diff)
	}
}

func TestReportUserspace(t *testing.T) {
	c := &contest{options: options{userspaceOptions: userspaceOptions{load: time.Second, loads: pathLoads()}}, rounds: 3}
	add := func(rival string, whole ...float64) {
		for i, w := range whole {
			c.samples = append(c.samples, sample{
				Rival: rival, Scenario: scenarios()[0].String(), Kind: load.Ping.String(), Round: i + 1,
				Rate: 1e4, Whole: w * 1e-6, Proxy: w * 1e-7, Foreign: 10,
			})
		}
	}
	add(userspaceName, 30, 20, 25)
	add(haproxyName, 50, 20, 60)
	add(iptablesName, 10)
	c.samples[4].Failed, c.samples[4].Why, c.samples[4].Slowest = 7, "reset", 1.02
	var out strings.Builder
	if err := writeContest(&out, c, environment{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### TCP, client outside, 1 endpoint\n",
		"\"HAProxy, tracked\" does the same",
		"CPU of the whole path, µs per request | 25.0 (20.0–30.0) | 50.0 (20.0–60.0) | 0.500 | 1.00 | – | – | – | – | – | – | 10.0 | 2.50 | 2.00 |\n",
		"CPU of the proxy, µs per request | 2.50 (2.00–3.00) | 5.00 (2.00–6.00) | 0.500 | 1.00 | – | – | – | – | – | – | – | – | – |\n",
		"HAProxy, client outside, 1 endpoint, ping: the slowest answer took 1.02 s; 7 connections failed (reset).\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, &out)
		}
	}
}

// TestArenaService has a manifest be what the API says it is.
func TestArenaService(t *testing.T) {
	a := netip.MustParseAddr
	text := arenaService{
		name: "x", cluster: clusterIP(1), external: externalIP(1), ports: loadPorts(),
		ready: []netip.Addr{a("10.244.1.3")}, leaving: []netip.Addr{a("10.244.1.4")},
	}.manifest()
	first, second, _ := strings.Cut(text, "---\n")
	var svc corev1.Service
	var slice discoveryv1.EndpointSlice
	if err := yaml.UnmarshalStrict([]byte(first), &svc); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(second), &slice); err != nil {
		t.Fatal(err)
	}
	got := []any{svc.Spec.ClusterIP, svc.Spec.ExternalIPs, len(svc.Spec.Ports), len(slice.Ports)}
	want := []any{"10.96.0.11", []string{"203.0.113.11"}, 3, 3}
	for _, e := range slice.Endpoints {
		got = append(got, e.Addresses[0], *e.Conditions.Ready, *e.Conditions.Terminating)
	}
	want = append(want, "10.244.1.3", true, false, "10.244.1.4", false, true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
}

func TestHAProxyConfig(t *testing.T) {
	got := haproxyConfig([]netip.Addr{netip.MustParseAddr("10.244.1.3"), netip.MustParseAddr("10.244.1.4"),
		netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("10.244.1.6")}, "")
	for want, times := range map[string]int{
		"listen bulk-4\n  bind 203.0.113.14:8082\n  server s0 10.244.1.3:8082\n": 1,
		"option splice-": 3, "\n  bind ": 6, "\n  server ": 15,
	} {
		if n := strings.Count(got, want); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", want, n, times, got)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics(strings.NewReader("# HELP go_goroutines Number.\ngo_goroutines 12\nx{a=\"b c\"} 3\nbytes_total 1.5e+06\n"))
	want := map[string]float64{"go_goroutines": 12, "bytes_total": 1.5e6}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if _, err := parseMetrics(strings.NewReader("x y\n")); err == nil {
		t.Error("no number: got no error")
	}
}

// TestJudge has soaks end well and badly.
func TestJudge(t *testing.T) {
	soaked := func(change func(s *soak)) (string, error) {
		s := &soak{options: options{userspaceOptions: userspaceOptions{soak: 100 * time.Second}}, changes: 1}
		for i := range 101 {
			s.samples = append(s.samples, growth{at: time.Duration(i) * time.Second, goroutines: 100, descriptors: 100, resident: 40e6})
		}
		s.short.made.Add(1)
		s.udp.made.Add(1)
		s.long.bytes.Add(1)
		change(s)
		var out strings.Builder
		err := s.judge(&out)
		return out.String(), err
	}
	out, err := soaked(func(s *soak) { s.samples[99].goroutines = 1000 }) // once is no growth
	if want := "| goroutines | 100 | 100 | 100 | 100 | 1.00 | 100 |\n"; err != nil || !strings.Contains(out, want) {
		t.Errorf("got error %v, want none, and %q in:\n%s", err, want, out)
	}
	for want, change := range map[string]func(s *soak){
		"RSS, MB grew from 40.0 to 60.0":      func(s *soak) { grow(s, func(g *growth) { g.resident = 60e6 }) },
		"goroutines grew from 100 to 131":     func(s *soak) { grow(s, func(g *growth) { g.goroutines = 131 }) },
		"1 short connections failed":          func(s *soak) { s.short.failed.Add(1) },
		"a part of the load was not made":     func(s *soak) { s.changes = 0 },
		"open descriptors grew from 100 to 2": func(s *soak) { grow(s, func(g *growth) { g.descriptors = 200 }) },
	} {
		if _, err := soaked(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

// grow changes the samples of the second half.
func grow(s *soak, change func(*growth)) {
	for i := 50; i < len(s.samples); i++ {
		change(&s.samples[i])
	}
}
