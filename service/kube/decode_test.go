package kube

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

// A wired is an API object that protobuf can carry.
type wired interface {
	metav1.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// wire returns o in protobuf.
func wire(t testing.TB, o wired) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A differ decodes the same bytes in both ways.
type differ struct {
	lean  Decoder
	whole Converter
}

// decode decodes raw into o the short way and the long way. Then raw is
// overwritten: what is still right is no part of it.
func (d *differ) decode(raw []byte, o wired) (got, want Decoded, gotErr, wantErr error) {
	wantErr = o.Unmarshal(bytes.Clone(raw))
	want = Decoded{
		Name: service.Name{Namespace: o.GetNamespace(), Name: o.GetName()}, Version: o.GetResourceVersion(),
		Complete: o.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true",
	}
	if wantErr == nil {
		want.Entry, want.Problems = d.whole.Convert(o)
	}
	decode := d.lean.Slice
	if _, ok := o.(*corev1.Service); ok {
		decode = d.lean.Service
	}
	raw = bytes.Clone(raw)
	got, gotErr = decode(raw)
	for i := range raw {
		raw[i] = 0xff
	}
	return got, want, gotErr, wantErr
}

// check decodes raw in both ways, and fails if they differ. Of bytes that are no
// object one decoder may see it where the other does not look.
func (d *differ) check(t *testing.T, raw []byte, o wired) {
	t.Helper()
	got, want, gotErr, wantErr := d.decode(raw, o)
	if gotErr != nil || wantErr != nil {
		return
	}
	if diff := cmp.Diff(got, want, values); diff != "" {
		t.Errorf("%T (-got +want):\n%s", o, diff)
	}
}

// same is check for bytes that are an object.
func (d *differ) same(t *testing.T, o wired) {
	t.Helper()
	raw := wire(t, o)
	if _, _, err, wantErr := d.decode(raw, newLike(o)); err != nil || wantErr != nil {
		t.Errorf("errors %v and %v, want none", err, wantErr)
	}
	d.check(t, raw, newLike(o))
}

func newLike(o wired) wired {
	if _, ok := o.(*corev1.Service); ok {
		return new(corev1.Service)
	}
	return new(discoveryv1.EndpointSlice)
}

// TestDecodersAgree decodes objects nobody would admit, whole and broken.
func TestDecodersAgree(t *testing.T) {
	four, seven := new(differ), new(differ)
	seven.lean.All, seven.whole.All = true, true
	broken := 0
	for seed := range uint64(600) {
		h := newHostile(seed)
		for _, o := range []wired{h.service(), h.slice()} {
			o.SetCreationTimestamp(metav1.NewTime(time.Unix(int64(seed), 0)))
			for _, d := range []*differ{four, seven} {
				d.same(t, o)
				raw := mutated(wire(t, o), h.Rand)
				d.check(t, raw, newLike(o))
				if _, _, err, _ := d.decode(raw, newLike(o)); err != nil {
					broken++
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if broken < 150 || broken > 2200 {
		t.Errorf("%d of 2400 broken objects were seen to be broken: the test says little", broken)
	}
}

// mutated returns raw with something wrong with it, or several things.
func mutated(raw []byte, r *rand.Rand) []byte {
	raw = bytes.Clone(raw)
	for range 1 + r.IntN(3) {
		if len(raw) == 0 {
			return raw
		}
		i := r.IntN(len(raw))
		switch r.IntN(4) {
		case 0:
			raw = raw[:i]
		case 1:
			raw[i] = byte(r.IntN(256))
		case 2:
			raw[i] ^= 1 << r.IntN(8)
		default: // fields that come twice
			raw = append(raw, raw[i:]...)
		}
	}
	return raw
}

func TestDecodeUnknownFields(t *testing.T) {
	raw := wire(t, webSlice(nil))
	unknown := []byte{0xa2, 0x06, 3, 'a', 'b', 'c', 0xa8, 0x06, 7, 0xad, 0x06, 1, 2, 3, 4} // fields 100, 101 and 101: bytes, varint, fixed32
	new(differ).check(t, append(unknown, raw...), new(discoveryv1.EndpointSlice))
	var d Decoder
	got, err := d.Slice(append(raw, unknown...))
	if want := (service.Name{Namespace: "shop", Name: "web-x7v2q"}); err != nil || got.Name != want || got.Entry.Slice == nil {
		t.Errorf("%+v, %v; want the slice %v", got, err, want)
	}
}

func TestDecodeErrorsNameTheObject(t *testing.T) {
	var d Decoder
	for kind, decode := range map[string]func() error{
		"Service": func() error {
			raw := wire(t, webService(nil))
			_, err := d.Service(raw[:len(raw)-1])
			return err
		},
		"EndpointSlice": func() error {
			raw := wire(t, webSlice(nil))
			_, err := d.Slice(raw[:len(raw)-1])
			return err
		},
	} {
		err := decode()
		if err == nil || !strings.Contains(err.Error(), "decode "+kind+` "shop/web`) {
			t.Errorf("%s: error %v, want one that names the object", kind, err)
		}
	}
	if _, err := d.Slice([]byte{0x08, 1}); !errors.Is(err, errWireType) {
		t.Errorf("metadata that is a number: error %v, want %v", err, errWireType)
	}
}

// tenEndpoints is a slice as a cluster has it, with everything that others write
// into it.
func tenEndpoints(n int) *discoveryv1.EndpointSlice {
	return webSlice(func(o *discoveryv1.EndpointSlice) {
		o.Name, o.ResourceVersion = fmt.Sprintf("web-%05d", n), fmt.Sprint(100000+n)
		o.UID = "0b1c7cc4-7ff9-4df7-9ac4-2f8c1ba9ad3e"
		o.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io"
		o.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: "kube-controller-manager", Operation: "Update", APIVersion: "discovery.k8s.io/v1",
			FieldsV1: metav1.NewFieldsV1(strings.Repeat(`{"f:x":{}}`, 30)),
		}}
		o.Endpoints = nil
		for i := range 10 {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.244.%d.%d", n%250, i+2)}, NodeName: new(fmt.Sprint("node-", (n+i)%100)),
				Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprint("web-", i), UID: o.UID},
				Zone:       new("a"),
			})
		}
	})
}

// TestDecodeAllocations is a guard: what is allocated for an object is what is
// kept of it.
func TestDecodeAllocations(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates too")
	}
	var d Decoder
	check := func(what string, raw []byte, decode func([]byte) (Decoded, error), limit float64) {
		got := testing.AllocsPerRun(200, func() {
			if out, err := decode(raw); err != nil || out.Entry.IsZero() {
				t.Fatalf("%+v, %v", out, err)
			}
		})
		if got > limit {
			t.Errorf("%v allocations for %s, want at most %v", got, what, limit)
		}
	}
	check("a slice of ten endpoints", wire(t, tenEndpoints(1)), d.Slice, 3) // name and version, the Slice, its endpoints
	check("a Service", wire(t, webService(nil)), d.Service, 14)
}

func BenchmarkDecodeSlice(b *testing.B) {
	raw := wire(b, tenEndpoints(1))
	b.Run("decoder=compact", func(b *testing.B) {
		var d Decoder
		b.ReportAllocs()
		for b.Loop() {
			if out, err := d.Slice(raw); err != nil || out.Entry.IsZero() {
				b.Fatal(err)
			}
		}
	})
	b.Run("decoder=typed", func(b *testing.B) {
		var c Converter
		b.ReportAllocs()
		for b.Loop() {
			var o discoveryv1.EndpointSlice
			if err := o.Unmarshal(raw); err != nil {
				b.Fatal(err)
			}
			if e, _ := c.Convert(&o); e.IsZero() {
				b.Fatal("no slice")
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(50) {
		h := newHostile(seed)
		f.Add(wire(f, h.service()), true)
		f.Add(wire(f, h.slice()), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, isService bool) {
		var o wired = new(discoveryv1.EndpointSlice)
		if isService {
			o = new(corev1.Service)
		}
		var d differ
		d.check(t, raw, o)
		d.lean.All, d.whole.All = true, true
		d.check(t, raw, newLike(o))
	})
}
