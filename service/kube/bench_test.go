package kube

import (
	"fmt"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// BenchmarkConvertSlice converts a slice of a hundred endpoints, as the
// EndpointSlice controller makes them.
func BenchmarkConvertSlice(b *testing.B) {
	o := webSlice(func(o *discoveryv1.EndpointSlice) {
		o.Endpoints = nil
		for i := range 100 {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.244.%d.2", i)},
				NodeName:  new(fmt.Sprint("node-", i)),
				Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}},
			})
		}
	})
	var c Converter
	b.ReportAllocs()
	for b.Loop() {
		if e, problems := c.Convert(o); e.IsZero() || problems != nil {
			b.Fatal(problems)
		}
	}
}

// BenchmarkConvertService converts a plain Service.
func BenchmarkConvertService(b *testing.B) {
	o := webService(nil)
	var c Converter
	b.ReportAllocs()
	for b.Loop() {
		if e, problems := c.Convert(o); e.IsZero() || problems != nil {
			b.Fatal(problems)
		}
	}
}
