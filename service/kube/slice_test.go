package kube

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

func webSlice(change func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-x7v2q", UID: "u2",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.2"}}},
	}
	if change != nil {
		change(o)
	}
	return o
}

func converted(change func(*service.Slice)) *service.Slice {
	s := &service.Slice{
		Service:   service.Name{Namespace: "shop", Name: "web"},
		Name:      "web-x7v2q",
		Ports:     []service.SlicePort{{Name: "http", Port: 8080}},
		Endpoints: []service.SliceEndpoint{endpoint("10.244.1.2", nil)},
	}
	if change != nil {
		change(s)
	}
	return s
}

func endpoint(addr string, change func(*service.EndpointState)) service.SliceEndpoint {
	e := service.EndpointState{Ready: true, Serving: true}
	if change != nil {
		change(&e)
	}
	return service.NewSliceEndpoint(addrs(addr)[0], &e)
}

// A sliceCase says what a change of webSlice does to the result, in the manner of
// serviceCase.
type sliceCase struct {
	name   string
	in     func(*discoveryv1.EndpointSlice)
	want   func(*service.Slice)
	none   bool
	fields []string
}

func runSliceCases(t *testing.T, cases []sliceCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, problems := Slice(webSlice(tc.in))
			want := converted(tc.want)
			if tc.none {
				want = nil
			}
			if d := cmp.Diff(got, want, values); d != "" {
				t.Errorf("Slice (-got +want):\n%s", d)
			}
			if d := cmp.Diff(fields(problems), tc.fields, values); d != "" {
				t.Errorf("fields of problems (-got +want):\n%s\nproblems: %v", d, problems)
			}
		})
	}
}

func TestSliceAddresses(t *testing.T) {
	addresses := func(list ...string) func(*discoveryv1.EndpointSlice) {
		return func(o *discoveryv1.EndpointSlice) {
			o.Endpoints = nil
			for _, a := range list {
				o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
			}
		}
	}
	nobody := func(s *service.Slice) { s.Endpoints = nil }
	first := []string{"endpoints[0].addresses[0]"}
	runSliceCases(t, []sliceCase{
		{name: "plain"},
		{name: "no service", none: true, in: func(o *discoveryv1.EndpointSlice) { o.Labels = nil }},
		{name: "FQDN", none: true, in: func(o *discoveryv1.EndpointSlice) { o.AddressType = discoveryv1.AddressTypeFQDN }},
		{name: "headless", none: true, in: func(o *discoveryv1.EndpointSlice) { o.Labels[LabelHeadless] = "" }},
		{name: "address type missing", none: true, fields: []string{"addressType"},
			in: func(o *discoveryv1.EndpointSlice) { o.AddressType = "" }},
		{name: "bad names", none: true,
			fields: []string{"metadata.namespace", "metadata.name", "metadata.labels[kubernetes.io/service-name]"},
			in: func(o *discoveryv1.EndpointSlice) {
				o.Namespace, o.Name, o.Labels[discoveryv1.LabelServiceName] = "", "A b", "a.b"
			}},
		{name: "no endpoints", in: addresses(), want: nobody},
		{name: "leading zeros", in: addresses("010.244.001.002")},
		{name: "mapped", in: addresses("::ffff:10.244.1.2")},
		{name: "garbage", in: addresses("pod-1", "10.244.1.2"), fields: first},
		{name: "empty", in: addresses("", "10.244.1.2"), fields: first},
		{name: "wrong family", in: addresses("fd00:10:244:1::2", "10.244.1.2"), fields: first},
		{name: "loopback", in: addresses("127.0.0.1"), want: nobody, fields: first},
		{name: "unspecified", in: addresses("0.0.0.0"), want: nobody, fields: first},
		{name: "multicast", in: addresses("224.0.0.1"), want: nobody, fields: first},
		{name: "link-local", in: addresses("169.254.169.254"), want: nobody, fields: first},
		{name: "no addresses", fields: []string{"endpoints[0].addresses"}, in: func(o *discoveryv1.EndpointSlice) {
			o.Endpoints = append([]discoveryv1.Endpoint{{}}, o.Endpoints...)
		}},
		{name: "only the first address counts", in: func(o *discoveryv1.EndpointSlice) {
			o.Endpoints[0].Addresses = []string{"10.244.1.2", "nonsense"}
		}},
	})
}

func TestSliceContent(t *testing.T) {
	runSliceCases(t, []sliceCase{
		{
			name: "conditions, node and hints",
			in: func(o *discoveryv1.EndpointSlice) {
				o.Endpoints = []discoveryv1.Endpoint{{
					Addresses:  []string{"10.244.1.2"},
					NodeName:   new(" N1 "),
					Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(true)},
					Hints: &discoveryv1.EndpointHints{
						ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}},
						ForNodes: []discoveryv1.ForNode{{Name: "N1"}},
					},
				}, {
					Addresses:  []string{"10.244.1.3"},
					Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
					Hints:      &discoveryv1.EndpointHints{},
				}}
			},
			want: func(s *service.Slice) {
				s.Endpoints = []service.SliceEndpoint{endpoint("10.244.1.2", func(e *service.EndpointState) {
					*e = service.EndpointState{Node: "n1", Terminating: true, ForZones: []string{"a", "b"}, ForNodes: []string{"n1"}}
				}), endpoint("10.244.1.3", nil)}
			},
		},
		{
			name: "ports", fields: []string{"ports[5].port", "ports[6].protocol", "ports[7].name", "ports[8].name"},
			in: func(o *discoveryv1.EndpointSlice) {
				http, udp, bad := new("http"), new(corev1.ProtocolUDP), new(corev1.Protocol("QUIC"))
				o.Ports = []discoveryv1.EndpointPort{
					{Name: nil, Port: new(int32(1))}, {Name: http}, {Name: http, Port: new(int32(0))},
					{Name: http, Port: new(int32(8080))}, {Name: new(""), Port: new(int32(53)), Protocol: udp},
					{Name: new("a"), Port: new(int32(70000))}, {Name: new("b"), Port: new(int32(1)), Protocol: bad},
					{Name: http, Port: new(int32(8081))}, {Name: new("no no"), Port: new(int32(1))},
				}
			},
			want: func(s *service.Slice) {
				s.Ports = []service.SlicePort{{Name: "http", Port: 8080}, {Protocol: service.UDP, Port: 53}}
			},
		},
		{
			name: "trigger time",
			in: func(o *discoveryv1.EndpointSlice) {
				o.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05.123456789Z"}
			},
			want: func(s *service.Slice) { s.Triggered = time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC) },
		},
		{name: "trigger time that is none", in: func(o *discoveryv1.EndpointSlice) {
			o.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "yesterday"}
		}},
	})
}

func TestAnySliceTakesHeadless(t *testing.T) {
	got, _ := AnySlice(webSlice(func(o *discoveryv1.EndpointSlice) { o.Labels[LabelHeadless] = "" }))
	if d := cmp.Diff(got, converted(nil), values); d != "" {
		t.Errorf("AnySlice (-got +want):\n%s", d)
	}
}

func TestHugeSlice(t *testing.T) {
	got, problems := Slice(webSlice(func(o *discoveryv1.EndpointSlice) {
		o.Endpoints = nil
		for i := range 5000 {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.1", i/250, i%250)}})
		}
	}))
	if len(got.Endpoints) != 5000 || problems != nil {
		t.Errorf("%d endpoints, problems %v; want 5000 and none", len(got.Endpoints), problems)
	}
}

func TestInterner(t *testing.T) {
	o := webSlice(func(o *discoveryv1.EndpointSlice) {
		o.Endpoints[0].NodeName = new("n1")
		o.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}
	})
	want, _ := Slice(o)
	var c Converter
	convert := func() *service.Slice {
		e, _ := c.Convert(o)
		return e.Slice
	}
	a, b := convert(), convert()
	if d := cmp.Diff(b, want, values); d != "" {
		t.Errorf("interning changed the slice (-got +want):\n%s", d)
	}
	if a.Endpoints[0].EndpointState != b.Endpoints[0].EndpointState || &a.Ports[0] != &b.Ports[0] {
		t.Error("the state of endpoints, or ports, are not shared")
	}
	for i := range maxInterned + 10 {
		c.intern.share(fmt.Sprint("node-", i))
		c.intern.state(&service.EndpointState{Node: fmt.Sprint("node-", i)})
		c.intern.portList([]service.SlicePort{{Name: fmt.Sprint("port-", i)}})
	}
	for what, got := range map[string]int{"strings": len(c.intern.strings), "states": len(c.intern.states), "ports": len(c.intern.ports)} {
		if got > maxInterned {
			t.Errorf("interner holds %d %s, want at most %d", got, what, maxInterned)
		}
	}
}
