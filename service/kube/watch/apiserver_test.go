package watch

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
)

// An apiServer is as much of a Kubernetes API server as a reflector sees: lists,
// watches that may begin with the list, selection, and failure.
type apiServer struct {
	t    *testing.T
	http *httptest.Server

	mu       sync.Mutex
	rev      int
	objects  map[string]metav1.Object // by path
	watchers map[*watcher]bool
	requests []string      // "list" or "watch" and the URL
	opened   chan struct{} // has a token after a watch was opened

	noFields bool // knows no field label of Services
	noStream bool // cannot stream lists
	noProto  bool // answers in JSON, whatever is asked for
	down     bool // answers 503
}

// A watcher is one watch request. Objects it has seen and that are not selected
// any more are deleted to it.
type watcher struct {
	prefix string
	match  func(metav1.Object) bool
	seen   map[string]bool
	proto  bool // speaks protobuf
	events chan []byte
	drop   chan struct{} // closed when the server goes down
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{t: t, rev: 100, objects: make(map[string]metav1.Object), watchers: make(map[*watcher]bool), opened: make(chan struct{}, 1)}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.fail(true)
		s.http.Close()
	})
	return s
}

// source returns what reads from the server, in one way or the other.
func (s *apiServer) source(compact bool) *Source {
	s.t.Helper()
	c, err := Config("", s.http.URL, -1, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	src := new(Source)
	if src.Client, err = kubernetes.NewForConfig(c); err != nil {
		s.t.Fatal(err)
	}
	if compact {
		if src.Compact, err = NewCompact(c); err != nil {
			s.t.Fatal(err)
		}
	}
	return src
}

func path(o metav1.Object) string {
	prefix := ""
	switch o.(type) {
	case *corev1.Service:
		prefix = "/api/v1/services/"
	case *corev1.Node:
		prefix = "/api/v1/nodes/"
	case *discoveryv1.EndpointSlice:
		prefix = "/apis/discovery.k8s.io/v1/endpointslices/"
	default:
		panic(fmt.Sprintf("unknown kind %T", o))
	}
	return prefix + o.GetNamespace() + "/" + o.GetName()
}

// set creates or replaces o, and tells the watchers.
func (s *apiServer) set(o metav1.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	o.SetResourceVersion(fmt.Sprint(s.rev))
	s.objects[path(o)] = o
	for w := range s.watchers {
		if strings.HasPrefix(path(o), w.prefix) {
			w.tell(path(o), o)
		}
	}
}

// remove deletes o, and tells the watchers.
func (s *apiServer) remove(o metav1.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, path(o))
	for w := range s.watchers {
		if w.seen[path(o)] {
			delete(w.seen, path(o))
			w.send("DELETED", o.(runtime.Object))
		}
	}
}

// fail breaks all watches and refuses requests, or ends that.
func (s *apiServer) fail(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		for w := range s.watchers {
			close(w.drop)
			delete(s.watchers, w)
		}
	}
}

func (w *watcher) tell(path string, o metav1.Object) {
	switch selected := w.match(o); {
	case selected && w.seen[path]:
		w.send("MODIFIED", o.(runtime.Object))
	case selected:
		w.seen[path] = true
		w.send("ADDED", o.(runtime.Object))
	case w.seen[path]:
		delete(w.seen, path)
		w.send("DELETED", o.(runtime.Object))
	}
}

func (w *watcher) send(kind string, o runtime.Object) {
	if !w.proto {
		w.events <- fmt.Appendf(nil, `{"type":%q,"object":%s}`+"\n", kind, encode(o, false))
		return
	}
	event := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: encode(o, true)}}
	data, err := event.Marshal()
	if err != nil {
		panic(err)
	}
	w.events <- append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// encode returns o in protobuf or JSON.
func encode(o runtime.Object, proto bool) []byte {
	switch o := o.(type) {
	case *corev1.Service:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	case *corev1.Node:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	case *discoveryv1.EndpointSlice:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	}
	media := runtime.ContentTypeJSON
	if proto {
		media = runtime.ContentTypeProtobuf
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	data, err := runtime.Encode(info.Serializer, o)
	if err != nil {
		panic(err)
	}
	return data
}

func (s *apiServer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	verb := "list "
	if q.Get("watch") == "true" {
		verb = "watch "
	}
	s.requests = append(s.requests, verb+r.URL.Path+" "+q.Get("labelSelector")+" "+q.Get("fieldSelector"))
	proto := !s.noProto && strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf)
	rw.Header().Set("Content-Type", runtime.ContentTypeJSON)
	fields := q.Get("fieldSelector")
	switch {
	case s.down:
		s.refuse(rw, 503, "ServiceUnavailable", "down")
	case s.noFields && strings.Contains(fields, "spec."):
		s.refuse(rw, 400, "BadRequest", "field label not supported: spec.clusterIP")
	case s.noStream && q.Get("sendInitialEvents") != "":
		s.refuse(rw, 422, "Invalid", "sendInitialEvents is forbidden")
	case verb == "watch ":
		s.watch(rw, r, proto, fields)
		return
	default:
		s.list(rw, r, proto, fields)
	}
	s.mu.Unlock()
}

func (s *apiServer) refuse(rw http.ResponseWriter, code int, reason, message string) {
	rw.WriteHeader(code)
	fmt.Fprintf(rw, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":%q,"code":%d}`, reason, message, code)
}

func (s *apiServer) list(rw http.ResponseWriter, r *http.Request, proto bool, fields string) {
	match, items := s.selector(r.URL.Query().Get("labelSelector"), fields), []runtime.Object{}
	for p, o := range s.objects {
		if strings.HasPrefix(p, r.URL.Path+"/") && match(o) {
			items = append(items, o.(runtime.Object))
		}
	}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "ServiceList"}
	switch {
	case strings.HasSuffix(r.URL.Path, "nodes"):
		kind.Kind = "NodeList"
	case strings.HasSuffix(r.URL.Path, "endpointslices"):
		kind.Group, kind.Kind = "discovery.k8s.io", "EndpointSliceList"
	}
	list, err := scheme.Scheme.New(kind)
	if err != nil {
		s.t.Error(err)
		return
	}
	list.GetObjectKind().SetGroupVersionKind(kind)
	if err := meta.SetList(list, items); err != nil {
		s.t.Error(err)
	}
	about, err := meta.ListAccessor(list)
	if err != nil {
		s.t.Error(err)
		return
	}
	about.SetResourceVersion(fmt.Sprint(s.rev))
	if proto {
		rw.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	}
	rw.Write(encode(list, proto))
}

// watch is called with mu held and releases it. The test never lets objects
// change between a list and its watch, so there is no history to replay: a watch
// without initial events knows what the list has shown.
func (s *apiServer) watch(rw http.ResponseWriter, r *http.Request, proto bool, fields string) {
	initial := r.URL.Query().Get("sendInitialEvents") == "true"
	if proto {
		rw.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	}
	w := &watcher{
		prefix: r.URL.Path + "/", match: s.selector(r.URL.Query().Get("labelSelector"), fields), seen: make(map[string]bool), proto: proto,
		events: make(chan []byte, 1000), drop: make(chan struct{}),
	}
	for p, o := range s.objects {
		if strings.HasPrefix(p, w.prefix) && w.match(o) {
			w.seen[p] = true
			if initial {
				w.send("ADDED", o.(runtime.Object))
			}
		}
	}
	if initial {
		end := metav1.ObjectMeta{ResourceVersion: fmt.Sprint(s.rev), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}
		switch {
		case strings.HasSuffix(r.URL.Path, "nodes"):
			w.send("BOOKMARK", &corev1.Node{ObjectMeta: end})
		case strings.HasSuffix(r.URL.Path, "endpointslices"):
			w.send("BOOKMARK", &discoveryv1.EndpointSlice{ObjectMeta: end})
		default:
			w.send("BOOKMARK", &corev1.Service{ObjectMeta: end})
		}
	}
	s.watchers[w] = true
	select {
	case s.opened <- struct{}{}:
	default:
	}
	s.mu.Unlock()
	rw.WriteHeader(http.StatusOK)
	rw.(http.Flusher).Flush()
	for {
		select {
		case e := <-w.events:
			if _, err := rw.Write(e); err != nil {
				return
			}
			rw.(http.Flusher).Flush()
		case <-w.drop:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *apiServer) selector(labelSelector, fields string) func(metav1.Object) bool {
	byLabel, err := labels.Parse(labelSelector)
	if err != nil {
		s.t.Errorf("label selector %q: %v", labelSelector, err)
		return func(metav1.Object) bool { return false }
	}
	return func(o metav1.Object) bool {
		if !byLabel.Matches(labels.Set(o.GetLabels())) {
			return false
		}
		if name, ok := strings.CutPrefix(fields, "metadata.name="); ok {
			return o.GetName() == name
		}
		svc, ok := o.(*corev1.Service)
		return fields == "" || ok && svc.Spec.ClusterIP != "None"
	}
}

// log returns the requests so far.
func (s *apiServer) log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}
