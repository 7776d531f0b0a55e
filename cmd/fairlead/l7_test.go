package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

func TestCheckMigrate(t *testing.T) {
	file := filepath.Join("testdata", "migrate.yaml")
	code, out, errs := invoke("check", "--migrate", "-f", file)
	if code != 1 || errs != "" {
		t.Errorf("exit status %d, want 1 for what is not supported; errors: %s", code, errs)
	}
	golden.File(t, filepath.Join("testdata", "migrate.txt"), out)
	_, out, _ = invoke("check", "--migrate", "-f", file, "-o", "json", "--all")
	golden.File(t, filepath.Join("testdata", "migrate.json"), out)
	var report struct{ Ingresses []any }
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Ingresses) != 3 {
		t.Errorf("%d entries, %v; want all three Ingresses", len(report.Ingresses), err)
	}
}

func TestCheckUsage(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"check -f x.yaml", "--migrate"},
		{"check --migrate -f testdata/migrate.yaml -o yaml", "--output"},
		{"check --migrate -f testdata/migrate.yaml --configmap x", "--configmap"},
		{"check --migrate -f testdata/migrate.yaml --configmap a/b", "there is no ConfigMap a/b"},
		{"check --migrate -f testdata/nothing.yaml", "nothing.yaml"},
	} {
		code, _, errs := invoke(strings.Fields(c.args)...)
		if code == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit status %d, %q; want %q in it", c.args, code, errs, c.want)
		}
	}
}

func parseL7(t *testing.T, args ...string) (l7Config, error) {
	t.Helper()
	var f l7Flags
	fs := pflag.NewFlagSet("l7", pflag.ContinueOnError)
	f.add(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f.configL7(func(name string) string { return map[string]string{"POD_NAMESPACE": "edge"}[name] })
}

func TestL7Flags(t *testing.T) {
	c, err := parseL7(t, "--default-backend-service=a/b", "--configmap=c/d", "--default-ssl-certificate=e/f", "--shared-key-secret=g/h",
		"--publish-status-address=192.0.2.1,lb.example.com", "--status-allow=10.1.2.3/8", "--adopt-ingress-nginx", "--ingress-class=web",
		"--ingress-class-by-name", "--watch-ingress-without-class", "--enable-ssl-passthrough")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		c.server.DefaultBackend, c.server.Globals, c.server.DefaultCertificate, c.server.Keys, c.lease, len(c.addresses), c.allow[0].String(),
		len(c.server.Ingress.Classes), c.server.Ingress.Classes[0].Annotation, c.server.Ingress.Classes[0].ByName,
		c.server.Ingress.WithoutClass, c.server.Passthrough,
	}
	n := func(ns, name string) service.Name { return service.Name{Namespace: ns, Name: name} }
	want := []any{
		n("a", "b"), n("c", "d"), n("e", "f"), n("g", "h"), n("edge", "fairlead-l7"), 2, "10.0.0.0/8", 2, "web", "web", true, true,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
}

func TestL7FlagsBad(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"--default-backend-service=x", "--default-backend-service"},
		{"--configmap=a/b/c", "--configmap"},
		{"--http-bind-address=80", "--http-bind-address"},
		{"--status-allow=10.0.0.1", "--status-allow"},
		{"--publish-status-address=not_a_host!", "--publish-status-address"},
		{"--max-connections=-1", "--max-connections"},
		{"--max-connections-per-client=-1", "--max-connections-per-client"},
		{"--shutdown-grace-period=-1s", "--shutdown-grace-period"},
		{"--publish-service=a/b --publish-status-address=192.0.2.1", "only one"},
		{"--http-bind-address= --https-bind-address=", "nothing would be served"},
		{"--ingress-class-by-name --ingress-class=", "--ingress-class is empty"},
	} {
		if _, err := parseL7(t, strings.Fields(c.arg)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.arg, err, c.want)
		}
	}
}

func TestL7ChildUser(t *testing.T) {
	for text, want := range map[string][2]uint32{"1:2": {1, 2}, "0:0": {}, "65532:65532": {65532, 65532}} {
		u, g, err := (&l7ChildFlags{User: text}).user()
		if err != nil || u != want[0] || g != want[1] {
			t.Errorf("%q: got %d:%d, %v", text, u, g, err)
		}
	}
	for _, text := range []string{"", "1", "root:root", "-1:1", "1:4294967296"} {
		if _, _, err := (&l7ChildFlags{User: text}).user(); err == nil {
			t.Errorf("%q is no error", text)
		}
	}
}

// safe is a bytes.Buffer for two goroutines.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startL7 runs fairlead l7 with a folder of manifests until stop is called, which returns its exit status.
func startL7(t *testing.T, args ...string) (log *safe, stop func() int) {
	t.Helper()
	log = &safe{}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan int, 1)
	go func() {
		over <- command{out: log, err: log}.main(ctx, append([]string{
			"l7", "--hostname-override=n1", "--https-bind-address=", "--healthz-bind-address=", "--metrics-bind-address=",
			"--status-bind-address=", "--shutdown-grace-period=0s",
		}, args...))
	}()
	t.Cleanup(cancel)
	return log, func() int {
		cancel()
		select {
		case code := <-over:
			return code
		case <-time.After(20 * time.Second):
			t.Fatalf("it does not end:\n%s", log)
			return -1
		}
	}
}

const l7Manifests = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: fairlead}
spec: {controller: fairlead.io/ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: default, annotations: {fairlead.io/permanent-redirect: "https://elsewhere.example/"}}
spec:
  ingressClassName: fairlead
  rules:
  - host: a.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
`

// TestL7Upgrade starts a second process that takes over the listener of the first while clients come all the time.
func TestL7Upgrade(t *testing.T) {
	dir, socket, addr := t.TempDir(), filepath.Join(t.TempDir(), "socket"), freePort(t)
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(l7Manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--manifests=" + dir, "--http-bind-address=" + addr, "--handover-socket=" + socket}
	ask := func() error {
		tr := &http.Transport{DisableKeepAlives: true}
		req := httptest.NewRequest("GET", "http://"+addr+"/", nil)
		req.Host = "a.example"
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusMovedPermanently {
			return fmt.Errorf("status %d, %v", resp.StatusCode, err)
		}
		return err
	}
	first, stopFirst := startL7(t, args...)
	waitFor(t, func() bool {
		_, err := os.Stat(socket) // without it the second could not take over, and the port would be taken
		return err == nil && ask() == nil
	})

	done, failed := make(chan struct{}), make(chan error, 1)
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := ask(); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}
	})
	second, stopSecond := startL7(t, args...)
	waitFor(t, func() bool { return strings.Contains(first.String(), "told to stop, and done") })
	close(done)
	clients.Wait()
	select {
	case err := <-failed:
		t.Errorf("a client noticed: %v\n%s\n%s", err, first, second)
	default:
	}
	if err := ask(); err != nil {
		t.Errorf("the second process: %v", err)
	}
	if code := stopFirst(); code != 0 {
		t.Errorf("the first process: exit status %d\n%s", code, first)
	}
	if code := stopSecond(); code != 0 {
		t.Errorf("the second process: exit status %d\n%s", code, second)
	}
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

func TestL7PortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, _, errs := invoke("l7", "--manifests="+t.TempDir(), "--http-bind-address="+l.Addr().String(), "--https-bind-address=")
	if code != 1 || !strings.Contains(errs, "--http-bind-address") {
		t.Errorf("exit status %d, %q", code, errs)
	}
}
