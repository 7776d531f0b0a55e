//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's floor: what the smallest change costs by itself, whoever makes it, with
// the rules of a proxy in force.
const (
	floorWall metric = "floor_ms"
	floorCPU  metric = "floor_cpu_ms"
	// floorTimes is the median of one endpoint's changes, divided by that of the floor.
	floorTimes metric = "change_over_floor"
)

// leastChange is the smallest change of a kind of iptables, made by system calls alone.
type leastChange interface {
	// prepare does what is no part of it.
	prepare() error
	// change is what is timed.
	change() error
	// undo leaves everything as it was before change.
	undo() error
	close() error
}

// newLeastChange opens a socket in a network: the change is made in there, wherever it
// is called from.
func newLeastChange(n *network, v variant) (c leastChange, err error) {
	err = n.node.Do(func() (err error) {
		if v == legacy {
			c, err = newTableCopy()
		} else {
			c, err = newRuleAdded()
		}
		return err
	})
	return c, err
}

// floor times the smallest change, in the proxy's network, with its rules in force and
// the proxy halted.
func (t *suiteTrial) floor(ctx context.Context) (err error) {
	const least, most, limit = 3, 15, 8 * time.Second
	if err := t.rest(ctx, t.options.flipTimeout); err != nil {
		return err
	}
	resume, err := t.halt()
	if err != nil {
		return err
	}
	defer resume()
	c, err := newLeastChange(t.network, t.variant)
	if err != nil {
		return fmt.Errorf("change something without the proxy: %w", err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	begun := time.Now()
	for i := 0; i < most && (i < least || time.Since(begun) < limit) && ctx.Err() == nil; i++ {
		wall, cpu, err := timeChange(c)
		if err != nil {
			return fmt.Errorf("change something without the proxy: %w", err)
		}
		t.out.add(floorWall, milliseconds(wall))
		t.out.add(floorCPU, milliseconds(cpu))
	}
	if took := t.out.Values[flipLatency]; len(took) > 0 {
		t.out.add(floorTimes, median(took)/median(t.out.Values[floorWall]))
	}
	return context.Cause(ctx)
}

// halt stops all processes of the proxy where they are, until resume.
func (t *suiteTrial) halt() (resume func(), err error) {
	pids, err := t.run.meter.pids()
	if err != nil {
		return nil, err
	}
	send := func(s unix.Signal) {
		for _, pid := range pids {
			_ = unix.Kill(pid, s) // one that has ended does nothing either
		}
	}
	send(unix.SIGSTOP)
	return func() { send(unix.SIGCONT) }, nil
}

// timeChange makes the change and undoes it, and returns the time of the former, and the
// CPU time of the thread that made it: the kernel works in its name.
func timeChange(c leastChange) (wall, cpu time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.prepare(); err != nil {
		return 0, 0, err
	}
	used, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	err = c.change()
	wall = time.Since(begun)
	after, terr := threadTime()
	return wall, after - used, errors.Join(err, terr, c.undo())
}

func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}
