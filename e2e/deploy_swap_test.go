//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// What images of the DaemonSet kube-proxy stand for.
const (
	stockImage  = "registry.k8s.io/kube-proxy:v1.36.3"
	newImage    = "registry.example.com/fairlead:v1"
	brokenImage = "registry.example.com/fairlead:broken"
)

// swap changes the image of kube-proxy as kubeadm sets it up, with deploy/swap.sh, and
// back. Of its configuration, its rights and its command line nothing changes.
func (b *deployBed) swap(t *testing.T) {
	kubeProxy, err := controlplane.KubeProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fairlead := filepath.Join(t.TempDir(), "kube-proxy") // what it is called in the image, too
	if err := os.Symlink(b.program.Path, fairlead); err != nil {
		t.Fatal(err)
	}
	b.stockKubeProxy(t)
	b.serve(t, netns.TCP, 8080, pod(2))
	b.put(t, web(1, 2))
	k := b.runKubelet(t, map[string]string{stockImage: kubeProxy, newImage: fairlead, brokenImage: "/bin/false"})
	b.serves(t, k, "kube-proxy", "KUBE-SERVICES", "FL-")

	b.script(t, true, newImage)
	b.serves(t, k, "fairlead", "FL-", "KUBE-SERVICES")
	if out := b.script(t, true, "--status"); !strings.Contains(out, "wanted: "+newImage) || !strings.Contains(out, "before: "+stockImage) {
		t.Errorf("--status: %s", out)
	}
	if asked := b.asked(t, "system:serviceaccount:kube-system:kube-proxy"); len(asked) == 0 { // which fails for what was denied
		t.Error("nobody has used the rights of kube-proxy")
	}
	b.script(t, false, brokenImage) // and it goes back by itself
	b.serves(t, k, "fairlead, again", "FL-", "KUBE-SERVICES")

	b.script(t, true, "--back")
	b.serves(t, k, "kube-proxy, again", "KUBE-SERVICES", "FL-")
	b.script(t, false, "--back") // there is nothing to go back to
}

// stockKubeProxy makes what kubeadm makes of kube-proxy, as far as it matters here.
func (b *deployBed) stockKubeProxy(t *testing.T) {
	t.Helper()
	const name, system = "kube-proxy", "kube-system"
	meta := metav1.ObjectMeta{Name: name, Namespace: system, Labels: map[string]string{"k8s-app": name}}
	privileged := true
	ds := &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: meta.Labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels},
			Spec: corev1.PodSpec{
				ServiceAccountName: name, HostNetwork: true, PriorityClassName: "system-node-critical",
				Containers: []corev1.Container{{
					Name: name, Image: stockImage,
					Command: []string{"/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override=$(NODE_NAME)"},
					Env: []corev1.EnvVar{{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{
						FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"},
					}}},
					SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
				}},
			},
		},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:node-proxier"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: system}},
	}
	client := b.api.Client
	_, err1 := client.CoreV1().ServiceAccounts(system).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, err2 := client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	_, err3 := client.AppsV1().DaemonSets(system).Create(t.Context(), ds, metav1.CreateOptions{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
}

// stockConfig writes the ConfigMap of kubeadm's kube-proxy, and returns its folder.
func (b *deployBed) stockConfig(t *testing.T) string {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("..", "cmd", "fairlead", "testdata", "config", "kubeadm-1.36.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	host, err := url.Parse(b.api.ControlPlane.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	const secrets = "/var/run/secrets/kubernetes.io/serviceaccount/"
	files := map[string]string{"kubeconfig.conf": fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {certificate-authority: %sca.crt, server: %q}}]
contexts: [{name: default, context: {cluster: default, namespace: default, user: default}}]
current-context: default
users: [{name: default, user: {tokenFile: %stoken}}]
`, secrets, host.String(), secrets)}
	for _, f := range archive.Files {
		if f.Name == "config.conf" {
			files[f.Name] = strings.NewReplacer(
				"/var/lib/kube-proxy", dir,
				"maxPerCore: null", "maxPerCore: 0", // which belongs to the machine
			).Replace(string(f.Data))
		}
	}
	if len(files) != 2 {
		t.Fatal("there is no config.conf")
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A kubelet is that of n1, and the controller of the DaemonSet kube-proxy, as far as
// they matter here: it runs on n1 what the image stands for, and says so.
type kubelet struct {
	b        *deployBed
	programs map[string]string // by image
	config   string            // where the ConfigMap is mounted
	env      []string

	mu    sync.Mutex
	image string
	proxy *world.Proxy
}

func (b *deployBed) runKubelet(t *testing.T, programs map[string]string) *kubelet {
	t.Helper()
	k := &kubelet{b: b, programs: programs, config: b.stockConfig(t), env: b.podEnv(t, b.serviceAccount(t, "kube-proxy"))}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait(); _ = k.run(ctx, "", nil) })
	done.Go(func() {
		for ctx.Err() == nil {
			if err := k.reconcile(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("kubelet: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return k
}

// reconcile does what a DaemonSet of one node takes.
func (k *kubelet) reconcile(ctx context.Context) error {
	sets := k.b.api.Client.AppsV1().DaemonSets("kube-system")
	ds, err := sets.Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil {
		return err
	}
	c := &ds.Spec.Template.Spec.Containers[0]
	if err := k.run(ctx, c.Image, c); err != nil {
		return err
	}
	pods := k.b.api.Client.CoreV1().Pods("kube-system")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy-n1", Labels: ds.Spec.Template.Labels}, Spec: *ds.Spec.Template.Spec.DeepCopy()}
	pod.Spec.NodeName = "n1"
	if _, err := pods.Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := k.cleanUp(ctx); err != nil {
		return err
	}
	status := appsv1.DaemonSetStatus{
		ObservedGeneration: ds.Generation, DesiredNumberScheduled: 1, CurrentNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberUnavailable: 1,
	}
	if _, p := k.now(); p != nil {
		select {
		case <-p.Done():
		default:
			status.NumberAvailable, status.NumberReady, status.NumberUnavailable = 1, 1, 0
		}
	}
	if ds.Status.ObservedGeneration == status.ObservedGeneration && ds.Status.NumberAvailable == status.NumberAvailable {
		return nil
	}
	ds.Status = status
	_, err = sets.UpdateStatus(ctx, ds, metav1.UpdateOptions{})
	if err != nil && strings.Contains(err.Error(), "the object has been modified") {
		return nil // the script was faster
	}
	return err
}

// cleanUp runs the pod that the script leaves n1 to run.
func (k *kubelet) cleanUp(ctx context.Context) error {
	pods := k.b.api.Client.CoreV1().Pods("kube-system")
	pod, err := pods.Get(ctx, "fairlead-cleanup-n1", metav1.GetOptions{})
	if err != nil || pod.Status.Phase == corev1.PodSucceeded {
		return nil //nolint:nilerr // there is none, most of the time
	}
	c := &pod.Spec.Containers[0]
	p := k.b.N1.Command(ctx, "unshare", append(asContainer(c, k.programs[c.Image]), c.Command[1:]...)...)
	p.Cmd.Env = append(os.Environ(), k.env...)
	if err := p.Start(); err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.Output())
	}
	pod.Status.Phase = corev1.PodSucceeded
	_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// now is what runs.
func (k *kubelet) now() (image string, p *world.Proxy) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.image, k.proxy
}

// run ends what runs, if it is not of the image, and starts that.
func (k *kubelet) run(ctx context.Context, image string, c *corev1.Container) error {
	was, old := k.now()
	if was == image {
		return nil
	}
	if old != nil {
		_ = old.Process.Stop(20 * time.Second) // kube-proxy does not end well
	}
	var p *world.Proxy
	if c != nil {
		var args []string
		for _, a := range c.Command[1:] {
			args = append(args, strings.NewReplacer("/var/lib/kube-proxy", k.config, "$(NODE_NAME)", "n1").Replace(a))
		}
		var err error
		p, err = k.b.Start(context.WithoutCancel(ctx), world.Program{
			Path: "unshare", Args: append(asContainer(c, k.programs[image]), args...), Env: k.env, Mode: world.IPTables,
		})
		if err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.image, k.proxy = image, p
	return nil
}

// serves wants Services to be answered, by chains with a name and without those with
// another.
func (b *deployBed) serves(t *testing.T, k *kubelet, who, has, lacks string) {
	t.Helper()
	within(t, 2*time.Minute, func() error {
		image, p := k.now()
		if p == nil {
			return errors.New("nothing runs yet")
		}
		text := ""
		for _, v := range variants() { // kube-proxy picks one by itself
			more, err := b.tool(t.Context(), "", "iptables-"+v+"-save")
			if err != nil {
				return err
			}
			text += more
		}
		if !strings.Contains(text, has) || lacks != "" && strings.Contains(text, lacks) {
			return fmt.Errorf("%s (%s): want chains %s and none of %q in\n%s\nit said:\n%s", who, image, has, lacks, text, p.Tail(20))
		}
		to := at(clusterIP(1), 80)[0]
		if r := probe(t, b.place(t, pod(9)), to); r.Class != netns.Reply {
			return fmt.Errorf("%s (%s): %v answers %v; it said:\n%s", who, image, to, r, p.Tail(20))
		}
		return nil
	})
}

// script runs deploy/swap.sh where the nodes are, and wants it to succeed or to fail.
func (b *deployBed) script(t *testing.T, well bool, args ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "deploy", "swap.sh"))
	if err != nil {
		t.Fatal(err)
	}
	p := b.Router.Command(t.Context(), path, args...)
	p.Cmd.Env = append(os.Environ(), "KUBECTL="+filepath.Join(b.tools, "kubectl"),
		"KUBECONFIG="+b.api.ControlPlane.AdminKubeconfig(), "PAUSE=3", "TIMEOUT="+map[bool]string{true: "2m", false: "20s"}[well], "HOME="+t.TempDir())
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); (err == nil) != well {
		t.Errorf("deploy/swap.sh %s: %v, want success %v\n%s", strings.Join(args, " "), err, well, p.Output())
	}
	t.Logf("deploy/swap.sh %s\n%s", strings.Join(args, " "), p.Output())
	return p.Output()
}
