//go:build linux

package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// fixture is a server on loopback, a client, and what the client asked for.
type fixture struct {
	replay *replay
	client *kubernetes.Clientset

	mu    sync.Mutex
	asked []url.URL
}

func (f *fixture) record(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		f.mu.Lock()
		f.asked = append(f.asked, *r.URL)
		f.mu.Unlock()
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T, s spec, contentType string) *fixture {
	t.Helper()
	rp, err := newReplay(s, discard())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := rp.serve(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rp.close(); err != nil {
			t.Error(err)
		}
	})
	path := t.TempDir() + "/kubeconfig"
	if err := writeKubeconfig(path, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{replay: rp}
	config.ContentType, config.AcceptContentTypes = contentType, contentType+",application/json"
	config.WrapTransport = f.record
	f.client, err = kubernetes.NewForConfig(rest.CopyConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func forEachEncoding(t *testing.T, s spec, test func(*testing.T, *fixture)) {
	t.Helper()
	for _, contentType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		t.Run(contentType, func(t *testing.T) { test(t, start(t, s, contentType)) })
	}
}

func timeLimit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestInformers(t *testing.T) {
	s := spec{Services: 30, Probes: 2, Endpoints: 5}
	forEachEncoding(t, s, func(t *testing.T, f *fixture) {
		ctx := timeLimit(t)
		factory := informers.NewSharedInformerFactory(f.client, 0)
		services, slices := factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
		updates := make(chan *discoveryv1.EndpointSlice, 100)
		_, err := slices.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, o any) { updates <- o.(*discoveryv1.EndpointSlice) },
		})
		if err != nil {
			t.Fatal(err)
		}
		synced := []cache.InformerSynced{services.Informer().HasSynced, slices.Informer().HasSynced}
		stop, cancel := context.WithCancel(ctx)
		factory.Start(stop.Done())
		defer func() { cancel(); factory.Shutdown() }()
		if !cache.WaitForCacheSync(ctx.Done(), synced...) {
			t.Fatal("informers did not sync")
		}
		got := []int{len(services.Informer().GetStore().List()), len(slices.Informer().GetStore().List())}
		if diff := cmp.Diff([]int{s.total(), s.total()}, got); diff != "" {
			t.Errorf("numbers of Services and slices (-want +got):\n%s", diff)
		}
		svc, err := services.Lister().Services(namespaceOf(7)).Get(nameOf(7))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(service(7).Spec, svc.Spec); diff != "" {
			t.Errorf("Service 7 (-want +got):\n%s", diff)
		}
		checkUpdates(ctx, t, f.replay.store, s, updates)
		checkWatchList(t, f)
	})
}

// checkUpdates makes changes and waits for them to come out of an informer.
func checkUpdates(ctx context.Context, t *testing.T, st *store, s spec, updates <-chan *discoveryv1.EndpointSlice) {
	t.Helper()
	for k := range 20 {
		before := time.Now()
		change, err := st.moveEndpoint(k, 3, s.spare(k))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case u := <-updates:
			want := []string{nameOf(k) + "-x7k2p", s.spare(k).String(), strconv.FormatInt(change.number, 10)}
			got := []string{u.Name, u.Endpoints[3].Addresses[0], u.ResourceVersion}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("change %d (-want +got):\n%s", k, diff)
			}
		case <-ctx.Done():
			t.Fatalf("change %d did not arrive", k)
		}
		sent, err := change.awaitSent(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if now := time.Now(); sent.Before(before) || sent.After(now) {
			t.Errorf("change %d sent at %v, which is not between %v and %v", k, sent, before, now)
		}
	}
}

// checkWatchList makes sure that the informers did not have to fall back to a
// list, which client-go would do without a word.
func checkWatchList(t *testing.T, f *fixture) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) != 2 {
		t.Errorf("%d requests, want 2: %v", len(f.asked), f.asked)
	}
	for _, u := range f.asked {
		if u.Query().Get("sendInitialEvents") != "true" {
			t.Errorf("%s is not a watch with initial events", &u)
		}
	}
}

func TestListThenWatch(t *testing.T) {
	s := spec{Services: 3, Endpoints: 5}
	forEachEncoding(t, s, func(t *testing.T, f *fixture) {
		ctx := timeLimit(t)
		slices := f.client.DiscoveryV1().EndpointSlices("")
		list, err := slices.List(ctx, metav1.ListOptions{LabelSelector: "!service.kubernetes.io/headless"})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(list.Items); got != 3 {
			t.Errorf("listed %d slices, want 3", got)
		}
		if _, err := f.replay.store.moveEndpoint(1, 0, s.spare(0)); err != nil {
			t.Fatal(err)
		}
		w, err := slices.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		event := <-w.ResultChan()
		if event.Type != watch.Modified {
			t.Fatalf("got event %v, want MODIFIED", event)
		}
		got := event.Object.(*discoveryv1.EndpointSlice).Endpoints[0].Addresses[0]
		if want := s.spare(0).String(); got != want {
			t.Errorf("endpoint is %s, want %s", got, want)
		}
		_, err = slices.Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
		if !apierrors.IsResourceExpired(err) {
			t.Errorf("watch from before the start: got error %v, want Expired", err)
		}
	})
}

func TestSelectors(t *testing.T) {
	forEachEncoding(t, spec{Services: 60, Endpoints: 5}, func(t *testing.T, f *fixture) {
		ctx := timeLimit(t)
		tests := []struct {
			name, namespace string
			options         metav1.ListOptions
			want            int
		}{
			{name: "all", want: 60},
			{name: "label", options: metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=backend-00002"}, want: 1},
			{name: "label missing", options: metav1.ListOptions{LabelSelector: "!helm.sh/chart"}, want: 0},
			{name: "field", options: metav1.ListOptions{FieldSelector: "metadata.name=backend-00003"}, want: 1},
			{name: "namespace", namespace: "team-001", want: 10},
		}
		for _, tt := range tests {
			list, err := f.client.CoreV1().Services(tt.namespace).List(ctx, tt.options)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if got := len(list.Items); got != tt.want {
				t.Errorf("%s: got %d Services, want %d", tt.name, got, tt.want)
			}
		}
	})
}

func TestOtherResources(t *testing.T) {
	forEachEncoding(t, spec{Services: 1, Endpoints: 5}, func(t *testing.T, f *fixture) {
		ctx := timeLimit(t)
		n, err := f.client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := n.Status.Addresses[0].Address, "172.18.0.11"; got != want {
			t.Errorf("node address is %s, want %s", got, want)
		}
		if _, err := f.client.CoreV1().Nodes().Get(ctx, "n2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("get n2: error %v, want NotFound", err)
		}
		if _, err := f.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("list Pods: error %v, want NotFound", err)
		}
		cidrs, err := f.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
		if err != nil || len(cidrs.Items) != 1 {
			t.Errorf("ServiceCIDRs: got %v, %v, want one", cidrs, err)
		}
		e := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}, Reason: "Starting"}
		posted, err := f.client.EventsV1().Events("default").Create(ctx, e, metav1.CreateOptions{})
		if err != nil || posted.Reason != "Starting" {
			t.Errorf("post an Event: got %v, %v, want it back", posted, err)
		}
		if _, err := f.client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}); err == nil {
			t.Error("a Node could be created")
		}
	})
}

// TestObjectsAreOfUsualSize compares with what such objects measure in clusters:
// small ones would flatter both proxies.
func TestObjectsAreOfUsualSize(t *testing.T) {
	codecs, err := newCodecs()
	if err != nil {
		t.Fatal(err)
	}
	st := newStore(spec{Services: 1, Endpoints: 5}.objects())
	tests := []struct {
		name      string
		revision  *revision
		codec     codec
		low, high int
	}{
		{"Service, protobuf", st.get(gvrServices(), namespaceOf(0), nameOf(0)), codecs[0], 850, 1150},
		{"Service, JSON", st.get(gvrServices(), namespaceOf(0), nameOf(0)), codecs[1], 1250, 1700},
		{"EndpointSlice, protobuf", st.get(gvrSlices(), namespaceOf(0), nameOf(0)+"-x7k2p"), codecs[0], 1400, 1900},
	}
	for _, tt := range tests {
		data, err := tt.revision.bytes(tt.codec)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(data); got < tt.low || got > tt.high {
			t.Errorf("%s: %d bytes, want %d to %d", tt.name, got, tt.low, tt.high)
		}
	}
}

func TestAddressesAreDistinct(t *testing.T) {
	s := spec{Services: 10_000, Probes: 50, Endpoints: 5}
	seen := map[string]bool{}
	for i := range s.total() {
		seen[vip(i).String()] = true
	}
	for k := range s.Services*s.Endpoints + 1000 {
		seen[liveAddr(k).String()] = true
	}
	for k := range s.Probes {
		seen[deadAddr(k).String()] = true
	}
	if got, want := len(seen), s.total()+s.Services*s.Endpoints+1000+s.Probes; got != want {
		t.Errorf("%d distinct addresses, want %d", got, want)
	}
}

func TestNegotiate(t *testing.T) {
	codecs, err := newCodecs()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		accept, want string
	}{
		{"", runtime.ContentTypeJSON},
		{"*/*", runtime.ContentTypeJSON},
		{"application/json", runtime.ContentTypeJSON},
		{"application/vnd.kubernetes.protobuf, application/json", runtime.ContentTypeProtobuf},
		{"application/cbor, application/json;q=0.9", runtime.ContentTypeJSON},
		{"application/json;as=Table;v=v1;g=meta.k8s.io, application/json", runtime.ContentTypeJSON},
		{"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ""},
		{"text/html", ""},
	}
	for _, tt := range tests {
		c, ok := negotiate(codecs, tt.accept)
		if got := c.info.MediaType; got != tt.want || ok != (tt.want != "") {
			t.Errorf("negotiate(%q) = %q, %v, want %q", tt.accept, got, ok, tt.want)
		}
	}
}
