//go:build linux

package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// Replay is an API server in the router of a World with no more to it than proxies need:
// lists and watches in JSON, without TLS, rights and defaults. It is for kernels on which
// a real one takes minutes. It implements [Source].
type Replay struct {
	kubeconfig string
	server     *http.Server
	served     sync.WaitGroup

	mu      sync.Mutex
	number  int                         // of the last change
	objects map[string]map[string]entry // by resource, then namespace/name
	events  []change
	changed chan struct{} // closed and replaced at each change
}

// An entry is an object as it was put, and as it is sent.
type entry struct {
	put  metav1.Object
	text json.RawMessage
}

// A change is what a watch announces.
type change struct {
	number   int
	resource string
	event    watch.EventType
	text     json.RawMessage
}

// NewReplay starts a server that nodes of the world reach at the router's address. Its
// kubeconfig is written to dir.
func NewReplay(w *World, dir string) (*Replay, error) {
	l, err := w.Router.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		return nil, fmt.Errorf("listen for an API server: %w", err)
	}
	_, port, _ := strings.Cut(l.Addr().String(), "]:")
	if port == "" {
		_, port, _ = strings.Cut(l.Addr().String(), ":")
	}
	r := &Replay{
		kubeconfig: filepath.Join(dir, "replay.kubeconfig"), changed: make(chan struct{}),
		objects: map[string]map[string]entry{"services": {}, "endpointslices": {}, "nodes": {}, "servicecidrs": {}},
	}
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":"http://%s:%s"}}],"users":[{"name":"c","user":{}}],
"contexts":[{"name":"c","context":{"cluster":"c","user":"c"}}]}`, netns.RouterAddr().V4, port)
	if err := os.WriteFile(r.kubeconfig, []byte(text), 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	r.served.Go(func() { _ = r.server.Serve(l) }) // until Close, which it says
	return r, nil
}

// Close ends the server.
func (r *Replay) Close() error {
	err := r.server.Close()
	r.served.Wait()
	return err
}

// Args implements [Source].
func (r *Replay) Args() []string {
	return []string{"--kubeconfig=" + r.kubeconfig, "--kube-api-qps=100", "--kube-api-burst=200"}
}

// HasNode implements [Source].
func (r *Replay) HasNode() bool { return true }

// Reset implements [Source].
func (r *Replay) Reset(context.Context) error {
	return errors.Join(r.put("services"), r.put("endpointslices"))
}

// Problems implements [Source]. Events that proxies post are taken and forgotten.
func (r *Replay) Problems(context.Context, *Proxy) ([]Problem, error) { return nil, nil }

// Put implements [Source].
func (r *Replay) Put(_ context.Context, s State) error {
	var services, endpoints []metav1.Object
	for _, o := range slices.Concat(s.Services, s.Marker.Services()) {
		services = append(services, o)
	}
	for _, o := range slices.Concat(s.Slices, s.Marker.Slices()) {
		endpoints = append(endpoints, o)
	}
	return errors.Join(r.put("nodes", nodeObject(s.Zone)), r.put("services", services...), r.put("endpointslices", endpoints...))
}

// put makes objects all there is of a resource.
func (r *Replay) put(resource string, objects ...metav1.Object) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := maps.Clone(r.objects[resource])
	for _, o := range objects {
		key := o.GetNamespace() + "/" + o.GetName()
		old, there := gone[key]
		delete(gone, key)
		if there && reflect.DeepEqual(old.put, o) {
			continue
		}
		event := watch.Added
		if there {
			event = watch.Modified
		}
		if err := r.announce(resource, key, event, o); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		if err := r.announce(resource, key, watch.Deleted, gone[key].put); err != nil {
			return err
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// kinds are those of the resources, with their versions.
func kinds() map[string][2]string {
	return map[string][2]string{
		"services": {"v1", "Service"}, "nodes": {"v1", "Node"},
		"endpointslices": {"discovery.k8s.io/v1", "EndpointSlice"}, "servicecidrs": {"networking.k8s.io/v1", "ServiceCIDR"},
	}
}

// announce makes a change. The caller holds the lock.
func (r *Replay) announce(resource, key string, event watch.EventType, o metav1.Object) error {
	raw, err := json.Marshal(o)
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &fields)
	}
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	r.number++
	kind := kinds()[resource]
	fields["apiVersion"], fields["kind"] = kind[0], kind[1]
	meta, _ := fields["metadata"].(map[string]any)
	meta["resourceVersion"], meta["uid"] = strconv.Itoa(r.number), resource+"-"+key
	text, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if event == watch.Deleted {
		delete(r.objects[resource], key)
	} else {
		r.objects[resource][key] = entry{o, text}
	}
	r.events = append(r.events, change{r.number, resource, event, text})
	return nil
}

// ServeHTTP implements [http.Handler].
func (r *Replay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	at := slices.IndexFunc(parts, func(p string) bool { _, is := kinds()[p]; return is })
	w.Header().Set("Content-Type", "application/json")
	switch {
	case q.Method != http.MethodGet: // an Event
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"taken"}}`)
	case at < 0:
		missing(w)
	case at+1 < len(parts):
		r.mu.Lock()
		e, is := r.objects[parts[at]]["/"+parts[at+1]] // only Nodes are asked for one by one
		r.mu.Unlock()
		if !is {
			missing(w)
			return
		}
		_, _ = w.Write(e.text)
	case q.FormValue("watch") != "":
		r.watch(w, q, parts[at])
	default:
		r.list(w, parts[at])
	}
}

func missing(w http.ResponseWriter) {
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"NotFound","code":404}`)
}

// state returns the objects of a resource, and the number of the last change.
func (r *Replay) state(resource string) (items []json.RawMessage, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.objects[resource]
	for _, key := range slices.Sorted(maps.Keys(all)) {
		items = append(items, all[key].text)
	}
	return items, r.number
}

func (r *Replay) list(w http.ResponseWriter, resource string) {
	items, number := r.state(resource)
	kind := kinds()[resource]
	_ = json.NewEncoder(w).Encode(map[string]any{ // who has gone away does not mind
		"apiVersion": kind[0], "kind": kind[1] + "List", "items": append([]json.RawMessage{}, items...),
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(number)},
	})
}

// watch sends changes until the client goes away, and all there is before them if that
// is asked for.
func (r *Replay) watch(w http.ResponseWriter, q *http.Request, resource string) {
	seen, _ := strconv.Atoi(q.FormValue("resourceVersion")) // none is 0
	send := func(event watch.EventType, object any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": event, "object": object})
	}
	if q.FormValue("sendInitialEvents") == "true" {
		items, number := r.state(resource)
		for _, text := range items {
			send(watch.Added, text)
		}
		kind := kinds()[resource]
		send(watch.Bookmark, map[string]any{"apiVersion": kind[0], "kind": kind[1], "metadata": map[string]any{
			"resourceVersion": strconv.Itoa(number), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"},
		}})
		seen = number
	}
	for {
		r.mu.Lock()
		news, changed := r.events, r.changed
		r.mu.Unlock()
		for _, c := range news {
			if c.number > seen && c.resource == resource {
				send(c.event, c.text)
			}
		}
		if n := len(news); n > 0 {
			seen = max(seen, news[n-1].number)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-q.Context().Done():
			return
		case <-changed:
		}
	}
}
