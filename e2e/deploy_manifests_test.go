//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestDeploy holds that deploy is right, as far as an API server can tell.
func TestDeploy(t *testing.T) {
	t.Parallel()
	b := newDeployBed(t)
	t.Run("manifests", b.manifests)
	t.Run("chart", b.charts)
	t.Run("same", b.same)
	t.Run("security", b.security)
	t.Run("rights", b.rights)
	t.Run("swap", b.swap)
}

// manifests asks the API server whether it would take everything that can be applied
// with kubectl apply -k.
func (b *deployBed) manifests(t *testing.T) {
	for _, folder := range []string{
		"kustomize/iptables", "kustomize/ipvs", "kustomize/userspace", "kustomize/with-l7", "l7/edge", "l7/service",
	} {
		objects := b.kustomize(t, folder)
		if len(objects) < 4 {
			t.Errorf("%s: %d objects", folder, len(objects))
		}
		b.submit(t, folder, objects, true)
	}
}

// chartValues are the ways to use the chart that are tried.
func chartValues() map[string]string {
	return map[string]string{
		"defaults": "",
		"ipvs":     "{l4: {modes: [ipvs, iptables], clusterCIDR: '10.244.0.0/16,fd00:10:244::/48', config: {ipvs: {scheduler: wlc}}}}",
		"userspace, all of it": `
image: {repository: registry.example.com:5000/f, tag: 'sha256:` + strings.Repeat("0123abcd", 8) + `', pullPolicy: Always}
imagePullSecrets: [{name: pull}]
apiServer: {host: 192.0.2.1, port: 6443}
l4:
  modes: [userspace]
  fairleadConfig: {userspace: {scheduler: lc}}
  extraArgs: [--v=4]
  privileged: true
  updateStrategy: {type: OnDelete}
  priorityClassName: ""
  nodeSelector: {a: b}
  tolerations: []
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: x, operator: Exists}]}]}}}
  podAnnotations: {a: b}
  podLabels: {c: d}
  resources: {limits: {memory: 1Gi}}
`,
		"edge":       "{l7: {enabled: true, publishStatusAddress: 203.0.113.10, annotations: {proxy-body-size: 8m}}}",
		"service":    "{l4: {enabled: false}, l7: {enabled: true, kind: service, readAllNamespaces: false, service: {annotations: {a: b}, loadBalancerClass: example.com/x}}}",
		"everything": "{l7: {enabled: true, kind: edge, ingressClass: {name: web, default: true}, defaultCertificate: '', extraArgs: [--v=2], podLabels: {a: b}, podAnnotations: {c: d}, tolerations: [{operator: Exists}], nodeSelector: {a: b}, affinity: {}}}",
	}
}

// charts lints the chart, and asks the API server about what it renders to.
func (b *deployBed) charts(t *testing.T) {
	if out, err := b.output(t.Context(), "chart", "lint", chart); err != nil {
		t.Error(err)
	} else if strings.Contains(out, "[ERROR]") || strings.Contains(out, "[WARNING]") {
		t.Errorf("lint says:\n%s", out)
	}
	for name, values := range chartValues() {
		objects, err := b.template(t, "kube-system", values)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(objects) < 4 {
			t.Errorf("%s: %d objects", name, len(objects))
		}
		b.submit(t, "chart, "+name, objects, true)
	}
	for values, want := range map[string]string{
		"{l4: {mode: ipvs}}":                           "mode",
		"{l4: {modes: [nftables]}}":                    "modes",
		"{l4: {modes: []}}":                            "modes",
		"{l4: {config: {kind: x}}}":                    "config",
		"{l4: {clusterCIDR: 10.0.0.0}}":                "clusterCIDR",
		"{l7: {kind: deployment}}":                     "kind",
		"{apiServer: {host: 'https://api'}}":           "host",
		"{apiServer: {port: 0}}":                       "port",
		"{l4: {extraArgs: [v]}}":                       "extraArgs",
		"{l7: {service: {externalTrafficPolicy: no}}}": "externalTrafficPolicy",
	} {
		if _, err := b.template(t, "kube-system", values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("values %s: got %v, want a complaint about %s", values, err, want)
		}
	}
	notes, err := b.output(t.Context(), "chart", "template", "-notes", chart)
	if err != nil || !strings.Contains(notes, "apiServer.host is empty") {
		t.Errorf("notes: %v, want a warning about the way to the API server in\n%s", err, notes)
	}
}

// same holds that the chart and the manifests are about the same pods and rights.
func (b *deployBed) same(t *testing.T) {
	l4 := b.kustomize(t, "kustomize/iptables")
	chartL4, err := b.template(t, "kube-system", "")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "L4", find(t, l4, "DaemonSet", "fairlead"), find(t, chartL4, "DaemonSet", "fairlead"))
	compare(t, "L4", find(t, l4, "ClusterRole", "fairlead"), find(t, chartL4, "ClusterRole", "fairlead"))
	for _, kind := range []string{"edge", "service"} {
		manifests := b.kustomize(t, "l7/"+kind)
		chart, err := b.template(t, "fairlead-l7", "{l7: {enabled: true, kind: "+kind+"}}")
		if err != nil {
			t.Fatal(err)
		}
		compare(t, kind, find(t, manifests, "DaemonSet", "fairlead-l7"), find(t, chart, "DaemonSet", "fairlead-l7"))
		for _, o := range manifests {
			switch o.GetKind() {
			case "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "IngressClass", "Service":
				compare(t, kind, o, find(t, chart, o.GetKind(), o.GetName()))
			}
		}
	}
}

// compare compares the parts of objects that have to be the same wherever they come
// from.
func compare(t *testing.T, what string, manifest, chart *unstructured.Unstructured) {
	t.Helper()
	if d := cmp.Diff(essence(t, manifest), essence(t, chart)); d != "" {
		t.Errorf("%s, %s %s (-manifest +chart):\n%s", what, manifest.GetKind(), manifest.GetName(), d)
	}
}

// essence is an object without what tells releases and installations apart.
func essence(t *testing.T, o *unstructured.Unstructured) map[string]any {
	t.Helper()
	out := o.DeepCopy().Object
	delete(out, "metadata")
	if o.GetKind() == "Service" {
		unstructured.RemoveNestedField(out, "spec", "selector")
	}
	if o.GetKind() != "DaemonSet" {
		return out
	}
	ds := daemonSet(t, o)
	pod := &ds.Spec.Template
	pod.ObjectMeta = metav1.ObjectMeta{}
	ds.Spec.Selector = nil
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].ImagePullPolicy = ""
			list[i].EnvFrom = nil // where the API server is, which the chart has values for
			var args []string
			for _, a := range list[i].Args {
				if !strings.HasPrefix(a, "--election-id=") { // what it is by default, but for the name of the release
					args = append(args, a)
				}
			}
			list[i].Args = args
		}
	}
	for i := range pod.Spec.Volumes {
		if c := pod.Spec.Volumes[i].ConfigMap; c != nil {
			c.Name = "" // has a hash in the manifests
		}
	}
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&ds.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func daemonSet(t *testing.T, o *unstructured.Unstructured) *appsv1.DaemonSet {
	t.Helper()
	ds := &appsv1.DaemonSet{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, ds); err != nil {
		t.Fatal(err)
	}
	return ds
}

// security holds that pods keep to the Pod Security Standard that is said of them.
func (b *deployBed) security(t *testing.T) {
	for _, c := range []struct {
		folder, level string
		want          string // of the complaint; none if empty
	}{
		{"l7/service", "restricted", ""},
		{"l7/edge", "restricted", "host namespaces (hostNetwork=true)"}, // and nothing else
		{"kustomize/iptables", "privileged", ""},
		{"kustomize/iptables", "baseline", "host namespaces (hostNetwork=true), hostPath volumes"},
	} {
		namespace := "pods-" + c.level
		_, err := b.api.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": c.level},
		}}, metav1.CreateOptions{DryRun: nil})
		if err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Fatal(err)
		}
		for _, o := range b.kustomize(t, c.folder) {
			if o.GetKind() != "DaemonSet" {
				continue
			}
			ds := daemonSet(t, o)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"}, Spec: ds.Spec.Template.Spec}
			pod.Spec.PriorityClassName = ""
			_, err := b.api.Client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if got := fmt.Sprint(err); (c.want == "") != (err == nil) || !strings.Contains(got, c.want) {
				t.Errorf("%s at level %s: got %v, want %q", c.folder, c.level, got, c.want)
			}
		}
	}
}
