package kube

import (
	"context"
	"iter"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/service"
)

// A Sink is where a source of API objects puts them: the owner of the Store.
type Sink interface {
	// Update calls change with the Store, on the goroutine that owns it. change
	// reports whether it made a difference. An error means that the Sink is
	// gone; it has then not called change and never will.
	Update(ctx context.Context, change func(*service.Store) bool) error

	// Synced is called once, when everything that exists has been handed over.
	Synced()
}

// A ReportFunc takes note of everything that is wrong with one object; nil means
// that nothing is, or that the object is gone. object has no UID, its Problems
// do.
type ReportFunc func(object service.Object, problems []service.Problem)

// An Entry is an API object after conversion. Both fields are nil if the object
// is none of ours; at most one is set.
type Entry struct {
	Service *service.Service
	Slice   *service.Slice
}

// IsZero reports whether there is nothing to put in a Store.
func (e Entry) IsZero() bool { return e.Service == nil && e.Slice == nil }

func (e Entry) put(st *service.Store) bool {
	switch {
	case e.Service != nil:
		return st.SetService(e.Service)
	case e.Slice != nil:
		return st.SetSlice(e.Slice)
	}
	return false
}

func (e Entry) remove(st *service.Store) bool {
	switch {
	case e.Service != nil:
		return st.DeleteService(e.Service.Name)
	case e.Slice != nil:
		return st.DeleteSlice(e.Slice.Service, e.Slice.Name)
	}
	return false
}

// replaces reports whether putting e in a Store takes away old.
func (e Entry) replaces(old Entry) bool {
	switch {
	case old.Service != nil:
		return e.Service != nil
	case old.Slice != nil:
		return e.Slice != nil && e.Slice.Service == old.Slice.Service
	}
	return true
}

// A Converter converts Services and EndpointSlices with [Service] and [Slice],
// and makes them share strings. The zero Converter is ready for use. It is for
// one goroutine.
type Converter struct {
	// All says that every Service is wanted that requests can be sent to, and every
	// slice, as L7 does: see [AnyService] and [AnySlice].
	All bool

	intern interner
	slice  sliceConversion
}

// Convert converts o, a *corev1.Service or *discoveryv1.EndpointSlice. The Entry
// of anything else is zero.
func (c *Converter) Convert(o any) (Entry, []service.Problem) {
	switch o := o.(type) {
	case *corev1.Service:
		if c.All {
			s, problems := anyService(o, &c.intern)
			return Entry{Service: s}, problems
		}
		if Headless(o) {
			return Entry{}, nil
		}
		s, problems := plainService(o, &c.intern)
		return Entry{Service: s}, problems
	case *discoveryv1.EndpointSlice:
		c.slice.intern = &c.intern
		convert := c.slice.slice
		if c.All {
			convert = c.slice.any
		}
		s, problems := convert(o)
		return Entry{Slice: s}, problems
	}
	return Entry{}, nil
}

// A Mirror remembers what one source has put in a Store, by object, so that the
// source can tell what must go. The zero Mirror is empty and ready for use. It
// is for one goroutine; the changes it returns may run on another one, in the
// order in which they were made.
type Mirror struct {
	services map[service.Name]*service.Service
	slices   map[service.Name]*service.Slice // by their own names
}

// get returns what has been put for object.
func (m *Mirror) get(object service.Object) Entry {
	if object.Kind == "Service" {
		return Entry{Service: m.services[object.Name]}
	}
	return Entry{Slice: m.slices[object.Name]}
}

// set notes what has been put for object.
func (m *Mirror) set(object service.Object, e Entry) {
	if object.Kind == "Service" {
		m.services = setOrDelete(m.services, object.Name, e.Service)
	} else {
		m.slices = setOrDelete(m.slices, object.Name, e.Slice)
	}
}

func setOrDelete[T any](m map[service.Name]*T, name service.Name, v *T) map[service.Name]*T {
	switch {
	case v == nil:
		delete(m, name)
	case m == nil:
		return map[service.Name]*T{name: v}
	default:
		m[name] = v
	}
	return m
}

// Same returns what has been put for object if e says the same, and else e. A source
// that uses the result holds a second copy of nothing, however often it is told
// everything again. object has no UID.
func (m *Mirror) Same(object service.Object, e Entry) Entry {
	old := m.get(object)
	switch {
	case e.Service != nil && old.Service != nil && reflect.DeepEqual(e.Service, old.Service):
		return old
	case e.Slice != nil && old.Slice != nil && e.Slice.Identical(old.Slice):
		return old
	}
	return e
}

// Set returns the change that puts e in the Store as the conversion of object, a
// Service or an EndpointSlice, or takes object away if e is zero. It returns nil
// if there is nothing to do. A slice that has moved to another Service is taken
// away from the old one. object has no UID.
func (m *Mirror) Set(object service.Object, e Entry) func(*service.Store) bool {
	old := m.get(object)
	m.set(object, e)
	switch {
	case e.IsZero() && old.IsZero():
		return nil
	case e.IsZero():
		return old.remove
	case e.replaces(old):
		return e.put
	}
	return func(st *service.Store) bool {
		removed := old.remove(st)
		return e.put(st) || removed
	}
}

// Replace returns the change that makes the Store hold entries, by object, and
// nothing else from this source. Zero entries are allowed; what has not changed,
// to the pointer, is not put again. n is how many entries there are, or 0.
func (m *Mirror) Replace(n int, entries iter.Seq2[service.Object, Entry]) func(*service.Store) bool {
	old := *m
	*m = Mirror{}
	var put, gone []Entry
	for object, e := range entries {
		if m.services == nil && e.Service != nil {
			m.services = make(map[service.Name]*service.Service, max(n, len(old.services)))
		}
		if m.slices == nil && e.Slice != nil {
			m.slices = make(map[service.Name]*service.Slice, max(n, len(old.slices)))
		}
		if e.IsZero() {
			continue
		}
		m.set(object, e)
		if e != old.get(object) {
			put = append(put, e)
		}
	}
	for name, o := range old.services {
		if m.services[name] == nil {
			gone = append(gone, Entry{Service: o})
		}
	}
	for name, o := range old.slices {
		if now := m.slices[name]; now == nil || now.Service != o.Service {
			gone = append(gone, Entry{Slice: o})
		}
	}
	return func(st *service.Store) bool {
		changed := false
		for _, e := range gone {
			changed = e.remove(st) || changed
		}
		for _, e := range put {
			changed = e.put(st) || changed
		}
		return changed
	}
}
