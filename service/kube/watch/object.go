package watch

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// nobody is the ObjectMeta of every converted object.
type nobody = *metav1.ObjectMeta

// A converted is what is left of an API object: its name and its conversion. It
// still is an object for a reflector, which asks for namespace, name and resource
// version, and whether a bookmark ends the initial events. Everything else is
// that of an object without anything, and setters must not be called.
type converted struct {
	nobody
	name     service.Name
	version  string
	complete bool
	entry    kube.Entry
	node     *kube.NodeInfo
	problems []service.Problem
}

// GetNamespace returns the namespace of the object.
func (c *converted) GetNamespace() string { return c.name.Namespace }

// GetName returns the name of the object.
func (c *converted) GetName() string { return c.name.Name }

// GetResourceVersion returns the resource version of the object.
func (c *converted) GetResourceVersion() string { return c.version }

// GetAnnotations returns the one annotation that a reflector looks for.
func (c *converted) GetAnnotations() map[string]string {
	if !c.complete {
		return nil
	}
	return map[string]string{metav1.InitialEventsAnnotationKey: "true"}
}

// GetObjectKind says that the kind is not known, which nobody asks.
func (c *converted) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject returns c, which does not change.
func (c *converted) DeepCopyObject() runtime.Object { return c }

// A list is what is left of a list of API objects.
type list struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*converted
}

// DeepCopyObject returns l, which does not change.
func (l *list) DeepCopyObject() runtime.Object { return l }
