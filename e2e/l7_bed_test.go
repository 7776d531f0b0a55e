//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// l7User is who fairlead l7 runs as: nobody in particular.
const l7User = 65532

// An l7Bed is a small cluster, a folder of manifests, and whatever fairlead l7 is
// started on its nodes.
//
//	client ──▶ router ──▶ n1: fairlead l7, as an unprivileged user ──▶ pods: servers of the test
type l7Bed struct {
	*netns.Cluster
	folder *l7Folder
	home   string // a directory that everybody may read
	binary string
}

// newL7Bed builds the cluster. The name tells its namespaces from those of other tests.
func newL7Bed(t *testing.T, name string, nodes int) *l7Bed {
	t.Helper()
	binary := requireWorld(t)
	c, err := netns.New(netns.Config{Nodes: nodes, Prefix: "fl7" + name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	home, err := os.MkdirTemp("", "fairlead-l7-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &l7Bed{Cluster: c, home: home, binary: filepath.Join(home, "fairlead")}
	if err := linkOrCopy(binary, b.binary); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if err := n.SetSysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
			t.Fatal(err)
		}
	}
	b.folder = b.newFolder(t, "manifests")
	return b
}

// linkOrCopy makes a program readable by others than root.
func linkOrCopy(from, to string) error {
	if info, err := os.Stat(from); err == nil && info.Mode().Perm()&0o005 == 0o005 && os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// requireProgram returns the path of a program of the distribution, or skips.
func requireProgram(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv(world.Require) == "1" {
		t.Fatalf("%s is set, and there is no %s (Debian package %s)", world.Require, name, debian)
	}
	t.Skipf("there is no %s (Debian package %s)", name, debian)
	return ""
}

// An l7Proxy is a running fairlead l7.
type l7Proxy struct {
	*netns.Process
	node   *netns.Node
	folder *l7Folder
	bed    *l7Bed
	at     netip.Addr // where clients ask, if not at the node
}

// l7Start says how to run a fairlead l7.
type l7Start struct {
	node   *netns.Node // nil: n1
	folder *l7Folder   // nil: the bed's
	resolv string      // a file to take in place of /etc/resolv.conf
	args   []string    // besides the usual ones
	log    bool        // the access log
}

// launch runs fairlead l7 without waiting for it.
func (b *l7Bed) launch(t *testing.T, s l7Start) *l7Proxy {
	t.Helper()
	if s.node == nil {
		s.node = b.Nodes[0]
	}
	if s.folder == nil {
		s.folder = b.folder
	}
	args := append([]string{
		"l7", "--manifests", s.folder.dir, "--hostname-override", s.node.Name(), "--shutdown-grace-period", "1s",
		fmt.Sprintf("--access-log=%v", s.log), "-v", "2",
	}, s.args...)
	p := &l7Proxy{node: s.node, folder: s.folder, bed: b}
	if s.resolv == "" {
		p.Process = s.node.Command(context.WithoutCancel(t.Context()), b.binary, args...)
		p.Cmd.SysProcAttr.Credential = &syscall.Credential{Uid: l7User, Gid: l7User}
	} else {
		mount := []string{
			"-m", "sh", "-c",
			fmt.Sprintf(`mount --bind "$0" /etc/resolv.conf && exec setpriv --reuid %d --regid %d --clear-groups --bounding-set=-all "$@"`, l7User, l7User),
			s.resolv, b.binary,
		}
		p.Process = s.node.Command(context.WithoutCancel(t.Context()), "unshare", append(mount, args...)...)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("fairlead l7 on %s said:\n%s", s.node.Name(), lastLines(p.Stderr(), 60))
		}
		if out := p.Output(); strings.Contains(out, "panic") || strings.Contains(out, "DATA RACE") {
			t.Errorf("fairlead l7 panicked:\n%s", lastLines(out, 60))
		}
	})
	return p
}

// start runs fairlead l7 until the end of the test, and waits until it is ready.
func (b *l7Bed) start(t *testing.T, s l7Start) *l7Proxy {
	t.Helper()
	p := b.launch(t, s)
	p.waitReady(t)
	return p
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// addr is where clients ask.
func (p *l7Proxy) addr() netip.Addr {
	if p.at.IsValid() {
		return p.at
	}
	return p.node.Primary.V4
}

// waitReady waits for /readyz and for the listeners, which are opened before.
func (p *l7Proxy) waitReady(t *testing.T) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		select {
		case <-p.Done():
			t.Fatalf("fairlead l7 has ended: %v\n%s", p.Wait(), lastLines(p.Output(), 30))
		default:
		}
		return p.readyz(t)
	})
}

// readyz asks the process whether it is ready.
func (p *l7Proxy) readyz(t *testing.T) error {
	status, body, err := p.get(t, 10261, "/readyz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("/readyz: %d %s", status, body)
	}
	return err
}

// get asks one of the servers for whoever looks after the process, from its own node.
func (p *l7Proxy) get(t *testing.T, port uint16, path string) (int, string, error) {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{DialContext: dialFrom(p.node.NS), DisableKeepAlives: true}, Timeout: 5 * time.Second,
	}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialFrom dials out of a namespace.
func dialFrom(ns *netns.NS) dialFunc {
	return func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = ns.Do(func() error {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}
}

// dial connects the client's namespace to the proxy, whatever the host, at the port that stands in addr.
func (p *l7Proxy) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return dialFrom(p.bed.Client)(ctx, "tcp", net.JoinHostPort(p.addr().String(), port))
}

// client returns an HTTP client in the client's namespace that asks the proxy about every host. It
// follows no redirects.
func (p *l7Proxy) client(protocols ...func(*http.Protocols, bool)) *http.Client {
	tr := &http.Transport{
		DialContext: p.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 256,
		DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second,
	}
	tr.Protocols = new(http.Protocols)
	for _, set := range protocols {
		set(tr.Protocols, true)
	}
	if len(protocols) == 0 {
		tr.Protocols.SetHTTP1(true)
	}
	return &http.Client{
		Transport: tr, Timeout: 60 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// raw opens a connection to a port of the proxy, with a deadline for everything.
func (p *l7Proxy) raw(t *testing.T, port uint16) net.Conn {
	t.Helper()
	c, err := p.dial(t.Context(), "tcp", fmt.Sprintf("x:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// An l7Pod is a pod with servers of the test in it.
type l7Pod struct {
	*netns.Pod
	name   string
	hits   atomic.Int64
	handle atomic.Pointer[http.HandlerFunc] // in place of l7Echo
}

// pod makes a pod and a server in it at port 8080, which speaks HTTP/1.1 and HTTP/2 in plain text.
func (b *l7Bed) pod(t *testing.T, node *netns.Node, m int) *l7Pod {
	t.Helper()
	p := b.emptyPod(t, node, m)
	p.serve(t, 8080, nil)
	return p
}

func (b *l7Bed) emptyPod(t *testing.T, node *netns.Node, m int) *l7Pod {
	t.Helper()
	pod, err := b.AddPod(node, netns.PodAddr(node.Number, m).Slice()...)
	if err != nil {
		t.Fatal(err)
	}
	return &l7Pod{Pod: pod, name: fmt.Sprintf("pod-%d-%d", node.Number, m)}
}

func (p *l7Pod) v4() netip.Addr { return p.Addrs[0] }

// serve runs a server in the pod. With a nil config it speaks plain text.
func (p *l7Pod) serve(t *testing.T, port uint16, config *tls.Config) *http.Server {
	t.Helper()
	l, err := p.Listen(netip.AddrPortFrom(p.v4(), port))
	if err != nil {
		t.Fatal(err)
	}
	return p.serveOn(t, l, config)
}

func (p *l7Pod) serveOn(t *testing.T, l net.Listener, config *tls.Config) *http.Server {
	t.Helper()
	s := &http.Server{Handler: p, TLSConfig: config, Protocols: new(http.Protocols), ConnContext: keepConn}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if config != nil {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return s
}

type connKey struct{}

func keepConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ServeHTTP counts the request, and answers as the test has said.
func (p *l7Pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.hits.Add(1)
	if h := p.handle.Load(); h != nil {
		(*h)(w, r)
		return
	}
	l7Echo(p.name, w, r)
}

// answer makes h what the pod answers with; nil means l7Echo.
func (p *l7Pod) answer(h http.HandlerFunc) {
	if h == nil {
		p.handle.Store(nil)
		return
	}
	p.handle.Store(&h)
}
