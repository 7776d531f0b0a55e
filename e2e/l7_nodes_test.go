//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// testNodes runs fairlead l7 as a pod of deploy/l7/edge, which says nothing about addresses: the status of Ingresses has
// those of the nodes whose pods are ready, and is cleared when the last pod is told to stop. What is in force is said in Events, each
// version once.
func (a *l7API) testNodes(t *testing.T) {
	ns := a.namespace(t, "nodes")
	one, two := netns.NodeAddr(1).V4.String(), netns.NodeAddr(2).V4.String()
	a.putNode(t, "n1", one)
	a.putNode(t, "n2", two)
	a.putPod(t, "edge-1", "n1", true)
	a.putPod(t, "edge-2", "n2", true)
	a.create(t, route(ns, "web", "fairlead", "nodes.example.com"))
	a.create(t, route(ns, "theirs", "nginx", "theirs.example.com"))

	p := a.startEdgePod(t, "edge-1")
	a.hasStatus(t, ns, "web", one+","+two)
	a.hasEvents(t, ns, "Normal web Synced: In force as of generation 1: 1 rules with 1 paths")
	a.change(t, ns, "web", func(o *networkingv1.Ingress) { o.Spec.Rules[0].Host = "other.example.com" })
	a.hasEvents(t, ns, "Normal web Synced: In force as of generation 1: 1 rules with 1 paths",
		"Normal web Synced: In force as of generation 2: 1 rules with 1 paths")
	a.putPod(t, "edge-2", "n2", false)
	a.hasStatus(t, ns, "web", one)
	a.putPod(t, "edge-2", "n2", true)
	a.hasStatus(t, ns, "web", one+","+two)
	p.stop(t)
	if got := a.status(t, ns, "web"); got != one+","+two {
		t.Errorf("status after the end of one of two pods: %q, want it to stay", got)
	}

	p = a.startEdgePod(t, "edge-1")
	err := a.admin.CoreV1().Pods(l7Namespace).Delete(t.Context(), "edge-2", metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	if err != nil {
		t.Fatal(err)
	}
	a.hasStatus(t, ns, "web", one)
	p.stop(t)
	if got := a.status(t, ns, "web"); got != "" {
		t.Errorf("status after the end of the last pod: %q, want none", got)
	}
	a.hasEvents(t, ns, "Normal web Synced: In force as of generation 1: 1 rules with 1 paths",
		"Normal web Synced: In force as of generation 2: 1 rules with 1 paths")
	if out := p.log.String(); strings.Contains(out, "orbidden") {
		t.Errorf("the rights of deploy/l7 are not enough:\n%s", out)
	}
}

// startEdgePod runs fairlead l7 with the arguments of deploy/l7/edge, and waits until it is ready.
func (a *l7API) startEdgePod(t *testing.T, name string) *l7Program {
	t.Helper()
	p := a.startL7As(t, name, l7Args(t, "edge"))
	within(t, 30*time.Second, func() error { return p.answers("healthz", "/readyz", "", http.StatusOK) })
	return p
}

// hasEvents waits until these are all Events of a namespace, and looks again a little later.
func (a *l7API) hasEvents(t *testing.T, namespace string, want ...string) {
	t.Helper()
	for _, again := range []bool{false, true} {
		within(t, 30*time.Second, func() error {
			list, err := a.admin.EventsV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range list.Items {
				if e.Reason == "Synced" { // the others are about the backend, which does not exist
					got = append(got, fmt.Sprintf("%s %s %s: %s", e.Type, e.Regarding.Name, e.Reason, e.Note))
				}
			}
			slices.Sort(got)
			if d := cmp.Diff(got, want); d != "" {
				return fmt.Errorf("Events (-got +want), again %v:\n%s", again, d)
			}
			return nil
		})
		if !again {
			time.Sleep(time.Second)
		}
	}
}

func (a *l7API) putNode(t *testing.T, name, address string) {
	t.Helper()
	nodes := a.admin.CoreV1().Nodes()
	o, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	if _, err := nodes.UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// putPod makes a pod of L7, as scheduler and kubelet would have it.
func (a *l7API) putPod(t *testing.T, name, node string, ready bool) {
	t.Helper()
	pods := a.admin.CoreV1().Pods(l7Namespace)
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: l7Namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/name": "fairlead-l7"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "l7", Image: "fairlead"}}},
	}
	o.Spec.AutomountServiceAccountToken = new(bool)
	_, err := pods.Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if o, err = pods.Get(t.Context(), name, metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	o.Status.Phase = corev1.PodRunning
	state := corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: state}}
	if _, err := pods.UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}
