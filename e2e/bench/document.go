//go:build linux

package main

import (
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// The text of the document, with places for what was measured.
//
//go:embed performance.md.tmpl
var documentText embed.FS

// document generates docs/performance.md and its plots from files of results:
//
//	bench report [-docs docs] FILE...
func document(args []string) error {
	flags := flag.NewFlagSet("bench report", flag.ContinueOnError)
	docs := flags.String("docs", "docs", "folder to write performance.md and img/ to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("report: name files that -o has written")
	}
	var all []results
	for _, path := range flags.Args() {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r results
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		all = append(all, r)
	}
	f := merge(all)
	if err := os.MkdirAll(filepath.Join(*docs, "img"), 0o755); err != nil {
		return err
	}
	drawn := f.plots()
	for name, text := range drawn {
		if err := os.WriteFile(filepath.Join(*docs, "img", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	text, err := f.document(slices.Sorted(maps.Keys(drawn)))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*docs, "performance.md"), []byte(text), 0o644)
}

// document fills the template. A chapter without figures leaves nothing behind.
func (f figures) document(drawn []string) (string, error) {
	byID := map[string]chapter{}
	for _, c := range append(f.chapters(), f.realChapters()...) {
		byID[c.id] = c
	}
	t, err := template.New("performance.md.tmpl").Funcs(template.FuncMap{
		"table": func(id string) (string, error) {
			c, ok := byID[id]
			if !ok {
				return "", fmt.Errorf("there is no chapter %q", id)
			}
			if text := strings.TrimSpace(f.table(c)); text != "" {
				return text, nil
			}
			return "Not measured in these runs.", nil
		},
		"plot": func(name, title string) string {
			if !slices.Contains(drawn, plotFile(name)) {
				return ""
			}
			return fmt.Sprintf("![%s](img/%s)", title, plotFile(name))
		},
		"targets":  func() string { return strings.TrimSpace(f.targets()) },
		"problems": func() string { return strings.TrimSpace(f.problems()) },
		"versions": func() string { return strings.TrimSpace(f.versions()) },
		"ipvs":     f.tablesIPVS,
	}).ParseFS(documentText, "performance.md.tmpl")
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, nil)
	return out.String(), err
}

func plotFile(name string) string { return "performance-" + name + ".svg" }

// tablesIPVS are the tables of runs with -mode ipvs, as that mode prints them.
func (f figures) tablesIPVS() string {
	b := &bench{options: options{mode: modeIPVS, endpoints: 10, rate: 20, churn: 1}}
	e := environment{Iptables: map[variant]string{}}
	for _, known := range f.environments {
		if known.Mode == modeIPVS {
			e = known
		}
	}
	for _, o := range f.outcomes {
		if o.World != worldIPVS {
			continue
		}
		b.outcomes = append(b.outcomes, o)
		if o.Proxy != noProxy && !b.has(o.Proxy) {
			b.subjects = append(b.subjects, subject{name: o.Proxy})
		}
	}
	var out strings.Builder
	for _, c := range combinations(b.outcomes) {
		writeTable(&out, b, c, e)
	}
	if out.Len() == 0 {
		return "Not measured in these runs."
	}
	return strings.TrimSpace(out.String())
}

// drawing says what to draw.
type drawing struct {
	name, title, x, y, kind string
	row                     row
	across                  func(p point) float64
}

func services(p point) float64  { return float64(p.services) }
func endpoints(p point) float64 { return float64(p.services * p.endpoints) }

func drawings() []drawing {
	number := "Services of 5 endpoints"
	return []drawing{
		{"cold", "Cold start: until all Services answer", number, "s", worldStandard, one("", coldAll), services},
		{"change", "One endpoint changes: event to first packet, p50", number, "ms", worldStandard, one("", flipLatency), services},
		{"change-cpu", "One endpoint changes: CPU", number, "ms", worldStandard, one("", flipCPU), services},
		{"churn-cpu", "Churn at 20/s: CPU per 1,000 changes", number, "s", worldStandard, one("", churnMetric(20, "cpu_seconds_per_1000")), services},
		{"memory", "Memory after churn: RSS", "endpoints", "MB", "", inMega("", churnRSS), endpoints},
		{"connect", "connect() to the last Service, p50", number, "µs", worldStandard, one("", connectLast50), services},
	}
}

// plots draws everything there is enough of, by file name.
func (f figures) plots() map[string]string {
	files := map[string]string{}
	keep := func(name string, p plot) {
		if text := p.svg(); text != "" {
			files[plotFile(name)] = text
		}
	}
	for _, d := range drawings() {
		kinds := []string{d.kind}
		if d.kind == "" {
			kinds = []string{worldStandard, worldMemory}
		}
		p := plot{title: d.title, x: d.x, y: d.y}
		for _, s := range f.series(kinds[0]) {
			p.add(s, func(c *curve) {
				for _, kind := range kinds {
					for _, at := range f.points(kind) {
						f.plot(c, kind, s, at, d)
					}
				}
			})
		}
		keep(d.name, p)
	}
	keep("width", f.acrossNumbers(worldLarge, "connect() to a Service of many endpoints, p50", "endpoints", "µs", f.numbered("connect_of", "p50_us"),
		func(n int) metric { return widthMetric(n, "p50") }))
	keep("rates", f.acrossNumbers(worldStandard, "Churn with the most Services: CPU per 1,000 changes", "changes per second", "s",
		f.numbered("churn", "backlog_seconds"), func(n int) metric { return churnMetric(n, "cpu_seconds_per_1000") }))
	return files
}

// add adds a line if it gets any points.
func (p *plot) add(s series, fill func(*curve)) {
	c := curve{name: s.String(), colour: s.colour(), dashed: !s.ours()}
	fill(&c)
	slices.SortStableFunc(c.at, func(a, b plotted) int { return cmp.Compare(a.x, b.x) })
	if len(c.at) > 0 {
		p.lines = append(p.lines, c)
	}
}

// plotted adds a point to a line, if there is a figure, or a bound.
func (f figures) plot(c *curve, kind string, s series, at point, d drawing) {
	list := f.values(kind, s, at, d.row.m)
	least, has := f.least(kind, s, at, d.row.m)
	switch {
	case len(list) > 0:
		c.put(d.across(at), d.row.stat(list)*d.row.scale, false)
	case has:
		c.put(d.across(at), least*d.row.scale, true)
	}
}

func (c *curve) put(x, y float64, bound bool) {
	if x > 0 && y > 0 {
		c.at = append(c.at, plotted{x, y, bound})
	}
}

// acrossNumbers draws metrics with numbers in their names, at the largest point.
func (f figures) acrossNumbers(kind, title, x, y string, numbers []int, name func(int) metric) plot {
	p := plot{title: title, x: x, y: y}
	for _, s := range f.series(kind) {
		p.add(s, func(c *curve) {
			if len(numbers) == 0 {
				return
			}
			at, _ := f.largest(kind, s, name(numbers[len(numbers)-1]))
			for _, n := range numbers {
				if list := f.values(kind, s, at, name(n)); len(list) > 0 {
					c.put(float64(n), median(list), false)
				}
			}
		})
	}
	return p
}
