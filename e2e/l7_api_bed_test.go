//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/l7/kube/watch"
	"github.com/fairlead-project/fairlead/service"
)

// l7Namespace is where the manifests of deploy/l7 put L7.
const l7Namespace = "fairlead-l7"

// An l7API is a real API server, and the rights that deploy/l7 gives.
type l7API struct {
	cluster *controlplane.Cluster
	admin   kubernetes.Interface
	objects dynamic.Interface
	mapper  meta.RESTMapper
	config  string // kubeconfig of the ServiceAccount
}

func newL7API(t *testing.T) *l7API {
	t.Helper()
	if testing.Short() {
		t.Skip("runs etcd and kube-apiserver, and builds them the first time")
	}
	if err, must := world.Usable(); err != nil && must {
		t.Fatalf("%s is set: %v", world.Require, err)
	} else if err != nil {
		t.Skip(err)
	}
	apiStart.Lock()
	defer apiStart.Unlock()
	cluster, err := controlplane.Start(t.Context(), controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	a := &l7API{cluster: cluster}
	rc := cluster.RESTConfig()
	admin, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	a.admin = admin
	if a.objects, err = dynamic.NewForConfig(rc); err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(admin.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	a.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	const user = "system:serviceaccount:" + l7Namespace + ":fairlead-l7"
	if a.config, err = cluster.Kubeconfig(user, "system:serviceaccounts", "system:serviceaccounts:"+l7Namespace); err != nil {
		t.Fatal(err)
	}
	return a
}

// deploy applies the files of a folder under deploy/l7, in order of their kinds, and
// returns how many objects there were. With dry the API server only says whether it would.
func (a *l7API) deploy(t *testing.T, folder string, dry bool) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "deploy", "l7", folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, first := range []bool{true, false} { // a namespace before what is in it
		for _, file := range files {
			if filepath.Base(file) == "kustomization.yaml" {
				continue
			}
			for _, o := range readObjects(t, file) {
				if (o.GetKind() == "Namespace") == first {
					n++
					a.apply(t, file, o, dry)
				}
			}
		}
	}
	return n
}

func readObjects(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(o); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

func (a *l7API) apply(t *testing.T, file string, o *unstructured.Unstructured, dry bool) {
	t.Helper()
	gvk := o.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	opts := metav1.PatchOptions{FieldManager: "e2e", FieldValidation: metav1.FieldValidationStrict}
	if dry {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	data, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var client dynamic.ResourceInterface = a.objects.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		if o.GetNamespace() == "" {
			t.Errorf("%s: %s %s names no namespace", file, o.GetKind(), o.GetName())
		}
		client = a.objects.Resource(mapping.Resource).Namespace(o.GetNamespace())
	}
	if _, err := client.Patch(t.Context(), o.GetName(), types.ApplyPatchType, data, opts); err != nil {
		t.Errorf("%s: %s %s: %v", file, o.GetKind(), o.GetName(), err)
	}
}

// client returns a client with the rights of the ServiceAccount.
func (a *l7API) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	rc, err := clientcmd.BuildConfigFromFlags("", a.config)
	if err != nil {
		t.Fatal(err)
	}
	rc.QPS = -1
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// A candidate is everything of an L7 process that talks to the API server.
type candidate struct {
	name     string
	statuses *watch.Statuses
	problems *watch.Announcer
	cancel   context.CancelFunc
	done     sync.WaitGroup
	log      lines

	mu      sync.Mutex
	builder *ingress.Builder
	secrets map[service.Name]bool // ever handed over
	synced  bool
	leads   bool
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Update implements kube.Sink.
func (c *candidate) Update(_ context.Context, changes []kube.Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range changes {
		if change.Secret != nil {
			c.secrets[change.Secret.Name] = true
		}
	}
	kube.Apply(c.builder, changes)
	c.builder.Commit()
	if c.synced {
		c.tell()
	}
	return nil
}

// Synced implements kube.Sink.
func (c *candidate) Synced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = true
	c.tell()
}

func (c *candidate) tell() {
	c.statuses.Serve(c.builder.Served())
	c.problems.All("ingress", c.builder.Problems())
}

// startCandidate runs a candidate that publishes addresses.
func (a *l7API) startCandidate(t *testing.T, name, addresses string) *candidate {
	t.Helper()
	cfg := ingress.Config{Classes: ingress.DefaultClasses(false)}
	client := a.client(t)
	lease := service.Name{Namespace: l7Namespace, Name: "fairlead-l7"}
	c := &candidate{name: name, builder: ingress.NewBuilder(cfg), secrets: make(map[service.Name]bool)}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(&c.log, t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug})).With("candidate", name)
	c.statuses = watch.NewStatuses(client, lease, log)
	c.problems = watch.NewAnnouncer(client, name, log)
	list, err := watch.ParseAddresses(addresses)
	if err != nil {
		t.Fatal(err)
	}
	c.statuses.Publish(list)
	src := &watch.Source{
		Client: client, Sink: c, Log: log, Statuses: c.statuses, Report: c.problems.From("objects"),
		Serves: func(v *ingress.Ingress, classes map[string]*ingress.Class) bool { return kube.Serves(&cfg, v, classes) },
	}
	writer := &watch.StatusWriter{Kind: c.statuses, Log: log}
	leadership := &watch.Leadership{
		Client: a.client(t), Lease: lease, Identity: name, Log: log,
		Tasks: []func(context.Context){writer.Lead, c.problems.Lead},
		Changed: func(leads bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.leads = leads
		},
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c.cancel = cancel
	c.done.Go(func() { c.check(t, "source", src.Run(ctx)) })
	c.done.Go(func() { c.check(t, "election", leadership.Run(ctx)) })
	t.Cleanup(c.stop)
	return c
}

func (c *candidate) check(t *testing.T, what string, err error) {
	if err != nil {
		t.Errorf("%s: %s: %v", c.name, what, err)
	}
}

// stop ends the candidate, as a pod is ended.
func (c *candidate) stop() {
	c.cancel()
	c.done.Wait()
}

func (c *candidate) isLeader() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leads
}

// serves waits until exactly these Ingresses of the namespace are served.
func (c *candidate) serves(t *testing.T, namespace string, names ...string) {
	t.Helper()
	slices.Sort(names)
	within(t, 20*time.Second, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		var got []string
		for _, n := range c.builder.Served() {
			if n.Namespace == namespace {
				got = append(got, n.Name)
			}
		}
		if !c.synced || !slices.Equal(got, names) {
			return fmt.Errorf("%s: synced %v, serves %v, want %v", c.name, c.synced, got, names)
		}
		return nil
	})
}

// secret returns what the candidate knows of a key of a Secret.
func (c *candidate) secret(n service.Name, key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.builder.Secret(n); s != nil {
		return string(s.Data[key])
	}
	return "(none)"
}

// knows waits until the candidate knows this of a Secret, which after an outage is asked for again within some 20 seconds.
func (c *candidate) knows(t *testing.T, n service.Name, key, want string) {
	t.Helper()
	within(t, 60*time.Second, func() error {
		if got := c.secret(n, key); got != want {
			return fmt.Errorf("%s: %s of Secret %s is %q, want %q", c.name, key, n, got, want)
		}
		return nil
	})
}

// handed returns the Secrets of a namespace that were ever read.
func (c *candidate) handed(namespace string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for n := range maps.Keys(c.secrets) {
		if n.Namespace == namespace {
			out = append(out, n.Name)
		}
	}
	slices.Sort(out)
	return out
}

// namespace makes a namespace for one part of the test.
func (a *l7API) namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := a.admin.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return name
}

// route returns an Ingress of a class; "" leaves the class to the API server.
func route(namespace, name, class, host string, secrets ...string) *networkingv1.Ingress {
	prefix := networkingv1.PathTypePrefix
	o := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{
			Host: host,
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{
					Path: "/", PathType: &prefix,
					Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
						Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80},
					}},
				}},
			}},
		}}},
	}
	if class != "" {
		o.Spec.IngressClassName = &class
	}
	for _, s := range secrets {
		o.Spec.TLS = append(o.Spec.TLS, networkingv1.IngressTLS{Hosts: []string{host}, SecretName: s})
	}
	return o
}

func (a *l7API) create(t *testing.T, o *networkingv1.Ingress) *networkingv1.Ingress {
	t.Helper()
	made, err := a.admin.NetworkingV1().Ingresses(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// change updates an Ingress, as long as others write it too.
func (a *l7API) change(t *testing.T, namespace, name string, do func(*networkingv1.Ingress)) {
	t.Helper()
	client := a.admin.NetworkingV1().Ingresses(namespace)
	for {
		o, err := client.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		do(o)
		if _, err = client.Update(t.Context(), o, metav1.UpdateOptions{}); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

// status returns the addresses in the status of an Ingress.
func (a *l7API) status(t *testing.T, namespace, name string) string {
	t.Helper()
	o, err := a.admin.NetworkingV1().Ingresses(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, in := range o.Status.LoadBalancer.Ingress {
		out = append(out, in.IP+in.Hostname)
	}
	return strings.Join(out, ",")
}

func (a *l7API) hasStatus(t *testing.T, namespace, name, want string) {
	t.Helper()
	within(t, 30*time.Second, func() error {
		if got := a.status(t, namespace, name); got != want {
			return fmt.Errorf("status of Ingress %s/%s: %q, want %q", namespace, name, got, want)
		}
		return nil
	})
}

func (a *l7API) putSecret(t *testing.T, namespace, name, value string) {
	t.Helper()
	o := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data:       map[string][]byte{"auth": []byte(value)},
	}
	client := a.admin.CoreV1().Secrets(namespace)
	_, err := client.Create(t.Context(), o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Update(t.Context(), o, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
