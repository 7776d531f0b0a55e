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

	"github.com/fairlead-project/fairlead/e2e/bench/load"
)

// pathRow is a line of a table about data paths.
type pathRow struct {
	title string
	kind  load.Kind
	value func(sample) float64
	best  func([]float64) float64 // the round in which others disturbed least
	alone bool                    // about the proxy alone, which the kernel's modes have none of
	share bool                    // of an operation: nothing if there was none
}

func leastOf(list []float64) float64 { return quantile(list, 0) }

func pathRows() []pathRow {
	const micro = 1e6
	group := func(k load.Kind, title, rate, unit string, scaleRate, scaleCPU float64) []pathRow {
		title = fmt.Sprintf(title, loadConns(k))
		return []pathRow{
			{title + ": " + rate, k, func(s sample) float64 { return s.Rate * scaleRate }, maximum, false, false},
			{title + ": CPU of the whole path, " + unit, k, func(s sample) float64 { return s.Whole * scaleCPU }, leastOf, false, true},
			{title + ": CPU of the proxy, " + unit, k, func(s sample) float64 { return s.Proxy * scaleCPU }, leastOf, true, true},
		}
	}
	return slices.Concat(
		group(load.Ping, "1 KiB and back, %d connections", "requests/s", "µs per request", 1, micro),
		group(load.Connect, "a connection per request, %d at a time", "requests/s", "µs per request", 1, micro),
		group(load.Bulk, "bulk, %d connections", "GB/s", "ms per GB", 1e-9, 1e12),
	)
}

// rivalNames is what fairlead's userspace mode is compared with, in this order.
func (c *contest) rivalNames() []string {
	names := []string{haproxyName, trackedName, transparentName, iptablesName}
	if c.options.before != "" {
		names = append(names, beforeName)
	}
	return names
}

// sameJob says which HAProxy does what fairlead does: the policy has endpoints see the
// address of pods, and that of the node in the place of callers from outside.
func (s scenario) sameJob() string {
	if s.pod {
		return fmt.Sprintf("Endpoints see the address of the client: %q does the same, the other two do less.", transparentName)
	}
	return fmt.Sprintf("Endpoints see the address of the node: %q does the same on the same kind of node.", trackedName)
}

// values are those of all rounds.
func (r pathRow) values(samples []sample, s scenario, rival string) []float64 {
	var list []float64
	for _, one := range samples {
		if r.share && one.Rate == 0 {
			continue
		}
		if one.Rival == rival && one.Scenario == s.String() && one.Kind == r.kind.String() {
			list = append(list, r.value(one))
		}
	}
	return list
}

// cells are what follows the title.
func (r pathRow) cells(samples []sample, s scenario, rivals []string) []string {
	spread := row{stat: median, scale: 1, span: true}
	plain := row{stat: median, scale: 1}
	best := row{stat: r.best, scale: 1}
	ours := r.values(samples, s, userspaceName)
	out := []string{spread.cell(ours)}
	for _, name := range rivals {
		theirs := r.values(samples, s, name)
		if r.alone && name == iptablesName {
			out = append(out, "–", "–", "–")
			continue
		}
		out = append(out, spread.cell(theirs), plain.ratio(ours, theirs), best.ratio(ours, theirs))
	}
	return out
}

// writeContest prints the tables.
func writeContest(w io.Writer, c *contest, e environment) error {
	var out strings.Builder
	fmt.Fprintf(&out, "Started %s. %d CPUs (%s), %s, Linux %s, %s.\n", e.Started, e.CPUs, e.CPU, e.Memory, e.Kernel, e.Iptables[nft])
	for _, r := range c.rivals {
		fmt.Fprintf(&out, "%s: `%s`.\n", r.name, e.Proxies[r.name])
	}
	fmt.Fprintf(&out, "`%s`: %d rounds of %v for each load; figures are medians, with the range in brackets, "+
		"and \"best\" compares each one's best round.\n", e.Command, c.rounds, c.options.load)
	var noise []float64
	for _, s := range c.samples {
		noise = append(noise, s.Foreign)
	}
	fmt.Fprintf(&out, "Other work on the machine, %% of its CPUs: %s.\n", row{stat: median, scale: 1, span: true}.cell(noise))
	names := c.rivalNames()
	for _, s := range scenarios() {
		fmt.Fprintf(&out, "\n### TCP, %v\n\n%s\n\n", s, s.sameJob())
		fmt.Fprintf(&out, "| | %s | %s | ratio | best |\n|---|--:%s|\n", userspaceName,
			strings.Join(names, " | ratio | best | "), strings.Repeat("|--:|--:|--:", len(names)))
		for _, r := range pathRows() {
			if !slices.Contains(c.options.loads, r.kind) {
				continue
			}
			fmt.Fprintf(&out, "| %s | %s |\n", r.title, strings.Join(r.cells(c.samples, s, names), " | "))
		}
	}
	for _, remark := range append(c.remarks, failures(c.samples)...) {
		fmt.Fprintf(&out, "\n%s.\n", remark)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// failures says what did not go well, once for each load of each rival.
func failures(samples []sample) []string {
	type key struct{ rival, scenario, kind string }
	type trouble struct {
		failed  int64
		why     string
		slowest float64
	}
	sum, order := map[key]*trouble{}, []key(nil)
	for _, s := range samples {
		const slow = 0.9 // a second is what the kernel waits before it repeats a SYN
		if s.Failed == 0 && s.Slowest < slow {
			continue
		}
		k := key{s.Rival, s.Scenario, s.Kind}
		if sum[k] == nil {
			sum[k] = &trouble{}
			order = append(order, k)
		}
		t := sum[k]
		t.failed += s.Failed
		t.why = s.Why
		t.slowest = max(t.slowest, s.Slowest)
	}
	var list []string
	for _, k := range order {
		t := sum[k]
		text := fmt.Sprintf("%s, %s, %s: the slowest answer took %s s", k.rival, k.scenario, k.kind, figure(t.slowest))
		if t.failed > 0 {
			text += fmt.Sprintf("; %d connections failed (%s)", t.failed, t.why)
		}
		list = append(list, text)
	}
	return list
}

func (c *contest) report(ctx context.Context) error {
	e := describe(ctx, &bench{options: options{mode: modeUserspace, variants: []variant{nft}}})
	for _, r := range c.rivals {
		e.Proxies[r.name] = r.version(ctx)
	}
	if err := writeContest(os.Stdout, c, e); err != nil || c.options.output == "" {
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
