//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"
)

// bench is a whole run.
type bench struct {
	options  options
	log      *slog.Logger
	subjects []subject
	shims    map[variant]string // folders to put first in PATH
	outcomes []*outcome
	remarks  []string
	budget   budget
	guest    bool         // started by a bench on the host
	tell     func() error // what there is so far; nil unless guest
}

// all runs every combination, each with all its rounds. It stops at the first
// error that is not a proxy's; the outcomes before it stay.
func (b *bench) all(ctx context.Context) error {
	for _, v := range b.options.variants {
		if b.options.mode == modeIPVS {
			if err := b.warmUp(ctx, v); err != nil {
				return fmt.Errorf("warm up: %w", err)
			}
		}
		for _, n := range b.options.services {
			if v == nft && n > b.options.nftMax {
				b.remarks = append(b.remarks, fmt.Sprintf(
					"nft with %d Services was not measured: loading so many rules takes iptables-nft of the common versions many minutes, whoever runs it (-nft-max)", n))
				continue
			}
			for round := range b.options.rounds {
				if err := b.round(ctx, v, n, round); err != nil {
					return fmt.Errorf("iptables %s, %d Services, round %d: %w", v, n, round+1, err)
				}
				if err := b.report(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// report tells the bench on the host, if there is one, what there is so far: the
// guest may not live to tell the rest.
func (b *bench) report() error {
	if b.tell == nil {
		return nil
	}
	return b.tell()
}

// contender is a network with the rules of a proxy that has been stopped.
type contender struct {
	network *network
	out     *outcome
}

// newTrial starts a proxy on its trial.
func (b *bench) newTrial(ctx context.Context, s subject, out *outcome, log *slog.Logger) (*trial, error) {
	return newTrial(ctx, trial{
		options: b.options, subject: s, variant: out.Variant, shim: b.shims[out.Variant], out: out, log: log, tell: b.report,
		spec: spec{Services: out.Services, Probes: b.options.probesNeeded(), Endpoints: b.options.endpoints},
	})
}

// bare makes a network without a proxy.
func (b *bench) bare(v variant, n, round int) (contender, error) {
	network, err := newNetwork(spec{Services: 1, Endpoints: 1}, b.log)
	if err != nil {
		return contender{}, err
	}
	out := &outcome{Proxy: noProxy, Variant: v, Services: n, Round: round + 1}
	b.outcomes = append(b.outcomes, out)
	return contender{network, out}, nil
}

// round lets every proxy have its trial, one after the other, and then times
// connections through the rules of all.
func (b *bench) round(ctx context.Context, v variant, n, round int) (err error) {
	if b.options.mode == modeIPVS {
		return b.roundIPVS(ctx, v, n, round)
	}
	var contenders []contender
	defer func() {
		for _, c := range contenders {
			err = errors.Join(err, c.network.close())
		}
	}()
	for _, s := range b.subjects {
		out := &outcome{Proxy: s.name, Variant: v, Services: n, Round: round + 1}
		log := b.log.With("proxy", s.name, "variant", string(v), "services", n, "round", round+1)
		t, err := b.newTrial(ctx, s, out, log)
		if err != nil {
			return err
		}
		b.outcomes = append(b.outcomes, out)
		contenders = append(contenders, contender{t.network, out})
		if err := t.finish(ctx); err != nil {
			return err
		}
	}
	bare, err := b.bare(v, n, round)
	if err != nil {
		return err
	}
	contenders = append(contenders, bare)
	b.log.Info("connecting", "variant", string(v), "services", n, "round", round+1)
	return b.connect(ctx, v, contenders)
}

// roundIPVS is round where the rules of one proxy would be in the way of the
// next: IPVS has one table of virtual servers for all network namespaces, and
// counts the packets of all of them every two seconds. So each network goes
// before the next one comes.
func (b *bench) roundIPVS(ctx context.Context, v variant, n, round int) error {
	for _, s := range b.subjects {
		out := &outcome{Proxy: s.name, Variant: v, Services: n, Round: round + 1}
		log := b.log.With("proxy", s.name, "services", n, "round", round+1)
		if err := b.calm(ctx); err != nil {
			return err
		}
		t, err := b.newTrial(ctx, s, out, log)
		if err != nil {
			return err
		}
		b.outcomes = append(b.outcomes, out)
		c := contender{t.network, out}
		err = t.finish(ctx)
		if err == nil {
			err = b.connect(ctx, v, []contender{c})
		}
		if err := errors.Join(err, c.network.close(), b.report()); err != nil {
			return err
		}
	}
	bare, err := b.bare(v, n, round)
	if err != nil {
		return err
	}
	return errors.Join(b.connect(ctx, v, []contender{bare}), bare.network.close())
}

// warmUp lets every proxy start once with one Service: kernel modules are loaded,
// and programs are read from the disk, whoever comes first.
func (b *bench) warmUp(ctx context.Context, v variant) error {
	for _, s := range b.subjects {
		log := b.log.With("proxy", s.name)
		log.Info("warming up")
		out := &outcome{Proxy: s.name, Variant: v, Services: 1}
		t, err := newTrial(ctx, trial{
			options: b.options, subject: s, variant: v, shim: b.shims[v], out: out, log: log,
			spec: spec{Services: 1, Endpoints: 1},
		})
		if err != nil {
			return err
		}
		if err := t.coldStartIPVS(ctx); err != nil {
			log.Warn("it did not start", "err", errors.Join(err, t.run.ended()))
		}
		if err := errors.Join(context.Cause(ctx), t.run.close(), t.network.close()); err != nil {
			return err
		}
	}
	return nil
}

// calm waits until the machine has little to do: the kernel takes a network
// namespace apart after everybody has left it. It waits a minute at most.
func (b *bench) calm(ctx context.Context) error {
	const period, busy = 2 * time.Second, 0.1
	for range 30 {
		before, err := readMachine()
		if err != nil {
			return err
		}
		if err := sleep(ctx, period); err != nil {
			return err
		}
		after, err := readMachine()
		if err != nil {
			return err
		}
		if total := after.total - before.total; total > 0 && float64(after.busy-before.busy) < busy*float64(total) {
			return nil
		}
	}
	b.log.Warn("others keep this machine busy")
	return nil
}

// finish runs the phases and ends the proxy. What a proxy fails to do is noted in
// the outcome; an error is the harness's own, or ctx's.
func (t *trial) finish(ctx context.Context) error {
	from, err := t.effort()
	if err == nil {
		if problem := t.phases(ctx); problem != nil {
			t.out.problem(problem)
			t.log.Warn("trial ended early", "err", problem)
		}
		if to, err := t.effort(); err == nil { // no meter without a process, in some places
			t.out.add(foreignCPU, foreign(from, to))
		}
	}
	return errors.Join(err, context.Cause(ctx), t.run.close(), t.network.replay.close())
}

// connect times connections through all networks, in turns.
func (b *bench) connect(ctx context.Context, v variant, contenders []contender) error {
	var all []*path
	var report []func()
	for _, c := range contenders {
		paths, err := c.paths(ctx, b.options.mode, v)
		if err != nil {
			c.out.problem(fmt.Errorf("find Services to connect to: %w", err))
		}
		for metrics, p := range paths {
			all = append(all, p)
			report = append(report, func() { c.out.addConnect(metrics, p) })
		}
	}
	runtime.GC() // now, rather than between two connections
	if err := connectAll(ctx, all, b.options.connects); err != nil {
		return err
	}
	for _, add := range report {
		add()
	}
	return nil
}

// paths are what to connect to in a network: nothing if not all rules are there.
func (c contender) paths(ctx context.Context, m mode, v variant) (map[[2]metric]*path, error) {
	if c.out.Proxy == noProxy {
		other := &path{network: c.network, target: otherTarget()}
		return map[[2]metric]*path{{connectOther01, connectOther50}: other}, nil
	}
	if m == modeIPVS { // a hash table has no order
		if len(c.out.Values[flipLatency]) == 0 {
			return nil, nil
		}
		n := c.out.Services
		return connectPaths(c.network, positions{vip(0), vip(n / 2), vip(n - 1)}, otherTarget()), nil
	}
	if len(c.out.Values[coldAll]) == 0 {
		return nil, nil
	}
	rules, err := c.network.rules(ctx, v)
	if err != nil {
		return nil, err
	}
	where, err := findPositions(rules, c.out.Services)
	if err != nil {
		return nil, err
	}
	return connectPaths(c.network, where, otherTarget()), nil
}
