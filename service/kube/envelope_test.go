package kube

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var sliceType = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}

// answer returns o in the form in which an API server answers.
func answer(t testing.TB, about metav1.TypeMeta, o interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: about.APIVersion, Kind: about.Kind}, Raw: raw}
	data, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(magic), data...)
}

func sliceList(t testing.TB, n int) []byte {
	t.Helper()
	l := discoveryv1.EndpointSliceList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "more", RemainingItemCount: new(int64(5))}}
	for i := range n {
		l.Items = append(l.Items, *tenEndpoints(i))
	}
	return answer(t, metav1.TypeMeta{APIVersion: sliceType.APIVersion, Kind: "EndpointSliceList"}, &l)
}

// readList returns the names in a list, and what List says.
func readList(data []byte) ([]string, metav1.ListMeta, error) {
	var d Decoder
	var names []string
	about, err := List(bufio.NewReaderSize(bytes.NewReader(data), 16), sliceType, func(raw []byte) error {
		o, err := d.Slice(raw)
		names = append(names, o.Name.Name)
		return err
	})
	return names, about, err
}

func TestList(t *testing.T) {
	whole := sliceList(t, 3)
	names, about, err := readList(whole)
	if want := []string{"web-00000", "web-00001", "web-00002"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v; want %v", names, err, want)
	}
	if about.ResourceVersion != "77" || about.Continue != "more" {
		t.Errorf("the list says %+v, want version 77 and more", about)
	}
	const trailer = 4 // fields of Unknown that are empty, and may be missing
	for n := range len(whole) - trailer {
		if names, _, err := readList(whole[:n]); err == nil && len(names) == 3 {
			t.Fatalf("the first %d of %d bytes are a whole list", n, len(whole))
		}
	}
	if names, _, err := readList(sliceList(t, 0)); err != nil || names != nil {
		t.Errorf("an empty list: %v, %v", names, err)
	}
	for text, data := range map[string][]byte{
		"no list in protobuf": []byte(`{"kind":"EndpointSliceList"}`),
		"another list":        answer(t, sliceType, tenEndpoints(1)),
		"too large":           slices.Concat(whole, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07}),
		"unexpected EOF":      whole[:len(whole)-20],
	} {
		if _, _, err := readList(data); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want one with %q", err, text)
		}
	}
}

func TestUnwrap(t *testing.T) {
	o := tenEndpoints(1)
	whole := answer(t, sliceType, o)
	raw, ok := Unwrap(whole, sliceType)
	if !ok || !bytes.Equal(raw, wire(t, o)) {
		t.Errorf("%v, %d bytes; want the message of the slice", ok, len(raw))
	}
	for what, data := range map[string][]byte{
		"another kind":    answer(t, metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, o),
		"another version": answer(t, metav1.TypeMeta{APIVersion: "discovery.k8s.io/v2", Kind: "EndpointSlice"}, o),
		"JSON":            []byte("{}"),
		"nothing":         nil,
		"cut off":         whole[:len(whole)/2],
		"packed":          append(slices.Clone(whole), 0x1a, 4, 'g', 'z', 'i', 'p'),
	} {
		if _, ok := Unwrap(data, sliceType); ok {
			t.Errorf("%s is taken for a slice", what)
		}
	}
}

func TestEvent(t *testing.T) {
	e := metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: []byte("object")}}
	raw, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if kind, object, err := Event(raw); err != nil || string(kind) != "ADDED" || string(object) != "object" {
		t.Errorf("%s %s, %v; want ADDED object", kind, object, err)
	}
	if _, _, err := Event(raw[:len(raw)-1]); err == nil {
		t.Error("no error for half an event")
	}
}

func FuzzList(f *testing.F) {
	f.Add(sliceList(f, 2))
	f.Add(sliceList(f, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, _, err := readList(data)
		if err == nil && len(names) > len(data) {
			t.Errorf("%d objects in %d bytes", len(names), len(data))
		}
	})
}
