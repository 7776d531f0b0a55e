package kube

import (
	"github.com/fairlead-project/fairlead/l7/ingress"
)

// Apply makes changes to b, in order. What has come of it, b's Commit says.
func Apply(b *ingress.Builder, changes []Change) {
	for i := range changes {
		changes[i].apply(b)
	}
}

func (c *Change) apply(b *ingress.Builder) {
	switch {
	case c.Ingress != nil:
		b.SetIngress(c.Ingress)
	case c.Class != nil:
		b.SetClass(c.Class)
	case c.Secret != nil:
		b.SetSecret(c.Secret)
	case c.ConfigMap != nil:
		b.SetConfigMap(c.ConfigMap)
	case c.Object.Kind == "Ingress":
		b.DeleteIngress(c.Object.Name)
	case c.Object.Kind == "IngressClass":
		b.DeleteClass(c.Object.Name.Name)
	case c.Object.Kind == "Secret":
		b.DeleteSecret(c.Object.Name)
	case c.Object.Kind == "ConfigMap":
		b.DeleteConfigMap(c.Object.Name)
	}
}

// Serves reports whether v is for cfg to serve, with the classes there are, by name. The
// Builder decides the same; this is for those who must know before they have read what
// v names. A test compares the two.
func Serves(cfg *ingress.Config, v *ingress.Ingress, classes map[string]*ingress.Class) bool {
	legacy, hasLegacy := v.Annotations[AnnotationClass]
	if v.Class == "" && !hasLegacy {
		return cfg.WithoutClass && len(cfg.Classes) > 0
	}
	class := classes[v.Class]
	for _, c := range cfg.Classes {
		switch {
		case v.Class == "":
			if c.Annotation != "" && c.Annotation == legacy {
				return true
			}
		case c.ByName != "" && c.ByName == v.Class:
			return true
		case class != nil && c.Controller != "" && c.Controller == class.Controller:
			return true
		}
	}
	return false
}
