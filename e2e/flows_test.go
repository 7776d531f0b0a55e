//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/lab"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A corpusRun is one way to run the corpus.
type corpusRun struct {
	name   string
	mode   world.Mode
	tools  string // value of --iptables-variant
	worlds int    // played in at once; much of the time goes into waiting for nothing to come
	source func(*testing.T, *world.World) world.Source
	plays  func(*servicetest.Case) bool
	lacks  []string // schedulers the kernel does not have
}

func corpusRuns() []corpusRun {
	return []corpusRun{
		{"manifests-nft", world.IPTables, "nft", 2, newManifests, everything, nil},
		{"manifests-legacy", world.IPTables, "legacy", 2, newManifests, everything, nil},
		{"api-nft", world.IPTables, "nft", 2, newAPI, admitted, nil},
		{"userspace-nft", world.Userspace, "nft", 2, newManifests, everything, nil},
		{"userspace-legacy", world.Userspace, "legacy", 2, newManifests, everything, nil},
	}
}

func everything(*servicetest.Case) bool { return true }

// admitted are the cases whose objects an API server takes.
func admitted(c *servicetest.Case) bool { return !c.ManifestOnly }

func newManifests(t *testing.T, _ *world.World) world.Source {
	return world.NewManifests(t.TempDir())
}

// apiStart has API servers start one after the other: each takes a CPU for itself,
// and gives up if it does not get enough of it.
var apiStart sync.Mutex

func newAPI(t *testing.T, w *world.World) world.Source {
	apiStart.Lock()
	defer apiStart.Unlock()
	a, err := world.NewAPI(t.Context(), w, controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// TestFlows plays every flow of the corpus as real packets, in every variant.
func TestFlows(t *testing.T) {
	playAll(t, requireWorld(t), corpusRuns())
}

// playAll plays runs beside each other.
func playAll(t *testing.T, binary string, runs []corpusRun) {
	var wg sync.WaitGroup
	for _, v := range runs {
		wg.Go(func() { t.Run(v.name, func(t *testing.T) { playCorpus(t, v, binary) }) })
	}
	wg.Wait()
}

// requireWorld skips the test if it cannot be run here, and returns the fairlead
// to test.
func requireWorld(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("sends real packets through network namespaces")
	}
	err, must := world.Usable()
	if err != nil && must {
		t.Fatalf("%s is set: %v", world.Require, err)
	}
	if err != nil {
		t.Skip(err)
	}
	binary, err := world.Binary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

func newWorld(t *testing.T, cfg world.Config) *world.World {
	t.Helper()
	w, err := world.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close world: %v", err)
		}
	})
	return w
}

// playCorpus deals the cases out to worlds of their own. Cases that need another
// world than most have one each.
func playCorpus(t *testing.T, v corpusRun, binary string) {
	var usual, special []*servicetest.Case
	for c := range servicetest.Corpus() {
		if !v.plays(c) {
			continue
		}
		c, err := world.Deviate(c, c.Snapshots(t), world.Deviations(v.mode, v.lacks...))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case world.Needs(c) == world.Config{}:
			usual = append(usual, c)
		default:
			special = append(special, c)
		}
	}
	s := &score{}
	begin := time.Now()
	deal := make(chan *servicetest.Case, len(usual))
	for _, c := range usual {
		deal <- c
	}
	close(deal)
	var wg sync.WaitGroup
	for i := range v.worlds {
		wg.Go(func() {
			t.Run(fmt.Sprintf("world%d", i), func(t *testing.T) {
				play(t, v, binary, world.Config{}, deal, s)
			})
		})
	}
	for _, c := range special {
		one := make(chan *servicetest.Case, 1)
		one <- c
		close(one)
		wg.Go(func() {
			t.Run("special", func(t *testing.T) { play(t, v, binary, world.Needs(c), one, s) })
		})
	}
	wg.Wait()
	t.Logf("%d cases, %d flows, %d probes in %.0f s; not played: %v",
		len(usual)+len(special), s.total.Flows, s.total.Probes, time.Since(begin).Seconds(), s.total.NotPlayed)
}

// A score adds up what several worlds play.
type score struct {
	mu    sync.Mutex
	total world.Report
}

func (s *score) add(r world.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.Add(r)
}

func play(t *testing.T, v corpusRun, binary string, cfg world.Config, deal <-chan *servicetest.Case, s *score) {
	w := newWorld(t, cfg)
	r := world.Runner{World: w, Source: v.source(t, w), Program: world.FairleadMode(binary, v.mode, v.tools)}
	for c := range deal {
		t.Run(c.Name, func(t *testing.T) {
			r.OnFailure = func(_ *servicetest.Case, p *world.Proxy) {
				t.Logf("state of n1: %s\nfairlead says:\n%s", dump(t, w, v.mode, v.tools), p.Tail(20))
			}
			rep, err := r.Run(t.Context(), c)
			s.add(rep)
			for _, f := range rep.Failures {
				t.Error(f)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// dump writes what n1 holds to files and returns their names. Of the lab no file is
// left, so there it goes to the log.
func dump(t *testing.T, w *world.World, mode world.Mode, tools string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	commands := []string{"iptables-" + tools + "-save", "ip6tables-" + tools + "-save"}
	if mode.IPVS() {
		commands = append(commands, ipvsState()...)
	}
	var names []string
	for _, cmd := range commands {
		words := strings.Fields(cmd)
		out, err := w.N1.Output(ctx, words[0], words[1:]...)
		if err != nil {
			out = err.Error()
		}
		if os.Getenv(lab.Inside) != "" {
			t.Logf("%s:\n%.6000s", cmd, out)
			continue
		}
		name := filepath.Join(t.ArtifactDir(), strings.ReplaceAll(cmd, " ", "_")+".txt")
		if err := os.WriteFile(name, []byte(out), 0o644); err != nil {
			t.Log(err)
		}
		names = append(names, name)
	}
	return names
}
