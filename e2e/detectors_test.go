//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// What a Node object says of a node, and when it says so. How pods are told by
// bridge, interface and CIDR is in the corpus.

// TestNodeCIDR starts fairlead before there is a Node, lets the Node appear bit by
// bit, and gives it other pod CIDRs later.
func TestNodeCIDR(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft", "--detect-local-mode=NodeCIDR", "--cluster-cidr=")
	b.serve(t, netns.TCP, 8080, pod(2))
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.put(t, web(1, 2))
	n := nodeOf(t, api)
	n.remove(t)
	b.startWith(t, api.Args()...)
	b.says(t, "waiting for the Node object")
	n.create(t) // with addresses only
	n.patch(t, `{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24","fd00:10:244:1::/64"]}}`)
	b.await(t)
	b.seen(t, "with the pod CIDRs of the node", true)

	before := b.save(t)
	n.remove(t) // they cannot be changed any other way
	n.object.Spec.PodCIDR, n.object.Spec.PodCIDRs = "10.244.7.0/24", []string{"10.244.7.0/24", "fd00:10:244:7::/64"}
	n.create(t)
	b.ends(t, "pod CIDRs of this node have changed")
	b.unchanged(t, "when fairlead ends for its pod CIDRs", before)
	b.startWith(t, api.Args()...)
	b.says(t, "first sync done")
	b.seen(t, "with other pod CIDRs", false)
}

// TestNodeAddress gives a node another address: node ports at the primary address
// move there.
func TestNodeAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft", "--nodeport-addresses=primary")
	b.serve(t, netns.TCP, 8080, pod(2))
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.begin(t, web(1, 2))
	n := nodeOf(t, api)
	old, moved := netns.NodeAddr(1), netns.NodeAddr(91)
	if err := b.Localize(moved.Slice()); err != nil {
		t.Fatal(err)
	}
	b.nodePort(t, "at first", old, moved)
	n.object.Status.Addresses = nil
	for _, a := range moved.Slice() {
		n.object.Status.Addresses = append(n.object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	n.status(t)
	b.says(t, "the addresses of the Node object have changed")
	b.nodePort(t, "when the Node has moved", moved, old)
}

// nodePort wants the node port of web(1) to be served at one address and not at
// another.
func (b *bed) nodePort(t *testing.T, when string, here, notThere netns.Dual) {
	t.Helper()
	for i, a := range here.Slice() {
		within(t, time.Minute, func() error {
			if r := probe(t, b.Client, at(here, 30001)[i]); r.Class != netns.Reply {
				return fmt.Errorf("%s: the node port at %v: %v", when, a, r)
			}
			if r := probe(t, b.Client, at(notThere, 30001)[i]); r.Class == netns.Reply {
				return fmt.Errorf("%s: the node port is served at %v too", when, notThere.Slice()[i])
			}
			return nil
		})
	}
}

// seen wants an endpoint to see a pod of n1 as itself, if it counts as a pod of this
// node, and else as n1.
func (b *bed) seen(t *testing.T, when string, itself bool) {
	t.Helper()
	from := b.place(t, pod(9))
	for _, x := range at(clusterIP(1), 80) {
		within(t, time.Minute, func() error {
			r := probe(t, from, x)
			if r.Class != netns.Reply || (r.SeenSource == r.Local) != itself {
				return fmt.Errorf("%s: %v at %v, want it seen as itself: %v", when, r, x, itself)
			}
			return nil
		})
	}
}

// ends waits for fairlead to end, as one that wants to be started again, for a
// reason.
func (b *bed) ends(t *testing.T, why string) {
	t.Helper()
	select {
	case <-b.proxy.Done():
	case <-time.After(time.Minute):
		t.Fatalf("fairlead goes on; want it to end because %s", why)
	}
	var exit *exec.ExitError
	if err := b.proxy.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(b.proxy.Output(), why) {
		t.Errorf("fairlead ended with %v, want 1 and %q", err, why)
	}
}

// A nodeObject is the Node object of n1.
type nodeObject struct {
	api    *world.API
	object *corev1.Node
}

func nodeOf(t *testing.T, api *world.API) *nodeObject {
	t.Helper()
	o, err := api.Client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &nodeObject{api, o}
}

func (n *nodeObject) remove(t *testing.T) {
	t.Helper()
	if err := n.api.Client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.object = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: n.object.Labels}, Status: n.object.Status}
}

func (n *nodeObject) create(t *testing.T) {
	t.Helper()
	if _, err := n.api.Client.CoreV1().Nodes().Create(t.Context(), n.object.DeepCopy(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.status(t)
}

// status writes what the API server leaves out of a Node that is created.
func (n *nodeObject) status(t *testing.T) {
	t.Helper()
	o, err := n.api.Client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err == nil {
		o.Status = n.object.Status
		_, err = n.api.Client.CoreV1().Nodes().UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (n *nodeObject) patch(t *testing.T, text string) {
	t.Helper()
	_, err := n.api.Client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), "n1", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
