package servicetest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/service"
)

// An objectKey identifies an object in force.
type objectKey struct {
	kind string
	name service.Name
}

// An object is a decoded section document; exactly one of its pointers is set.
type object struct {
	order   int // of first appearance, which is the order of creation
	service *corev1.Service
	slice   *discoveryv1.EndpointSlice
}

// putObjects puts the documents of sections in force.
func (l *loader) putObjects(names []string) error {
	if len(names) == 0 {
		return errors.New("objects names no section")
	}
	for _, name := range names {
		s := l.sections[name]
		if s == nil {
			return fmt.Errorf("there is no section %s", name)
		}
		if s.read {
			return fmt.Errorf("section %s is put in force twice", name)
		}
		s.read = true
		docs, err := decode(s.data)
		if err != nil {
			return fmt.Errorf("section %s at line %d: %w", name, s.line, err)
		}
		for _, o := range docs {
			l.put(o)
		}
	}
	return nil
}

// put adds o, or replaces an older version in its place.
func (l *loader) put(o *object) {
	k := o.key()
	l.order++
	o.order = l.order
	if old := l.objects[k]; old != nil {
		o.order = old.order
	}
	l.objects[k] = o
}

func (l *loader) deleteObject(args []string) error {
	if len(args) != 2 {
		return errors.New("want delete KIND NAMESPACE/NAME")
	}
	name, err := parseName(args[1])
	if err != nil {
		return err
	}
	k := objectKey{args[0], name}
	if l.objects[k] == nil {
		return fmt.Errorf("there is no %s %s to delete", args[0], name)
	}
	delete(l.objects, k)
	return nil
}

// freeze lists the objects in force in the current step, in order of creation.
func (l *loader) freeze() {
	objs := slices.SortedFunc(maps.Values(l.objects), func(a, b *object) int {
		return cmp.Compare(a.order, b.order)
	})
	for _, o := range objs {
		if o.service != nil {
			l.step.Services = append(l.step.Services, o.service)
		} else {
			l.step.Slices = append(l.step.Slices, o.slice)
		}
	}
}

func (o *object) key() objectKey {
	if o.service != nil {
		return objectKey{"Service", service.Name{Namespace: o.service.Namespace, Name: o.service.Name}}
	}
	return objectKey{"EndpointSlice", service.Name{Namespace: o.slice.Namespace, Name: o.slice.Name}}
}

// decode reads YAML documents strictly: unknown and repeated fields are errors.
func decode(data []byte) ([]*object, error) {
	var out []*object
	for doc := range bytes.SplitSeq(append([]byte("\n"), data...), []byte("\n---\n")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			return nil, errors.New("empty document")
		}
		o, err := decodeOne(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func decodeOne(doc []byte) (*object, error) {
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return nil, fmt.Errorf("decode type: %w", err)
	}
	if meta.Namespace == "" || meta.Name == "" {
		return nil, errors.New("object without namespace or name")
	}
	var o object
	var into any
	switch gvk := meta.APIVersion + " " + meta.Kind; gvk {
	case "v1 Service":
		o.service = new(corev1.Service)
		into = o.service
	case "discovery.k8s.io/v1 EndpointSlice":
		o.slice = new(discoveryv1.EndpointSlice)
		into = o.slice
	default:
		return nil, fmt.Errorf("unexpected object %q", gvk)
	}
	if err := yaml.UnmarshalStrict(doc, into); err != nil {
		return nil, fmt.Errorf("decode %s %s: %w", meta.Kind, meta.Name, err)
	}
	return &o, nil
}

// hasEndpoint reports whether a slice holds an endpoint with this address and
// port.
func hasEndpoint(all []*discoveryv1.EndpointSlice, addr string, port int32) bool {
	return slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool {
		hasPort := slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && *p.Port == port
		})
		return hasPort && slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
			return slices.Contains(e.Addresses, addr)
		})
	})
}

func parseName(s string) (service.Name, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return service.Name{}, fmt.Errorf("%q is not NAMESPACE/NAME", s)
	}
	return service.Name{Namespace: ns, Name: name}, nil
}
