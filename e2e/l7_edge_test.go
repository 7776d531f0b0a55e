//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// An l7Edge is two edge nodes with fairlead l7, behind one address that fairlead's L4 has in the router.
//
//	client ──▶ router: fairlead --proxy-mode=iptables, 203.0.113.80 ──┬─▶ n1: fairlead l7 ─┬─▶ pods on n3
//	                                                                  └─▶ n2: fairlead l7 ─┘
//
// Who is ready is what /readyz says, as a kubelet would see it.
type l7Edge struct {
	*l7Bed
	vip  *l7Proxy // for its clients
	l4   *l7Folder
	edge [2]*l7Proxy

	mu    sync.Mutex
	ready [2]bool
}

// TestL7Edge lets clients come through an address of L4 to two processes of L7, one of which goes: killed, and told to.
func TestL7Edge(t *testing.T) {
	t.Parallel()
	b := newL7Bed(t, "edge", 3)
	e := &l7Edge{l7Bed: b, l4: &l7Folder{dir: filepath.Join(b.home, "l4")}}
	e.vip = &l7Proxy{bed: b, at: netip.MustParseAddr("203.0.113.80")}
	pods := []*l7Pod{b.pod(t, b.Nodes[2], 2), b.pod(t, b.Nodes[2], 3)}
	objects := append(l7Service("web", "", 80, 8080, endpoints(pods...)...), l7Class("fairlead", "fairlead.io/ingress"), l7Certificate(t, "crt", "web.test"),
		withTLS(l7Ingress("web", "web.test", map[string]string{"fairlead.io/ssl-redirect": "false"}, l7Path{path: "/", service: "web"}), "crt"))
	b.folder.put(t, "test", objects...)
	e.startL4(t)
	e.follow(t)
	t.Run("nobody is ready", func(t *testing.T) {
		if a, err := ask(fresh(e.vip.client()), request(t, "http://web.test/")); err == nil {
			t.Errorf("somebody answers: %+v", a)
		}
	})
	e.startEdge(t, 0)
	t.Run("one is ready", func(t *testing.T) { e.asked(t, "n1") })
	e.startEdge(t, 1)
	t.Run("both are ready", func(t *testing.T) { e.asked(t, "n1", "n2") })
	t.Run("one is told to stop", e.testStop)
	e.startEdge(t, 1)
	t.Run("one is killed", e.testKill)
}

// startL4 runs fairlead in the router, whose own the endpoints are taken for: then it leaves clients their addresses.
func (e *l7Edge) startL4(t *testing.T) {
	t.Helper()
	if err := os.Mkdir(e.l4.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e.write(t)
	p := e.Router.Command(context.WithoutCancel(t.Context()), e.binary, "--manifests", e.l4.dir, "--proxy-mode", "iptables", "--hostname-override", "router",
		"--cluster-cidr", "10.244.0.0/16", "--iptables-min-sync-period", "100ms", "--healthz-bind-address", "172.18.0.1:10256", "--nodeport-addresses", "172.18.0.1/32")
	p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(e.home, "xtables.lock"))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("fairlead in the router said:\n%s", lastLines(p.Output(), 30))
		}
	})
	within(t, 20*time.Second, func() error {
		if out := p.Output(); !strings.Contains(out, "first sync done") {
			return fmt.Errorf("fairlead in the router is not ready:\n%s", lastLines(out, 10))
		}
		return nil
	})
}

const edgeService = `apiVersion: v1
kind: Service
metadata: {namespace: fairlead-l7, name: edge}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 30999
  clusterIP: 10.96.0.80
  clusterIPs: [10.96.0.80]
  ipFamilies: [IPv4]
  ports:
  - {name: http, protocol: TCP, port: 80, nodePort: 30080}
  - {name: https, protocol: TCP, port: 443, nodePort: 30443}
status: {loadBalancer: {ingress: [{ip: 203.0.113.80, ipMode: VIP}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: fairlead-l7, name: edge-1, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports:
- {name: http, protocol: TCP, port: 80}
- {name: https, protocol: TCP, port: 443}
endpoints:
`

// write tells L4 who is ready. e.mu is held, or nobody else is there yet.
func (e *l7Edge) write(t *testing.T) {
	t.Helper()
	text := edgeService
	for i, ready := range e.ready {
		text += fmt.Sprintf("- {addresses: [%s], nodeName: router, conditions: {ready: %v, serving: %v, terminating: false}}\n", netns.NodeAddr(i+1).V4, ready, ready)
	}
	e.l4.put(t, "edge", text)
}

// follow asks both processes again and again whether they are ready.
func (e *l7Edge) follow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DialContext: dialFrom(e.Router), DisableKeepAlives: true}, Timeout: time.Second}
	done.Go(func() {
		for ctx.Err() == nil {
			now := [2]bool{}
			for i := range now {
				resp, err := client.Get(fmt.Sprintf("http://%s:10261/readyz", netns.NodeAddr(i+1).V4))
				if err == nil {
					resp.Body.Close()
					now[i] = resp.StatusCode == http.StatusOK
				}
			}
			e.mu.Lock()
			if now != e.ready {
				e.ready = now
				e.write(t)
			}
			e.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

func (e *l7Edge) startEdge(t *testing.T, i int) {
	t.Helper()
	e.edge[i] = e.start(t, l7Start{node: e.Nodes[i]})
}

// asked waits until requests to the address come through exactly these nodes, with the client's address.
func (e *l7Edge) asked(t *testing.T, nodes ...string) {
	t.Helper()
	client := fresh(e.vip.client())
	within(t, 15*time.Second, func() error {
		through := make(map[string]bool)
		for range 40 {
			a, err := ask(client, request(t, "http://web.test/"))
			if err != nil || a.Seen == nil {
				return fmt.Errorf("no answer: %+v, %v", a, err)
			}
			if got, want := a.Seen.Header.Get("X-Forwarded-For"), netns.ClientAddr(1).V4.String(); got != want {
				t.Fatalf("the client is %s for the server, want %s", got, want)
			}
			from := netip.MustParseAddrPort(a.Seen.From).Addr()
			for k := range e.Nodes {
				if from == netns.NodeAddr(k+1).V4 {
					through[fmt.Sprintf("n%d", k+1)] = true
				}
			}
		}
		var got []string
		for name := range through {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, nodes) {
			return fmt.Errorf("requests come through %v, want %v", got, nodes)
		}
		return nil
	})
}

// testStop ends one of the two in good order. Nobody may notice.
func (e *l7Edge) testStop(t *testing.T) {
	load := e.vip.startLoad(t, "web.test", 4)
	time.Sleep(time.Second)
	if err := e.edge[1].Stop(20 * time.Second); err != nil {
		t.Errorf("fairlead l7: %v", err)
	}
	e.asked(t, "n1")
	load.finish(t, 300, 0)
}

// testKill kills one of the two. What it had in hand is lost, and what L4 still sends there until it knows; no more.
func (e *l7Edge) testKill(t *testing.T) {
	e.asked(t, "n1", "n2")
	load := e.vip.startLoad(t, "web.test", 4)
	time.Sleep(time.Second)
	killed := time.Now()
	if err := e.edge[1].Kill(); err != nil {
		t.Fatal(err)
	}
	e.asked(t, "n1")
	known := time.Now()
	time.Sleep(time.Second)
	load.finish(t, 300, 200)
	load.mu.Lock()
	defer load.mu.Unlock()
	last, late := time.Duration(0), 0
	for _, at := range load.failed {
		if at.Before(killed) {
			t.Errorf("a request failed %v before the process was killed", killed.Sub(at))
		}
		if at.After(known) {
			late++
		}
		last = max(last, at.Sub(killed))
	}
	if late > mayReuse {
		t.Errorf("%d requests failed after all were led elsewhere", late)
	}
	if last > 2*time.Second {
		t.Errorf("requests failed for %v", last)
	}
	t.Logf("%d requests failed within %v, %d of them after all were led elsewhere, which was after %v",
		len(load.failed), last.Round(time.Millisecond), late, known.Sub(killed).Round(time.Millisecond))
}

// mayReuse is how many connections may have the port of one that the killed process has reset. To the kernel that is the
// old connection for another 10 seconds (nf_conntrack_tcp_timeout_close), and goes where that one went.
const mayReuse = 3
