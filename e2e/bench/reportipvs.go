//go:build linux

package main

import (
	"fmt"
	"slices"
)

// rowsIPVS are those of the mode ipvs.
func rowsIPVS(o options) []row {
	one := func(title string, m metric) row {
		return row{title: title, m: m, stat: median, scale: 1, span: true}
	}
	count := func(title string, m metric) row {
		return row{title: title, m: m, stat: maximum, scale: 1, whole: true}
	}
	latency := func(title string, m metric) []row {
		return []row{
			{title: title + ", p50, ms", m: m, stat: median, scale: 1},
			{title: title + ", max, ms", m: m, stat: maximum, scale: 1},
		}
	}
	churn := []row{one(fmt.Sprintf("churn at %d/s: CPU per 1000 changes, s", o.rate), churnCPU)}
	churn = append(churn, latency("churn: event to first packet", churnLatency)...)
	if o.churn == 0 {
		churn = nil
	}
	return slices.Concat(
		[]row{
			one("cold start to first Service, s", coldFirst),
			one("cold start to all Services, from pods, s", coldPods),
			one("cold start to all Services, from the node, s", coldNode),
			one("cold start to all virtual servers and destinations, s", coldKernel),
			one("**cold start, all of these, s**", coldAll),
			one("CPU until then, s", coldCPU),
			one("idle, CPU ms per s", idleCPU),
		},
		latency("one change: event to first packet", flipLatency),
		[]row{one("**one change: CPU, ms**", flipCPU)},
		churn,
		[]row{
			one("restart to a change made in between, s", restartTime),
			one("restart: CPU until then, s", restartCPU),
			one("restart: CPU until at rest, s", restartRestCPU),
			count("restart without a change: requests to write, to virtual servers", restartIPVS),
			count("… to ipsets", restartIPSet),
			count("… to links, addresses, routes and rules", restartRouting),
			count("… to chains of iptables", restartIptables),
			count("… and what was only tried out, elsewhere", restartTrials),
			count("… what differs in the kernel afterwards, lines", restartDiffers),
			count("… connections that failed meanwhile", restartFailed),
		},
		rowsUse(),
	)
}

// rowsUse are those of memory and of the data path.
func rowsUse() []row {
	one := func(title string, m metric) row {
		return row{title: title, m: m, stat: median, scale: 1, span: true}
	}
	memory := func(title string, m metric) row {
		return row{title: title, m: m, stat: median, scale: mega, span: true}
	}
	return []row{
		memory("RSS after start, MB", startRSS),
		memory("RSS after the changes, MB", churnRSS),
		memory("peak RSS, MB", churnPeak),
		memory("peak RSS of its largest child, MB", childPeak),
		memory("peak charged to the cgroup, MB", groupPeak),
		one("connect() to a Service, p01, µs", connectLast01),
		one("connect() to a Service, p50, µs", connectLast50),
		one("connect() to no Service, p01, µs", connectOther01),
		one("connect() to no Service, p50, µs", connectOther50),
	}
}
