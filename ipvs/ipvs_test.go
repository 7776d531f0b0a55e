package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A town is a Store with Services that tests change one by one.
type town struct{ store *service.Store }

func newTown(services, endpoints int) town {
	s := service.NewStore()
	n := service.Node{
		Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("172.18.0.11")},
		Pods: service.Detector{Prefixes: [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}},
	}
	n.Primary[service.IPv4] = n.Addrs[0]
	n.PortAddrs[service.IPv4] = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	s.SetNode(n)
	t := town{s}
	for i := range services {
		t.service(i)
		t.slice(i, endpointsOf(i, endpoints)...)
	}
	return t
}

func name(i int) service.Name { return service.Name{Namespace: "default", Name: fmt.Sprint("s", i)} }

func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }

// key is the virtual server of the cluster IP of Service i.
func key(i int) kernel.ServerKey {
	return kernel.ServerKey{Addr: netip.AddrPortFrom(clusterIP(i), 80), Protocol: service.TCP}
}

func endpoint(n int) service.SliceEndpoint {
	return service.NewSliceEndpoint(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}),
		&service.EndpointState{Node: "n2", Ready: true, Serving: true})
}

func endpointsOf(i, n int) []service.SliceEndpoint {
	var out []service.SliceEndpoint
	for k := range n {
		out = append(out, endpoint(2+i*n+k))
	}
	return out
}

func (t town) service(i int) {
	t.store.SetService(&service.Service{
		Name: name(i), ClusterIPs: []netip.Addr{clusterIP(i)}, Families: []service.Family{service.IPv4},
		Ports: []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80}, {Name: "dns", Protocol: service.UDP, Port: 53}},
	})
}

func (t town) slice(i int, eps ...service.SliceEndpoint) {
	t.store.SetSlice(&service.Slice{
		Service: name(i), Name: fmt.Sprint("s", i), Family: service.IPv4, Endpoints: eps,
		Ports: []service.SlicePort{{Name: "http", Protocol: service.TCP, Port: 8080}, {Name: "dns", Protocol: service.UDP, Port: 8053}},
	})
}

func (t town) tcpOnly(i int, eps ...service.SliceEndpoint) {
	t.store.SetSlice(&service.Slice{
		Service: name(i), Name: fmt.Sprint("s", i), Family: service.IPv4, Endpoints: eps,
		Ports: []service.SlicePort{{Name: "http", Protocol: service.TCP, Port: 8080}},
	})
}

func target8080(n int) netip.AddrPort { return netip.AddrPortFrom(endpoint(n).Addr(), 8080) }

func mustSync(t *testing.T, d *Dataplane, tn town) service.Report {
	t.Helper()
	r, err := d.Sync(t.Context(), tn.store.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOneEndpointIsOneMessage is the promise that work is proportional to change,
// whatever the number of Services.
func TestOneEndpointIsOneMessage(t *testing.T) {
	for _, n := range []int{10, 1000} {
		tn := newTown(n, 3)
		for i := range n {
			tn.tcpOnly(i, endpointsOf(i, 3)...)
		}
		b := newBed()
		d := b.dataplane(t, testConfig())
		mustSync(t, d, tn)
		b.kernel.ResetStats()
		b.tables.ResetStats()
		tn.tcpOnly(5, append(endpointsOf(5, 3), endpoint(9000))...)
		mustSync(t, d, tn)
		got, want := b.kernel.Stats(), kernel.FakeStats{Applies: 1, Ops: 1}
		if got != want {
			t.Errorf("%d Services: one more endpoint took %+v, want %+v", n, got, want)
		}
		if got := b.tables.Stats(); got != (xt.FakeStats{}) {
			t.Errorf("%d Services: one more endpoint had iptables do %+v", n, got)
		}
	}
}

// TestRestartRewritesNothing starts a second process on what the first has left.
func TestRestartRewritesNothing(t *testing.T) {
	for _, mode := range []VIPMode{Routed, Device} {
		tn := newTown(50, 3)
		b := newBed()
		cfg := testConfig()
		cfg.VIPMode = mode
		mustSync(t, b.dataplane(t, cfg), tn)
		b.kernel.ResetStats()
		b.tables.ResetStats()
		mustSync(t, b.dataplane(t, cfg), tn)
		if got := b.kernel.Stats().Ops; got != 0 {
			t.Errorf("%v: a restart made %d changes", mode, got)
		}
		if got := b.tables.Stats().Restores; got != 0 {
			t.Errorf("%v: a restart wrote the tables %d times", mode, got)
		}
	}
}

// A cut is a kernel that can be looked at between any two ops, and that stops
// after some number of them, as if the process had been killed.
type cut struct {
	kernel.Kernel
	fake *kernel.Fake
	left int // ops until the end; negative for no end
	look func()
	ops  int
}

func (c *cut) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	var refused []*kernel.OpError
	for i, op := range ops {
		if c.left == 0 {
			return nil, context.Canceled
		}
		c.left--
		c.ops++
		r, err := c.fake.Apply(ctx, []kernel.Op{op})
		if err != nil {
			return nil, err
		}
		for _, e := range r {
			refused = append(refused, &kernel.OpError{Index: i, Op: op, Err: e.Err})
		}
		c.look()
	}
	return refused, nil
}

// published checks what must hold at every moment: whatever is routed to the node
// has a virtual server that is ours, and somebody to send a new connection to,
// unless it is refused.
func published(t *testing.T, f *kernel.Fake) {
	t.Helper()
	servers, err := f.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	members := func(set string) map[kernel.Element]bool {
		out := make(map[kernel.Element]bool)
		elems, _ := f.Elements(t.Context(), set) // none before the set is there
		for _, e := range elems {
			out[e] = true
		}
		return out
	}
	own, refuse, masq := members("FL4-OWN"), members("FL4-REFUSE"), members("FL4-MASQX")
	for e := range members("FL4-VIP") {
		k := kernel.ServerKey{Addr: netip.AddrPortFrom(e.Addr, e.Port), Protocol: e.Protocol}
		s := servers[k]
		switch {
		case s == nil:
			t.Fatalf("%s is published without a virtual server", k)
		case !own[e]:
			t.Fatalf("%s is published and not known as ours", k)
		case !refuse[e] && !slices.ContainsFunc(s.Dests, func(d kernel.Dest) bool { return d.Weight > 0 }):
			t.Fatalf("%s is published without a destination", k)
		case !refuse[e] && !masq[e]:
			t.Fatalf("%s is published and not masqueraded", k)
		}
	}
	for k := range servers {
		if !own[element(k)] {
			t.Fatalf("%s is not known as ours", k)
		}
	}
}

// TestEveryMomentHolds looks at the kernel after every op, and kills the process
// after every one of them: the next one must reach the same end.
func TestEveryMomentHolds(t *testing.T) {
	steps := func(tn town) []func() {
		return []func(){
			func() {},
			func() { tn.slice(1, endpoint(70)) },
			func() { tn.slice(0) },
			func() { tn.slice(0, endpoint(71)); tn.store.DeleteService(name(1)) },
			func() { tn.service(1) },
		}
	}
	run := func(t *testing.T, kill int) (string, int) {
		tn, b := newTown(3, 2), newBed()
		c := &cut{Kernel: b.kernel, fake: b.kernel, left: kill, look: func() { published(t, b.kernel) }}
		d, err := New(testConfig(), c, b.tables, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps(tn) {
			step()
			if _, err := d.Sync(t.Context(), tn.store.Snapshot()); err != nil {
				c.left = -1 // the next process
				d, _ = New(testConfig(), c, b.tables, nil)
				mustSync(t, d, tn)
			}
		}
		return string(b.kernel.Dump()), c.ops
	}
	want, ops := run(t, -1)
	for kill := range ops {
		if got, _ := run(t, kill); got != want {
			t.Fatalf("killed after %d ops: the end differs (-want +got)\n%s", kill, cmp.Diff(want, got))
		}
	}
	if ops < 50 {
		t.Errorf("only %d ops were tried", ops)
	}
}

// TestDrain has a destination leave while it has connections.
func TestDrain(t *testing.T) {
	tn, b := newTown(1, 2), newBed()
	cfg := testConfig()
	cfg.AuditEvery = time.Hour
	d := b.dataplane(t, cfg)
	now := time.Unix(1000, 0)
	d.now = func() time.Time { return now }
	mustSync(t, d, tn)
	if _, err := d.Audit(t.Context()); err != nil { // the first is a full one
		t.Fatal(err)
	}
	busy := func(n int, c kernel.Conns) { b.kernel.SetConns(key(0), target8080(n), c) }
	weights := func() map[netip.AddrPort]uint32 {
		t.Helper()
		s, err := b.kernel.Server(t.Context(), key(0))
		if err != nil || s == nil {
			t.Fatal(s, err)
		}
		out := make(map[netip.AddrPort]uint32)
		for _, dst := range s.Dests {
			out[dst.Addr] = dst.Weight
		}
		return out
	}
	audit := func() {
		t.Helper()
		if _, err := d.Audit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, want map[netip.AddrPort]uint32) {
		t.Helper()
		if diff := cmp.Diff(want, weights(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Fatalf("%s: weights differ (-want +got)\n%s", when, diff)
		}
	}

	busy(2, kernel.Conns{Active: 1})
	tn.slice(0, endpoint(3))
	r := mustSync(t, d, tn)
	expect("deselected with a connection", map[netip.AddrPort]uint32{target8080(2): 0, target8080(3): 1})
	if want := now.Add(time.Second); r.Again != want {
		t.Errorf("wants to be audited at %v, want %v", r.Again, want)
	}
	now = now.Add(20 * time.Minute)
	audit()
	expect("20 minutes later", map[netip.AddrPort]uint32{target8080(2): 0, target8080(3): 1})

	b.kernel.ResetStats()
	tn.slice(0, endpointsOf(0, 2)...)
	mustSync(t, d, tn)
	expect("returned", map[netip.AddrPort]uint32{target8080(2): 1, target8080(3): 1})

	leaving := endpoint(2)
	leaving.Ready, leaving.Terminating = false, true
	tn.slice(0, leaving, endpoint(3))
	mustSync(t, d, tn)
	now = now.Add(time.Minute)
	audit()
	expect("its pod is being deleted", map[netip.AddrPort]uint32{target8080(2): 0, target8080(3): 1})
	tn.slice(0, endpoint(3))
	mustSync(t, d, tn)
	expect("its pod is gone", map[netip.AddrPort]uint32{target8080(2): 0, target8080(3): 1})
	now = now.Add(deadGrace)
	audit()
	expect("two seconds later", map[netip.AddrPort]uint32{target8080(3): 1})

	busy(3, kernel.Conns{Inactive: 1})
	tn.slice(0, endpoint(2))
	mustSync(t, d, tn)
	expect("replaced", map[netip.AddrPort]uint32{target8080(2): 1, target8080(3): 0})
	busy(3, kernel.Conns{})
	now = now.Add(time.Minute)
	audit()
	expect("idle", map[netip.AddrPort]uint32{target8080(2): 1})
}

// TestDrainUDP: flows stay as long as the endpoint serves, and move at once when
// it does not.
func TestDrainUDP(t *testing.T) {
	tn, b := newTown(1, 2), newBed()
	d := b.dataplane(t, testConfig())
	mustSync(t, d, tn)
	dns := kernel.ServerKey{Addr: netip.AddrPortFrom(clusterIP(0), 53), Protocol: service.UDP}
	addr := netip.AddrPortFrom(endpoint(2).Addr(), 8053)
	weight := func() int {
		s, _ := b.kernel.Server(t.Context(), dns)
		for _, dst := range s.Dests {
			if dst.Addr == addr {
				return int(dst.Weight)
			}
		}
		return -1
	}
	b.kernel.SetConns(dns, addr, kernel.Conns{Inactive: 3})
	leaving := func(serving bool) service.SliceEndpoint {
		return service.NewSliceEndpoint(endpoint(2).Addr(), &service.EndpointState{Node: "n2", Serving: serving, Terminating: true})
	}
	tn.slice(0, leaving(true), endpoint(3))
	mustSync(t, d, tn)
	if got := weight(); got != 0 {
		t.Errorf("while it serves and terminates its weight is %d, want 0", got)
	}
	tn.slice(0, leaving(false), endpoint(3))
	mustSync(t, d, tn)
	if got := weight(); got != -1 {
		t.Errorf("it does not serve any more and is still there with weight %d", got)
	}
}

// TestTombstone deletes a Service with a connection, and has it come back.
func TestTombstone(t *testing.T) {
	tn, b := newTown(1, 1), newBed()
	cfg := testConfig()
	cfg.DrainTimeout = time.Minute
	d := b.dataplane(t, cfg)
	now := time.Unix(1000, 0)
	d.now = func() time.Time { return now }
	mustSync(t, d, tn)
	full := string(b.kernel.Dump())
	b.kernel.SetConns(key(0), target8080(2), kernel.Conns{Active: 1})
	tn.store.DeleteService(name(0))
	mustSync(t, d, tn)
	in := func(set string) bool {
		elems, err := b.kernel.Elements(t.Context(), set)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(elems, element(key(0)))
	}
	if !in("FL4-VIP") || !in("FL4-REFUSE") || !in("FL4-OWN") {
		t.Error("a deleted Service with connections is not published, refused and owned")
	}
	restarted := b.dataplane(t, cfg)
	restarted.now = d.now
	mustSync(t, restarted, tn)
	if !in("FL4-VIP") || !in("FL4-REFUSE") {
		t.Error("after a restart the deleted Service is forgotten")
	}
	tn.service(0)
	mustSync(t, restarted, tn)
	b.kernel.SetConns(key(0), target8080(2), kernel.Conns{})
	if got := string(b.kernel.Dump()); got != full {
		t.Errorf("it came back, and the kernel is not as before (-before +after)\n%s", cmp.Diff(full, got))
	}
	b.kernel.SetConns(key(0), target8080(2), kernel.Conns{Active: 1})
	tn.store.DeleteService(name(0))
	mustSync(t, restarted, tn)
	now = now.Add(cfg.DrainTimeout)
	if _, err := restarted.Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in("FL4-OWN") {
		t.Error("after the drain timeout it is still there")
	}
}

// TestRefusedOpsLeaveOneInDoubt has the kernel refuse what concerns one Service.
func TestRefusedOpsLeaveOneInDoubt(t *testing.T) {
	tn, b := newTown(20, 2), newBed()
	r := &refuser{Kernel: b.kernel, key: key(7)}
	d, err := New(testConfig(), r, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Sync(t.Context(), tn.store.Snapshot())
	if err == nil {
		t.Fatal("the kernel refuses, and Sync says nothing")
	}
	servers, _ := b.kernel.Servers(t.Context())
	full := 0
	for _, s := range servers {
		if len(s.Dests) == 2 {
			full++
		}
	}
	if full != 39 {
		t.Errorf("%d virtual servers have their destinations, want all 39 others", full)
	}
	r.key = kernel.ServerKey{}
	b.kernel.ResetStats()
	mustSync(t, d, tn)
	if s := b.kernel.Stats(); s.Ops > 20 || s.Reads > 3 {
		t.Errorf("the retry took %+v, want little", s)
	}
	want := newBed()
	mustSync(t, want.dataplane(t, testConfig()), tn)
	if diff := cmp.Diff(string(want.kernel.Dump()), string(b.kernel.Dump())); diff != "" {
		t.Errorf("after the retry the kernel differs (-want +got)\n%s", diff)
	}
}

// A refuser refuses new destinations of one server.
type refuser struct {
	kernel.Kernel
	key kernel.ServerKey
}

func (r *refuser) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	var pass []kernel.Op
	var at []int
	var refused []*kernel.OpError
	for i, op := range ops {
		if n, ok := op.(kernel.NewDest); ok && n.Key == r.key {
			refused = append(refused, &kernel.OpError{Index: i, Op: op, Err: syscall.ENOMEM})
			continue
		}
		pass, at = append(pass, op), append(at, i)
	}
	more, err := r.Kernel.Apply(ctx, pass)
	for _, e := range more {
		refused = append(refused, &kernel.OpError{Index: at[e.Index], Op: e.Op, Err: e.Err})
	}
	return refused, err
}

// TestAuditRepairs undoes things one by one behind the dataplane's back.
func TestAuditRepairs(t *testing.T) {
	tn, b := newTown(3, 2), newBed()
	d := b.dataplane(t, testConfig())
	mustSync(t, d, tn)
	state := func() string { return string(b.kernel.Dump()) + b.tables.Dump() }
	want := state()
	for what, harm := range map[string]func(){
		"server":      func() { mustTamper(t, b, kernel.DelServer{Key: key(1)}) },
		"destination": func() { mustTamper(t, b, kernel.DelDest{Key: key(1), Addr: target8080(4)}) },
		"weight":      func() { mustTamper(t, b, kernel.SetDest{Key: key(1), Addr: target8080(4), Weight: 9}) },
		"scheduler":   func() { mustTamper(t, b, kernel.SetServer{Key: key(1), Server: kernel.Server{Scheduler: "wlc"}}) },
		"element": func() {
			mustTamper(t, b, kernel.DelElem{Set: "FL4-VIP", Type: kernel.HashIPPort, Elem: element(key(1))})
		},
		"surplus element": func() {
			mustTamper(t, b, kernel.AddElem{Set: "FL4-DROP", Type: kernel.HashIPPort, Elem: element(key(1))})
		},
		"address":     func() { mustTamper(t, b, kernel.DelAddr{Device: "kube-ipvs0", Addr: clusterIP(2)}) },
		"device":      func() { mustTamper(t, b, kernel.DelDevice{Name: "kube-ipvs0"}) },
		"device up":   func() { b.kernel.Up("kube-ipvs0") },
		"route":       func() { mustTamper(t, b, kernel.DelRoute{Table: 17996, To: netip.PrefixFrom(clusterIP(0), 32)}) },
		"alias route": func() { mustTamper(t, b, kernel.DelRoute{Table: 17996, To: netip.MustParsePrefix("240.0.0.0/4")}) },
		"rule": func() {
			mustTamper(t, b, kernel.DelRule{Rule: kernel.Rule{Priority: 90, Mark: 0x8000, Mask: 0x8000, Table: 17996}})
		},
		"table":      func() { b.tables.Flush(xt.IPv4, xt.Mangle) },
		"chain rule": func() { b.tables.RemoveRule(xt.IPv4, xt.NAT, "FL-SERVICES", 0) },
	} {
		harm()
		if state() == want && what != "device up" {
			t.Fatalf("%s: nothing was harmed", what)
		}
		d.Suspect()
		r, err := d.Audit(t.Context())
		if err != nil || !r.Repaired {
			t.Errorf("%s: Audit reports %+v, %v; want a repair", what, r, err)
		}
		got := state()
		if what == "device up" { // it stays up; its addresses must have no routes
			dev, _ := b.kernel.Device(t.Context(), "kube-ipvs0")
			for a, s := range dev.Addrs {
				if s.Local {
					t.Errorf("device up: %s is local", a)
				}
			}
			mustTamper(t, b, kernel.DelDevice{Name: "kube-ipvs0"})
			d.Suspect()
			_, _ = d.Audit(t.Context())
			continue
		}
		if got != want {
			t.Errorf("%s: not as before (-want +got)\n%s", what, cmp.Diff(want, got))
		}
		d.Suspect()
		if r, err := d.Audit(t.Context()); err != nil || r.Repaired {
			t.Errorf("%s: a second Audit reports %+v, %v; want nothing", what, r, err)
		}
	}
}

func mustTamper(t *testing.T, b *bed, ops ...kernel.Op) {
	t.Helper()
	if err := b.kernel.Tamper(ops...); err != nil {
		t.Fatal(err)
	}
}

// TestSetGrows fills a set of which the kernel holds fewer elements than needed.
func TestSetGrows(t *testing.T) {
	tn, b := newTown(10, 1), newBed()
	mustTamper(t, b, kernel.NewSet{Set: kernel.Set{Name: "FL4-VIP", Type: kernel.HashIPPort, MaxElem: 4}})
	d := b.dataplane(t, testConfig())
	mustSync(t, d, tn)
	elems, err := b.kernel.Elements(t.Context(), "FL4-VIP")
	if err != nil || len(elems) != 20 {
		t.Errorf("the set holds %d elements, %v; want 20", len(elems), err)
	}
}

// TestOrderDiffersByNode: round robin must not begin at one endpoint everywhere.
func TestOrderDiffersByNode(t *testing.T) {
	last := make(map[netip.AddrPort]int)
	for n := range 64 {
		b := &batch{node: fmt.Sprint("node-", n)}
		var fresh []dest
		for i := range 4 {
			fresh = append(fresh, dest{addr: target8080(2 + i)})
		}
		b.order(key(0), "rr", fresh)
		last[fresh[3].addr]++
	}
	for a, n := range last {
		if n < 6 || n > 28 {
			t.Errorf("%s is the last on %d of 64 nodes", a, n)
		}
	}
	if len(last) != 4 {
		t.Errorf("only %d of 4 endpoints are ever the last", len(last))
	}
}
