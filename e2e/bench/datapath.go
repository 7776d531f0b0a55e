//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// loadConns is how many connections there are at a time.
func loadConns(k load.Kind) int {
	return map[load.Kind]int{load.Ping: 64, load.Connect: 16, load.Bulk: 2}[k]
}

// loadWarmup is before each load.
const loadWarmup = 200 * time.Millisecond

// sample is what one load came to with one rival.
type sample struct {
	Rival    string  `json:"rival"`
	Scenario string  `json:"scenario"`
	Kind     string  `json:"kind"`
	Round    int     `json:"round"`
	Rate     float64 `json:"rate"`  // requests per second, or bytes per second
	Whole    float64 `json:"whole"` // CPU seconds per request or byte: clients, endpoints, proxy and kernel
	Proxy    float64 `json:"proxy"` // CPU seconds of the proxy's own process, likewise
	Foreign  float64 `json:"foreign_percent"`
	Slowest  float64 `json:"slowest_seconds"`
	Failed   int64   `json:"failed,omitempty"`
	Why      string  `json:"why,omitempty"`
}

// expense is CPU time at a moment.
type expense struct {
	machine machine
	whole   time.Duration // this process with clients and endpoints, the proxy, and the kernel's threads for packets
	proxy   time.Duration
}

// spent is the difference of two, for one operation.
func (s *sample) spent(from, to expense, got load.Result) {
	n := float64(max(got.Operations, 1))
	s.Rate = float64(got.Operations) / got.Elapsed.Seconds()
	s.Whole = (to.whole - from.whole).Seconds() / n
	s.Proxy = (to.proxy - from.proxy).Seconds() / n
	s.Slowest = got.Slowest.Seconds()
	s.Foreign = foreign(
		effort{machine: from.machine, self: from.whole},
		effort{machine: to.machine, self: to.whole})
	s.Failed = got.Failed
	if got.FirstError != nil {
		s.Why = got.FirstError.Error()
	}
}

// contest is a comparison of data paths.
type contest struct {
	options options
	log     *slog.Logger
	rivals  []*rival
	softirq []int // the kernel's threads for packets
	samples []sample
	remarks []string
	rounds  int // that were finished
}

// threadsFor finds the kernel's threads whose names begin with a prefix.
func threadsFor(prefix string) ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), prefix) {
			continue // others come and go
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// processCPU is the time of one process, without children.
func processCPU(pid int) (time.Duration, error) {
	m := &procMeter{}
	m.pid.Store(int64(pid))
	return m.cpu()
}

func (c *contest) expense(pid int) (e expense, err error) {
	var usage syscall.Rusage
	if e.machine, err = readMachine(); err != nil {
		return e, err
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return e, err
	}
	e.whole = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if e.proxy, err = processCPU(pid); err != nil {
		return e, err
	}
	e.whole += e.proxy
	for _, thread := range c.softirq {
		used, err := processCPU(thread)
		if err != nil {
			return e, err
		}
		e.whole += used
	}
	return e, nil
}

// measure makes one load.
func (c *contest) measure(ctx context.Context, r *rival, s scenario, k load.Kind, round int) error {
	var marks []expense
	mark := func() error {
		e, err := c.expense(r.arena.pid())
		marks = append(marks, e)
		return err
	}
	l := load.Load{Kind: k, Target: r.target(s, k), Conns: loadConns(k), Warmup: loadWarmup, Duration: c.options.load}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*c.options.load+10*time.Second, errors.New("the load does not end"))
	defer cancel()
	got, err := r.apply(ctx, s, l, mark)
	if err != nil {
		return errors.Join(err, r.arena.ended())
	}
	out := sample{Rival: r.name, Scenario: s.String(), Kind: k.String(), Round: round + 1}
	out.spent(marks[0], marks[1], got)
	c.samples = append(c.samples, out)
	c.log.Debug("load", "rival", r.name, "scenario", out.Scenario, "kind", out.Kind, "rate", out.Rate, "failed", got.Failed)
	return nil
}

// round lets every rival have every load. Those of one load follow each other, and
// a different one begins each time.
func (c *contest) round(ctx context.Context, round int) error {
	turn := round
	for _, s := range scenarios() {
		for _, k := range c.options.loads {
			for i := range c.rivals {
				r := c.rivals[(i+turn)%len(c.rivals)]
				if err := c.measure(ctx, r, s, k, round); err != nil {
					return fmt.Errorf("round %d, %s, %v, %v: %w", round+1, r.name, s, k, err)
				}
			}
			turn++
		}
	}
	c.rounds++
	return nil
}

// all begins no round that would end after the limit, by what the one before took.
func (c *contest) all(ctx context.Context) error {
	begun := time.Now()
	for round := range c.options.rounds {
		each := time.Since(begun) / time.Duration(max(round, 1))
		if round > 0 && time.Since(begun)+each > c.options.limitUserspace {
			c.remarks = append(c.remarks, fmt.Sprintf("%d of %d rounds were made within %v (-limit)", round, c.options.rounds, c.options.limitUserspace))
			return nil
		}
		c.log.Info("round", "number", round+1)
		if err := c.round(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

// runContest compares, and reports what there is even if it was cut short.
func runContest(ctx context.Context, o options, log *slog.Logger) (err error) {
	if err := netns.Usable(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fairlead-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &contest{options: o, log: log}
	if c.rivals, err = rivals(ctx, o, dir); err != nil {
		return err
	}
	if c.softirq, err = threadsFor("ksoftirqd/"); err != nil {
		return err
	}
	defer func() {
		for _, r := range slices.Backward(c.rivals) {
			err = errors.Join(err, r.leave())
		}
	}()
	for _, r := range c.rivals {
		log.Info("starting", "rival", r.name)
		if err := r.enter(ctx); err != nil {
			return err
		}
	}
	err = c.all(ctx)
	if len(c.samples) == 0 {
		return err
	}
	return errors.Join(err, c.report(ctx))
}
