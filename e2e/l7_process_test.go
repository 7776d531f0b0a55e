//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/fairlead-project/fairlead/e2e/world"
)

// l7Args returns the arguments of the DaemonSet in a folder of deploy/l7.
func l7Args(t *testing.T, folder string) []string {
	t.Helper()
	for _, o := range readObjects(t, filepath.Join("..", "deploy", "l7", folder, "daemonset.yaml")) {
		containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) == 0 {
			continue
		}
		args, _, err := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		if err == nil && len(args) > 0 {
			return args
		}
	}
	t.Fatalf("deploy/l7/%s has no DaemonSet with arguments", folder)
	return nil
}

// An l7Program is a running fairlead l7.
type l7Program struct {
	binary string
	cmd    *exec.Cmd
	addrs  map[string]string // by name of the listener
	log    lines
}

// startL7 runs fairlead l7 as the user it has in a pod, without capabilities. Addresses are
// on loopback. It is ended with the test.
func (a *l7API) startL7(t *testing.T, args []string, more ...string) *l7Program {
	t.Helper()
	return a.startL7As(t, "", args, more...)
}

// startL7As runs fairlead l7 as if it were in a pod of that name; empty: in none.
func (a *l7API) startL7As(t *testing.T, pod string, args []string, more ...string) *l7Program {
	t.Helper()
	built, err := world.Binary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := readable(t, map[string]string{"fairlead": built, "kubeconfig": a.config})
	p := &l7Program{binary: filepath.Join(dir, "fairlead"), addrs: make(map[string]string)}
	args = append(append([]string{}, args...), more...)
	for _, name := range []string{"http", "https", "healthz", "metrics", "status"} {
		p.addrs[name] = freeAddr(t)
		args = append(args, "--"+name+"-bind-address="+p.addrs[name])
	}
	args = append(args, "--kubeconfig="+filepath.Join(dir, "kubeconfig"), "--hostname-override=n1", "--shutdown-grace-period=0s",
		"--election-id="+l7Namespace+"/fairlead-l7")
	p.cmd = exec.CommandContext(t.Context(), p.binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = io.MultiWriter(&p.log, t.Output()), io.MultiWriter(&p.log, t.Output())
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: l7User, Gid: l7User}, Pdeathsig: syscall.SIGKILL}
	p.cmd.Dir, p.cmd.Env = "/", os.Environ()
	if pod != "" {
		p.cmd.Env = append(p.cmd.Env, "POD_NAMESPACE="+l7Namespace, "POD_NAME="+pod)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill() // it may have ended by itself
			_ = p.cmd.Wait()
		}
	})
	return p
}

// readable copies files, by their names there, into a folder where every user may read and run them.
func readable(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // which are for their owner only
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// freeAddr returns an address on loopback that nobody listens at.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// answers asks one of the listeners, and returns an error unless the status is want.
func (p *l7Program) answers(listener, path, host string, want int) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.addrs[listener]+path, nil)
	if err != nil {
		return err
	}
	req.Host = host
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s%s: got %s %q, want status %d", listener, host, path, resp.Status, strings.TrimSpace(string(body)), want)
	}
	return err
}

// stop asks the program to end, and wants it to do so well.
func (p *l7Program) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("fairlead l7: %v", err)
	}
}
