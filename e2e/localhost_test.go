//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// Node ports at localhost, of a proxy beside the rules or the virtual servers.

func TestLocalhost(t *testing.T)     { eachVariant(t, localhost, localhostFlags()...) }
func TestIPVSLocalhost(t *testing.T) { eachIPVS(t, localhost, localhostFlags()...) }

func TestLocalhostTaken(t *testing.T)     { eachVariant(t, localhostTaken, localhostFlags()...) }
func TestIPVSLocalhostTaken(t *testing.T) { eachIPVS(t, localhostTaken, localhostFlags()...) }

func TestLocalhostRestart(t *testing.T)     { eachVariant(t, localhostRestart, localhostFlags()...) }
func TestIPVSLocalhostRestart(t *testing.T) { eachIPVS(t, localhostRestart, localhostFlags()...) }

// localhostFlags have the proxy, and it tries again soon.
func localhostFlags() []string {
	return []string{"--localhost-nodeports-proxy", "--iptables-sync-period=2s", "--ipvs-sync-period=2s"}
}

func loopbacks() netns.Dual {
	return netns.Dual{V4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), V6: netip.IPv6Loopback()}
}

// call asks the node port of f once at each loopback address, from the node.
func (b *bed) call(t *testing.T, f fixture) []netns.Result {
	t.Helper()
	proto := netns.TCP
	if f.proto() == corev1.ProtocolUDP {
		proto = netns.UDP
	}
	var out []netns.Result
	for _, x := range both(b.N1.NS, loopbacks(), f.nodePort) {
		out = append(out, x.from.Probe(t.Context(), netns.Request{Proto: proto, Dst: x.dst, Timeout: 10 * time.Second}))
	}
	return out
}

// wantCalls wants n calls at each loopback address to go as want says.
func (b *bed) wantCalls(t *testing.T, when string, n int, want func(netns.Result) error, fixtures ...fixture) {
	t.Helper()
	for _, f := range fixtures {
		for i := range n {
			for j, r := range b.call(t, f) {
				if err := want(r); err != nil {
					t.Errorf("%s: %s at %v, call %d: %v", when, f.name, loopbacks().Slice()[j], i, err)
				}
			}
		}
	}
}

// oneOf wants an answer of any of these pods.
func oneOf(port uint16, pods ...netns.Dual) func(netns.Result) error {
	return func(r netns.Result) (err error) {
		for _, p := range pods {
			if err = answeredBy(p, port)(r); err == nil {
				return nil
			}
		}
		return err
	}
}

// localhost has Services come, change and go.
func localhost(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), netns.PodAddr(2, 2))
	b.serve(t, netns.UDP, 5353, pod(2), pod(3))
	b.place(t, pod(4)) // refuses
	b.cutOff(t, pod(5))
	stays, names := web(1, 2), dns(5353, podsOf(2)...)
	b.begin(t, stays, names)
	if v, err := b.N1.Sysctl("net/ipv4/conf/all/route_localnet"); err != nil || v != "0" {
		t.Errorf("route_localnet is %s, %v: neighbours can reach 127.0.0.1", v, err)
	}
	b.wantCalls(t, "at first", 3, answeredBy(pod(2), 8080), stays)
	b.wantCalls(t, "at first", 3, answeredBy(pod(2), 5353), names)
	conns := b.dialLocalhost(t, stays)

	comes, mixed, none := web(2, 3), web(3, 2, 4, 5), web(4)
	far := web(5)
	far.local, far.endpoints = true, []endpoint{{pod: netns.PodAddr(2, 2)}}
	names.endpoints = podsOf(3)
	b.apply(t, stays, comes, mixed, none, far, names)
	b.wantCalls(t, "a Service that was added", 3, answeredBy(pod(3), 8080), comes)
	b.wantCalls(t, "endpoints that refuse or cannot be reached", 8, answeredBy(pod(2), 8080), mixed)
	b.wantCalls(t, "no endpoints", 2, refused, none)
	b.wantCalls(t, "externalTrafficPolicy: Local without local endpoints", 2, answeredBy(netns.PodAddr(2, 2), 8080), far)
	b.wantCalls(t, "the endpoint was replaced", 3, answeredBy(pod(3), 5353), names)
	if n := b.metric(t, failures); n == 0 {
		t.Errorf("%s is 0, although endpoints refuse", failures)
	}
	b.fromOutside(t, stays, far)

	none.endpoints, comes.endpoints, names.endpoints = podsOf(2, 3), nil, nil
	b.apply(t, none, comes, names)
	b.wantCalls(t, "endpoints that came", 4, oneOf(8080, pod(2), pod(3)), none)
	b.wantCalls(t, "endpoints that went", 2, refused, comes, names)
	b.wantCalls(t, "a Service that was deleted", 2, refused, stays, mixed)
	if err := allAre(t, conns, netns.Reply); err != nil {
		t.Errorf("connections from before the Service was deleted: %v", err)
	}
	b.apply(t, stays)
	b.wantCalls(t, "a Service that is back", 2, answeredBy(pod(2), 8080), stays)
}

// dialLocalhost opens connections to the node port of f at the loopback addresses.
func (b *bed) dialLocalhost(t *testing.T, f fixture) []*netns.Conn {
	t.Helper()
	var out []*netns.Conn
	for _, x := range both(b.N1.NS, loopbacks(), f.nodePort) {
		c, r := x.from.Dial(t.Context(), netns.Request{Dst: x.dst, Timeout: 10 * time.Second})
		if c == nil {
			t.Fatalf("%v: %v", x.dst, r)
		}
		t.Cleanup(func() { c.Close() })
		out = append(out, c)
	}
	return out
}

// fromOutside wants node ports at the node's own address to be served by the kernel,
// by the policy for each caller.
func (b *bed) fromOutside(t *testing.T, f, far fixture) {
	t.Helper()
	before := b.metric(t, "fairlead_userspace_accepted_total")
	for _, from := range []*netns.NS{b.Client, b.N1.NS, b.place(t, pod(9))} {
		for _, x := range both(from, netns.NodeAddr(1), f.nodePort) {
			r := from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 10 * time.Second})
			if err := answeredBy(pod(2), 8080)(r); err != nil {
				t.Errorf("%v from %s: %v", x.dst, from.Name(), err)
			}
		}
	}
	for _, x := range both(b.Client, netns.NodeAddr(1), far.nodePort) {
		r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 500 * time.Millisecond})
		if r.Class != netns.Dropped {
			t.Errorf("%v from outside, without an endpoint here: %v, want it dropped", x.dst, r)
		}
	}
	if n := b.metric(t, "fairlead_userspace_accepted_total"); n != before {
		t.Errorf("the proxy has accepted %v connections that were not to localhost", n-before)
	}
}

// localhostTaken has other programs have ports, and give them back.
func localhostTaken(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	b.serve(t, netns.UDP, 5353, pod(2))
	taken, free, names := web(1, 2), web(2, 2), dns(5353, podsOf(2)...)
	var theirs []io.Closer
	err := b.N1.Do(func() error {
		for network, a := range map[string]string{"tcp4": "127.0.0.1:30001", "tcp6": "[::]:30001"} {
			l, err := net.Listen(network, a)
			if err != nil {
				return err
			}
			theirs = append(theirs, l)
		}
		l, err := net.ListenPacket("udp4", "0.0.0.0:30053")
		theirs = append(theirs, l)
		return err
	})
	for _, l := range theirs {
		t.Cleanup(func() { l.Close() })
	}
	if err != nil {
		t.Fatal(err)
	}
	b.begin(t, taken, free, names)
	b.wantCalls(t, "beside a port that is taken", 2, answeredBy(pod(2), 8080), free)
	for _, want := range []string{
		"NodeDeviation", "default/web-1", "node port 30001", "127.0.0.1:30001/tcp", "[::1]:30001/tcp", "default/dns", "127.0.0.1:30053/udp",
	} {
		if out := b.proxy.Output(); !strings.Contains(out, want) {
			t.Errorf("fairlead does not say %q:\n%s", want, b.proxy.Tail(10))
		}
	}
	for _, x := range both(b.Client, netns.NodeAddr(1), taken.nodePort) {
		r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 10 * time.Second})
		if err := answeredBy(pod(2), 8080)(r); err != nil {
			t.Errorf("%v, whose port is taken at localhost: %v", x.dst, err)
		}
	}
	for _, l := range theirs {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	took := within(t, 30*time.Second, func() error {
		var errs []error
		for _, r := range b.call(t, taken) {
			errs = append(errs, answeredBy(pod(2), 8080)(r))
		}
		for _, r := range b.call(t, names) {
			errs = append(errs, answeredBy(pod(2), 5353)(r))
		}
		return errors.Join(errs...)
	})
	t.Logf("answered %v after they were given back", took.Round(10*time.Millisecond))
}

// localhostRestart ends fairlead and starts it again. Connections end with it, and the
// ports of the next process are the same.
func localhostRestart(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	b.serve(t, netns.UDP, 5353, pod(2))
	f, names := web(1, 2), dns(5353, podsOf(2)...)
	b.begin(t, f, names)
	for i := range 3 {
		when := fmt.Sprintf("start %d", i)
		conns := b.dialLocalhost(t, f)
		b.wantCalls(t, when, 3, answeredBy(pod(2), 8080), f)
		b.wantCalls(t, when, 3, answeredBy(pod(2), 5353), names)
		if i%2 == 0 {
			b.stop(t)
		} else if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := allAre(t, conns, netns.Closed); err != nil {
			t.Errorf("%s: connections of the process that ended: %v", when, err)
		}
		b.wantCalls(t, "while nobody listens", 1, refused, f, names)
		b.start(t)
		b.await(t)
	}
	b.wantCalls(t, "in the end", 3, answeredBy(pod(2), 8080), f)
}

// TestLocalhostSwitch goes from rules for 127.0.0.1 to the proxy, which nobody notices,
// and then has the loopback addresses left out.
func TestLocalhostSwitch(t *testing.T) { eachVariant(t, localhostSwitch) }

func localhostSwitch(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	f := web(1, 2)
	b.begin(t, f)
	v4 := netip.AddrPortFrom(loopbacks().V4, f.nodePort)
	if r := b.call(t, f); answeredBy(pod(2), 8080)(r[0]) != nil || refused(r[1]) != nil {
		t.Errorf("by rules: got %v, want an answer at 127.0.0.1 only", r)
	}
	b.stop(t)
	ctx, stop := context.WithCancel(t.Context())
	calls, failed := 0, make(chan error, 1)
	go func() {
		var err error
		for ; ctx.Err() == nil && err == nil; calls++ {
			err = answeredBy(pod(2), 8080)(b.N1.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: v4, Timeout: 10 * time.Second}))
		}
		failed <- err
	}()
	restart := func(args ...string) tables {
		b.args = args
		b.start(t)
		b.await(t)
		return b.save(t)
	}
	proxied := restart(localhostFlags()...)
	b.wantCalls(t, "by the proxy", 10, answeredBy(pod(2), 8080), f)
	stop()
	if err := <-failed; err != nil || calls < 10 {
		t.Errorf("while the proxy took over, call %d: %v", calls, err)
	}
	if out := b.proxy.Output(); !strings.Contains(out, "route_localnet") {
		t.Errorf("fairlead does not say that route_localnet is set:\n%s", b.proxy.Tail(10))
	}
	b.stop(t)
	if d := cmp.Diff(proxied, restart("--iptables-localhost-nodeports=false"), cmp.AllowUnexported(tables{})); d != "" {
		t.Errorf("rules with the proxy, and without node ports at localhost (-with +without):\n%s", d)
	}
	b.stop(t)
	restart(append(localhostFlags(), "--nodeport-addresses=172.18.0.0/16,fd00:172:18::/64")...)
	b.wantCalls(t, "--nodeport-addresses leaves it out", 1, refused, f)
	for _, x := range both(b.Client, netns.NodeAddr(1), f.nodePort) {
		r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 10 * time.Second})
		if err := answeredBy(pod(2), 8080)(r); err != nil {
			t.Errorf("%v: %v", x.dst, err)
		}
	}
}
