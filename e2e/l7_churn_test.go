//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// An l7Churn is what the parts of TestL7Churn share.
type l7Churn struct {
	*l7Bed
	whole *testing.T // that servers last as long as
	proxy *l7Proxy
	pods  []*l7Pod
}

// TestL7Churn changes everything that changes in a cluster, under load. No request may fail.
func TestL7Churn(t *testing.T) {
	t.Parallel()
	b := newL7Bed(t, "churn", 1)
	c := &l7Churn{l7Bed: b, whole: t}
	for i := range 4 {
		c.pods = append(c.pods, b.pod(t, b.Nodes[0], 2+i))
	}
	c.folder.put(t, "web", c.ingress(t, "crt-0")...)
	c.folder.put(t, "endpoints", l7Service("web", "", 80, 8080, endpoints(c.pods[:2]...)...)...)
	c.proxy = b.start(t, l7Start{args: []string{"--handover-socket", c.socket(t)}})
	b.folder.settle(t, c.proxy)
	t.Run("endpoints", c.testEndpoints)
	t.Run("certificates", c.testCertificates)
	t.Run("ingresses", c.testIngresses)
	t.Run("upgrade", c.testUpgrade)
}

// socket returns where processes hand over their listeners: a folder that is their user's.
func (c *l7Churn) socket(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(c.home, "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, l7User, l7User); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "handover.sock")
}

func (c *l7Churn) ingress(t *testing.T, secret string) []any {
	t.Helper()
	return []any{
		l7Class("fairlead", "fairlead.io/ingress"), l7Certificate(t, secret, "web.test"),
		withTLS(l7Ingress("web", "web.test", map[string]string{"fairlead.io/ssl-redirect": "false"}, l7Path{path: "/", service: "web"}), secret),
	}
}

// testEndpoints rolls the pods over: a new one comes, an old one terminates while it still serves, ends its
// connections in good order, and is gone.
func (c *l7Churn) testEndpoints(t *testing.T) {
	load := c.proxy.startLoad(t, "web.test", 4)
	const rounds = 6
	next := 10
	running := append([]*l7Pod{}, c.pods[:2]...)
	servers := map[*l7Pod]*http.Server{}
	for range rounds {
		fresh := c.emptyPod(c.whole, c.Nodes[0], next)
		servers[fresh] = fresh.serve(c.whole, 8080, nil)
		next++
		old := running[0]
		eps := endpoints(append(running[1:], fresh)...)
		c.folder.put(t, "endpoints", l7Service("web", "", 80, 8080, append(eps, l7Endpoint{addr: old.v4(), terminating: true})...)...)
		c.folder.settle(t, c.proxy)
		if s := servers[old]; s != nil {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := s.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			if err := c.RemovePod(old.Pod); err != nil {
				t.Error(err)
			}
		}
		c.folder.put(t, "endpoints", l7Service("web", "", 80, 8080, eps...)...)
		c.folder.settle(t, c.proxy)
		running = append(running[1:], fresh)
	}
	load.finish(t, 500, 0)
}

// testCertificates rotates the certificate; the last one must be the one that is shown.
func (c *l7Churn) testCertificates(t *testing.T) {
	load := c.proxy.startLoad(t, "web.test", 4)
	handshakes := c.proxy.startFresh(t, "https://web.test/load", 2)
	var objects []any
	for range 8 {
		objects = c.ingress(t, "crt-0")
		c.folder.put(t, "web", objects...)
		c.folder.settle(t, c.proxy)
	}
	load.finish(t, 500, 0)
	handshakes.finish(t, 50, 0)
	conn := tls.Client(c.proxy.raw(t, 443), &tls.Config{InsecureSkipVerify: true, ServerName: "web.test"})
	defer conn.Close()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := objects[1].(*corev1.Secret)
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, pair.Certificate[0]) {
		t.Error("the certificate is not the last one")
	}
}

const manyIngress = `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: default, name: many-%[1]d-%[2]d, annotations: {fairlead.io/response-headers: "X-Version: %[3]d"}}
spec:
  ingressClassName: fairlead
  rules:
  - host: host-%[1]d-%[2]d.test
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /exact, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
`

// testIngresses changes a thousand Ingresses in each second, each of which changes the way of some requests.
func (c *l7Churn) testIngresses(t *testing.T) {
	lasts := 15 * time.Second
	if os.Getenv("FAIRLEAD_E2E_LONG") == "1" {
		lasts = time.Minute
	}
	const each, files = 100, 10 // a file has each Ingresses, and one file is written every 100 ms
	write := func(file, version int) {
		var objects []any
		for i := range each {
			objects = append(objects, fmt.Sprintf(manyIngress, file, i, version))
		}
		c.folder.put(t, fmt.Sprintf("many-%d", file), objects...)
	}
	for file := range files {
		write(file, 0)
	}
	c.folder.settle(t, c.proxy)
	load := c.proxy.startLoad(t, "web.test", 4)
	changing := c.proxy.startLoad(t, "host-3-7.test", 1)
	begun := time.Now()
	tick := time.NewTicker(time.Second / files)
	defer tick.Stop()
	n := 0
	for time.Since(begun) < lasts {
		<-tick.C
		write(n%files, n/files+1)
		n++
	}
	took := time.Since(begun)
	rate := float64(n*each) / took.Seconds()
	settled := time.Now()
	c.folder.settle(t, c.proxy)
	t.Logf("%d changes in %v, %.0f/s, all in force %v after the last", n*each, took.Round(time.Millisecond), rate, time.Since(settled).Round(time.Millisecond))
	load.finish(t, 1000, 0)
	changing.finish(t, 100, 0)
	a := fetch(t, c.proxy.client(), fmt.Sprintf("http://host-%d-5.test/", (n-1)%files))
	if got, want := a.Header.Get("X-Version"), fmt.Sprint((n-1)/files+1); got != want {
		t.Errorf("version %s is in force, want %s", got, want)
	}
	if rate < 900 {
		t.Errorf("only %.0f changes/s were made", rate)
	}
}

// testUpgrade replaces the process by another one, twice, which takes over its listeners.
func (c *l7Churn) testUpgrade(t *testing.T) {
	load := c.proxy.startLoad(t, "web.test", 4)
	for range 2 {
		time.Sleep(time.Second)
		old := c.proxy
		successor := c.launch(c.whole, l7Start{args: []string{
			"--handover-socket", filepath.Join(c.home, "run", "handover.sock"), "--healthz-bind-address", "", "--metrics-bind-address", "", "--status-bind-address", "",
		}})
		select {
		case <-old.Done():
		case <-time.After(20 * time.Second):
			t.Fatalf("the old process does not end; the new one says:\n%s", lastLines(successor.Stderr(), 10))
		}
		if err := old.Wait(); err != nil {
			t.Errorf("the old process: %v", err)
		}
		c.proxy = successor
	}
	time.Sleep(time.Second)
	load.finish(t, 500, 0)
	c.folder.settle(t, c.proxy)
}
