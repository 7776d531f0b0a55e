package kube

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
	servicekube "github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/kube/manifests"
)

// Kinds returns the kinds of objects that L7 reads from files, besides those of L4.
func Kinds() manifests.Kinds {
	return manifests.Kinds{
		{
			APIVersion: networkingv1.SchemeGroupVersion.String(), Name: "Ingress",
			New: func() metav1.Object { return &networkingv1.Ingress{} },
		},
		{
			APIVersion: networkingv1.SchemeGroupVersion.String(), Name: "IngressClass", Global: true,
			New: func() metav1.Object { return &networkingv1.IngressClass{} },
		},
		{APIVersion: "v1", Name: "Secret", New: func() metav1.Object { return &corev1.Secret{} }},
		{APIVersion: "v1", Name: "ConfigMap", New: func() metav1.Object { return &corev1.ConfigMap{} }},
	}
}

// Convert makes Changes of objects in files, in their order, with the Problems of each.
// Objects of other kinds are passed over. What the API server's admission does for an
// Ingress without a class is done here: it gets the default class.
func Convert(objects manifests.Objects) ([]Change, []service.Problem) {
	class := defaultClass(objects)
	var out []Change
	var all []service.Problem
	for _, o := range objects {
		c := Change{Object: o.ID}
		var problems []service.Problem
		switch v := o.Value.(type) {
		case *networkingv1.Ingress:
			if c.Ingress, problems = Ingress(v); c.Ingress != nil && wantsDefault(v) {
				c.Ingress.Class = class
			}
		case *networkingv1.IngressClass:
			c.Class, problems = IngressClass(v)
		case *corev1.Secret:
			c.Secret, problems = Secret(v)
		case *corev1.ConfigMap:
			c.ConfigMap, problems = ConfigMap(v)
		default:
			continue
		}
		for _, p := range problems {
			p.Message += fmt.Sprintf(" (%s:%d)", o.File, o.Line)
			all = append(all, p)
		}
		out = append(out, c)
	}
	return out, all
}

// defaultClass returns the name of the class that an Ingress without one gets, or
// nothing: of several that are marked the newest, then the first by name (the admission
// plugin DefaultIngressClass since Kubernetes 1.26).
func defaultClass(objects manifests.Objects) string {
	var best *networkingv1.IngressClass
	for _, o := range objects {
		v, ok := o.Value.(*networkingv1.IngressClass)
		if !ok || v.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if best == nil || cmp.Or(
			v.CreationTimestamp.Compare(best.CreationTimestamp.Time), strings.Compare(best.Name, v.Name),
		) > 0 {
			best = v
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

// wantsDefault reports whether v has no class in either way.
func wantsDefault(v *networkingv1.Ingress) bool {
	_, legacy := v.Annotations[AnnotationClass]
	return v.Spec.IngressClassName == nil && !legacy
}

// A Folder passes the objects in files on to a Sink, as far as they are new. Its Others
// is for a manifests.Source with the kinds of [Kinds].
type Folder struct {
	Sink   Sink                   // required
	Report servicekube.ReportFunc // optional; hears the Problems of objects

	known       map[service.Object]Change
	complaining map[service.Object]bool
	synced      bool
}

// Others hands over what has changed since the last call, and then, the first time, that
// nothing is missing. It is for one goroutine.
func (f *Folder) Others(ctx context.Context, objects manifests.Objects) error {
	list, problems := Convert(objects)
	known := make(map[service.Object]Change, len(list))
	var changes []Change
	for _, c := range list {
		known[c.Object] = c
		if old, ok := f.known[c.Object]; !ok || !reflect.DeepEqual(old, c) {
			changes = append(changes, c)
		}
	}
	for _, object := range gone(f.known, known) {
		changes = append(changes, Change{Object: object})
	}
	f.known = known
	f.complain(problems)
	if len(changes) > 0 {
		if err := f.Sink.Update(ctx, changes); err != nil {
			return fmt.Errorf("hand over the manifests of L7: %w", err)
		}
	}
	if !f.synced {
		f.synced = true
		f.Sink.Synced()
	}
	return nil
}

// gone returns what is in old and not in known, in order.
func gone(old, known map[service.Object]Change) []service.Object {
	var out []service.Object
	for object := range old {
		if _, ok := known[object]; !ok {
			out = append(out, object)
		}
	}
	slices.SortFunc(out, func(a, b service.Object) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), a.Name.Compare(b.Name))
	})
	return out
}

func (f *Folder) complain(problems []service.Problem) {
	if f.Report == nil {
		return
	}
	byObject := make(map[service.Object][]service.Problem)
	for _, p := range problems {
		key := service.Object{Kind: p.Object.Kind, Name: p.Object.Name}
		byObject[key] = append(byObject[key], p)
	}
	for object := range f.complaining {
		if byObject[object] == nil {
			f.Report(object, nil)
		}
	}
	f.complaining = make(map[service.Object]bool, len(byObject))
	for object, list := range byObject {
		f.complaining[object] = true
		f.Report(object, list)
	}
}
