package watch

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A mirror passes what a reflector says about one kind on to the Sink. The
// reflector calls it from one goroutine at a time.
type mirror struct {
	*Kind
	client kubernetes.Interface
	sink   kube.Sink
	synced func() // called after the first list
	report kube.ReportFunc
	node   func(context.Context, *kube.NodeInfo)

	nobody      nobody
	convert     kube.Converter
	known       kube.Mirror
	complaining map[service.Object]bool // objects with Problems
	info        *kube.NodeInfo          // the node last passed on
	listed      bool
}

// run lists and watches until ctx is done.
func (m *mirror) run(ctx context.Context) {
	m.Follow(ctx, m.client, &store{m, ctx})
}

// A store is a mirror in the shape a reflector wants, for the length of one run.
// It carries the context of that run because the methods of the interface have
// none.
type store struct {
	*mirror
	ctx context.Context
}

// Transformer makes the reflector convert the objects of a streamed list while
// they arrive, instead of holding all of them.
func (s *store) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.conversion(o) }
}

// conversion converts o, unless that has been done.
func (s *store) conversion(o any) (*converted, error) {
	if c, ok := o.(*converted); ok {
		s.share(c)
		return c, nil
	}
	meta, ok := o.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%v is not an object", reflect.TypeOf(o))
	}
	c := &converted{nobody: s.nobody, name: service.Name{Namespace: meta.GetNamespace(), Name: meta.GetName()}, version: meta.GetResourceVersion()}
	if n, ok := o.(*corev1.Node); ok {
		info, problems := kube.Node(n)
		c.node, c.problems = &info, problems
	} else {
		c.entry, c.problems = s.convert.Convert(o)
		s.share(c)
	}
	return c, nil
}

// share has c hold what we have already, if that is the same: when everything is told
// again, little of it is new.
func (m *mirror) share(c *converted) {
	if c.entry.IsZero() {
		return
	}
	c.entry = m.known.Same(m.object(c.name), c.entry)
	switch e := c.entry; {
	case e.Service != nil:
		c.name = e.Service.Name
	case e.Slice.Name == c.name.Name:
		c.name.Name = e.Slice.Name
	}
}

func (m *mirror) object(n service.Name) service.Object { return service.Object{Kind: m.Name, Name: n} }

// Add puts o in force.
func (s *store) Add(o any) error {
	c, err := s.conversion(o)
	if err != nil {
		return err
	}
	s.complain(s.object(c.name), c.problems)
	if c.node != nil {
		s.setNode(c.node)
		return nil
	}
	return s.update(s.known.Set(s.object(c.name), c.entry))
}

// Update puts o in force.
func (s *store) Update(o any) error { return s.Add(o) }

// Delete takes o out of force.
func (s *store) Delete(o any) error {
	meta, ok := o.(metav1.Object)
	if !ok {
		return fmt.Errorf("%v is not an object", reflect.TypeOf(o))
	}
	object := s.object(service.Name{Namespace: meta.GetNamespace(), Name: meta.GetName()})
	s.complain(object, nil)
	if object.Kind == "Node" {
		s.setNode(nil)
		return nil
	}
	return s.update(s.known.Set(object, kube.Entry{}))
}

// Replace puts list in force and takes everything else out.
func (s *store) Replace(list []any, _ string) error {
	for i, o := range list {
		c, err := s.conversion(o) // now, so that the API object is not needed any more
		if err != nil {
			return err
		}
		list[i] = c
	}
	if s.Name == "Node" {
		s.replaceNode(list)
	} else if err := s.update(s.known.Replace(len(list), s.entries(list))); err != nil {
		return err
	}
	if !s.listed {
		s.listed = true
		s.synced()
	}
	return nil
}

// entries yields what is in list, and tells what is wrong with it, and that nothing
// is wrong any more with what is not in it.
func (s *store) entries(list []any) iter.Seq2[service.Object, kube.Entry] {
	return func(yield func(service.Object, kube.Entry) bool) {
		was := maps.Clone(s.complaining)
		for i, o := range list {
			c := o.(*converted)
			list[i] = nil
			object := s.object(c.name)
			delete(was, object)
			s.complain(object, c.problems)
			if !yield(object, c.entry) {
				return
			}
		}
		for object := range was {
			s.complain(object, nil)
		}
	}
}

// replaceNode passes on the node in list, which holds no other.
func (s *store) replaceNode(list []any) {
	var node *kube.NodeInfo
	was := maps.Clone(s.complaining)
	for _, o := range list {
		c := o.(*converted)
		node = c.node
		delete(was, s.object(c.name))
		s.complain(s.object(c.name), c.problems)
	}
	for object := range was {
		s.complain(object, nil)
	}
	s.setNode(node)
}

// Resync does nothing: nothing here forgets.
func (s *store) Resync() error { return nil }

func (s *store) update(change func(*service.Store) bool) error {
	if change == nil {
		return nil
	}
	if err := s.sink.Update(s.ctx, change); err != nil {
		return fmt.Errorf("hand over a change of %s objects: %w", s.Name, err)
	}
	return nil
}

// setNode passes on a node that differs from the last one, and the first one in
// any case.
func (s *store) setNode(n *kube.NodeInfo) {
	same := s.listed && (n == nil) == (s.info == nil) && (n == nil || n.Equal(*s.info))
	s.info = n
	if !same && s.node != nil {
		s.node(s.ctx, n)
	}
}

func (s *store) complain(object service.Object, problems []service.Problem) {
	if s.report == nil || len(problems) == 0 && !s.complaining[object] {
		return
	}
	if len(problems) == 0 {
		delete(s.complaining, object)
	} else {
		s.complaining[object] = true
	}
	s.report(object, problems)
}
