package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
	servicekube "github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/kube/manifests"
)

// A record is a Sink that remembers what it was told.
type record struct {
	told   []string
	synced int
	err    error
}

func (r *record) Update(_ context.Context, changes []Change) error {
	for _, c := range changes {
		verb := "set"
		if c.Ingress == nil && c.Class == nil && c.Secret == nil && c.ConfigMap == nil {
			verb = "delete"
		}
		r.told = append(r.told, fmt.Sprintf("%s %s %s", verb, c.Object.Kind, c.Object))
	}
	return r.err
}

func (r *record) Synced() { r.synced++ }

// take returns what was told since the last time.
func (r *record) take() []string {
	out := r.told
	r.told = nil
	return out
}

const folderYAML = `apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: fairlead, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: fairlead.io/ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  tls: [{secretName: web-tls}]
  defaultBackend: {service: {name: web, port: {number: 80}}}
---
apiVersion: v1
kind: Secret
metadata: {name: web-tls, namespace: shop}
type: kubernetes.io/tls
data: {tls.crt: Y2VydA==}
stringData: {tls.key: key}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: headers, namespace: shop}
data: {X-A: "1"}
`

func parse(t *testing.T, text string) manifests.Objects {
	t.Helper()
	objects, errs := Kinds().Parse("l7.yaml", []byte(text))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return objects
}

func TestFolder(t *testing.T) {
	r := &record{}
	f := &Folder{Sink: r}
	objects := parse(t, folderYAML)
	hand := func(objects manifests.Objects) {
		t.Helper()
		if err := f.Others(t.Context(), objects); err != nil {
			t.Fatal(err)
		}
	}
	hand(objects)
	want := []string{"set IngressClass /fairlead", "set Ingress shop/web", "set Secret shop/web-tls", "set ConfigMap shop/headers"}
	if d := cmp.Diff(r.take(), want); d != "" || r.synced != 1 {
		t.Errorf("first time (-got +want):\n%s\nsynced %d times, want once", d, r.synced)
	}
	hand(objects)
	hand(parse(t, folderYAML)) // read again, and the same
	if got := r.take(); got != nil {
		t.Errorf("nothing has changed: got %v", got)
	}
	hand(parse(t, strings.Replace(folderYAML, "Y2VydA==", "b3RoZXI=", 1)))
	if d := cmp.Diff(r.take(), []string{"set Secret shop/web-tls"}); d != "" {
		t.Errorf("another certificate (-got +want):\n%s", d)
	}
	hand(parse(t, strings.Replace(folderYAML, `"true"`, `"false"`, 1))[:2])
	if d := cmp.Diff(r.take(), []string{"set Ingress shop/web", "delete ConfigMap shop/headers", "delete Secret shop/web-tls"}); d != "" {
		t.Errorf("no default class, and less (-got +want):\n%s", d)
	}
	if r.synced != 1 {
		t.Errorf("synced %d times, want once", r.synced)
	}
	r.err = fmt.Errorf("gone")
	if err := f.Others(t.Context(), nil); err == nil {
		t.Error("a Sink that is gone: no error")
	}
}

func TestFolderReports(t *testing.T) {
	var heard []string
	report := servicekube.ReportFunc(func(object service.Object, problems []service.Problem) {
		heard = append(heard, fmt.Sprintf("%s %s %v", object.Kind, object, problems))
	})
	f := &Folder{Sink: &record{}, Report: report}
	bad := "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: shop}\ntype: helm.sh/release.v1\n"
	for _, text := range []string{bad, strings.Replace(bad, "helm.sh/release.v1", "Opaque", 1), ""} {
		if err := f.Others(t.Context(), parse(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`Secret shop/s [Secret shop/s: type: "helm.sh/release.v1" is neither kubernetes.io/tls nor Opaque; nothing in it is used (l7.yaml:1)]`,
		`Secret shop/s []`,
	}
	if d := cmp.Diff(heard, want); d != "" {
		t.Errorf("problems (-got +want):\n%s", d)
	}
}

func TestDefaultClass(t *testing.T) {
	class := func(name, created, mark string) string {
		return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: %s\n  creationTimestamp: %s\n"+
			"  annotations: {ingressclass.kubernetes.io/is-default-class: %q}\n---\n", name, created, mark)
	}
	const old, young = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
	for _, tc := range []struct{ name, text, want string }{
		{"none", class("a", old, "false"), ""},
		{"one", class("a", old, "true") + class("b", young, "false"), "a"},
		{"the newest", class("a", old, "true") + class("b", young, "true") + class("c", old, "true"), "b"},
		{"the first by name", class("b", old, "true") + class("a", old, "true"), "a"},
	} {
		if got := defaultClass(parse(t, tc.text)); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
	changes, _ := Convert(parse(t, class("a", old, "true")+
		"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, annotations: {kubernetes.io/ingress.class: nginx}}\n"))
	if got := changes[1].Ingress.Class; got != "" {
		t.Errorf("an Ingress with the annotation got the class %q, want none", got)
	}
}

// TestExamples reads what deploy/l7 offers as an Ingress, and wants nothing to be wrong
// with it but what it refers to.
func TestExamples(t *testing.T) {
	root := filepath.Join("..", "..", "deploy", "l7")
	objects, errs := Kinds().Load(filepath.Join(root, "examples"), filepath.Join(root, "base", "ingressclass.yaml"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	changes, problems := Convert(objects)
	if len(problems) > 0 || len(changes) < 8 {
		t.Fatalf("%d changes and problems %v, want at least 8 and none", len(changes), problems)
	}
	b := ingress.NewBuilder(ingress.Config{Classes: ingress.DefaultClasses(false)})
	Apply(b, changes)
	b.Commit()
	if got := len(b.Served()); got != len(changes)-1 {
		t.Errorf("%d Ingresses are served, want %d", got, len(changes)-1)
	}
	for _, p := range b.Problems() {
		if p.Reason != "SecretNotFound" {
			t.Error(p)
		}
	}
}

// TestKustomizations makes sure that what kustomize is told to put together is there, and
// that nothing has been forgotten.
func TestKustomizations(t *testing.T) {
	root := filepath.Join("..", "..", "deploy", "l7")
	for _, folder := range []string{"base", "edge", "service"} {
		data, err := os.ReadFile(filepath.Join(root, folder, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var k struct{ Resources []string }
		if err := yaml.Unmarshal(data, &k); err != nil {
			t.Fatal(err)
		}
		for _, r := range k.Resources {
			if _, err := os.Stat(filepath.Join(root, folder, r)); err != nil {
				t.Errorf("%s: %v", folder, err)
			}
		}
		files, err := filepath.Glob(filepath.Join(root, folder, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name := filepath.Base(f); name != "kustomization.yaml" && !slices.Contains(k.Resources, name) {
				t.Errorf("%s: %s is not part of the kustomization", folder, name)
			}
		}
	}
}
