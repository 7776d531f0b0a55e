//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kinds of worlds.
const (
	worldStandard = "standard" // N Services of a few endpoints
	worldLarge    = "large"    // few Services, of which some have many endpoints
	worldMemory   = "memory"   // as many endpoints as are to be held
	worldReal     = "real"     // standard, behind a real API server
	worldIPVS     = "ipvs"     // that of -mode ipvs, in a report
)

// world is what a proxy lives through, and with how many Services.
type world struct {
	kind      string
	services  int
	endpoints int
	brief     bool // only what every number of Services is asked
	sparse    bool // a point of the curves, and only of those that can be drawn soon
	most      bool // everything, and at every rate
}

func (w world) String() string {
	return fmt.Sprintf("%s, %s Services × %d", w.kind, thousands(w.services), w.endpoints)
}

// widths are the numbers of endpoints of the large Services.
func (w world) widths() []int {
	if w.kind == worldLarge {
		return []int{1, 10, 100, 250, 1000, 5000}
	}
	return []int{faithEndpoints}
}

// suiteProbes is how many probe Services there are. Those that others disturbed are
// used up as well.
const suiteProbes = 80

func (w world) spec() spec {
	s := spec{Services: w.services, Probes: suiteProbes, Endpoints: w.endpoints, Large: w.widths(), Loads: true}
	if w.kind == worldReal {
		s.Large, s.Loads, s.Probes = nil, false, suiteProbes/2
	}
	return s
}

// takes reports whether an entrant has a part in a world. In sparse ones kube-proxy has it
// where it comes to an end in seconds.
func (w world) takes(e entrant) bool {
	return !w.sparse || e.subject.name == fairleadName || e.variant == legacy
}

// worlds are those to be measured, those that say most first. With -full no world
// is brief; without it, numbers of Services that are neither the first nor 1,000
// are, and sparse if they are above that.
func (b *bench) worlds() []world {
	o := b.options
	var list []world
	standard := slices.ContainsFunc(sceneNames(), func(s string) bool {
		return o.wants(s) && !slices.Contains([]string{sceneRolling, sceneWidth, sceneValidate, sceneIdle, sceneMemory}, s)
	})
	for i, n := range o.services {
		if brief := !o.full && i > 0 && n != 1000; standard {
			list = append(list, world{
				kind: worldStandard, services: n, endpoints: o.endpoints, brief: brief, sparse: brief && n > 1000, most: o.full || i == 0,
			})
		}
	}
	at := min(2, len(list)) // after the first two
	if o.wants(sceneRolling) || o.wants(sceneWidth) {
		list = slices.Insert(list, at, world{kind: worldLarge, services: 100, endpoints: o.endpoints, brief: !o.full})
	}
	if o.wants(sceneMemory) || o.wants(sceneIdle) {
		for _, w := range memoryWorlds(o.full, o.services[0]) {
			list = slices.Insert(list, at, w)
		}
	}
	if o.wants(sceneValidate) {
		list = append(list, world{kind: worldReal, services: min(1000, slices.Max(o.services)), endpoints: o.endpoints, brief: true})
	}
	return list
}

// memoryWorlds have 10 endpoints for each of some Services, and with -full also
// a tenth and half as many.
func memoryWorlds(full bool, most int) []world {
	list := []world{{kind: worldMemory, services: most, endpoints: 10, brief: true}}
	if full && most >= 10 {
		half, tenth := list[0], list[0]
		half.services, tenth.services = most/2, most/10
		list = append(list, half, tenth)
	}
	return list
}

// suiteTrial is a trial of the suite.
type suiteTrial struct {
	*trial
	world world
	moved int   // endpoints that were given new addresses
	spied *spy  // how the programs of legacy iptables are called; nil before the restart
	had   lines // the rules before that
}

// scene is a phase and the scenario it is of.
type scene struct {
	id    string
	again bool // may be repeated
	dear  bool // left out for proxies that are slow
	phase
}

// scenes are what a proxy lives through, in order.
func (t *suiteTrial) scenes() []scene {
	list := []scene{
		{id: sceneCold, phase: phase{"cold start", t.coldStart}},
		{id: sceneMemory, phase: phase{"memory after start", func(ctx context.Context) error { return t.weigh(ctx, startRSS, startPeak, startHeap) }}},
	}
	switch t.world.kind {
	case worldLarge:
		return append(list, t.rollingScenes()...)
	case worldMemory:
		return append(list, t.churnScene(20), t.memoryAfter())
	}
	list = append(list, scene{id: sceneChange, again: true, phase: phase{"isolated changes", t.changes}})
	for _, rate := range t.options.churnRates() {
		if t.world.most || !t.world.sparse && (rate == 20) {
			list = append(list, t.churnScene(rate))
		}
	}
	if !t.world.sparse {
		list = append(list, t.memoryAfter())
	}
	if !t.world.brief && t.world.kind != worldReal {
		list = append(list, t.wholeScenes()...)
	} else {
		list = append(list, scene{id: sceneMemory, phase: phase{"peaks", t.peaks}})
	}
	if t.variant.usesIptables() && t.world.kind != worldReal {
		list = append(list, scene{id: sceneChange, again: true, phase: phase{"the kernel's floor", t.floor}})
	}
	return list
}

// wholeScenes are those that only some worlds have.
func (t *suiteTrial) wholeScenes() []scene {
	var list []scene
	whole := t.world.most || t.options.only != ""
	if whole {
		list = append(list,
			scene{id: sceneFaith, again: true, phase: phase{"who is connected to", t.faith}},
			scene{id: sceneFleet, dear: true, phase: phase{"Services come and go", t.fleet}})
	}
	list = append(list,
		scene{id: sceneMemory, phase: phase{"peaks", t.peaks}},
		scene{id: sceneRestart, dear: true, phase: phase{"restart", t.restartChanged}},
		scene{id: sceneRestart, dear: true, phase: phase{"restart without a change", t.restartUnchanged}},
	)
	if whole {
		list = append(list, scene{id: sceneRelist, dear: true, phase: phase{"relist", t.relist}})
	}
	return list
}

// rollingScenes are one for each large Service, and without -full only for the smallest and
// the largest.
func (t *suiteTrial) rollingScenes() []scene {
	const least = 250
	var list []scene
	for k, n := range t.world.widths() {
		if n < least || t.world.brief && n > least && n < slices.Max(t.world.widths()) {
			continue
		}
		list = append(list, scene{id: sceneRolling, phase: phase{
			fmt.Sprintf("rolling update of %d", n), func(ctx context.Context) error { return t.rolling(ctx, k, n) },
		}})
	}
	return list
}

func (t *suiteTrial) churnScene(rate int) scene {
	return scene{id: sceneChurn, again: true, phase: phase{fmt.Sprintf("churn at %d/s", rate), func(ctx context.Context) error { return t.churnAt(ctx, rate) }}}
}

func (t *suiteTrial) memoryAfter() scene {
	return scene{id: sceneMemory, phase: phase{"memory after churn", func(ctx context.Context) error {
		return t.weigh(ctx, churnRSS, churnPeak, churnHeap)
	}}}
}

// errNoisy is that others disturbed a cold start.
var errNoisy = errors.New("others disturbed the cold start")

// live runs the scenes. What a proxy fails to do is noted in the outcome, and ends
// its trial; an error is the harness's own, ctx's, or errNoisy.
func (t *suiteTrial) live(ctx context.Context) error {
	var left []string
	defer func() { t.leftOut(left) }()
	for _, s := range t.scenes() {
		needed := s.id == sceneCold || s.id == sceneChurn && t.world.kind == worldMemory || t.world.kind == worldReal
		if !needed && !t.options.wants(s.id) {
			continue
		}
		if s.dear && t.slow() {
			left = append(left, s.name)
			continue
		}
		t.log.Info("phase", "name", s.name)
		err := t.measured(ctx, s)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", s.name, context.Cause(ctx)) // not the proxy's fault
		case errors.Is(err, errNoisy):
			return err
		case err != nil:
			problem := fmt.Errorf("%s: %w", s.name, errors.Join(err, t.run.ended()))
			t.out.problem(problem)
			t.log.Warn("a phase failed", "err", problem)
			if s.id == sceneCold || t.run.ended() != nil {
				return nil
			}
		}
		if err := t.tell(); err != nil {
			return err
		}
	}
	return nil
}

// slowStart is the time of a cold start above which a proxy is slow.
const slowStart = 10 * time.Second

// slow says that the proxy would take most of the time there is for all.
func (t *suiteTrial) slow() bool {
	took := t.out.Values[coldAll]
	return !t.options.full && len(took) > 0 && median(took) > slowStart.Seconds()
}

// leftOut notes scenes that a slow proxy did not come to.
func (t *suiteTrial) leftOut(names []string) {
	if len(names) > 0 {
		t.out.problem(fmt.Errorf("left out for time, because its cold start took more than %v: %s", slowStart, strings.Join(names, ", ")))
	}
}

// measured runs a scene, and notes how much of the machine others used meanwhile. If
// that was too much it does it again, and what it had measured is forgotten.
func (t *suiteTrial) measured(ctx context.Context, s scene) error {
	const long = 2 * time.Second // of CPU time that there is; the kernel counts in ticks
	for attempt := 0; ; attempt++ {
		before := cloneValues(t.out.Values)
		begun := time.Now()
		from, err := t.effort()
		if err != nil {
			return err
		}
		if err := s.run(ctx); err != nil {
			return err
		}
		to, err := t.effort()
		if err != nil {
			return err
		}
		t.out.spend(s.name, time.Since(begun))
		share := foreign(from, to)
		if t.real {
			return nil // the API server is among the others
		}
		noisy := to.machine.total-from.machine.total > long && share > t.options.maxForeign
		if noisy && s.id == sceneCold {
			return errNoisy
		}
		if noisy && s.again && attempt < t.options.repeats {
			t.out.Values = before
			t.out.drop(s.name)
			t.log.Warn("others disturbed this; once more", "foreign_percent", int(share))
			continue
		}
		t.out.noise(s.name, share)
		return nil
	}
}

func cloneValues(m map[metric][]float64) map[metric][]float64 {
	c := maps.Clone(m)
	for name, list := range c {
		c[name] = slices.Clone(list)
	}
	return c
}

// finalist ends the proxy, unless it is itself the data path, or is to be watched while
// nothing happens.
func (t *suiteTrial) finalist() (*finalist, error) {
	f := &finalist{contender: contender{t.network, t.out}, spec: t.spec, variant: t.variant}
	kept := t.variant == userspace || t.world.kind == worldMemory && t.options.wants(sceneIdle)
	if kept && t.run.ended() == nil {
		f.run = t.run
		return f, nil
	}
	err := errors.Join(t.run.close(), t.network.replay.close())
	t.network.replay = nil // its objects are many
	if err != nil {
		return nil, errors.Join(err, t.network.close())
	}
	return f, nil
}
