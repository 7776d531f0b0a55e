//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// The faults that every mode has to bear.

func TestIPVSFaultTCP(t *testing.T)           { eachIPVS(t, faultTCP) }
func TestIPVSFaultUDP(t *testing.T)           { eachIPVS(t, faultUDP) }
func TestIPVSFaultHostile(t *testing.T)       { eachIPVS(t, faultHostile) }
func TestIPVSFaultForwardPolicy(t *testing.T) { eachIPVS(t, faultForwardPolicy) }
func TestIPVSFaultRestart(t *testing.T)       { eachIPVS(t, faultRestart) }
func TestIPVSFaultAPI(t *testing.T)           { faultAPI(t, newIPVSBed(t)) }

// servers reads the virtual servers of n1, with their destinations. Where there is
// no IPVS yet there are none.
func (b *bed) servers(t *testing.T) string {
	t.Helper()
	out, err := b.tool(t.Context(), "", "ipvsadm", "-Sn")
	if err != nil && b.proxy != nil {
		t.Fatal(err)
	}
	return out
}

// awaitServers waits until the virtual servers of n1 are not what they were before
// the last put.
func (b *bed) awaitServers(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); b.servers(t) == b.before; {
		if time.Now().After(deadline) {
			t.Fatalf("fairlead does nothing about a change\n%s", b.proxy.Tail(20))
		}
		time.Sleep(time.Millisecond)
	}
}

// TestIPVSFaultKill kills fairlead again and again, at random and as soon as it
// has begun to write. Nobody who connects may notice, and in the end the kernel
// must be as if nothing had happened.
func TestIPVSFaultKill(t *testing.T) { eachIPVS(t, faultKillIPVS) }

func faultKillIPVS(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
	b.begin(t, crowd(0)...)
	p := b.hammerWatched(t)
	const rounds = 12
	writing := 0
	for i := range rounds {
		if i%3 != 2 { // else killed while it starts
			b.await(t)
		}
		b.put(t, crowd(i+1)...)
		if i%3 == 0 {
			b.awaitServers(t)
		} else {
			time.Sleep(rand.N(150 * time.Millisecond))
		}
		if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
		if b.mixed(t, i+1) {
			writing++
		}
		b.start(t)
	}
	b.await(t)
	p.finish(t, 50)
	t.Logf("killed %d times, %d of them halfway", rounds, writing)
	b.wantAsFresh(t)
}

// mixed reports whether there are servers of a generation of bystanders, and of
// another one.
func (b *bed) mixed(t *testing.T, generation int) bool {
	t.Helper()
	now, other := false, false
	for line := range strings.Lines(b.run(t, "ipvsadm -Sn")) {
		words := strings.Fields(line)
		at, err := netip.ParseAddrPort(words[2])
		if err != nil || words[0] != "-A" || at.Port() < 1000 || at.Port() > 1999 {
			continue
		}
		if at.Port() == uint16(1000+generation) {
			now = true
		} else {
			other = true
		}
	}
	return now && other
}

// TestIPVSFaultUnchanged kills and restarts fairlead where nothing has changed: it
// must find that out, and write nothing.
func TestIPVSFaultUnchanged(t *testing.T) {
	eachIPVS(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
		b.begin(t, crowd(0)...)
		p := b.hammerWatched(t)
		conns := b.dialAll(t, 10)
		want := b.save(t)
		for i := range 4 {
			if err := b.proxy.Kill(); err != nil {
				t.Fatal(err)
			}
			b.start(t)
			b.await(t)
			if n := b.metric(t, "fairlead_ipvs_changes_total"); n != 0 {
				t.Errorf("start %d: %v changes, want none", i, n)
			}
			if d := cmp.Diff(b.save(t), want, cmp.AllowUnexported(tables{})); d != "" {
				t.Errorf("start %d: the kernel has changed (-got +want):\n%s", i, d)
			}
			for j, c := range conns {
				if r := c.Exchange(t.Context(), "still there"); r.Class != netns.Reply {
					t.Errorf("start %d: connection %d: %v", i, j, r)
				}
			}
		}
		p.finish(t, 50)
	})
}

// TestIPVSFaultDeparted has the pod of a connection go. One that was deleted will
// never answer, so its connections are cut; one that merely left the Service keeps
// them.
func TestIPVSFaultDeparted(t *testing.T) {
	eachIPVS(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
		deleted, left := web(1, 2), web(2, 3)
		b.begin(t, deleted, left)
		dial := func(f fixture) []*netns.Conn {
			var out []*netns.Conn
			for _, from := range []*netns.NS{b.place(t, pod(9)), b.N1.NS, b.Client} {
				for _, a := range f.ip.Slice() {
					c, r := from.Dial(t.Context(), netns.Request{Dst: netip.AddrPortFrom(a, 80), Timeout: 5 * time.Second})
					if c == nil {
						t.Fatalf("%s from %s: %v", f.name, from.Name(), r)
					}
					t.Cleanup(func() { c.Close() })
					out = append(out, c)
				}
			}
			return out
		}
		doomed, kept := dial(deleted), dial(left)
		all := func(conns []*netns.Conn, want netns.Class) error {
			var errs []error
			for i, c := range conns {
				if r := c.Exchange(t.Context(), "hello"); r.Class != want {
					errs = append(errs, fmt.Errorf("connection %d: got %v, want %v", i, r, want))
				}
			}
			return errors.Join(errs...)
		}
		deleted.endpoints = []endpoint{{pod(2), true}, {pod: pod(4)}}
		left.endpoints = podsOf(4)
		b.apply(t, deleted, left)
		time.Sleep(4 * time.Second) // nothing may happen in this time
		if err := errors.Join(all(doomed, netns.Reply), all(kept, netns.Reply)); err != nil {
			t.Errorf("while it terminates: %v", err)
		}
		deleted.endpoints = podsOf(4)
		b.apply(t, deleted, left)
		took := within(t, 10*time.Second, func() error { return all(doomed, netns.Closed) })
		t.Logf("cut after %v", took.Round(10*time.Millisecond))
		if err := all(kept, netns.Reply); err != nil {
			t.Errorf("of the endpoint that is still there: %v", err)
		}
	})
}

// TestIPVSFaultSCTP keeps associations while their endpoint leaves, and then the
// Service.
func TestIPVSFaultSCTP(t *testing.T) {
	if !netns.HasSCTP() {
		requireIPVS(t)
		t.Skip("the kernel has no sockets for SCTP")
	}
	eachIPVS(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.SCTP, 8080, pod(2), pod(3))
		f := web(1, 2)
		f.protocol = corev1.ProtocolSCTP
		b.begin(t, f)
		var conns []*netns.Conn
		for i, from := range []*netns.NS{b.place(t, pod(9)), b.N1.NS, b.Client, b.Client} {
			for j, a := range f.ip.Slice() {
				at := netip.AddrPortFrom(a, 80)
				if i == 3 {
					at = netip.AddrPortFrom(netns.NodeAddr(1).Slice()[j], f.nodePort)
				}
				c, r := from.Dial(t.Context(), netns.Request{Proto: netns.SCTP, Dst: at, Timeout: 5 * time.Second})
				if c == nil {
					t.Fatalf("from %s to %v: %v", from.Name(), at, r)
				}
				t.Cleanup(func() { c.Close() })
				conns = append(conns, c)
			}
		}
		talk := func(when string) {
			t.Helper()
			for i, c := range conns {
				if r := c.Exchange(t.Context(), when); r.Class != netns.Reply {
					t.Errorf("%s: association %d: %v", when, i, r)
				}
			}
		}
		f.endpoints = podsOf(3)
		b.apply(t, f)
		talk("when the endpoint has left")
		for _, x := range at(f.ip, 80) {
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.SCTP, Dst: x, Timeout: 5 * time.Second})
			if err := answeredBy(pod(3), 8080)(r); err != nil {
				t.Errorf("a new association: %v", err)
			}
		}
		b.apply(t)
		talk("when the Service has gone")
	})
}
