//go:build linux

package world

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
)

// API is a real API server in the router of a World. It implements [Source].
type API struct {
	ControlPlane *controlplane.Cluster
	Client       kubernetes.Interface // may do anything

	kubeconfig string
	namespaces map[string]bool
	services   map[service.Name]*corev1.Service // as written
	slices     map[service.Name]*discoveryv1.EndpointSlice
	node       *corev1.Node
}

// NewAPI starts an API server that nodes of the world reach at the router's
// address, with proxies in the rights of kube-proxy.
func NewAPI(ctx context.Context, w *World, opts controlplane.Options) (*API, error) {
	opts.NetNS = w.Router.Path()
	opts.BindAddress, opts.AdvertiseAddress = netip.IPv4Unspecified(), netns.RouterAddr().V4
	cp, err := controlplane.Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	a := &API{
		ControlPlane: cp,
		namespaces:   map[string]bool{metav1.NamespaceDefault: true},
		services:     make(map[service.Name]*corev1.Service),
		slices:       make(map[service.Name]*discoveryv1.EndpointSlice),
	}
	if a.kubeconfig, err = cp.Kubeconfig("system:kube-proxy"); err == nil {
		cfg := cp.RESTConfig()
		cfg.WarningHandler = rest.NoWarnings{} // of fields that are on their way out, and in use
		a.Client, err = kubernetes.NewForConfig(cfg)
	}
	if err != nil {
		return nil, errors.Join(err, cp.Close())
	}
	return a, nil
}

// Close ends the API server.
func (a *API) Close() error {
	if err := a.ControlPlane.Close(); err != nil {
		return fmt.Errorf("close the API server: %w", err)
	}
	return nil
}

// Args implements [Source].
func (a *API) Args() []string {
	return []string{"--kubeconfig=" + a.kubeconfig, "--kube-api-qps=100", "--kube-api-burst=200"}
}

// HasNode implements [Source].
func (a *API) HasNode() bool { return true }

// Reset implements [Source]. It removes every Service, slice and Event, so that
// the next Put does not change objects into others.
func (a *API) Reset(ctx context.Context) error {
	err := a.removeOthers(ctx, State{})
	for ns := range a.namespaces {
		err = errors.Join(err, a.Client.CoreV1().Events(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	}
	if err != nil {
		return fmt.Errorf("clean the API server: %w", err)
	}
	return nil
}

// Put implements [Source]. Creations are a second apart, as far as creation times
// could matter: the corpus lists Services in order of age.
func (a *API) Put(ctx context.Context, s State) error {
	if err := a.putNode(ctx, nodeObject(s.Zone)); err != nil {
		return err
	}
	if err := a.removeOthers(ctx, s); err != nil {
		return err
	}
	services := slices.Concat(s.Services, s.Marker.Services())
	for i, o := range services {
		if i > 0 && a.services[nameOf(o)] == nil && rivals(o, services[:i]) {
			time.Sleep(1100 * time.Millisecond) // creation times are in seconds
		}
		if err := a.putService(ctx, o); err != nil {
			return fmt.Errorf("put Service %s: %w", nameOf(o), err)
		}
	}
	for _, o := range slices.Concat(s.Slices, s.Marker.Slices()) {
		if err := a.putSlice(ctx, o); err != nil {
			return fmt.Errorf("put EndpointSlice %s: %w", nameOf(o), err)
		}
	}
	return nil
}

// rivals reports whether a Service wants an external address that an older one
// has, whatever the ports.
func rivals(o *corev1.Service, older []*corev1.Service) bool {
	mine := externals(o)
	return slices.ContainsFunc(older, func(other *corev1.Service) bool {
		return slices.ContainsFunc(externals(other), func(a string) bool { return slices.Contains(mine, a) })
	})
}

func externals(o *corev1.Service) []string {
	out := slices.Concat(o.Spec.ExternalIPs, o.Spec.ClusterIPs)
	for _, in := range o.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return slices.DeleteFunc(out, func(a string) bool { return a == "" || a == corev1.ClusterIPNone })
}

func nameOf(o metav1.Object) service.Name {
	return service.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// removeOthers deletes what s does not hold. The marker stays.
func (a *API) removeOthers(ctx context.Context, s State) error {
	keep := map[string]map[service.Name]bool{"services": {}, "slices": {}}
	for _, o := range s.Services {
		keep["services"][nameOf(o)] = true
	}
	for _, o := range s.Slices {
		keep["slices"][nameOf(o)] = true
	}
	for _, n := range slices.SortedFunc(maps.Keys(a.slices), service.Name.Compare) {
		owner := a.slices[n].Labels[discoveryv1.LabelServiceName]
		if keep["slices"][n] || owner == markerName || owner == nothingName {
			continue
		}
		if err := a.Client.DiscoveryV1().EndpointSlices(n.Namespace).Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete EndpointSlice %s: %w", n, err)
		}
		delete(a.slices, n)
	}
	for _, n := range slices.SortedFunc(maps.Keys(a.services), service.Name.Compare) {
		if keep["services"][n] || n.Name == markerName || n.Name == nothingName {
			continue
		}
		if err := a.deleteService(ctx, n); err != nil {
			return fmt.Errorf("delete Service %s: %w", n, err)
		}
	}
	return nil
}

func (a *API) deleteService(ctx context.Context, n service.Name) error {
	err := a.Client.CoreV1().Services(n.Namespace).Delete(ctx, n.Name, metav1.DeleteOptions{})
	if err == nil {
		delete(a.services, n)
	}
	return err
}

func (a *API) ensureNamespace(ctx context.Context, name string) error {
	if a.namespaces[name] {
		return nil
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := a.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	a.namespaces[name] = true
	return nil
}

// putService creates or updates a Service. What may not be updated is made anew.
func (a *API) putService(ctx context.Context, o *corev1.Service) error {
	n := nameOf(o)
	if err := a.ensureNamespace(ctx, n.Namespace); err != nil {
		return err
	}
	old := a.services[n]
	if old != nil && same(old, o) {
		return nil
	}
	client := a.Client.CoreV1().Services(n.Namespace)
	if old != nil {
		done, err := a.updateService(ctx, o)
		if done || err != nil {
			return err
		}
		if err := a.deleteService(ctx, n); err != nil {
			return err
		}
	}
	made, err := client.Create(ctx, o.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	a.services[n] = o
	return a.putStatus(ctx, made, o)
}

// updateService reports false if the API server does not allow the change.
func (a *API) updateService(ctx context.Context, o *corev1.Service) (bool, error) {
	client := a.Client.CoreV1().Services(o.Namespace)
	now, err := client.Get(ctx, o.Name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	next := o.DeepCopy()
	next.ResourceVersion = now.ResourceVersion
	made, err := client.Update(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a.services[nameOf(o)] = o
	return true, a.putStatus(ctx, made, o)
}

// putStatus writes the status, which the API server ignores in the object. A
// Service that is no load balancer any more has lost its own already.
func (a *API) putStatus(ctx context.Context, made, o *corev1.Service) error {
	if len(o.Status.LoadBalancer.Ingress) == 0 && len(made.Status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	made.Status.LoadBalancer = *o.Status.LoadBalancer.DeepCopy()
	_, err := a.Client.CoreV1().Services(o.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

func (a *API) putSlice(ctx context.Context, o *discoveryv1.EndpointSlice) error {
	n := nameOf(o)
	if err := a.ensureNamespace(ctx, n.Namespace); err != nil {
		return err
	}
	client := a.Client.DiscoveryV1().EndpointSlices(n.Namespace)
	old := a.slices[n]
	if old != nil && same(old, o) {
		return nil
	}
	if old != nil && old.AddressType != o.AddressType {
		if err := client.Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		old = nil
	}
	var err error
	if old == nil {
		_, err = client.Create(ctx, o.DeepCopy(), metav1.CreateOptions{})
	} else {
		_, err = client.Update(ctx, o.DeepCopy(), metav1.UpdateOptions{})
	}
	if err == nil {
		a.slices[n] = o
	}
	return err
}

func (a *API) putNode(ctx context.Context, n *corev1.Node) error {
	if a.node != nil && same(a.node, n) {
		return nil
	}
	nodes := a.Client.CoreV1().Nodes()
	var made *corev1.Node
	var err error
	if a.node == nil {
		made, err = nodes.Create(ctx, n.DeepCopy(), metav1.CreateOptions{})
	} else {
		made, err = nodes.Get(ctx, n.Name, metav1.GetOptions{})
		if err == nil {
			made.Labels = maps.Clone(n.Labels)
			made, err = nodes.Update(ctx, made, metav1.UpdateOptions{})
		}
	}
	if err == nil {
		made.Status.Addresses = n.Status.Addresses
		_, err = nodes.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("put Node %s: %w", n.Name, err)
	}
	a.node = n
	return nil
}

// same reports whether two objects are written alike.
func same(a, b any) bool { return reflect.DeepEqual(a, b) }

// Problems implements [Source], from the Events about Services and slices.
func (a *API) Problems(ctx context.Context, _ *Proxy) ([]Problem, error) {
	var out []Problem
	for ns := range a.namespaces {
		list, err := a.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list Events: %w", err)
		}
		for _, e := range list.Items {
			o := e.InvolvedObject
			if e.ReportingInstance != nodeObject("").Name || o.Kind == "Node" {
				continue // of the API server's own controllers, or about the proxy
			}
			out = append(out, Problem{Kind: o.Kind, Object: service.Name{Namespace: o.Namespace, Name: o.Name}, Reason: e.Reason})
		}
	}
	return out, nil
}
