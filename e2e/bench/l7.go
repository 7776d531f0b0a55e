//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// modeL7 compares fairlead l7 with nginx and HAProxy as reverse proxies of HTTP.
const modeL7 mode = "l7"

// l7Options are the flags of that mode.
type l7Options struct {
	nginx, wrk string // names or paths
	routes     int    // hosts in the scenario with many
	only       string // scenarios, with commas; empty: all
	accessLog  bool
	profile    string // folder
	std        bool   // fairlead with net/http, too
}

func (o *l7Options) defineL7(flags *flag.FlagSet) {
	flags.StringVar(&o.nginx, "nginx", "nginx", "name or path of nginx, for -mode l7")
	flags.StringVar(&o.wrk, "wrk", "wrk", "name or path of wrk, which makes the load of -mode l7")
	flags.IntVar(&o.routes, "routes", 10_000, "hosts in the scenario with many, with -mode l7")
	flags.StringVar(&o.only, "only", "", "scenarios to run: with -mode l7 of "+strings.Join(l7Keys(), ", ")+", with -mode suite of "+strings.Join(sceneNames(), ", ")+"; empty means all")
	flags.BoolVar(&o.accessLog, "access-log", true, "with -mode l7, every proxy logs every request")
	flags.BoolVar(&o.std, "std", false, "with -mode l7, fairlead with --http-engine=std as one more proxy")
	flags.StringVar(&o.profile, "profile", "", "with -mode l7, folder for a CPU profile of fairlead in each scenario; the figures of that run count for nothing")
}

func (o options) validateL7() error {
	if o.mode != modeL7 {
		return nil
	}
	var errs []error
	if o.load < 500*time.Millisecond {
		errs = append(errs, errors.New("-load must be at least 500ms"))
	}
	if o.routes < 1 || o.routes > 50_000 {
		errs = append(errs, errors.New("-routes must be between 1 and 50000"))
	}
	for _, key := range o.chosen() {
		if !slices.Contains(l7Keys(), key) {
			errs = append(errs, fmt.Errorf("-only: there is no scenario %q", key))
		}
	}
	if o.kernel != kernelAuto && o.kernel != kernelHost {
		errs = append(errs, errors.New("-kernel: -mode l7 runs on the host"))
	}
	return errors.Join(errs...)
}

// chosen are the scenarios to run.
func (o l7Options) chosen() []string {
	if o.only == "" {
		return l7Keys()
	}
	return strings.Split(o.only, ",")
}

// l7Scenario is a load.
type l7Scenario struct {
	key, title string
	path       string
	conns      int
	tls        bool
	anew       bool // a connection for each request
	many       bool // of hosts
	body       int  // bytes of each answer
}

const (
	l7SmallBody = 256
	l7LargeBody = 1 << 20
)

func l7Scenarios() []l7Scenario {
	return []l7Scenario{
		{key: "small", title: "small answers, kept connections", path: "/small", conns: 64, body: l7SmallBody},
		{key: "tls", title: "small answers, kept TLS connections", path: "/small", conns: 64, tls: true, body: l7SmallBody},
		{key: "handshakes", title: "small answers, a TLS connection for each", path: "/small", conns: 16, tls: true, anew: true, body: l7SmallBody},
		{key: "large", title: "1 MiB answers, kept connections", path: "/large", conns: 16, body: l7LargeBody},
		{key: "routes", title: "small answers, many hosts", path: "/small", conns: 64, many: true, body: l7SmallBody},
	}
}

func l7Keys() []string {
	var keys []string
	for _, s := range l7Scenarios() {
		keys = append(keys, s.key)
	}
	return keys
}

// l7Contest is a comparison of reverse proxies.
type l7Contest struct {
	options options
	log     *slog.Logger
	arena   *l7Arena
	rivals  []*l7Rival
	samples []sample
	softirq []int // the kernel's threads for packets
	remarks []string
	rounds  int // that were finished
	started time.Time
}

// all begins no round that would end after the limit, by what the one before took.
func (c *l7Contest) all(ctx context.Context) error {
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

// round lets every rival have every load. Those of one load follow each other, and a different one
// begins each time.
func (c *l7Contest) round(ctx context.Context, round int) error {
	turn := round
	for _, s := range l7Scenarios() {
		if !slices.Contains(c.options.chosen(), s.key) {
			continue
		}
		for i := range c.rivals {
			r := c.rivals[(i+turn)%len(c.rivals)]
			if !r.takes(s) {
				continue
			}
			if err := c.measure(ctx, r, s, round); err != nil {
				return fmt.Errorf("round %d, %s, %s: %w", round+1, r.name, s.key, err)
			}
		}
		turn++
	}
	c.rounds++
	return nil
}

// runL7 compares, and reports what there is even if it was cut short.
func runL7(ctx context.Context, o options, log *slog.Logger) (err error) {
	c := &l7Contest{options: o, log: log, started: time.Now()}
	if c.rivals, err = l7Rivals(o); err != nil {
		return err
	}
	if c.softirq, err = threadsFor("ksoftirqd/"); err != nil {
		return err
	}
	if c.arena, err = newL7Arena(o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.arena.close()) }()
	for _, r := range c.rivals {
		log.Info("starting", "rival", r.name)
		if err := c.enter(ctx, r); err != nil {
			return fmt.Errorf("start %s: %w", r.name, err)
		}
	}
	err = c.all(ctx)
	if len(c.samples) == 0 {
		return err
	}
	return errors.Join(err, c.report(ctx))
}
