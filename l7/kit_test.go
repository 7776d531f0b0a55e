package l7

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

// A world is a Server that serves at a loopback address, with what it is told about.
type world struct {
	t     *testing.T
	s     *Server
	store *service.Store
	addr  string
	log   *lines

	mu       sync.Mutex
	problems []service.Problem
	served   []service.Name
}

// lines collects the access log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// newWorld starts a Server without objects. It has our class and that of ingress-nginx.
func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, store: service.NewStore(), log: &lines{}}
	w.store.SetNode(service.Node{Name: "n1"})
	c := Config{
		Log: slog.New(slog.DiscardHandler), Ingress: ingress.Config{Classes: ingress.DefaultClasses(true)}, AccessLog: w.log,
		Problems: func(l []service.Problem) { w.mu.Lock(); defer w.mu.Unlock(); w.problems = l },
		Served:   func(l []service.Name) { w.mu.Lock(); defer w.mu.Unlock(); w.served = l },
	}
	if change != nil {
		change(&c)
	}
	var err error
	if w.s, err = New(c); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := w.s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	tasks.Go(func() {
		if err := w.s.Engine().Serve(ctx, "http", l, false); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		w.s.Engine().Stop()
		l.Close()
		over, stop := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer stop()
		_ = w.s.Engine().Shutdown(over)
		w.s.Close()
		cancel()
		tasks.Wait()
	})
	w.sync()
	w.change(class("fairlead", ingress.Controller), class("nginx", ingress.NginxController))
	return w
}

func class(name, controller string) kube.Change {
	return kube.Change{
		Object: service.Object{Kind: "IngressClass", Name: service.Name{Name: name}},
		Class:  &ingress.Class{Name: name, Controller: controller},
	}
}

// change hands over objects and waits until they are in force.
func (w *world) change(list ...kube.Change) {
	w.t.Helper()
	before := w.s.compiled.generation.Load()
	if err := w.s.Update(w.t.Context(), list); err != nil {
		w.t.Fatal(err)
	}
	w.s.Synced()
	w.until("a change is in force", func() bool { return w.s.compiled.generation.Load() > before })
	w.s.mu.Lock() // and all is told
	defer w.s.mu.Unlock()
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func name(s string) service.Name {
	ns, n, _ := strings.Cut(s, "/")
	return service.Name{Namespace: ns, Name: n}
}

// service makes a Service with port 80, named "http", and these endpoints.
func (w *world) service(n string, endpoints ...netip.AddrPort) {
	w.serviceOf(service.Service{Name: name(n)}, endpoints...)
}

func (w *world) serviceOf(v service.Service, endpoints ...netip.AddrPort) {
	w.t.Helper()
	if v.Ports == nil {
		v.Ports = []service.ServicePort{{Name: "http", Protocol: service.TCP, Port: 80}}
	}
	v.Families = []service.Family{service.IPv4}
	v.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(len(v.Name.Name))})}
	w.store.SetService(&v)
	for i := range 8 {
		w.store.DeleteSlice(v.Name, v.Name.Name+strconv.Itoa(i))
	}
	for i, e := range endpoints {
		w.store.SetSlice(&service.Slice{
			Service: v.Name, Name: v.Name.Name + strconv.Itoa(i), Family: service.IPv4,
			Ports:     []service.SlicePort{{Name: "http", Protocol: service.TCP, Port: e.Port()}},
			Endpoints: []service.SliceEndpoint{service.NewSliceEndpoint(e.Addr(), &service.EndpointState{Node: "n1", Ready: true, Serving: true})},
		})
	}
	w.sync()
}

func (w *world) sync() {
	w.t.Helper()
	if _, err := w.s.Sync(w.t.Context(), w.store.Snapshot()); err != nil {
		w.t.Fatal(err)
	}
}

// leads is a path that leads to port 80 of a Service.
func leads(path, svc string) ingress.Path {
	return ingress.Path{Path: path, Type: ingress.Prefix, Backend: ingress.Backend{Service: svc, Port: ingress.Port{Number: 80}}}
}

// ing makes an Ingress of our class.
func ing(n, host string, annotations map[string]string, paths ...ingress.Path) kube.Change {
	return kube.Change{Object: service.Object{Kind: "Ingress", Name: name(n)}, Ingress: &ingress.Ingress{
		Name: name(n), Class: "fairlead", Annotations: own(annotations), Rules: []ingress.Rule{{Host: host, Paths: paths}},
	}}
}

// own puts our prefix before the names of annotations.
func own(annotations map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range annotations {
		out["fairlead.io/"+k] = v
	}
	return out
}

func gone(kind, n string) kube.Change {
	return kube.Change{Object: service.Object{Kind: kind, Name: name(n)}}
}

func configMap(n string, data map[string]string) kube.Change {
	return kube.Change{
		Object:    service.Object{Kind: "ConfigMap", Name: name(n)},
		ConfigMap: &ingress.ConfigMap{Name: name(n), Data: data},
	}
}

func secret(n string, data map[string][]byte) kube.Change {
	return kube.Change{Object: service.Object{Kind: "Secret", Name: name(n)}, Secret: &ingress.Secret{Name: name(n), Data: data}}
}

// serve starts a backend.
func serve(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// says is a backend that answers with a text.
func says(t *testing.T, text string) netip.AddrPort {
	return serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) })
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// An answer is what a client got.
type answer struct {
	*http.Response
	body string
}

// ask sends a request for http://host/path; fields are "Name: value".
func (w *world) ask(method, url string, fields ...string) answer {
	w.t.Helper()
	return w.send(method, url, nil, fields...)
}

func (w *world) send(method, url string, body io.Reader, fields ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		req.Header.Add(k, v)
	}
	tr := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", w.addr)
		},
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer{resp, string(text)}
}

func (w *world) get(url string, fields ...string) answer {
	w.t.Helper()
	return w.ask(http.MethodGet, url, fields...)
}

// want checks the status and the body, of which a part is enough.
func (w *world) want(a answer, status int, body string) {
	w.t.Helper()
	if a.StatusCode != status || !strings.Contains(a.body, body) {
		w.t.Fatalf("%s %s: got %d %q, want %d %q", a.Request.Method, a.Request.URL, a.StatusCode, a.body, status, body)
	}
}

// reasons returns what the problems are, with their objects.
func (w *world) reasons() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, p := range w.problems {
		out = append(out, p.Object.Kind+" "+p.Object.Name.String()+" "+p.Reason)
	}
	return out
}
