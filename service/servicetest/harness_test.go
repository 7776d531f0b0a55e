package servicetest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

// A recorder is a testing.TB whose failures are the subject of a test.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper()      {}
func (r *recorder) Failed() bool { return len(r.errors) > 0 }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func resolve(s *service.Snapshot) func(service.Flow) (service.Outcome, error) {
	return func(f service.Flow) (service.Outcome, error) { return s.Resolve(f), nil }
}

func TestOracleAgreesWithItself(t *testing.T) { Oracle(t, resolve) }

// TestOracleFindsFaults breaks the oracle's own answers in ways a dataplane may,
// and requires a find, made small.
func TestOracleFindsFaults(t *testing.T) {
	tests := []struct {
		name string
		bad  func(*service.Snapshot, service.Flow, *service.Outcome)
	}{
		{"a hop too few", func(_ *service.Snapshot, _ service.Flow, o *service.Outcome) {
			if len(o.Hops) > 2 {
				o.Hops = o.Hops[1:]
			}
		}},
		{"hairpin not masqueraded", func(_ *service.Snapshot, f service.Flow, o *service.Outcome) {
			for i, h := range o.Hops {
				if h.Endpoint.Addr.Addr() == f.Src {
					o.Hops[i].Masquerade = false
				}
			}
		}},
		{"drop for reject", func(_ *service.Snapshot, _ service.Flow, o *service.Outcome) {
			if o.Verdict == service.Reject {
				o.Verdict = service.Drop
			}
		}},
		{"source ranges ignored", func(s *service.Snapshot, f service.Flow, o *service.Outcome) {
			if o.Verdict == service.Drop {
				o.Verdict = service.Pass
			}
		}},
		{"localhost node ports", func(_ *service.Snapshot, f service.Flow, o *service.Outcome) {
			if f.Dst.Addr().IsLoopback() {
				*o = service.Outcome{}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOracle(func(s *service.Snapshot) func(service.Flow) (service.Outcome, error) {
				return func(f service.Flow) (service.Outcome, error) {
					out := s.Resolve(f)
					tt.bad(s, f, &out)
					return out, nil
				}
			}, nil)
			msg := ""
			for seed := uint64(1); seed < 300 && msg == ""; seed++ {
				msg = o.world(seed, flowsPerWorld)
			}
			if msg == "" {
				t.Fatal("not found in 300 worlds")
			}
			if n := strings.Count(msg, "\nservice "); n > 1 {
				t.Errorf("the world has %d services, want at most one:\n%s", n, msg)
			}
		})
	}
}

func TestOracleReportsErrors(t *testing.T) {
	o := newOracle(func(*service.Snapshot) func(service.Flow) (service.Outcome, error) {
		return func(service.Flow) (service.Outcome, error) {
			return service.Outcome{}, errors.New("jump to a missing chain")
		}
	}, nil)
	if msg := o.world(1, 1); !strings.Contains(msg, "missing chain") {
		t.Errorf("report does not hold the error: %q", msg)
	}
}

// A textPlane is a dataplane whose kernel is a list of lines. Its flaws are what
// a Walk must find.
type textPlane struct {
	lines   map[service.PortID]string
	last    *service.Snapshot
	failure float64
	rng     *rand.Rand

	forgets   bool // trusts what it remembers after an error
	keepsOld  bool // does not remove
	keepsLast bool // leaves something at Cleanup
}

var errFault = errors.New("injected")

func newTextPlane() *textPlane {
	return &textPlane{lines: make(map[service.PortID]string), rng: rand.New(rand.NewPCG(1, 1))}
}

func (p *textPlane) fault() error {
	if p.rng.Float64() < p.failure {
		return errFault
	}
	return nil
}

func (p *textPlane) Sync(_ context.Context, s *service.Snapshot) (service.Report, error) {
	prev := p.last
	if p.last = nil; prev == nil {
		clear(p.lines)
	}
	if p.forgets {
		p.last = s
	}
	for o, n := range s.Changed(prev) {
		if err := p.fault(); err != nil {
			return service.Report{}, err
		}
		switch {
		case n != nil:
			p.lines[n.ID] = fmt.Sprint(*n)
		case !p.keepsOld:
			delete(p.lines, o.ID)
		}
	}
	p.last = s
	return service.Report{}, nil
}

func (p *textPlane) Audit(context.Context) (service.Report, error) {
	return service.Report{}, p.fault()
}

func (p *textPlane) Cleanup(context.Context) error {
	for id := range p.lines {
		if err := p.fault(); err != nil {
			return err
		}
		if p.keepsLast && len(p.lines) == 1 {
			break
		}
		delete(p.lines, id)
	}
	p.last = nil
	return nil
}

func (p *textPlane) state() []byte {
	var out []string
	for id, l := range p.lines {
		out = append(out, id.String()+" "+l+"\n")
	}
	slices.Sort(out)
	return []byte(strings.Join(out, ""))
}

func freshText(t testing.TB) func(*service.Snapshot) []byte {
	return func(s *service.Snapshot) []byte {
		p := newTextPlane()
		if _, err := p.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return p.state()
	}
}

func TestWalk(t *testing.T) {
	p := newTextPlane()
	Walk(t, p, func(prob float64) { p.failure = prob }, p.state, freshText(t))
}

func TestWalkFindsFaults(t *testing.T) {
	tests := []struct {
		name string
		flaw func(*textPlane)
		want string
	}{
		{"trusts its memory after an error", func(p *textPlane) { p.forgets = true }, "differs from a fresh start"},
		{"leaves old ports", func(p *textPlane) { p.keepsOld = true }, "differs from a fresh start"},
		{"incomplete cleanup", func(p *textPlane) { p.keepsLast = true }, "leaves something behind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newTextPlane()
			tt.flaw(p)
			r := &recorder{TB: t}
			WalkSeed(r, 1, p, func(prob float64) { p.failure = prob }, p.state, freshText(t))
			if len(r.errors) == 0 || !strings.Contains(strings.Join(r.errors, "\n"), tt.want) {
				t.Errorf("errors %q, want one with %q", r.errors, tt.want)
			}
		})
	}
}

func TestWorldsRepeat(t *testing.T) {
	for seed := range uint64(50) {
		a, b := NewWorld(seed), NewWorld(seed)
		for range 5 {
			if x, y := a.Mutate().What, b.Mutate().What; x != y {
				t.Fatalf("seed %d: %q and %q", seed, x, y)
			}
			if x, y := a.Flow(), b.Flow(); x != y {
				t.Fatalf("seed %d: %v and %v", seed, x, y)
			}
		}
		if a.String() != b.String() {
			t.Fatalf("seed %d: two worlds", seed)
		}
	}
}

// setUpdate sets the flag -update.
func setUpdate(t *testing.T, to bool) {
	t.Helper()
	if err := flag.Set("update", strconv.FormatBool(to)); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenDeviations checks the file that lists deviations both ways.
func TestGoldenDeviations(t *testing.T) {
	if golden.Update() {
		t.Skip("it writes goldens itself")
	}
	dir := t.TempDir()
	dev := func(s *service.Snapshot) (out []service.Deviation, err error) {
		for p := range s.Ports.All() {
			if p.ID.Protocol == service.SCTP {
				out = append(out, service.Deviation{Port: p.ID, Reason: "no SCTP"})
			}
		}
		return out, nil
	}
	file := filepath.Join(dir, deviationsFile)
	line := "protocol-sctp: default/diameter:dia/sctp/IPv4: no SCTP\n"
	setUpdate(t, true)
	Deviations(t, dir, dev)
	setUpdate(t, false)
	Deviations(t, dir, dev)
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(line)) {
		t.Errorf("%s: %v\n%s", file, err, b)
	}
	setUpdate(t, true)
	Deviations(t, dir, func(*service.Snapshot) ([]service.Deviation, error) { return nil, nil })
	setUpdate(t, false)
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s is still there without deviations", file)
	}
}

// TestGolden renders the corpus as text, which also shows that the order of
// objects does not matter.
func TestGolden(t *testing.T) {
	dir := t.TempDir()
	render := func(s *service.Snapshot) ([]byte, error) {
		var b bytes.Buffer
		for p := range s.Ports.All() {
			fmt.Fprintln(&b, *p, p.Internal())
		}
		fmt.Fprintln(&b, s.Node, s.Health, s.Problems)
		return b.Bytes(), nil
	}
	was := golden.Update()
	setUpdate(t, true)
	Golden(t, dir, render)
	setUpdate(t, was)
	Golden(t, dir, render)
}

func FuzzOracleItself(f *testing.F) { FuzzOracle(f, resolve) }

// TestExcept requires that an exception is honoured, and that a stale one fails.
func TestExcept(t *testing.T) {
	noSCTP := func(s *service.Snapshot, f service.Flow) string {
		if p, _ := PortOf(s, f); p != nil && p.ID.Protocol == service.SCTP {
			return "no SCTP"
		}
		return ""
	}
	pass := func(s *service.Snapshot) func(service.Flow) (service.Outcome, error) {
		return func(f service.Flow) (service.Outcome, error) {
			if noSCTP(s, f) != "" {
				return service.Outcome{}, nil
			}
			return s.Resolve(f), nil
		}
	}
	Oracle(t, pass, Except(noSCTP), Worlds(50), Seed(100))

	o := newOracle(resolve, []Option{Except(noSCTP)})
	for seed := range uint64(50) {
		o.world(seed, flowsPerWorld)
	}
	if o.excepted == 0 || o.differed != 0 {
		t.Errorf("%d flows excepted, %d differ; want some and none", o.excepted, o.differed)
	}
}
