//go:build linux

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// affinityTimeout is long enough for a few probes of each caller.
const affinityTimeout = 4 * time.Second

const affinityCase = `# Clients of a Service with a short affinity.
covers x/y
objects all.yaml
affinity default/web:http 4s
affinity default/web:dns 4s
-- all.yaml --
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:10:96::10"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 4}}
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080}
  - {name: dns, protocol: UDP, port: 53, targetPort: 8053}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, protocol: TCP, port: 8080}
- {name: dns, protocol: UDP, port: 8053}
endpoints:
- {addresses: [10.244.1.4], nodeName: n1}
- {addresses: [10.244.2.5], nodeName: n2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports:
- {name: http, protocol: TCP, port: 8080}
- {name: dns, protocol: UDP, port: 8053}
endpoints:
- {addresses: ["fd00:10:244:1::4"], nodeName: n1}
- {addresses: ["fd00:10:244:2::5"], nodeName: n2}
`

// TestAffinity holds what single flows cannot show: that clients are spread, each
// stays where it is, and none does so for longer than the timeout.
func TestAffinity(t *testing.T) {
	binary := requireWorld(t)
	var wg sync.WaitGroup
	for _, tools := range []string{"nft", "legacy"} {
		wg.Go(func() { t.Run(tools, func(t *testing.T) { affinityWith(t, world.Fairlead(binary, tools)) }) })
	}
	wg.Wait()
}

func affinityWith(t *testing.T, prog world.Program) {
	w := newWorld(t, world.Config{})
	inForce(t, w, prog, affinityCase)
	var wg sync.WaitGroup
	for _, to := range []struct {
		proto netns.Proto
		dst   string
	}{
		{netns.TCP, "10.96.0.10:80"}, {netns.TCP, "[fd00:10:96::10]:80"},
		{netns.UDP, "10.96.0.10:53"}, {netns.UDP, "[fd00:10:96::10]:53"},
	} {
		wg.Go(func() {
			t.Run(to.proto.String()+" "+to.dst, func(t *testing.T) {
				affinity(t, w, to.proto, netip.MustParseAddrPort(to.dst))
			})
		})
	}
	wg.Wait()
}

// affinity has 24 clients call: that all choose the same endpoint, or that none
// chooses another one the second time, happens once in eight million runs.
func affinity(t *testing.T, w *world.World, proto netns.Proto, dst netip.AddrPort) {
	before := choices(t, w, proto, dst)
	if first := before[0]; !slices.ContainsFunc(before, func(a netip.AddrPort) bool { return a != first }) {
		t.Errorf("all clients came to %s, want them spread over two endpoints", first)
	}
	time.Sleep(affinityTimeout + time.Second) // the kernel counts in seconds, and there is no other clock
	after := choices(t, w, proto, dst)
	if slices.Equal(before, after) {
		t.Errorf("all %d clients came to the same endpoints after the timeout", len(before))
	}
}

// choices returns the endpoint of each client, which must be one and the same
// for a few calls in a row.
func choices(t *testing.T, w *world.World, proto netns.Proto, dst netip.AddrPort) []netip.AddrPort {
	t.Helper()
	var out []netip.AddrPort
	for m := 20; m < 44; m++ {
		src := netns.PodAddr(1, m).Like(dst.Addr())
		from, err := w.Place(src)
		if err != nil {
			t.Fatal(err)
		}
		var first netip.AddrPort
		for n := range 4 {
			r := from.Probe(t.Context(), netns.Request{Proto: proto, Src: src, Dst: dst, Timeout: 2 * time.Second})
			if r.Class != netns.Reply {
				t.Fatalf("client %s: got %v, want an answer", src, r)
			}
			if n == 0 {
				first = r.From.Addr
			}
			if r.From.Addr != first {
				t.Errorf("client %s came to %s and then to %s", src, first, r.From.Addr)
			}
		}
		out = append(out, first)
	}
	return out
}

// inForce runs a proxy with the first step of a case until the test ends, and
// returns when the step is in force.
func inForce(t *testing.T, w *world.World, prog world.Program, text string) {
	t.Helper()
	c, err := servicetest.Parse("own", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s, src := &c.Steps[0], newManifests(t, w)
	if err := w.Prepare(s); err != nil {
		t.Fatal(err)
	}
	m, err := w.NewMarker()
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Put(t.Context(), world.State{Services: s.Services, Slices: s.Slices, Marker: m}); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat(src.Args(), world.NodeArgs(c.Config, src.HasNode()))
	p, err := w.Start(context.WithoutCancel(t.Context()), prog, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := w.Await(t.Context(), m, p); err != nil {
		t.Fatal(err)
	}
}
