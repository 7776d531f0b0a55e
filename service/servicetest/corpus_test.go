package servicetest

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/service"
)

func loadCorpus(t testing.TB) []*Case {
	t.Helper()
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestCorpusCoverage(t *testing.T) {
	text, err := corpusFS.ReadFile("corpus/COVERAGE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9.]+/\S+) \|`).FindAllSubmatch(text, -1) {
		if _, ok := rows[string(m[1])]; ok {
			t.Errorf("COVERAGE.md: row %s is there twice", m[1])
		}
		rows[string(m[1])] = nil
	}
	cases := loadCorpus(t)
	if got, want := len(cases), 120; got < want {
		t.Errorf("%d cases, want at least %d", got, want)
	}
	for _, c := range cases {
		for _, r := range c.Covers {
			if _, ok := rows[r]; !ok {
				t.Errorf("%s: covers %s, which is not in COVERAGE.md", c.Name, r)
			}
			rows[r] = append(rows[r], c.Name)
		}
	}
	for _, r := range slices.Sorted(maps.Keys(rows)) {
		if len(rows[r]) == 0 {
			t.Errorf("row %s is covered by no case", r)
		}
	}
}

// TestCorpus holds package service against what the cases expect of everybody.
func TestCorpus(t *testing.T) {
	for _, c := range loadCorpus(t) {
		t.Run(c.Name, func(t *testing.T) {
			for i, snap := range c.Snapshots(t) {
				s := &c.Steps[i]
				checkFlows(t, c, s, snap)
				checkProblems(t, c, s, snap)
				checkPorts(t, c, s, snap)
			}
		})
	}
}

func checkFlows(t *testing.T, c *Case, s *Step, snap *service.Snapshot) {
	t.Helper()
	for _, f := range s.Flows {
		got, why := snap.Explain(f.Flow)
		if d := cmp.Diff(f.Want, got, outcomes); d != "" {
			t.Errorf("%s.txtar:%d: %s\n(-want +got)\n%s%s", c.Name, f.Line, f.Text, d, strings.Join(why, "\n"))
		}
	}
}

func checkProblems(t *testing.T, c *Case, s *Step, snap *service.Snapshot) {
	t.Helper()
	line := func(kind string, n service.Name, reason string) string { return kind + " " + n.String() + " " + reason }
	var got, want []string
	for _, p := range slices.Concat(s.conversionProblems(), snap.Problems) {
		got = append(got, line(p.Object.Kind, p.Object.Name, p.Reason))
	}
	for _, p := range s.Problems {
		want = append(want, line(p.Kind, p.Object, p.Reason))
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Compact(got), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s.txtar:%d: problems (-want +got)\n%s", c.Name, s.Line, d)
	}
}

func checkPorts(t *testing.T, c *Case, s *Step, snap *service.Snapshot) {
	t.Helper()
	var health []service.HealthPort
	for _, h := range s.Health {
		health = append(health, h.Want)
	}
	if d := cmp.Diff(health, snap.Health, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s.txtar:%d: health (-want +got)\n%s", c.Name, s.Line, d)
	}
	ports := make(map[service.PortID]*service.Port)
	for p := range snap.Ports.All() {
		ports[p.ID] = p
		a := AffinityExpect{Service: p.ID.Service, Port: p.ID.Port}
		for _, e := range s.Affinity {
			if e.Service == p.ID.Service && e.Port == p.ID.Port {
				a = e
			}
		}
		if p.Affinity != a.Want {
			t.Errorf("%s.txtar:%d: affinity of %s is %v, want %v", c.Name, a.Line, p.ID, p.Affinity, a.Want)
		}
	}
	checkScheduling(t, c, s, snap)
	for _, e := range s.Pools {
		p := ports[e.Port]
		if p == nil {
			t.Errorf("%s.txtar:%d: there is no port %s", c.Name, e.Line, e.Port)
			continue
		}
		got := map[string]service.Pool{"cluster": p.Cluster, "serving": p.Serving, "departing": p.Departing}[e.Which]
		if d := cmp.Diff(e.Want, got, outcomes); d != "" {
			t.Errorf("%s.txtar:%d: %s (-want +got)\n%s", c.Name, e.Line, e.Which, d)
		}
	}
	for _, e := range s.Internal {
		p := ports[e.Port]
		if p == nil {
			t.Errorf("%s.txtar:%d: there is no port %s", c.Name, e.Line, e.Port)
			continue
		}
		got := service.Outcome{Verdict: p.Internal().Verdict}
		for _, ep := range p.Internal().Pool {
			got.Hops = append(got.Hops, service.Hop{Endpoint: service.Endpoint{Addr: ep.Addr}})
		}
		if d := cmp.Diff(e.Want, got, outcomes); d != "" {
			t.Errorf("%s.txtar:%d: internal (-want +got)\n%s", c.Name, e.Line, d)
		}
	}
}

func checkScheduling(t *testing.T, c *Case, s *Step, snap *service.Snapshot) {
	t.Helper()
	want := make(map[service.Name]SchedulingExpect)
	for _, e := range s.Scheduling {
		want[e.Service] = e
		if !slices.ContainsFunc(slices.Collect(snap.Ports.All()), func(p *service.Port) bool { return p.ID.Service == e.Service }) {
			t.Errorf("%s.txtar:%d: %s has no port", c.Name, e.Line, e.Service)
		}
	}
	for p := range snap.Ports.All() {
		if e := want[p.ID.Service]; p.Scheduling != e.Want {
			t.Errorf("%s.txtar:%d: scheduling of %s is %+v, want %+v", c.Name, e.Line, p.ID, p.Scheduling, e.Want)
		}
	}
}

// outcomes lets cmp look into addresses; an empty list is no list.
var outcomes = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b service.Endpoint) bool { return a == b }),
}
