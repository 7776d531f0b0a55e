//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
)

// TestIPVSSchedulerDefault wants --ipvs-scheduler to be that of Services that ask
// for none, or for one that is not there, and no other.
func TestIPVSSchedulerDefault(t *testing.T) {
	b := newIPVSBed(t, "--ipvs-scheduler=wlc")
	wants := []string{
		"-s wlc ", "-s rr ", "-s wlc ", "-s wrr ", "-s sh -b sh-fallback ", "-s mh -b mh-fallback,mh-port ", "-s sh -b sh-fallback,sh-port ",
	}
	var pools []pool
	for i, a := range []map[string]string{
		nil, ours("rr", ""), ours("fastest", ""), ours("wrr", "sh-port"), ours("sh", "sh-ports"),
		routers("mh", "flag-2"), routers("sh", "sh-port"),
	} {
		pools = append(pools, newPool(1+i, a, weighted()...))
	}
	b.beginPools(t, pools...)
	for i, p := range pools {
		for _, x := range at(p.ip, p.port) {
			if got := b.server(t, x); !strings.HasPrefix(got, wants[i]) {
				t.Errorf("%s at %v: got %q, want %q", p.name, x, got, wants[i])
			}
		}
	}
	b.wantProblem(t, "web-3", "InvalidValue", `fastest`)
	b.wantProblem(t, "web-4", "InvalidValue", `is a flag of sh, not of wrr`)
	b.wantProblem(t, "web-5", "InvalidValue", `is not a flag`)
	for _, p := range pools {
		l := b.newLoad(t, p, 0)
		l.must(t, 10)
		if err := l.alive(t); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		l.letGo(-1)
	}
	b.changedScheduler(t, pools)
}

// changedScheduler changes the scheduler of the first Service, which has open
// connections.
func (b *bed) changedScheduler(t *testing.T, pools []pool) {
	t.Helper()
	l := b.newLoad(t, pools[0], 0)
	l.must(t, 10)
	for _, name := range []string{"fo", "mh", "lblc", "wrr"} {
		pools[0].annotations = ours(name, "")
		b.applyPools(t, pools...)
		if got := b.server(t, l.dst); !strings.HasPrefix(got, "-s "+name+" ") {
			t.Errorf("%v: got %q, want %s now", l.dst, got, name)
		}
		if err := l.alive(t); err != nil {
			t.Errorf("with %s from now on: %v", name, err)
		}
	}
	had := l.counts()
	l.must(t, 10)
	if got := minus(l.counts(), had); !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("at last it is wrr: got %v, want 1 2 3 4", got)
	}
}

// TestIPVSSchedulerUnknown wants a scheduler that cannot be the default to end the
// start with one clear line, and nothing to be written.
func TestIPVSSchedulerUnknown(t *testing.T) {
	b := newIPVSBed(t)
	wants := map[string]string{"fastest": `--ipvs-scheduler: unknown scheduler "fastest"; valid: `}
	b.beginPools(t)
	b.stop(t)
	b.run(t, b.program.Path+" cleanup")
	for _, name := range []string{"twos", "ovf", "fo"} { // not everywhere
		if !b.hasScheduler(t, name) {
			wants[name] = "--ipvs-scheduler: the kernel has no scheduler " + name + " (modprobe ip_vs_" + name + "); it has: "
		}
	}
	b.putPools(t, newPool(1, nil, "1", "2"))
	for name, want := range wants {
		b.args = []string{"--ipvs-scheduler=" + name}
		b.start(t)
		b.wantRefusal(t, name, want)
		if got := b.run(t, "ipvsadm -Sn"); got != "" {
			t.Errorf("%s: it wrote %q", name, got)
		}
	}
}

// wantRefusal wants fairlead to end with an exit code and one line.
func (b *bed) wantRefusal(t *testing.T, name, want string) {
	t.Helper()
	select {
	case <-b.proxy.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: fairlead runs\n%s", name, b.proxy.Tail(10))
	}
	var exit *exec.ExitError
	if err := b.proxy.Wait(); !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		t.Errorf("%s: it ended with %v, want an exit code", name, err)
	}
	var lines []string
	for line := range strings.Lines(b.proxy.Output()) {
		if !strings.Contains(line, "level=INFO") {
			lines = append(lines, strings.ReplaceAll(strings.TrimSpace(line), `\"`, `"`))
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], want) {
		t.Errorf("%s: it said %q, want one line with %q", name, lines, want)
	}
}

// A start is what became of the first connections after one, in each family.
type start struct {
	order  [2][]int // the endpoints of four connections, by turns
	maglev [2][]int // those of some clients
}

// TestIPVSSchedulerHerd starts fairlead on what is another node each time: they
// must not all send their first connections to one endpoint, and one node must do
// the same every time. Hashing is for all nodes to agree.
func TestIPVSSchedulerHerd(t *testing.T) {
	b := newIPVSBed(t)
	pools := []pool{newPool(1, nil, equal(4)...), newPool(2, ours("mh", "mh-fallback"), equal(4)...)}
	names := []string{"n1", "worker-a", "worker-b", "worker-c", "worker-d", "worker-e", "worker-f", "worker-g", "n1"}
	starts := make([]start, len(names))
	for i, name := range names {
		b.args = []string{"--hostname-override=" + name}
		b.beginPools(t, pools...)
		for family := range 2 {
			sources := b.clientAddrs(t, 12, family)
			starts[i].maglev[family] = b.newLoad(t, pools[1], family).endsOf(t, sources, false)
			l := b.newLoad(t, pools[0], family)
			starts[i].order[family] = l.endsOf(t, sources[:4], false)
		}
		b.stop(t)
		b.run(t, b.program.Path+" cleanup")
	}
	for family := range 2 {
		first := make([]int, 4)
		for i, s := range starts {
			first[s.order[family][0]]++
			if sorted := slices.Sorted(slices.Values(s.order[family])); !slices.Equal(sorted, []int{0, 1, 2, 3}) {
				t.Errorf("%s: four connections came to %v", names[i], s.order[family])
			}
			if got, want := s.maglev[family], starts[0].maglev[family]; !slices.Equal(got, want) {
				t.Errorf("%s: clients are hashed to %v, on %s to %v", names[i], got, names[0], want)
			}
		}
		t.Logf("first connections of %d nodes: %v", len(names), first)
		if slices.Max(first) > 5 {
			t.Errorf("the first connections of %d nodes came to endpoints %v times", len(names), first)
		}
		if got, want := starts[len(names)-1].order[family], starts[0].order[family]; !slices.Equal(got, want) {
			t.Errorf("%s: got %v and before %v", names[0], got, want)
		}
	}
}

// TestIPVSSchedulerEvent wants a Service that asks for a scheduler the kernel lacks,
// or for none that is known, to get an Event.
func TestIPVSSchedulerEvent(t *testing.T) {
	b := newIPVSBed(t)
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	lacking, unknown, good := newPool(1, ours("twos", ""), "", "2"), newPool(2, routers("fastest", ""), "", "2"), newPool(3, ours("wrr", ""), "", "2")
	b.beginPools(t, lacking, unknown, good)
	want := []world.Problem{{Kind: "Service", Object: service.Name{Namespace: "default", Name: unknown.name}, Reason: "InvalidValue"}}
	if !b.hasScheduler(t, "twos") {
		want = append(want, world.Problem{Kind: "Service", Object: service.Name{Namespace: "default", Name: lacking.name}, Reason: "DataplaneDeviation"})
	}
	within(t, 10*time.Second, func() error {
		got, err := api.Problems(t.Context(), b.proxy)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range want {
			if !slices.Contains(got, p) {
				return fmt.Errorf("Events: got %v, want %v among them", got, p)
			}
		}
		for _, p := range got {
			if p.Object.Name == good.name {
				t.Errorf("a Service without a fault got an Event: %v", p)
			}
		}
		return nil
	})
	for _, p := range []pool{lacking, unknown, good} {
		l := b.newLoad(t, p, 0)
		l.must(t, 6)
		if got, want := l.counts(), []int{2, 4}; p.name == good.name && !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", p.name, got, want)
		}
		l.letGo(-1)
	}
}

// TestIPVSFlagStrictARP wants the parameters to be set if asked for, and left
// alone if not.
func TestIPVSFlagStrictARP(t *testing.T) {
	b := newIPVSBed(t)
	keys := []string{"net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce"}
	for _, c := range []struct{ arg, ignore, announce string }{
		{"--ipvs-strict-arp=false", "0", "0"},
		{"--ipvs-strict-arp", "1", "2"},
	} {
		b.args = []string{c.arg}
		b.beginPools(t, newPool(1, nil, "1"))
		for i, want := range []string{c.ignore, c.announce} {
			got, err := b.N1.Sysctl(keys[i])
			if err != nil || got != want {
				t.Errorf("%s: %s is %q, %v, want %s", c.arg, keys[i], got, err, want)
			}
		}
		l := b.newLoad(t, newPool(1, nil, "1"), 0)
		l.must(t, 2)
		l.letGo(-1)
		b.stop(t)
	}
}

// TestIPVSFlagTimeouts wants the timeouts of IPVS to be what the flags say, and
// else those of connection tracking.
func TestIPVSFlagTimeouts(t *testing.T) {
	b := newIPVSBed(t)
	// What connection tracking has, by fairlead's own flags for it.
	tracked := []string{"--conntrack-tcp-timeout-established=2h", "--conntrack-udp-timeout-stream=100s"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{tracked, "7200 120 100"},
		{slices.Concat(tracked, []string{"--ipvs-tcp-timeout=700s", "--ipvs-tcpfin-timeout=50s", "--ipvs-udp-timeout=40s"}), "700 50 40"},
		{slices.Concat(tracked, []string{"--ipvs-udp-timeout=1500ms"}), "7200 50 2"},
	} {
		b.args = c.args
		b.beginPools(t, newPool(1, nil, "1"))
		got := strings.TrimSpace(b.run(t, "ipvsadm -L --timeout"))
		if want := "Timeout (tcp tcpfin udp): " + c.want; got != want {
			t.Errorf("%s: got %q, want %q", strings.Join(c.args, " "), got, want)
		}
		l := b.newLoad(t, newPool(1, nil, "1"), 0)
		l.must(t, 1)
		b.wantTimer(t, l, strings.Fields(c.want)[0])
		l.letGo(-1)
		b.stop(t)
	}
}

// wantTimer wants the only established connection to be remembered for so many
// seconds, or as good as.
func (b *bed) wantTimer(t *testing.T, l *load, seconds string) {
	t.Helper()
	var want int
	fmt.Sscan(seconds, &want)
	for line := range strings.Lines(b.run(t, "ipvsadm -Lnc")) {
		words := strings.Fields(line) // TCP 119:59 ESTABLISHED 198.51.100.1:40000 10.96.2.1:80 10.244.1.2:8101
		if len(words) < 5 || words[2] != "ESTABLISHED" || words[4] != l.dst.String() {
			continue
		}
		var minutes, rest int
		if _, err := fmt.Sscanf(words[1], "%d:%d", &minutes, &rest); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if got := 60*minutes + rest; got > want || got < want-10 {
			t.Errorf("a connection is remembered for %d s, want %d", got, want)
		}
		return
	}
	t.Errorf("there is no connection to %v", l.dst)
}

// TestIPVSFlagPeriods wants --ipvs-sync-period to be when fairlead finds out what
// somebody else has done, and --ipvs-min-sync-period the longest a change waits.
func TestIPVSFlagPeriods(t *testing.T) {
	b := newIPVSBed(t, "--ipvs-sync-period=2s", "--ipvs-min-sync-period=1500ms")
	p := newPool(1, nil, equal(2)...)
	b.beginPools(t, p)
	x := at(p.ip, p.port)[0]
	want := b.server(t, x)
	b.run(t, "ipvsadm -D -t "+x.String())
	took := within(t, 10*time.Second, func() error {
		if got := b.server(t, x); got != want {
			return fmt.Errorf("a server that somebody removed: got %q, want %q", got, want)
		}
		return nil
	})
	t.Logf("repaired after %v", took.Round(10*time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("repaired after %v, want twice the period at most", took)
	}
	for i := range 4 {
		begin := time.Now()
		b.applyPools(t, p.without(i%2))
		if took := time.Since(begin); took > 1500*time.Millisecond+2*time.Second {
			t.Errorf("change %d waited for %v, want less than 1.5 s and what it takes", i, took)
		}
	}
	if r := probe(t, b.Client, x); r.Class != netns.Reply {
		t.Error(r)
	}
}
