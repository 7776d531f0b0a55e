package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func moreKinds() Kinds {
	return Kinds{
		{APIVersion: "v1", Name: "ConfigMap", New: func() metav1.Object { return &corev1.ConfigMap{} }},
		{APIVersion: "v1", Name: "Namespace", New: func() metav1.Object { return &corev1.Namespace{} }, Global: true},
	}
}

const otherYAML = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, namespace: nonsense}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: broken}
data: {a: 1}
---
apiVersion: v1
kind: ConfigMapList
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: listed, namespace: shop}}
---
apiVersion: v2
kind: ConfigMap
metadata: {name: future}
`

func TestMoreKinds(t *testing.T) {
	objects, errs := moreKinds().Parse("f", []byte(otherYAML+"---\n"+webYAML))
	want := []string{
		"1 ConfigMap default/settings", "6 Namespace /shop", "18 ConfigMap shop/listed", "24 Service shop/web",
	}
	if d := cmp.Diff(lines(objects), want); d != "" {
		t.Errorf("objects (-got +want):\n%s", d)
	}
	wantErrs := []string{
		`f:13: data.a: must be a string, not the number 1; put it in quotes`,
		`f:20: apiVersion: "v2" of ConfigMap is not supported`,
	}
	if d := cmp.Diff(texts(errs), wantErrs); d != "" {
		t.Errorf("errors (-got +want):\n%s", d)
	}
	// Who does not ask for them gets what there was before: the kind, and no complaint.
	objects, errs = Parse("f", []byte(otherYAML))
	if len(errs) != 0 || len(objects) == 0 || objects[0].Value != nil {
		t.Errorf("without more kinds: %v and %v, want objects without a value and no errors", objects, errs)
	}
}

// TestSourceHandsOverOthers makes sure that an object that has not changed keeps its
// Value, and that a broken file takes nothing away.
func TestSourceHandsOverOthers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newSink()
	var got []Objects
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	src := &Source{
		Dir: dir, Sink: s, Log: slog.New(slog.DiscardHandler), All: true, More: moreKinds(),
		Others: func(_ context.Context, objects Objects) error {
			got = append(got, objects)
			switch len(got) {
			case 1:
				if s.synced != 0 {
					t.Error("synced before the others were handed over")
				}
				write("b.yaml", otherYAML+"---\n"+"kind: [")
			case 2:
				write("c.yaml", webYAML)
			case 3:
				if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
					t.Error(err)
				}
			case 4:
				cancel()
			}
			return nil
		},
	}
	write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n")
	if err := src.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var counts []int
	for _, objects := range got {
		counts = append(counts, len(objects))
		if objects[0].Value != got[0][0].Value {
			t.Error("an object that has not changed has a new Value")
		}
	}
	if d := cmp.Diff(fmt.Sprint(counts), "[1 4 4 1]"); d != "" {
		t.Errorf("objects handed over (-got +want):\n%s", d)
	}
}
