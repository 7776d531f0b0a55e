package ingress

import "github.com/fairlead-project/fairlead/l7/route"

// classAnnotation is how Ingresses named their class before there was a field for it.
const classAnnotation = "kubernetes.io/ingress.class"

// DialectOf returns the dialect that in is served in, or false if it is somebody else's. The field comes before
// the annotation, whatever that says. class is the IngressClass that in names, or nil if there is none.
func (c *Config) DialectOf(in *Ingress, class *Class) (route.Dialect, bool) {
	old, hasOld := in.Annotations[classAnnotation]
	switch {
	case in.Class != "":
		return c.dialectOfClass(in.Class, class)
	case hasOld:
		for _, k := range c.Classes {
			if k.Annotation != "" && k.Annotation == old {
				return k.Dialect, true
			}
		}
		return 0, false
	case c.WithoutClass && len(c.Classes) > 0:
		return c.Classes[0].Dialect, true
	}
	return 0, false
}

// dialectOfClass is DialectOf for the name of an IngressClass. One that does not exist is nobody's.
func (c *Config) dialectOfClass(name string, class *Class) (route.Dialect, bool) {
	for _, k := range c.Classes {
		if k.ByName != "" && k.ByName == name || class != nil && k.Controller != "" && k.Controller == class.Controller {
			return k.Dialect, true
		}
	}
	return 0, false
}
