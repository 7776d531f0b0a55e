//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// l7Row is a line of a table about reverse proxies.
type l7Row struct {
	title string
	value func(sample) float64
	best  func([]float64) float64 // the round in which others disturbed least
}

func l7Rows(s l7Scenario) []l7Row {
	cpu := l7Row{"CPU of the proxy, µs per request", func(s sample) float64 { return s.Proxy * 1e6 }, leastOf}
	if s.body == l7LargeBody {
		cpu = l7Row{"CPU of the proxy, ms per GB", func(s sample) float64 { return s.Proxy * 1e12 / l7LargeBody }, leastOf}
	}
	return []l7Row{
		cpu,
		{"requests/s", func(s sample) float64 { return s.Rate }, maximum},
		{"p99, ms", func(s sample) float64 { return s.Slowest * 1e3 }, leastOf},
	}
}

func (r l7Row) values(samples []sample, s l7Scenario, rival string) []float64 {
	var list []float64
	for _, one := range samples {
		if one.Rival == rival && one.Scenario == s.key {
			list = append(list, r.value(one))
		}
	}
	return list
}

// cells are what follows the title: fairlead, then each of the others with two ratios.
func (r l7Row) cells(c *l7Contest, s l7Scenario) []string {
	spread, plain, best := row{stat: median, scale: 1, span: true}, row{stat: median, scale: 1}, row{stat: r.best, scale: 1}
	ours := r.values(c.samples, s, fairleadL7Name)
	out := []string{spread.cell(ours)}
	for _, rival := range c.rivals {
		if rival.name != fairleadL7Name {
			theirs := r.values(c.samples, s, rival.name)
			out = append(out, spread.cell(theirs), plain.ratio(ours, theirs), best.ratio(ours, theirs))
		}
	}
	return out
}

// writeL7 prints the tables.
func writeL7(w io.Writer, c *l7Contest, e environment) error {
	var out strings.Builder
	fmt.Fprintf(&out, "Started %s. %d CPUs (%s), %s, Linux %s.\n", e.Started, e.CPUs, e.CPU, e.Memory, e.Kernel)
	var others []string
	for _, r := range c.rivals {
		fmt.Fprintf(&out, "%s: `%s`.\n", r.name, e.Proxies[r.name])
		if r.name != fairleadL7Name {
			others = append(others, r.name)
		}
	}
	fmt.Fprintf(&out, "`%s`: %d rounds of %v for each load; figures are medians, with the range in brackets, "+
		"and \"best\" compares each one's best round.\n", e.Command, c.rounds, c.options.load)
	var noise []float64
	for _, s := range c.samples {
		noise = append(noise, s.Foreign)
	}
	fmt.Fprintf(&out, "Other work on the machine, %% of its CPUs: %s.\n\n", row{stat: median, scale: 1, span: true}.cell(noise))
	fmt.Fprintf(&out, "| | %s | %s | ratio | best |\n|---|--:%s|\n", fairleadL7Name,
		strings.Join(others, " | ratio | best | "), strings.Repeat("|--:|--:|--:", len(others)))
	for _, s := range l7Scenarios() {
		if !slices.Contains(c.options.chosen(), s.key) {
			continue
		}
		fmt.Fprintf(&out, "| **%s**, %d at a time |%s\n", s.title, s.conns, strings.Repeat(" |", 1+3*len(others)))
		for _, r := range l7Rows(s) {
			fmt.Fprintf(&out, "| %s | %s |\n", r.title, strings.Join(r.cells(c, s), " | "))
		}
	}
	for _, remark := range append(c.remarks, c.failures()...) {
		fmt.Fprintf(&out, "\n%s.\n", remark)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// failures says which loads had connections that failed.
func (c *l7Contest) failures() []string {
	var list []string
	for _, s := range c.samples {
		if s.Failed > 0 {
			list = append(list, fmt.Sprintf("%s, %s, round %d: %d connections failed or were too slow", s.Rival, s.Scenario, s.Round, s.Failed))
		}
	}
	return list
}

func (c *l7Contest) report(ctx context.Context) error {
	e := describe(ctx, &bench{options: options{mode: modeL7}})
	e.Started = c.started.UTC().Format(time.RFC3339)
	for _, r := range c.rivals {
		e.Proxies[r.name] = r.version(ctx)
	}
	if err := writeL7(os.Stdout, c, e); err != nil || c.options.output == "" {
		return err
	}
	data, err := json.MarshalIndent(struct {
		Environment environment `json:"environment"`
		Remarks     []string    `json:"remarks,omitempty"`
		Samples     []sample    `json:"samples"`
	}{e, c.remarks, c.samples}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.options.output, append(data, '\n'), 0o644)
}
