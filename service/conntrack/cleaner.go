package conntrack

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// rest is how long a Cleaner pauses after a clean-up, as a multiple of the time
// the clean-up took: it uses at most a quarter of one CPU.
const rest = 3

// Config is what a Cleaner needs.
type Config struct {
	Families []service.Family // the families to clean up; none means both
	Log      *slog.Logger     // required

	// Observe is called after each clean-up of one family, from the Cleaner's
	// goroutine; nil means nobody wants to know.
	Observe func(f service.Family, took time.Duration, deleted int)
}

// errRunning is the error of a second Run.
var errRunning = errors.New("the clean-up of connection tracking is running already")

// A Cleaner deletes stale flows in a goroutine of its own.
type Cleaner struct {
	cfg    Config
	kernel purger
	wake   chan struct{}

	running atomic.Bool

	mu      sync.Mutex
	waiting *service.Stale // what the next clean-up has to cover, or nil
}

// A purger is a Kernel, or a test's stand-in for one.
type purger interface {
	Purge(ctx context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (int, error)
}

// New returns a Cleaner of k. Nothing happens until Run.
func New(cfg Config, k *Kernel) *Cleaner { return newCleaner(cfg, k) }

func newCleaner(cfg Config, k purger) *Cleaner {
	if len(cfg.Families) == 0 {
		cfg.Families = []service.Family{service.IPv4, service.IPv6}
	}
	return &Cleaner{cfg: cfg, kernel: k, wake: make(chan struct{}, 1)}
}

// Enqueue asks for a clean-up of what s describes and returns at once. The rules
// that make s stale must be in force already. The Cleaner owns s from here on.
// It is safe for concurrent use, before, during and after Run.
func (c *Cleaner) Enqueue(s *service.Stale) {
	if s.Empty() {
		return
	}
	c.mu.Lock()
	s.Merge(c.waiting)
	c.waiting = s
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // it knows already
	}
}

func (c *Cleaner) take() *service.Stale {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.waiting
	c.waiting = nil
	return s
}

// Run cleans up until ctx is done, which is no error. There can be one Run at a
// time: of two, each would know half of the changes, and delete what the other half
// has made right. The second fails.
func (c *Cleaner) Run(ctx context.Context) error {
	if !c.running.CompareAndSwap(false, true) {
		return errRunning
	}
	defer c.running.Store(false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var p program
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			p.add(c.take(), time.Now())
		case <-timer.C:
			start := time.Now()
			err := c.clean(ctx, p.stale)
			if ctx.Err() != nil {
				return nil
			}
			c.report(&p, err)
			p.done(start, time.Now(), err == nil)
		}
		timer.Stop()
		if at, ok := p.next(); ok {
			timer.Reset(time.Until(at))
		}
	}
}

// clean goes through the table of each family once. A failure in one family does
// not keep it from the next.
func (c *Cleaner) clean(ctx context.Context, stale *service.Stale) error {
	var failed error
	for _, f := range c.cfg.Families {
		start := time.Now()
		n, err := c.kernel.Purge(ctx, f, stale.Orphan)
		if c.cfg.Observe != nil {
			c.cfg.Observe(f, time.Since(start), n)
		}
		if n > 0 {
			c.cfg.Log.Info("stale UDP flows deleted", "family", f, "count", n)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// report logs a failure once until it is over.
func (c *Cleaner) report(p *program, err error) {
	switch {
	case err != nil && !p.failing:
		c.cfg.Log.Error("stale UDP flows could not be deleted", "err", err)
	case err == nil && p.failing:
		c.cfg.Log.Info("stale UDP flows can be deleted again")
	}
	p.failing = err != nil
}

// A program says what to clean up and when.
type program struct {
	stale   *service.Stale // nil when there is nothing to do
	due     []time.Time
	rested  time.Time // no clean-up before
	failing bool
}

// add starts the program over with what s adds to it. What s says of a frontend
// replaces what was known before, so a flow that has become right is left alone.
func (p *program) add(s *service.Stale, now time.Time) {
	if s == nil {
		return
	}
	s.Merge(p.stale)
	p.stale = s
	p.due = []time.Time{now, now.Add(time.Second), now.Add(5 * time.Second)}
}

func (p *program) next() (time.Time, bool) {
	if len(p.due) == 0 {
		return time.Time{}, false
	}
	if p.due[0].Before(p.rested) {
		return p.rested, true
	}
	return p.due[0], true
}

// done strikes out what a clean-up from start to end has seen to. If the last
// one failed, its work is kept until the next change brings another chance.
func (p *program) done(start, end time.Time, ok bool) {
	for len(p.due) > 0 && !p.due[0].After(start) {
		p.due = p.due[1:]
	}
	if len(p.due) == 0 && ok {
		p.stale = nil
	}
	p.rested = end.Add(rest * end.Sub(start))
}
