package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A dashboard is as much of one of Grafana's as is looked at.
type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	SchemaVersion int      `json:"schemaVersion"`
	Tags          []string `json:"tags"`
	Templating    struct {
		List []struct {
			Name, Type string
			Datasource *datasource
			Definition string
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type datasource struct{ Type, UID string }

type panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Datasource  *datasource `json:"datasource"`
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		RefID      string `json:"refId"`
		Expr       string `json:"expr"`
		Datasource *datasource
	} `json:"targets"`
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	out := make(map[string]dashboard)
	for _, name := range []string{"grafana-l4.json", "grafana-l7.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = d
	}
	return out
}

// source is where every panel takes its numbers from: what is chosen in the
// dashboard.
func (d *datasource) chosen() bool {
	return d != nil && d.Type == "prometheus" && d.UID == "${datasource}"
}

func TestDashboards(t *testing.T) {
	seen := make(map[string]string)
	for name, d := range dashboards(t) {
		if d.UID == "" || len(d.UID) > 40 || seen[d.UID] != "" || d.Title == "" || d.SchemaVersion < 36 || !slices.Contains(d.Tags, "fairlead") {
			t.Errorf("%s: uid %q, title %q, schema %d, tags %v", name, d.UID, d.Title, d.SchemaVersion, d.Tags)
		}
		seen[d.UID] = name
		vars := map[string]bool{"__rate_interval": true}
		for i, v := range d.Templating.List {
			vars[v.Name] = true
			if i == 0 != (v.Type == "datasource") || v.Type == "query" && !v.Datasource.chosen() {
				t.Errorf("%s: variable %d is %q, a %s", name, i, v.Name, v.Type)
			}
			if v.Type == "query" {
				checkExpression(t, name+" variable "+v.Name, v.Definition, vars)
			}
		}
		checkPanels(t, name, d.Panels, vars)
	}
}

func checkPanels(t *testing.T, name string, panels []panel, vars map[string]bool) {
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	graphs := 0
	for _, p := range panels {
		at := fmt.Sprintf("%s: panel %d, %q", name, p.ID, p.Title)
		if ids[p.ID] || p.Title == "" {
			t.Errorf("%s: the number is taken, or there is no title", at)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s lies at %+v", at, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %q", at, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		graphs++
		if !slices.Contains([]string{"timeseries", "stat", "heatmap"}, p.Type) || !p.Datasource.chosen() || len(p.Targets) == 0 || p.Description == "" {
			t.Errorf("%s: a %s of %v with %d expressions, described as %q", at, p.Type, p.Datasource, len(p.Targets), p.Description)
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if q.RefID == "" || refs[q.RefID] || !q.Datasource.chosen() {
				t.Errorf("%s: expression %q is not usable", at, q.RefID)
			}
			refs[q.RefID] = true
			checkExpression(t, at, q.Expr, vars)
		}
	}
	if graphs < 15 {
		t.Errorf("%s has only %d panels", name, graphs)
	}
}

// checkExpression wants every metric to be one that fairlead has, and every
// variable to be one of the dashboard. Whether it can be parsed, Prometheus says.
func checkExpression(t *testing.T, at, expr string, vars map[string]bool) {
	t.Helper()
	generic := regexp.MustCompile(`^(process|go|rest_client|kubernetes)_`)
	names := known(t)
	bare := regexp.MustCompile(`\b[a-z0-9_]+:[a-z0-9_:]+`).ReplaceAllString(expr, "") // recorded
	found := 0
	for _, name := range regexp.MustCompile(`\b(kubeproxy|fairlead|process|go|rest_client|kubernetes)_[a-z0-9_]+`).FindAllString(bare, -1) {
		found++
		if !names[name] && !generic.MatchString(name) {
			t.Errorf("%s: fairlead has no metric %s", at, name)
		}
	}
	if found == 0 && bare == expr && !strings.HasPrefix(expr, "up ") {
		t.Errorf("%s: no metric of fairlead is in %q", at, expr)
	}
	for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(expr, -1) {
		if !vars[m[1]] {
			t.Errorf("%s: there is no variable $%s", at, m[1])
		}
	}
}

// A rule is one of Prometheus.
type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

func TestRules(t *testing.T) {
	text, err := os.ReadFile("fairlead.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	recorded := make(map[string]bool)
	alerts := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			at := g.Name + " " + r.Record + r.Alert
			checkExpression(t, at, r.Expr, nil)
			for _, name := range regexp.MustCompile(`\b[a-z]+:[a-z0-9_:]+`).FindAllString(r.Expr, -1) {
				if !recorded[name] {
					t.Errorf("%s: nobody has recorded %s before", at, name)
				}
			}
			if r.Record != "" {
				recorded[r.Record] = true
				continue
			}
			if alerts[r.Alert] || !strings.HasPrefix(r.Alert, "Fairlead") {
				t.Errorf("%s: the name is taken, or could be anybody's", at)
			}
			alerts[r.Alert] = true
			if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", at, r.Labels["severity"])
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: does not say what is wrong and what to do", at)
			}
		}
	}
	if len(alerts) < 15 || len(recorded) < 5 {
		t.Errorf("only %d alerts and %d recorded series", len(alerts), len(recorded))
	}
}
