//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestDeployRights has fairlead serve with the rights that the DaemonSet of
// deploy/kustomize gives it, and with no others.
func TestDeployRights(t *testing.T) {
	t.Parallel()
	for _, mode := range []world.Mode{world.IPTables, world.Userspace} {
		for _, v := range variants() {
			t.Run(string(mode)+"-"+v, func(t *testing.T) {
				t.Parallel()
				deployRights(t, mode, v)
			})
		}
	}
}

// TestIPVSDeployRights is the same in the mode ipvs.
func TestIPVSDeployRights(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	for _, v := range ipvsVariants(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			deployRights(t, world.IPVS, v)
		})
	}
}

// deployedDaemonSet is the DaemonSet of L4.
func deployedDaemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	objects := readObjects(t, filepath.Join("..", "deploy", "kustomize", "base", "daemonset.yaml"))
	ds := &appsv1.DaemonSet{}
	if len(objects) != 1 {
		t.Fatalf("%d objects, want a DaemonSet", len(objects))
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objects[0].Object, ds); err != nil {
		t.Fatal(err)
	}
	return ds
}

// asContainer runs a program as a container engine does: in a mount namespace in
// which nothing can be written but /run, and /proc/sys too if it is privileged, and
// with the capabilities of a container. It takes the place of the program.
func asContainer(c *corev1.Container, path string) []string {
	const script = `set -e
mount -t tmpfs tmpfs /run
mkdir /run/fairlead
touch /run/xtables.lock
if [ -n "$SECRETS" ]; then
  mkdir -p /run/secrets/kubernetes.io
  cp -r "$SECRETS" /run/secrets/kubernetes.io/serviceaccount
fi
[ "$1" = rw ] || for dir in /proc/sys /sys; do
  mount --bind $dir $dir
  mount -o remount,bind,ro $dir
done
mount -o remount,bind,ro /
shift
exec "$@"`
	sc := c.SecurityContext
	if sc.Privileged != nil && *sc.Privileged {
		return []string{"--mount", "sh", "-c", script, "sh", "rw", path}
	}
	bound := "-all"
	for _, name := range sc.Capabilities.Add {
		bound += ",+" + strings.ToLower(string(name))
	}
	return []string{"--mount", "sh", "-c", script, "sh", "ro", "setpriv", "--no-new-privs", "--bounding-set=" + bound, path}
}

// deployedConfig writes the ConfigMap of a mode, with more fields, and returns its
// folder.
func deployedConfig(t *testing.T, mode world.Mode, more, own map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for name, fields := range map[string]map[string]any{"config.conf": more, "fairlead.conf": own} {
		data, err := os.ReadFile(filepath.Join("..", "deploy", "kustomize", string(mode), name))
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte("shutdownGrace: 20s"), []byte("shutdownGrace: 1s")) // nobody comes to take over
		add, err := yaml.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), slices.Concat(data, add), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// deployedArgs are the arguments of a container on the node n1, with the ConfigMap in
// a folder.
func deployedArgs(c *corev1.Container, config string) []string {
	var out []string
	for _, a := range c.Args {
		a = strings.ReplaceAll(a, "/etc/fairlead", config)
		out = append(out, strings.ReplaceAll(a, "$(NODE_NAME)", "n1"))
	}
	return out
}

func deployRights(t *testing.T, mode world.Mode, variant string) {
	b := newBedIn(t, mode, variant)
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.serve(t, netns.UDP, 53, pod(2), pod(3))
	spec := deployedDaemonSet(t).Spec.Template.Spec
	config := deployedConfig(t, mode,
		map[string]any{"clusterCIDR": "10.244.0.0/16,fd00:10:244::/48"},
		map[string]any{"manifests": b.dir, "iptables": map[string]any{"variant": variant}})
	binary := b.program.Path
	env := []string{"XTABLES_LOCKFILE=/run/xtables.lock"}
	names := fixture{name: "names", ip: clusterIP(3), protocol: "UDP", port: 53, target: 53, nodePort: 30053, endpoints: podsOf(2, 3)}
	b.put(t, web(1, 2), names)

	b.initialize(t, spec.InitContainers, binary, config, env)
	c := &spec.Containers[0]
	b.program = world.Program{Path: "unshare", Args: append(asContainer(c, binary), deployedArgs(c, config)...), Env: env, Mode: mode}
	p, err := b.Start(context.WithoutCancel(t.Context()), b.program)
	if err != nil {
		t.Fatal(err)
	}
	b.proxy = p
	b.await(t)
	boundBy(t, c, p)
	asks := append(at(clusterIP(1), 80), at(netns.NodeAddr(1), 30001)...)
	b.answersFrom(t, netns.TCP, pod(2), asks...)
	b.answersFrom(t, netns.UDP, netns.Dual{}, append(at(clusterIP(3), 53), at(netns.NodeAddr(1), 30053)...)...)
	b.apply(t, web(1, 3), names)
	b.answersFrom(t, netns.TCP, pod(3), asks...)
	if said := p.Output(); strings.Contains(said, "not permitted") || strings.Contains(said, "level=ERROR") {
		t.Errorf("a right is missing:\n%s", said)
	}
	b.stop(t)
	b.cleanUpAs(t, c, binary, env)
}

// initialize runs init containers.
func (b *bed) initialize(t *testing.T, list []corev1.Container, binary, config string, env []string) {
	t.Helper()
	for _, c := range list {
		p := b.N1.Command(t.Context(), "unshare", append(asContainer(&c, binary), deployedArgs(&c, config)...)...)
		p.Cmd.Env = append(os.Environ(), env...)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("init container %s: %v\n%s", c.Name, err, p.Output())
		}
	}
}

// answersFrom asks from a pod and from outside, and wants answers of a pod; the zero
// Dual stands for any.
func (b *bed) answersFrom(t *testing.T, proto netns.Proto, want netns.Dual, asks ...netip.AddrPort) {
	t.Helper()
	for _, from := range []*netns.NS{b.Client, b.place(t, pod(9))} {
		for _, to := range asks {
			got := from.Probe(t.Context(), netns.Request{Proto: proto, Dst: to, Timeout: 5 * time.Second})
			if got.Class != netns.Reply || want.V4.IsValid() && got.From.Addr.Addr() != want.Like(to.Addr()) {
				t.Errorf("%v %v from %s: got %v, want an answer of %v", proto, to, from.Name(), got, want)
			}
		}
	}
}

// boundBy wants a process to be unable to have more capabilities than a container.
func boundBy(t *testing.T, c *corev1.Container, p *world.Proxy) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, name := range c.SecurityContext.Capabilities.Add {
		bit, ok := map[corev1.Capability]int{"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE}[name]
		if !ok {
			t.Fatalf("the DaemonSet asks for %s, which no test has shown to be needed", name)
		}
		want |= 1 << bit
	}
	for _, line := range []string{fmt.Sprintf("CapBnd:\t%016x\n", want), fmt.Sprintf("CapEff:\t%016x\n", want), "NoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("the process has not %q:\n%s", line, status)
		}
	}
}

// cleanUpAs removes everything with the rights of a container, as kubectl exec does.
func (b *bed) cleanUpAs(t *testing.T, c *corev1.Container, binary string, env []string) {
	t.Helper()
	p := b.N1.Command(t.Context(), "unshare", append(asContainer(c, binary), "cleanup")...)
	p.Cmd.Env = append(os.Environ(), env...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("fairlead cleanup: %v\n%s", err, p.Output())
	}
	for _, tool := range []string{"iptables-", "ip6tables-"} {
		if left, err := b.tool(t.Context(), "", tool+b.variant+"-save"); err != nil || strings.Contains(left, "FL-") {
			t.Errorf("after fairlead cleanup: %v\n%s", err, left)
		}
	}
}
