//go:build linux

// Command kind shows fairlead in a cluster of kind: docker containers that are
// nodes, with a kubelet, a real control plane, pods and cluster DNS. Each lane
// makes a cluster, puts fairlead in it, sees Services of every kind answer, and
// takes the cluster away again. See docs/kind.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Images that the tests make. None of them is ever pulled.
const (
	fairleadImage = "fairlead:e2e"
	backendImage  = "fairlead-kind-backend:e2e"
	// localNode is what node/build makes.
	localNode = "fairlead-kind-node:local"
	localBase = "fairlead-kind-base:local"
)

// laneTimeout ends a lane that hangs. Most take two to six minutes.
const laneTimeout = 20 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kind:", err)
		os.Exit(1)
	}
}

// Options of a run.
type options struct {
	fairlead string   // the program
	repo     string   // root of the source tree
	node     string   // node image; empty means kind's own
	base     string   // Debian that the image of fairlead starts from
	image    string   // a ready image of fairlead instead
	lanes    []string // by name
	keep     bool     // leave the last cluster
	gocmd    string
}

func parse(args []string) (options, error) {
	fs := flag.NewFlagSet("kind", flag.ContinueOnError)
	program := fs.String("fairlead", "bin/fairlead", "path of fairlead, from the root of the tree")
	node := fs.String("node", "", `node image; empty means kind's own, "local" one made here of Debian packages and Go modules`)
	base := fs.String("base", "docker.io/library/debian:bookworm-slim", "Debian image to make the image of fairlead of")
	image := fs.String("image", "", "image of fairlead; empty makes one of -fairlead")
	names := fs.String("lanes", strings.Join(laneNames(), ","), "lanes to run, by name")
	keep := fs.Bool("keep", false, "leave the cluster of the last lane")
	gocmd := fs.String("go", "go", "the go command")
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	repo, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return options{}, err
	}
	o := options{fairlead: *program, repo: repo, node: *node, base: *base, image: *image, keep: *keep, gocmd: *gocmd}
	if !filepath.IsAbs(o.fairlead) {
		o.fairlead = filepath.Join(repo, o.fairlead)
	}
	for name := range strings.SplitSeq(*names, ",") {
		if !slices.Contains(laneNames(), name) {
			return options{}, fmt.Errorf("no lane %q: there are %s", name, strings.Join(laneNames(), ", "))
		}
		o.lanes = append(o.lanes, name)
	}
	if o.node == "local" {
		o.node, o.base = localNode, localBase
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	s := &shell{out: out, gocmd: o.gocmd}
	if _, err := s.output(ctx, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("docker cannot be used; is dockerd running? %w", err)
	}
	if err := images(ctx, s, o); err != nil {
		return err
	}
	var failed error
	for i, l := range lanes() {
		if !slices.Contains(o.lanes, l.name) {
			continue
		}
		began := time.Now()
		s.say("=== %s: %s", l.name, l.what)
		keep := o.keep && i == len(lanes())-1 || o.keep && len(o.lanes) == 1
		err := l.run(ctx, s, o, keep)
		switch took := time.Since(began).Round(time.Second); {
		case errors.Is(err, errSkipped):
			s.say("--- SKIPPED, NOT TESTED: %s: %v", l.name, err)
		case err != nil:
			s.say("--- FAILED: %s after %s: %v", l.name, took, err)
			failed = errors.Join(failed, fmt.Errorf("lane %s: %w", l.name, err))
		default:
			s.say("--- ok: %s in %s", l.name, took)
		}
	}
	return failed
}
