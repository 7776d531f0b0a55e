//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// failure is the metric of attempts to connect that failed for a reason.
func failure(reason string) string {
	return fmt.Sprintf("fairlead_userspace_connect_failures_total{reason=%q}", reason)
}

const (
	failures  = "fairlead_userspace_connect_failures_total"
	retries   = "fairlead_userspace_retries_total"
	exhausted = "fairlead_userspace_exhausted_total"
	ejected   = "fairlead_userspace_ejected_endpoints"
	ejections = "fairlead_userspace_ejections_total"
)

// metrics reads several metrics.
func (b *bed) metrics(t *testing.T, names ...string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for _, n := range names {
		out[n] = b.metric(t, n)
	}
	return out
}

// deaf has a pod drop what is sent to a TCP port, until the function that is
// returned is called.
func (b *bed) deaf(t *testing.T, d netns.Dual, port uint16) (hear func()) {
	t.Helper()
	change := func(verb string) {
		t.Helper()
		for _, name := range []string{"iptables-", "ip6tables-"} {
			args := strings.Fields(fmt.Sprintf("-w %s INPUT -p tcp --dport %d -j DROP", verb, port))
			if _, err := b.place(t, d).Output(t.Context(), name+b.variant, args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	change("-A")
	return func() { change("-D") }
}

// cutOff has n1 know that a pod cannot be reached.
func (b *bed) cutOff(t *testing.T, d netns.Dual) {
	t.Helper()
	b.place(t, d)
	for i, a := range d.Slice() {
		b.run(t, fmt.Sprintf("ip -%d route replace unreachable %v", []int{4, 6}[i], a))
	}
}

// callers are a pod, the node and somebody outside, with the addresses of a Service.
func (b *bed) callers(t *testing.T, f fixture) []target {
	t.Helper()
	var out []target
	for _, from := range []*netns.NS{b.place(t, pod(9)), b.N1.NS, b.Client} {
		out = append(out, both(from, f.ip, f.port)...)
	}
	return append(out, both(b.Client, netns.NodeAddr(1), f.nodePort)...)
}

// callAll has every caller call n times, all at once, and returns what became of it.
func callAll(t *testing.T, n int, callers []target) []netns.Result {
	t.Helper()
	out := make([]netns.Result, n*len(callers))
	var wg sync.WaitGroup
	for i := range out {
		x := callers[i%len(callers)]
		wg.Go(func() {
			out[i] = x.from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 30 * time.Second})
		})
	}
	wg.Wait()
	return out
}

// TestUserspaceFailover has a Service of which most endpoints do not connect, each
// in another way. Nobody who calls notices, except that it takes longer; and who
// calls a Service that has no other endpoints is told soon.
func TestUserspaceFailover(t *testing.T) {
	eachUserspace(t, failover, "--userspace-eject-outliers=false")
}

func failover(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	b.place(t, pod(3)) // refuses
	b.deaf(t, pod(4), 8080)
	b.cutOff(t, pod(5))
	mixed, dead, refusing := web(1, 2, 3, 4, 5), web(2, 3, 4, 5), web(3, 3)
	b.begin(t, mixed, dead, refusing)
	reasons := []string{failure("refused"), failure("timeout"), failure("unreachable"), failure("other")}
	all := append([]string{failures, retries, exhausted}, reasons...)

	before := b.metrics(t, all...)
	for i, r := range callAll(t, 8, b.callers(t, mixed)) {
		if err := answeredBy(pod(2), 8080)(r); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	after := b.metrics(t, all...)
	grown := func(name string) float64 { return after[name] - before[name] }
	t.Logf("64 calls: %v retries; refused %v, timeout %v, unreachable %v", grown(retries), grown(reasons[0]), grown(reasons[1]), grown(reasons[2]))
	// Each of the others is the first choice of a quarter of them.
	for _, name := range reasons[:3] {
		if grown(name) < 12 {
			t.Errorf("%s grew by %v, want 12 or more", name, grown(name))
		}
	}
	if grown(retries) != grown(failures) || grown(exhausted) != 0 || grown(reasons[3]) != 0 {
		t.Errorf("got %v retries and %v exhausted for %v failures, %v of them for other reasons; want one for each, and none",
			grown(retries), grown(exhausted), grown(failures), grown(reasons[3]))
	}

	for _, c := range []struct {
		f     fixture
		limit time.Duration // one endpoint that does not answer, and a busy machine
	}{{dead, 15 * time.Second}, {refusing, 10 * time.Second}} {
		before = b.metrics(t, exhausted)
		slowest := time.Duration(0)
		for i, r := range callAll(t, 1, b.callers(t, c.f)) {
			if r.Class != netns.Closed && r.Class != netns.Refused || r.Elapsed > c.limit {
				t.Errorf("%s, call %d: got %v, want it reset within %v", c.f.name, i, r, c.limit)
			}
			slowest = max(slowest, r.Elapsed)
		}
		t.Logf("%s: all reset after %v", c.f.name, slowest.Round(time.Millisecond))
		if got := b.metric(t, exhausted) - before[exhausted]; got != 8 {
			t.Errorf("%s: %s grew by %v, want 8", c.f.name, exhausted, got)
		}
	}
}

// TestUserspaceEjection has an endpoint refuse until it is left out, and then serve
// until it is asked again.
func TestUserspaceEjection(t *testing.T) { eachUserspace(t, ejection) }

// outAtFirst is how long an endpoint is left out the first time.
const outAtFirst = 10 * time.Second

func ejection(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	b.place(t, pod(3))
	f := web(1, 2, 3)
	b.begin(t, f)
	served := func(by ...netns.Dual) (n int) {
		t.Helper()
		for _, x := range both(b.Client, f.ip, f.port) {
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 30 * time.Second})
			for _, d := range by {
				if answeredBy(d, 8080)(r) == nil {
					n++
				}
			}
			if r.Class != netns.Reply {
				t.Errorf("%v: %v", x.dst, r)
			}
		}
		return n
	}
	calls := 0
	within(t, time.Minute, func() error {
		served(pod(2))
		calls++
		if n := b.metric(t, ejected); n != 2 { // it is one endpoint of each family
			return fmt.Errorf("after %d calls, %v endpoints are left out, want 2", calls, n)
		}
		return nil
	})
	out := time.Now()
	t.Logf("left out after %d calls in each family and %v failures", calls, b.metric(t, failures))
	if n := b.metric(t, failures); n != 10 {
		t.Errorf("left out after %v failures, want five in each family", n)
	}
	for range 10 {
		served(pod(2))
	}
	if got := b.metric(t, failures); got != 10 && time.Since(out) < outAtFirst-time.Second {
		t.Errorf("%v failures, want no more than before: it is still asked", got)
	}
	b.serve(t, netns.TCP, 8080, pod(3))
	back := within(t, 90*time.Second, func() error {
		if n := served(pod(3)); n == 0 {
			return fmt.Errorf("the endpoint that works again is not asked")
		}
		return nil
	})
	t.Logf("asked again %v after it was left out", time.Since(out).Round(time.Millisecond))
	if time.Since(out) < outAtFirst/2 {
		t.Errorf("asked again after %v already, want about %v", back, outAtFirst)
	}
	within(t, 90*time.Second, func() error {
		served(pod(2), pod(3))
		if n := b.metric(t, ejected); n != 0 {
			return fmt.Errorf("%v endpoints are left out, want none", n)
		}
		return nil
	})
	shares := 0
	for range 10 {
		shares += served(pod(3))
	}
	if shares != 10 {
		t.Errorf("%d of 20 calls came to the endpoint that is back, want each other one", shares)
	}
}

// TestUserspaceNoEjection switches that off: an endpoint that refuses is asked in
// its turn for ever.
func TestUserspaceNoEjection(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2))
		b.place(t, pod(3))
		f := web(1, 2, 3)
		b.begin(t, f)
		at := netip.AddrPortFrom(f.ip.V4, f.port)
		for i := range 40 {
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: at, Timeout: 30 * time.Second})
			if err := answeredBy(pod(2), 8080)(r); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		}
		// Who comes to the one that refuses goes on to the other, whose turn it is
		// then: after the first, every call begins at the one that refuses.
		if got := b.metric(t, failures); got < 20 {
			t.Errorf("%v failures of 40 calls, want 20 or more", got)
		}
		if n, m := b.metric(t, ejected), b.metric(t, ejections); n != 0 || m != 0 {
			t.Errorf("%v endpoints left out, %v times, although that is switched off", n, m)
		}
	}, "--userspace-eject-outliers=false")
}
