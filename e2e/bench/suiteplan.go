//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// worlds are those to be measured, those that say most first. With -full no world
// is brief; without it, numbers of Services that are neither the largest nor 1,000
// are.
func (b *bench) worlds() []world {
	o := b.options
	var list []world
	standard := slices.ContainsFunc(sceneNames(), func(s string) bool {
		return o.wants(s) && s != sceneRolling && s != sceneWidth && s != sceneValidate
	})
	for i, n := range o.services {
		if standard && o.only != sceneMemory {
			list = append(list, world{worldStandard, n, o.endpoints, !o.full && i > 0 && n != 1000, o.full || i == 0})
		}
	}
	at := min(2, len(list)) // after the first two
	if o.wants(sceneRolling) || o.wants(sceneWidth) {
		list = slices.Insert(list, at, world{worldLarge, 100, o.endpoints, !o.full, false})
	}
	if o.wants(sceneMemory) {
		for _, w := range memoryWorlds(o.full, slices.Max(o.services)) {
			list = slices.Insert(list, at, w)
		}
	}
	if o.wants(sceneValidate) {
		list = append(list, world{worldReal, min(1000, slices.Max(o.services)), o.endpoints, true, false})
	}
	return list
}

// memoryWorlds have 10 endpoints for each of the most Services, and with -full also
// a tenth and half as many.
func memoryWorlds(full bool, most int) []world {
	list := []world{{worldMemory, most, 10, true, false}}
	if full && most >= 10 {
		list = append(list, world{worldMemory, most / 2, 10, true, false}, world{worldMemory, most / 10, 10, true, false})
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
	phase
}

// scenes are what a proxy lives through, in order.
func (t *suiteTrial) scenes() []scene {
	list := []scene{
		{sceneCold, false, phase{"cold start", t.coldStart}},
		{sceneMemory, false, phase{"memory after start", func(ctx context.Context) error { return t.weigh(ctx, startRSS, startPeak, startHeap) }}},
	}
	switch t.world.kind {
	case worldLarge:
		for k, n := range t.world.widths() {
			if n >= 250 {
				list = append(list, scene{sceneRolling, false, phase{fmt.Sprintf("rolling update of %d", n), func(ctx context.Context) error { return t.rolling(ctx, k, n) }}})
			}
		}
		return list
	case worldMemory:
		return append(list, t.churnScene(20), t.memoryAfter())
	}
	if t.options.full || slices.Contains(t.options.scenes(), sceneIdle) {
		list = append(list, scene{sceneIdle, true, phase{"idle", t.idle}})
	}
	list = append(list, scene{sceneChange, true, phase{"isolated changes", t.changes}})
	for _, rate := range t.options.churnRates() {
		if t.world.most || rate == 20 || rate == 1000 && !t.world.brief {
			list = append(list, t.churnScene(rate))
		}
	}
	list = append(list, t.memoryAfter())
	if t.world.brief || t.world.kind == worldReal {
		return append(list, scene{sceneMemory, false, phase{"peaks", t.peaks}})
	}
	if t.world.most || t.options.only != "" {
		list = append(list,
			scene{sceneFaith, true, phase{"who is connected to", t.faith}},
			scene{sceneFleet, false, phase{"Services come and go", t.fleet}})
	}
	return append(list,
		scene{sceneMemory, false, phase{"peaks", t.peaks}},
		scene{sceneRestart, false, phase{"restart", t.restart}},
		scene{sceneRelist, false, phase{"relist", t.relist}},
	)
}

func (t *suiteTrial) churnScene(rate int) scene {
	return scene{sceneChurn, true, phase{fmt.Sprintf("churn at %d/s", rate), func(ctx context.Context) error { return t.churnAt(ctx, rate) }}}
}

func (t *suiteTrial) memoryAfter() scene {
	return scene{sceneMemory, false, phase{"memory after churn", func(ctx context.Context) error {
		return t.weigh(ctx, churnRSS, churnPeak, churnHeap)
	}}}
}

// errNoisy is that others disturbed a cold start.
var errNoisy = errors.New("others disturbed the cold start")

// live runs the scenes. What a proxy fails to do is noted in the outcome, and ends
// its trial; an error is the harness's own, ctx's, or errNoisy.
func (t *suiteTrial) live(ctx context.Context) error {
	for _, s := range t.scenes() {
		needed := s.id == sceneCold || s.id == sceneChurn && t.world.kind == worldMemory || t.world.kind == worldReal
		if !needed && !t.options.wants(s.id) {
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

// measured runs a scene, and notes how much of the machine others used meanwhile. If
// that was too much it does it again, and what it had measured is forgotten.
func (t *suiteTrial) measured(ctx context.Context, s scene) error {
	const long = 2 * time.Second // of CPU time that there is; the kernel counts in ticks
	for attempt := 0; ; attempt++ {
		before := cloneValues(t.out.Values)
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

// finalist ends the proxy, unless it is itself the data path.
func (t *suiteTrial) finalist() (*finalist, error) {
	f := &finalist{contender: contender{t.network, t.out}, spec: t.spec, variant: t.variant}
	if t.variant == userspace && t.run.ended() == nil {
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
