//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/lab"
	"golang.org/x/sys/unix"
)

// What -kernel takes, besides the names of lab.
const (
	kernelAuto = "auto"
	kernelHost = "host"
)

// kernelIPVS is the kernel to take where the host has no IPVS.
const kernelIPVS = "uml"

func kernelNames() []string { return append([]string{kernelAuto, kernelHost}, lab.Names()...) }

func (o options) validateKernel() error {
	if !slices.Contains(kernelNames(), o.kernel) {
		return fmt.Errorf("-kernel: %q is none of %s", o.kernel, strings.Join(kernelNames(), ", "))
	}
	return nil
}

// resultMark begins the lines of a guest's output that have its results so far.
const resultMark = "fairlead-bench-result "

// guestEnv tells a bench that it was started by one on the host.
const guestEnv = "FAIRLEAD_BENCH_GUEST"

// elsewhere finds the kernel to run on, or nil if that is the running one.
func (o options) elsewhere(ctx context.Context) (*lab.Kernel, error) {
	switch o.kernel {
	case kernelHost:
		return nil, nil
	case kernelAuto:
		if o.mode != modeIPVS || haveIPVS() == nil {
			return nil, nil
		}
		return lab.Find(ctx, kernelIPVS)
	}
	return lab.Find(ctx, o.kernel)
}

// remark says how the figures of a kernel are to be read.
func remark(k *lab.Kernel) string {
	if k.Slow {
		return "Measured in a guest of QEMU (" + k.Release() + "), which translated every instruction: " +
			"everything takes some ten times longer than it would on the machine. Read the ratios"
	}
	return "Measured in user-mode Linux (" + k.Release() + "), with one CPU for the API server, the clients and the proxy together. " +
		"A system call takes some hundred times longer there than on the machine, and to start a program takes 50 ms; " +
		"the kernel's own code is about as fast. Read the ratios, and those with care: kube-proxy's are worse than on the machine, " +
		"since it makes more system calls"
}

// runElsewhere runs the whole bench in a guest, and returns what it measured.
func runElsewhere(ctx context.Context, o options, k *lab.Kernel, log *slog.Logger) (*results, error) {
	dir, err := os.MkdirTemp("", "fairlead-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args, paths, err := o.guestArgs(ctx, dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	restore, err := roomForMaps(k)
	if err != nil {
		return nil, err
	}
	defer restore()
	out := &guestOutput{log: os.Stderr}
	log.Info("starting", "kernel", k.Name, "release", k.Release(), "memory_mib", o.memory)
	code, err := k.Run(ctx, lab.Job{
		Path: self, Args: args, Share: paths, Env: []string{guestEnv + "=1", "HOME=/tmp"},
		Memory: o.memory, CPU: 1, Timeout: o.limit(), Output: out,
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("the bench in the guest ended with code %d", code)
	}
	if out.results == nil {
		return nil, cmp.Or(err, errors.New("the bench in the guest had no results"))
	}
	out.results.Remarks = append(out.results.Remarks, remark(k))
	return out.results, err
}

// roomForMaps lets processes of user-mode Linux be large. Each is a process of the
// host, with a mapping for every page that is not next to the one before, and dies
// with the limit's number of them, which is a quarter of a gigabyte by default. The
// limit is put back by restore, of which an error is none of this program's: a
// higher limit does no harm.
func roomForMaps(k *lab.Kernel) (restore func(), err error) {
	const file, enough = "/proc/sys/vm/max_map_count", 1 << 21
	if k.Name != "uml" {
		return func() {}, nil
	}
	before, err := readNumber(file)
	if err != nil || before >= enough {
		return func() {}, err
	}
	write := func(n uint64) error { return os.WriteFile(file, fmt.Append(nil, n), 0) }
	return func() { _ = write(before) }, write(enough)
}

// guestArgs are the flags of this process, with the programs built here, since
// the guest has no network to fetch sources from and is slow. They are returned
// as well.
func (o options) guestArgs(ctx context.Context, dir string) (args, paths []string, err error) {
	list, err := subjects(ctx, o, dir)
	if err != nil {
		return nil, nil, err
	}
	args = append(slices.Clone(os.Args[1:]), "-kernel", kernelHost, "-o", "")
	for _, s := range list {
		name := "-kube-proxy"
		if s.name == fairleadName {
			name = "-fairlead"
		}
		args, paths = append(args, name, s.path), append(paths, s.path)
	}
	return args, paths, nil
}

// limit is the time after which a guest must hang: a generous sum of what its
// trials may take.
func (o options) limit() time.Duration {
	trial := 4*o.coldTimeout + time.Duration(o.flips+2)*2*o.flipTimeout + o.churn + 3*o.idle
	return time.Duration(o.rounds*len(o.variants)*len(o.services)*len(o.proxies))*trial + 10*time.Minute
}

// guestOutput passes on what the bench in a guest logs, and keeps its results.
type guestOutput struct {
	log     io.Writer
	line    []byte
	results *results
}

func (g *guestOutput) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		head, tail, complete := bytes.Cut(rest, []byte("\n"))
		g.line = append(g.line, head...)
		rest = tail
		if !complete {
			break
		}
		if err := g.endLine(); err != nil {
			return len(p), err
		}
	}
	return len(p), nil
}

func (g *guestOutput) endLine() error {
	line := strings.TrimRight(string(g.line), "\r")
	g.line = g.line[:0]
	text, ok := strings.CutPrefix(line, resultMark)
	if !ok {
		_, err := fmt.Fprintln(g.log, line)
		return err
	}
	g.results = &results{}
	if err := json.Unmarshal([]byte(text), g.results); err != nil {
		g.results = nil
		return fmt.Errorf("read the results of the guest: %w", err)
	}
	return nil
}

// prepareGuest makes a guest what a machine is, as far as the bench needs that:
// control groups count CPU time.
func prepareGuest() error {
	const dir = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
		return nil
	}
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	return nil
}
