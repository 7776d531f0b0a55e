package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube"
)

// How long to wait for the Node object at start, as kube-proxy does.
const (
	addressWait = 30 * time.Second
	podCIDRWait = 5 * time.Minute
	nodePoll    = time.Second
)

// A nodeGetter reads one Node object.
type nodeGetter interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
}

// awaitNode reads the Node object until it says what is needed to start: an
// address, and the pod CIDRs if detect goes by them. Without an address it gives
// up after half a minute and returns what is known, for a node can be served by
// its own idea of its address; without pod CIDRs nothing can be decided, and
// after five minutes that is an error. Ctx ending is one too.
func awaitNode(ctx context.Context, nodes nodeGetter, name, detect string, log *slog.Logger) (kube.NodeInfo, error) {
	start := time.Now()
	var info kube.NodeInfo
	for warned := false; ; warned = true {
		o, err := nodes.Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			info, _ = kube.Node(o) // the Source reports its problems
		}
		missing := lacking(info, detect)
		waited := time.Since(start)
		switch {
		case ctx.Err() != nil:
			return info, ctx.Err()
		case missing == "":
			return info, nil
		case missing == lacksPodCIDRs && waited >= podCIDRWait:
			return info, errors.Join(fmt.Errorf("no pod CIDRs in Node %s for %s, and --detect-local-mode=NodeCIDR goes by them", name, podCIDRWait), err)
		case missing == lacksAddress && waited >= addressWait:
			log.Error("the address of this node is not known to the API server; going on without", "node", name, "err", err)
			return info, nil
		}
		if !warned {
			log.Info("waiting for the Node object", "node", name, "missing", missing, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(nodePoll):
		}
	}
}

// What a Node object can lack.
const (
	lacksAddress  = "address"
	lacksPodCIDRs = "pod CIDRs"
)

func lacking(info kube.NodeInfo, detect string) string {
	switch {
	case detect == detectNodeCIDR && len(info.PodCIDRs) == 0:
		return lacksPodCIDRs
	case len(info.Addrs) == 0:
		return lacksAddress
	}
	return ""
}

// errPodCIDRs ends the process, whose supervisor starts it again: the rules of
// every Service go by the pod CIDRs. kube-proxy does the same.
var errPodCIDRs = errors.New("the pod CIDRs of this node have changed")

// A tracker keeps the node of a Store up to date. Its methods may be called from
// any goroutine.
type tracker struct {
	sink   kube.Sink
	health *control.Health
	log    *slog.Logger
	stop   context.CancelCauseFunc // ends the process

	mu    sync.Mutex
	state nodeState
	known bool // state.Info is of a Node object
}

// setInfo takes note of our Node object; nil means that it does not exist. Then
// load balancers are told to look elsewhere, but what is in force stays.
func (t *tracker) setInfo(ctx context.Context, n *kube.NodeInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == nil {
		t.log.Warn("the Node object of this node does not exist", "node", t.state.Name)
		t.health.SetNodeEligible(false)
		return
	}
	t.health.SetNodeEligible(n.Eligible())
	if t.known && t.state.Config.Detect == detectNodeCIDR && !slices.Equal(n.PodCIDRs, t.state.Info.PodCIDRs) {
		t.stop(fmt.Errorf("%w from %v to %v", errPodCIDRs, t.state.Info.PodCIDRs, n.PodCIDRs))
		return
	}
	if t.known && !slices.Equal(n.Addrs, t.state.Info.Addrs) {
		t.log.Warn("the addresses of the Node object have changed", "node", t.state.Name, "from", t.state.Info.Addrs, "to", n.Addrs)
	}
	t.state.Info, t.known = *n, true
	t.pass(ctx)
}

// setFolderInfo is setInfo for a folder of manifests, which need not hold our
// Node.
func (t *tracker) setFolderInfo(ctx context.Context, n *kube.NodeInfo) {
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	if n != nil || known {
		t.setInfo(ctx, n)
	}
}

// setAddrs takes note of the addresses of this machine.
func (t *tracker) setAddrs(ctx context.Context, a localAddrs) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.Addrs = a
	t.pass(ctx)
}

// pass hands the node over. It is called with mu held, so that nodes arrive in
// the order in which they were. An error means that the loop has ended.
func (t *tracker) pass(ctx context.Context) {
	n := t.state.build()
	if err := t.sink.Update(ctx, func(st *service.Store) bool { return st.SetNode(n) }); err != nil {
		t.log.Debug("node not handed over", "err", err)
	}
}
