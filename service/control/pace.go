package control

import (
	"math/rand/v2"
	"time"
)

const (
	// firstRetry is the pause after the first of a row of failures.
	firstRetry = 100 * time.Millisecond

	// auditDelay is how long an audit that was asked for waits for what else
	// happens to the kernel.
	auditDelay = 50 * time.Millisecond
	// auditPause is the shortest pause before an audit that is not a regular one.
	auditPause = 200 * time.Millisecond

	// calm is how long nothing must have changed for the next change to wait for
	// nothing, and calmShare how many times what the last sync took it must be.
	calm      = 300 * time.Millisecond
	calmShare = 4

	// kubeProxyShare is how many syncs of ours a change may wait for beside
	// minSyncPeriod. With kube-proxy in the same mode one waits for that and for two of
	// its syncs, the one that is under way and its own, each of which takes four to five
	// times as long as ours.
	kubeProxyShare = 8

	// flood is how many changes may wait for longer than minSyncPeriod. Of so many, what
	// a sync takes says more than of the table.
	flood = 500
)

// A pace decides when to sync and when to audit. Times are given to it, so that
// it can be read, and tested, by itself.
type pace struct {
	cfg Config

	released bool          // every source is complete
	changed  time.Time     // the first change not yet synced, or zero
	waiting  int           // changes not yet synced
	noticed  time.Time     // the last change, or zero
	took     time.Duration // what the last sync took
	rested   time.Time     // no sync before
	debt     time.Duration // time spent syncing, less what has been earned since; as of settled
	settled  time.Time
	retry    time.Time // when to try again after a failure, or zero
	backoff  time.Duration
	audit    time.Time // the next regular audit, or zero before the first sync
	looked   time.Time // the end of the last audit, or zero
	asked    time.Time // when somebody first asked for an audit since the last began, or zero
	again    time.Time // when the dataplanes want one, or zero
}

// change notes that the Store has changed. What comes after a calm owes nothing: it is
// no part of a churn in which to wait would spare syncs.
func (p *pace) change(now time.Time) {
	if now.Sub(p.noticed) >= p.calm() {
		p.debt, p.rested = 0, time.Time{}
	}
	p.noticed = now
	p.waiting++
	if p.changed.IsZero() {
		p.changed = now
	}
}

// calm is how long nothing must change for churn to be over.
func (p *pace) calm() time.Duration { return max(calm, calmShare*p.took) }

// release allows the first sync, which is due even if there is nothing.
func (p *pace) release(now time.Time) {
	p.released = true
	p.changed = now
}

// begin notes that a sync begins, which covers every change so far.
func (p *pace) begin() { p.changed, p.waiting = time.Time{}, 0 }

// succeed notes that a sync took from start to end.
func (p *pace) succeed(start, end time.Time) {
	p.rest(start, end)
	p.retry, p.backoff = time.Time{}, 0
	if p.audit.IsZero() {
		p.regular(end)
	}
}

// fail notes that a sync or an audit failed.
func (p *pace) fail(start, end time.Time) {
	p.rest(start, end)
	p.backoff = min(max(2*p.backoff, firstRetry), p.cfg.SyncPeriod)
	p.retry = end.Add(p.backoff)
}

// ask notes that somebody wants an audit. It does nothing before the first sync,
// which reads everything.
func (p *pace) ask(now time.Time) {
	if p.asked.IsZero() && !p.audit.IsZero() {
		p.asked = now
	}
}

// beginAudit notes that an audit begins, which covers every wish so far.
func (p *pace) beginAudit() { p.asked, p.again = time.Time{}, time.Time{} }

// audited notes that an audit took from start to end. One that came before its
// time does not put the next regular one off.
func (p *pace) audited(start, end time.Time) {
	p.looked = end
	if !start.Before(p.audit) {
		p.regular(end)
	}
}

// regular sets the time of the next regular audit. It comes within the period, so
// that damage is repaired within it, and at a random time, since the nodes of a
// cluster start together and should not stay in step.
func (p *pace) regular(end time.Time) {
	p.audit = end.Add(time.Duration((0.75 + 0.2*rand.Float64()) * float64(p.cfg.SyncPeriod)))
}

// rest makes the next sync wait so long that syncing keeps to its share. The time
// spent is a debt that shrinks by DutyCycle of the time that passes, and is forgotten
// after a calm; as long as it is below Burst, nothing waits. Nor does anything wait for
// longer than until a calm: then nothing more comes for which to wait would spare a sync.
func (p *pace) rest(start, end time.Time) {
	earn := func(d time.Duration) time.Duration { return time.Duration(p.cfg.DutyCycle * float64(d)) }
	p.debt = max(0, p.debt-earn(start.Sub(p.settled))) + end.Sub(start)
	p.settled, p.took = start, end.Sub(start)
	longest := p.cfg.MaxDelay
	if least := p.cfg.MinSyncPeriod; least > 0 {
		longest = min(longest, least+min(3*least/2, kubeProxyShare*p.took))
	}
	p.debt = min(p.debt, p.cfg.Burst+earn(end.Add(longest).Sub(start)))
	p.rested = start.Add(time.Duration(float64(p.debt-p.cfg.Burst) / p.cfg.DutyCycle))
}

// nextSync returns when the next sync is due, if one is.
func (p *pace) nextSync() (time.Time, bool) {
	if !p.released || p.changed.IsZero() && p.retry.IsZero() {
		return time.Time{}, false
	}
	at, rested := p.retry, p.rested
	if !p.changed.IsZero() {
		if soon := p.changed.Add(p.cfg.Coalesce); at.IsZero() || soon.Before(at) {
			at = soon
		}
		if over := p.noticed.Add(max(calm, min(p.calm(), p.cfg.MinSyncPeriod))); p.cfg.MinSyncPeriod > 0 && over.Before(rested) {
			rested = over
		}
		if soon := p.settled.Add(p.took + p.cfg.MinSyncPeriod); p.cfg.MinSyncPeriod > 0 && p.waiting >= flood && soon.Before(rested) {
			rested = soon
		}
	}
	if at.Before(rested) {
		at = rested
	}
	return at, true
}

// nextAudit returns when the next audit is due, if one is. After a failure there
// is none: the sync that follows reads the kernel anyway.
func (p *pace) nextAudit() (time.Time, bool) {
	if p.audit.IsZero() || !p.retry.IsZero() {
		return time.Time{}, false
	}
	extra := p.again
	if !p.asked.IsZero() {
		if soon := p.asked.Add(auditDelay); extra.IsZero() || soon.Before(extra) {
			extra = soon
		}
	}
	if extra.IsZero() {
		return p.audit, true
	}
	if rested := p.looked.Add(auditPause); extra.Before(rested) {
		extra = rested
	}
	if extra.Before(p.audit) {
		return extra, true
	}
	return p.audit, true
}

// next returns when something is due, if anything is.
func (p *pace) next() (time.Time, bool) {
	sync, ok := p.nextSync()
	audit, okAudit := p.nextAudit()
	if okAudit && (!ok || audit.Before(sync)) {
		return audit, true
	}
	return sync, ok
}
