//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// realAPI is a real API server in the router of a network, in place of the replay.
type realAPI struct {
	plane  *controlplane.Cluster
	client kubernetes.Interface

	mu     sync.Mutex
	slices map[string]*discoveryv1.EndpointSlice // as the API server has them
	took   []float64                             // milliseconds of each write
}

// withAPI starts etcd and kube-apiserver, writes the objects of a spec to them, and
// leads proxies there.
func (n *network) withAPI(ctx context.Context, s spec) error {
	plane, err := controlplane.Start(ctx, controlplane.Options{
		NetNS: n.cluster.Router.Path(), BindAddress: netip.IPv4Unspecified(), AdvertiseAddress: netns.RouterAddr().V4,
	})
	if err != nil {
		return err
	}
	a := &realAPI{plane: plane, slices: map[string]*discoveryv1.EndpointSlice{}}
	n.real = a
	config := plane.RESTConfig()
	config.QPS, config.Burst = 2000, 2000
	if a.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if err := a.fill(ctx, s.objects()); err != nil {
		return fmt.Errorf("write objects to the API server: %w", err)
	}
	path, err := plane.Kubeconfig("system:kube-proxy")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(n.kubeconfig(), text, 0o600)
}

// fill writes objects, some at a time, their namespaces first.
func (a *realAPI) fill(ctx context.Context, list []object) error {
	const writers = 8
	namespaces := map[string]bool{"": true}
	for _, o := range list {
		if ns := o.GetNamespace(); !namespaces[ns] {
			namespaces[ns] = true
			made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
			if _, err := a.client.CoreV1().Namespaces().Create(ctx, made, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
	}
	work, errs := make(chan object), make([]error, writers)
	var all sync.WaitGroup
	for k := range writers {
		all.Go(func() {
			for o := range work {
				if errs[k] == nil {
					errs[k] = a.create(ctx, o)
				}
			}
		})
	}
	for _, o := range list {
		work <- o
	}
	close(work)
	all.Wait()
	return errors.Join(errs...)
}

// create writes one object. A ServiceCIDR is the API server's own affair.
func (a *realAPI) create(ctx context.Context, o object) error {
	o.SetResourceVersion("")
	o.SetUID("")
	o.SetCreationTimestamp(metav1.Time{})
	o.SetGeneration(0)
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *corev1.Node:
		made, err := a.client.CoreV1().Nodes().Create(ctx, o, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		made.Status = o.Status
		_, err = a.client.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	case *corev1.Service:
		_, err := a.client.CoreV1().Services(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
		return err
	case *discoveryv1.EndpointSlice:
		o.GenerateName = ""
		made, err := a.client.DiscoveryV1().EndpointSlices(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
		a.mu.Lock()
		defer a.mu.Unlock()
		a.slices[o.Name] = made
		return err
	}
	return nil
}

// move gives one endpoint of Service i another address. The change counts as sent
// when the request to write it was about to be.
func (a *realAPI) move(ctx context.Context, i, index int, to netip.Addr) (*revision, error) {
	name := nameOf(i) + "-x7k2p"
	a.mu.Lock()
	was := a.slices[name]
	a.mu.Unlock()
	if was == nil || index >= len(was.Endpoints) {
		return nil, fmt.Errorf("move endpoint: Service %d has none numbered %d", i, index)
	}
	next := was.DeepCopy()
	next.Endpoints[index] = endpoint(i, to)
	begun := time.Now()
	made, err := a.client.DiscoveryV1().EndpointSlices(next.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil, fmt.Errorf("move endpoint: somebody else writes: %w", err)
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slices[name] = made
	a.took = append(a.took, milliseconds(time.Since(begun)))
	r := &revision{sent: make(chan struct{})}
	r.markSent(begun)
	return r, nil
}

func (a *realAPI) close() error { return a.plane.Close() }

// writeTook is how long it took to write a change to the real API server.
const writeTook metric = "real_write_ms"

// validation has those that use iptables live through a world with a real API server.
func (b *bench) validation(ctx context.Context, w world, round int) error {
	for _, e := range b.entrants() {
		if !e.variant.usesIptables() {
			continue
		}
		f, err := b.enter(ctx, w, e, round)
		if err != nil {
			return err
		}
		a := f.network.real
		a.mu.Lock()
		f.out.add(writeTook, a.took...)
		a.mu.Unlock()
		if err := errors.Join(f.close(), b.report()); err != nil {
			return err
		}
	}
	return nil
}

// realChapters are the tables of the validation: with the real API server, and with
// the replay.
func (f figures) realChapters() []chapter {
	rows := []row{
		one("cold start to all Services, s", coldAll), one("cold start: CPU, s", coldCPU),
		one("one change: request to write it to first packet, p50, ms", flipLatency), one("… of which the request itself, p50, ms", writeTook),
		one("one change: CPU, ms", flipCPU),
		one("20/s: CPU per 1000 changes, s", churnMetric(20, "cpu_seconds_per_1000")),
		one("20/s: request to write it to first packet, p50, ms", churnMetric(20, "latency_ms")),
		inMega("RSS after churn, MB", churnRSS),
	}
	return []chapter{{sceneValidate, "with etcd and kube-apiserver", worldReal, rows}}
}
