package kube

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
)

// held fills a Store with n Services of ten endpoints each, the way a source does,
// and returns how many bytes and objects that leaves on the heap.
func held(t *testing.T, n int) (bytes, objects int64) {
	t.Helper()
	services, slices := make([][]byte, n), make([][]byte, n)
	for i := range n {
		name := fmt.Sprintf("svc-%05d", i)
		v := webService(func(o *corev1.Service) {
			o.Name, o.Spec.ClusterIP = name, fmt.Sprintf("10.%d.%d.%d", 96, i>>8, i&255)
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		})
		s := tenEndpoints(i)
		s.Labels["kubernetes.io/service-name"] = name
		services[i], slices[i] = wire(t, v), wire(t, s)
	}
	var d Decoder
	var m Mirror
	st := service.NewStore()
	before := heap()
	put := func(kind string, raws [][]byte, decode func([]byte) (Decoded, error)) {
		for i, raw := range raws {
			o, err := decode(raw)
			if err != nil || o.Entry.IsZero() {
				t.Fatalf("%s %d: %+v, %v", kind, i, o, err)
			}
			m.Set(service.Object{Kind: kind, Name: o.Name}, o.Entry)(st)
		}
	}
	put("Service", services, d.Service)
	put("EndpointSlice", slices, d.Slice)
	if got := st.Snapshot().Ports.Len(); got < n {
		t.Fatalf("%d ports of %d Services", got, n)
	}
	after := heap()
	runtime.KeepAlive(services)
	runtime.KeepAlive(slices)
	runtime.KeepAlive(d)
	runtime.KeepAlive(m)
	runtime.KeepAlive(st)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc), int64(after.HeapObjects) - int64(before.HeapObjects)
}

func heap() runtime.MemStats {
	runtime.GC()
	runtime.GC() // what finalizers held is gone only now
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m
}

// TestMemory is a guard: how much a Service with ten endpoints takes, from the API
// object to the Snapshot, and that it does not depend on how many there are.
func TestMemory(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector keeps memory of its own")
	}
	const few, many = 1000, 8000
	fewBytes, fewObjects := held(t, few)
	manyBytes, manyObjects := held(t, many)
	perService := float64(manyBytes-fewBytes) / (many - few)
	objects := float64(manyObjects-fewObjects) / (many - few)
	t.Logf("%.0f bytes in %.1f objects for each Service of ten endpoints", perService, objects)
	if perService > 2400 || objects > 20 {
		t.Errorf("%.0f bytes in %.1f objects for each Service of ten endpoints, want at most 2400 in 20", perService, objects)
	}
	if slope := float64(manyBytes) / float64(fewBytes) / (many / few); slope > 1.4 || slope < 0.6 {
		t.Errorf("%d Services take %.2f times as much each as %d do", many, slope, few)
	}
}
