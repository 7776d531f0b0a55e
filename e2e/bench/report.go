//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// row is a line of the table.
type row struct {
	title string
	m     metric
	stat  func([]float64) float64
	scale float64 // from the metric's unit to the row's
	// span says that the range over the rounds is shown, too.
	span bool
	// whole says that it is a number of things.
	whole bool
}

const mega = 1e-6

func rows(o options) []row {
	if o.mode == modeIPVS {
		return rowsIPVS(o)
	}
	latency := func(title string, m metric) []row {
		return []row{
			{title: title + ", p50, ms", m: m, stat: median, scale: 1},
			{title: title + ", max, ms", m: m, stat: maximum, scale: 1},
		}
	}
	connect := func(title string, p01, p50 metric) []row {
		return []row{
			{title: "connect() to " + title + ", p01, µs", m: p01, stat: median, scale: 1, span: true},
			{title: "connect() to " + title + ", p50, µs", m: p50, stat: median, scale: 1, span: true},
		}
	}
	return slices.Concat(
		[]row{
			{title: "cold start to first Service, s", m: coldFirst, stat: median, scale: 1, span: true},
			{title: "cold start to all Services, s", m: coldAll, stat: median, scale: 1, span: true},
			{title: "CPU until then, s", m: coldCPU, stat: median, scale: 1, span: true},
			{title: "idle, CPU ms per s", m: idleCPU, stat: median, scale: 1, span: true},
		},
		latency("one change: event to first packet", flipLatency),
		[]row{{title: "one change: CPU, ms", m: flipCPU, stat: median, scale: 1, span: true}},
		[]row{{title: fmt.Sprintf("churn at %d/s: CPU per 1000 changes, s", o.rate), m: churnCPU, stat: median, scale: 1, span: true}},
		latency("churn: event to first packet", churnLatency),
		[]row{
			{title: "RSS after start, MB", m: startRSS, stat: median, scale: mega, span: true},
			{title: "RSS after churn, MB", m: churnRSS, stat: median, scale: mega, span: true},
			{title: "peak RSS, MB", m: churnPeak, stat: median, scale: mega, span: true},
			{title: "peak RSS of its largest child, MB", m: childPeak, stat: median, scale: mega, span: true},
			{title: "peak charged to the cgroup, MB", m: groupPeak, stat: median, scale: mega, span: true},
		},
		connect("first Service", connectFirst01, connectFirst50),
		connect("middle Service", connectMiddle01, connectMiddle50),
		connect("last Service", connectLast01, connectLast50),
		connect("no Service", connectOther01, connectOther50),
		[]row{{title: "other work on the machine, % of its CPUs", m: foreignCPU, stat: median, scale: 1, span: true}},
	)
}

// combination is what one table is about.
type combination struct {
	v variant
	n int
}

// combinations are those that have outcomes, in the order measured.
func combinations(outcomes []*outcome) []combination {
	var list []combination
	for _, o := range outcomes {
		c := combination{o.Variant, o.Services}
		if !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// values pools a metric over all rounds of a proxy.
func values(outcomes []*outcome, c combination, proxy string, m metric) []float64 {
	var list []float64
	for _, o := range outcomes {
		if o.Proxy == proxy && o.Variant == c.v && o.Services == c.n {
			list = append(list, o.Values[m]...)
		}
	}
	return list
}

// bound returns how far a proxy got in rounds in which it did not come to an end.
func bound(outcomes []*outcome, c combination, proxy string, m metric) (least float64, ok bool) {
	for _, o := range outcomes {
		if value, has := o.AtLeast[m]; has && o.Proxy == proxy && o.Variant == c.v && o.Services == c.n {
			least, ok = max(least, value), true
		}
	}
	return least, ok
}

// cell is a figure as the table shows it.
func (r row) cell(list []float64) string {
	if len(list) == 0 {
		return "–"
	}
	if r.whole {
		return fmt.Sprintf("%.0f", r.stat(list)*r.scale)
	}
	text := figure(r.stat(list) * r.scale)
	if r.span && len(list) > 1 {
		text += fmt.Sprintf(" (%s–%s)", figure(slices.Min(list)*r.scale), figure(slices.Max(list)*r.scale))
	}
	return text
}

// figure prints three significant digits.
func figure(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "–"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", x)
	case a >= 0.9995 || a == 0:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}

// ratio compares the statistic of two proxies.
func (r row) ratio(ours, theirs []float64) string {
	a, b := r.stat(ours), r.stat(theirs)
	if math.IsNaN(a) || math.IsNaN(b) || b == 0 {
		return "–"
	}
	return figure(a / b)
}

// environment is what the figures depend on, for the head of the report.
type environment struct {
	Mode     mode               `json:"mode"`
	Kernel   string             `json:"kernel"`
	CPU      string             `json:"cpu"`
	CPUs     int                `json:"cpus"`
	Memory   string             `json:"memory"`
	Iptables map[variant]string `json:"iptables"`
	Proxies  map[string]string  `json:"proxies"`
	Started  string             `json:"started"`
	Command  string             `json:"command"`
}

func writeMarkdown(w io.Writer, b *bench, e environment) error {
	var out strings.Builder
	fmt.Fprintf(&out, "Started %s. %d CPUs (%s), %s, Linux %s.\n", e.Started, e.CPUs, e.CPU, e.Memory, e.Kernel)
	for _, s := range b.subjects {
		fmt.Fprintf(&out, "%s: `%s`.\n", s.name, e.Proxies[s.name])
	}
	fmt.Fprintf(&out, "`%s`: %d rounds; figures are medians over rounds, with the range in brackets; "+
		"event to first packet is over all changes of all rounds.\n", e.Command, b.options.rounds)
	for _, c := range combinations(b.outcomes) {
		writeTable(&out, b, c, e)
	}
	for _, remark := range b.remarks {
		fmt.Fprintf(&out, "\n%s.\n", remark)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func writeTable(out *strings.Builder, b *bench, c combination, e environment) {
	what := "iptables-" + string(c.v)
	if b.options.mode == modeIPVS {
		what = "IPVS"
	}
	fmt.Fprintf(out, "\n### %s Services × %d endpoints, %s (%s)\n\n", thousands(c.n), b.options.endpoints, what, e.Iptables[c.v])
	head, rule := "| |", "|---|"
	for _, s := range b.subjects {
		head, rule = head+" "+s.name+" |", rule+"--:|"
	}
	compare := b.has(fairleadName) && b.has(kubeProxyName)
	if compare {
		head, rule = head+" fairlead / kube-proxy |", rule+"--:|"
	}
	fmt.Fprintf(out, "%s\n%s\n", head, rule)
	for _, r := range rows(b.options) {
		fmt.Fprintf(out, "| %s |", r.title)
		for _, s := range b.subjects {
			fmt.Fprintf(out, " %s |", b.cell(r, c, s.name))
		}
		if compare {
			fmt.Fprintf(out, " %s |", b.compare(r, c))
		}
		out.WriteString("\n")
	}
	if bare := values(b.outcomes, c, noProxy, connectOther01); len(bare) > 0 {
		fmt.Fprintf(out, "\nconnect() through a node without any rules, in the same rounds: p01 %s µs, p50 %s µs.\n",
			figure(median(bare)), figure(median(values(b.outcomes, c, noProxy, connectOther50))))
	}
	for _, o := range b.outcomes {
		if o.Problem != "" && o.Variant == c.v && o.Services == c.n {
			fmt.Fprintf(out, "\n%s, round %d, did not finish: %s.\n", o.Proxy, o.Round, strings.ReplaceAll(o.Problem, "\n", "; "))
		}
	}
}

func (b *bench) cell(r row, c combination, proxy string) string {
	list := values(b.outcomes, c, proxy, r.m)
	if least, ok := bound(b.outcomes, c, proxy, r.m); ok && len(list) == 0 {
		return "> " + figure(least*r.scale)
	}
	return r.cell(list)
}

func (b *bench) compare(r row, c combination) string {
	ours, theirs := values(b.outcomes, c, fairleadName, r.m), values(b.outcomes, c, kubeProxyName, r.m)
	if r.m == foreignCPU {
		return ""
	}
	if least, ok := bound(b.outcomes, c, kubeProxyName, r.m); ok && len(theirs) == 0 && len(ours) > 0 {
		return "< " + r.ratio(ours, []float64{least})
	}
	return r.ratio(ours, theirs)
}

func (b *bench) has(name string) bool {
	return slices.ContainsFunc(b.subjects, func(s subject) bool { return s.name == name })
}

// thousands writes 10000 as 10,000.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// results is everything that was measured, round by round.
type results struct {
	Environment environment `json:"environment"`
	Remarks     []string    `json:"remarks,omitempty"`
	Outcomes    []*outcome  `json:"outcomes"`
}

func writeJSON(w io.Writer, b *bench, e environment) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(results{e, b.remarks, b.outcomes})
}

// writeMarked writes the results as one line for the bench that started this one.
func writeMarked(w io.Writer, b *bench, e environment) error {
	data, err := json.Marshal(results{e, b.remarks, b.outcomes})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", resultMark, data)
	return err
}
