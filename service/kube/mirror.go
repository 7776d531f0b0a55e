package kube

import (
	"context"

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
	known map[service.Object]Entry
}

// Set returns the change that puts e in the Store as the conversion of object,
// or takes object away if e is zero. It returns nil if there is nothing to do.
// A slice that has moved to another Service is taken away from the old one.
// object has no UID.
func (m *Mirror) Set(object service.Object, e Entry) func(*service.Store) bool {
	old := m.known[object]
	if e.IsZero() {
		if old.IsZero() {
			return nil
		}
		delete(m.known, object)
		return old.remove
	}
	if m.known == nil {
		m.known = make(map[service.Object]Entry)
	}
	m.known[object] = e
	if e.replaces(old) {
		return e.put
	}
	return func(st *service.Store) bool {
		removed := old.remove(st)
		return e.put(st) || removed
	}
}

// Replace returns the change that makes the Store hold entries and nothing else
// from this source. Mirror keeps the map. Zero entries are allowed; what has not
// changed, to the pointer, is not put again.
func (m *Mirror) Replace(entries map[service.Object]Entry) func(*service.Store) bool {
	old := m.known
	var put []Entry
	for object, e := range entries {
		if e.IsZero() {
			delete(entries, object)
		} else if e != old[object] {
			put = append(put, e)
		}
	}
	m.known = entries
	var gone []Entry
	for object, o := range old {
		if e := entries[object]; e.IsZero() || !e.replaces(o) {
			gone = append(gone, o)
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
