//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// timeout ends a demo that hangs.
const timeout = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		cancel()
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	program := fs.String("fairlead", "", "path of fairlead; empty builds it")
	l7 := fs.Bool("l7", false, "show Ingresses instead of Services")
	examples := fs.String("examples", "", "folder of the manifests to show; empty means docs/examples, or deploy/l7/examples with -l7")
	if err := fs.Parse(args); err != nil {
		return err
	}
	play, folder := (*demo).play, filepath.Join("docs", "examples")
	if *l7 {
		play, folder = (*demo).playL7, filepath.Join("deploy", "l7", "examples")
	}
	if *examples != "" {
		folder = *examples
	}
	if err := netns.Usable(); err != nil {
		return fmt.Errorf("network namespaces cannot be used (are you root?): %w", err)
	}
	dir, err := os.MkdirTemp("", "fairlead-demo-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	d := &demo{ctx: ctx, dir: filepath.Join(dir, "manifests"), out: os.Stdout}
	if d.program, err = built(ctx, *program, dir); err != nil {
		return err
	}
	if err := d.copy(folder); err != nil {
		return err
	}
	if d.cluster, err = netns.New(netns.Config{Nodes: 2, Prefix: "fairlead-demo"}); err != nil {
		return fmt.Errorf("build the namespaces: %w", err)
	}
	err = play(d)
	return errors.Join(err, d.cluster.Close())
}

// built returns the absolute path of the program, which is built if path is
// empty.
func built(ctx context.Context, path, dir string) (string, error) {
	if path != "" {
		return filepath.Abs(path)
	}
	path = filepath.Join(dir, "fairlead")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/fairlead").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build fairlead: %w\n%s", err, out)
	}
	return path, nil
}

// A demo is the stage.
type demo struct {
	ctx     context.Context // of the whole play; a demo lives no longer
	program string
	dir     string // of the manifests in force
	out     *os.File
	cluster *netns.Cluster
	n1, n2  *netns.Node
	pods    map[string]*netns.Pod // by IPv4 address
	agents  []*netns.Process
	failed  int
}

// copy puts the example manifests in force.
func (d *demo) copy(from string) error {
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := os.CopyFS(d.dir, os.DirFS(from)); err != nil {
		return fmt.Errorf("copy the examples, which are found from the root of the repository: %w", err)
	}
	return nil
}

// podAddrs are the pods: two on n1 and one on n2.
func podAddrs() []string { return []string{"10.244.1.2", "10.244.1.3", "10.244.2.2"} }

// setUp makes pods that answer, and starts fairlead on both nodes.
func (d *demo) setUp() error {
	d.n1, d.n2 = d.cluster.Node("n1"), d.cluster.Node("n2")
	d.pods = make(map[string]*netns.Pod)
	for i, s := range podAddrs() {
		node, k, m := d.n1, 1, i+2
		if i == 2 {
			node, k, m = d.n2, 2, 2
		}
		addr := netns.PodAddr(k, m)
		pod, err := d.cluster.AddPod(node, addr.Slice()...)
		if err != nil {
			return err
		}
		d.pods[s] = pod
		for _, a := range addr.Slice() {
			for _, port := range []uint16{8080, 8081, 8443} {
				if _, err := pod.Serve(netns.TCP, netip.AddrPortFrom(a, port)); err != nil {
					return err
				}
			}
		}
	}
	return d.startAgents()
}

// startAgents runs fairlead on each node and waits until it has put everything
// in force.
func (d *demo) startAgents() error {
	for _, n := range []*netns.Node{d.n1, d.n2} {
		name := fmt.Sprintf("n%d", n.Number)
		p := n.Command(d.ctx, d.program,
			"--manifests="+d.dir, "--hostname-override="+name,
			"--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
			"--conntrack-max-per-core=0") // the table belongs to the whole machine
		p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(filepath.Dir(d.dir), name+".lock"))
		if err := p.Start(); err != nil {
			return err
		}
		d.agents = append(d.agents, p)
	}
	for _, p := range d.agents {
		if err := p.WaitOutput(d.ctx, "first sync done"); err != nil {
			return err
		}
	}
	return nil
}

// edit changes a manifest the way an editor does: a new file, renamed.
func (d *demo) edit(file string, change func(string) string) error {
	path := filepath.Join(d.dir, file)
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("edit a manifest: %w", err)
	}
	text := change(string(old))
	if text == string(old) {
		return fmt.Errorf("edit %s: nothing to change", file)
	}
	draft := filepath.Join(d.dir, "."+file)
	if err := os.WriteFile(draft, []byte(text), 0o644); err != nil {
		return fmt.Errorf("edit a manifest: %w", err)
	}
	return os.Rename(draft, path)
}

// without returns a manifest without the endpoint that has an address.
func without(manifest, addr string) string {
	var out []string
	skipping := false
	for line := range strings.Lines(manifest) {
		switch {
		case strings.TrimSpace(line) == "- addresses: ["+addr+"]", strings.TrimSpace(line) == `- addresses: ["`+addr+`"]`:
			skipping = true
		case !strings.HasPrefix(line, " "):
			skipping = false
		}
		if !skipping {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
