//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	serversTick  = 100 * time.Millisecond // between two looks at the number of virtual servers
	contentsWait = 2 * time.Second        // between two looks at everything, which is dear
)

// arrival is when something that was waited for was there.
type arrival struct {
	name string
	at   []time.Time // zero times: not in time
	err  error
}

// last returns the time of the last; zero if there is one that was not in time.
func (a arrival) last() time.Time {
	if len(a.at) == 0 || slices.ContainsFunc(a.at, time.Time.IsZero) {
		return time.Time{}
	}
	return slices.MaxFunc(a.at, time.Time.Compare)
}

// coldStartIPVS waits until Services answer to a pod, and to the node itself,
// which takes a rule for masquerading on top, and until IPVS holds all of them.
// The last of the three is the end, counted from the start of the proxy.
func (t *trial) coldStartIPVS(ctx context.Context) error {
	watching, cancel := context.WithTimeout(ctx, t.options.coldTimeout)
	defer cancel()
	go func() { // there is nothing to wait for when the proxy has ended
		select {
		case <-t.run.process.Done():
			cancel()
		case <-watching.Done():
		}
	}()
	pods, node, kernel := arrival{name: "pods"}, arrival{name: "the node"}, arrival{name: "all of IPVS"}
	var all sync.WaitGroup
	all.Go(func() { pods.at, pods.err = t.coldWatcher().run(watching, t.network.pod.NS) })
	all.Go(func() { node.at, node.err = t.coldWatcher().run(watching, t.network.node.NS) })
	all.Go(func() { kernel.at, kernel.err = t.awaitContents(watching) })
	all.Wait()
	used, err := t.run.meter.cpu()
	if err := errors.Join(err, pods.err, node.err, kernel.err, context.Cause(ctx)); err != nil {
		return err
	}
	return t.coldOutcome(ctx, pods, node, kernel, used)
}

// coldOutcome notes what came when, and fails if something did not come.
func (t *trial) coldOutcome(ctx context.Context, pods, node, kernel arrival, used time.Duration) error {
	since := func(at time.Time) float64 { return at.Sub(t.run.started).Seconds() }
	if some := slices.DeleteFunc(slices.Clone(pods.at), time.Time.IsZero); len(some) > 0 {
		t.out.add(coldFirst, since(slices.MinFunc(some, time.Time.Compare)))
	}
	end, missing := t.run.started, []string(nil)
	for metric, a := range map[metric]arrival{coldPods: pods, coldNode: node, coldKernel: kernel} {
		at := a.last()
		if at.IsZero() {
			missing = append(missing, a.name)
			t.out.atLeast(metric, time.Since(t.run.started).Seconds())
			continue
		}
		t.out.add(metric, since(at))
		end = slices.MaxFunc([]time.Time{end, at}, time.Time.Compare)
	}
	if len(missing) > 0 {
		t.out.atLeast(coldAll, time.Since(t.run.started).Seconds())
		t.out.atLeast(coldCPU, used.Seconds())
		slices.Sort(missing)
		return t.lateness(ctx, missing, used)
	}
	t.out.add(coldAll, since(end))
	t.out.add(coldCPU, used.Seconds())
	return nil
}

func (t *trial) coldWatcher() watcher {
	w := watcher{
		every: t.options.mode.pace().coldTick, patience: probePatient, timeout: t.options.coldTimeout, through: t.variant == userspace,
	}
	for k := range coldSamples {
		w.targets = append(w.targets, vip(k*(t.spec.Services-1)/(coldSamples-1)))
	}
	return w
}

// awaitContents returns when IPVS had all that it is to have: the moment of the
// look at it that found that.
func (t *trial) awaitContents(ctx context.Context) ([]time.Time, error) {
	want := t.spec.contents()
	for {
		begun := time.Now()
		number, err := t.network.virtualServers()
		if err != nil {
			return nil, fmt.Errorf("ask for the number of virtual servers: %w", err)
		}
		wait := serversTick
		if number >= want.servers {
			got, err := t.network.contents()
			if err != nil {
				return nil, fmt.Errorf("read IPVS: %w", err)
			}
			if got.covers(want) {
				return []time.Time{begun}, nil
			}
			wait = contentsWait
		}
		if sleep(ctx, wait) != nil {
			return nil, nil // out of time
		}
	}
}

// lateness says what was in force when the time was up.
func (t *trial) lateness(ctx context.Context, missing []string, used time.Duration) error {
	got, err := t.network.contents()
	if err != nil {
		return err
	}
	elements := t.largestSet(ctx)
	return &lateError{fmt.Sprintf("not in force for %s when the time was up: there were %v of %v, and %s; the proxy was given %v, and used %.1f s of CPU",
		strings.Join(missing, ", "), got, t.spec.contents(), elements,
		time.Since(t.run.started).Round(10*time.Millisecond), used.Seconds())}
}

// largestSet says how many elements the largest ipset has.
func (t *trial) largestSet(ctx context.Context) string {
	out, err := t.network.node.Output(ctx, "ipset", "list", "-t")
	if err != nil {
		return "no ipset could be read"
	}
	name, largest, most := "", "no ipset", 0
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "Name: "); ok {
			name = strings.TrimSpace(rest)
		}
		var number int
		if n, _ := fmt.Sscanf(line, "Number of entries: %d", &number); n == 1 && number > most {
			largest, most = fmt.Sprintf("%d elements in the ipset %s", number, name), number
		}
	}
	return largest
}

// rest waits until the proxy and its children have used next to no CPU for a
// while, so that what comes next is no part of what was before.
func (t *trial) rest(ctx context.Context, limit time.Duration) error {
	const (
		tick  = 500 * time.Millisecond
		calm  = 4    // ticks
		share = 0.10 // of a CPU
	)
	deadline := time.Now().Add(limit)
	var used []time.Duration
	for {
		now, err := t.run.meter.cpu()
		if err != nil {
			return err
		}
		used = append(used, now)
		if n := len(used); n > calm && (now-used[n-1-calm]).Seconds() < share*calm*tick.Seconds() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it did not come to rest within %v", limit)
		}
		if err := sleep(ctx, tick); err != nil {
			return err
		}
	}
}

// answers returns how long after begun a Service began to answer to pods.
func (t *trial) answers(ctx context.Context, service int, begun time.Time, timeout time.Duration) (time.Duration, error) {
	w := watcher{
		targets: []netip.AddrPort{vip(service)}, every: t.options.mode.pace().flipTick,
		patience: probePatient, timeout: timeout, through: t.variant == userspace,
	}
	at, err := w.run(ctx, t.network.pod.NS)
	switch {
	case err != nil:
		return 0, err
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case at[0].IsZero():
		return 0, fmt.Errorf("%s did not answer within %v", vip(service), timeout)
	}
	return at[0].Sub(begun), nil
}
