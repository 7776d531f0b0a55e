package gates

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKnown reads the whole list, and looks for gates that kube-proxy itself reads.
func TestKnown(t *testing.T) {
	want := map[string]Gate{
		"AllAlpha":                      {"AllAlpha", false, "ALPHA", false},
		"NFTablesProxyMode":             {"NFTablesProxyMode", true, "GA", true},
		"ComponentFlagz":                {"ComponentFlagz", true, "BETA", false},
		"LoggingAlphaOptions":           {"LoggingAlphaOptions", false, "ALPHA", false},
		"PreferSameTrafficDistribution": {"PreferSameTrafficDistribution", true, "GA", true},
	}
	seen := 0
	for _, g := range Known() {
		switch g.Stage {
		case "ALPHA", "BETA", "GA", "DEPRECATED":
		default:
			t.Errorf("gate %s: stage %q", g.Name, g.Stage)
		}
		if w, ok := want[g.Name]; ok {
			seen++
			if d := cmp.Diff(g, w); d != "" {
				t.Errorf("gate %s (-got +want):\n%s", g.Name, d)
			}
		}
	}
	if seen != len(want) {
		t.Errorf("found %d of %d gates that must be there", seen, len(want))
	}
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		set     string
		changed string // gates that differ from their default
		err     string
	}{
		{set: ""},
		{set: "ComponentFlagz=false", changed: "ComponentFlagz=false"},
		{set: "NFTablesProxyMode=true"},
		{set: "NFTablesProxyMode=false", err: "cannot set feature gate NFTablesProxyMode to false, feature is locked to true"},
		{set: "NoSuchGate=true", err: "unrecognized feature gate: NoSuchGate"},
		{set: "ProxyTerminatingEndpoints=true", err: "unrecognized feature gate: ProxyTerminatingEndpoints"}, // as in 1.36
	} {
		t.Run(c.set, func(t *testing.T) {
			set, err := Parse(c.set)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Resolve(set)
			if c.err != "" || err != nil {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			changed := make(map[string]bool)
			for _, g := range Known() {
				if got[g.Name] != g.Default {
					changed[g.Name] = got[g.Name]
				}
			}
			if got := Format(changed); got != c.changed {
				t.Errorf("changed: %s, want %s", got, c.changed)
			}
		})
	}
}

// TestResolveAll turns on what a gate for others turns on.
func TestResolveAll(t *testing.T) {
	got, err := Resolve(map[string]bool{"AllAlpha": true, "LoggingAlphaOptions": false})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range Known() {
		want := g.Default || g.Stage == "ALPHA" && g.Name != "LoggingAlphaOptions"
		if got[g.Name] != want {
			t.Errorf("gate %s: %t, want %t", g.Name, got[g.Name], want)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := Parse(" A=true , B = 0,,")
	if err != nil {
		t.Fatal(err)
	}
	if text := Format(got); text != "A=true,B=false" {
		t.Errorf("got %s, want A=true,B=false", text)
	}
	for _, bad := range []string{"A", "A=maybe", "A:true"} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", bad, got)
		}
	}
}
