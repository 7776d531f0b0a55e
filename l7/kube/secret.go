package kube

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// The reasons of Problems found here, as they appear in Events.
const (
	reasonName   = "InvalidName"
	reasonSecret = "InvalidSecret"
)

// named returns a Problem if an object cannot have the name, or nil.
func named(kind string, n service.Name, uid string, namespaced bool) []service.Problem {
	problem := func(field, value string) []service.Problem {
		return []service.Problem{{
			Object: service.Object{Kind: kind, Name: n, UID: uid}, Reason: reasonName, Field: field,
			Message: fmt.Sprintf("%.80q is not a name; the object is not used", value),
		}}
	}
	if namespaced && len(validation.IsDNS1123Label(n.Namespace)) > 0 {
		return problem("metadata.namespace", n.Namespace)
	}
	if len(validation.IsDNS1123Subdomain(n.Name)) > 0 {
		return problem("metadata.name", n.Name)
	}
	return nil
}

// Secret converts o. It returns nil if o has no name that can be used. Of a Secret of a
// type that has nothing to do with L7, such as the token of a ServiceAccount, nothing
// is kept: an annotation that names it gets what it would get from an empty one.
func Secret(o *corev1.Secret) (*ingress.Secret, []service.Problem) {
	name := service.Name{Namespace: o.Namespace, Name: o.Name}
	if p := named("Secret", name, string(o.UID), true); p != nil {
		return nil, p
	}
	out := &ingress.Secret{Name: name, UID: string(o.UID), Type: string(o.Type)}
	switch o.Type {
	case corev1.SecretTypeTLS:
		out.Data = pick(o, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, corev1.ServiceAccountRootCAKey)
	case corev1.SecretTypeOpaque, "":
		out.Data = maps.Clone(o.Data)
		for k, v := range o.StringData { // only in files; the API server merges it, in this order
			if out.Data == nil {
				out.Data = make(map[string][]byte, len(o.StringData))
			}
			out.Data[k] = []byte(v)
		}
	default:
		return out, []service.Problem{{
			Object: service.Object{Kind: "Secret", Name: name, UID: string(o.UID)}, Reason: reasonSecret, Field: "type",
			Message: fmt.Sprintf("%.80q is neither %s nor %s; nothing in it is used", o.Type, corev1.SecretTypeTLS, corev1.SecretTypeOpaque),
		}}
	}
	return out, nil
}

// pick returns some of the data of o.
func pick(o *corev1.Secret, keys ...string) map[string][]byte {
	out := make(map[string][]byte, len(keys))
	for _, k := range keys {
		if v, ok := o.StringData[k]; ok {
			out[k] = []byte(v)
		} else if v, ok := o.Data[k]; ok {
			out[k] = v
		}
	}
	return out
}

// ConfigMap converts o. It returns nil if o has no name that can be used. Binary data is
// left out.
func ConfigMap(o *corev1.ConfigMap) (*ingress.ConfigMap, []service.Problem) {
	name := service.Name{Namespace: o.Namespace, Name: o.Name}
	if p := named("ConfigMap", name, string(o.UID), true); p != nil {
		return nil, p
	}
	return &ingress.ConfigMap{Name: name, Data: o.Data}, nil
}
