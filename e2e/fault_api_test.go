//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
)

// TestFaultAPI takes the API server away and gives it back. Fairlead has the
// rights of system:kube-proxy and no others.
func TestFaultAPI(t *testing.T) {
	t.Parallel()
	faultAPI(t, newBed(t, "nft"))
}

func faultAPI(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.begin(t, web(1, 2))
	p := b.hammer(t, 40*time.Millisecond, append(both(b.Client, clusterIP(1), 80), both(b.Client, netns.NodeAddr(1), 30001)...)...)

	b.brokenWatch(t, api)
	b.conflict(t, api)
	b.strange(t)
	b.apply(t, web(1, 2), web(2, 3))

	if strings.Contains(b.proxy.Output(), "orbidden") {
		t.Errorf("the rights of kube-proxy are not enough:\n%s", b.proxy.Tail(40))
	}
	if err := api.ControlPlane.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	b.says(t, "cannot read from the API server")
	b.answers(t, "without the API server", web(1), web(2))
	b.stop(t)
	before := b.save(t)
	b.startWith(t, api.Args()...)
	b.says(t, "waiting for the Node object")
	b.unchanged(t, "while the restarted fairlead waits", before)
	b.stop(t) // while it waits
	b.startWith(t, api.Args()...)
	b.says(t, "going on without") // half a minute later
	b.says(t, "cannot read from the API server")
	b.unchanged(t, "when it waits no longer for its Node", before)
	b.answers(t, "with a fairlead that waits", web(1), web(2))

	if err := api.ControlPlane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.apply(t, web(1, 2), web(3, 4))
	b.answers(t, "with the API server back", web(1), web(3))
	if r := probe(t, b.Client, at(clusterIP(2), 80)[0]); r.Class == netns.Reply {
		t.Errorf("a Service deleted while fairlead could not be told: %v", r)
	}
	p.finish(t, 50)
}

// says waits until fairlead has said something.
func (b *bed) says(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.proxy.WaitOutput(ctx, text); err != nil {
		t.Fatal(err)
	}
}

// answers wants every address of Services to be answered by a pod.
func (b *bed) answers(t *testing.T, when string, fixtures ...fixture) {
	t.Helper()
	for _, f := range fixtures {
		for _, x := range at(f.ip, f.port) {
			if r := probe(t, b.Client, x); r.Class != netns.Reply {
				t.Errorf("%s: %s at %v: %v", when, f.name, x, r)
			}
		}
	}
}

func (b *bed) unchanged(t *testing.T, when string, want tables) {
	t.Helper()
	if d := cmp.Diff(b.save(t), want, cmp.AllowUnexported(tables{})); d != "" {
		t.Errorf("%s: the tables have changed (-got +want):\n%s", when, d)
	}
}

// brokenWatch makes changes that the connections of fairlead do not survive to
// see.
func (b *bed) brokenWatch(t *testing.T, api *world.API) {
	t.Helper()
	host, err := url.Parse(api.ControlPlane.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	rule := []string{"INPUT", "-i", netns.NodesBridge, "-p", "tcp", "--dport", host.Port(), "-j", "REJECT", "--reject-with", "tcp-reset"}
	firewall := func(verb string) {
		t.Helper()
		if _, err := b.Router.Output(t.Context(), "iptables-"+b.variant, append([]string{verb}, rule...)...); err != nil {
			t.Fatal(err)
		}
	}
	firewall("-I")
	b.put(t, web(1, 2), web(2, 3))
	b.says(t, "cannot read from the API server")
	if r := probe(t, b.Client, at(clusterIP(2), 80)[0]); r.Class == netns.Reply {
		t.Errorf("the watch was not broken: %v", r)
	}
	firewall("-D")
	b.await(t)
	b.says(t, "the API server answers again")
	b.answers(t, "after the watch was broken", web(1), web(2))
}

// conflict has two Services want one load-balancer address, of which the younger
// gets an Event.
func (b *bed) conflict(t *testing.T, api *world.API) {
	t.Helper()
	older, younger := web(5, 2), web(6, 3)
	older.lb, younger.lb = []string{"203.0.113.77"}, []string{"203.0.113.77"}
	b.apply(t, web(1, 2), older, younger)
	want := world.Problem{Kind: "Service", Object: service.Name{Namespace: "default", Name: "web-6"}, Reason: "FrontendConflict"}
	within(t, 10*time.Second, func() error {
		got, err := api.Problems(t.Context(), b.proxy)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(got, want) {
			return fmt.Errorf("Events: got %v, want %v among them", got, want)
		}
		for _, other := range got {
			if other.Object.Name == "web-5" {
				t.Errorf("the older Service got an Event too: %v", other)
			}
		}
		return nil
	})
	for range 8 {
		r := probe(t, b.Client, netip.MustParseAddrPort("203.0.113.77:80"))
		if want := netip.AddrPortFrom(pod(2).V4, 8080); r.From.Addr != want {
			t.Errorf("the shared address: got %v, want an answer of %v, the endpoint of the older Service", r, want)
		}
	}
}

// strange puts what is odd and admitted all the same.
func (b *bed) strange(t *testing.T) {
	t.Helper()
	deep, addrs := nested(22)
	own := plain(23)
	own.port, own.external = 22, []string{netns.NodeAddr(1).V4.String(), netns.NodeAddr(1).V6.String()}
	itself := plain(24)
	itself.endpoints = []endpoint{{pod: itself.ip}}
	b.apply(t, web(1, 2), deep, own, itself)
	for _, x := range append(addrs, at(netns.NodeAddr(1), 22)...) {
		if r := probe(t, b.N1.NS, x); r.Class != netns.Reply {
			t.Errorf("an external IP: %v: %v", x, r)
		}
	}
}
