package watch

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fairlead-project/fairlead/service"
)

// l7Pod is a pod of L7 on a node; its revision is of no importance.
func l7Pod(name, node, revision string, phase corev1.PodPhase, ready corev1.ConditionStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "l7", Name: name, Labels: map[string]string{"app": "l7", "controller-revision-hash": revision}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: phase, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
	}
}

func l7Node(name string, addresses ...corev1.NodeAddress) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: addresses}}
}

func TestNodeAddresses(t *testing.T) {
	in := func(a string) corev1.NodeAddress { return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a} }
	out := func(a string) corev1.NodeAddress { return corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: a} }
	host := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "192.0.2.7"}
	for _, tc := range []struct {
		name     string
		has      []corev1.NodeAddress
		internal bool
		want     string
	}{
		{"none", nil, false, ""},
		{"a name is none", []corev1.NodeAddress{host}, false, ""},
		{"internal", []corev1.NodeAddress{host, in("172.18.0.11"), in("fd00:172:18::11")}, false, "172.18.0.11,fd00:172:18::11"},
		{"external", []corev1.NodeAddress{in("172.18.0.11"), out("203.0.113.11")}, false, "203.0.113.11"},
		{"external, but the other is asked for", []corev1.NodeAddress{in("172.18.0.11"), out("203.0.113.11")}, true, "172.18.0.11"},
		{"the other is asked for, but there is none", []corev1.NodeAddress{out("203.0.113.11")}, true, ""},
		{"no address", []corev1.NodeAddress{in("node-1"), in("172.18.0.11")}, false, "172.18.0.11"},
	} {
		if got := describe(loadBalancer(NodeAddresses(l7Node("n", tc.has...), tc.internal))); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestSiblings lets pods of L7 come and go, beside others.
func TestSiblings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(a string) corev1.NodeAddress { return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a} }
		other := l7Pod("other", "n3", "1", corev1.PodRunning, corev1.ConditionTrue)
		other.Labels = map[string]string{"app": "web"}
		self := l7Pod("self", "n1", "1", corev1.PodRunning, corev1.ConditionFalse)
		client := fake.NewClientset(other, l7Node("n1", at("172.18.0.11")), l7Node("n2", at("172.18.0.12")), l7Node("n3", at("172.18.0.13")))
		var mu sync.Mutex
		var got []string
		said := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			if len(got) == 0 || got[len(got)-1] != s {
				got = append(got, s)
			}
		}
		alone := map[bool]string{true: "alone", false: "not alone"}
		s := &Siblings{
			Client: client, Pod: service.Name{Namespace: "l7", Name: "self"}, Log: slog.New(slog.DiscardHandler),
			Publish: func(list []Address) { said(describe(loadBalancer(list))) }, Alone: func(a bool) { said(alone[a]) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Lead(ctx); close(done) }()
		want := func(what string, want ...string) {
			t.Helper()
			settle()
			mu.Lock()
			defer mu.Unlock()
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("%s (-got +want):\n%s", what, d)
			}
			got = nil
		}
		pods := client.CoreV1().Pods("l7")
		create := func(p *corev1.Pod) {
			if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		update := func(p *corev1.Pod) {
			if _, err := pods.Update(ctx, p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		want("its own pod is not there yet")
		create(self)
		for range 10 { // it asks again after a while
			settle()
		}
		want("it is not ready", "alone")
		update(l7Pod("self", "n1", "1", corev1.PodRunning, corev1.ConditionTrue))
		want("it is ready", "alone", "172.18.0.11")
		create(l7Pod("new", "n2", "2", corev1.PodPending, corev1.ConditionFalse))
		want("another is to come", "not alone", "172.18.0.11")
		update(l7Pod("new", "n2", "2", corev1.PodRunning, corev1.ConditionTrue))
		want("another is ready", "not alone", "172.18.0.11,172.18.0.12")
		going := l7Pod("self", "n1", "1", corev1.PodRunning, corev1.ConditionTrue)
		going.DeletionTimestamp, going.Finalizers = &metav1.Time{Time: metav1.Now().Time}, []string{"x"}
		update(going)
		want("this one is deleted", "not alone", "172.18.0.12")
		update(l7Pod("new", "n2", "2", corev1.PodFailed, corev1.ConditionFalse))
		want("the other has failed", "alone")
		cancel()
		<-done
	})
}

// TestSiblingsAreNotEverybody: a pod without labels has none.
func TestSiblingsAreNotEverybody(t *testing.T) {
	s := &Siblings{Client: fake.NewClientset(), Pod: service.Name{Namespace: "l7", Name: "self"}}
	f := s.feed(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"pod-template-hash": "1"}}}, nil)
	if got, want := f.kind.Labels+" "+f.kind.Fields, " metadata.name=self"; got != want {
		t.Errorf("selects by %q, want %q", got, want)
	}
	f = s.feed(l7Pod("self", "n1", "1", corev1.PodRunning, corev1.ConditionTrue), nil)
	if got, want := f.kind.Labels+" "+f.kind.Fields, "app=l7 "; got != want {
		t.Errorf("selects by %q, want %q", got, want)
	}
}
