package kube

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

func TestNode(t *testing.T) {
	now := metav1.Unix(1700000000, 0)
	o := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "N1", UID: "u3", Labels: map[string]string{corev1.LabelTopologyZone: "a"}},
		Spec: corev1.NodeSpec{
			PodCIDR:  "10.244.1.0/24",
			PodCIDRs: []string{"10.244.1.0/24", "x", "fd00:10:244:1::/64", "10.244.9.0/24"},
			Taints:   []corev1.Taint{{Key: "node.kubernetes.io/not-ready"}},
		},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n1"},
			{Type: corev1.NodeExternalIP, Address: "2001:db8::11"},
			{Type: corev1.NodeInternalIP, Address: "172.18.0.11"},
			{Type: corev1.NodeInternalIP, Address: "fd00:172:18::11"},
			{Type: corev1.NodeInternalIP, Address: "nonsense"},
			{Type: corev1.NodeExternalIP, Address: "172.18.0.11"},
		}},
	}
	got, problems := Node(o)
	want := NodeInfo{
		Name: "n1", UID: "u3", Zone: "a",
		Addrs:    addrs("172.18.0.11", "fd00:172:18::11", "2001:db8::11"),
		PodCIDRs: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
	}
	if d := cmp.Diff(got, want, values); d != "" {
		t.Errorf("Node (-got +want):\n%s", d)
	}
	if d := cmp.Diff(fields(problems), []string{"status.addresses[4]", "spec.podCIDRs[1]"}); d != "" {
		t.Errorf("fields of problems (-got +want):\n%s", d)
	}
	if got, want := got.Primary(), [service.NumFamilies]netip.Addr(addrs("172.18.0.11", "fd00:172:18::11")); got != want {
		t.Errorf("Primary() = %v, want %v", got, want)
	}
	if !got.Eligible() {
		t.Error("Eligible() = false, want true")
	}
	o.Spec.Taints = append(o.Spec.Taints, corev1.Taint{Key: taintToBeDeleted})
	if tainted, _ := Node(o); tainted.Eligible() || tainted.Equal(got) {
		t.Errorf("after the autoscaler's taint: Eligible() = %v, Equal() = %v; want neither", tainted.Eligible(), tainted.Equal(got))
	}
	o.Spec.Taints, o.DeletionTimestamp = nil, &now
	if deleted, _ := Node(o); deleted.Eligible() {
		t.Error("Eligible() = true while being deleted, want false")
	}
	o.Spec.PodCIDRs = nil
	if old, _ := Node(o); !cmp.Equal(old.PodCIDRs, prefixes("10.244.1.0/24"), values) {
		t.Errorf("PodCIDRs = %v without the list, want 10.244.1.0/24", old.PodCIDRs)
	}
	if empty, problems := Node(&corev1.Node{}); !empty.Equal(NodeInfo{}) || problems != nil {
		t.Errorf("Node of nothing = %v, %v; want nothing", empty, problems)
	}
}
