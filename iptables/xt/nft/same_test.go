package nft_test

import (
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

var allTables = []xt.Table{xt.NAT, xt.Filter, xt.Mangle}

// newRunner returns a Runner that must do without the tool.
func newRunner(t *testing.T) *nft.Runner {
	return nft.New(nft.Config{Tool: noTool{tool(t), t}, Tables: allTables, Log: slog.New(slog.DiscardHandler)})
}

// A side is a world, and who writes there.
type side struct {
	*world
	run xt.Runner
	*iptables.Dataplane
}

// A pair is two worlds in which the same happens: in one the tools write, in the other
// only we do.
type pair struct {
	tools, ours side
	steps       int
	most        int // tables, chains and rules there have been at once
}

func newPair(t *testing.T, cfg iptables.Config) *pair {
	t.Helper()
	p := &pair{tools: side{newWorld(t), tool(t), nil}, ours: side{newWorld(t), newRunner(t), nil}}
	p.restart(t, cfg)
	return p
}

// restart puts new Dataplanes in the place of those that are there.
func (p *pair) restart(t *testing.T, cfg iptables.Config) {
	t.Helper()
	for _, s := range []*side{&p.tools, &p.ours} {
		var err error
		if s.Dataplane, err = iptables.New(cfg, s.run, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// both has the same done in both worlds, and compares everything the kernel then has,
// and what the tool says of it.
func (p *pair) both(t *testing.T, when string, do func(s side) error) {
	t.Helper()
	for _, s := range []side{p.tools, p.ours} {
		s.do(func() {
			if err := do(s); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		})
	}
	p.steps++
	for _, f := range []xt.Family{xt.IPv4, xt.IPv6} {
		lines := func() ([]string, error) { return dump(f) }
		got, want := inside(t, p.ours.world, lines), inside(t, p.tools.world, lines)
		if !slices.Equal(got, want) {
			t.Fatalf("%s: the kernel has without the tools (-) and with them (+):\n%s", when, cmp.Diff(got, want))
		}
		p.most = max(p.most, len(got))
		if p.steps%10 != 1 { // to ask the tools takes longer than all else
			continue
		}
		text := func() (string, error) { return saved(t, f) }
		if d := cmp.Diff(inside(t, p.ours.world, text), inside(t, p.tools.world, text)); d != "" {
			t.Fatalf("%s: iptables-save without the tools (-) and with them (+):\n%s", when, d)
		}
	}
}

func (p *pair) sync(t *testing.T, when string, snap *service.Snapshot) {
	t.Helper()
	p.both(t, when, func(s side) error {
		_, err := s.Sync(t.Context(), snap)
		return err
	})
}

func (p *pair) cleanup(t *testing.T, when string) {
	t.Helper()
	p.both(t, when, func(s side) error { return s.Cleanup(t.Context()) })
}

// TestSameAsTheTools goes through the whole corpus, with a restart now and then, and
// through some of it from nothing and back to it. Several walks go on at the same time
// because tools mostly wait for the kernel.
func TestSameAsTheTools(t *testing.T) {
	walks, of := 4, 4
	if testing.Short() {
		walks, of = 1, 10
	}
	for k := range walks {
		t.Run(fmt.Sprint("walk ", k), func(t *testing.T) {
			t.Parallel()
			n := 0
			walk(t, func(yield func(*servicetest.Case) bool) {
				for c := range servicetest.Corpus() {
					if n++; n%of == k && !yield(c) {
						return
					}
				}
			})
		})
	}
}

func walk(t *testing.T, cases iter.Seq[*servicetest.Case]) {
	plain := iptables.DefaultConfig()
	plain.Log = slog.New(slog.DiscardHandler)
	other := plain
	other.BPF, other.RandomFully, other.DropInvalid, other.MasqueradeBit = false, false, false, 31
	p := newPair(t, plain)
	n := 0
	for c := range cases {
		snaps := c.Snapshots(t)
		switch n++; n % 10 {
		case 3:
			p.restart(t, other)
		case 9:
			p.restart(t, plain)
		case 0:
			cold := newPair(t, plain)
			cold.sync(t, c.Name+", from nothing", snaps[0])
			cold.cleanup(t, c.Name+", to nothing")
		}
		for i, snap := range snaps {
			p.sync(t, fmt.Sprintf("%s, step %d", c.Name, i), snap)
		}
	}
	p.cleanup(t, "at the end")
	t.Logf("%d cases in %d steps, at most %d tables, chains and rules at once", n, p.steps, p.most)
	if n < 20 || p.most < 50 {
		t.Error("there is more than that in the corpus")
	}
}
