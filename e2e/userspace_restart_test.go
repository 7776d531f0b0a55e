//go:build linux

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// A callLog is of new connections that are opened all the time, whatever becomes
// of those before.
type callLog struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	calls []loggedCall
}

// A loggedCall is one of them.
type loggedCall struct {
	x     target
	begun time.Time
	r     netns.Result
}

func (c loggedCall) String() string {
	return fmt.Sprintf("%s %s to %v: %v", c.begun.Format("15:04:05.000"), c.x.from.Name(), c.x.dst, c.r)
}

func (c loggedCall) ended() time.Time { return c.begun.Add(c.r.Elapsed) }

// keepCalling opens a connection to each target every so often. SYNs may be
// repeated, for a minute.
func (b *bed) keepCalling(t *testing.T, every time.Duration, targets ...target) *callLog {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &callLog{stop: cancel}
	for _, x := range targets {
		l.done.Go(func() {
			for tick := time.NewTicker(every); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
					l.done.Go(func() { l.call(x) })
				}
			}
		})
	}
	t.Cleanup(func() { l.finish() })
	return l
}

func (l *callLog) call(x target) {
	c := loggedCall{x: x, begun: time.Now()}
	c.r = x.from.Probe(context.Background(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: time.Minute})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, c)
}

// finish ends the calls and returns them in the order in which they were begun.
func (l *callLog) finish() []loggedCall {
	l.stop()
	l.done.Wait()
	slices.SortFunc(l.calls, func(a, b loggedCall) int { return a.begun.Compare(b.begun) })
	return l.calls
}

// An outage is a time in which no fairlead runs.
type outage struct {
	how                string
	told, ended, ready time.Time // to end; that it has; that its successor is at work
}

// judge wants calls to be answered that did not meet the process that ended: those
// that were begun while nobody listened, as soon as their SYN is repeated after
// somebody does.
func judge(t *testing.T, calls []loggedCall, outages []outage) {
	t.Helper()
	type tally struct{ all, lost int }
	var met, waited, usual tally
	var slowest time.Duration
	for _, c := range calls {
		n, limit := &usual, 20*time.Second
		lost := false // may be
		for _, o := range outages {
			switch {
			case c.begun.Before(o.ended) && c.ended().After(o.told):
				n, lost = &met, c.r.Class == netns.Closed || c.r.Class == netns.Refused
				limit = time.Minute
			case !c.begun.Before(o.ended) && c.begun.Before(o.ready):
				n = &waited
				// The kernel waits for twice as long each time.
				limit = 2*o.ready.Sub(c.begun) + 5*time.Second
				slowest = max(slowest, c.r.Elapsed)
			}
		}
		n.all++
		switch {
		case c.r.Class == netns.Reply && c.r.Elapsed <= limit:
		case lost:
			n.lost++
		case n.lost < 10:
			n.lost++
			t.Errorf("%v, want an answer within %v", c, limit.Round(time.Millisecond))
		default:
			n.lost++
			t.Fail()
		}
	}
	for _, o := range outages {
		t.Logf("%s: ended after %v, the next at work %v later", o.how, o.ended.Sub(o.told).Round(time.Millisecond), o.ready.Sub(o.ended).Round(time.Millisecond))
	}
	t.Logf("%d calls while fairlead ran, %d lost; %d while it ended, %d lost; %d while nobody listened, %d lost, answered after up to %v",
		usual.all, usual.lost, met.all, met.lost, waited.all, waited.lost, slowest.Round(time.Millisecond))
	if usual.all < 100 || waited.all < 20 {
		t.Errorf("only %d calls while fairlead ran and %d while nobody listened, want at least 100 and 20", usual.all, waited.all)
	}
}

// TestUserspaceRestart ends fairlead under load, in the ordinary way and not, and
// starts another after a while. Connections are lost that it had or had not
// accepted yet, and no others.
func TestUserspaceRestart(t *testing.T) { eachUserspace(t, restart) }

func restart(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
	b.serve(t, netns.UDP, 5353, pod(2))
	names := dns(5353, podsOf(2)...)
	b.begin(t, append(crowd(0), names)...)
	var targets []target
	for i, from := range []*netns.NS{b.Client, b.place(t, pod(9)), b.N1.NS} {
		targets = append(targets, both(from, clusterIP(1+i), 80)...)
	}
	targets = append(targets, both(b.Client, netns.NodeAddr(1), 30004)...)
	log := b.keepCalling(t, 40*time.Millisecond, targets...)
	talkers := b.talkers(t)
	var outages []outage
	for i, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		conns := b.open(t, web(1))
		b.talking(t, talkers, 0)
		b.put(t, append(crowd(i+1), names)...)
		if i < 2 {
			b.await(t) // else it ends, or is killed, with work to do
		}
		o := outage{how: signal.String(), told: time.Now()}
		if signal == syscall.SIGKILL {
			if err := b.proxy.Kill(); err != nil {
				t.Fatal(err)
			}
		} else {
			b.stop(t)
		}
		o.ended = time.Now()
		if err := allAre(t, conns, netns.Closed); err != nil {
			t.Errorf("%v: what was connected before: %v", signal, err)
		}
		time.Sleep(1500 * time.Millisecond) // more than until the kernel repeats a SYN
		marks := make([]int, len(talkers))
		for j, k := range talkers {
			marks[j] = k.mark()
		}
		b.start(t)
		b.await(t)
		o.ready = time.Now()
		outages = append(outages, o)
		b.talking(t, talkers, marks...)
		time.Sleep(500 * time.Millisecond) // of ordinary calls
	}
	calls := log.finish()
	judge(t, calls, outages)
	b.wantAsFresh(t)
}

// talking wants all talkers to be answered, since some marks.
func (b *bed) talking(t *testing.T, talkers []*talker, marks ...int) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		for i, k := range talkers {
			if err := k.settle(marks[i%len(marks)], answeredBy(pod(2), 5353)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ruleCount is a rule as iptables-save shows it with its counters.
var ruleCount = regexp.MustCompile(`(?m)^\[(\d+):\d+\] (-A FL-.*)$`)

// ruleCounts returns how many packets each of fairlead's rules has seen.
func (b *bed) ruleCounts(t *testing.T) map[string]int {
	t.Helper()
	out := make(map[string]int)
	for _, name := range []string{"iptables-", "ip6tables-"} {
		for _, table := range []string{"mangle", "filter"} {
			text, err := b.tool(t.Context(), "", name+b.variant+"-save", "-c", "-t", table)
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range ruleCount.FindAllStringSubmatch(text, -1) {
				n := 0
				if _, err := fmt.Sscan(m[1], &n); err != nil {
					t.Fatal(err)
				}
				out[fmt.Sprint(name, table, i, m[2])] = n
			}
		}
	}
	return out
}

// TestUserspaceUnchanged kills and restarts fairlead where nothing has changed: it
// finds that out, and writes nothing. A rule that is written anew has seen no packet,
// and a set that is made anew has another seed.
func TestUserspaceUnchanged(t *testing.T) { eachUserspace(t, unchanged) }

func unchanged(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
	b.begin(t, crowd(0)...)
	for i := range 4 {
		callAll(t, 2, b.callers(t, web(1+i)))
	}
	want, sets := b.save(t), sortLines(b.run(t, "ipset save"))
	for i := range 4 {
		counts := b.ruleCounts(t)
		seen := 0
		if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
		b.start(t)
		b.await(t)
		if d := cmp.Diff(b.save(t), want, cmp.AllowUnexported(tables{})); d != "" {
			t.Errorf("start %d: the kernel has changed (-got +want):\n%s", i, d)
		}
		if d := cmp.Diff(sortLines(b.run(t, "ipset save")), sets); d != "" {
			t.Errorf("start %d: sets were made anew (-got +want):\n%s", i, d)
		}
		after := b.ruleCounts(t)
		for rule, n := range counts {
			seen += n
			if after[rule] < n {
				t.Errorf("start %d: %s has seen %d packets, before %d: it was written again", i, rule, after[rule], n)
			}
		}
		if seen == 0 || len(after) != len(counts) {
			t.Errorf("start %d: %d rules that have seen %d packets, before %d rules", i, len(after), seen, len(counts))
		}
		if out := b.proxy.Output(); !strings.Contains(out, "added=0 changed=0 removed=0") {
			t.Errorf("start %d: fairlead says that it has written something:\n%s", i, b.proxy.Tail(5))
		}
		for j, r := range callAll(t, 1, b.callers(t, web(1))) {
			if r.Class != netns.Reply {
				t.Errorf("start %d: call %d: %v", i, j, r)
			}
		}
	}
}
