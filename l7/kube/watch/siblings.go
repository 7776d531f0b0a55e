package watch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/service"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// How often the nodes of the pods are read again, and how long to wait after a failure.
const (
	nodesAgain   = time.Minute
	siblingRetry = 5 * time.Second
)

// rolloutLabels tell pods of one version of a workload from those of another, which for
// us are the same.
var rolloutLabels = [...]string{"controller-revision-hash", "pod-template-generation", "pod-template-hash"}

// Siblings follows the pods that run L7 like this one: those of its namespace with its
// labels. It tells at which nodes they serve, and whether there are others. Its Lead is a task of
// a [Leadership], so that of many processes one follows.
type Siblings struct {
	Client   kubernetes.Interface // required
	Pod      service.Name         // required: of this process
	Log      *slog.Logger         // required
	Internal bool                 // the internal addresses of nodes are wanted, even if they have external ones

	// Publish, if not nil, hears the addresses of the nodes with pods that are ready and
	// stay, as soon as there are any. When the last goes nothing is said: that is what Alone is for.
	Publish func(addresses []Address)

	// Alone, if not nil, hears whether there is no other pod that stays, ready or not.
	Alone func(alone bool)

	mu   sync.Mutex
	pods map[service.Name]sibling
}

// A sibling is what there is to know of a pod.
type sibling struct {
	node  string
	ready bool
	stays bool // nobody has deleted it, and it has not come to its end
}

// Lead follows the pods until ctx is done.
func (s *Siblings) Lead(ctx context.Context) {
	self, ok := s.self(ctx)
	if !ok {
		return
	}
	s.mu.Lock()
	s.pods = nil
	s.mu.Unlock()
	poke := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.feed(self, poke).run(ctx) })
	nodes := make(map[string][]Address)
	again := time.NewTicker(nodesAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poke:
		case <-again.C:
			clear(nodes)
		}
		s.tell(ctx, nodes)
	}
}

// self returns the pod of this process, and false if ctx was done before.
func (s *Siblings) self(ctx context.Context) (*corev1.Pod, bool) {
	for said := false; ; said = true {
		tryCtx, cancel := context.WithTimeout(ctx, statusTimeout)
		pod, err := s.Client.CoreV1().Pods(s.Pod.Namespace).Get(tryCtx, s.Pod.Name, metav1.GetOptions{})
		cancel()
		if err == nil {
			return pod, true
		}
		if !said && ctx.Err() == nil {
			s.Log.Warn("cannot read the pod of this process, and so does not know its nodes and whether there are others; trying again",
				"pod", s.Pod.String(), "err", err)
		}
		if !sleep(ctx, siblingRetry) {
			return nil, false
		}
	}
}

// feed returns what follows the pods that are like self.
func (s *Siblings) feed(self *corev1.Pod, poke chan<- struct{}) *feed {
	api := s.Client.CoreV1().Pods(s.Pod.Namespace)
	f := &feed{
		client: s.Client,
		kind: &servicewatch.Kind{
			Name: "Pod", Sample: &corev1.Pod{}, Log: s.Log, Watch: api.Watch, Retry: retryKinds,
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		},
		convert: func(o metav1.Object) *converted {
			c := &converted{}
			if pod, ok := o.(*corev1.Pod); ok {
				c.pod = siblingOf(pod)
			}
			return c
		},
	}
	set := make(labels.Set)
	maps.Copy(set, self.Labels)
	for _, l := range rolloutLabels {
		delete(set, l)
	}
	if f.kind.Labels = set.String(); len(set) == 0 { // which would be every pod of the namespace
		f.kind.Fields = fields.OneTermEqualSelector(metav1.ObjectNameField, s.Pod.Name).String()
	}
	f.send = func(n news) error {
		s.heard(n)
		select {
		case poke <- struct{}{}:
		default:
		}
		return nil
	}
	return f
}

func siblingOf(pod *corev1.Pod) *sibling {
	out := &sibling{node: pod.Spec.NodeName}
	out.stays = pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.Status.Phase == corev1.PodRunning {
			out.ready = true
		}
	}
	return out
}

func (s *Siblings) heard(n news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods == nil || n.list {
		s.pods = make(map[service.Name]sibling)
	}
	for _, c := range n.set {
		if c.pod != nil {
			s.pods[service.Name{Namespace: c.Namespace, Name: c.Name}] = *c.pod
		}
	}
	for _, name := range n.gone {
		delete(s.pods, name)
	}
}

// tell says what there is to say, with the addresses of nodes that are known.
func (s *Siblings) tell(ctx context.Context, known map[string][]Address) {
	s.mu.Lock()
	alone := true
	nodes := make(map[string]bool)
	for name, p := range s.pods {
		if p.stays && name != s.Pod {
			alone = false
		}
		if p.stays && p.ready && p.node != "" {
			nodes[p.node] = true
		}
	}
	s.mu.Unlock()
	if s.Alone != nil {
		s.Alone(alone)
	}
	if s.Publish == nil {
		return
	}
	var list []Address
	for node := range nodes {
		addresses, ok := known[node]
		if !ok {
			var err error
			if addresses, err = s.node(ctx, node); err != nil {
				if ctx.Err() == nil {
					s.Log.Warn("cannot read the addresses of a node; what is in the status of Ingresses stays for now", "node", node, "err", err)
				}
				return
			}
			known[node] = addresses
		}
		list = append(list, addresses...)
	}
	if len(list) > 0 {
		s.Publish(sorted(list))
	}
}

// node returns the addresses of a node; none if it does not exist.
func (s *Siblings) node(ctx context.Context, name string) ([]Address, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	o, err := s.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Node %s: %w", name, err)
	}
	return NodeAddresses(o, s.Internal), nil
}

// NodeAddresses returns where clients reach the node o, sorted: its external addresses,
// or failing them, or if it is asked for, its internal ones.
func NodeAddresses(o *corev1.Node, internal bool) []Address {
	var inside, outside []Address
	for _, a := range o.Status.Addresses {
		at, err := ParseAddress(a.Address)
		if err != nil || !at.IP.IsValid() {
			continue
		}
		switch a.Type {
		case corev1.NodeExternalIP:
			outside = append(outside, at)
		case corev1.NodeInternalIP:
			inside = append(inside, at)
		}
	}
	if internal || len(outside) == 0 {
		return sorted(inside)
	}
	return sorted(outside)
}
