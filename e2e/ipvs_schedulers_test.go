//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
)

// A step of a load brings the connections that are held to a number.
type step struct {
	letGo   bool            // first, everything but what the last endpoint has
	after   func(pool) pool // first, the Service changes; nil for not
	total   int             // of connections since the last letGo, or the beginning
	want    []int           // by endpoint
	sorted  bool            // want says only how many each has, not who is who
	refused bool            // one more is refused
}

// A loaded is a scheduler with a load that tells it from the others: steps, or a
// check of another kind.
type loaded struct {
	name        string
	annotations map[string]string
	steps       []step
	check       func(b *bed, t *testing.T, p pool, family int) (string, error)
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
// What was closed is remembered for ten seconds, which is longer than a load takes.
func loadedSchedulers() []loaded {
	fair := []step{
		{total: 6, want: []int{1, 1, 2, 2}, sorted: true},
		{total: 16, want: []int{4, 4, 4, 4}},
		{total: 40, want: []int{10, 10, 10, 10}},
		{letGo: true, total: 24, want: []int{6, 6, 6, 6}},
	}
	return []loaded{
		{name: "rr", annotations: ours("rr", ""), steps: fair},
		{name: "wrr", annotations: ours("wrr", ""), steps: []step{
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 20, want: []int{2, 4, 6, 8}},
		}},
		{name: "lc", annotations: routers("lc", ""), steps: []step{
			{total: 6, want: []int{1, 1, 2, 2}, sorted: true},
			{total: 40, want: []int{10, 10, 10, 10}},
			{letGo: true, total: 30, want: []int{10, 10, 10, 0}},
		}},
		{name: "wlc", annotations: ours("wlc", ""), steps: []step{
			{total: 6, want: []int{1, 1, 2, 2}},
			{total: 16, want: []int{2, 3, 5, 6}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{name: "sed", annotations: ours("sed", ""), steps: []step{
			{total: 6, want: []int{0, 1, 2, 3}},
			{total: 16, want: []int{1, 3, 5, 7}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{name: "nq", annotations: ours("nq", ""), steps: []step{
			{total: 6, want: []int{1, 1, 2, 2}},
			{total: 16, want: []int{1, 3, 5, 7}},
			{total: 40, want: []int{4, 8, 12, 16}},
			{letGo: true, total: 24, want: []int{4, 8, 12, 0}},
		}},
		{name: "dh", annotations: ours("dh", ""), check: (*bed).oneForEach},
		{name: "lblc", annotations: ours("lblc", ""), steps: []step{
			{total: 6, want: []int{0, 0, 1, 5}},
			{total: 16, want: []int{4, 3, 4, 5}},
			{total: 40, want: []int{28, 3, 4, 5}},
		}},
		{name: "lblcr", annotations: ours("lblcr", ""), steps: []step{
			{total: 6, want: []int{0, 0, 1, 5}},
			{total: 16, want: []int{2, 3, 5, 6}},
			{total: 40, want: []int{4, 8, 12, 16}},
		}},
		{name: "fo", annotations: routers("fo", ""), steps: []step{
			{total: 20, want: []int{0, 0, 0, 20}},
			{after: func(p pool) pool { return p.without(3) }, total: 30, want: []int{0, 0, 10, 20}},
			{after: func(p pool) pool { return p }, total: 40, want: []int{0, 0, 10, 30}},
		}},
		{name: "ovf", annotations: ours("ovf", ""), steps: []step{
			{total: 5, want: []int{0, 0, 0, 5}},
			{total: 9, want: []int{0, 0, 4, 5}},
			{total: 14, want: []int{2, 3, 4, 5}, refused: true},
			{letGo: true, total: 4, want: []int{0, 0, 4, 0}},
		}},
		{name: "twos", annotations: ours("twos", ""), check: (*bed).twoChoices},
	}
}

// TestIPVSSchedulers has a Service for each scheduler, and a load for each that
// another scheduler would share out otherwise, in both families.
func TestIPVSSchedulers(t *testing.T) {
	b := newIPVSBed(t)
	all := loadedSchedulers()
	var pools []pool
	for i, s := range all {
		pools = append(pools, s.pool(1+i, s.annotations))
	}
	b.beginPools(t, pools...)
	d := &distribution{}
	d.add("scheduler", "load", "connections of the endpoints of weight 1, 2, 3, 4")
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			if !b.hasScheduler(t, s.name) {
				b.wantFallback(t, pools[i], s.name)
				s = all[0]
				s.name = all[i].name + " (not in this kernel: rr)"
			}
			for family := range 2 {
				rows, err := s.play(t, b, pools, i, family)
				if err != nil {
					t.Error(err)
				}
				if family == 0 {
					d.rows = append(d.rows, rows...)
				}
			}
		})
	}
	d.publish(t)
}

// TestIPVSSchedulerLoads puts the load for each scheduler on all the others: if one
// of them shared it out in the same way, the load would prove nothing.
func TestIPVSSchedulerLoads(t *testing.T) {
	b := newIPVSBed(t)
	var pools []pool
	type pair struct{ is, other loaded }
	var pairs []pair
	for _, is := range loadedSchedulers() {
		for _, other := range loadedSchedulers() {
			if is.name != other.name && is.name != "twos" && other.name != "twos" {
				pairs = append(pairs, pair{is, other})
				p := is.pool(len(pairs), other.annotations)
				p.onlyV4 = true
				pools = append(pools, p)
			}
		}
	}
	b.beginPools(t, pools...)
	for i, p := range pairs {
		if !b.hasScheduler(t, p.is.name) || !b.hasScheduler(t, p.other.name) {
			continue
		}
		if _, err := p.is.play(t, b, pools, i, 0); err == nil {
			t.Errorf("the load for %s does not tell it from %s", p.is.name, p.other.name)
		}
	}
}

// pool is a Service the scheduler's load is for, with annotations.
func (s loaded) pool(i int, annotations map[string]string) pool {
	p := newPool(i, annotations, weighted()...)
	if s.name == "dh" {
		for j := range addresses {
			at := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + addresses*(i%20) + j)})
			p.external = append(p.external, at.String(), fmt.Sprintf("2001:db8:113::%x", 0x100*i+j))
		}
	}
	return p
}

// play puts the load on the i-th of the Services, in one family, and returns rows
// for the table, and how connections were not shared out as they should be.
func (s loaded) play(t *testing.T, b *bed, pools []pool, i, family int) ([][]string, error) {
	t.Helper()
	if s.check != nil {
		row, err := s.check(b, t, pools[i], family)
		return [][]string{{s.name, "see the test", row}}, err
	}
	l := b.newLoad(t, pools[i], family)
	defer func() { l.letGo(-1) }()
	var rows [][]string
	kept := make([]int, len(l.ends))
	for n, st := range s.steps {
		what := fmt.Sprintf("%d held", st.total)
		if st.letGo {
			l.keepLast(t)
			kept = l.counts()
			what = fmt.Sprintf("%d more, after all but those of the last were closed", st.total)
		}
		if st.after != nil {
			changed := slices.Clone(pools)
			changed[i] = st.after(pools[i])
			b.applyPools(t, changed...)
			what = fmt.Sprintf("%d held, since there are %d endpoints", st.total, len(changed[i].endpoints))
		}
		missing := st.total - (l.total() - kept[len(kept)-1])
		if err := l.more(t, missing); err != nil {
			return rows, fmt.Errorf("%s, step %d, %s: %w", s.name, n, what, err)
		}
		got := minus(l.counts(), kept)
		rows = append(rows, []string{s.name, what, shares(got)})
		if st.sorted {
			slices.Sort(got)
		}
		if !slices.Equal(got, st.want) {
			return rows, fmt.Errorf("%s, step %d, %s at %v: got %v, want %v\n%s", s.name, n, what, l.dst, got, st.want, b.server(t, l.dst))
		}
		if st.refused {
			end, r := l.dial(t, netip.AddrPort{})
			// The proxy finds out when it has accepted.
			if r.Class != netns.Refused && (b.mode != world.Userspace || r.Class != netns.Closed) {
				return rows, fmt.Errorf("%s, step %d, one more to %v: got endpoint %d, %v, want it refused", s.name, n, l.dst, end, r)
			}
			rows = append(rows, []string{s.name, "one more", "refused"})
		}
	}
	return rows, l.alive(t)
}

// addresses is how many addresses a Service for destination hashing has.
const addresses = 10

// oneForEach wants all connections to one address to come to one endpoint, and not
// the same for all addresses.
func (b *bed) oneForEach(t *testing.T, p pool, family int) (string, error) {
	t.Helper()
	used := make([]int, len(p.endpoints))
	for j := range addresses {
		l := b.newLoad(t, p, family)
		l.dst = netip.AddrPortFrom(netip.MustParseAddr(p.external[2*j+family]), p.port)
		if err := l.more(t, 6); err != nil {
			return "", err
		}
		got := l.counts()
		i := slices.Index(got, 6)
		if i < 0 {
			return "", fmt.Errorf("%v: got %v, want all connections at one endpoint", l.dst, got)
		}
		used[i]++
	}
	row := shares(used) + " addresses"
	if slices.Max(used) == addresses {
		return row, fmt.Errorf("all addresses have the same endpoint: %v", used)
	}
	return row, nil
}

// hasScheduler reports whether the kernel has a scheduler, as fairlead, which runs,
// says it has found.
func (b *bed) hasScheduler(t *testing.T, name string) bool {
	t.Helper()
	for line := range strings.Lines(b.proxy.Output()) {
		if _, list, found := strings.Cut(line, `msg="IPVS found" schedulers=`); found {
			return slices.Contains(strings.Split(strings.TrimSpace(list), ","), name)
		}
	}
	t.Fatalf("fairlead does not say which schedulers there are:\n%s", b.proxy.Tail(20))
	return false
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

// twoChoices wants what is nearly certain where there is chance: of 200 connections,
// everybody gets some, and then who has many gets fewer.
func (b *bed) twoChoices(t *testing.T, p pool, family int) (string, error) {
	t.Helper()
	l := b.newLoad(t, p, family)
	defer func() { l.letGo(-1) }()
	if err := l.more(t, 200); err != nil {
		return "", err
	}
	got := l.counts()
	for i, n := range got {
		if fair := 200 * (i + 1) / 10; n < fair/2 || n > fair*2 {
			return shares(got), fmt.Errorf("endpoint %d has %d connections, want about %d: %v", i, n, fair, got)
		}
	}
	row := shares(got)
	l.keepLast(t)
	kept := l.counts()
	if err := l.more(t, 20); err != nil {
		return row, err
	}
	if got := minus(l.counts(), kept); got[3] > 10 {
		return row, fmt.Errorf("the busiest endpoint got %d of 20 connections: %v", got[3], got)
	}
	return row, l.alive(t)
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
			l.must(t, n)
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
