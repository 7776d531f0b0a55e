package manifests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/service/kube"
)

const webYAML = `apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  creationTimestamp: 2026-01-02T03:04:05Z
spec:
  clusterIP: 10.96.0.10
  ports:
  - name: http
    port: 80
    targetPort: http
`

const sliceYAML = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels:
    kubernetes.io/service-name: web
  annotations:
    endpoints.kubernetes.io/last-change-trigger-time: 2026-01-02T03:04:05Z
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
endpoints:
- addresses: [10.244.1.2]
  conditions: {ready: true, serving: null}
  nodeName: n1
  zone: a
`

// lines returns what was found, as "line kind namespace/name".
func lines(objects Objects) []string {
	var out []string
	for _, o := range objects {
		out = append(out, fmt.Sprintf("%d %s %s", o.Line, o.ID.Kind, o.ID))
	}
	return out
}

func texts(errs []*Error) []string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

// TestParse says which objects and errors a file has.
func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, in   string
		want, errs []string
	}{
		{name: "empty"},
		{name: "only a comment", in: "# nothing\n---\n---\n"},
		{name: "documents", in: "# web\n" + webYAML + "--- # and\n" + sliceYAML, want: []string{"2 Service shop/web", "15 EndpointSlice shop/web-1"}},
		{name: "list", in: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n",
			want: []string{"4 Node /n1", "5 Service default/a"}},
		{name: "JSON", in: "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"spec\": {\"clusterIPs\": [\"10.0.0.1\"]}\n}\n",
			want: []string{"1 Service default/a"}},
		{name: "other kinds", in: "apiVersion: apps/v1\nkind: Deployment\nspec: {what: ever}\n", want: []string{"1 Deployment /"}},
		{name: "anchors", in: "apiVersion: v1\nkind: Service\nmetadata: {name: &n a, labels: {app: *n}}\n", want: []string{"1 Service default/a"}},
		{name: "unknown fields, with others in force",
			in:   webYAML + "  - port: 81\n    potr: 1\n  foo: {}\n---\n" + sliceYAML,
			want: []string{"17 EndpointSlice shop/web-1"},
			errs: []string{"f:14: spec.ports[1].potr: unknown field", "f:15: spec.foo: unknown field"}},
		{name: "fields are case-sensitive", in: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nSpec: {}\n", errs: []string{"f:4: Spec: unknown field"}},
		{name: "key twice", in: "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  name: b\n", errs: []string{"f:5: metadata.name: is there twice"}},
		{name: "wrong types", in: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIP: 10\n  externalIPs: 1.2.3.4\n  ports:\n  - port: eighty\n    nodePort: 3000000000\n    targetPort: {}\n  selector: []\n  publishNotReadyAddresses: \"true\"\n",
			errs: []string{
				"f:5: spec.clusterIP: must be a string, not the number 10; put it in quotes",
				`f:6: spec.externalIPs: must be a list, not the string "1.2.3.4"`,
				`f:8: spec.ports[0].port: must be a number of type int32, not the string "eighty"`,
				"f:9: spec.ports[0].nodePort: must be a number of type int32, not the number 3000000000",
				"f:10: spec.ports[0].targetPort: json: cannot unmarshal object into Go value of type int32",
				"f:11: spec.selector: must be an object, not a list",
				`f:12: spec.publishNotReadyAddresses: must be true or false, not the string "true"`,
			}},
		{name: "bad time", in: "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  creationTimestamp: yesterday\n",
			errs: []string{`f:5: metadata.creationTimestamp: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006"`}},
		{name: "no name", in: "\napiVersion: v1\nkind: Service\nmetadata:\n  namespace: a\n", errs: []string{"f:5: metadata.name: is missing"}},
		{name: "no metadata", in: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n", errs: []string{"f:1: metadata.name: is missing"}},
		{name: "no kind", in: "apiVersion: v1\n---\nkind: Service\n---\n[]\n", errs: []string{
			"f:1: kind: is missing", "f:3: apiVersion: is missing", "f:5: is not an object"}},
		{name: "old API version", in: "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n", errs: []string{
			`f:1: apiVersion: "discovery.k8s.io/v1beta1" of EndpointSlice is not supported`}},
		{name: "syntax error hides nothing", in: "a: [\n---\n" + webYAML + "---\nb: \"\n", want: []string{"3 Service shop/web"}, errs: []string{
			"f:1: did not find expected node content", "f:16: found unexpected end of stream"}},
		{name: "bad item of a list", in: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  x: 1\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n",
			want: []string{"8 Service default/b"}, errs: []string{"f:7: items[0].x: unknown field"}},
		{name: "items that are none", in: "apiVersion: v1\nkind: ServiceList\nitems: 5\n", errs: []string{"f:3: items: is not a list"}},
		{name: "merge keys", in: "apiVersion: v1\nkind: Service\nmetadata: &m {name: a}\nspec:\n  <<: *m\n", errs: []string{"f:5: spec.<<: merge keys are not supported"}},
		{name: "alias in itself", in: "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  creationTimestamp: &a [*a]\n", errs: []string{
			"f:5: the object is too large or too deep",
			"f:5: metadata.creationTimestamp: json: cannot unmarshal array into Go value of type string"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects, errs := Parse("f", []byte(tc.in))
			if d := cmp.Diff(lines(objects), tc.want); d != "" {
				t.Errorf("objects (-got +want):\n%s", d)
			}
			if d := cmp.Diff(texts(errs), tc.errs); d != "" {
				t.Errorf("errors (-got +want):\n%s", d)
			}
		})
	}
}

func TestParseValues(t *testing.T) {
	objects, errs := Parse("f", []byte(webYAML+"---\n"+sliceYAML))
	if len(objects) != 2 || errs != nil {
		t.Fatalf("%v, errors %v; want two objects", lines(objects), errs)
	}
	svc, slice := objects[0].Value.(*corev1.Service), objects[1].Value.(*discoveryv1.EndpointSlice)
	if svc.Spec.Ports[0].TargetPort.StrVal != "http" || svc.CreationTimestamp.Year() != 2026 || svc.Spec.ClusterIP != "10.96.0.10" {
		t.Errorf("Service is %+v", svc)
	}
	s, problems := kube.Slice(slice)
	if problems != nil || len(s.Endpoints) != 1 || s.Endpoints[0].Node != "n1" || s.Ports[0].Port != 8080 || s.Triggered.Year() != 2026 {
		t.Errorf("slice is %+v, problems %v", s, problems)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("b.yaml", webYAML+"---\n"+sliceYAML)
	write("a.yml", webYAML)
	write("c.json", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}`)
	write(".hidden.yaml", "a: [")
	write("notes.txt", "a: [")
	objects, errs := Load(dir, filepath.Join(dir, "missing.yaml"))
	want := []string{"1 Service shop/web", "14 EndpointSlice shop/web-1", "1 Node /n1"}
	if d := cmp.Diff(lines(objects), want); d != "" {
		t.Errorf("objects (-got +want):\n%s", d)
	}
	if objects[0].File != filepath.Join(dir, "a.yml") {
		t.Errorf("the Service is from %s, want a.yml", objects[0].File)
	}
	got := strings.ReplaceAll(strings.Join(texts(errs), "\n"), dir, "DIR")
	if want := "DIR/missing.yaml: open: no such file or directory\n" +
		"DIR/b.yaml:1: metadata.name: Service shop/web is already in DIR/a.yml, line 1; this one is not used"; got != want {
		t.Errorf("errors:\n%s\nwant:\n%s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(webYAML + "---\n" + sliceYAML))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{kind: Service, apiVersion: v1, metadata: {name: &a x, labels: {a: *a}}}]"))
	f.Add([]byte("{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"n1\"},\"status\":{\"capacity\":{\"cpu\":2}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, errs := Parse("f", data)
		count := 1 // what YAML takes for the end of a line
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			count += strings.Count(string(data), end)
		}
		for _, e := range errs {
			if e.Line < 1 || e.Line > count+1 || e.Msg == "" {
				t.Errorf("%d lines, error %+v", count, e)
			}
		}
		for _, o := range objects {
			if o.Line < 1 || o.Line > count || o.ID.Kind == "" {
				t.Errorf("%d lines, object %+v", count, o)
			}
		}
		var c kube.Converter
		for _, o := range objects {
			c.Convert(o.Value)
		}
	})
}

// TestNotAFile requires that what is no file is reported, not waited for.
func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	_, errs := Load(dir)
	if len(errs) != 1 || errs[0].File != pipe || errs[0].Msg != "is not a regular file" {
		t.Errorf("got %v, want one error about %s", errs, pipe)
	}
}
