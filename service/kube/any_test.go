package kube

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
)

func TestAnyService(t *testing.T) {
	h2c, long := "kubernetes.io/h2c", strings.Repeat("x", maxAppProtocol+1)
	external := func(host string) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: host}
		}
	}
	bare := func(s *service.Service) { s.ClusterIPs, s.Families, s.Ports = nil, nil, nil }
	for _, tc := range []serviceCase{
		{name: "plain"},
		{name: "other proxy", in: func(o *corev1.Service) { o.Labels = map[string]string{LabelProxyName: "x"} }},
		{
			name: "no cluster IP, as in a folder",
			in:   func(o *corev1.Service) { o.Spec.ClusterIP, o.Spec.ClusterIPs = "", nil },
			want: func(s *service.Service) { s.Headless, s.ClusterIPs = true, nil },
		},
		{
			name: "protocol of a port", in: func(o *corev1.Service) { o.Spec.Ports[0].AppProtocol = &h2c },
			want: func(s *service.Service) { s.Ports[0].AppProtocol = h2c },
		},
		{
			name: "protocol that is too long", in: func(o *corev1.Service) { o.Spec.Ports[0].AppProtocol = &long },
			fields: []string{"spec.ports[0].appProtocol"},
		},
		{
			name: "ExternalName", in: external("Docs.Example.com."),
			want: func(s *service.Service) { bare(s); s.ExternalName = "docs.example.com" },
		},
		{
			name: "ExternalName with a port",
			in: func(o *corev1.Service) {
				external("docs.example.com")(o)
				o.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 8080}}
			},
			want: func(s *service.Service) {
				bare(s)
				s.ExternalName = "docs.example.com"
				s.Ports = []service.ServicePort{{Name: "http", Port: 8080}}
			},
		},
		{name: "ExternalName that is an address", none: true, in: external("169.254.169.254"), fields: []string{"spec.externalName"}},
		{name: "ExternalName that is no name", none: true, in: external("a b"), fields: []string{"spec.externalName"}},
		{name: "ExternalName without one", none: true, in: external(""), fields: []string{"spec.externalName"}},
		{name: "no name", none: true, in: func(o *corev1.Service) { o.Name = "" }, fields: []string{"metadata.name"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, problems := AnyService(webService(tc.in))
			want := web(tc.want)
			if tc.none {
				want = nil
			}
			if d := cmp.Diff(got, want, values); d != "" {
				t.Errorf("Service (-got +want):\n%s", d)
			}
			if d := cmp.Diff(fields(problems), tc.fields, values); d != "" {
				t.Errorf("fields of problems (-got +want):\n%s", d)
			}
		})
	}
}

// TestConverterLeavesL4Alone makes sure that what is for L7 only reaches nobody else.
func TestConverterLeavesL4Alone(t *testing.T) {
	h2c := "kubernetes.io/h2c"
	for name, change := range map[string]func(*corev1.Service){
		"headless": func(o *corev1.Service) { o.Spec.ClusterIP, o.Spec.ClusterIPs = "None", []string{"None"} },
		"external": func(o *corev1.Service) {
			o.Spec.Type, o.Spec.ExternalName = corev1.ServiceTypeExternalName, "a.example.com"
		},
		"other proxy":  func(o *corev1.Service) { o.Labels = map[string]string{LabelProxyName: "x"} },
		"no addresses": func(o *corev1.Service) { o.Spec.ClusterIP, o.Spec.ClusterIPs = "", nil },
	} {
		var four Converter
		if got, _ := four.Convert(webService(change)); !got.IsZero() {
			t.Errorf("%s: L4 gets %+v, want nothing", name, got.Service)
		}
		all := Converter{All: true}
		if got, _ := all.Convert(webService(change)); got.Service == nil {
			t.Errorf("%s: L7 gets nothing", name)
		}
	}
	var four Converter
	got, _ := four.Convert(webService(func(o *corev1.Service) { o.Spec.Ports[0].AppProtocol = &h2c }))
	if p := got.Service.Ports[0].AppProtocol; p != "" {
		t.Errorf("L4 gets the protocol %q, and would rebuild the port whenever it changes", p)
	}
}
