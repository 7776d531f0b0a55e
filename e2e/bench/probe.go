//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"golang.org/x/sys/unix"
)

// watcher finds out when destinations begin to answer: it begins a new TCP
// connection to each of them at every tick, and does not wait for one before it
// begins the next. Each has a source port of its own, so that none inherits what
// the connection tracker decided for an earlier one.
type watcher struct {
	targets  []netip.AddrPort
	every    time.Duration // between two attempts at one target
	patience time.Duration // for one attempt
	timeout  time.Duration // for all targets
	// through asks for more than a connection: that an endpoint has ended it. A proxy
	// in between accepts connections whether there is an endpoint or not.
	through bool
}

// attempt is a connection that is being opened.
type attempt struct {
	fd     int
	target int
	begun  time.Time
}

// run returns when each target first answered, in their order; the zero time
// means never. An error means that probing itself was impossible.
func (w watcher) run(ctx context.Context, ns *netns.NS) (answered []time.Time, err error) {
	answered = make([]time.Time, len(w.targets))
	err = ns.Do(func() error { return w.loop(ctx, answered) })
	return answered, err
}

func (w watcher) loop(ctx context.Context, answered []time.Time) error {
	var pending []attempt
	defer func() {
		for _, a := range pending {
			unix.Close(a.fd)
		}
	}()
	deadline := time.Now().Add(w.timeout)
	for next := time.Now(); ; next = next.Add(w.every) {
		left := 0
		for i, t := range answered {
			if !t.IsZero() {
				continue
			}
			left++
			a, err := begin(w.targets[i], i)
			if err != nil {
				return fmt.Errorf("probe %s: %w", w.targets[i], err)
			}
			pending = append(pending, a)
		}
		if left == 0 || ctx.Err() != nil || time.Now().After(deadline) {
			return nil
		}
		var err error
		if pending, err = w.harvest(pending, next.Add(w.every), answered); err != nil {
			return fmt.Errorf("wait for probes: %w", err)
		}
		// A machine too busy to keep the pace makes no bursts afterwards.
		if now := time.Now(); next.Before(now.Add(-10 * w.every)) {
			next = now
		}
	}
}

// begin starts a connection without waiting for it.
func begin(to netip.AddrPort, target int) (attempt, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return attempt{}, err
	}
	a := attempt{fd: fd, target: target, begun: time.Now()}
	err = errors.Join(resetOnClose(fd), connect(fd, to))
	if err != nil {
		unix.Close(fd)
	}
	return a, err
}

// connect is connect(2), where being refused is no error yet: it is found again
// in SO_ERROR.
func connect(fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	switch {
	case err == nil, errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH):
		return nil
	default:
		return err
	}
}

// resetOnClose makes close send a reset, so that no state lingers anywhere.
func resetOnClose(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// harvest waits until the given time, notes which attempts were answered in the
// meantime, and returns those that may still be.
func (w watcher) harvest(pending []attempt, until time.Time, answered []time.Time) ([]attempt, error) {
	for {
		now := time.Now()
		fds := make([]unix.PollFd, len(pending))
		for i, a := range pending {
			fds[i] = unix.PollFd{Fd: int32(a.fd), Events: w.events()}
		}
		wait := unix.NsecToTimespec(int64(max(0, until.Sub(now))))
		ready, err := unix.Ppoll(fds, &wait, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return pending, err
		}
		now = time.Now()
		kept := pending[:0]
		for i, a := range pending {
			done := ready > 0 && fds[i].Revents != 0
			if done && answered[a.target].IsZero() && w.succeeded(a.fd) {
				answered[a.target] = now
			}
			if done || now.Sub(a.begun) > w.patience {
				unix.Close(a.fd)
				continue
			}
			kept = append(kept, a)
		}
		pending = kept
		if !now.Before(until) {
			return pending, nil
		}
	}
}

func (w watcher) events() int16 {
	if w.through {
		return unix.POLLIN
	}
	return unix.POLLOUT
}

func (w watcher) succeeded(fd int) bool {
	value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || value != 0 || !w.through {
		return err == nil && value == 0
	}
	n, err := unix.Read(fd, make([]byte, 1))
	return n == 0 && err == nil
}
