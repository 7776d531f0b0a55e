//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/ingress/ingresstest"
	"github.com/fairlead-project/fairlead/l7/status"
	"github.com/fairlead-project/fairlead/service"
)

// TestL7Corpus plays the corpus of Ingress behaviour against the process: every request over real
// connections, over HTTP/1.1 and over HTTP/2, certificates as handshakes show them, problems and what is served as the status
// page lists them.
func TestL7Corpus(t *testing.T) {
	t.Parallel()
	b := newL7Bed(t, "corpus", 2)
	cases, err := ingresstest.Load()
	if err != nil {
		t.Fatal(err)
	}
	resolv := startDNS(t, b, "example.org.", netns.PodAddr(1, 9).V4)
	outside := b.emptyPod(t, b.Nodes[0], 9)
	stages := make(chan *l7Stage, len(b.Nodes))
	for _, n := range b.Nodes {
		stages <- &l7Stage{bed: b, node: n, pod: b.emptyPod(t, n, 2), outside: outside, resolv: resolv}
	}
	var total, http2 atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				s := *<-stages
				defer func() { stages <- &s }()
				t.Run("played", func(t *testing.T) { s.play(t, c) })
				requests := 0
				for _, step := range c.Steps {
					requests += len(step.Requests)
				}
				total.Add(int64(requests))
				http2.Add(int64(s.asked))
			})
		}
	})
	t.Logf("%d requests over HTTP/1.1, %d of them over HTTP/2 as well", total.Load(), http2.Load())
	if 10*http2.Load() < 8*total.Load() {
		t.Errorf("only %d of %d requests were made over HTTP/2, too", http2.Load(), total.Load())
	}
}

// An l7Stage is where one case at a time is played.
type l7Stage struct {
	bed     *l7Bed
	node    *netns.Node
	pod     *l7Pod // has all endpoints
	outside *l7Pod // has those of Services of type ExternalName
	resolv  string

	port    uint16 // the last one taken
	servers map[string]uint16
	folder  *l7Folder
	proxy   *l7Proxy
	direct  bool // endpoints must not be asked: the Services' own addresses are to be
	tls     map[string]*tls.Config
	asked   int // over HTTP/2
}

func (s *l7Stage) play(t *testing.T, c *ingresstest.Case) {
	s.servers, s.port, s.asked = make(map[string]uint16), 20000, 0
	s.folder = s.bed.newFolder(t, "case-"+c.Name)
	s.direct = slices.ContainsFunc(c.Steps, func(st *ingresstest.Step) bool {
		return slices.ContainsFunc(st.YAML, func(y string) bool { return strings.Contains(y, "service-upstream: 'true'") })
	})
	s.tls = make(map[string]*tls.Config)
	for _, step := range c.Steps {
		for _, e := range step.Passthrough {
			key := e.Service.String() + ":" + e.Port
			s.tls[key] = ownTLS(t, key)
		}
	}
	s.folder.put(t, "test", s.objects(t, c, c.Steps[0])...)
	for i, step := range c.Steps {
		if i > 0 {
			s.folder.put(t, "test", s.objects(t, c, step)...)
		}
		if s.proxy == nil || i == 0 {
			s.proxy = s.bed.start(t, l7Start{node: s.node, folder: s.folder, resolv: s.resolv, args: caseArgs(c)})
		}
		s.folder.settle(t, s.proxy)
		s.check(t, step)
	}
}

// ownTLS is what a server speaks whose TLS is passed through. Its name says which one it is.
func ownTLS(t *testing.T, name string) *tls.Config {
	t.Helper()
	crt, key, err := ingresstest.Certificate(false, strings.NewReplacer("/", "-", ":", "-").Replace(name))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// caseArgs turns the options of a case into flags.
func caseArgs(c *ingresstest.Case) []string {
	k := &c.Config
	args := []string{
		fmt.Sprintf("--adopt-ingress-nginx=%v", k.Nginx), fmt.Sprintf("--watch-ingress-without-class=%v", k.WithoutClass),
		fmt.Sprintf("--disable-catch-all=%v", k.NoCatchAll), fmt.Sprintf("--owned-hosts=%v", k.OwnedHosts),
		fmt.Sprintf("--enable-external-names=%v", k.ExternalNames), fmt.Sprintf("--enable-ssl-passthrough=%v", k.Passthrough),
	}
	if k.ClassByName != "" {
		args = append(args, "--ingress-class-by-name", "--ingress-class="+k.ClassByName)
	}
	if k.DefaultBackend.Name != "" {
		args = append(args, "--default-backend-service="+k.DefaultBackend.String())
	}
	if len(c.Globals) > 0 {
		args = append(args, "--configmap=kube-system/case-globals")
	}
	return args
}

// objects returns everything that is in force in a step.
func (s *l7Stage) objects(t *testing.T, c *ingresstest.Case, step *ingresstest.Step) []any {
	t.Helper()
	var out []any
	for _, y := range step.YAML {
		out = append(out, y)
	}
	if len(c.Globals) > 0 {
		out = append(out, l7ConfigMap("kube-system/case-globals", c.Globals))
	}
	for i, v := range step.Services {
		out = append(out, s.service(t, i, v)...)
	}
	return out
}

// service makes a Service, and servers for its endpoints.
func (s *l7Stage) service(t *testing.T, i int, v ingresstest.Service) []any {
	t.Helper()
	var ports, slices []string
	ip := fmt.Sprintf("10.96.%d.%d", s.node.Number, 10+i)
	for _, p := range v.Ports {
		proto := strings.ToUpper(p.Protocol.String())
		ports = append(ports, fmt.Sprintf("{name: %q, protocol: %s, port: %d}", p.Name, proto, p.Number))
		addr, port := s.pod.v4(), uint16(0)
		switch {
		case v.External != "":
			addr, port = s.outside.v4(), p.Number
		case s.direct:
			s.virtual(t, ip)
			addr, port = netip.MustParseAddr(ip), p.Number
		}
		if p.Protocol != service.TCP {
			continue
		}
		target := s.server(t, v.Name, p.Number, addr, port)
		if s.direct {
			target = 1 // where nobody is
		}
		if v.External == "" {
			slices = append(slices, fmt.Sprintf("{name: %q, protocol: %s, port: %d}", p.Name, proto, target))
		}
	}
	head := fmt.Sprintf("metadata: {namespace: %s, name: %s}", v.Namespace, v.Name.Name)
	if v.External != "" {
		return []any{fmt.Sprintf("apiVersion: v1\nkind: Service\n%s\nspec: {type: ExternalName, externalName: %s, ports: [%s]}",
			head, v.External, strings.Join(ports, ", "))}
	}
	headless := ""
	if v.Headless {
		ip, headless = "None", `, service.kubernetes.io/headless: ""`
	}
	out := []any{fmt.Sprintf("apiVersion: v1\nkind: Service\n%s\nspec: {type: ClusterIP, clusterIP: %s, clusterIPs: [%s], ipFamilies: [IPv4], ports: [%s]}",
		head, ip, ip, strings.Join(ports, ", "))}
	if v.Empty || len(slices) == 0 {
		return out
	}
	return append(out, fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
		"metadata: {namespace: %s, name: %s-1, labels: {kubernetes.io/service-name: %s%s}}\naddressType: IPv4\nports: [%s]\nendpoints: [{addresses: [%s]}]",
		v.Namespace, v.Name.Name, v.Name.Name, headless, strings.Join(slices, ", "), s.pod.v4()))
}

// virtual leads a Service's own address to the pod with the servers.
func (s *l7Stage) virtual(t *testing.T, ip string) {
	t.Helper()
	prefix := netip.PrefixFrom(netip.MustParseAddr(ip), 32)
	if err := s.pod.AddAddr(netns.Uplink, prefix); err != nil {
		t.Fatal(err)
	}
	if err := s.node.SetRoute(netns.Route{Dst: prefix, Via: s.pod.v4(), Dev: s.pod.HostLink}); err != nil {
		t.Fatal(err)
	}
}

// server runs a server for one port of a Service, unless there is one, and returns its port.
func (s *l7Stage) server(t *testing.T, name service.Name, number uint16, addr netip.Addr, port uint16) uint16 {
	t.Helper()
	key := fmt.Sprintf("%s:%d", name, number)
	if at, ok := s.servers[key]; ok {
		return at
	}
	if port == 0 {
		s.port++
		port = s.port
	}
	where := s.pod
	if addr == s.outside.v4() {
		where = s.outside
	}
	l, err := where.Listen(netip.AddrPortFrom(addr, port))
	if err != nil {
		t.Fatal(err)
	}
	p := &l7Pod{Pod: where.Pod}
	p.answer(func(w http.ResponseWriter, r *http.Request) {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		w.Header().Set("X-Case-Service", name.String())
		w.Header().Set("X-Case-Port", fmt.Sprint(number))
		w.Header().Set("X-Case-Path", path)
	})
	p.serveOn(t, l, s.tls[key])
	s.servers[key] = port
	return port
}

// check compares what the process does with what a step wants.
func (s *l7Stage) check(t *testing.T, step *ingresstest.Step) {
	t.Helper()
	for _, r := range step.Requests {
		if got, err := s.request(t, r); err != nil || got != r.Want {
			t.Errorf("line %d: request %s\n got %+v (%v)\nwant %+v", r.Line, r.Text, got, err, r.Want)
		}
	}
	for _, e := range step.Certs {
		s.checkCert(t, step, e)
	}
	for _, e := range step.Passthrough {
		crt, err := s.handshake(t, e.Host, &tls.Config{})
		if want := strings.NewReplacer("/", "-").Replace(e.Service.String()) + "-" + e.Port; err != nil || crt.Subject.CommonName != want {
			t.Errorf("line %d: passthrough %s: %v, certificate %v, want that of the backend, %s", e.Line, e.Host, err, name(crt), want)
		}
	}
	s.asked += s.checkHTTP2(t, step)
	s.checkStatus(t, step)
}

func name(c *x509.Certificate) string {
	if c == nil {
		return "(none)"
	}
	return fmt.Sprintf("%s %v", c.Subject.CommonName, c.DNSNames)
}

// request asks, byte for byte as the corpus says.
func (s *l7Stage) request(t *testing.T, r ingresstest.Request) (ingresstest.Answer, error) {
	t.Helper()
	port := uint16(80)
	if r.Secure {
		port = 443
	}
	c := s.proxy.raw(t, port)
	defer c.Close()
	if r.Secure {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		c = tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	}
	var b bytes.Buffer
	if r.Host == "" { // which HTTP/1.1 does not allow
		fmt.Fprintf(&b, "%s %s HTTP/1.0\r\n", r.Method, r.Target)
	} else {
		fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", r.Method, r.Target, r.Host)
	}
	for _, f := range r.Fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n")
	if _, err := c.Write(b.Bytes()); err != nil {
		return ingresstest.Answer{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.Method})
	if err != nil {
		return ingresstest.Answer{}, err
	}
	defer resp.Body.Close()
	a := ingresstest.Answer{Status: resp.StatusCode, Location: resp.Header.Get("Location"), Path: resp.Header.Get("X-Case-Path")}
	if ns, name, ok := strings.Cut(resp.Header.Get("X-Case-Service"), "/"); ok {
		a.Backend = service.Name{Namespace: ns, Name: name}
		_, err = fmt.Sscan(resp.Header.Get("X-Case-Port"), &a.Port)
	}
	return a, err
}

// handshake returns the certificate that a client is shown.
func (s *l7Stage) handshake(t *testing.T, host string, config *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	config.InsecureSkipVerify = true
	config.ServerName = strings.Replace(host, "*", "some", 1)
	c := tls.Client(s.proxy.raw(t, 443), config)
	defer c.Close()
	if err := c.HandshakeContext(t.Context()); err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

// checkCert looks whether the certificates for a name are those of the Secrets: with two, clients of
// little ability get each.
func (s *l7Stage) checkCert(t *testing.T, step *ingresstest.Step, e ingresstest.CertExpect) {
	t.Helper()
	other, err := s.handshake(t, "nobody.invalid", &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for _, suites := range [][]uint16{
		nil, {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, {tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	} {
		config := &tls.Config{CipherSuites: suites}
		if suites != nil {
			config.MaxVersion = tls.VersionTLS12
		}
		if crt, err := s.handshake(t, e.Host, config); err == nil {
			got = append(got, crt.Raw)
		}
	}
	var want [][]byte
	for _, n := range e.Secrets {
		i := slices.IndexFunc(step.Objects.Secrets, func(v *ingress.Secret) bool { return v.Name == n })
		block, _ := pem.Decode(step.Objects.Secrets[i].Data["tls.crt"])
		want = append(want, block.Bytes)
	}
	if len(want) == 0 {
		want = [][]byte{other.Raw}
		_, domain, _ := strings.Cut(e.Host, ".")
		for _, w := range step.Certs { // the Model says what a name has of its own; a handshake goes by the wildcard then
			if w.Host == "*."+domain && len(w.Secrets) > 0 && w.Host != e.Host {
				s.checkCert(t, step, ingresstest.CertExpect{Line: e.Line, Host: e.Host, Secrets: w.Secrets})
				return
			}
		}
	}
	if len(got) == 0 {
		t.Errorf("line %d: cert %s: no handshake succeeds", e.Line, e.Host)
	}
	for _, g := range got {
		if !slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, g) }) {
			c, _ := x509.ParseCertificate(g)
			t.Errorf("line %d: cert %s: got that of %v, want %v", e.Line, e.Host, name(c), e.Secrets)
		}
	}
	for i, w := range want {
		if !slices.ContainsFunc(got, func(g []byte) bool { return bytes.Equal(w, g) }) {
			t.Errorf("line %d: cert %s: nobody gets number %d of %v", e.Line, e.Host, i, e.Secrets)
		}
	}
}

// checkStatus compares the lists of the status page.
func (s *l7Stage) checkStatus(t *testing.T, step *ingresstest.Step) {
	t.Helper()
	code, body, err := s.proxy.get(t, 10263, "/status.json")
	if err != nil || code != http.StatusOK {
		t.Fatalf("/status.json: %d, %v", code, err)
	}
	var d status.Document
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	checkServed(t, step, d.Ingresses)
	var got, want []string
	for _, p := range d.Problems {
		got = append(got, fmt.Sprintf("%s %s/%s %s", p.Kind, p.Namespace, p.Name, p.Reason))
	}
	for _, e := range slices.Concat(step.Problems, step.Asked) {
		want = append(want, fmt.Sprintf("%s %s %s", e.Kind, e.Object, e.Reason))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("line %d, step %q: problems on the status page:\n got %q\nwant %q", step.Line, step.Name, got, want)
	}
}

// startDNS runs a DNS server in the router that knows one name, and returns a resolv.conf that leads there.
func startDNS(t *testing.T, b *l7Bed, name string, addr netip.Addr) string {
	t.Helper()
	var conn net.PacketConn
	err := b.Router.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", netip.AddrPortFrom(netns.RouterAddr().V4, 53).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			switch {
			case q.Name.String() != name:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5}, Body: &dnsmessage.AResource{A: addr.As4()},
				})
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	path := filepath.Join(b.home, "resolv.conf")
	text := fmt.Sprintf("nameserver %s\noptions timeout:1\n", netns.RouterAddr().V4)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
