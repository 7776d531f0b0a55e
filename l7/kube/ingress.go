package kube

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// AnnotationClass names the class of an Ingress, or of those days before there were
// classes, the controller.
const AnnotationClass = "kubernetes.io/ingress.class"

// The prefixes of the annotations that mean something to L7.
const (
	prefixOwn   = "fairlead.io/"
	prefixNginx = "nginx.ingress.kubernetes.io/"
)

// Ingress converts o as it is written: whether it makes sense is for package ingress to
// say. It returns nil if o has no name that can be used. Annotations that mean nothing
// to L7 are left out, so that a change of theirs is none.
func Ingress(o *networkingv1.Ingress) (*ingress.Ingress, []service.Problem) {
	name := service.Name{Namespace: o.Namespace, Name: o.Name}
	if p := named("Ingress", name, string(o.UID), true); p != nil {
		return nil, p
	}
	out := &ingress.Ingress{
		Name:        name,
		UID:         string(o.UID),
		Generation:  o.Generation,
		Created:     o.CreationTimestamp.Time,
		Annotations: annotations(o.Annotations),
	}
	if o.Spec.IngressClassName != nil {
		out.Class = *o.Spec.IngressClassName
	}
	if o.Spec.DefaultBackend != nil {
		b := backend(o.Spec.DefaultBackend)
		out.Default = &b
	}
	for _, t := range o.Spec.TLS {
		out.TLS = append(out.TLS, ingress.TLS{Hosts: t.Hosts, Secret: t.SecretName})
	}
	for i := range o.Spec.Rules {
		out.Rules = append(out.Rules, rule(&o.Spec.Rules[i]))
	}
	return out, nil
}

// annotations returns those of all that mean something to L7, or nil.
func annotations(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if k != AnnotationClass && !strings.HasPrefix(k, prefixOwn) && !strings.HasPrefix(k, prefixNginx) {
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[k] = v
	}
	return out
}

// rule converts r. That it has http and no path in it, which no API server admits, is
// not the same as having none.
func rule(r *networkingv1.IngressRule) ingress.Rule {
	out := ingress.Rule{Host: r.Host}
	if r.HTTP == nil {
		return out
	}
	out.Paths = make([]ingress.Path, 0, len(r.HTTP.Paths))
	for i := range r.HTTP.Paths {
		p := &r.HTTP.Paths[i]
		path := ingress.Path{Path: p.Path, Backend: backend(&p.Backend)}
		if p.PathType != nil {
			path.Type = ingress.PathType(*p.PathType)
		}
		out.Paths = append(out.Paths, path)
	}
	return out
}

func backend(b *networkingv1.IngressBackend) ingress.Backend {
	var out ingress.Backend
	if s := b.Service; s != nil {
		out.Service = s.Name
		out.Port = ingress.Port{Name: s.Port.Name, Number: s.Port.Number}
	}
	if r := b.Resource; r != nil {
		group := "core"
		if r.APIGroup != nil && *r.APIGroup != "" {
			group = *r.APIGroup
		}
		out.Resource = group + "/" + r.Kind + "/" + r.Name
	}
	return out
}

// IngressClass converts o. It returns nil if o has no name that can be used.
func IngressClass(o *networkingv1.IngressClass) (*ingress.Class, []service.Problem) {
	if p := named("IngressClass", service.Name{Name: o.Name}, string(o.UID), false); p != nil {
		return nil, p
	}
	return &ingress.Class{Name: o.Name, UID: string(o.UID), Controller: o.Spec.Controller}, nil
}
