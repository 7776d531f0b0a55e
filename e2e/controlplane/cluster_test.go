//go:build linux

package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// start runs a control plane for the test and closes it afterwards. With -short
// it skips: even with the programs built, this costs tens of CPU seconds.
func start(t *testing.T, opts Options) *Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("runs etcd and kube-apiserver, and builds them the first time")
	}
	opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func admin(t *testing.T, c *Cluster) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func dualStackService(name string) *corev1.Service {
	policy := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeNodePort,
			IPFamilyPolicy: &policy,
			Ports:          []corev1.ServicePort{{Port: 80}},
		},
	}
}

func TestServiceOutlivesAPIServer(t *testing.T) {
	c := start(t, Options{})
	services := admin(t, c).CoreV1().Services(metav1.NamespaceDefault)

	w, err := services.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=web"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	created, err := services.Create(t.Context(), dualStackService("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFamilies := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	if diff := cmp.Diff(wantFamilies, created.Spec.IPFamilies); diff != "" {
		t.Errorf("families (-want +got):\n%s", diff)
	}
	if port := created.Spec.Ports[0].NodePort; port < 30000 || port > 32767 {
		t.Errorf("node port: got %d, want one of 30000-32767", port)
	}
	if diff := cmp.Diff(created, next(t, w, watch.Added)); diff != "" {
		t.Errorf("watched Service (-created +watched):\n%s", diff)
	}

	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Get(t.Context(), "web", metav1.GetOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with the API server stopped: got %v, want connection refused", err)
	}
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := services.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(created, again); diff != "" {
		t.Errorf("Service after the restart (-before +after):\n%s", diff)
	}
	// Addresses are handed out again, and not twice.
	other, err := services.Create(t.Context(), dualStackService("other"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if other.Spec.ClusterIP == created.Spec.ClusterIP {
		t.Errorf("two Services have cluster IP %s", other.Spec.ClusterIP)
	}
}

// next returns the Service of the next event, which must be of the given type.
func next(t *testing.T, w watch.Interface, want watch.EventType) *corev1.Service {
	t.Helper()
	select {
	case ev := <-w.ResultChan():
		svc, ok := ev.Object.(*corev1.Service)
		if ev.Type != want || !ok {
			t.Fatalf("watch event: got %s of %T, want %s of a Service", ev.Type, ev.Object, want)
		}
		return svc
	case <-t.Context().Done():
		t.Fatal("no watch event before the end of the test")
	}
	return nil
}

func TestKubeconfigsHaveTheirUsersRights(t *testing.T) {
	c := start(t, Options{})

	// Bound by the API server's own policy, not by us.
	stock, err := c.Kubeconfig("system:kube-proxy")
	if err != nil {
		t.Fatal(err)
	}
	if err := listServices(t, stock); err != nil {
		t.Errorf("system:kube-proxy lists Services: %v", err)
	}

	config, err := c.Kubeconfig("system:serviceaccount:kube-system:fairlead", "testers")
	if err != nil {
		t.Fatal(err)
	}
	if err := listServices(t, config); !apierrors.IsForbidden(err) {
		t.Fatalf("an unbound user lists Services: got %v, want it forbidden", err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "testers"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "testers"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
	}
	if _, err := admin(t, c).RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The authorizer learns of the binding from a watch.
	for err = listServices(t, config); apierrors.IsForbidden(err) && t.Context().Err() == nil; {
		err = listServices(t, config)
	}
	if err != nil {
		t.Errorf("a member of a bound group lists Services: %v", err)
	}
	if err := listServices(t, c.AdminKubeconfig()); err != nil {
		t.Errorf("the administrator lists Services: %v", err)
	}
}

func listServices(t *testing.T, kubeconfig string) error {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Services(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
	return err
}

func TestCloseLeavesNothing(t *testing.T) {
	c := start(t, Options{})
	children := []*process{c.etcd, c.apiserver}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range children {
		select {
		case <-p.done:
		default:
			t.Errorf("%s still runs", p.name)
		}
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of the cluster's folder: got %v, want that it does not exist", err)
	}
	if err := c.StartAPIServer(t.Context()); err == nil {
		t.Error("an API server was started in a closed cluster")
	}
}

func TestStartFailureQuotesLog(t *testing.T) {
	if testing.Short() {
		t.Skip("runs etcd, and builds it the first time")
	}
	c, err := Start(t.Context(), Options{APIServerArgs: []string{"--no-such-flag"}})
	if err == nil {
		c.Close()
		t.Fatal("kube-apiserver started with an unknown flag")
	}
	for _, want := range []string{"kube-apiserver", "exit status 1", "unknown flag: --no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}
}

func TestStartHeedsContext(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcd and kube-apiserver the first time")
	}
	if _, err := Binaries(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
