package watch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A Compact reads Services and EndpointSlices from an API server without making
// the objects of the API: of what arrives in protobuf only that is decoded which
// a conversion looks at, by a [kube.Decoder]. An API server that answers in JSON
// is understood too, at the usual price. It is for one Source.
type Compact struct {
	services, slices *decoding
}

// NewCompact returns a Compact for the API server that c leads to. It does not
// ask the server yet.
func NewCompact(c *rest.Config) (*Compact, error) {
	out := &Compact{
		services: newDecoding(corev1.SchemeGroupVersion, "Service", "services"),
		slices:   newDecoding(discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices"),
	}
	out.services.decode = out.services.decoder.Service
	out.slices.decode = out.slices.decoder.Slice
	for _, d := range []*decoding{out.services, out.slices} {
		if err := d.connect(c); err != nil {
			return nil, fmt.Errorf("connect to the API server for objects of kind %s: %w", d.gvk.Kind, err)
		}
	}
	return out, nil
}

// A decoding decodes objects of one kind. A watch and the one after it may use it
// at the same time.
type decoding struct {
	gvk      schema.GroupVersionKind
	kind     metav1.TypeMeta // the same
	resource string
	client   rest.Interface
	nobody   nobody

	mu      sync.Mutex
	decoder kube.Decoder
	decode  func([]byte) (kube.Decoded, error) // of decoder
}

func newDecoding(gv schema.GroupVersion, kind, resource string) *decoding {
	return &decoding{
		gvk: gv.WithKind(kind), kind: metav1.TypeMeta{APIVersion: gv.String(), Kind: kind}, resource: resource,
		nobody: new(metav1.ObjectMeta),
	}
}

func (d *decoding) connect(c *rest.Config) error {
	c = rest.CopyConfig(c)
	gv := d.gvk.GroupVersion()
	c.GroupVersion, c.APIPath = &gv, "/apis"
	if gv.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = &negotiated{scheme.Codecs.WithoutConversion(), d}
	client, err := rest.RESTClientFor(c)
	d.client = client
	return err
}

// listing returns how to list and watch the objects: all of them, or those that are
// L4's business.
func (d *decoding) listing(all bool) *Kind {
	d.decoder.All = all
	var k *Kind
	k = &Kind{
		Name:   d.gvk.Kind,
		Sample: new(converted),
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			body, err := d.request(&o).Stream(ctx)
			if err != nil {
				return nil, err
			}
			l, err := d.list(body, k.share)
			return l, errors.Join(err, body.Close())
		},
		Watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return d.request(&o).Watch(ctx)
		},
	}
	return k
}

func (d *decoding) request(o *metav1.ListOptions) *rest.Request {
	r := d.client.Get().Resource(d.resource).VersionedParams(o, scheme.ParameterCodec)
	if o.TimeoutSeconds != nil {
		r = r.Timeout(time.Duration(*o.TimeoutSeconds) * time.Second)
	}
	return r
}

// object returns the object in raw, a protobuf message of our kind.
func (d *decoding) object(raw []byte) (*converted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, err := d.decode(raw)
	if err != nil {
		return nil, err
	}
	return &converted{
		nobody: d.nobody, name: o.Name, version: o.Version, complete: o.Complete, entry: o.Entry, problems: o.Problems,
	}, nil
}

// typed returns what is left of an object of the API, or nil if it is of another
// kind.
func (d *decoding) typed(o runtime.Object) *converted {
	switch o.(type) {
	case *corev1.Service, *discoveryv1.EndpointSlice:
	default:
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m := o.(metav1.Object)
	c := &converted{
		nobody: d.nobody, version: m.GetResourceVersion(),
		name:     service.Name{Namespace: m.GetNamespace(), Name: m.GetName()},
		complete: m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true",
	}
	c.entry, c.problems = d.decoder.Convert(o)
	return c
}

// A negotiated is what a client asks for decoders.
type negotiated struct {
	runtime.NegotiatedSerializer
	decoding *decoding
}

// DecoderToVersion returns the decoder of objects.
func (n *negotiated) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return &objectDecoder{n.NegotiatedSerializer.DecoderToVersion(d, gv), n.decoding}
}

// SupportedMediaTypes returns those of client-go, with another decoder of the
// events of a watch.
func (n *negotiated) SupportedMediaTypes() []runtime.SerializerInfo {
	types := n.NegotiatedSerializer.SupportedMediaTypes()
	out := make([]runtime.SerializerInfo, len(types))
	for i, t := range types {
		if t.MediaType == runtime.ContentTypeProtobuf && t.StreamSerializer != nil {
			s := *t.StreamSerializer
			s.Serializer = &eventDecoder{s.Serializer}
			t.StreamSerializer = &s
		}
		out[i] = t
	}
	return out
}

// An objectDecoder decodes objects to what is left of them, and anything else,
// such as a Status, to what it is.
type objectDecoder struct {
	runtime.Decoder
	decoding *decoding
}

// Decode decodes data, without keeping any of it.
func (d *objectDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if raw, ok := kube.Unwrap(data, d.decoding.kind); ok && into == nil {
		c, err := d.decoding.object(raw)
		if err != nil {
			return nil, nil, err
		}
		return c, &d.decoding.gvk, nil
	}
	o, gvk, err := d.Decoder.Decode(data, defaults, into)
	if err == nil && into == nil {
		if c := d.decoding.typed(o); c != nil {
			return c, gvk, nil
		}
	}
	return o, gvk, err
}

// An eventDecoder decodes the events of a watch. The object of an event remains
// part of the bytes it came in, which last until the next event: client-go has
// decoded it by then.
type eventDecoder struct{ runtime.Serializer }

// Decode decodes data into a WatchEvent, and anything else as it was before.
func (d *eventDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	e, ok := into.(*metav1.WatchEvent)
	if !ok {
		return d.Serializer.Decode(data, defaults, into)
	}
	kind, raw, err := kube.Event(data)
	if err != nil {
		return nil, nil, fmt.Errorf("decode an event of a watch: %w", err)
	}
	e.Object.Raw = raw
	for _, t := range [...]watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Bookmark} {
		if string(t) == string(kind) {
			e.Type = string(t) // allocates nothing
			return e, nil, nil
		}
	}
	e.Type = string(kind)
	return e, nil, nil
}

// list returns the objects of a list. Of one in protobuf no more than one object
// is held as it came. Each is given to share before the next one is read.
func (d *decoding) list(body io.Reader, share func(*converted)) (*list, error) {
	r := bufio.NewReaderSize(body, 1<<15)
	if start, _ := r.Peek(4); !kube.IsProtobuf(start) { // what is wrong with a short one is found below
		return d.typedList(r)
	}
	out := new(list)
	var err error
	out.ListMeta, err = kube.List(r, d.kind, func(raw []byte) error {
		c, err := d.object(raw)
		if err != nil {
			return err
		}
		share(c)
		out.Items = append(out.Items, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read a list of objects of kind %s: %w", d.gvk.Kind, err)
	}
	return out, nil
}

// typedList returns the objects of a list that is not in protobuf.
func (d *decoding) typedList(body io.Reader) (*list, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read a list of objects of kind %s: %w", d.gvk.Kind, err)
	}
	all, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decode a list of objects of kind %s: %w", d.gvk.Kind, err)
	}
	if s, ok := all.(*metav1.Status); ok {
		return nil, apierrors.FromObject(s)
	}
	from, err := meta.ListAccessor(all)
	if err != nil {
		return nil, fmt.Errorf("decode a list of objects of kind %s: %w", d.gvk.Kind, err)
	}
	out := new(list)
	out.ResourceVersion, out.Continue = from.GetResourceVersion(), from.GetContinue()
	err = meta.EachListItem(all, func(o runtime.Object) error {
		c := d.typed(o)
		if c == nil {
			return fmt.Errorf("a list of objects of kind %s holds a %T", d.gvk.Kind, o)
		}
		out.Items = append(out.Items, c)
		return nil
	})
	return out, err
}
