package servicetest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

// Golden compares what render makes of every case with DIR/CASE.golden. Steps
// after the first stand below a line "=== step NAME". It fails for a golden that
// is missing or belongs to no case, and when objects that arrive in another
// order render differently. With -update it rewrites and deletes.
func Golden(t *testing.T, dir string, render func(*service.Snapshot) ([]byte, error)) {
	t.Helper()
	read := make(map[string]bool)
	for c := range Corpus() {
		name := c.Name + ".golden"
		read[name] = true
		t.Run(c.Name, func(t *testing.T) {
			got := renderCase(t, c, c.Snapshots(t), render)
			for seed := range uint64(2) {
				if d := cmp.Diff(string(got), string(renderCase(t, c, c.shuffled(seed), render))); d != "" {
					t.Errorf("objects in another order (seed %d) render differently (-sorted +shuffled)\n%s", seed, d)
				}
			}
			golden.File(t, filepath.Join(dir, name), string(got))
		})
	}
	sweepGoldens(t, dir, read)
}

func renderCase(t *testing.T, c *Case, snaps []*service.Snapshot, render func(*service.Snapshot) ([]byte, error)) []byte {
	t.Helper()
	var out []byte
	for i, snap := range snaps {
		if i > 0 {
			out = fmt.Appendf(out, "=== step %s\n", c.Steps[i].Name)
		}
		b, err := render(snap)
		if err != nil {
			t.Fatalf("render step %d: %v", i, err)
		}
		out = append(out, b...)
		if len(out) > 0 && out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
	}
	return out
}

// shuffled returns the Snapshots of c from one new Store each, told the objects
// in random order.
func (c *Case) shuffled(seed uint64) []*service.Snapshot {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []*service.Snapshot
	for i := range c.Steps {
		store := service.NewStore()
		sets := []func(){func() { store.SetNode(c.Node) }}
		for _, o := range c.Steps[i].Services {
			if v, _ := kube.Service(o); v != nil {
				sets = append(sets, func() { store.SetService(v) })
			}
		}
		for _, o := range c.Steps[i].Slices {
			if v, _ := kube.Slice(o); v != nil {
				sets = append(sets, func() { store.SetSlice(v) })
			}
		}
		rng.Shuffle(len(sets), func(a, b int) { sets[a], sets[b] = sets[b], sets[a] })
		for _, set := range sets {
			set()
		}
		out = append(out, store.Snapshot())
	}
	return out
}

// sweepGoldens fails for, or deletes, goldens that no case reads.
func sweepGoldens(t *testing.T, dir string, read map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if read[filepath.Base(f)] || filepath.Base(f) == deviationsFile {
			continue
		}
		if !golden.Update() {
			t.Errorf("%s belongs to no case", f)
		} else if err := os.Remove(f); err != nil {
			t.Error(err)
		}
	}
}

// deviationsFile is where Deviations keeps its lines, in the folder of goldens.
const deviationsFile = "deviations.golden"

// Deviations compares the deviations a dataplane reports for the corpus with
// DIR/deviations.golden: one line "CASE[/STEP]: PORTID: REASON" each, sorted. A
// deviation that is not in the file fails, and so does one that no longer
// happens. Without any deviation there must be no file.
func Deviations(t *testing.T, dir string, report func(*service.Snapshot) ([]service.Deviation, error)) {
	t.Helper()
	var lines []string
	for c := range Corpus() {
		for i, snap := range c.Snapshots(t) {
			devs, err := report(snap)
			if err != nil {
				t.Fatalf("%s step %d: %v", c.Name, i, err)
			}
			where := c.Name
			if i > 0 {
				where += "/" + c.Steps[i].Name
			}
			for _, d := range devs {
				lines = append(lines, fmt.Sprintf("%s: %s: %s\n", where, d.Port, d.Reason))
			}
		}
	}
	slices.Sort(lines)
	got := strings.Join(slices.Compact(lines), "")
	file := filepath.Join(dir, deviationsFile)
	if got != "" {
		golden.File(t, file, got)
		return
	}
	switch _, err := os.Stat(file); {
	case err == nil && golden.Update():
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	case err == nil:
		t.Errorf("%s lists deviations that no longer happen", file)
	case !errors.Is(err, fs.ErrNotExist):
		t.Error(err)
	}
}
