//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
)

// A step of a load brings the connections that are held to a number.
type step struct {
	letGo   bool              // first, everything but what the last endpoint has
	after   func(p pool) pool // first, the objects change
	total   int               // of connections since the last letGo, or the first
	want    []int             // by endpoint
	sorted  bool              // want says only how many each has, not who is who
	refused bool              // and one more is refused
}

// A loaded is a scheduler with the steps that tell it from the others.
type loaded struct {
	name        string
	annotations map[string]string
	steps       []step
}

// weighted are the weights of the endpoints of every loaded scheduler.
func weighted() []string { return []string{"", "2", "3", "4"} }

// loadedSchedulers says what becomes of connections that are opened one by one and
// kept. The numbers follow from what the schedulers minimise, where a is how many
// connections an endpoint has, c how many it had that are not forgotten yet, and w
// its weight (net/netfilter/ipvs/ip_vs_*.c):
//
//	lc   256a+c        wlc  (256a+c)/w
//	sed  (a+1)/w       nq   the same, once nobody is idle
//
// So sed leaves the slowest idle while the fastest has less than four, and nq does
// not. lblc stays with an endpoint until it has more than w and another less than
// w/2; lblcr does the same for a growing group, of which it asks the least busy. ovf
// goes on to the next when the heaviest has more than w, and ends when all have.
func loadedSchedulers() []loaded {
	fair := []step{
		{total: 6, want: []int{1, 1, 2, 2}, sorted: true},
		{total: 16, want: []int{4, 4, 4, 4}},
		{total: 40, want: []int{10, 10, 10, 10}},
		{letGo: true, total: 24, want: []int{6, 6, 6, 6}},
	}
	return []loaded{
		{"rr", ours("rr", ""), fair},
		{"wrr", ours("wrr", ""), []step{
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 20, want: []int{2, 4, 6, 8}},
		}},
		{"lc", routers("lc", ""), []step{
			{total: 6, want: []int{1, 1, 2, 2}, sorted: true},
			{total: 40, want: []int{10, 10, 10, 10}},
			{letGo: true, total: 30, want: []int{10, 10, 10, 0}},
		}},
		{"wlc", ours("wlc", ""), []step{
			{total: 6, want: []int{1, 1, 2, 2}},
			{total: 16, want: []int{2, 3, 5, 6}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{"sed", ours("sed", ""), []step{
			{total: 6, want: []int{0, 1, 2, 3}},
			{total: 16, want: []int{1, 3, 5, 7}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{"nq", ours("nq", ""), []step{
			{total: 6, want: []int{1, 1, 2, 2}},
			{total: 16, want: []int{1, 3, 5, 7}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{"dh", ours("dh", ""), []step{{total: 40, want: []int{0, 0, 0, 40}, sorted: true}}},
		{"lblc", ours("lblc", ""), []step{
			{total: 6, want: []int{0, 0, 1, 5}},
			{total: 16, want: []int{4, 3, 4, 5}},
			{total: 40, want: []int{28, 3, 4, 5}},
		}},
		{"lblcr", ours("lblcr", ""), []step{
			{total: 6, want: []int{0, 0, 1, 5}},
			{total: 16, want: []int{2, 3, 5, 6}},
			{total: 40, want: []int{4, 8, 12, 16}},
		}},
		{"fo", routers("fo", ""), []step{
			{total: 20, want: []int{0, 0, 0, 20}},
			{after: func(p pool) pool { return p.without(3) }, total: 30, want: []int{0, 0, 10, 20}},
			{after: func(p pool) pool { return p }, total: 40, want: []int{0, 0, 10, 30}},
		}},
		{"ovf", ours("ovf", ""), []step{
			{total: 5, want: []int{0, 0, 0, 5}},
			{total: 9, want: []int{0, 0, 4, 5}},
			{total: 14, want: []int{2, 3, 4, 5}, refused: true},
			{letGo: true, total: 4, want: []int{0, 0, 4, 0}},
		}},
		{"twos", ours("twos", ""), nil}, // by chance, or else like rr: see below
	}
}

// TestIPVSSchedulers has a Service for each scheduler, and a load for each that
// another scheduler would share out otherwise, in both families.
func TestIPVSSchedulers(t *testing.T) {
	b := newIPVSBed(t)
	all := loadedSchedulers()
	var pools []pool
	for i, s := range all {
		pools = append(pools, newPool(1+i, s.annotations, weighted()...))
	}
	b.beginPools(t, pools...)
	var has []string
	for _, s := range all {
		if b.hasScheduler(t, s.name) {
			has = append(has, s.name)
		}
	}
	t.Logf("the kernel has %s", strings.Join(has, ", "))
	d := &distribution{}
	d.add("scheduler", "load", "connections of the endpoints of weight 1, 2, 3, 4")
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			if !slices.Contains(has, s.name) {
				b.wantFallback(t, pools[i], s.name)
				s.steps = loadedSchedulers()[0].steps
			} else if s.name == "twos" {
				b.twoChoices(t, pools[i], d)
				return
			}
			for family := range 2 {
				b.play(t, pools, i, family, s, d)
			}
		})
	}
	d.publish(t)
}

// play goes through the steps of a scheduler, in one family.
func (b *bed) play(t *testing.T, pools []pool, i, family int, s loaded, d *distribution) {
	t.Helper()
	l := b.newLoad(t, pools[i], family)
	var before []int
	for n, st := range s.steps {
		load := fmt.Sprintf("%d held", st.total)
		if st.letGo {
			l.letGo(len(l.ends) - 1)
			before = l.counts()
			load = fmt.Sprintf("%d more, after all but those of the last were closed", st.total)
		}
		if st.after != nil {
			changed := slices.Clone(pools)
			changed[i] = st.after(pools[i])
			b.applyPools(t, changed...)
			load = fmt.Sprintf("%d held, with %d endpoints", st.total, len(changed[i].endpoints))
		}
		had := 0
		for _, k := range before {
			had += k
		}
		l.more(t, st.total+had-l.total())
		got := minus(l.counts(), before)
		if family == 0 {
			d.add(s.name, load, shares(got))
		}
		if st.sorted {
			slices.Sort(got)
		}
		if diff := cmp.Diff(got, st.want); diff != "" {
			t.Errorf("%v, step %d, %s: got %v, want %v\n%s", l.dst, n, load, got, st.want, b.server(t, l.dst))
		}
		if st.refused {
			end, r := l.dial(t, netip.AddrPort{})
			if r.Class != netns.Refused {
				t.Errorf("%v, step %d: one more: got endpoint %d, %v, want it refused", l.dst, n, end, r)
			}
		}
	}
	if err := l.alive(t); err != nil {
		t.Error(err)
	}
	l.letGo(-1)
}

// hasScheduler reports whether the kernel has a scheduler, by asking it for one
// in a namespace where that does no harm.
func (b *bed) hasScheduler(t *testing.T, name string) bool {
	t.Helper()
	where := b.place(t, pod(50))
	_, err := where.Output(t.Context(), "ipvsadm", "-A", "-f", "77", "-s", name)
	if err != nil {
		return false
	}
	if _, err := where.Output(t.Context(), "ipvsadm", "-D", "-f", "77"); err != nil {
		t.Error(err)
	}
	return true
}

// wantFallback wants a scheduler the kernel lacks to be the default one, and a
// complaint about that, and nothing else to suffer.
func (b *bed) wantFallback(t *testing.T, p pool, name string) {
	t.Helper()
	for _, x := range at(p.ip, p.port) {
		if got := b.server(t, x); !strings.HasPrefix(got, "-s rr ") {
			t.Errorf("%v: got %q, want rr for want of %s", x, got, name)
		}
	}
	b.wantProblem(t, p.name, "DataplaneDeviation", "the kernel has no scheduler "+name)
	if out := b.proxy.Output(); strings.Contains(out, "level=ERROR") {
		t.Errorf("something has failed:\n%s", out)
	}
}

// wantProblem wants fairlead to have complained about a Service, once.
func (b *bed) wantProblem(t *testing.T, name, reason, text string) {
	t.Helper()
	got, err := b.src.Problems(t.Context(), b.proxy)
	if err != nil {
		t.Fatal(err)
	}
	want := world.Problem{Kind: "Service", Object: service.Name{Namespace: "default", Name: name}, Reason: reason}
	if !slices.Contains(got, want) {
		t.Errorf("got %v, want %v among them", got, want)
	}
	n := 0
	for line := range strings.Lines(b.proxy.Output()) {
		if strings.Contains(line, "default/"+name+": ") && strings.Contains(line, text) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the log complains %d times about %s with %q, want once:\n%s", n, name, text, b.proxy.Tail(30))
	}
}

// twoChoices holds what must be true of chance: of 200 connections, nearly
// certainly everybody gets some, and who has many gets fewer.
func (b *bed) twoChoices(t *testing.T, p pool, d *distribution) {
	t.Helper()
	l := b.newLoad(t, p, 0)
	l.more(t, 200)
	got := l.counts()
	d.add("twos", "200 held", shares(got))
	for i, n := range got {
		fair := 200 * (i + 1) / 10
		if n < fair/2 || n > fair*2 {
			t.Errorf("endpoint %d has %d connections, want about %d: %v", i, n, fair, got)
		}
	}
	l.letGo(3)
	kept := l.counts()
	l.more(t, 20)
	got = minus(l.counts(), kept)
	d.add("twos", "20 more, after all but those of the last were closed", shares(got))
	if got[3] > 10 {
		t.Errorf("the busiest endpoint got %d of 20 connections: %v", got[3], got)
	}
}

// TestIPVSSchedulerWeights changes weights while connections are open.
func TestIPVSSchedulerWeights(t *testing.T) {
	b := newIPVSBed(t)
	p := newPool(1, ours("wrr", ""), "3", "", "1")
	b.beginPools(t, p)
	for family := range 2 {
		l := b.newLoad(t, p, family)
		for _, s := range []struct {
			weights []string
			want    []int
		}{
			{[]string{"3", "", "1"}, []int{12, 4, 4}},
			{[]string{"1", "5", ""}, []int{4, 20, 4}},
			{[]string{"65535", "65535", "65535"}, []int{8, 8, 8}},
			{[]string{"", "", "2"}, []int{5, 5, 10}},
			{[]string{"1.5", "0", "two"}, []int{7, 7, 7}}, // not weights: 1
		} {
			b.applyPools(t, p.reweighted(s.weights...))
			b.settled(t, l, s.weights)
			had, n := l.counts(), 0
			for _, k := range s.want {
				n += k
			}
			l.more(t, n)
			if got := minus(l.counts(), had); !slices.Equal(got, s.want) {
				t.Errorf("%v with weights %q: got %v, want %v\n%s", l.dst, s.weights, got, s.want, b.server(t, l.dst))
			}
			if err := l.alive(t); err != nil {
				t.Errorf("%v with weights %q: %v", l.dst, s.weights, err)
			}
		}
		l.letGo(-1)
	}
	b.wantWeightProblems(t)
}

// settled makes sure that the kernel has the weights that are asked for.
func (b *bed) settled(t *testing.T, l *load, weights []string) {
	t.Helper()
	within(t, 5*time.Second, func() error {
		got := b.server(t, l.dst)
		for i, w := range weights {
			if w == "" || strings.Trim(w, "0123456789") != "" || w == "0" {
				w = "1"
			}
			if !strings.Contains(got+" ", fmt.Sprintf(" %v=%s ", l.ends[i], w)) {
				return fmt.Errorf("got %q, want weights %q", got, weights)
			}
		}
		return nil
	})
}

func (b *bed) wantWeightProblems(t *testing.T) {
	t.Helper()
	got, err := b.src.Problems(t.Context(), b.proxy)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range got {
		if p.Kind == "EndpointSlice" && p.Reason == "InvalidValue" {
			n++
		}
	}
	if n != 12 { // three slices of two families, each of them put twice
		t.Errorf("got %d complaints about weights, want 12: %v", n, got)
	}
}
