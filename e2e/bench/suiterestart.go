//go:build linux

package main

import (
	"context"
	"errors"
	"strings"
)

// restartUnchanged kills the proxy and starts it again, with nothing changed: the second half
// of what warmRestart does.
func (t *suiteTrial) restartUnchanged(ctx context.Context) error {
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
	made, cerr := count()
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
	t.out.add(restartNft, float64(made.inForce))
	t.out.add(restartTrials, float64(made.tried))
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

// writesMade are changes that were made to the kernel's tables.
type writesMade struct {
	inForce int
	tried   int  // in chains that there were neither before nor after that
	unseen  bool // there was no way to see any
}

// countWrites counts what is written to the kernel from now on, until the function
// that it returns is called, which returns the count: changes to tables, chains,
// rules and elements of sets that the kernel of nftables announces; or, with legacy
// iptables, which announces nothing, chains that its programs were told to change.
// What writes legacy tables without those programs is not seen.
func (t *suiteTrial) countWrites() (func() (writesMade, error), error) {
	if t.variant != legacy {
		w, err := newNftWatch(t.network)
		if err != nil {
			return nil, err
		}
		return func() (writesMade, error) {
			made, where, tried, err := w.close()
			if made != (writesMade{}) {
				t.log.Info("written", "in_force", made.inForce, "chains", where, "tried", made.tried, "in", tried)
			}
			return made, err
		}, nil
	}
	if t.spied == nil {
		return func() (writesMade, error) { return writesMade{unseen: true}, nil }, nil
	}
	chains := t.had.chains()
	changes := func() (writesMade, error) {
		list, trials, err := t.spied.written(func(chain string) bool { return chains[chain] })
		return writesMade{inForce: len(list), tried: trials}, err
	}
	before, err := changes()
	return func() (writesMade, error) {
		after, err := changes()
		return writesMade{inForce: after.inForce - before.inForce, tried: after.tried - before.tried}, err
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
