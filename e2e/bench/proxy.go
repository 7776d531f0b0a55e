//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// variant is one of the two programs called iptables.
type variant string

const (
	legacy variant = "legacy"
	nft    variant = "nft"
)

// What stands for a variant in the suite, where a proxy needs neither.
const (
	nftables  variant = "nftables"  // kube-proxy's mode of that name
	userspace variant = "userspace" // fairlead's
)

// usesIptables says that it is a kind of iptables.
func (v variant) usesIptables() bool { return v == legacy || v == nft }

// mode is what a proxy is told in the suite.
func (v variant) mode() mode {
	if v.usesIptables() {
		return modeIptables
	}
	return mode(v)
}

// multi is the program behind all of a variant's names.
func (v variant) multi() string { return "xtables-" + string(v) + "-multi" }

// shim makes a folder in which every iptables program is of the variant. With
// that first in PATH, kube-proxy uses it: it takes what it finds.
func (v variant) shim(dir string) (string, error) {
	target, err := exec.LookPath(v.multi())
	if err != nil {
		return "", fmt.Errorf("iptables variant %s: %w", v, err)
	}
	dir = filepath.Join(dir, string(v))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			if err := os.Symlink(target, filepath.Join(dir, family+suffix)); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// subject is a proxy under test, with its settings.
type subject struct {
	name string
	path string
	args func(kubeconfig string, m mode, v variant) []string
	// help is what to put into ipsets, in the format of ipset restore, if a start in
	// the mode ipvs takes too long; nil if that would be no help.
	help func(spec) string
}

// Names of subjects.
const (
	kubeProxyName      = "kube-proxy"
	kubeProxyTunedName = "kube-proxy, min-sync 100ms"
	fairleadName       = "fairlead"
)

// subjectNames are the names by what -proxies takes.
func subjectNames() map[string]string {
	return map[string]string{
		"kube-proxy": kubeProxyName, "kube-proxy-100ms": kubeProxyTunedName, "fairlead": fairleadName,
	}
}

// commonArgs are understood by both proxies. Neither may touch the limits of the
// connection tracker, which cannot be set inside a network namespace.
func commonArgs(kubeconfig string, m mode) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--proxy-mode=" + string(m),
		"--hostname-override=n1",
		"--cluster-cidr=10.244.0.0/16",
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}
}

// kubeProxy is kube-proxy at its defaults, apart from the extra arguments.
func kubeProxy(path, name string, extra ...string) subject {
	return subject{name: name, path: path, help: kubeProxySets, args: func(kubeconfig string, m mode, _ variant) []string {
		return append(commonArgs(kubeconfig, m), extra...)
	}}
}

func fairlead(path string) subject {
	return subject{name: fairleadName, path: path, args: func(kubeconfig string, m mode, v variant) []string {
		args := commonArgs(kubeconfig, m)
		if v.usesIptables() {
			args = append(args, "--iptables-variant="+string(v))
		}
		return args
	}}
}

// buildFairlead builds the program from the source tree that the working
// directory is in.
func buildFairlead(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "fairlead")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path,
		"github.com/fairlead-project/fairlead/cmd/fairlead")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build fairlead: %w\n%s", err, out)
	}
	return path, nil
}

// subjects prepares the proxies that the options name, in their order.
func subjects(ctx context.Context, o options, dir string) ([]subject, error) {
	var list []subject
	for _, name := range o.proxies {
		switch name {
		case "kube-proxy", "kube-proxy-100ms":
			path, err := filepath.Abs(o.kubeProxy)
			if o.kubeProxy == "" {
				path, err = controlplane.KubeProxy(ctx)
			}
			if err != nil {
				return nil, err
			}
			if name == "kube-proxy" {
				list = append(list, kubeProxy(path, kubeProxyName))
			} else {
				list = append(list, kubeProxy(path, kubeProxyTunedName,
					"--iptables-min-sync-period=100ms", "--ipvs-min-sync-period=100ms"))
			}
		case "fairlead":
			path, err := filepath.Abs(o.fairlead)
			if o.fairlead == "" {
				path, err = buildFairlead(ctx, dir)
			}
			if err != nil {
				return nil, err
			}
			list = append(list, fairlead(path))
		default:
			return nil, fmt.Errorf("no proxy is called %q", name)
		}
	}
	return list, nil
}

// version is what the program says about itself, or the empty string.
func (s subject) version(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.path, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// running is a proxy at work in a network.
type running struct {
	process  *netns.Process
	meter    meter
	children *childWatch
	started  time.Time
}

// joinScript makes the shell a member of the groups that its first arguments
// name, up to "--", and then turns it into the proxy.
const joinScript = `while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"`

// start runs a proxy. It ends with close, or with the network.
func (s subject) start(ctx context.Context, n *network, mo mode, v variant, shim string) (*running, error) {
	m, noCgroup := newMeter(strings.Fields(s.name)[0])
	args := append([]string{"-c", joinScript, "sh"}, m.joins()...)
	args = append(append(args, "--", s.path), s.args(n.kubeconfig(), mo, v)...)
	p := n.node.Command(ctx, "/bin/sh", args...)
	p.Cmd.Dir = n.dir
	p.Cmd.Env = []string{
		"PATH=" + shim + ":" + os.Getenv("PATH"), "HOME=" + n.dir, "TMPDIR=" + n.dir,
		// Others on this machine may use iptables too, in their own namespaces.
		"XTABLES_LOCKFILE=" + filepath.Join(n.dir, "xtables.lock"),
	}
	r := &running{process: p, meter: m, started: time.Now()}
	if err := p.Start(); err != nil {
		return nil, errors.Join(err, noCgroup, m.close())
	}
	if pm, ok := m.(*procMeter); ok {
		pm.pid.Store(int64(r.pid()))
	}
	r.children = watchChildren(m, r.pid())
	return r, nil
}

func (r *running) pid() int { return r.process.Cmd.Process.Pid }

// ended reports that the proxy is no longer there, and why, or nil.
func (r *running) ended() error {
	select {
	case <-r.process.Done():
		out := strings.TrimSpace(r.process.Output())
		const quote = 2000
		return fmt.Errorf("it ended (%v): %s", r.process.Wait(), out[max(0, len(out)-quote):])
	default:
		return nil
	}
}

// close kills the proxy and its children, so that it cannot tidy its rules away,
// and removes the meter.
func (r *running) close() error {
	r.children.close()
	return errors.Join(r.process.Close(), r.meter.close())
}
