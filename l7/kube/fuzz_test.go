package kube_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
)

// FuzzObjects converts whatever decodes as an object and builds a Model of it: none is too odd, since objects may be older than the
// validation of the API server.
func FuzzObjects(f *testing.F) {
	f.Add([]byte("metadata: {namespace: a, name: b}\nspec: {ingressClassName: fairlead, rules: [{host: '*.a', http: {paths: [{path: '/(', pathType: Exact}]}}]}"))
	f.Add([]byte("metadata: {name: fairlead}\nspec: {controller: fairlead.io/ingress}"))
	f.Add([]byte("metadata: {namespace: a, name: b}\nspec: {defaultBackend: {resource: {kind: X}}, tls: [{hosts: [''], secretName: ../x}]}"))
	f.Add([]byte("metadata: {namespace: a, name: b, annotations: {kubernetes.io/ingress.class: fairlead}}\nspec: {rules: [{http: {}}, {}]}"))
	f.Add([]byte("metadata: {namespace: a, name: b}\ntype: kubernetes.io/tls\ndata: {tls.crt: '', key: eA==}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		changes := []kube.Change{{Class: &ingress.Class{Name: "fairlead", Controller: ingress.Controller}}}
		var in networkingv1.Ingress
		if yaml.Unmarshal(text, &in) == nil {
			if v, problems := kube.Ingress(&in); v != nil {
				changes = append(changes, kube.Change{Ingress: v})
				kube.Refer(v)
			} else if len(problems) == 0 {
				t.Error("an Ingress is left out without a word")
			}
		}
		var class networkingv1.IngressClass
		if yaml.Unmarshal(text, &class) == nil {
			if v, _ := kube.IngressClass(&class); v != nil {
				changes = append(changes, kube.Change{Class: v})
			}
		}
		var secret corev1.Secret
		if yaml.Unmarshal(text, &secret) == nil {
			if v, _ := kube.Secret(&secret); v != nil {
				changes = append(changes, kube.Change{Secret: v})
			}
		}
		var config corev1.ConfigMap
		if yaml.Unmarshal(text, &config) == nil {
			if v, _ := kube.ConfigMap(&config); v != nil {
				changes = append(changes, kube.Change{ConfigMap: v})
				kube.ReferGlobals(v)
			}
		}
		b := ingress.NewBuilder(ingress.Config{Classes: ingress.DefaultClasses(true), WithoutClass: true})
		kube.Apply(b, changes)
		b.Commit()
		for name, h := range b.Model().Hosts {
			ingress.Compile(h, func(r *ingress.Route) string { return r.Path })
			if h.Name != name {
				t.Errorf("the host %q is under %q", h.Name, name)
			}
		}
	})
}
