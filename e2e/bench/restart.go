//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// warmRestart kills the proxy and starts it again, twice, with everything that
// it had in force left behind. The first time an endpoint changes while there
// is no proxy, and the clock is the data path: from exec to the first packet on
// the new endpoint. The second time nothing has changed, and what the proxy asks
// of the kernel is counted, which costs time, so that none is taken.
func (t *trial) warmRestart(ctx context.Context) error {
	if err := t.restartChanged(ctx); err != nil {
		return err
	}
	return t.restartSame(ctx)
}

// kill ends the proxy as a crash would, and remembers what it used.
func (t *trial) kill() error {
	used, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.earlier += used
	return t.run.close()
}

func (t *trial) restartChanged(ctx context.Context) error {
	if err := t.kill(); err != nil {
		return err
	}
	k := t.nextFlip()
	i := t.spec.probe(k)
	if _, err := t.network.moveEndpoint(ctx, i, 0, t.spec.spare(k)); err != nil {
		return err
	}
	var err error
	if t.run, err = t.start(ctx, t.shim); err != nil {
		return err
	}
	took, err := t.answers(ctx, i, t.run.started, t.options.coldTimeout)
	if err != nil {
		return fmt.Errorf("a change while there was no proxy: %w", err)
	}
	used, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(restartTime, took.Seconds())
	t.out.add(restartCPU, used.Seconds())
	if err := t.rest(ctx, t.options.flipTimeout); err != nil {
		return err
	}
	if used, err = t.run.meter.cpu(); err == nil {
		t.out.add(restartRestCPU, used.Seconds())
	}
	return err
}

func (t *trial) restartSame(ctx context.Context) error {
	if err := t.drained(ctx); err != nil {
		return err
	}
	if err := t.kill(); err != nil {
		return err
	}
	watch, err := newSpy(t.network.dir, t.variant)
	if err != nil {
		return err
	}
	before, err := t.network.state(ctx, t.variant)
	if err != nil {
		return err
	}
	seen, failed, err := t.watched(ctx, watch.dir, before)
	if err != nil {
		return err
	}
	after, err := t.network.state(ctx, t.variant)
	if err != nil {
		return err
	}
	rules, trials, err := watch.written(before.hasChain)
	if err != nil {
		return err
	}
	changed := before.difference(after)
	t.out.add(restartIPVS, float64(seen.ipvs))
	t.out.add(restartIPSet, float64(seen.ipset))
	t.out.add(restartRouting, float64(seen.routing))
	t.out.add(restartIptables, float64(len(rules)))
	t.out.add(restartTrials, float64(seen.trials+trials))
	t.out.add(restartDiffers, float64(len(changed)))
	t.out.add(restartFailed, float64(failed))
	if seen.lost > 0 {
		t.out.problem(fmt.Errorf("%d requests of the restarted proxy were not seen", seen.lost))
	}
	const quote = 5
	t.log.Info("restarted", "netlink", seen.what, "chains", rules[:min(quote, len(rules))], "changed", changed[:min(quote, len(changed))])
	return nil
}

// drained waits until no destination is on its way out, which takes as long as
// the connections to it have until they time out.
func (t *trial) drained(ctx context.Context) error {
	const tick, limit = 5 * time.Second, 150 * time.Second
	for begun := time.Now(); ; {
		c, err := t.network.contents()
		if err != nil {
			return err
		}
		if c.draining == 0 {
			return t.rest(ctx, t.options.flipTimeout)
		}
		if time.Since(begun) > limit {
			t.log.Warn("some destinations are still draining", "number", c.draining)
			return nil
		}
		if err := sleep(ctx, tick); err != nil {
			return err
		}
	}
}

// watched starts the proxy, with everything it asks for seen, and connections
// being made all the while, of which it returns how many failed.
func (t *trial) watched(ctx context.Context, shim string, before lines) (seen writes, failed int, err error) {
	tap, err := newTap(ctx, t.network, before.hasSet)
	if err != nil {
		return seen, 0, fmt.Errorf("cannot see what is asked of the kernel: %w", err)
	}
	stop := t.connecting(ctx)
	err = t.observe(ctx, shim)
	failed = stop()
	seen, cerr := tap.close()
	return seen, failed, errors.Join(err, cerr)
}

// observe starts the proxy and waits until it has been at rest, and for as long
// as it takes both proxies to look after their rules by themselves.
func (t *trial) observe(ctx context.Context, shim string) (err error) {
	if t.run, err = t.start(ctx, shim); err != nil {
		return err
	}
	if err := sleep(ctx, t.options.idle); err != nil {
		return err
	}
	return t.rest(ctx, t.options.coldTimeout)
}

// connecting makes connections to a Service, one after the other, until stop is
// called, which returns how many of them failed.
func (t *trial) connecting(ctx context.Context) (stop func() (failed int)) {
	const pause = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	failed := 0
	var done sync.WaitGroup
	done.Go(func() {
		for sleep(ctx, pause) == nil {
			err := t.network.pod.Do(func() error {
				_, err := timeConnect(vip(0))
				return err
			})
			if err != nil {
				failed++
			}
		}
	})
	return func() int {
		cancel()
		done.Wait()
		return failed
	}
}
