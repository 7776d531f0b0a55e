//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestL7Beside runs L7 and L4 on one node, beside every mode of fairlead but IPVS, and beside kube-proxy.
func TestL7Beside(t *testing.T) {
	t.Parallel()
	binary := requireWorld(t)
	for _, mode := range []world.Mode{world.IPTables, world.Userspace} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := newL7Beside(t, string(mode))
			b.startL4(t, world.FairleadMode(binary, mode, "nft"), b.manifests(t))
			b.play(t)
		})
	}
	t.Run("kube-proxy", func(t *testing.T) {
		t.Parallel()
		path, err := controlplane.KubeProxy(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := newL7Beside(t, "kubeproxy")
		b.startL4(t, world.Program{Path: path, Args: []string{
			"--proxy-mode=iptables", "--hostname-override=n1", "--iptables-min-sync-period=100ms",
			// A namespace may not size the table of the machine, which kube-proxy insists on.
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
			"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249", "--oom-score-adj=0",
		}}, b.server(t))
		b.play(t)
	})
}

// TestIPVSL7Beside is TestL7Beside in both IPVS modes.
func TestIPVSL7Beside(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	binary := requireWorld(t)
	variant := ipvsVariants(t)[0]
	for _, mode := range []world.Mode{world.IPVS, world.IPVSDevice} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := newL7Beside(t, string(mode))
			b.startL4(t, world.FairleadMode(binary, mode, variant), b.manifests(t))
			b.play(t)
		})
	}
}

// An l7Beside is one node with L4 and L7, and a Service of the former in front of the latter:
//
//	client ──▶ router ──▶ n1: L4 has 203.0.113.80 ──▶ n1: fairlead l7 ─┬───────────▶ pods on n2
//	                                                                   └─▶ n1: L4 ─┘
//
// Its policy is Local, so clients keep their addresses. Who is ready is what /readyz says, as a kubelet would see it.
type l7Beside struct {
	*l7Bed
	vip   *l7Proxy // for its clients
	put   func(t *testing.T, objects ...any)
	edge  *corev1.Service // it never changes
	ready bool
}

// besideArgs say where L4 takes its objects from.
type besideArgs []string

func newL7Beside(t *testing.T, name string) *l7Beside {
	t.Helper()
	b := &l7Beside{l7Bed: newL7Bed(t, "by"+name, 2)}
	b.vip = &l7Proxy{bed: b.l7Bed, at: netip.MustParseAddr("203.0.113.80")}
	b.edge = &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: cut("edge"),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30999,
			ClusterIP: "10.96.0.80", ClusterIPs: []string{"10.96.0.80"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{
				{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}, {Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, NodePort: 30443},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: b.vip.at.String()}}}},
	}
	return b
}

// edgeSlice has the L7 of n1 as an endpoint, which is in the network of the host.
func (b *l7Beside) edgeSlice() *discoveryv1.EndpointSlice {
	s := l7Slice("edge", 80, l7Endpoint{addr: netns.NodeAddr(1).V4, unready: !b.ready})
	name, port, tcp, node := "https", int32(443), corev1.ProtocolTCP, "n1"
	s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &tcp})
	s.Endpoints[0].NodeName = &node
	return s
}

// manifests has L4 follow a folder.
func (b *l7Beside) manifests(t *testing.T) besideArgs {
	t.Helper()
	f := &l7Folder{dir: filepath.Join(b.home, "l4")}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.put = func(t *testing.T, objects ...any) { f.put(t, objects[0].(metav1.Object).GetName(), objects...) }
	return besideArgs{"--manifests=" + f.dir}
}

// server has L4 follow an API server in the router.
func (b *l7Beside) server(t *testing.T) besideArgs {
	t.Helper()
	apiStart.Lock()
	defer apiStart.Unlock()
	cluster, err := controlplane.Start(t.Context(), controlplane.Options{
		NetNS: b.Router.Path(), BindAddress: netip.IPv4Unspecified(), AdvertiseAddress: netns.RouterAddr().V4,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	config, err := cluster.Kubeconfig("system:kube-proxy")
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cluster.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if node, err = client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: netns.NodeAddr(1).V4.String()}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.put = func(t *testing.T, objects ...any) {
		t.Helper()
		for _, o := range objects {
			if err := putObject(t.Context(), client, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	return besideArgs{"--kubeconfig=" + config}
}

// putObject makes a Service or an EndpointSlice, or changes the latter.
func putObject(ctx context.Context, client kubernetes.Interface, o any) error {
	switch o := o.(type) {
	case *corev1.Service:
		if _, err := client.CoreV1().Services(o.Namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			return nil // it never changes here
		}
		made, err := client.CoreV1().Services(o.Namespace).Create(ctx, o.DeepCopy(), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		made.Status = o.Status
		_, err = client.CoreV1().Services(o.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	case *discoveryv1.EndpointSlice:
		slices := client.DiscoveryV1().EndpointSlices(o.Namespace)
		_, err := slices.Create(ctx, o.DeepCopy(), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			_, err = slices.Update(ctx, o.DeepCopy(), metav1.UpdateOptions{})
		}
		return err
	}
	return fmt.Errorf("%T is not for L4", o)
}

// startL4 runs what balances Services on n1.
func (b *l7Beside) startL4(t *testing.T, prog world.Program, from besideArgs) {
	t.Helper()
	b.put(t, b.edge, b.edgeSlice())
	args := slices.Concat(prog.Args, []string{"--cluster-cidr=10.244.0.0/16"}, from)
	p := b.Nodes[0].Command(context.WithoutCancel(t.Context()), prog.Path, args...)
	p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(b.home, "xtables.lock"))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("%s said:\n%s", prog.Path, lastLines(p.Output(), 40))
		}
	})
}

// play has clients come through L4 to L7, and L7 go through L4 to a Service.
func (b *l7Beside) play(t *testing.T) {
	pods := []*l7Pod{b.pod(t, b.Nodes[1], 2), b.pod(t, b.Nodes[1], 3)}
	off := map[string]string{"fairlead.io/ssl-redirect": "false"}
	web := l7Service("web", "10.96.0.81", 80, 8080, endpoints(pods...)...)
	b.put(t, web...)
	b.folder.put(t, "test", append(slices.Clip(web), l7Class("fairlead", "fairlead.io/ingress"), l7Certificate(t, "crt", "web.test"),
		withTLS(l7Ingress("web", "web.test", off, l7Path{path: "/", service: "web"}), "crt"),
		l7Ingress("through", "through.test", map[string]string{"fairlead.io/service-upstream": "true"}, l7Path{path: "/", service: "web"}))...)
	t.Run("nobody is ready", func(t *testing.T) { b.closed(t) })
	proxy := b.start(t, l7Start{node: b.Nodes[0]})
	b.report(t, proxy)
	t.Run("ready", func(t *testing.T) {
		b.open(t)
		for _, url := range []string{"http://web.test/", "https://web.test/", "http://through.test/"} {
			b.asked(t, url)
		}
	})
	t.Run("told to stop", func(t *testing.T) {
		done := make(chan error, 1)
		go func() { done <- proxy.Stop(30 * time.Second) }()
		within(t, 20*time.Second, func() error {
			if b.report(t, proxy); b.ready {
				return errors.New("it still says that it is ready")
			}
			return nil
		})
		b.closed(t)
		if err := <-done; err != nil {
			t.Errorf("fairlead l7: %v", err)
		}
	})
}

// report does what kubelet and control plane do: it asks whether L7 is ready, and writes that down.
func (b *l7Beside) report(t *testing.T, p *l7Proxy) {
	t.Helper()
	b.ready = p.readyz(t) == nil
	b.put(t, b.edge, b.edgeSlice())
}

// health is what L4 says at the health-check node port.
func (b *l7Beside) health() (int, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: dialFrom(b.Router), DisableKeepAlives: true}, Timeout: 2 * time.Second}
	resp, err := client.Get(fmt.Sprintf("http://%s:30999/", netns.NodeAddr(1).V4))
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// open waits until L4 sends clients to L7, and says so.
func (b *l7Beside) open(t *testing.T) {
	t.Helper()
	client := fresh(b.vip.client())
	client.Timeout = 2 * time.Second
	within(t, 40*time.Second, func() error {
		if status, err := b.health(); err != nil || status != http.StatusOK {
			return fmt.Errorf("health-check node port: %d, %v", status, err)
		}
		_, err := ask(client, request(t, "http://web.test/"))
		return err
	})
}

// closed waits until L4 sends nobody, and says so.
func (b *l7Beside) closed(t *testing.T) {
	t.Helper()
	client := fresh(b.vip.client())
	client.Timeout = time.Second
	within(t, 40*time.Second, func() error {
		if status, err := b.health(); err != nil || status != http.StatusServiceUnavailable {
			return fmt.Errorf("health-check node port: %d, %v, want 503", status, err)
		}
		if a, err := ask(client, request(t, "http://web.test/")); err == nil {
			return fmt.Errorf("somebody answers: %+v", a)
		}
		return nil
	})
}

// asked makes requests, and looks who has come to the pods.
func (b *l7Beside) asked(t *testing.T, url string) {
	t.Helper()
	client := fresh(b.vip.client())
	by := make(map[string]bool)
	for i := 0; i < 50 && len(by) < 2; i++ {
		a, err := ask(client, request(t, url))
		if err != nil || a.Status != http.StatusOK || a.Seen == nil {
			t.Fatalf("%s: %+v, %v", url, a, err)
		}
		if got, want := a.Seen.Header.Get("X-Forwarded-For"), netns.ClientAddr(1).V4.String(); got != want {
			t.Fatalf("%s: the client is %s for the server, want %s", url, got, want)
		}
		by[a.Seen.By] = true
	}
	if len(by) != 2 && !strings.Contains(url, "through.") { // L7 keeps its connection to the Service's address
		t.Errorf("%s: only %v answer", url, by)
	}
}
