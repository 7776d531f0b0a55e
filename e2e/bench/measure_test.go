//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/google/go-cmp/cmp"
)

func TestFindPositions(t *testing.T) {
	v := func(i int) string { return vip(i).Addr().String() }
	tests := []struct {
		name  string
		rules []string
		want  []int // Services; nil is an error
	}{
		{name: "none", rules: []string{"-A PREROUTING -j X"}},
		{name: "foreign addresses only", rules: []string{"-A X -d 10.244.1.1/32 -j Y", "-A X -d 10.96.0.0/28 -j Y"}},
		{
			name: "any chain, each once, no probes",
			rules: []string{
				":A - [0:0]", "-A A -d " + v(4) + "/32 -p tcp -j P", "-A A -d " + v(9) + "/32 -p tcp -j P",
				"-A B ! -s 10.244.0.0/16 -d " + v(4) + "/32 -j M", "-A B -d " + v(0) + "/32 -j P", "-A C -d " + v(2) + "/32 -j P",
			},
			want: []int{4, 0, 2},
		},
		{
			name: "KUBE-SERVICES goes before others",
			rules: []string{
				"-A AAA -d " + v(1) + "/32 -j P",
				"-A KUBE-SERVICES -d " + v(3) + "/32 -p tcp -j P", "-A KUBE-SERVICES -d " + v(2) + "/32 -p tcp -j P",
			},
			want: []int{3, 2, 2},
		},
	}
	for _, tt := range tests {
		got, err := findPositions(strings.Join(tt.rules, "\n"), 5)
		if tt.want == nil {
			if err == nil {
				t.Errorf("%s: got %v, want an error", tt.name, got)
			}
			continue
		}
		if want := (positions{vip(tt.want[0]), vip(tt.want[1]), vip(tt.want[2])}); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, want)
		}
	}
}

func TestServiceAt(t *testing.T) {
	for _, i := range []int{0, 1, 245, 246, 9999, maxServices - 1} {
		if got := serviceAt(vip(i).Addr()); got != i {
			t.Errorf("serviceAt(%v) = %d, want %d", vip(i), got, i)
		}
	}
	if got := serviceAt(liveAddr(20)); got != -1 {
		t.Errorf("serviceAt(%v) = %d, want -1", liveAddr(20), got)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	tests := []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, math.NaN()},
		{[]float64{7}, 0.01, 7},
		{hundred, 0.01, 1},
		{hundred, 0.5, 50},
		{hundred, 1, 100},
	}
	for _, tt := range tests {
		got := quantile(tt.values, tt.q)
		if got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("quantile(%d values, %v) = %v, want %v", len(tt.values), tt.q, got, tt.want)
		}
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median = %v, want 2.5", got)
	}
}

func TestHierarchies(t *testing.T) {
	tests := []struct {
		name, mountinfo, cgroups string
		want                     map[string]string
	}{
		{
			name:      "unified",
			mountinfo: "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
			cgroups:   "0::/user.slice/x.scope\n",
			want:      map[string]string{"": "/sys/fs/cgroup/user.slice/x.scope"},
		},
		{
			name: "old ones, two controllers in one",
			mountinfo: "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n22 1 0:5 / /proc rw - proc proc rw\n",
			cgroups: "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/c\n",
			want: map[string]string{
				"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory/a/b",
			},
		},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, hierarchies(tt.mountinfo, tt.cgroups)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestParseStat(t *testing.T) {
	fields := "S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 5 0 77"
	got, err := parseStatCPU("12 (a b) c) " + fields)
	if want := 1270 * time.Millisecond; err != nil || got != want {
		t.Errorf("parseStatCPU = %v, %v, want %v", got, err, want)
	}
	if _, err := parseStatCPU("12 (x) S 1"); err == nil {
		t.Error("parseStatCPU of a short line: no error")
	}
	m, err := parseMachine("cpu  100 1 50 1000 9 2 3 4 60 0\ncpu0 1 2\n")
	want := machine{busy: 1600 * time.Millisecond, total: 11690 * time.Millisecond}
	if err != nil || m != want {
		t.Errorf("parseMachine = %v, %v, want %v", m, err, want)
	}
}

func TestParseMemory(t *testing.T) {
	got, err := parseMemory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
	if want := (memory{resident: 1 << 20, peak: 2 << 20}); err != nil || got != want {
		t.Errorf("parseMemory = %v, %v, want %v", got, err, want)
	}
	if _, err := parseMemory("Name:\tzombie\n"); err == nil {
		t.Error("parseMemory of a zombie: no error")
	}
}

// TestMeter burns CPU time in a child and in its child, and wants to see both.
func TestMeter(t *testing.T) {
	m, why := newMeter("test")
	if why != nil {
		t.Skipf("no cgroup: %v", why)
	}
	burn := `i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done`
	args := append([]string{"-c", joinScript, "sh"}, m.joins()...)
	args = append(args, "--", "/bin/sh", "-c", burn+"; sh -c '"+burn+"'; true")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := m.cpu()
	if err != nil {
		t.Fatal(err)
	}
	usage := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // waited-for children included
	if got < usage/2 || got > 2*usage {
		t.Errorf("the meter saw %v, wait(2) %v", got, usage)
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
	for _, file := range m.joins() {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", file, err)
		}
	}
}

func TestFigure(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0.00", 0.0123: "0.012", 0.5: "0.500", 1: "1.00", 9.999: "10.0", 12.34: "12.3", 123.4: "123", 45678: "45678",
	} {
		if got := figure(x); got != want {
			t.Errorf("figure(%v) = %s, want %s", x, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	b := &bench{
		options:  options{mode: modeIptables, endpoints: 5, rate: 20, rounds: 2},
		subjects: []subject{{name: kubeProxyName}, {name: fairleadName}},
		remarks:  []string{"something was left out"},
	}
	for round, cold := range []float64{2, 4} {
		k := &outcome{Proxy: kubeProxyName, Variant: legacy, Services: 10_000, Round: round + 1}
		k.add(coldAll, cold)
		f := &outcome{Proxy: fairleadName, Variant: legacy, Services: 10_000, Round: round + 1}
		f.add(coldAll, cold/4)
		b.outcomes = append(b.outcomes, k, f)
	}
	b.outcomes[1].problem(errors.New("churn: gave up"))
	var out strings.Builder
	if err := writeMarkdown(&out, b, environment{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### 10,000 Services × 5 endpoints, iptables-legacy",
		"| cold start to all Services, s | 3.00 (2.00–4.00) | 0.750 (0.500–1.00) | 0.250 |",
		"| one change: CPU, ms | – | – | – |",
		"fairlead, round 1, did not finish: churn: gave up.",
		"something was left out.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, &out)
		}
	}
}

func TestParseFlags(t *testing.T) {
	o, err := parseFlags([]string{"-n", "200,1000", "-variants", "nft", "-quick", "-rounds", "2"})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{o.services, o.variants, o.rounds, o.flips, o.proxies}
	want := []any{[]int{200, 1000}, []variant{nft}, 2, 4, []string{"kube-proxy", "fairlead"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	for _, args := range [][]string{{"-n", "0"}, {"-n", "x"}, {"-variants", "both"}, {"-churn", "1s"}, {"-rounds", "0"}} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// TestWatcher looks at a black hole until it becomes an endpoint.
func TestWatcher(t *testing.T) {
	n := testNetwork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dead := netip.AddrPortFrom(deadAddr(0), targetPort)
	w := watcher{
		targets: []netip.AddrPort{otherTarget(), dead},
		every:   time.Millisecond, patience: 50 * time.Millisecond, timeout: 100 * time.Millisecond,
	}
	answered, err := w.run(ctx, n.pod.NS)
	if err != nil {
		t.Fatal(err)
	}
	if got := []bool{answered[0].IsZero(), answered[1].IsZero()}; got[0] || !got[1] {
		t.Fatalf("silent: endpoint %v, black hole %v, want false, true", got[0], got[1])
	}

	w.targets, w.timeout = []netip.AddrPort{dead}, 5*time.Second
	var done sync.WaitGroup
	done.Go(func() { answered, err = w.run(ctx, n.pod.NS) })
	changed := time.Now()
	if err := n.cluster.Router.AddAddr("lo", netip.PrefixFrom(dead.Addr(), 32)); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if took := answered[0].Sub(changed); took < 0 || took > 2*time.Second {
		t.Errorf("the change was seen after %v", took)
	}
}

func TestConnectAll(t *testing.T) {
	n := testNetwork(t)
	good := &path{network: n, target: otherTarget()}
	bad := &path{network: n, target: netip.AddrPortFrom(otherTarget().Addr(), 1)} // refused
	if err := connectAll(t.Context(), []*path{bad, good}, 60); err != nil {
		t.Fatal(err)
	}
	if got := len(good.result); got != 60 || good.err != nil {
		t.Errorf("%d connections timed, error %v, want 60 and none", got, good.err)
	}
	if bad.err == nil {
		t.Error("a closed port was connected to")
	}
}

func testNetwork(t *testing.T) *network {
	t.Helper()
	if err := netns.Usable(); err != nil {
		t.Skip(err)
	}
	n, err := newNetwork(spec{Services: 1, Endpoints: 1}, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
