//go:build linux

package e2e

import (
	"context"
	"errors"
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

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// fetch makes a HTTP request on n1.
func (b *bed) fetch(t *testing.T, url string) (int, string, error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = b.N1.Do(func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

const (
	healthURL  = "http://127.0.0.1:10256"
	metricsURL = "http://127.0.0.1:10249"
)

// metric returns the sum of a metric over its labels.
func (b *bed) metric(t *testing.T, name string) float64 {
	t.Helper()
	n, err := b.Metric(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lockHeld is how long somebody else holds the xtables lock.
const lockHeld = 3 * time.Second

// TestFaultLock holds the lock of iptables-legacy while something changes.
func TestFaultLock(t *testing.T) {
	t.Parallel()
	b := newBed(t, "legacy")
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2))
	const waited = "fairlead_iptables_lock_wait_seconds_total"
	before := b.metric(t, waited)
	lock, err := os.OpenFile(b.LockFile(), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	b.put(t, web(1, 2), web(2, 3))
	if r := probe(t, b.Client, at(clusterIP(1), 80)[0]); r.Class != netns.Reply {
		t.Errorf("what was in force before: %v", r)
	}
	time.Sleep(time.Until(start.Add(lockHeld)))
	if r := probe(t, b.Client, at(clusterIP(2), 80)[0]); r.Class == netns.Reply {
		t.Errorf("the change is in force although the lock is held: %v", r)
	}
	lock.Close() // lets go of it
	released := time.Now()
	b.await(t)
	t.Logf("in force %v after the lock was released", time.Since(released).Round(time.Millisecond))
	if got := b.metric(t, waited) - before; got < 1 || got > 2*lockHeld.Seconds() {
		t.Errorf("%s grew by %v, want about %v", waited, got, lockHeld.Seconds())
	}
}

// standIns puts programs before the tools of iptables that fail as long as a file
// exists, and returns that file's name.
func (b *bed) standIns(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	flag := filepath.Join(dir, "broken")
	for _, family := range []string{"iptables-", "ip6tables-"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			name := family + b.variant + suffix
			real, err := exec.LookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			check := ""
			if suffix == "-restore" {
				check = "if [ -e " + flag + " ]; then echo 'iptables-restore: it is broken' >&2; exit 2; fi\n"
			}
			script := "#!/bin/sh\n" + check + "exec " + real + " \"$@\"\n"
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.env = append(b.env, "PATH="+dir+":"+os.Getenv("PATH"))
	return flag
}

// TestFaultHealth wants /healthz to say so when rules cannot be written.
func TestFaultHealth(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft", "--iptables-sync-period=1s", "--iptables-writer=tool")
	flag := b.standIns(t)
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2))
	for url, want := range map[string]string{
		healthURL + "/healthz":    `"lastUpdated"`,
		healthURL + "/livez":      `"lastUpdated"`,
		metricsURL + "/proxyMode": "iptables",
		metricsURL + "/metrics":   "kubeproxy_sync_proxy_rules_iptables_total",
	} {
		code, body, err := b.fetch(t, url)
		if err != nil || code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %v, without %q:\n%.500s", url, code, err, want, body)
		}
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.put(t, web(1, 2), web(2, 3))
	took := within(t, 10*time.Second, func() error { return b.healthIs(t, http.StatusServiceUnavailable) })
	t.Logf("unhealthy %v after the change that could not be written", took.Round(10*time.Millisecond))
	if took < 2*time.Second {
		t.Errorf("unhealthy after %v already, want twice the sync period", took)
	}
	if r := probe(t, b.Client, at(clusterIP(1), 80)[0]); r.Class != netns.Reply {
		t.Errorf("what was in force before: %v", r)
	}
	if n := b.metric(t, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total"); n == 0 {
		t.Error("no failure was counted")
	}
	if n := strings.Count(b.proxy.Output(), "it is broken"); n == 0 || n > 4 {
		t.Errorf("the log says %d times what the tool complains about, want it once or a few times", n)
	}
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, func() error { return b.healthIs(t, http.StatusOK) })
	b.await(t)
	if r := probe(t, b.Client, at(clusterIP(2), 80)[0]); r.Class != netns.Reply {
		t.Errorf("what could not be written before: %v", r)
	}
}

// healthIs wants both endpoints of health to answer with a status.
func (b *bed) healthIs(t *testing.T, want int) error {
	t.Helper()
	for _, path := range []string{"/healthz", "/livez"} {
		code, body, err := b.fetch(t, healthURL+path)
		if err != nil {
			t.Fatal(err)
		}
		if code != want {
			return fmt.Errorf("%s: got %d, want %d: %s", path, code, want, body)
		}
	}
	return nil
}

// TestFaultStart wants a fairlead that cannot run to say why and to end.
func TestFaultStart(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	garbage := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(garbage, []byte("apiVersion: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := "--manifests=" + b.dir
	for _, c := range []struct {
		name string
		args []string
		env  string
		want string
	}{
		{"unknown flag", []string{folder, "--no-such-flag"}, "", "--no-such-flag"},
		{"unknown subcommand", []string{"explode"}, "", `"explode"`},
		{"unknown mode", []string{folder, "--proxy-mode=warp"}, "", `"warp"`},
		{"mode of another version", []string{folder, "--proxy-mode=nftables"}, "", "nftables"},
		{"unknown variant", []string{folder, "--iptables-variant=bpf"}, "", `"bpf"`},
		{"bad CIDR", []string{folder, "--cluster-cidr=10.244.0.0/33"}, "", "--cluster-cidr"},
		{"bad duration", []string{folder, "--iptables-sync-period=soon"}, "", "iptables-sync-period"},
		{"two sources", []string{folder, "--kubeconfig=" + garbage}, "", "--manifests"},
		{"no iptables", []string{folder}, "PATH=/nonexistent", "iptables"},
		{"no kubeconfig", []string{"--kubeconfig=/nonexistent/kubeconfig"}, "", "/nonexistent/kubeconfig"},
		{"garbage kubeconfig", []string{"--kubeconfig=" + garbage}, "", garbage},
		{"no folder", []string{"--manifests=/nonexistent/folder"}, "", "/nonexistent/folder"},
		{"folder is a file", []string{"--manifests=" + garbage}, "", garbage},
	} {
		p := b.N1.Command(t.Context(), b.program.Path, append(c.args, "--hostname-override=n1")...)
		p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+b.LockFile(), c.env)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			t.Errorf("%s: still running:\n%s", c.name, p.Output())
			p.Close()
			continue
		}
		var exit *exec.ExitError
		if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() < 1 || exit.ExitCode() > 2 {
			t.Errorf("%s: ended with %v, want status 1 or 2", c.name, err)
		}
		said := complaints(p.Stderr())
		if len(said) != 1 || !strings.Contains(said[0], c.want) {
			t.Errorf("%s: want one line with %q, got %d:\n%s", c.name, c.want, len(said), strings.Join(said, "\n"))
		}
	}
}

// complaints are the lines on standard error that are not ordinary log lines.
func complaints(stderr string) []string {
	var out []string
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "time=") || strings.Contains(line, "level=ERROR") {
			out = append(out, strings.TrimRight(line, "\n"))
		}
	}
	return out
}
