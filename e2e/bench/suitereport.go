//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// series is a column of the suite's tables and a line of its plots.
type series struct {
	proxy   string
	variant variant
}

// String is "fairlead, iptables-nft".
func (s series) String() string {
	name := string(s.variant)
	if s.variant.usesIptables() {
		name = "iptables-" + name
	}
	return s.proxy + ", " + name
}

func (s series) ours() bool { return s.proxy == fairleadName }

// rival is kube-proxy in the same mode.
func (s series) rival() series { return series{kubeProxyName, s.variant} }

// point is a number of Services and of endpoints of each.
type point struct{ services, endpoints int }

func (p point) String() string { return fmt.Sprintf("%s × %d", thousands(p.services), p.endpoints) }

// figures are the results of one or more runs of the suite.
type figures struct {
	environments []environment
	remarks      []string
	outcomes     []*outcome
}

// merge pools the rounds of several runs.
func merge(all []results) figures {
	var f figures
	for _, r := range all {
		f.environments = append(f.environments, r.Environment)
		for _, remark := range r.Remarks {
			if r.Environment.Mode == modeSuite && !slices.Contains(f.remarks, remark) {
				f.remarks = append(f.remarks, remark)
			}
		}
		for _, o := range r.Outcomes {
			if r.Environment.Mode == modeIPVS {
				o.World = worldIPVS
			}
			if o.World != "" { // others have no place in the report
				f.outcomes = append(f.outcomes, o)
			}
		}
	}
	return f
}

// series are those that there are in a kind of world, kube-proxy's first, each next
// to ours.
func (f figures) series(kind string) []series {
	var list []series
	for _, o := range f.outcomes {
		s := series{o.Proxy, o.Variant}
		if o.World == kind && o.Proxy != noProxy && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	order := []variant{legacy, nft, nftables, userspace}
	slices.SortStableFunc(list, func(a, b series) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.variant), slices.Index(order, b.variant)), -cmp.Compare(a.proxy, b.proxy))
	})
	return list
}

// points are those that there are in a kind of world, in order.
func (f figures) points(kind string) []point {
	var list []point
	for _, o := range f.outcomes {
		if p := (point{o.Services, o.Endpoints}); o.World == kind && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.services, b.services), cmp.Compare(a.endpoints, b.endpoints))
	})
	return list
}

// at finds outcomes.
func (f figures) at(kind string, s series, p point) []*outcome {
	var list []*outcome
	for _, o := range f.outcomes {
		if o.World == kind && o.Proxy == s.proxy && o.Variant == s.variant && o.Services == p.services && o.Endpoints == p.endpoints {
			list = append(list, o)
		}
	}
	return list
}

// values pools a metric over rounds.
func (f figures) values(kind string, s series, p point, m metric) (list []float64) {
	for _, o := range f.at(kind, s, p) {
		list = append(list, o.Values[m]...)
	}
	return list
}

// least is how far a series got that did not come to an end.
func (f figures) least(kind string, s series, p point, m metric) (least float64, ok bool) {
	for _, o := range f.at(kind, s, p) {
		if value, has := o.AtLeast[m]; has {
			least, ok = max(least, value), true
		}
	}
	return least, ok
}

// cell is what a table says of a series, and "> x" of one that came to no end.
func (f figures) cell(kind string, r row, s series, p point) string {
	list := f.values(kind, s, p, r.m)
	if least, ok := f.least(kind, s, p, r.m); ok && len(list) == 0 {
		return "> " + figure(least*r.scale)
	}
	return r.cell(list)
}

// ratio is fairlead's figure divided by kube-proxy's in the same mode.
func (f figures) ratio(kind string, r row, v variant, p point) string {
	us, them := series{fairleadName, v}, series{kubeProxyName, v}
	ours, theirs := f.values(kind, us, p, r.m), f.values(kind, them, p, r.m)
	if least, ok := f.least(kind, them, p, r.m); ok && len(theirs) == 0 && len(ours) > 0 {
		return "< " + r.ratio(ours, []float64{least})
	}
	return r.ratio(ours, theirs)
}

// chapter is a scenario's table.
type chapter struct {
	id, title, kind string
	rows            []row
}

func p99(list []float64) float64 { return quantile(list, 0.99) }

func one(title string, m metric) row { return row{title: title, m: m, stat: median, scale: 1} }

func inMega(title string, m metric) row { return row{title: title, m: m, stat: median, scale: mega} }

func count(title string, m metric) row {
	return row{title: title, m: m, stat: maximum, scale: 1, whole: true}
}

// spread is a latency's median, 99th percentile and maximum.
func spread(title string, m metric) []row {
	return []row{
		{title: title + ", p50, ms", m: m, stat: median, scale: 1},
		{title: title + ", p99, ms", m: m, stat: p99, scale: 1},
	}
}

// chapters are the tables of the suite. Those of C4 and C5 have rows for every rate
// and size that there are figures of.
func (f figures) chapters() []chapter {
	return []chapter{
		{sceneCold, "cold start, with an empty kernel", worldStandard, []row{
			one("to the first Service, s", coldFirst), one("to all Services, s", coldAll), one("CPU until then, s", coldCPU),
		}},
		{sceneRestart, "restart, with everything in force", worldStandard, []row{
			one("to a change made in between, s", restartTime), one("CPU until then, s", restartCPU),
			count("nothing changed: writes to the kernel", restartNft), count("… and in chains made for a trial, and removed", restartTrials),
			count("… rules that differ afterwards", restartDiffers),
			count("… connections that failed", restartFailed), count("… of", restartAnswered), one("… CPU until at rest, s", restartCPUSame),
		}},
		{sceneChange, "one endpoint changes", worldStandard, append(spread("event to first packet", flipLatency), append([]row{one("CPU, ms", flipCPU)}, floorRows()...)...)},
		{sceneChurn, "churn", worldStandard, f.churnRows()},
		{sceneRolling, "rolling update of one Service", worldLarge, f.rollingRows()},
		{sceneFleet, "Services come and go", worldStandard, slices.Concat(
			spread("added: event to first packet", fleetAdded), spread("deleted: event to the last packet", fleetGone),
			[]row{
				one("a namespace of 50 deleted: to the last packet, s", fleetMassGone), one("… added again: to the first packet of all, s", fleetMassAdded),
				one("… CPU of both, s", fleetMassCPU),
			})},
		{sceneRelist, "the API server drops all watches and has forgotten the past", worldStandard, []row{
			one("CPU, s", relistCPU), count("writes to the kernel", relistWrites), one("peak RSS / RSS before", relistPeak),
			one("the node moves to another zone: CPU, s", zoneCPU), count("… writes to the kernel", zoneWrites),
		}},
		{sceneIdle, "nothing happens", worldMemory, []row{one("CPU, ms per s", idleCPU)}},
		{sceneMemory, "memory with 5 endpoints for each Service", worldStandard, memoryRows()},
		{sceneMemory + "x", "memory with 10 endpoints for each Service", worldMemory, memoryRows()},
		{sceneConnect, "connect()", worldStandard, []row{
			one("first Service, p01, µs", connectFirst01), one("first Service, p50, µs", connectFirst50),
			one("middle Service, p50, µs", connectMiddle50), one("last Service, p01, µs", connectLast01),
			one("last Service, p50, µs", connectLast50), one("no Service, p50, µs", connectOther50),
		}},
		{sceneCRR, "a connection for each request, 16 at a time", worldStandard, []row{
			one("per second", "load_connect_per_second"), one("CPU of clients, endpoints and proxy, µs each", "load_connect_cpu_us"),
		}},
		{sceneRR, "requests on 64 connections that stay", worldStandard, []row{
			one("per second", "load_ping_per_second"), one("CPU of clients, endpoints and proxy, µs each", "load_ping_cpu_us"),
		}},
		{sceneWidth, "connect() to a Service of many endpoints", worldLarge, f.widthRows()},
		{sceneFaith, "who is connected to while 5 endpoints per second of a Service of 10 change", worldStandard, []row{
			count("connections", "faith_connections"), count("failed", "faith_failed"), count("arrived at an endpoint that was gone", "faith_late"),
			one("… for at most, ms", "faith_latest_ms"), one("nothing changes: chi² of 10 endpoints (95 % are below 16.9)", faithSkew),
		}},
	}
}

func floorRows() []row {
	return []row{
		one("the kernel's floor, p50, ms", floorWall), {title: "… at least, ms", m: floorWall, stat: minimum, scale: 1},
		one("… its CPU, p50, ms", floorCPU), one("event to first packet, p50 / floor, p50", floorTimes),
	}
}

func memoryRows() []row {
	return []row{
		inMega("RSS after start, MB", startRSS), inMega("heap in use after start, MB", startHeap),
		inMega("RSS after churn, MB", churnRSS), inMega("heap in use after churn, MB", churnHeap),
		one("… per endpoint, bytes", perEndpoint(churnHeap)),
		inMega("peak RSS, MB", churnPeak), inMega("peak RSS of its largest child, MB", childPeak),
	}
}

// numbered are the numbers in the names of metrics like prefix_20_suffix.
func (f figures) numbered(prefix, suffix string) []int {
	var list []int
	for _, o := range f.outcomes {
		for m := range o.Values {
			var n int
			if _, err := fmt.Sscanf(string(m), prefix+"_%d_"+suffix, &n); err != nil {
				continue
			}
			if string(m) == fmt.Sprintf("%s_%d_%s", prefix, n, suffix) && !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	slices.Sort(list)
	return list
}

func (f figures) churnRows() []row {
	var list []row
	for _, rate := range f.numbered("churn", "backlog_seconds") {
		at := fmt.Sprintf("%s/s: ", thousands(rate))
		list = append(list, one(at+"CPU per 1000 changes, s", churnMetric(rate, "cpu_seconds_per_1000")))
		list = append(list, spread(at+"event to first packet", churnMetric(rate, "latency_ms"))...)
		list = append(list, one(at+"the last event to all in force, s", churnMetric(rate, "backlog_seconds")))
	}
	return list
}

func (f figures) rollingRows() []row {
	var list []row
	for _, n := range f.numbered("rolling", "cpu_seconds") {
		name := func(what string) metric { return metric(fmt.Sprintf("rolling_%d_%s", n, what)) }
		of := thousands(n) + " endpoints: "
		list = append(list, one(of+"CPU, s", name("cpu_seconds")), count(of+"connections", name("connections")),
			count(of+"failed", name("failed")), count(of+"arrived at an endpoint that was gone", name("late")),
			one(of+"… for at most, ms", name("latest_ms")), one(of+"the last event to all in force, s", name("behind_seconds")))
	}
	return list
}

func (f figures) widthRows() []row {
	var list []row
	for _, n := range f.numbered("connect_of", "p50_us") {
		list = append(list, one(thousands(n)+", p01, µs", widthMetric(n, "p01")), one(thousands(n)+", p50, µs", widthMetric(n, "p50")))
	}
	return list
}

// table is a chapter as Markdown; empty if there are no figures.
func (f figures) table(c chapter) string {
	var out strings.Builder
	list := f.series(c.kind)
	compared := slices.DeleteFunc([]variant{legacy, nft}, func(v variant) bool {
		return !slices.Contains(list, series{fairleadName, v}) || !slices.Contains(list, series{kubeProxyName, v})
	})
	head, rule := "| Services | |", "|--:|---|"
	for _, s := range list {
		head, rule = head+" "+s.String()+" |", rule+"--:|"
	}
	for _, v := range compared {
		head, rule = head+fmt.Sprintf(" ratio, %s |", v), rule+"--:|"
	}
	fmt.Fprintf(&out, "%s\n%s\n", head, rule)
	some := false
	for _, p := range f.points(c.kind) {
		name := p.String()
		for _, r := range c.rows {
			cells, has := "", false
			for _, s := range list {
				text := f.cell(c.kind, r, s, p)
				has = has || text != "–"
				cells += " " + text + " |"
			}
			if !has {
				continue
			}
			for _, v := range compared {
				cells += " " + f.ratio(c.kind, r, v, p) + " |"
			}
			fmt.Fprintf(&out, "| %s | %s |%s\n", name, r.title, cells)
			name, some = "", true
		}
	}
	if !some {
		return ""
	}
	return out.String()
}

// problems are what did not come to an end, and what had to be done again.
func (f figures) problems() string {
	var out strings.Builder
	again, worst, phases := 0, 0.0, 0
	for _, o := range f.outcomes {
		if o.World == worldIPVS {
			continue // its tables say so themselves
		}
		for _, n := range o.Dropped {
			again += n
		}
		for _, share := range o.Noise {
			worst = math.Max(worst, share)
			phases++
		}
		if o.Problem != "" {
			text := strings.Join(strings.Fields(distinct(o.Problem)), " ")
			fmt.Fprintf(&out, "* %v, %v world, %v: %s.\n", series{o.Proxy, o.Variant}, o.World, point{o.Services, o.Endpoints}, text[:min(len(text), 300)])
		}
	}
	for _, remark := range f.remarks {
		fmt.Fprintf(&out, "* %s.\n", remark)
	}
	if phases > 0 {
		fmt.Fprintf(&out, "* Of %d phases %d were thrown away and done again, since others used too much of the machine meanwhile; in those that count they used at most %.0f %%.\n",
			phases+again, again, worst)
	}
	return out.String()
}

// distinct leaves out lines that have been there before: many flips can fail alike.
func distinct(text string) string {
	var list []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); !slices.ContainsFunc(list, func(s string) bool { return strings.HasSuffix(s, line) }) {
			list = append(list, line)
		}
	}
	return strings.Join(list, "; ")
}

// versions say what was measured, with what, and how.
func (f figures) versions() string {
	var out strings.Builder
	for _, e := range f.environments {
		fmt.Fprintf(&out, "* `%s`: %s, %d CPUs (%s), %s, Linux %s", e.Command, e.Started, e.CPUs, e.CPU, e.Memory, e.Kernel)
		for _, v := range []variant{legacy, nft} {
			if text := e.Iptables[v]; text != "" {
				fmt.Fprintf(&out, ", %s", text)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(e.Proxies)) {
			fmt.Fprintf(&out, ", %s `%s`", name, e.Proxies[name])
		}
		out.WriteString("\n")
	}
	return out.String()
}

// summarize writes all tables.
func summarize(w io.Writer, r results) error {
	f := merge([]results{r})
	var out strings.Builder
	for _, c := range append(f.chapters(), f.realChapters()...) {
		if text := f.table(c); text != "" {
			fmt.Fprintf(&out, "\n### %s: %s\n\n%s", strings.TrimSuffix(c.id, "x"), c.title, text)
		}
	}
	if text := f.targets(); strings.Count(text, "\n") > 2 {
		fmt.Fprintf(&out, "\n%s", text)
	}
	fmt.Fprintf(&out, "\n%s%s", f.problems(), f.versions())
	_, err := io.WriteString(w, out.String())
	return err
}
