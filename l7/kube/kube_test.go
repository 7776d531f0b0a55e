package kube

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

func name(namespace, name string) service.Name { return service.Name{Namespace: namespace, Name: name} }

func ptr[T any](v T) *T { return &v }

func TestIngress(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "u1", Generation: 7, CreationTimestamp: metav1.NewTime(created),
			Annotations: map[string]string{
				"fairlead.io/ssl-redirect":                         "true",
				"nginx.ingress.kubernetes.io/rewrite-target":       "/$1",
				AnnotationClass:                                    "nginx",
				"kubectl.kubernetes.io/last-applied-configuration": "{}",
				"cert-manager.io/issuer":                           "x",
			},
		},
		Spec: networkingv1.IngressSpec{
			IngressClassName: ptr("fairlead"),
			DefaultBackend: &networkingv1.IngressBackend{
				Resource: &corev1.TypedLocalObjectReference{APIGroup: ptr("k8s.example.com"), Kind: "Bucket", Name: "files"},
			},
			TLS: []networkingv1.IngressTLS{{Hosts: []string{"a.example.com"}, SecretName: "a-tls"}, {}},
			Rules: []networkingv1.IngressRule{
				{Host: "a.example.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
					Paths: []networkingv1.HTTPIngressPath{
						{Path: "/a", PathType: ptr(networkingv1.PathTypeExact), Backend: networkingv1.IngressBackend{
							Service: &networkingv1.IngressServiceBackend{Name: "a", Port: networkingv1.ServiceBackendPort{Name: "http"}},
						}},
						{Path: "/\n", Backend: networkingv1.IngressBackend{
							Service: &networkingv1.IngressServiceBackend{Name: "b", Port: networkingv1.ServiceBackendPort{Number: -1}},
						}},
					},
				}}},
				{Host: "none.example.com"},
				{Host: "empty.example.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{}}},
			},
		},
	}
	want := &ingress.Ingress{
		Name: name("shop", "web"), UID: "u1", Generation: 7, Created: created,
		Annotations: map[string]string{
			"fairlead.io/ssl-redirect": "true", "nginx.ingress.kubernetes.io/rewrite-target": "/$1", AnnotationClass: "nginx",
		},
		Class:   "fairlead",
		Default: &ingress.Backend{Resource: "k8s.example.com/Bucket/files"},
		TLS:     []ingress.TLS{{Hosts: []string{"a.example.com"}, Secret: "a-tls"}, {}},
		Rules: []ingress.Rule{
			{Host: "a.example.com", Paths: []ingress.Path{
				{Path: "/a", Type: ingress.Exact, Backend: ingress.Backend{Service: "a", Port: ingress.Port{Name: "http"}}},
				{Path: "/\n", Backend: ingress.Backend{Service: "b", Port: ingress.Port{Number: -1}}},
			}},
			{Host: "none.example.com"},
			{Host: "empty.example.com", Paths: []ingress.Path{}},
		},
	}
	got, problems := Ingress(in)
	if d := cmp.Diff(got, want); d != "" || len(problems) > 0 {
		t.Errorf("Ingress (-got +want):\n%s\nproblems: %v", d, problems)
	}
}

func TestBadNames(t *testing.T) {
	long := strings.Repeat("a", 254)
	for _, n := range []service.Name{name("", "web"), name("shop", ""), name("a/b", "web"), name("shop", "a\nb"), name("shop", "A"), name("shop", long)} {
		meta := metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}
		i, p1 := Ingress(&networkingv1.Ingress{ObjectMeta: meta})
		s, p2 := Secret(&corev1.Secret{ObjectMeta: meta})
		m, p3 := ConfigMap(&corev1.ConfigMap{ObjectMeta: meta})
		if i != nil || s != nil || m != nil || len(p1) != 1 || len(p2) != 1 || len(p3) != 1 {
			t.Errorf("%q: got %v, %v, %v, want nothing and a Problem each", n, i, s, m)
		}
	}
	if c, p := IngressClass(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "a b"}}); c != nil || len(p) != 1 {
		t.Errorf("class: got %v and %v, want nothing and a Problem", c, p)
	}
	c, p := IngressClass(&networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "fairlead", UID: "u"}, Spec: networkingv1.IngressClassSpec{Controller: "fairlead.io/ingress"},
	})
	if d := cmp.Diff(c, &ingress.Class{Name: "fairlead", UID: "u", Controller: "fairlead.io/ingress"}); d != "" || p != nil {
		t.Errorf("class (-got +want):\n%s\n%v", d, p)
	}
}

func TestSecret(t *testing.T) {
	data := map[string][]byte{"tls.crt": []byte("c"), "tls.key": []byte("k"), "token": []byte("t")}
	for _, tc := range []struct {
		name string
		in   corev1.Secret
		keys string
		bad  bool
	}{
		{"tls", corev1.Secret{Type: corev1.SecretTypeTLS, Data: data}, "tls.crt=c tls.key=k", false},
		{"opaque", corev1.Secret{Type: corev1.SecretTypeOpaque, Data: data}, "tls.crt=c tls.key=k token=t", false},
		{"no type, as in a file", corev1.Secret{StringData: map[string]string{"auth": "u:p"}}, "auth=u:p", false},
		{"string data wins", corev1.Secret{Type: corev1.SecretTypeTLS, Data: data, StringData: map[string]string{"tls.crt": "x"}}, "tls.crt=x tls.key=k", false},
		{"token of a ServiceAccount", corev1.Secret{Type: corev1.SecretTypeServiceAccountToken, Data: data}, "", true},
		{"Helm", corev1.Secret{Type: "helm.sh/release.v1", Data: data}, "", true},
	} {
		tc.in.Namespace, tc.in.Name = "shop", "s"
		got, problems := Secret(&tc.in)
		var keys []string
		for _, k := range slices.Sorted(maps.Keys(got.Data)) {
			keys = append(keys, k+"="+string(got.Data[k]))
		}
		if d := strings.Join(keys, " "); d != tc.keys || (len(problems) > 0) != tc.bad {
			t.Errorf("%s: got %q and %v, want %q and problems: %v", tc.name, d, problems, tc.keys, tc.bad)
		}
	}
	if string(data["tls.crt"]) != "c" || len(data) != 3 {
		t.Error("the data of the object was changed")
	}
}

func TestRefer(t *testing.T) {
	v := &ingress.Ingress{
		Name: name("shop", "web"),
		TLS:  []ingress.TLS{{Secret: "a-tls"}, {Secret: "a-tls"}, {}, {Secret: "other/x"}, {Secret: "../x"}},
		Annotations: map[string]string{
			"fairlead.io/auth-secret":                            "users",
			"nginx.ingress.kubernetes.io/auth-secret":            "shop/old-users",
			"nginx.ingress.kubernetes.io/proxy-ssl-secret":       "kube-system/ca", // not ours to read for them
			"nginx.ingress.kubernetes.io/custom-headers":         "shop/headers",
			"nginx.ingress.kubernetes.io/auth-proxy-set-headers": "more",
			"example.com/auth-secret":                            "nothing",
		},
	}
	want := References{
		Secrets:    []service.Name{name("shop", "a-tls"), name("shop", "old-users"), name("shop", "users")},
		ConfigMaps: []service.Name{name("shop", "headers"), name("shop", "more")},
	}
	if d := cmp.Diff(Refer(v), want); d != "" {
		t.Errorf("References (-got +want):\n%s", d)
	}
	globals := &ingress.ConfigMap{Name: name("fairlead-l7", "fairlead-l7"), Data: map[string]string{
		"proxy-set-headers": "infra/headers", "add-headers": "answers", "custom-headers": "shop/x",
	}}
	want = References{ConfigMaps: []service.Name{name("fairlead-l7", "answers"), name("infra", "headers")}}
	if d := cmp.Diff(ReferGlobals(globals), want); d != "" {
		t.Errorf("References of the globals (-got +want):\n%s", d)
	}
	if d := cmp.Diff(ReferGlobals(nil), References{}); d != "" {
		t.Errorf("References of no globals (-got +want):\n%s", d)
	}
}

// TestReferKnowsTheCatalogue finds an annotation that names an object and has been
// forgotten here.
func TestReferKnowsTheCatalogue(t *testing.T) {
	var secrets, configMaps, keys []string
	for _, a := range annotation.Catalogue() {
		if a.Support != annotation.Served {
			continue
		}
		names := append([]string{a.Name}, a.Aliases...)
		switch {
		case strings.Contains(a.Values, "ConfigMap") && a.Scope == annotation.Process:
			keys = append(keys, a.Global)
		case strings.Contains(a.Values, "ConfigMap"):
			configMaps = append(configMaps, names...)
		case strings.Contains(a.Values, "Secret"):
			secrets = append(secrets, names...)
		}
	}
	for _, c := range []struct {
		what      string
		got, want []string
	}{{"Secrets", secretAnnotations(), secrets}, {"ConfigMaps", configMapAnnotations(), configMaps}, {"keys", configMapKeys(), keys}} {
		if d := cmp.Diff(c.got, c.want, cmpopts.SortSlices(strings.Compare)); d != "" {
			t.Errorf("%s (-here +in the catalogue):\n%s", c.what, d)
		}
	}
}

// TestServesAsTheBuilder compares Serves with who really decides.
func TestServesAsTheBuilder(t *testing.T) {
	classes := map[string]*ingress.Class{
		"ours": {Name: "ours", Controller: ingress.Controller}, "nginx": {Name: "nginx", Controller: ingress.NginxController},
		"other": {Name: "other", Controller: "example.com/x"}, "blank": {Name: "blank"},
	}
	named := ingress.DefaultClasses(true)
	named[0].ByName = "other"
	for _, cfg := range []ingress.Config{
		{}, {Classes: ingress.DefaultClasses(false)}, {Classes: ingress.DefaultClasses(true)}, {Classes: named},
		{Classes: ingress.DefaultClasses(false), WithoutClass: true}, {WithoutClass: true},
		{Classes: []ingress.ClassConfig{{Controller: ingress.Controller}}},
	} {
		for _, class := range []string{"", "ours", "nginx", "other", "blank", "missing"} {
			for _, legacy := range []string{"-", "", "fairlead", "nginx", "other"} {
				v := &ingress.Ingress{Name: name("shop", "web"), Class: class, Default: &ingress.Backend{Service: "a", Port: ingress.Port{Number: 80}}}
				if legacy != "-" {
					v.Annotations = map[string]string{AnnotationClass: legacy}
				}
				o := ingress.Objects{Ingresses: []*ingress.Ingress{v}, Classes: slices.Collect(maps.Values(classes))}
				want := len(ingress.Build(o, cfg).Served) > 0
				if got := Serves(&cfg, v, classes); got != want {
					t.Errorf("class %q, annotation %q, config %+v: got %v, the Builder says %v", class, legacy, cfg, got, want)
				}
			}
		}
	}
}
