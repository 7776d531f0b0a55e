//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
)

// targetIPVS is a target of a ratio in the mode ipvs.
type targetIPVS struct {
	what  string
	m     metric
	limit float64
	scale float64
	unit  string
}

func targetsOfIPVS() []targetIPVS {
	return []targetIPVS{
		{"cold start in at most 1/10 of kube-proxy's time", coldAll, 0.1, 1, "s"},
		{"one change: at most 1/20 of kube-proxy's CPU", flipCPU, 0.05, 1, "ms"},
		{"RSS at most 1/4 of kube-proxy's", startRSS, 0.25, mega, "MB"},
		{"CPU per 1,000 changes at 20/s at most 1/10 of kube-proxy's", churnCPU, 0.1, 1, "s"},
	}
}

// targetsIPVS are those of runs with -mode ipvs, for each number of Services.
func (f figures) targetsIPVS() []string {
	var list []string
	ipvs := slices.DeleteFunc(slices.Clone(f.outcomes), func(o *outcome) bool { return o.World != worldIPVS })
	for _, c := range combinations(ipvs) {
		list = append(list, linesIPVS(ipvs, c)...)
	}
	return list
}

func linesIPVS(ipvs []*outcome, c combination) (list []string) {
	line := func(what, text string, met bool) {
		verdict := map[bool]string{true: "met", false: "**not met**"}[met]
		list = append(list, fmt.Sprintf("| %s | ipvs, in the lab | %s, at %s Services | %s |", what, text, thousands(c.n), verdict))
	}
	for _, t := range targetsOfIPVS() {
		us, them := median(values(ipvs, c, fairleadName, t.m)), median(values(ipvs, c, kubeProxyName, t.m))
		less := ""
		if least, ok := bound(ipvs, c, kubeProxyName, t.m); ok && math.IsNaN(them) {
			them, less = least, "less than "
		}
		if ratio := us / them; !math.IsNaN(ratio) {
			line(t.what, fmt.Sprintf("%s %s, ratio %s%s", figure(us*t.scale), t.unit, less, figure(ratio)), ratio <= t.limit)
		}
	}
	if us := median(values(ipvs, c, fairleadName, flipLatency)); !math.IsNaN(us) {
		text := fmt.Sprintf("%s ms", figure(us))
		if us > soon {
			text += " (a system call takes some hundred times as long there as on a machine)"
		}
		line(fmt.Sprintf("event to packet, one endpoint, p50 at most %d ms", soon), text, us <= soon)
	}
	written, known := 0.0, false
	for _, m := range []metric{restartIPVS, restartIPSet, restartRouting, restartIptables} {
		for _, n := range values(ipvs, c, fairleadName, m) {
			written, known = written+n, true
		}
	}
	if known {
		line("a restart without a change writes nothing", fmt.Sprintf("%.0f writes", written), written == 0)
	}
	return list
}
