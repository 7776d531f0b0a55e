package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// lifecycleFlags are about the process as such.
type lifecycleFlags struct {
	ShutdownGrace time.Duration
	OOMScoreAdj   int
}

func (f *lifecycleFlags) add(fs *pflag.FlagSet) {
	fs.IntVar(&f.OOMScoreAdj, "oom-score-adj", -999, "how soon the kernel ends this process for want of memory, -1000 (never) to 1000; without the right to ask for it, it stays as it is")
	fs.DurationVar(&f.ShutdownGrace, "shutdown-grace", 0,
		"how long to go on after a signal to end while /healthz says so to load balancers; 0 means not at all (not in kube-proxy)")
}

func (f *lifecycleFlags) check(fail failFunc) {
	if f.OOMScoreAdj < -1000 || f.OOMScoreAdj > 1000 {
		fail("oom-score-adj", "%d is not between -1000 and 1000", f.OOMScoreAdj)
	}
	if f.ShutdownGrace < 0 {
		fail("shutdown-grace", "must not be negative, is %s", f.ShutdownGrace)
	}
}

// lingering returns a context that ends some time after ctx does. What says in the
// meantime that we are about to end is told first.
func (p *process) lingering(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	grace := p.flags.Lifecycle.ShutdownGrace
	stop := context.AfterFunc(ctx, func() {
		if health := p.health.Load(); health != nil && grace > 0 {
			health.Stopping()
			p.log.Info("told to stop; load balancers are told to look elsewhere first", "for", grace)
			p.linger(inner, grace)
		}
		cancel(nil)
	})
	return inner, func(err error) {
		stop()
		cancel(err)
	}
}

// linger waits until ctx is done, the time is over, or another process has taken over
// and nothing is left to wait for.
func (p *process) linger(ctx context.Context, grace time.Duration) {
	end := time.After(grace)
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-look.C:
		}
		if s := p.successor.Load(); s != nil && (*s).Done() {
			return
		}
	}
}

// A relief is an engine whose place another process can take while this one runs.
type relief interface {
	Relieved() <-chan struct{} // closed when one begins to
	Done() bool                // reports whether one has, and nothing is left here
}

// onDuty returns a context that ends with ctx, or when another process takes over. What
// two processes would do against each other is done under it.
func (p *process) onDuty(ctx context.Context, eng engine) context.Context {
	e, ok := eng.(interface{ relief() relief })
	if !ok {
		return ctx
	}
	r := e.relief()
	p.successor.Store(&r)
	duty, off := context.WithCancel(ctx)
	p.start(ctx, func(ctx context.Context) error {
		defer off()
		select {
		case <-ctx.Done():
		case <-r.Relieved():
			p.log.Info("another fairlead takes over; this one serves what it has left, and nothing else")
		}
		return nil
	})
	return duty
}

// oomScore makes the kernel look for others first when memory runs out, as
// kube-proxy does: the rules outlive us, but nobody would follow changes. A process
// that lacks the right to do so goes on as it is.
func (p *process) oomScore() {
	score := p.flags.Lifecycle.OOMScoreAdj
	path := filepath.Join(p.root, "proc", "self", "oom_score_adj")
	if err := writeOOMScore(path, score); err != nil {
		p.log.Info("the order in which the kernel ends processes for want of memory was left alone", "wanted", score, "err", err)
	}
}

func writeOOMScore(path string, score int) error {
	want := strconv.Itoa(score)
	if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == want {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(want); err != nil {
		return fmt.Errorf("set the OOM score to %d: %w", score, err)
	}
	return nil
}

// flagValues returns every flag with its effective value.
func flagValues(fs *pflag.FlagSet) map[string]string {
	out := make(map[string]string)
	fs.VisitAll(func(f *pflag.Flag) { out[f.Name] = f.Value.String() })
	return out
}
