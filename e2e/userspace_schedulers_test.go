//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// builtSchedulers are the loads for the schedulers that the proxy has. What tells
// them apart is the same as in the kernel.
func builtSchedulers() []loaded {
	return slices.DeleteFunc(loadedSchedulers(), func(s loaded) bool {
		return slices.Contains([]string{"lblc", "lblcr", "twos"}, s.name)
	})
}

// awaitClosed waits until the proxy has no connections but those of a load.
func (l *load) awaitClosed(t *testing.T) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		if n := l.b.metric(t, connections); n != float64(l.total()) {
			return fmt.Errorf("the proxy has %v connections, want %d", n, l.total())
		}
		return nil
	})
}

// TestUserspaceSchedulers has a Service for each scheduler that is asked for by an
// annotation, and shares out connections that are kept open, by weight, in both
// families.
func TestUserspaceSchedulers(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		all := builtSchedulers()
		var pools []pool
		for i, s := range all {
			pools = append(pools, s.pool(1+i, s.annotations))
		}
		b.beginPools(t, pools...)
		d := &distribution{}
		d.add("scheduler", "load", "connections of the endpoints of weight 1, 2, 3, 4")
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
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
	})
}

// TestUserspaceSchedulerLoads puts the load for each scheduler on all the others: if
// one of them shared it out in the same way, the load would prove nothing.
func TestUserspaceSchedulerLoads(t *testing.T) {
	t.Parallel()
	b := newBedIn(t, world.Userspace, variants()[0])
	var pools []pool
	type pair struct{ is, other loaded }
	var pairs []pair
	for _, is := range builtSchedulers() {
		for _, other := range builtSchedulers() {
			if is.name != other.name {
				pairs = append(pairs, pair{is, other})
				p := is.pool(len(pairs), other.annotations)
				p.onlyV4 = true
				pools = append(pools, p)
			}
		}
	}
	b.beginPools(t, pools...)
	for i, p := range pairs {
		t.Run(p.is.name+" on "+p.other.name, func(t *testing.T) {
			if _, err := p.is.play(t, b, pools, i, 0); err == nil {
				t.Errorf("the load for %s does not tell it from %s", p.is.name, p.other.name)
			}
		})
	}
}

// TestUserspaceSchedulerDefault asks for a scheduler on the command line, for those
// Services that ask for none themselves.
func TestUserspaceSchedulerDefault(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		byName := make(map[string]loaded)
		for _, s := range builtSchedulers() {
			byName[s.name] = s
		}
		pools := []pool{byName["nq"].pool(1, nil), byName["wrr"].pool(2, ours("wrr", ""))}
		b.beginPools(t, pools...)
		for family := range 2 {
			for i, name := range []string{"nq", "wrr"} {
				if _, err := byName[name].play(t, b, pools, i, family); err != nil {
					t.Errorf("Service %d: %v", i, err)
				}
			}
		}
	}, "--userspace-scheduler=nq")
}

// TestUserspaceSchedulerWeights changes weights while connections are open, and
// wants new ones to be shared out by them.
func TestUserspaceSchedulerWeights(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
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
			} {
				b.applyPools(t, p.reweighted(s.weights...))
				had, n := l.counts(), 0
				for _, k := range s.want {
					n += k
				}
				l.must(t, n)
				got := minus(l.counts(), had)
				for i := range got { // the turn it was in its cycle may be another
					if got[i] < s.want[i]-1 || got[i] > s.want[i]+1 {
						t.Errorf("%v with weights %q: got %v, want %v or nearly so", l.dst, s.weights, got, s.want)
						break
					}
				}
				if err := l.alive(t); err != nil {
					t.Errorf("%v with weights %q: %v", l.dst, s.weights, err)
				}
			}
			l.letGo(-1)
		}
	})
}

// TestUserspaceSchedulerHash wants sh to know a client again by its address, or by
// its port as well if asked to; to heed weights; and to leave clients where they are
// when somebody else's endpoint goes.
func TestUserspaceSchedulerHash(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		pools := []pool{
			newPool(1, ours("sh", ""), weighted()...),
			newPool(2, routers("sh", "sh-port"), weighted()...),
			newPool(3, ours("mh", ""), weighted()...),
		}
		b.beginPools(t, pools...)
		const n = 100
		first := make(map[string][]int)
		for again := range 2 {
			for i, p := range pools {
				for family := range 2 {
					l, sources := b.newLoad(t, p, family), clientPorts(n, family)
					if i == 0 {
						sources = b.clientAddrs(t, n, family)
					}
					name := fmt.Sprint(p.name, family)
					ends := l.endsOf(t, sources, again == 1)
					if again == 0 {
						first[name] = ends
						checkHashed(t, name, ends)
					} else if !slices.Equal(ends, first[name]) {
						t.Errorf("%s: %d clients came to\n%v and then to\n%v", name, n, first[name], ends)
					}
				}
			}
		}
		// One client, without its port: always the same.
		l := b.newLoad(t, pools[0], 0)
		if got := slices.Compact(slices.Sorted(slices.Values(l.endsOf(t, clientPorts(20, 0), false)))); len(got) != 1 {
			t.Errorf("sh sends one client to the endpoints %v", got)
		}
		// The second endpoint leaves.
		fewer := slices.Clone(pools)
		fewer[0] = pools[0].without(1)
		b.applyPools(t, fewer...)
		for family := range 2 {
			l := b.newLoad(t, pools[0], family)
			was := first[fmt.Sprint(pools[0].name, family)]
			for i, end := range l.endsOf(t, b.clientAddrs(t, n, family), false) {
				if end == 1 || was[i] != 1 && end != was[i] {
					t.Errorf("family %d: client %d came to endpoint %d, and to %d when 1 was gone", family, i, was[i], end)
				}
			}
		}
	})
}

// checkHashed wants clients to be spread by the weights 1, 2, 3, 4. That one of the
// counts is out of these bounds happens to less than one pair of addresses in a
// million; it is the same in every run.
func checkHashed(t *testing.T, name string, ends []int) {
	t.Helper()
	got := count(ends, 4)
	t.Logf("%s: %s", name, shares(got))
	for i, k := range got {
		if fair := len(ends) * (i + 1) / 10; k == 0 || k < fair-24 || k > fair+24 {
			t.Errorf("%s: endpoint %d has %d of %d clients, want about %d: %v", name, i, k, len(ends), fair, got)
		}
	}
}

// TestUserspaceAffinity binds clients to endpoints, over TCP and UDP, and lets go of
// those who have not called for the timeout.
func TestUserspaceAffinity(t *testing.T) {
	binary := requireWorld(t)
	t.Parallel()
	for _, v := range variants() {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, world.Config{})
			inForce(t, w, world.FairleadMode(binary, world.Userspace, v), affinityCase)
			for proto, port := range map[netns.Proto]uint16{netns.TCP: 80, netns.UDP: 53} {
				for _, a := range []string{"10.96.0.10", "fd00:10:96::10"} {
					dst := netip.AddrPortFrom(netip.MustParseAddr(a), port)
					t.Run(fmt.Sprint(proto, " ", dst), func(t *testing.T) {
						t.Parallel()
						boundByTurns(t, w, proto, dst)
					})
				}
			}
		})
	}
}

// boundByTurns has 24 clients call, who get the two endpoints by turns, and again
// after the timeout, when somebody else has had a turn: each is at the other one.
func boundByTurns(t *testing.T, w *world.World, proto netns.Proto, dst netip.AddrPort) {
	before := choices(t, w, proto, dst)
	for i, a := range before {
		if (a == before[0]) != (i%2 == 0) {
			t.Errorf("client %d came to %v, want the endpoints by turns: %v", i, a, before)
			break
		}
	}
	time.Sleep(affinityTimeout + time.Second) // of the proxy's clock; there is no other one
	between, err := w.Place(netns.PodAddr(1, 50).Like(dst.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	if r := between.Probe(t.Context(), netns.Request{Proto: proto, Dst: dst, Timeout: 10 * time.Second}); r.Class != netns.Reply {
		t.Fatal(r)
	}
	for i, a := range choices(t, w, proto, dst) {
		if a == before[i] {
			t.Errorf("client %d is still at %v after the timeout", i, a)
		}
	}
}

// TestUserspaceAffinityFails has the endpoint of a client refuse: the client is bound
// to another, and stays there when the first is back.
func TestUserspaceAffinityFails(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		p := newPool(1, nil, equal(2)...)
		p.affinity = true
		var servers []*netns.Server
		for _, e := range p.endpoints {
			for _, a := range e.pod.Slice() {
				s, err := b.place(t, e.pod).Serve(netns.TCP, netip.AddrPortFrom(a, p.target))
				if err != nil {
					t.Fatal(err)
				}
				servers = append(servers, s)
			}
		}
		b.putPools(t, p)
		b.start(t)
		b.await(t)
		ask := func(family int) netip.AddrPort {
			t.Helper()
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: at(p.ip, p.port)[family], Timeout: 30 * time.Second})
			if r.Class != netns.Reply {
				t.Fatal(r)
			}
			return r.From.Addr
		}
		for family := range 2 {
			was := ask(family)
			for range 5 {
				if now := ask(family); now != was {
					t.Errorf("a client came to %v and then to %v", was, now)
				}
			}
			i := slices.IndexFunc(servers, func(s *netns.Server) bool { return s.Identity().Addr == was })
			if err := servers[i].Close(); err != nil {
				t.Fatal(err)
			}
			now := ask(family)
			if now == was {
				t.Fatalf("%v answers although it is closed", was)
			}
			if err := b.Serve(netns.TCP, was); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				if then := ask(family); then != now {
					t.Errorf("a client that was bound to %v anew came to %v", now, then)
				}
			}
		}
	})
}
