//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A pool is a Service that says how its connections are to be shared out. Each
// endpoint has a slice of its own, which says its weight.
type pool struct {
	fixture
	annotations map[string]string // of the Service
	weights     []string          // of the endpoints; empty for no annotation
	affinity    bool
	onlyV4      bool
}

// ours and routers are the annotations that ask for a scheduler.
func ours(scheduler, flags string) map[string]string {
	return asks(kube.AnnotationScheduler, kube.AnnotationSchedulerFlags, scheduler, flags)
}

func routers(scheduler, flags string) map[string]string {
	return asks("kube-router.io/service.scheduler", "kube-router.io/service.schedflags", scheduler, flags)
}

func asks(schedulerKey, flagsKey, scheduler, flags string) map[string]string {
	out := map[string]string{schedulerKey: scheduler}
	if flags != "" {
		out[flagsKey] = flags
	}
	return out
}

// newPool is the i-th Service of a test, with weighted endpoints on pods from the
// second on. Each has a port of its own at its pods: one client at one port may
// then be connected to several Services.
func newPool(i int, annotations map[string]string, weights ...string) pool {
	p := pool{fixture: plain(i), annotations: annotations, weights: weights}
	p.target = uint16(8100 + i)
	p.endpoints = nil
	for m := range weights {
		p.endpoints = append(p.endpoints, endpoint{pod: pod(2 + m)})
	}
	return p
}

// equal are n weights that are not said.
func equal(n int) []string { return make([]string, n) }

// without is the pool without its i-th endpoint.
func (p pool) without(i int) pool {
	p.endpoints = slices.Delete(slices.Clone(p.endpoints), i, i+1)
	p.weights = slices.Delete(slices.Clone(p.weights), i, i+1)
	return p
}

// reweighted is the pool with other weights.
func (p pool) reweighted(weights ...string) pool {
	p.weights = weights
	return p
}

func (p pool) service() *corev1.Service {
	o := p.fixture.service()
	o.Annotations = p.annotations
	if p.affinity {
		o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	if p.onlyV4 {
		single := corev1.IPFamilyPolicySingleStack
		o.Spec.ClusterIPs, o.Spec.IPFamilies, o.Spec.IPFamilyPolicy = o.Spec.ClusterIPs[:1], o.Spec.IPFamilies[:1], &single
	}
	return o
}

func (p pool) slices() []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for i, e := range p.endpoints {
		one := p.fixture
		one.endpoints = []endpoint{e}
		for _, sl := range one.slices() {
			if p.onlyV4 && sl.AddressType != discoveryv1.AddressTypeIPv4 {
				continue
			}
			sl.Name = fmt.Sprintf("%s-%s", sl.Name, strings.ReplaceAll(e.pod.V4.String(), ".", "-"))
			if p.weights[i] != "" {
				sl.Annotations = map[string]string{kube.AnnotationWeight: p.weights[i]}
			}
			out = append(out, sl)
		}
	}
	return out
}

// putPools replaces all objects, without waiting for anything.
func (b *bed) putPools(t *testing.T, pools ...pool) {
	t.Helper()
	old := b.marker
	var err error
	if b.marker, err = b.NewMarker(); err != nil {
		t.Fatal(err)
	}
	s := world.State{Zone: "a", Marker: b.marker}
	for _, p := range pools {
		s.Services = append(s.Services, p.service())
		s.Slices = append(s.Slices, p.slices()...)
	}
	if err := b.src.Put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if old != nil {
		t.Cleanup(func() { old.Close() })
	}
}

// applyPools puts pools and waits until they are in force.
func (b *bed) applyPools(t *testing.T, pools ...pool) {
	t.Helper()
	b.putPools(t, pools...)
	b.await(t)
}

// beginPools starts fairlead with pools whose endpoints answer.
func (b *bed) beginPools(t *testing.T, pools ...pool) {
	t.Helper()
	for _, p := range pools {
		for _, e := range p.endpoints {
			b.serve(t, netns.TCP, p.target, e.pod)
		}
	}
	b.putPools(t, pools...)
	b.start(t)
	b.await(t)
}

// A load is connections to one address of a pool that are kept open.
type load struct {
	b      *bed
	dst    netip.AddrPort
	ends   []netip.AddrPort // of the pool, in its order
	conns  [][]*netns.Conn  // by endpoint
	rounds int              // to take turns with the client's addresses
}

// newLoad is a load of nothing yet on the cluster IP of a family.
func (b *bed) newLoad(t *testing.T, p pool, family int) *load {
	t.Helper()
	l := &load{b: b, dst: at(p.ip, p.port)[family], conns: make([][]*netns.Conn, len(p.endpoints))}
	for _, e := range p.endpoints {
		l.ends = append(l.ends, at(e.pod, p.target)[family])
	}
	t.Cleanup(func() { l.letGo(-1) })
	return l
}

// dial opens a connection and keeps it. A zero source lets the kernel choose.
func (l *load) dial(t *testing.T, src netip.AddrPort) (int, netns.Result) {
	t.Helper()
	c, r := l.b.Client.Dial(t.Context(), netns.Request{
		Proto: netns.TCP, Dst: l.dst, Src: src.Addr(), SrcPort: src.Port(), Timeout: 5 * time.Second,
	})
	if c == nil {
		return -1, r
	}
	i := slices.Index(l.ends, r.From.Addr)
	if i < 0 {
		c.Reset()
		t.Fatalf("%v was answered by %v, which is not one of %v", l.dst, r.From, l.ends)
	}
	l.conns[i] = append(l.conns[i], c)
	return i, r
}

// more opens n connections, from the client's addresses by turns. It ends at the
// first that cannot be opened.
func (l *load) more(t *testing.T, n int) error {
	t.Helper()
	for range n {
		l.rounds++
		src := netip.AddrPortFrom(netns.ClientAddr(1+l.rounds%5).Like(l.dst.Addr()), 0)
		if i, r := l.dial(t, src); i < 0 {
			return fmt.Errorf("connection %d to %v: %v", l.rounds, l.dst, r)
		}
	}
	return nil
}

// must is more for connections that have to be there.
func (l *load) must(t *testing.T, n int) {
	t.Helper()
	if err := l.more(t, n); err != nil {
		t.Fatal(err)
	}
}

// total is how many connections there are.
func (l *load) total() int {
	n := 0
	for _, c := range l.conns {
		n += len(c)
	}
	return n
}

// counts is how many connections each endpoint has.
func (l *load) counts() []int {
	out := make([]int, len(l.conns))
	for i, c := range l.conns {
		out[i] = len(c)
	}
	return out
}

// letGo closes all connections but those of one endpoint.
func (l *load) letGo(keep int) {
	for i, conns := range l.conns {
		if i == keep {
			continue
		}
		for _, c := range conns {
			c.Reset()
		}
		l.conns[i] = nil
	}
}

// keepLast closes all connections but those of the last endpoint, and waits until
// IPVS, or the proxy, has seen that.
func (l *load) keepLast(t *testing.T) {
	t.Helper()
	l.letGo(len(l.ends) - 1)
	if l.b.mode == world.Userspace {
		l.awaitClosed(t)
		return
	}
	within(t, 5*time.Second, func() error {
		for line := range strings.Lines(l.b.run(t, "ipvsadm -Ln -t "+l.dst.String())) {
			words := strings.Fields(line) // -> 10.244.1.2:8101 Masq 1 ACTIVE INACTIVE
			if len(words) != 6 || words[0] != "->" {
				continue
			}
			i := slices.IndexFunc(l.ends, func(e netip.AddrPort) bool { return e.String() == words[1] })
			if i >= 0 && words[4] != strconv.Itoa(len(l.conns[i])) {
				return fmt.Errorf("%s has %s active connections, want %d", words[1], words[4], len(l.conns[i]))
			}
		}
		return nil
	})
}

// alive reports connections that are not.
func (l *load) alive(t *testing.T) error {
	t.Helper()
	var errs []error
	for i, conns := range l.conns {
		for j, c := range conns {
			if r := c.Exchange(t.Context(), "hello"); r.Class != netns.Reply {
				errs = append(errs, fmt.Errorf("connection %d of endpoint %d: %v", j, i, r))
			}
		}
	}
	return errors.Join(errs...)
}

// minus is what a has more than b.
func minus(a, b []int) []int {
	out := slices.Clone(a)
	for i := range b {
		out[i] -= b[i]
	}
	return out
}

// server is what ipvsadm says of a virtual server: its scheduler and flags, and
// then its destinations with their weights in order of their addresses. Without
// IPVS there is nothing to say.
func (b *bed) server(t *testing.T, addr netip.AddrPort) string {
	t.Helper()
	if !b.mode.IPVS() {
		return ""
	}
	var dests []string
	head := ""
	for line := range strings.Lines(b.run(t, "ipvsadm -Sn")) {
		words := strings.Fields(line) // -A -t 10.96.0.1:80 -s rr, or -a -t 10.96.0.1:80 -r 10.244.1.2:80 -m -w 1
		if x, err := netip.ParseAddrPort(words[2]); err != nil || x != addr {
			continue
		}
		if words[0] == "-A" {
			head = strings.Join(words[3:], " ")
		} else {
			dests = append(dests, words[4]+"="+words[len(words)-1])
		}
	}
	slices.Sort(dests)
	return strings.TrimSpace(head + " " + strings.Join(dests, " "))
}

// A distribution is rows of a table that documentation can show.
type distribution struct {
	rows [][]string
}

func (d *distribution) add(cells ...string) { d.rows = append(d.rows, cells) }

// publish logs the table, and appends it as markdown to the file that
// FAIRLEAD_TABLE names.
func (d *distribution) publish(t *testing.T) {
	t.Helper()
	var text, markdown strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for i, row := range d.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
		fmt.Fprintf(&markdown, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(&markdown, strings.Repeat("|---", len(row))+"|")
		}
	}
	w.Flush()
	t.Logf("\n%s", text.String())
	name := os.Getenv("FAIRLEAD_TABLE")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := f.WriteString(markdown.String() + "\n")
	if err := errors.Join(werr, f.Close()); err != nil {
		t.Error(err)
	}
}

// shares writes counts as a table shows them.
func shares(counts []int) string {
	var out []string
	for _, n := range counts {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, " ")
}
