package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// ErrStopped is returned by Update when nobody will apply the change any more.
var ErrStopped = errors.New("control loop has stopped")

const (
	// queueLen is how many changes may wait while a sync is running before a
	// source has to wait too.
	queueLen = 256

	// maxTriggers limits what is kept of trigger times while syncs fail.
	maxTriggers = 1 << 16
)

// A Loop turns changes into syncs. Update, Synced and AuditSoon are safe for
// concurrent use; the rest belongs to the goroutine of Run.
type Loop struct {
	cfg    Config
	store  *service.Store
	planes []service.Dataplane
	start  time.Time

	events     chan func(*service.Store) bool
	synced     chan struct{}
	syncedOnce sync.Once
	stopped    chan struct{}
	suspicion  chan struct{} // holds one token

	pace     pace
	inForce  *service.Snapshot // of the last successful sync
	triggers []time.Time       // of changes not yet in force
	failure  string            // what was last logged as failing, or empty

	deviations []service.Deviation // of the last successful sync
	known      map[service.Problem]bool
}

// New returns a Loop that makes the node match store by way of planes, which are
// called in this order. The Loop owns store from here on. The error is that of
// cfg.Validate.
func New(cfg Config, store *service.Store, planes []service.Dataplane) (*Loop, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	cfg = cfg.withDefaults()
	return &Loop{
		cfg: cfg, store: store, planes: planes, start: time.Now(),
		events:  make(chan func(*service.Store) bool, queueLen),
		synced:  make(chan struct{}),
		stopped: make(chan struct{}),

		suspicion: make(chan struct{}, 1),
		pace:      pace{cfg: cfg},
	}, nil
}

// Update hands the loop a change to make to its Store. The change reports
// whether it did change something; it runs on the loop's goroutine, soon, after
// those handed over before it, and must not block. Update waits while many
// changes are waiting. It returns ErrStopped after Run has returned, and the
// error of ctx if that is done first.
func (l *Loop) Update(ctx context.Context, change func(*service.Store) bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("hand over a change: %w", err)
	}
	select {
	case <-l.stopped: // the queue may have room, but nobody reads it
		return ErrStopped
	default:
	}
	select {
	case l.events <- change:
		return nil
	case <-l.stopped:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("hand over a change: %w", ctx.Err())
	}
}

// Synced releases the first sync. Call it once every source has handed over its
// whole list; calls after the first do nothing.
func (l *Loop) Synced() { l.syncedOnce.Do(func() { close(l.synced) }) }

// AuditSoon asks for an audit, because somebody may have changed the kernel. It
// does not wait. The audit comes after 50 ms, for all who ask meanwhile, or when
// 200 ms have passed since the last one. The regular audits come when they would
// have come anyway. AuditSoon does nothing before the first sync.
func (l *Loop) AuditSoon() {
	select {
	case l.suspicion <- struct{}{}:
	default: // there is one already
	}
}

// Run owns the Store and calls every Dataplane until ctx is done, and then
// returns nil. What is in force stays in force. Run must be called once.
func (l *Loop) Run(ctx context.Context) error {
	defer close(l.stopped)
	if l.cfg.HealthPorts != nil {
		defer l.cfg.HealthPorts.Close()
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	synced := l.synced
	for ctx.Err() == nil {
		timer.Stop()
		if at, ok := l.pace.next(); ok {
			wait := time.Until(at)
			if wait <= 0 { // first, or a flood of changes could put it off
				l.act(ctx)
				continue
			}
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case change := <-l.events:
			l.apply(change)
		case <-synced:
			synced = nil
			l.pace.release(time.Now())
			l.queued()
		case <-l.suspicion:
			l.pace.ask(time.Now())
		case <-timer.C: // see what is due
		}
	}
	return nil
}

// act does what is due.
func (l *Loop) act(ctx context.Context) {
	// What waits in the queue belongs to this sync, and what had been handed over
	// before Synced must. Only what waits now: a busy source must not keep us.
	for range len(l.events) {
		l.apply(<-l.events)
	}
	now := time.Now()
	if at, ok := l.pace.nextSync(); ok && !at.After(now) {
		l.sync(ctx)
		return
	}
	if at, ok := l.pace.nextAudit(); ok && !at.After(now) {
		l.audit(ctx)
	}
}

func (l *Loop) apply(change func(*service.Store) bool) {
	matters := change(l.store)
	services, slices := l.store.Changes()
	l.cfg.Metrics.changed(services, slices, matters)
	if !matters {
		return
	}
	l.pace.change(time.Now())
	if l.pace.released {
		l.queued()
	}
}

// queued notes, for health and metrics, that the kernel is behind.
func (l *Loop) queued() {
	now := time.Now()
	l.cfg.Health.queued(now)
	l.cfg.Metrics.queued(l.cfg.Families, now)
}

// sync puts the present state of the Store in force.
func (l *Loop) sync(ctx context.Context) {
	start := time.Now()
	l.cfg.Health.begin(start)
	l.pace.begin()
	snap := l.store.Snapshot()
	l.remember(snap.Triggered)
	rep, err := l.each(func(dp service.Dataplane) (service.Report, error) { return dp.Sync(ctx, snap) })
	end := time.Now()
	l.cfg.Health.end()
	if err != nil {
		l.failed(ctx, "sync", err, start, end)
		return
	}
	l.cfg.Health.updated(end)
	l.pace.succeed(start, end)
	l.pace.again = rep.Again
	l.cfg.Metrics.synced(l.cfg.Families, rep, start, end)
	l.succeeded(snap, rep, end)
}

// succeeded does what follows a successful sync, in the order of its urgency.
func (l *Loop) succeeded(snap *service.Snapshot, rep service.Report, end time.Time) {
	prev := l.inForce
	l.inForce = snap
	l.logSync(prev == nil, snap, rep)
	if l.cfg.Stale != nil {
		if stale := service.NewStale(prev, snap); !stale.Empty() {
			l.cfg.Stale(stale)
		}
	}
	l.deviations = rep.Deviations
	l.tell(nil)
	l.cfg.Metrics.inForce(l.cfg.Families, prev, snap)
	l.cfg.Metrics.programmed(l.cfg.Families, l.triggers, end)
	l.triggers = nil
}

func (l *Loop) logSync(first bool, snap *service.Snapshot, rep service.Report) {
	attrs := []any{
		"rev", snap.Rev, "ports", snap.Ports.Len(), "resynced", rep.Resynced,
		"added", rep.Added, "changed", rep.Changed, "removed", rep.Removed,
	}
	switch {
	case l.failure != "":
		l.cfg.Log.Info("sync works again", attrs...)
		l.failure = ""
	case first:
		l.cfg.Log.Info("first sync done", attrs...)
	default:
		l.cfg.Log.Debug("sync done", attrs...)
	}
}

// audit looks for what somebody else did to the kernel.
func (l *Loop) audit(ctx context.Context) {
	start := time.Now()
	l.cfg.Health.begin(start)
	select {
	case <-l.suspicion: // is what we look into now
	default:
	}
	l.pace.beginAudit()
	rep, err := l.each(func(dp service.Dataplane) (service.Report, error) { return dp.Audit(ctx) })
	end := time.Now()
	l.cfg.Health.end()
	l.pace.audited(start, end)
	if err != nil {
		l.failed(ctx, "audit", err, start, end)
		return
	}
	l.pace.again = rep.Again
	if rep.Repaired {
		l.cfg.Metrics.repairs.Inc()
		l.cfg.Log.Warn("somebody else had changed our kernel state; repaired",
			"added", rep.Added, "changed", rep.Changed, "removed", rep.Removed)
	}
	l.tell(rep.Deviations) // and try the health-check node ports again
}

// failed arranges for another try. An error that comes from being told to stop
// is none.
func (l *Loop) failed(ctx context.Context, what string, err error, start, end time.Time) {
	if ctx.Err() != nil {
		return
	}
	l.pace.fail(start, end)
	l.cfg.Metrics.failures(what)
	l.queued() // the kernel may not be what it should, whether something changed or not
	if msg := err.Error(); msg != l.failure {
		l.failure = msg
		l.cfg.Log.Error(what+" failed", "err", err, "retry", l.pace.backoff)
	} else {
		l.cfg.Log.Debug(what+" failed again", "err", err, "retry", l.pace.backoff)
	}
}

// each calls do for every dataplane, none of which depends on another, and adds
// up their reports.
func (l *Loop) each(do func(service.Dataplane) (service.Report, error)) (service.Report, error) {
	var sum service.Report
	var errs []error
	for _, dp := range l.planes {
		rep, err := do(dp)
		errs = append(errs, err)
		sum.Resynced = sum.Resynced || rep.Resynced
		sum.Repaired = sum.Repaired || rep.Repaired
		sum.Added += rep.Added
		sum.Changed += rep.Changed
		sum.Removed += rep.Removed
		if sum.Again.IsZero() || !rep.Again.IsZero() && rep.Again.Before(sum.Again) {
			sum.Again = rep.Again
		}
		sum.Deviations = append(sum.Deviations, rep.Deviations...)
	}
	return sum, errors.Join(errs...)
}

// remember keeps the times of changes made since we started: those before are
// the latency of somebody else.
func (l *Loop) remember(triggered []time.Time) {
	for _, t := range triggered {
		if !t.Before(l.start) && len(l.triggers) < maxTriggers {
			l.triggers = append(l.triggers, t)
		}
	}
}
