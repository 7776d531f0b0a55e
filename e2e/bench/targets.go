//go:build linux

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// target is something that is to be true at 10,000 Services, or at the most that
// were measured.
type target struct {
	what  string
	check func(f figures, s series) (figure string, met bool, ok bool)
	syncs bool // it is about the cost of syncs
}

// ofSyncs is a target that what the kernel takes for a sync bears on.
func ofSyncs(t target) target {
	t.syncs = true
	return t
}

// aimed is the number of Services that targets are about. Those of more are for the curves.
const aimed = 10_000

// largest is the largest point of a kind of world at which a series has a figure, of those
// that targets are about, if there are any.
func (f figures) largest(kind string, s series, m metric) (point, bool) {
	list := f.points(kind)
	if few := slices.DeleteFunc(slices.Clone(list), func(p point) bool {
		return p.services > aimed || len(f.values(kind, s, p, m)) == 0
	}); len(few) > 0 {
		list = few
	}
	slices.SortFunc(list, func(a, b point) int {
		return cmp.Compare(a.services*a.endpoints, b.services*b.endpoints)
	})
	for _, p := range slices.Backward(list) {
		if len(f.values(kind, s, p, m)) > 0 {
			return p, true
		}
	}
	return point{}, false
}

// against is our median over that of kube-proxy in the same mode, at our largest
// point; if theirs came to no end the ratio is a bound from above.
func (f figures) against(kind string, s series, m metric) (ours, ratio float64, at point, ok bool) {
	p, ok := f.largest(kind, s, m)
	if !ok {
		return 0, 0, p, false
	}
	ours = median(f.values(kind, s, p, m))
	theirs := median(f.values(kind, s.rival(), p, m))
	if least, has := f.least(kind, s.rival(), p, m); has && math.IsNaN(theirs) {
		theirs = least
	}
	return ours, ours / theirs, p, true
}

// ratioTarget is a target of a ratio.
func ratioTarget(what, kind string, m metric, limit float64, unit string, scale float64) target {
	return target{what: what, check: func(f figures, s series) (string, bool, bool) {
		ours, ratio, p, ok := f.against(kind, s, m)
		if !ok || math.IsNaN(ratio) {
			return "", false, false
		}
		return fmt.Sprintf("%s %s, ratio %s, at %v", figure(ours*scale), unit, figure(ratio), p), ratio <= limit, true
	}}
}

// valueTarget is a target of a figure.
func valueTarget(what, kind string, m metric, stat func([]float64) float64, limit float64, unit string, scale float64) target {
	return target{what: what, check: func(f figures, s series) (string, bool, bool) {
		p, ok := f.largest(kind, s, m)
		if !ok {
			return "", false, false
		}
		value := stat(f.values(kind, s, p, m)) * scale
		text := figure(value)
		if unit == "writes" {
			text = thousands(int(value))
		}
		return fmt.Sprintf("%s %s, at %v", text, unit, p), value <= limit, true
	}}
}

func targets() []target {
	const (
		flat    = 1.25 // of the first percentile; the tenths beyond are noise
		backlog = 2    // seconds
	)
	return []target{
		valueTarget("RSS with the most endpoints at most 80 MB", worldMemory, churnRSS, median, 80, "MB", mega),
		ratioTarget("… and at most 1/4 of kube-proxy's", worldMemory, churnRSS, 0.25, "MB", mega),
		ratioTarget("ready after at most 1/5 of kube-proxy's time", worldStandard, coldAll, 0.2, "s", 1),
		{fmt.Sprintf("event to packet, one endpoint, p50 at most %d ms, or at most %.1f times the kernel's own floor", soon, nearFloor), figures.promptness, false},
		ofSyncs(ratioTarget("CPU per 1,000 changes at 20/s at most 1/10 of kube-proxy's", worldStandard, churnMetric(20, "cpu_seconds_per_1000"), 0.1, "s", 1)),
		ofSyncs(valueTarget(fmt.Sprintf("1,000 changes/s survived, all in force %d s after the last", backlog),
			worldStandard, churnMetric(1000, "backlog_seconds"), maximum, backlog, "s", 1)),
		valueTarget("a relist writes nothing", worldStandard, relistWrites, maximum, 0, "writes", 1),
		valueTarget("… and peaks below 1.5 times the RSS before", worldStandard, relistPeak, median, 1.5, "times", 1),
		{"connect() flat in the number of Services", func(f figures, s series) (string, bool, bool) {
			return f.flatness(s, flat)
		}, false},
		{"connect() flat from 1 to 5,000 endpoints", func(f figures, s series) (string, bool, bool) {
			p, ok := f.largest(worldLarge, s, widthMetric(5000, "p01"))
			few, many := median(f.values(worldLarge, s, p, widthMetric(1, "p01"))), median(f.values(worldLarge, s, p, widthMetric(5000, "p01")))
			return fmt.Sprintf("%s µs with 1, %s µs with 5,000, at p01", figure(few), figure(many)), many <= flat*few, ok
		}, false},
	}
}

// A change is soon in force after some milliseconds, or where the kernel takes longer by
// itself, after not much more than that.
const (
	soon      = 5 // ms
	nearFloor = 1.5
)

// promptness is about one endpoint that changes.
func (f figures) promptness(s series) (string, bool, bool) {
	p, ok := f.largest(worldStandard, s, flipLatency)
	if !ok {
		return "", false, false
	}
	took, least := median(f.values(worldStandard, s, p, flipLatency)), median(f.values(worldStandard, s, p, floorWall))
	text := fmt.Sprintf("%s ms, at %v", figure(took), p)
	switch {
	case took <= soon:
		return text, true, true
	case math.IsNaN(least):
		return text + "; the floor was not measured", false, true
	}
	times := took / least
	return fmt.Sprintf("%s: more than %d ms; %s times the floor, %s ms", text, soon, figure(times), figure(least)), times <= nearFloor, true
}

// reason is what the kernel has to do with a target of syncs that was missed.
func (f figures) reason(s series) string {
	p, ok := f.largest(worldStandard, s, floorCPU)
	if cpu := median(f.values(worldStandard, s, p, floorCPU)); ok && cpu > soon {
		return fmt.Sprintf("; the kernel alone takes %s ms of CPU for each sync", figure(cpu))
	}
	return ""
}

// flatness compares the last Service of the most with that of the fewest.
func (f figures) flatness(s series, limit float64) (string, bool, bool) {
	var few, many point
	for _, p := range f.points(worldStandard) {
		if len(f.values(worldStandard, s, p, connectLast01)) == 0 {
			continue
		}
		if few.services == 0 {
			few = p
		}
		many = p
	}
	if few == many {
		return "", false, false
	}
	a, b := median(f.values(worldStandard, s, few, connectLast01)), median(f.values(worldStandard, s, many, connectLast01))
	return fmt.Sprintf("last Service: %s µs of %s, %s µs of %s, at p01", figure(a), thousands(few.services), figure(b), thousands(many.services)), b <= limit*a, true
}

// targets is a table of what was to be true, and whether it is.
func (f figures) targets() string {
	var out strings.Builder
	out.WriteString("| target | mode | measured | |\n|---|---|---|---|\n")
	for _, t := range targets() {
		list := f.series(worldStandard)
		for _, kind := range []string{worldMemory, worldLarge} {
			for _, s := range f.series(kind) {
				if !slices.Contains(list, s) {
					list = append(list, s)
				}
			}
		}
		for _, s := range list {
			if !s.ours() {
				continue
			}
			text, met, ok := t.check(f, s)
			if !ok {
				continue
			}
			verdict := "**not met**"
			if met {
				verdict = "met"
			} else if t.syncs {
				text += f.reason(s)
			}
			name := string(s.variant)
			if s.variant.usesIptables() {
				name = "iptables-" + name
			}
			fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", t.what, name, text, verdict)
		}
	}
	for _, line := range f.targetsIPVS() {
		fmt.Fprintln(&out, line)
	}
	return out.String()
}
