package watch

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// A converted is an object after conversion, under its own name, so that it still is
// an object for the buffer in which a reflector gathers a streamed list.
type converted struct {
	metav1.ObjectMeta
	change   kube.Change // with the zero value if nobody wants the object
	problems []service.Problem
	status   *observed // of an Ingress

	pod *sibling // of a Pod

	isService bool // and addresses are where it is reached
	addresses []Address
}

// A news is what a feed has learnt.
type news struct {
	set  []*converted
	gone []service.Name
	list bool // set is all there is
}

// A feed is one reflector. It is itself what the reflector stores into, but it stores
// nothing: it converts and hands over. Its methods belong to the reflector's goroutine.
type feed struct {
	kind    *servicewatch.Kind
	client  kubernetes.Interface
	convert func(metav1.Object) *converted
	send    func(news) error

	ctx  context.Context // of run; the methods of a store have none
	some bool            // there were objects when it was last heard of
}

// errNotBelieved is what a reflector gets to hear about an empty list, and tries again.
var errNotBelieved = errors.New("the list is empty all of a sudden, and is not confirmed")

// confirmTimeout bounds the question whether a list really is empty.
const confirmTimeout = 10 * time.Second

// run follows the kind until ctx is done.
func (f *feed) run(ctx context.Context) {
	f.ctx = ctx
	f.kind.Follow(ctx, f.client, f)
}

// Transformer makes the reflector convert the objects of a streamed list while they
// arrive, instead of holding all of them.
func (f *feed) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return f.conversion(o) }
}

func (f *feed) conversion(o any) (*converted, error) {
	if c, ok := o.(*converted); ok {
		return c, nil
	}
	object, ok := o.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%v is not an object", reflect.TypeOf(o))
	}
	c := f.convert(object)
	c.Namespace, c.Name = object.GetNamespace(), object.GetName()
	return c, nil
}

// Add hands o over.
func (f *feed) Add(o any) error {
	c, err := f.conversion(o)
	if err != nil {
		return err
	}
	f.some = true
	return f.send(news{set: []*converted{c}})
}

// Update hands o over.
func (f *feed) Update(o any) error { return f.Add(o) }

// Delete says that o is gone.
func (f *feed) Delete(o any) error {
	object, ok := o.(metav1.Object)
	if !ok {
		return fmt.Errorf("%v is not an object", reflect.TypeOf(o))
	}
	return f.send(news{gone: []service.Name{{Namespace: object.GetNamespace(), Name: object.GetName()}}})
}

// Replace says that list is all there is.
func (f *feed) Replace(list []any, version string) error {
	if len(list) == 0 && f.some {
		if err := f.confirmEmpty(version); err != nil {
			return err
		}
	}
	n := news{list: true, set: make([]*converted, 0, len(list))}
	for i, o := range list {
		c, err := f.conversion(o)
		if err != nil {
			return err
		}
		list[i] = nil // the API object is not needed any more
		n.set = append(n.set, c)
	}
	f.some = len(list) > 0
	return f.send(n)
}

// Resync does nothing: nothing here forgets.
func (f *feed) Resync() error { return nil }

// confirmEmpty asks for one object, from the server's storage and not from its cache.
func (f *feed) confirmEmpty(version string) error {
	if version == "" || version == "0" {
		return fmt.Errorf("%w: it has no resource version", errNotBelieved)
	}
	ctx, cancel := context.WithTimeout(f.ctx, confirmTimeout)
	defer cancel()
	again, err := f.kind.List(ctx, metav1.ListOptions{Limit: 1, LabelSelector: f.kind.Labels, FieldSelector: f.kind.Fields})
	if err != nil {
		return fmt.Errorf("%w: ask again: %w", errNotBelieved, err)
	}
	list, ok := again.(metav1.ListMetaAccessor)
	switch {
	case !ok || list.GetListMeta().GetResourceVersion() == "":
		return fmt.Errorf("%w: asked again, it is no list", errNotBelieved)
	case meta.LenList(again) > 0:
		return fmt.Errorf("%w: asked again, it is not empty", errNotBelieved)
	}
	return nil
}
