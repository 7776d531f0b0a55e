//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// An l7Raw is what the parts of TestL7Raw share: one host for each kind of server behind it.
type l7Raw struct {
	*l7Bed
	proxy    *l7Proxy
	hosts    []string
	recorder *l7Recorder
}

// The servers that read what the process writes. Each answers with one line of JSON.
const (
	nginxConfig = `
daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr warn;
events { worker_connections 512; }
http {
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  keepalive_requests 100000;
  log_format echo escape=json '{"method":"$request_method","uri":"$request_uri","host":"$http_host","length":"$http_content_length","te":"$http_transfer_encoding"}';
  access_log %[1]s/nginx.log echo;
  server {
    listen %[2]s:8081; client_max_body_size 100m;
    location / { default_type application/json; return 200 '{"method":"$request_method","uri":"$request_uri","host":"$http_host"}'; }
  }
}`
	haproxyConfig = `
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend echo
  bind %[1]s:8082
  http-request return status 200 content-type application/json lf-string '{"method":"%%[method]","uri":"%%[pathq]","host":"%%[req.hdr(host)]"}'
`
	nodeProgram = `
const http = require('http');
const seen = [];
http.createServer((q, a) => {
  let body = '';
  q.on('data', d => { if (body.length < 4096) body += d });
  q.on('end', () => {
    if (q.url === '/log') return a.end(JSON.stringify(seen));
    seen.push(q.method + ' ' + q.url);
    a.setHeader('Content-Type', 'application/json');
    a.end(JSON.stringify({method: q.method, uri: q.url, host: q.headers.host, fields: q.rawHeaders, trailers: q.rawTrailers, body: body}));
  });
}).listen(8083, process.argv[2], () => console.log('serving'));
`
)

// newL7Raw starts the process with args, besides the usual ones.
func newL7Raw(t *testing.T, name string, args ...string) *l7Raw {
	t.Helper()
	nginx, haproxy, node := requireProgram(t, "nginx", "nginx-light"), requireProgram(t, "haproxy", "haproxy"), requireProgram(t, "node", "nodejs")
	r := &l7Raw{l7Bed: newL7Bed(t, name, 1), hosts: []string{"nginx.test", "haproxy.test", "node.test", "go.test"}}
	pod := r.pod(t, r.Nodes[0], 2)
	addr := pod.v4().String()
	files := map[string]string{
		"nginx.conf": fmt.Sprintf(nginxConfig, r.home, addr), "haproxy.cfg": fmt.Sprintf(haproxyConfig, addr), "echo.js": nodeProgram,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{nginx, "-c", filepath.Join(r.home, "nginx.conf"), "-p", r.home},
		{haproxy, "-db", "-f", filepath.Join(r.home, "haproxy.cfg")},
		{node, filepath.Join(r.home, "echo.js"), addr},
	} {
		p := pod.Command(t.Context(), args[0], args[1:]...)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Close()
			if t.Failed() {
				t.Logf("%s said: %s", args[0], lastLines(p.Output(), 20))
			}
		})
	}
	r.recorder = startRecorder(t, pod, 8084)
	objects := []any{
		l7Class("fairlead", "fairlead.io/ingress"), l7Certificate(t, "crt", "node.test", "go.test"),
		l7ConfigMap("kube-system/fairlead", map[string]string{"client-header-timeout": "1", "client-body-timeout": "1"}),
	}
	for i, host := range []string{"nginx", "haproxy", "node", "raw", "go"} {
		port := []int{8081, 8082, 8083, 8084, 8080}[i]
		objects = append(objects, l7Service(host, "", 80, port, endpoints(pod)...)...)
		in := l7Ingress(host, host+".test", map[string]string{"fairlead.io/ssl-redirect": "false", "fairlead.io/max-fails": "0"}, l7Path{path: "/", service: host})
		objects = append(objects, withTLS(in, "crt"))
	}
	grpc := l7Ingress("grpc", "grpc.test", map[string]string{"fairlead.io/ssl-redirect": "false", "fairlead.io/backend-protocol": "GRPC"}, l7Path{path: "/", service: "go"})
	r.folder.put(t, "test", append(objects, grpc)...)
	r.proxy = r.start(t, l7Start{args: append([]string{"--configmap", "kube-system/fairlead", "--max-connections-per-client", strconv.Itoa(l7RawConns)}, args...)})
	r.folder.settle(t, r.proxy)
	client := r.proxy.client()
	for _, host := range r.hosts {
		within(t, 15*time.Second, func() error {
			a, err := ask(client, request(t, "http://"+host+"/up"))
			if err == nil && a.Status != http.StatusOK {
				err = fmt.Errorf("%s: %d", host, a.Status)
			}
			return err
		})
	}
	return r
}

func request(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An l7Recorder is a server that keeps the bytes it gets and answers with those it is told to.
type l7Recorder struct {
	mu     sync.Mutex
	got    strings.Builder
	conns  int
	answer string // to each head; the connection then stays
	end    bool   // or is closed
}

func startRecorder(t *testing.T, pod *l7Pod, port uint16) *l7Recorder {
	t.Helper()
	l, err := pod.Listen(netip.AddrPortFrom(pod.v4(), port))
	if err != nil {
		t.Fatal(err)
	}
	r := &l7Recorder{}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close() })
	return r
}

// serve answers each head that comes.
func (r *l7Recorder) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r.mu.Lock()
	r.conns++
	r.mu.Unlock()
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		r.mu.Lock()
		r.got.WriteString(line)
		answer, end := r.answer, r.end
		r.mu.Unlock()
		if err != nil {
			return
		}
		if line != "\r\n" {
			continue
		}
		if _, err := io.WriteString(c, answer); err != nil || end {
			return
		}
	}
}

// reset forgets what came, and sets the answer.
func (r *l7Recorder) reset(answer string, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got.Reset()
	r.answer, r.end = answer, end
}

func (r *l7Recorder) bytes() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.String()
}

// exchange sends bytes on a connection of its own and returns all that comes back until it is closed, or
// there was nothing for a while.
func (r *l7Raw) exchange(t *testing.T, bytes string) string {
	t.Helper()
	c := r.proxy.raw(t, 80)
	defer c.Close()
	if _, err := io.WriteString(c, bytes); err != nil {
		return ""
	}
	var out []byte
	buf := make([]byte, 16<<10)
	for {
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			return string(out)
		}
	}
}

// statuses are those of all answers in what came back.
func statuses(answers string) string {
	var out []string
	in := bufio.NewReader(strings.NewReader(answers))
	for {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return strings.Join(out, " ")
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return strings.Join(append(out, resp.Status[:3], "broken"), " ")
		}
		out = append(out, resp.Status[:3])
	}
}

// A raw answer of nginx, HAProxy or Node.
type rawSeen struct {
	Method, URI, Host, Body string
	Fields, Trailers        []string
}

func (s *rawSeen) field(name string) []string {
	var out []string
	for i := 0; i+1 < len(s.Fields); i += 2 {
		if strings.EqualFold(s.Fields[i], name) {
			out = append(out, s.Fields[i+1])
		}
	}
	return out
}

// seen asks a server behind the process, by bytes, and returns what it has understood.
func (r *l7Raw) seen(t *testing.T, bytes string) rawSeen {
	t.Helper()
	answers := r.exchange(t, bytes)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answers)), nil)
	if err != nil {
		t.Errorf("%q: got %q: %v", bytes, answers, err)
		return rawSeen{}
	}
	body, err := io.ReadAll(resp.Body)
	var s rawSeen
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		t.Errorf("%q: got %q: %v", bytes, answers, err)
	}
	return s
}

// untouched asks each server a few times, in which an answer to anybody else's request would show.
func (r *l7Raw) untouched(t *testing.T, after string) {
	t.Helper()
	for _, host := range r.hosts[:3] {
		for i := range 3 {
			path := fmt.Sprintf("/own-%d", i)
			s := r.seen(t, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			if s.URI != path || s.Method != http.MethodGet || s.Host != host {
				t.Errorf("after %s, %s answers another request than %s: %+v", after, host, path, s)
			}
		}
	}
}

// unsmuggled holds that no server has ever seen what nobody asked for.
func (r *l7Raw) unsmuggled(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(r.home, "nginx.log"))
	if err != nil {
		t.Fatal(err)
	}
	node := fetch(t, r.proxy.client(), "http://node.test/log").Body
	if len(log) == 0 || !strings.Contains(node, "/own-1") {
		t.Errorf("nginx has logged %d bytes, Node says %.200s: this test sees nothing", len(log), node)
	}
	for name, text := range map[string]string{"nginx": string(log), "Node": node} {
		if i := strings.Index(text, "smuggled"); i >= 0 {
			t.Errorf("%s has seen a smuggled request: …%s", name, text[max(0, i-100):min(len(text), i+100)])
		}
	}
}
