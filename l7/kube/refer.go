package kube

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// References are names of objects that something needs, each once, sorted.
type References struct {
	Secrets    []service.Name
	ConfigMaps []service.Name
}

// The annotations, without their prefix, that name an object of the Ingress's namespace, and
// the keys of the global ConfigMap that name a ConfigMap. A test compares them with the
// catalogue of package annotation.
func secretAnnotations() []string    { return []string{"auth-secret", "proxy-ssl-secret"} }
func configMapAnnotations() []string { return []string{"auth-proxy-set-headers", "custom-headers"} }
func configMapKeys() []string        { return []string{"add-headers", "proxy-set-headers"} }

// Refer returns what v names: the Secrets of spec.tls, and what its annotations name in
// its own namespace. What they name in another one is not looked at, whoever has asked.
func Refer(v *ingress.Ingress) References {
	var out References
	for _, t := range v.TLS {
		out.Secrets = appendName(out.Secrets, v.Namespace, t.Secret)
	}
	for _, prefix := range []string{prefixOwn, prefixNginx} {
		for _, key := range secretAnnotations() {
			out.Secrets = appendName(out.Secrets, v.Namespace, v.Annotations[prefix+key])
		}
		for _, key := range configMapAnnotations() {
			out.ConfigMaps = appendName(out.ConfigMaps, v.Namespace, v.Annotations[prefix+key])
		}
	}
	return out.sorted()
}

// ReferGlobals returns what the global ConfigMap names, which may be in any namespace:
// who writes it is trusted with all of them. Names without one are of the ConfigMap's own.
func ReferGlobals(v *ingress.ConfigMap) References {
	var out References
	if v == nil {
		return out
	}
	for _, key := range configMapKeys() {
		namespace, name, ok := strings.Cut(v.Data[key], "/")
		if !ok {
			namespace, name = v.Namespace, v.Data[key]
		}
		out.ConfigMaps = appendName(out.ConfigMaps, namespace, namespace+"/"+name)
	}
	return out.sorted()
}

// appendName appends the object that text names, as name or as namespace/name, if
// it is in the namespace and can exist.
func appendName(list []service.Name, namespace, text string) []service.Name {
	if ns, name, ok := strings.Cut(text, "/"); ok {
		if ns != namespace {
			return list
		}
		text = name
	}
	if text == "" || len(validation.IsDNS1123Subdomain(text)) > 0 || len(validation.IsDNS1123Label(namespace)) > 0 {
		return list
	}
	return append(list, service.Name{Namespace: namespace, Name: text})
}

func (r References) sorted() References {
	for _, list := range []*[]service.Name{&r.Secrets, &r.ConfigMaps} {
		slices.SortFunc(*list, service.Name.Compare)
		*list = slices.Compact(*list)
	}
	return r
}
