//go:build linux

package main

import (
	"math"
	"slices"
	"time"
)

// metric names a figure. The unit is part of the name, as it is in the JSON.
type metric string

// The metrics. Those that end in _ms under flip and churn have one value per
// change; all others one per round.
const (
	coldFirst    metric = "cold_first_seconds"
	coldAll      metric = "cold_all_seconds"
	coldCPU      metric = "cold_cpu_seconds"
	startRSS     metric = "start_rss_bytes"
	startPeak    metric = "start_peak_rss_bytes"
	idleCPU      metric = "idle_cpu_ms_per_second"
	flipLatency  metric = "flip_latency_ms"
	flipCPU      metric = "flip_cpu_ms_per_change"
	churnCPU     metric = "churn_cpu_seconds_per_1000"
	churnLatency metric = "churn_latency_ms"
	churnRSS     metric = "churn_rss_bytes"
	churnPeak    metric = "churn_peak_rss_bytes"
	childPeak    metric = "largest_child_rss_bytes"
	groupPeak    metric = "cgroup_peak_bytes"
	foreignCPU   metric = "foreign_cpu_percent"

	coldPods   metric = "cold_pods_seconds"
	coldNode   metric = "cold_node_seconds"
	coldKernel metric = "cold_kernel_seconds"

	restartTime     metric = "restart_seconds"
	restartCPU      metric = "restart_cpu_seconds"
	restartRestCPU  metric = "restart_rest_cpu_seconds"
	restartIPVS     metric = "restart_ipvs_writes"
	restartIPSet    metric = "restart_ipset_writes"
	restartRouting  metric = "restart_routing_writes"
	restartIptables metric = "restart_iptables_writes"
	restartTrials   metric = "restart_trials"
	restartDiffers  metric = "restart_lines_that_differ"
	restartFailed   metric = "restart_failed_connections"

	connectFirst01  metric = "connect_first_p01_us"
	connectFirst50  metric = "connect_first_p50_us"
	connectMiddle01 metric = "connect_middle_p01_us"
	connectMiddle50 metric = "connect_middle_p50_us"
	connectLast01   metric = "connect_last_p01_us"
	connectLast50   metric = "connect_last_p50_us"
	connectOther01  metric = "connect_other_p01_us"
	connectOther50  metric = "connect_other_p50_us"
)

// noProxy is the subject of figures taken in a network without any rules.
const noProxy = "no proxy"

// outcome is what one proxy did in one round.
type outcome struct {
	World     string  `json:"world,omitempty"` // of the suite
	Proxy     string  `json:"proxy"`
	Variant   variant `json:"variant"`
	Services  int     `json:"services"`
	Endpoints int     `json:"endpoints,omitempty"` // of each Service; of the suite
	Round     int     `json:"round"`
	// Problem is why figures are missing; empty if none are.
	Problem string               `json:"problem,omitempty"`
	Values  map[metric][]float64 `json:"values"`
	// AtLeast has, for what did not come to an end, how far it got.
	AtLeast map[metric]float64 `json:"atLeast,omitempty"`
	// Noise is the share of the machine, in per cent, that others used in each phase
	// of the suite, and Dropped how often one was done again because of that.
	Noise   map[string]float64 `json:"noise,omitempty"`
	Dropped map[string]int     `json:"dropped,omitempty"`
	// Took is how long each phase of the suite took, in seconds, repetitions included.
	Took map[string]float64 `json:"took,omitempty"`
}

func (o *outcome) spend(phase string, d time.Duration) {
	if o.Took == nil {
		o.Took = map[string]float64{}
	}
	o.Took[phase] += d.Seconds()
}

func (o *outcome) noise(phase string, share float64) {
	if o.Noise == nil {
		o.Noise = map[string]float64{}
	}
	o.Noise[phase] = share
}

func (o *outcome) drop(phase string) {
	if o.Dropped == nil {
		o.Dropped = map[string]int{}
	}
	o.Dropped[phase]++
}

func (o *outcome) atLeast(m metric, value float64) {
	if o.AtLeast == nil {
		o.AtLeast = map[metric]float64{}
	}
	o.AtLeast[m] = value
}

func (o *outcome) add(m metric, values ...float64) {
	if o.Values == nil {
		o.Values = map[metric][]float64{}
	}
	o.Values[m] = append(o.Values[m], values...)
}

// problem notes why figures are missing.
func (o *outcome) problem(err error) {
	if o.Problem != "" {
		o.Problem += "; "
	}
	o.Problem += err.Error()
}

// addConnect adds the percentiles of a path, unless it failed.
func (o *outcome) addConnect(metrics [2]metric, p *path) {
	if p.err != nil {
		o.problem(p.err)
		return
	}
	us := microseconds(p.result)
	o.add(metrics[0], quantile(us, 0.01))
	o.add(metrics[1], quantile(us, 0.50))
}

// quantile returns the value that a share q of the values does not exceed, by
// nearest rank; NaN of none. The values are not changed.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func maximum(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Max(values)
}

func minimum(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Min(values)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(list []time.Duration) []float64 {
	us := make([]float64, 0, len(list))
	for _, d := range list {
		us = append(us, float64(d)/float64(time.Microsecond))
	}
	return us
}
