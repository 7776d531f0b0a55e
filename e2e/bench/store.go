//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// revision is one state of one object: what a list shows and a watch announces.
// It never changes, apart from caching its encodings.
type revision struct {
	number int64
	event  watch.EventType // watch.Added if it was there at the start
	object object

	encoded [numCodecs]encoding

	once sync.Once
	sent chan struct{} // closed when at is known; nil if nobody will ask
	at   time.Time
}

// markSent records when the first watch began to write the event.
func (r *revision) markSent(at time.Time) {
	if r.sent == nil {
		return
	}
	r.once.Do(func() {
		r.at = at
		close(r.sent)
	})
}

// awaitSent returns when the API server began to write the event to a watch. It
// fails if ctx ends before that, so nobody is watching.
func (r *revision) awaitSent(ctx context.Context) (time.Time, error) {
	select {
	case <-r.sent:
		return r.at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("event %d was never sent: %w", r.number, context.Cause(ctx))
	}
}

// table holds the objects of one resource, in the order they were created.
type table struct {
	kind   schema.GroupVersionKind
	keys   map[string]int // namespace/name to index in rows
	rows   []*revision
	events []*revision // changes since the start
}

// store is all the API server has. Safe for concurrent use.
type store struct {
	mu     sync.Mutex
	first  int64 // a watch may begin at this number, not before
	number int64 // of the last change
	tables map[schema.GroupVersionResource]*table
	// changed is closed and replaced at each change.
	changed chan struct{}
}

// The resources that there are. Whatever else a proxy asks for is "not found".
func gvrServices() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "services"}
}
func gvrNodes() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
}
func gvrSlices() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
}
func gvrServiceCIDRs() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "servicecidrs"}
}

// newStore takes the objects over: it numbers them, and they must not be changed
// after that.
func newStore(objects []object) *store {
	s := &store{changed: make(chan struct{}), tables: map[schema.GroupVersionResource]*table{}}
	for gvr, kind := range map[schema.GroupVersionResource]string{
		gvrServices(): "Service", gvrNodes(): "Node", gvrSlices(): "EndpointSlice", gvrServiceCIDRs(): "ServiceCIDR",
	} {
		s.tables[gvr] = &table{kind: gvr.GroupVersion().WithKind(kind), keys: map[string]int{}}
	}
	for _, o := range objects {
		t := s.tableOf(o.GetObjectKind().GroupVersionKind())
		s.number++
		o.SetResourceVersion(strconv.FormatInt(s.number, 10))
		t.keys[key(o.GetNamespace(), o.GetName())] = len(t.rows)
		t.rows = append(t.rows, &revision{number: s.number, event: watch.Added, object: o})
	}
	s.first = s.number
	return s
}

func (s *store) tableOf(kind schema.GroupVersionKind) *table {
	for _, t := range s.tables {
		if t.kind == kind {
			return t
		}
	}
	panic(fmt.Sprintf("bench: no resource for %v", kind))
}

func key(namespace, name string) string { return namespace + "/" + name }

// kindOf returns the kind of a resource, and whether there is such a resource.
func (s *store) kindOf(gvr schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
	t, ok := s.tables[gvr] // the map itself never changes
	if !ok {
		return schema.GroupVersionKind{}, false
	}
	return t.kind, true
}

// list returns the present state of a resource and the number it is current at.
func (s *store) list(gvr schema.GroupVersionResource) ([]*revision, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tables[gvr].rows), s.number
}

// get returns one object, or nil.
func (s *store) get(gvr schema.GroupVersionResource, namespace, name string) *revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[gvr]
	if i, ok := t.keys[key(namespace, name)]; ok {
		return t.rows[i]
	}
	return nil
}

// since returns the changes after a number, and a channel that is closed when
// there may be more.
func (s *store) since(gvr schema.GroupVersionResource, number int64) ([]*revision, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.tables[gvr].events
	from, _ := slices.BinarySearchFunc(events, number+1, func(r *revision, n int64) int {
		return int(r.number - n)
	})
	return slices.Clone(events[from:]), s.changed
}

// moveEndpoint gives one endpoint of Service i another address. The result tells
// when the change has been sent.
func (s *store) moveEndpoint(i, endpointIndex int, to netip.Addr) (*revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[gvrSlices()]
	row, ok := t.keys[key(namespaceOf(i), nameOf(i)+"-x7k2p")]
	if !ok {
		return nil, fmt.Errorf("move endpoint: there is no Service %d", i)
	}
	o := t.rows[row].object.(*discoveryv1.EndpointSlice).DeepCopy()
	if endpointIndex >= len(o.Endpoints) {
		return nil, fmt.Errorf("move endpoint: Service %d has only %d", i, len(o.Endpoints))
	}
	o.Endpoints[endpointIndex] = endpoint(i, to)
	dated(o)
	return s.put(t, watch.Modified, o), nil
}

// dated makes o the next state of an EndpointSlice: the controller dates the change
// of the pod that caused it, and kube-proxy reads that for a metric.
func dated(o *discoveryv1.EndpointSlice) {
	o.Generation++
	o.SetAnnotations(map[string]string{
		"endpoints.kubernetes.io/last-change-trigger-time": time.Now().UTC().Format(time.RFC3339Nano),
	})
}

// put makes an object the present state, or, if it is deleted, the last one, and
// announces it. The caller holds mu.
func (s *store) put(t *table, event watch.EventType, o object) *revision {
	s.number++
	o.SetResourceVersion(strconv.FormatInt(s.number, 10))
	r := &revision{number: s.number, event: event, object: o, sent: make(chan struct{})}
	name := key(o.GetNamespace(), o.GetName())
	row, known := t.keys[name]
	switch {
	case event == watch.Deleted:
		last := len(t.rows) - 1
		t.rows[row] = t.rows[last]
		t.keys[key(t.rows[row].object.GetNamespace(), t.rows[row].object.GetName())] = row
		t.rows = t.rows[:last]
		delete(t.keys, name)
	case known:
		t.rows[row] = r
	default:
		t.keys[name] = len(t.rows)
		t.rows = append(t.rows, r)
	}
	t.events = append(t.events, r)
	close(s.changed)
	s.changed = make(chan struct{})
	return r
}

// write adds an object, or changes it if it is there. It takes the object over.
func (s *store) write(o object) *revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tableOf(o.GetObjectKind().GroupVersionKind())
	event := watch.Added
	if _, ok := t.keys[key(o.GetNamespace(), o.GetName())]; ok {
		event = watch.Modified
	}
	return s.put(t, event, o)
}

// remove deletes an object.
func (s *store) remove(gvr schema.GroupVersionResource, namespace, name string) (*revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[gvr]
	row, ok := t.keys[key(namespace, name)]
	if !ok {
		return nil, fmt.Errorf("remove: there is no %s %s/%s", gvr.Resource, namespace, name)
	}
	return s.put(t, watch.Deleted, t.rows[row].object.DeepCopyObject().(object)), nil
}

// compact forgets all changes: a watch that does not begin with what is there now
// is told that it comes too late.
func (s *store) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++ // something that is not served here has changed since
	s.first = s.number
}

// oldest is the number below which no watch can begin.
func (s *store) oldest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}
