//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metrics of the suite that have no rate or size in their names.
const (
	startHeap metric = "start_heap_bytes"
	churnHeap metric = "churn_heap_bytes"
)

// churnMetric names a figure of C4 at a rate.
func churnMetric(rate int, what string) metric { return metric(fmt.Sprintf("churn_%d_%s", rate, what)) }

// weigh notes the memory of the proxy: resident, at its peak, and, of a Go program
// that says so, on the heap.
func (t *suiteTrial) weigh(ctx context.Context, resident, peak, heap metric) error {
	if err := t.memory(ctx, resident, peak); err != nil {
		return err
	}
	inUse, err := t.gauge(ctx, "go_memstats_heap_inuse_bytes")
	if err != nil {
		t.log.Info("the proxy does not tell its heap", "err", err)
		return nil
	}
	t.out.add(heap, inUse)
	t.out.add(perEndpoint(heap), inUse/float64(t.spec.Services*t.spec.Endpoints))
	return nil
}

// perEndpoint names the same figure for each endpoint.
func perEndpoint(m metric) metric { return m + "_per_endpoint" }

// gauge reads one of the proxy's own metrics. No figure of the comparison but the
// heap comes from there.
func (t *suiteTrial) gauge(ctx context.Context, name string) (float64, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = t.network.node.Do(func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	return findGauge(resp.Body, name)
}

// findGauge looks for a metric without labels in the text format of Prometheus.
func findGauge(r io.Reader, name string) (float64, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("there is no metric %s", name), lines.Err())
}

// changes are isolatedChanges that end early, but not before the second, if they
// take a proxy long.
func (t *suiteTrial) changes(ctx context.Context) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	begun, made, most := time.Now(), 0, t.options.flips
	if t.world.brief {
		most = min(most, briefFlips)
	}
	for made < most && (made < 2 || time.Since(begun) < t.options.phaseLimit) {
		took, err := t.flip(ctx, t.nextFlip())
		if err != nil {
			t.out.atLeast(flipLatency, milliseconds(t.options.flipTimeout))
			return err
		}
		made++
		t.out.add(flipLatency, milliseconds(took))
		if err := t.pauseShort(ctx); err != nil {
			return err
		}
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(flipCPU, milliseconds(after-before)/float64(made))
	return nil
}

// briefFlips is how many isolated changes are enough for a brief world.
const briefFlips = 4

// pauseShort waits for longer than the proxies' shortest pause between two rounds of
// work, and until the proxy is at rest.
func (t *suiteTrial) pauseShort(ctx context.Context) error {
	const pause, jitter = 1200 * time.Millisecond, 600 * time.Millisecond
	return sleep(ctx, pause+time.Duration(t.random.Int64N(int64(jitter))))
}

// churnAt moves endpoints at a rate, times some of the changes, and then how long
// after the last one everything is in force.
func (t *suiteTrial) churnAt(ctx context.Context, rate int) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	flips := newFlipGroup(ctx, t.trial)
	begun := time.Now()
	made, err := t.moves(ctx, rate, flips)
	lasted := time.Since(begun)
	during := flips.started
	var last []time.Duration
	if err == nil {
		last, err = t.lastFlips(ctx)
	}
	if err := errors.Join(err, flips.wait()); err != nil {
		t.out.atLeast(churnMetric(rate, "backlog_seconds"), time.Since(begun.Add(lasted)).Seconds())
		return err
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(churnMetric(rate, "latency_ms"), flips.took...)
	backlog := time.Duration(0)
	for _, l := range last {
		t.out.add(churnMetric(rate, "latency_ms"), milliseconds(l))
		backlog = max(backlog, l)
	}
	changes := float64(made + during + len(last))
	t.out.add(churnMetric(rate, "backlog_seconds"), backlog.Seconds())
	t.out.add(churnMetric(rate, "cpu_seconds_per_1000"), (after-before).Seconds()*1000/changes)
	t.out.add(churnMetric(rate, "made_per_second"), float64(made)/lasted.Seconds())
	return nil
}

// moves makes the changes of churnAt, apart from those of flips, and returns how
// many there were.
func (t *suiteTrial) moves(ctx context.Context, rate int, flips *flipGroup) (int, error) {
	span := t.options.churn
	if rate > 20 {
		span = min(span, 4*time.Second)
	} else if rate < 20 {
		span *= 2
	}
	begun, spares := time.Now(), t.options.probesNeeded()+suiteProbes
	every := max(span/5, 700*time.Millisecond)
	nextProbe := begun.Add(every / 2)
	for c := 0; ; c++ {
		due := begun.Add(time.Duration(c) * time.Second / time.Duration(rate))
		if due.Sub(begun) >= span {
			return c, nil
		}
		if ahead := time.Until(due); ahead > 500*time.Microsecond {
			if err := sleep(ctx, ahead); err != nil {
				return c, err
			}
		} else if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		t.moved++
		m := t.moved
		_, err := t.network.moveEndpoint(ctx, m*churnStride%t.spec.Services, m%t.spec.Endpoints, t.spec.spare(spares+m))
		if err != nil {
			return c, err
		}
		if time.Now().After(nextProbe) && t.flips < t.spec.Probes-probesKept {
			nextProbe = nextProbe.Add(every)
			flips.start()
		}
	}
}

// probesKept are probe Services that churn leaves for what comes after it.
const probesKept = 12

// lastFlips are made at the end of churn, when all other changes have been sent.
func (t *suiteTrial) lastFlips(ctx context.Context) ([]time.Duration, error) {
	var list []time.Duration
	flips := newFlipGroup(ctx, t.trial)
	for range 3 {
		flips.start()
	}
	err := flips.wait()
	for _, ms := range flips.took {
		list = append(list, time.Duration(ms*float64(time.Millisecond)))
	}
	return list, err
}
