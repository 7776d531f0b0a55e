//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// edgeVIP is the address that clients call: the external IP of the Service in the example edge-ha.yaml.
const edgeVIP = "203.0.113.10"

// An app is a Service that an example names. Each pod answers for all of them, at a port for each.
type app struct {
	name       string
	port       uint16 // of the Service
	portName   string
	targetPort uint16 // of the pods
}

// apps are the Services of the examples.
func apps() []app {
	return []app{
		{"web", 80, "http", 8001}, {"foo", 4200, "http", 8002}, {"bar", 8080, "http", 8003}, {"tenants", 80, "http", 8004},
		{"shop", 80, "http", 8005}, {"app-blue", 80, "http", 8006}, {"app-green", 80, "http", 8007},
		{"foo", 80, "vhost", 8002}, {"bar", 80, "vhost", 8003},
	}
}

// l7Pods are the pods behind every app: one on each node.
func l7Pods() []string { return []string{"10.244.1.2", "10.244.2.2"} }

// playL7 shows Ingresses behind an address of L4.
func (d *demo) playL7() error {
	if _, err := exec.LookPath("curl"); err != nil {
		return fmt.Errorf("curl is missing, which is the client here: %w", err)
	}
	if err := d.setUpL7(); err != nil {
		return err
	}
	if err := d.showL7(); err != nil {
		return err
	}
	if d.failed > 0 {
		return fmt.Errorf("%d lines were not as they should be", d.failed)
	}
	d.say("", "Everything was as it should be.")
	return nil
}

func (d *demo) setUpL7() error {
	d.n1, d.n2 = d.cluster.Node("n1"), d.cluster.Node("n2")
	d.pods = make(map[string]*netns.Pod)
	for k, s := range l7Pods() {
		pod, err := d.cluster.AddPod(d.cluster.Nodes[k], netip.MustParseAddr(s))
		if err != nil {
			return err
		}
		d.pods[s] = pod
		for _, a := range apps()[:7] {
			if err := d.serveApp(pod, a); err != nil {
				return err
			}
		}
	}
	if err := d.writeObjects(); err != nil {
		return err
	}
	return errors.Join(d.startL7(), d.startL4())
}

// serveApp answers every request with who it was that got it, and whom it saw.
func (d *demo) serveApp(pod *netns.Pod, a app) error {
	l, err := pod.Listen(netip.AddrPortFrom(pod.Addrs[0], a.targetPort))
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s@%s %s", a.name, pod.Addrs[0], r.Header.Get("X-Forwarded-For"))
		}),
	}
	go func() { _ = server.Serve(l) }() // ends with the pod
	return nil
}

// writeObjects adds Services, endpoints and a certificate to the examples.
func (d *demo) writeObjects() error {
	var b strings.Builder
	services := map[string][]app{}
	for _, a := range apps() {
		services[a.name] = append(services[a.name], a)
	}
	for i, a := range apps()[:7] {
		writeService(&b, a.name, fmt.Sprintf("10.96.1.%d", i+1), services[a.name], l7Pods())
	}
	b.WriteString(edgeSlice)
	cert, key, err := certificate("shop.example.com")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Secret\nmetadata: {name: shop-tls, namespace: default}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
		base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
	b.WriteString("---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: fairlead}\nspec: {controller: fairlead.io/ingress}\n")
	return errors.Join(
		// An API server gives every Service a cluster IP; a folder has to say it.
		d.edit("edge-ha.yaml", func(text string) string {
			return strings.Replace(text, "  type: ClusterIP\n", "  type: ClusterIP\n  clusterIP: 10.96.1.100\n  clusterIPs: [10.96.1.100]\n  ipFamilies: [IPv4]\n", 1)
		}),
		os.WriteFile(d.certFile(), cert, 0o644),
		os.WriteFile(filepath.Join(d.dir, "objects.yaml"), []byte(b.String()), 0o644))
}

func (d *demo) certFile() string { return filepath.Join(filepath.Dir(d.dir), "shop.crt") }

// edgeSlice has the nodes on which L7 listens, as a Service's endpoints: in a cluster the selector finds their pods.
const edgeSlice = `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge, namespace: fairlead-l7, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{name: http, port: 80}, {name: https, port: 443}]
endpoints:
- {addresses: [172.18.0.11], nodeName: n1, conditions: {ready: true, serving: true, terminating: false}}
`

func writeService(b *strings.Builder, name, clusterIP string, ports []app, pods []string) {
	var list, slice strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&list, "  - {name: %s, port: %d, targetPort: %d}\n", p.portName, p.port, p.targetPort)
		fmt.Fprintf(&slice, "- {name: %s, port: %d}\n", p.portName, p.targetPort)
	}
	fmt.Fprintf(b, `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default}
spec:
  type: ClusterIP
  clusterIP: %[2]s
  clusterIPs: [%[2]s]
  ipFamilies: [IPv4]
  ports:
%[3]s---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports:
%[4]sendpoints:
`, name, clusterIP, list.String(), slice.String())
	for i, addr := range pods {
		fmt.Fprintf(b, "- {addresses: [%s], nodeName: n%d, conditions: {ready: true, serving: true, terminating: false}}\n", addr, i+1)
	}
}

// startL7 runs fairlead l7 on n1, with its log of requests, and waits until it serves.
func (d *demo) startL7() error {
	p := d.n1.Command(d.ctx, d.program, "l7", "--manifests="+d.dir, "--hostname-override=n1", "--shutdown-grace-period=0s")
	if err := p.Start(); err != nil {
		return err
	}
	d.agents = append(d.agents, p)
	return p.WaitOutput(d.ctx, "everything is in force")
}

// startL4 runs fairlead on n1 for the address in front.
func (d *demo) startL4() error {
	p := d.n1.Command(d.ctx, d.program, "--proxy-mode=iptables", "--manifests="+d.dir, "--hostname-override=n1",
		"--cluster-cidr=10.244.0.0/16,fd00:10:244::/48", "--conntrack-max-per-core=0")
	p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(filepath.Dir(d.dir), "n1.lock"))
	if err := p.Start(); err != nil {
		return err
	}
	d.agents = append(d.agents, p)
	return p.WaitOutput(d.ctx, "first sync done")
}

// certificate makes one that signs itself, and its key, as PEM.
func certificate(host string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}), nil
}
