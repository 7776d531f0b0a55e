//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// restart kills the proxy and starts it again, twice, as warmRestart does.
func (t *suiteTrial) restart(ctx context.Context) error {
	if err := t.restartChanged(ctx); err != nil {
		return err
	}
	if err := t.kill(); err != nil {
		return err
	}
	shim := t.shim
	if t.variant == legacy {
		watch, err := newSpy(t.network.dir, t.variant)
		if err != nil {
			return err
		}
		shim, t.spied = watch.dir, watch
	}
	before, err := t.savedRules(ctx)
	if err != nil {
		return err
	}
	t.had = before
	count, err := t.countWrites()
	if err != nil {
		return err
	}
	s := newStream(ctx, t.network, vip(0))
	if t.run, err = t.start(ctx, shim); err == nil {
		err = errors.Join(sleep(ctx, 2*settle), t.rest(ctx, t.options.coldTimeout))
	}
	s.stop()
	writes, cerr := count()
	if err := errors.Join(err, cerr); err != nil {
		return err
	}
	after, err := t.savedRules(ctx)
	if err != nil {
		return err
	}
	used, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(restartCPUSame, used.Seconds())
	t.out.add(restartNft, float64(writes))
	t.out.add(restartFailed, float64(s.failed))
	t.out.add(restartAnswered, float64(s.made))
	t.out.add(restartDiffers, float64(len(before.difference(after))))
	return nil
}

// savedRules are the rules in the words of iptables-save; none where that is not
// what keeps them, or takes too long.
func (t *suiteTrial) savedRules(ctx context.Context) (lines, error) {
	all := lines{}
	if t.variant != legacy {
		return all, nil
	}
	out, err := t.network.node.Output(ctx, t.variant.multi(), "iptables-save")
	all.add("iptables-save: ", withoutCounters(out))
	return all, err
}

// countWrites counts what is written to the kernel from now on, until the function
// that it returns is called, which returns the count: changes to tables, chains,
// rules and elements of sets that the kernel of nftables announces; or, with legacy
// iptables, which announces nothing, chains that its programs were told to change.
// What writes legacy tables without those programs is not seen.
func (t *suiteTrial) countWrites() (func() (int, error), error) {
	if t.variant != legacy {
		w, err := newNftWatch(t.network)
		if err != nil {
			return nil, err
		}
		return w.close, nil
	}
	if t.spied == nil {
		return func() (int, error) { return 0, nil }, nil
	}
	chains := t.had.chains()
	changes := func() (int, error) {
		list, _, err := t.spied.written(func(chain string) bool { return chains[chain] })
		return len(list), err
	}
	before, err := changes()
	return func() (int, error) {
		after, err := changes()
		return after - before, err
	}, err
}

// chains are those of the output of iptables-save.
func (l lines) chains() map[string]bool {
	all := map[string]bool{}
	for line := range l {
		if _, rest, ok := strings.Cut(line, "tables-save: :"); ok {
			name, _, _ := strings.Cut(rest, " ")
			all[name] = true
		}
	}
	return all
}

// nftWatch counts what the kernel says has changed in nftables, in one network
// namespace, whoever changed it. iptables-nft is among that.
type nftWatch struct {
	fd   int
	done sync.WaitGroup

	mu     sync.Mutex
	ended  bool
	count  int
	missed error
}

func newNftWatch(n *network) (*nftWatch, error) {
	const group, buffer = 7, 128 << 20 // NFNLGRP_NFTABLES
	w := &nftWatch{}
	err := n.node.Do(func() (err error) {
		if w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (group - 1)}))
		if err != nil {
			unix.Close(w.fd)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	w.done.Go(w.run)
	return w, nil
}

func (w *nftWatch) run() {
	buf := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		w.mu.Lock()
		ended := w.ended
		switch {
		case err == nil:
			var seen writes
			seen.announced(buf[:n])
			w.count += seen.nft
		case errors.Is(err, unix.ENOBUFS):
			w.missed = errors.New("more was written to nftables than could be counted")
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			ended, w.missed = true, err
		}
		w.mu.Unlock()
		if err != nil && ended {
			return
		}
	}
}

// close ends listening, and returns how much was seen.
func (w *nftWatch) close() (int, error) {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.done.Wait()
	return w.count, errors.Join(w.missed, unix.Close(w.fd))
}
