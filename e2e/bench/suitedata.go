//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
)

// loadMetric names a figure of D2 or D3.
func loadMetric(k load.Kind, what string) metric { return metric("load_" + k.String() + "_" + what) }

// widthMetric names a figure of D6.
func widthMetric(endpoints int, what string) metric {
	return metric(fmt.Sprintf("connect_of_%d_%s_us", endpoints, what))
}

// dataPaths compares what packets meet in the networks of all entrants, in turns,
// with nothing else going on.
func (b *bench) dataPaths(ctx context.Context, w world, all []*finalist, round int) error {
	if len(all) == 0 {
		return nil
	}
	if w.kind == worldMemory {
		return b.idleTogether(ctx, all)
	}
	if w.kind == worldLarge {
		if !b.options.wants(sceneWidth) {
			return nil
		}
		b.log.Info("connecting", "world", w.String())
		return b.connectWidths(ctx, w, all)
	}
	if b.options.wants(sceneConnect) {
		b.log.Info("connecting", "world", w.String())
		if err := b.connectSuite(ctx, w, all, round); err != nil {
			return err
		}
	}
	if !w.most && b.options.only == "" {
		return b.report()
	}
	for _, k := range loadKinds() {
		if scene := map[load.Kind]string{load.Connect: sceneCRR, load.Ping: sceneRR}[k]; !b.options.wants(scene) {
			continue
		}
		b.log.Info("loading", "kind", k.String(), "world", w.String())
		for range loadRounds {
			for _, f := range all {
				if err := f.load(ctx, k); err != nil {
					return err
				}
			}
		}
	}
	return b.report()
}

// started says that the entrant got as far as to have its rules in force.
func (f *finalist) started() bool { return len(f.out.Values[coldAll]) > 0 }

// connectSuite is connect, with a network without a proxy among the others.
func (b *bench) connectSuite(ctx context.Context, w world, all []*finalist, round int) (err error) {
	network, err := newNetwork(spec{Services: 1, Endpoints: 1}, b.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.close()) }()
	bare := &outcome{World: w.kind, Proxy: noProxy, Services: w.services, Endpoints: w.endpoints, Round: round}
	b.outcomes = append(b.outcomes, bare)
	paths := []*path{{network: network, target: otherTarget()}}
	add := []func(){func() { bare.addConnect([2]metric{connectOther01, connectOther50}, paths[0]) }}
	for _, f := range all {
		if !f.started() {
			continue
		}
		for metrics, p := range connectPaths(f.network, f.positions(ctx), otherTarget()) {
			paths = append(paths, p)
			add = append(add, func() { f.out.addConnect(metrics, p) })
		}
	}
	return b.connectTo(ctx, paths, add)
}

func (b *bench) connectTo(ctx context.Context, paths []*path, add []func()) error {
	runtime.GC() // now, rather than between two connections
	if err := connectAll(ctx, paths, b.options.connects); err != nil {
		return err
	}
	for _, a := range add {
		a()
	}
	return b.report()
}

// positions are the Services that come first, in the middle and last in the rules;
// where rules have no order, or it cannot be seen, any three.
func (f *finalist) positions(ctx context.Context) positions {
	n := f.spec.Services
	any := positions{vip(0), vip(n / 2), vip(n - 1)}
	if !f.variant.usesIptables() {
		return any
	}
	rules, err := f.network.rules(ctx, f.variant)
	if err != nil {
		return any
	}
	where, err := findPositions(rules, n)
	if err != nil {
		return any
	}
	return where
}

// connectWidths times connections to Services of several numbers of endpoints.
func (b *bench) connectWidths(ctx context.Context, w world, all []*finalist) error {
	var paths []*path
	var add []func()
	for k, n := range w.widths() {
		for _, f := range all {
			if !f.started() {
				continue
			}
			p := &path{network: f.network, target: vip(f.spec.large(k))}
			paths = append(paths, p)
			add = append(add, func() { f.out.addConnect([2]metric{widthMetric(n, "p01"), widthMetric(n, "p50")}, p) })
		}
	}
	return b.connectTo(ctx, paths, add)
}

// loadRounds is how often each network has a load of each kind, in turns.
const loadRounds = 2

// idleTogether watches all proxies at once while nothing happens. None has changed
// anything for a while by then, apart from the last; what it does after that is waited for.
func (b *bench) idleTogether(ctx context.Context, all []*finalist) error {
	const after = 12 * time.Second
	running := slices.DeleteFunc(slices.Clone(all), func(f *finalist) bool {
		return f.run == nil || f.run.ended() != nil || !b.options.wants(sceneIdle)
	})
	if len(running) == 0 {
		return nil
	}
	b.log.Info("idle", "proxies", len(running))
	if err := sleep(ctx, min(after, b.options.idle)); err != nil {
		return err
	}
	before := make([]time.Duration, len(running))
	begun := time.Now()
	for i, f := range running {
		var err error
		if before[i], err = f.run.meter.cpu(); err != nil {
			return err
		}
	}
	if err := sleep(ctx, b.options.idle); err != nil {
		return err
	}
	for i, f := range running {
		used, err := f.run.meter.cpu()
		if err != nil {
			return err
		}
		f.out.add(idleCPU, milliseconds(used-before[i])/time.Since(begun).Seconds())
	}
	return b.report()
}

// load puts a load on the network, and notes the rate and the CPU time for each
// operation: that of clients and endpoints, which are this process, of the proxy if
// it is in the way, and of packets as far as they are handled by one of them.
func (f *finalist) load(ctx context.Context, k load.Kind) error {
	const duration = 1200 * time.Millisecond
	if !f.started() {
		return nil
	}
	var marks []time.Duration
	mark := func() error {
		used, err := f.whole()
		marks = append(marks, used)
		return err
	}
	l := load.Load{Kind: k, Target: f.spec.loadTarget(k), Conns: loadConns(k), Warmup: loadWarmup, Duration: duration}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*duration+10*time.Second, errors.New("the load does not end"))
	defer cancel()
	var got load.Result
	err := f.network.pod.Do(func() (err error) {
		got, err = l.Run(ctx, mark)
		return err
	})
	if err != nil || got.Operations == 0 || len(marks) != 2 {
		f.out.problem(fmt.Errorf("load %v: %w", k, errors.Join(err, got.FirstError)))
		return nil
	}
	f.out.add(loadMetric(k, "per_second"), float64(got.Operations)/got.Elapsed.Seconds())
	f.out.add(loadMetric(k, "cpu_us"), float64((marks[1]-marks[0]).Microseconds())/float64(got.Operations))
	f.out.add(loadMetric(k, "failed"), float64(got.Failed))
	return nil
}

// whole is the CPU time of this process and of a proxy that is in the way.
func (f *finalist) whole() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	used := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if f.run == nil {
		return used, nil
	}
	proxy, err := f.run.meter.cpu()
	return used + proxy, err
}

// moveEndpoint gives one endpoint of a Service another address. The result tells
// when the change has been sent.
func (n *network) moveEndpoint(ctx context.Context, i, index int, to netip.Addr) (*revision, error) {
	if n.real != nil {
		return n.real.move(ctx, i, index, to)
	}
	return n.replay.store.moveEndpoint(i, index, to)
}
