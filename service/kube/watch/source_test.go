package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A sink owns a Store and says what is in it.
type sink struct {
	mu       sync.Mutex
	store    *service.Store
	updates  int
	changes  int // updates that made a difference
	synced   int
	nodes    []string
	problems map[service.Object][]service.Problem
	log      bytes.Buffer
	poke     chan struct{}
}

func newSink() *sink {
	return &sink{
		store: service.NewStore(), problems: make(map[service.Object][]service.Problem), poke: make(chan struct{}, 1),
	}
}

func (s *sink) change(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

func (s *sink) Update(ctx context.Context, change func(*service.Store) bool) error {
	s.change(func() {
		s.updates++
		if change(s.store) {
			s.changes++
		}
	})
	return ctx.Err()
}

func (s *sink) Synced() { s.change(func() { s.synced++ }) }

func (s *sink) node(_ context.Context, n *kube.NodeInfo) {
	s.change(func() {
		if n == nil {
			s.nodes = append(s.nodes, "none")
		} else {
			s.nodes = append(s.nodes, n.Name+" in "+n.Zone)
		}
	})
}

func (s *sink) report(o service.Object, problems []service.Problem) {
	s.change(func() {
		if problems == nil {
			delete(s.problems, o)
		} else {
			s.problems[o] = problems
		}
	})
}

// Write is for the log.
func (s *sink) Write(p []byte) (int, error) {
	s.change(func() { s.log.Write(p) })
	return len(p), nil
}

// state returns the ports in force with their endpoints, and the objects with
// problems.
func (s *sink) state() string {
	var out []string
	for p := range s.store.Snapshot().Ports.All() {
		line := p.ID.String()
		for _, e := range p.Cluster {
			line += " " + e.Addr.String()
		}
		out = append(out, line)
	}
	for o := range maps.Keys(s.problems) {
		out = append(out, "problem "+o.Kind+" "+o.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// wait waits until f, called with the lock held, returns want.
func (s *sink) wait(t *testing.T, what string, f func() string, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		got := f()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.poke:
		case <-deadline:
			t.Fatalf("%s (-got +want):\n%s", what, cmp.Diff(got, want))
		}
	}
}

func (s *sink) waitState(t *testing.T, want ...string) {
	t.Helper()
	s.wait(t, "state", s.state, strings.Join(want, "\n"))
}

func (s *sink) waitSynced(t *testing.T) {
	t.Helper()
	s.wait(t, "synced", func() string { return fmt.Sprint(s.synced) }, "1")
}

// start runs a Source against client until the test ends.
func (s *sink) start(t *testing.T, src *Source) {
	t.Helper()
	src.Sink, src.Node, src.Report, src.NodeName = s, s.node, s.report, "n1"
	src.Log = slog.New(slog.NewTextHandler(s, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		src.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func svc(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u"},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, c := range change {
		c(o)
	}
	return o
}

func slice(name, owner, ip string, labels ...string) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: owner}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080))}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip}}},
	}
	for _, l := range labels {
		o.Labels[l] = ""
	}
	return o
}

func node(name, zone string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
}

func TestSource(t *testing.T) {
	for _, tc := range []struct {
		name                        string
		noFields, noStream, noProto bool
		typed                       bool
	}{
		{name: "streamed lists"},
		{name: "plain lists", noStream: true},
		{name: "no field selection", noFields: true},
		{name: "old server", noFields: true, noStream: true},
		{name: "streamed lists in JSON", noProto: true},
		{name: "plain lists in JSON", noProto: true, noStream: true},
		{name: "typed, streamed lists", typed: true},
		{name: "typed, old server", typed: true, noFields: true, noStream: true},
		{name: "typed, streamed lists in JSON", typed: true, noProto: true},
		{name: "typed, plain lists in JSON", typed: true, noProto: true, noStream: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api, s := newAPIServer(t), newSink()
			api.noFields, api.noStream, api.noProto = tc.noFields, tc.noStream, tc.noProto
			proxied := func(o *corev1.Service) { o.Labels = map[string]string{kube.LabelProxyName: "other"} }
			api.set(svc("web", "10.96.0.1"))
			api.set(svc("headless", "None"))
			api.set(svc("other", "10.96.0.9", proxied))
			api.set(slice("web-1", "web", "10.244.1.2"))
			api.set(slice("web-2", "web", "10.244.1.3", kube.LabelHeadless))
			api.set(node("n1", "a"))
			api.set(node("n2", "b"))
			s.start(t, api.source(!tc.typed))
			s.waitSynced(t)
			s.waitState(t, "shop/web/tcp/IPv4 10.244.1.2:8080")
			s.mu.Lock()
			if d := cmp.Diff(s.nodes, []string{"n1 in a"}); d != "" {
				t.Errorf("nodes (-got +want):\n%s", d)
			}
			s.mu.Unlock()
			walk(t, api, s)
			checkRequests(t, api.log(), tc.noFields, tc.noStream)
		})
	}
}

// walk changes everything there is to change.
func walk(t *testing.T, api *apiServer, s *sink) {
	t.Helper()
	waitWatchers(t, api, 3)
	t.Log("a second Service takes the slice")
	api.set(svc("shop", "10.96.0.2"))
	api.set(slice("web-1", "shop", "10.244.1.2"))
	s.waitState(t, "shop/shop/tcp/IPv4 10.244.1.2:8080", "shop/web/tcp/IPv4")
	t.Log("labels take objects away")
	api.set(slice("web-1", "shop", "10.244.1.2", kube.LabelHeadless))
	api.set(svc("web", "10.96.0.1", func(o *corev1.Service) { o.Labels = map[string]string{kube.LabelProxyName: ""} }))
	s.waitState(t, "shop/shop/tcp/IPv4")
	t.Log("objects go")
	api.set(slice("shop-1", "shop", "10.244.1.4"))
	s.waitState(t, "shop/shop/tcp/IPv4 10.244.1.4:8080")
	api.remove(slice("shop-1", "shop", ""))
	s.waitState(t, "shop/shop/tcp/IPv4")
	t.Log("a Service becomes headless")
	api.set(svc("shop", "None"))
	s.waitState(t)
	t.Log("problems come and go")
	api.set(svc("shop", "10.96.0.2", func(o *corev1.Service) { o.Spec.ExternalIPs = []string{"x"} }))
	s.waitState(t, "problem Service shop/shop", "shop/shop/tcp/IPv4")
	api.set(svc("shop", "10.96.0.2"))
	s.waitState(t, "shop/shop/tcp/IPv4")
	t.Log("the node moves and goes")
	api.set(node("n1", "b"))
	api.set(node("n1", "b"))
	api.remove(node("n1", "b"))
	s.wait(t, "nodes", func() string { return strings.Join(s.nodes, ", ") }, "n1 in a, n1 in b, none")
}

// TestAnnotationsArrive: what shares connections out is kept on both ways an
// object comes.
func TestAnnotationsArrive(t *testing.T) {
	for _, noStream := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain lists %v", noStream), func(t *testing.T) {
			api, s := newAPIServer(t), newSink()
			api.noStream = noStream
			web, slice := svc("web", "10.96.0.1"), slice("web-1", "web", "10.244.1.2")
			put := func(scheduler, weight string) {
				web, slice = web.DeepCopy(), slice.DeepCopy()
				web.Annotations = map[string]string{kube.AnnotationScheduler: scheduler}
				slice.Annotations = map[string]string{kube.AnnotationWeight: weight}
				api.set(web)
				api.set(slice)
			}
			state := func() string {
				var out []string
				for p := range s.store.Snapshot().Ports.All() {
					for _, e := range p.Cluster {
						out = append(out, fmt.Sprintf("%s %d", p.Scheduling.Algorithm, e.Weight))
					}
				}
				return strings.Join(out, ", ")
			}
			put("wlc", "7")
			s.start(t, api.source(true))
			s.waitSynced(t)
			s.wait(t, "listed", state, "wlc 7")
			waitWatchers(t, api, 3)
			put("wrr", "8")
			s.wait(t, "changed", state, "wrr 8")
		})
	}
}

// waitWatchers waits until n watches are open.
func waitWatchers(t *testing.T, api *apiServer, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		api.mu.Lock()
		got := len(api.watchers)
		api.mu.Unlock()
		if got == n {
			return
		}
		select {
		case <-api.opened:
		case <-deadline:
			t.Fatalf("%d watches are open, want %d", got, n)
		}
	}
}

func checkRequests(t *testing.T, log []string, noFields, noStream bool) {
	t.Helper()
	for _, want := range []string{
		"/api/v1/services !service.kubernetes.io/service-proxy-name spec.clusterIP!=None",
		"/apis/discovery.k8s.io/v1/endpointslices !service.kubernetes.io/headless ",
		"/api/v1/nodes  metadata.name=n1",
	} {
		if !slices.Contains(log, "watch "+want) {
			t.Errorf("no request %q among\n%s", want, strings.Join(log, "\n"))
		}
	}
	listed := slices.ContainsFunc(log, func(r string) bool { return strings.HasPrefix(r, "list ") })
	if listed != noStream {
		t.Errorf("plain lists: %v, want %v", listed, noStream)
	}
	unselected := slices.Contains(log, "watch /api/v1/services !service.kubernetes.io/service-proxy-name ")
	if unselected != noFields {
		t.Errorf("request without field selector: %v, want %v", unselected, noFields)
	}
}

// TestOutage lets the server go away and come back with other objects.
func TestOutage(t *testing.T) {
	t.Run("compact", func(t *testing.T) { testOutage(t, true) })
	t.Run("typed", func(t *testing.T) { testOutage(t, false) })
}

func testOutage(t *testing.T, compact bool) {
	api, s := newAPIServer(t), newSink()
	api.set(svc("web", "10.96.0.1"))
	api.set(svc("gone", "10.96.0.2", func(o *corev1.Service) { o.Spec.ExternalIPs = []string{"x"} }))
	api.set(slice("web-1", "web", "10.244.1.2"))
	api.set(slice("web-2", "web", "10.244.1.3"))
	s.start(t, api.source(compact))
	s.waitSynced(t)
	before := []string{"problem Service shop/gone", "shop/gone/tcp/IPv4", "shop/web/tcp/IPv4 10.244.1.2:8080 10.244.1.3:8080"}
	s.waitState(t, before...)
	s.mu.Lock()
	updates := s.updates
	s.mu.Unlock()
	logged := func(text string) func() string {
		return func() string { return fmt.Sprint(strings.Count(s.log.String(), text)) }
	}

	api.fail(true)
	s.wait(t, "warnings", logged("level=WARN"), "3")
	s.waitState(t, before...)
	api.remove(svc("gone", ""))
	api.set(svc("web", "10.96.0.1", func(o *corev1.Service) { o.Spec.Ports[0].Port = 81 }))
	api.remove(slice("web-1", "", ""))
	api.set(slice("web-2", "web", "10.244.1.4"))
	api.fail(false)
	s.waitState(t, "shop/web/tcp/IPv4 10.244.1.4:8080")
	s.wait(t, "recoveries", logged("answers again"), "3")

	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.updates - updates; got > 4 { // one for each relist, one more if a list was answered before the last change
		t.Errorf("%d updates for the changes of the outage, want one for each kind", got)
	}
	if got := strings.Count(s.log.String(), "level=WARN"); got != 3 || s.synced != 1 {
		t.Errorf("%d warnings, synced %d times; want 3 and once. Log:\n%s", got, s.synced, s.log.String())
	}
}

func TestHeadlessSource(t *testing.T) {
	s := newSink()
	client := fake.NewClientset(
		svc("web", "None", func(o *corev1.Service) { o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol} }),
		slice("web-1", "web", "10.244.1.2", kube.LabelHeadless),
	)
	s.start(t, &Source{Client: client, All: true})
	s.waitSynced(t)
	s.waitState(t, "shop/web/tcp/IPv4 10.244.1.2:8080")
	s.wait(t, "nodes", func() string { return strings.Join(s.nodes, ", ") }, "none")
}

// TestRelist: a relist of what is known already changes nothing, and is not heard
// of.
func TestRelist(t *testing.T) {
	for _, noStream := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain lists %v", noStream), func(t *testing.T) {
			api, s := newAPIServer(t), newSink()
			api.noStream = noStream
			for i := range 50 {
				name := fmt.Sprint("web-", i)
				api.set(svc(name, fmt.Sprint("10.96.0.", i+1)))
				api.set(slice(name, name, fmt.Sprint("10.244.1.", i+2)))
			}
			s.start(t, api.source(true))
			s.waitSynced(t)
			waitWatchers(t, api, 3)
			s.mu.Lock()
			first := s.store.Snapshot()
			services, slices := s.store.Changes()
			updates, changes := s.updates, s.changes
			s.mu.Unlock()
			api.fail(true)
			api.fail(false)
			s.wait(t, "lists handed over", func() string { return fmt.Sprint(s.updates >= updates+2) }, "true")
			s.mu.Lock()
			defer s.mu.Unlock()
			if gotServices, gotSlices := s.store.Changes(); gotServices != services || gotSlices != slices || s.changes != changes {
				t.Errorf("%d and %d changes, %d of them heard of; want %d, %d and %d as before", gotServices, gotSlices, s.changes, services, slices, changes)
			}
			for range s.store.Snapshot().Changed(first) {
				t.Error("a Port has changed")
			}
		})
	}
}
