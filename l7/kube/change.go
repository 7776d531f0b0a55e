package kube

import (
	"context"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// A Sink is where a source of objects puts them: the owner of an ingress.Builder.
type Sink interface {
	// Update hands over changes that belong together, in order. The Sink may keep
	// them; what they point to is not changed any more. An error means that the
	// Sink is gone.
	Update(ctx context.Context, changes []Change) error

	// Synced is called once, when everything that exists has been handed over.
	Synced()
}

// A Change is a new version of one object. At most one of the pointers is set; if none
// is, the object is gone.
type Change struct {
	Object service.Object // kind and name, without UID

	Ingress   *ingress.Ingress
	Class     *ingress.Class
	Secret    *ingress.Secret
	ConfigMap *ingress.ConfigMap
}
