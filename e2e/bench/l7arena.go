//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// l7Pods is the number of endpoints.
const l7Pods = 2

const l7BackendPort = 8080

// l7Arena is one network with all the proxies in it, of which the load is on one at a time:
//
//	client: wrk ──veth── router ──veth── n1: the proxies ──veth── pod 10.244.1.2: nginx, the endpoint
//	                                                     └─veth── pod 10.244.1.3: another
//
// No rule of iptables or nftables is in it.
type l7Arena struct {
	options options
	cluster *netns.Cluster
	node    *netns.Node
	pods    []netip.Addr
	servers []*netns.Process // in the pods
	dir     string
	cert    l7Cert
}

// newL7Arena builds one without proxies. On error nothing is left.
func newL7Arena(o options) (*l7Arena, error) {
	if err := netns.Usable(); err != nil {
		return nil, err
	}
	cluster, err := netns.New(netns.Config{Nodes: 1, Prefix: "fairlead-bench"})
	if err != nil {
		return nil, fmt.Errorf("build an arena: %w", err)
	}
	a := &l7Arena{options: o, cluster: cluster, node: cluster.Nodes[0]}
	if err := a.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("build an arena: %w", err), a.close())
	}
	return a, nil
}

func (a *l7Arena) build() (err error) {
	if a.dir, err = os.MkdirTemp("", "fairlead-bench"); err != nil {
		return err
	}
	if err := os.Chmod(a.dir, 0o755); err != nil { // the workers of nginx are nobody
		return err
	}
	if a.cert, err = newL7Cert(a.dir); err != nil {
		return err
	}
	for _, ns := range []*netns.NS{a.node.NS, a.cluster.Client} {
		if err := ns.SetSysctl("net/ipv4/ip_local_port_range", "11000 65535"); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "large"), make([]byte, l7LargeBody), 0o644); err != nil {
		return err
	}
	for m := range l7Pods {
		if err := a.addBackend(m); err != nil {
			return err
		}
	}
	return nil
}

// addBackend makes a pod with an nginx of one worker, which serves from memory and cache.
func (a *l7Arena) addBackend(m int) error {
	pod, err := a.cluster.AddPod(a.node, netns.PodAddr(1, 2+m).V4)
	if err != nil {
		return err
	}
	a.pods = append(a.pods, pod.Addrs[0])
	file := filepath.Join(a.dir, fmt.Sprintf("backend-%d.conf", m))
	text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s.pid; error_log stderr;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;
  default_type application/octet-stream; open_file_cache max=16;
  server {
    listen %[2]d backlog=4096; root %[3]s;
    location = /small { return 200 "%[4]s"; }
  }
}
`, file, l7BackendPort, a.dir, strings.Repeat("x", l7SmallBody))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	server := pod.Command(context.Background(), a.options.nginx, "-c", file, "-p", a.dir)
	a.servers = append(a.servers, server)
	return server.Start()
}

func (a *l7Arena) backends() []int {
	var pids []int
	for _, s := range a.servers {
		pids = append(pids, s.Cmd.Process.Pid)
	}
	return pids
}

func (a *l7Arena) close() error {
	err := a.cluster.Close()
	if a.dir != "" {
		err = errors.Join(err, os.RemoveAll(a.dir))
	}
	return err
}

// start runs a proxy on the node. What it writes to standard output, which may be its log of
// requests, is thrown away.
func (a *l7Arena) start(ctx context.Context, program string, args ...string) (*netns.Process, error) {
	p := a.node.Command(ctx, "sh", append([]string{"-c", `exec "$0" "$@" >/dev/null`, program}, args...)...)
	p.Cmd.Dir = a.dir
	p.Cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + a.dir, "TMPDIR=" + a.dir}
	return p, p.Start()
}

// l7Host is the name of a route: one of many.
func l7Host(i int) string { return fmt.Sprintf("h%05d.example.com", i) }

// l7Hosts are the names that there are besides.
const (
	l7PlainHost = "plain.example.com"
	l7TLSHost   = "tls.example.com"
)

// l7Cert is a certificate for all hosts, in files and in text.
type l7Cert struct {
	certFile, keyFile, bothFile string
	cert, key                   []byte // PEM
}

func newL7Cert(dir string) (l7Cert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return l7Cert{}, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: l7TLSHost}, DNSNames: []string{l7TLSHost},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(7 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return l7Cert{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return l7Cert{}, err
	}
	c := l7Cert{
		certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key"), bothFile: filepath.Join(dir, "tls.pem"),
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
	return c, errors.Join(
		os.WriteFile(c.certFile, c.cert, 0o600), os.WriteFile(c.keyFile, c.key, 0o600),
		os.WriteFile(c.bothFile, append(append([]byte(nil), c.cert...), c.key...), 0o600))
}
