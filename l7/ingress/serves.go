package ingress

import "github.com/fairlead-project/fairlead/service"

// Serves reports whether the Ingress of that name is ours, as of the last Commit.
func (b *Builder) Serves(name service.Name) bool {
	u := b.units[name]
	return u != nil && u.served
}
