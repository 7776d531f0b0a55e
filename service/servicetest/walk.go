package servicetest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// Odds of a Walk.
const (
	walkSteps  = 60  // random snapshots of one world
	walkFaults = 0.1 // chance of an injected fault while they are on
	walkTries  = 4   // Syncs with faults on before they are switched off
)

// Walk drives dp from state to state and requires that after each successful
// Sync the kernel is as if dp had been started fresh for that Snapshot.
//
// It walks through random snapshots of a world, then through the same ones
// backwards, then through some of them with the rest left out, then to and fro
// among the cases of the corpus; with random Audits in between. All the while
// fault(p) makes the kernel edge fail with probability p (a nil fault makes no
// faults); a Sync that fails with faults is retried, one that fails without
// fails the test. Lastly Cleanup, twice, must leave what there was before.
//
// state returns the kernel's state in a canonical text, and fresh the state that
// a new dataplane on an empty kernel leaves after one Sync without faults.
func Walk(t *testing.T, dp service.Dataplane, fault func(p float64), state func() []byte, fresh func(*service.Snapshot) []byte) {
	t.Helper()
	for _, seed := range []uint64{1, 2, 3} {
		WalkSeed(t, seed, dp, fault, state, fresh)
		if t.Failed() {
			t.Fatalf("the walk of seed %d failed", seed)
		}
		if testing.Short() {
			return
		}
	}
}

// WalkSeed is one Walk with the random choices of seed.
func WalkSeed(t testing.TB, seed uint64, dp service.Dataplane, fault func(p float64), state func() []byte, fresh func(*service.Snapshot) []byte) {
	t.Helper()
	if fault == nil {
		fault = func(float64) {}
	}
	w := &walker{
		t: t, dp: dp, fault: fault, state: state, fresh: fresh,
		rng:   rand.New(rand.NewPCG(seed, 2)),
		empty: state(),
	}
	snaps := worldSnapshots(seed, walkSteps)
	for _, s := range snaps {
		w.step("forward", s)
	}
	for _, s := range slices.Backward(snaps) {
		w.step("backward", s)
	}
	for i := 0; i < len(snaps); i += 1 + w.rng.IntN(9) {
		w.step("squashed", snaps[i])
	}
	w.corpus()
	w.end()
}

// worldSnapshots returns n Snapshots of one Store as a random world changes.
func worldSnapshots(seed uint64, n int) []*service.Snapshot {
	world := NewWorld(seed)
	store := world.Store()
	var out []*service.Snapshot
	for range n {
		out = append(out, store.Snapshot())
		for range 1 + world.rng.IntN(4) {
			world.Mutate().Apply(store)
		}
	}
	return out
}

// A walker is the state of a Walk.
type walker struct {
	t     testing.TB
	dp    service.Dataplane
	fault func(p float64)
	state func() []byte
	fresh func(*service.Snapshot) []byte
	rng   *rand.Rand
	empty []byte
	steps int
}

// step brings dp to snap, through faults, and looks.
func (w *walker) step(leg string, snap *service.Snapshot) {
	w.t.Helper()
	if w.t.Failed() {
		return // one difference is enough; the following ones are its consequence
	}
	w.steps++
	w.attempt("Sync", func() error {
		_, err := w.dp.Sync(w.t.Context(), snap)
		return err
	})
	if w.rng.IntN(5) == 0 {
		w.attempt("Audit", func() error {
			_, err := w.dp.Audit(w.t.Context())
			return err
		})
	}
	if d := diffLines(w.fresh(snap), w.state()); d != "" {
		w.t.Errorf("step %d (%s, rev %d): state differs from a fresh start (-fresh +state)\n%s", w.steps, leg, snap.Rev, d)
	}
}

// attempt does something with faults until it succeeds, at last without them.
func (w *walker) attempt(what string, do func() error) {
	w.t.Helper()
	defer w.fault(0)
	for range walkTries {
		w.fault(walkFaults)
		if do() == nil {
			return
		}
	}
	w.fault(0)
	if err := do(); err != nil {
		w.t.Errorf("step %d: %s without faults: %v", w.steps, what, err)
	}
}

// corpus jumps among the cases, each jump from anywhere to anywhere.
func (w *walker) corpus() {
	w.t.Helper()
	var snaps []*service.Snapshot
	for c := range Corpus() {
		snaps = append(snaps, c.Snapshots(w.t)...)
	}
	w.rng.Shuffle(len(snaps), func(i, j int) { snaps[i], snaps[j] = snaps[j], snaps[i] })
	for _, s := range snaps[:min(len(snaps), walkSteps)] {
		w.step("corpus", s)
	}
}

func (w *walker) end() {
	w.t.Helper()
	for _, what := range []string{"Cleanup", "second Cleanup"} {
		w.attempt(what, func() error { return w.dp.Cleanup(w.t.Context()) })
		if d := diffLines(w.empty, w.state()); d != "" {
			w.t.Errorf("%s leaves something behind (-before +after)\n%s", what, d)
		}
	}
}

func diffLines(a, b []byte) string {
	if string(a) == string(b) {
		return ""
	}
	return cmp.Diff(strings.Split(string(a), "\n"), strings.Split(string(b), "\n"))
}
