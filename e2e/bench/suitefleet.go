//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Metrics of C6 and C7.
const (
	fleetAdded      metric = "fleet_added_ms"
	fleetGone       metric = "fleet_gone_ms"
	fleetMassGone   metric = "fleet_namespace_gone_seconds"
	fleetMassAdded  metric = "fleet_namespace_added_seconds"
	fleetMassCPU    metric = "fleet_namespace_cpu_seconds"
	relistCPU       metric = "relist_cpu_seconds"
	relistPeak      metric = "relist_peak_over_steady"
	relistSteady    metric = "relist_steady_rss_bytes"
	relistWrites    metric = "relist_writes"
	zoneCPU         metric = "zone_cpu_seconds"
	zoneWrites      metric = "zone_writes"
	restartCPUSame  metric = "restart_same_cpu_seconds"
	restartNft      metric = "restart_nft_writes"
	restartAnswered metric = "restart_connections"
)

// slice returns the k-th EndpointSlice of a large Service.
func (t *suiteTrial) slice(service, k int) (*discoveryv1.EndpointSlice, error) {
	r := t.network.replay.store.get(gvrSlices(), namespaceOf(service), partName(service, k))
	if r == nil {
		return nil, fmt.Errorf("there is no EndpointSlice %s", partName(service, k))
	}
	return r.object.(*discoveryv1.EndpointSlice), nil
}

func addrsOf(o *discoveryv1.EndpointSlice) []netip.Addr {
	var list []netip.Addr
	for _, e := range o.Endpoints {
		if *e.Conditions.Ready {
			list = append(list, netip.MustParseAddr(e.Addresses[0]))
		}
	}
	return list
}

// partAt is the next state of the k-th EndpointSlice of a large Service.
func partAt(service, k int, addrs []netip.Addr) *discoveryv1.EndpointSlice {
	o := part(service, k, addrs)
	dated(o)
	return o
}

// terminating is an endpoint that serves those who have it, and nobody else.
func terminating(service int, a netip.Addr) discoveryv1.Endpoint {
	e := endpoint(service, a)
	e.Conditions.Ready, e.Conditions.Terminating = new(false), new(true)
	return e
}

const (
	fleetFirst = 100 // of the Services of the namespace that goes
	fleetSize  = 50  // as namespaceOf says
)

// fleet adds single Services and takes them away, and then does so with a namespace.
func (t *suiteTrial) fleet(ctx context.Context) error {
	const singles = 3
	begun := time.Now()
	for k := range singles {
		if k >= 2 && time.Since(begun) > t.options.phaseLimit {
			break
		}
		if err := t.comeAndGo(ctx, t.spec.beyond()+k); err != nil {
			return err
		}
	}
	if t.spec.Services < fleetFirst+fleetSize {
		return nil
	}
	return t.namespace(ctx)
}

// comeAndGo adds Service i, waits for it to answer, and takes it away again.
func (t *suiteTrial) comeAndGo(ctx context.Context, i int) error {
	store := t.network.replay.store
	t.moved++
	store.write(service(i))
	eps := slice(i, []netip.Addr{t.spec.spare(suiteProbes*2 + t.moved)})
	dated(eps)
	sent, err := awaitSent(ctx, store.write(eps))
	if err != nil {
		return err
	}
	took, err := t.answers(ctx, i, sent, t.options.flipTimeout)
	if err != nil {
		return err
	}
	t.out.add(fleetAdded, milliseconds(took))
	if err := t.pauseShort(ctx); err != nil {
		return err
	}
	if _, err := store.remove(gvrSlices(), namespaceOf(i), eps.Name); err != nil {
		return err
	}
	change, err := store.remove(gvrServices(), namespaceOf(i), nameOf(i))
	if err != nil {
		return err
	}
	if sent, err = awaitSent(ctx, change); err != nil {
		return err
	}
	at, err := t.gone(ctx, vip(i))
	if err != nil {
		return err
	}
	t.out.add(fleetGone, max(0, milliseconds(at.Sub(sent))))
	return t.pauseShort(ctx)
}

// gone returns when the first of the connections to a Service was begun of which none
// succeeded.
func (t *suiteTrial) gone(ctx context.Context, to netip.AddrPort) (time.Time, error) {
	const patience, enough = 80 * time.Millisecond, 3
	var first time.Time
	failed := 0
	for deadline := time.Now().Add(t.options.flipTimeout); time.Now().Before(deadline); {
		begun := time.Now()
		err := t.network.pod.Do(func() error { return callOnce(to, patience) })
		switch {
		case err == nil:
			failed = 0
		case failed == 0:
			first, failed = begun, 1
		default:
			failed++
		}
		if failed == enough {
			return first, nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, fmt.Errorf("%s still answered after %v", to, t.options.flipTimeout)
}

// namespace deletes a namespace's Services, and adds them again.
func (t *suiteTrial) namespace(ctx context.Context) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	store := t.network.replay.store
	var kept []object
	var last *revision
	for i := fleetFirst; i < fleetFirst+fleetSize; i++ {
		eps := store.get(gvrSlices(), namespaceOf(i), nameOf(i)+"-x7k2p")
		if eps == nil {
			return fmt.Errorf("there is no EndpointSlice of Service %d", i)
		}
		kept = append(kept, eps.object.DeepCopyObject().(object), service(i))
		if _, err := store.remove(gvrSlices(), namespaceOf(i), nameOf(i)+"-x7k2p"); err != nil {
			return err
		}
		if last, err = store.remove(gvrServices(), namespaceOf(i), nameOf(i)); err != nil {
			return err
		}
	}
	took, err := t.allGone(ctx, last)
	if err != nil {
		return err
	}
	t.out.add(fleetMassGone, took.Seconds())
	for _, o := range kept {
		last = store.write(o)
	}
	sent, err := awaitSent(ctx, last)
	if err != nil {
		return err
	}
	w := t.coldWatcher()
	w.targets, w.timeout = fleetTargets(), t.options.flipTimeout
	at, err := w.run(ctx, t.network.pod.NS)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(at, time.Time.IsZero) {
		return errors.New("the Services of a namespace that was added again did not all answer")
	}
	t.out.add(fleetMassAdded, max(0, slices.MaxFunc(at, time.Time.Compare).Sub(sent).Seconds()))
	if err := t.rest(ctx, t.options.flipTimeout); err != nil {
		return err
	}
	after, err := t.run.meter.cpu()
	t.out.add(fleetMassCPU, (after - before).Seconds())
	return err
}

// fleetTargets are the Services of the namespace that are looked at.
func fleetTargets() []netip.AddrPort {
	return []netip.AddrPort{vip(fleetFirst), vip(fleetFirst + 16), vip(fleetFirst + 33), vip(fleetFirst + fleetSize - 1)}
}

// allGone returns how long after a change none of the targets answered any more.
func (t *suiteTrial) allGone(ctx context.Context, last *revision) (time.Duration, error) {
	sent, err := awaitSent(ctx, last)
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	targets := fleetTargets()
	at, errs := make([]time.Time, len(targets)), make([]error, len(targets))
	for k, to := range targets {
		all.Go(func() { at[k], errs[k] = t.gone(ctx, to) })
	}
	all.Wait()
	return max(0, slices.MaxFunc(at, time.Time.Compare).Sub(sent)), errors.Join(errs...)
}

// relist has the API server forget its past, and then moves the node to another
// zone. What the proxy does about either is counted: it should be nothing.
func (t *suiteTrial) relist(ctx context.Context) error {
	m, err := readMemory(t.run.pid())
	if err != nil {
		return err
	}
	// 5 resets the peak to what there is.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", t.run.pid()), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the peak of memory: %w", err)
	}
	read := t.network.replay.wholes.Load()
	used, made, err := t.provoked(ctx, func() error {
		t.network.replay.disconnect()
		const kinds = 3 // Services, EndpointSlices and the node
		for begun := time.Now(); t.network.replay.wholes.Load() < read+kinds; {
			if time.Since(begun) > t.options.flipTimeout {
				return errors.New("the proxy did not read everything again")
			}
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	after, err := readMemory(t.run.pid())
	if err != nil {
		return err
	}
	t.out.add(relistCPU, used.Seconds())
	t.out.add(relistSteady, float64(m.resident))
	t.out.add(relistPeak, float64(after.peak)/float64(m.resident))
	t.addWrites(relistWrites, made)
	return t.moveZone(ctx)
}

func (t *suiteTrial) moveZone(ctx context.Context) error {
	used, made, err := t.provoked(ctx, func() error {
		n := node()
		n.Labels[corev1.LabelTopologyZone] = "b"
		_, err := awaitSent(ctx, t.network.replay.store.write(n))
		return err
	})
	if err != nil {
		return fmt.Errorf("move the node to another zone: %w", err)
	}
	t.out.add(zoneCPU, used.Seconds())
	t.addWrites(zoneWrites, made)
	return nil
}

// addWrites notes how much was written, if that could be seen.
func (t *suiteTrial) addWrites(m metric, made writesMade) {
	if !made.unseen {
		t.out.add(m, float64(made.inForce))
	}
}

// provoked does something, waits until the proxy is at rest, and returns what CPU
// time it took and how often the proxy wrote to the kernel.
func (t *suiteTrial) provoked(ctx context.Context, do func() error) (used time.Duration, made writesMade, err error) {
	before, err := t.run.meter.cpu()
	if err != nil {
		return 0, made, err
	}
	count, err := t.countWrites()
	if err != nil {
		return 0, made, err
	}
	err = do()
	if err == nil {
		err = sleep(ctx, settle)
	}
	if err == nil {
		err = t.rest(ctx, t.options.coldTimeout)
	}
	made, cerr := count()
	after, merr := t.run.meter.cpu()
	return after - before, made, errors.Join(err, cerr, merr)
}
