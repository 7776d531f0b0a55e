package ingresstest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// TestCorpus plays every step of every case, each built from nothing.
func TestCorpus(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			for _, s := range c.Steps {
				m := ingress.Build(s.Objects, c.Config.Build(c.Globals))
				check(t, c, s, m)
			}
		})
	}
}

// TestCorpusIncremental plays the steps of each case on one Builder.
func TestCorpusIncremental(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			b := ingress.NewBuilder(c.Config.Build(c.Globals))
			var before ingress.Objects
			for _, s := range c.Steps {
				Move(b, before, s.Objects)
				before = s.Objects
				b.Commit()
				check(t, c, s, b.Model())
			}
		})
	}
}

func load(t *testing.T) []*Case {
	t.Helper()
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func check(t *testing.T, c *Case, s *Step, m *ingress.Model) {
	t.Helper()
	h := NewHarness(m, s.Services, c.Config.DefaultBackend)
	for _, r := range s.Requests {
		if got := h.Answer(r); got != r.Want {
			t.Errorf("line %d: request %s\n got %+v\nwant %+v", r.Line, r.Text, got, r.Want)
		}
	}
	for _, e := range s.Certs {
		if got := m.Certs[e.Host]; !slices.Equal(got, e.Secrets) {
			t.Errorf("line %d: cert %s: got %v, want %v", e.Line, e.Host, got, e.Secrets)
		}
	}
	got := make(map[string]string)
	for host, key := range m.Passthrough {
		got[host] = key.String()
	}
	want := make(map[string]string)
	for _, e := range s.Passthrough {
		want[e.Host] = e.Service.String() + ":" + e.Port
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("line %d: passthrough (-got +want):\n%s", s.Line, diff)
	}
	if s.Served != nil && !slices.Equal(m.Served, s.Served) {
		t.Errorf("line %d: served: got %v, want %v", s.Line, m.Served, s.Served)
	}
	checkProblems(t, s, m.Problems)
}

func checkProblems(t *testing.T, s *Step, problems []service.Problem) {
	t.Helper()
	var got, want []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s %s %s", p.Object.Kind, p.Object.Name, p.Reason))
	}
	for _, e := range s.Problems {
		want = append(want, fmt.Sprintf("%s %s %s", e.Kind, e.Object, e.Reason))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("line %d, step %q: problems (-got +want):\n%s", s.Line, s.Name, diff)
		for _, p := range problems {
			t.Log(p.Reason, p)
		}
	}
}

// TestCoverage: each promise has a case, and no case claims to show what is not promised.
func TestCoverage(t *testing.T) {
	rows, err := Coverage()
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	for _, c := range load(t) {
		for _, row := range c.Covers {
			shown[row] = true
			if !slices.Contains(rows, row) {
				t.Errorf("case %s covers %s, which is no row of COVERAGE.md", c.Name, row)
			}
		}
	}
	for _, row := range rows {
		if !shown[row] {
			t.Errorf("no case covers %s", row)
		}
	}
}
