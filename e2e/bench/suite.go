//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// modeSuite is the whole comparison: every proxy in every way it has to put
// Services in force, on this kernel, in worlds of several sizes.
const modeSuite mode = "suite"

// Names of scenarios, as -only takes them.
const (
	sceneCold     = "C1" // cold start
	sceneRestart  = "C2" // restart with everything in force
	sceneChange   = "C3" // one endpoint changes
	sceneChurn    = "C4" // many do, at several rates
	sceneRolling  = "C5" // a large Service gets all its endpoints anew
	sceneFleet    = "C6" // Services come and go, one and a namespace
	sceneRelist   = "C7" // the API server forgets; the node's zone changes
	sceneMemory   = "M1" // memory against the number of endpoints
	sceneConnect  = "D1" // connect() to the first, middle, last and no Service
	sceneCRR      = "D2" // a connection for each request
	sceneRR       = "D3" // requests on connections that stay
	sceneWidth    = "D6" // connect() to a Service of 1 to 5,000 endpoints
	sceneFaith    = "D7" // who is connected to while endpoints change
	sceneIdle     = "I1" // nothing happens
	sceneValidate = "V1" // C1, C3 and C4 with a real API server
)

func sceneNames() []string {
	return []string{
		sceneCold, sceneRestart, sceneChange, sceneChurn, sceneRolling, sceneFleet, sceneRelist, sceneMemory,
		sceneConnect, sceneCRR, sceneRR, sceneWidth, sceneFaith, sceneIdle, sceneValidate,
	}
}

// suiteOptions are the flags of the suite.
type suiteOptions struct {
	full       bool
	rates      []int
	maxForeign float64 // per cent of the machine
	repeats    int     // of a phase that others disturbed
	nftTimeout time.Duration
	phaseLimit time.Duration
	budget     time.Duration
}

// limitTime is how long a run may take: with -full, -only or in rounds, as long as it takes.
func (o options) limitTime() time.Duration {
	if o.full || o.rounds > 1 || o.only != "" {
		return 0
	}
	return o.budget
}

func (o *suiteOptions) defineSuite(flags *flag.FlagSet) {
	flags.BoolVar(&o.full, "full", false, "with -mode suite: every scenario at every number of Services, and longer")
	flags.Func("rates", "with -mode suite: changes per second of C4 (default 20,200,1000; with -full also 1)", func(text string) (err error) {
		o.rates = nil
		for field := range strings.SplitSeq(text, ",") {
			rate, rerr := strconv.Atoi(field)
			o.rates, err = append(o.rates, rate), errors.Join(err, rerr)
		}
		return err
	})
	flags.Float64Var(&o.maxForeign, "max-foreign", 10, "with -mode suite: per cent of the machine that others may use before a phase is thrown away")
	flags.IntVar(&o.repeats, "repeats", 1, "with -mode suite: how often a phase is done again because others disturbed it")
	flags.DurationVar(&o.nftTimeout, "nft-timeout", 30*time.Second, "with -mode suite: time given to a proxy to start with iptables-nft")
	flags.DurationVar(&o.phaseLimit, "phase-limit", 15*time.Second, "with -mode suite: time after which C3 and C6 make no further change")
	flags.DurationVar(&o.budget, "budget", 26*time.Minute, "with -mode suite: worlds for which this leaves no time are left out; 0 measures all, as do -full, -only and -rounds")
}

func (o options) validateSuite() error {
	var errs []error
	for _, s := range o.scenes() {
		if o.mode == modeSuite && !slices.Contains(sceneNames(), s) {
			errs = append(errs, fmt.Errorf("-only: %q is none of %s", s, strings.Join(sceneNames(), ", ")))
		}
	}
	for _, r := range o.rates {
		if r < 1 {
			errs = append(errs, errors.New("-rates: must be at least 1"))
		}
	}
	if o.mode == modeSuite && o.kernel != kernelAuto && o.kernel != kernelHost {
		errs = append(errs, errors.New("-kernel: -mode suite runs on the host"))
	}
	return errors.Join(errs...)
}

// churnRates are the rates of C4.
func (o options) churnRates() []int {
	switch {
	case len(o.rates) > 0:
		return o.rates
	case o.full:
		return []int{1, 20, 200, 1000}
	}
	return []int{20, 200, 1000}
}

// wants reports whether a scenario was asked for.
func (o options) wants(scene string) bool {
	asked := o.scenes()
	return len(asked) == 0 && scene != sceneValidate || slices.Contains(asked, scene)
}

// scenes are those that -only names; none means all but the validation.
func (o options) scenes() []string {
	if o.only == "" {
		return nil
	}
	return strings.Split(o.only, ",")
}

// entrant is a proxy in one of its ways.
type entrant struct {
	subject subject
	variant variant
}

func (e entrant) String() string { return e.subject.name + " " + string(e.variant) }

// entrants are the combinations there are, so that those to be compared with each
// other take turns.
func (b *bench) entrants() []entrant {
	var list []entrant
	for _, v := range b.options.variants {
		for _, s := range b.subjects {
			ours := s.name == fairleadName
			tuned := s.name == kubeProxyTunedName // by flags, of which the mode nftables has none
			if v == nftables && (ours || tuned) || v == userspace && !ours {
				continue
			}
			list = append(list, entrant{s, v})
		}
	}
	return list
}

// runSuite measures everything that was asked for. What was measured is written
// after each trial, so that it is there when the run is cut short.
func runSuite(ctx context.Context, o options, log *slog.Logger) error {
	dir, err := os.MkdirTemp("", "fairlead-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, log: log, shims: map[variant]string{}}
	if b.subjects, err = subjects(ctx, o, dir); err != nil {
		return err
	}
	for _, v := range o.variants {
		if !v.usesIptables() {
			if err := os.MkdirAll(filepath.Join(dir, string(v)), 0o755); err != nil {
				return err
			}
			b.shims[v], err = nft.shim(filepath.Join(dir, string(v)))
		} else {
			b.shims[v], err = v.shim(dir)
		}
		if err != nil {
			return err
		}
	}
	e := describe(ctx, b)
	b.tell = func() error { return b.save(e) }
	err = b.suite(ctx)
	if len(b.outcomes) == 0 {
		return err
	}
	return errors.Join(err, b.save(e), summarize(os.Stdout, results{e, b.remarks, b.outcomes}))
}

// save writes the results to the file that was asked for, whole or not at all.
func (b *bench) save(e environment) error {
	if b.options.output == "" {
		return nil
	}
	f, err := os.Create(b.options.output + ".new")
	if err != nil {
		return err
	}
	if err := errors.Join(writeJSON(f, b, e), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), b.options.output)
}

// suite runs one world after the other, those that say most first.
func (b *bench) suite(ctx context.Context) error {
	b.budget = budget{begun: time.Now(), limit: b.options.limitTime()}
	for round := range b.options.rounds {
		list := b.worlds()
		for i, w := range list {
			if !b.schedule(list, i) {
				continue
			}
			begun := time.Now()
			if err := b.contest(ctx, w, round+1); err != nil {
				return fmt.Errorf("%v, round %d: %w", w, round+1, err)
			}
			b.budget.end(w.planned(b.options, b.entrants()), time.Since(begun))
		}
	}
	return nil
}

// contest has every entrant live through a world, and then compares the data paths
// of all.
func (b *bench) contest(ctx context.Context, w world, round int) (err error) {
	if w.kind == worldReal {
		return b.validation(ctx, w, round)
	}
	var all []*finalist
	defer func() {
		for _, f := range all {
			err = errors.Join(err, f.close())
		}
	}()
	for _, e := range b.entrants() {
		if !w.takes(e) || b.hopeless(w, e) {
			continue
		}
		f, err := b.enter(ctx, w, e, round)
		if err != nil {
			return err
		}
		if f != nil {
			all = append(all, f)
		}
		if err := b.report(); err != nil {
			return err
		}
	}
	return b.dataPaths(ctx, w, all, round)
}

// hopeless notes, and reports, that an entrant came to no end where it had no more to
// do than in a world: that is then a bound for this world as well.
func (b *bench) hopeless(w world, e entrant) bool {
	for _, o := range b.outcomes {
		least, late := o.AtLeast[coldAll]
		if !late || len(o.Values[coldAll]) > 0 || o.Proxy != e.subject.name || o.Variant != e.variant ||
			o.Services > w.services || o.Endpoints > w.endpoints || o.World == w.kind && o.Services == w.services {
			continue
		}
		b.log.Info("left out: it did not start with fewer endpoints", "proxy", e.String(), "world", w.String())
		out := &outcome{World: w.kind, Proxy: e.subject.name, Variant: e.variant, Services: w.services, Endpoints: w.endpoints}
		out.atLeast(coldAll, least)
		out.problem(errors.New("left out: it did not start with fewer endpoints"))
		b.outcomes = append(b.outcomes, out)
		return true
	}
	return false
}

// enter is the trial of one entrant: once more from the beginning if others
// disturbed its cold start. It returns nil if the entrant was left out.
func (b *bench) enter(ctx context.Context, w world, e entrant, round int) (*finalist, error) {
	for attempt := 0; ; attempt++ {
		out := &outcome{
			World: w.kind, Proxy: e.subject.name, Variant: e.variant, Services: w.services, Endpoints: w.endpoints, Round: round,
		}
		t, err := b.trial(ctx, w, e, out)
		if err != nil {
			return nil, err
		}
		b.outcomes = append(b.outcomes, out)
		err = t.live(ctx)
		if errors.Is(err, errNoisy) && attempt < b.options.repeats {
			t.log.Warn("others disturbed the cold start; once more")
			b.outcomes = b.outcomes[:len(b.outcomes)-1]
			if err := errors.Join(t.run.close(), t.network.close()); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil && !errors.Is(err, errNoisy) {
			return nil, errors.Join(err, t.run.close(), t.network.close())
		}
		return t.finalist()
	}
}

// trial starts an entrant in a world.
func (b *bench) trial(ctx context.Context, w world, e entrant, out *outcome) (*suiteTrial, error) {
	o := b.options
	if e.variant == nft {
		o.coldTimeout = min(o.coldTimeout, o.nftTimeout)
	}
	log := b.log.With("proxy", e.String(), "world", w.String(), "round", out.Round)
	t, err := newTrial(ctx, trial{
		options: o, subject: e.subject, variant: e.variant, shim: b.shims[e.variant], out: out, log: log, tell: b.report,
		spec: w.spec(), real: w.kind == worldReal,
	})
	if err != nil {
		return nil, err
	}
	return &suiteTrial{trial: t, world: w}, nil
}

// finalist is the network of an entrant after its trial, with its rules in it.
type finalist struct {
	contender
	spec    spec
	variant variant
	run     *running // nil unless its data path is the proxy itself
}

func (f *finalist) close() error {
	var err error
	if f.run != nil {
		err = f.run.close()
	}
	return errors.Join(err, f.network.close())
}
