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
	if _, err := t.network.replay.store.moveEndpoint(i, 0, t.spec.spare(k)); err != nil {
		return err
	}
	var err error
	if t.run, err = t.subject.start(ctx, t.network, t.options.mode, t.variant, t.shim); err != nil {
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

func (t *trial) restartSame(ctx context.Context) (err error) {
	if err := t.kill(); err != nil {
		return err
	}
	watch, err := newSpy(t.network.dir, t.variant)
	if err != nil {
		return err
	}
	tap, err := newTap(ctx, t.network)
	if err != nil {
		return fmt.Errorf("cannot see what is asked of the kernel: %w", err)
	}
	closed := false
	defer func() {
		if !closed {
			_, cerr := tap.close()
			err = errors.Join(err, cerr)
		}
	}()
	before, err := t.network.state(ctx, t.variant)
	if err != nil {
		return err
	}
	stop := t.connecting(ctx)
	err = t.observe(ctx, watch.dir)
	failed, tries := stop()
	if err != nil {
		return err
	}
	after, err := t.network.state(ctx, t.variant)
	if err != nil {
		return err
	}
	closed = true
	seen, err := tap.close()
	if err != nil {
		return err
	}
	commands, all, err := watch.calls()
	if err != nil {
		return err
	}
	t.addWrites(seen, commands, before.difference(after))
	t.out.add(restartFailed, float64(failed))
	t.log.Info("observed", "writes", fmt.Sprintf("%+v", seen), "commands", all, "writing", commands, "connections", tries)
	return nil
}

func (t *trial) addWrites(seen writes, commands int, changed []string) {
	t.out.add(restartIPVS, float64(seen.ipvs))
	t.out.add(restartIPSet, float64(seen.ipset))
	t.out.add(restartRouting, float64(seen.routing))
	t.out.add(restartIptables, float64(commands))
	t.out.add(restartDiffers, float64(len(changed)))
	if seen.lost > 0 {
		t.out.problem(fmt.Errorf("%d requests of the restarted proxy were not seen", seen.lost))
	}
	const quote = 5
	for _, line := range changed[:min(quote, len(changed))] {
		t.log.Info("differs after the restart", "line", line)
	}
}

// observe starts the proxy and waits until it has been at rest, and for as long
// as it takes both proxies to look after their rules by themselves.
func (t *trial) observe(ctx context.Context, shim string) (err error) {
	if t.run, err = t.subject.start(ctx, t.network, t.options.mode, t.variant, shim); err != nil {
		return err
	}
	if err := sleep(ctx, t.options.idle); err != nil {
		return err
	}
	return t.rest(ctx, t.options.coldTimeout)
}

// connecting makes connections to a Service, one after the other, until stop is
// called, which returns how many of them failed.
func (t *trial) connecting(ctx context.Context) (stop func() (failed, all int)) {
	const pause = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	failed, all := 0, 0
	var done sync.WaitGroup
	done.Go(func() {
		for sleep(ctx, pause) == nil {
			all++
			err := t.network.pod.Do(func() error {
				_, err := timeConnect(vip(0))
				return err
			})
			if err != nil {
				failed++
			}
		}
	})
	return func() (int, int) {
		cancel()
		done.Wait()
		return failed, all
	}
}
