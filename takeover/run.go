package takeover

import (
	"context"
	"time"
)

// How long Run waits: between passes while something is pending, after failures, and
// at most for the other proxy to be gone for good.
const (
	drainEvery = 5 * time.Second
	retryMin   = time.Second
	retryMax   = time.Minute
	watchFor   = 10 * time.Minute
	watchMin   = 10 * time.Second
	watchMax   = 2 * time.Minute

	// passShare is how much longer than a pass that has found nothing the pause after it
	// is, up to watchMax: all tables are read, which takes a second where they are large.
	passShare = 100
)

// Tell is told of what an operator should know: a reason in one word, a message, and
// whether it is trouble.
type Tell func(reason, message string, trouble bool)

// Reasons of Events.
const (
	ReasonTookOver    = "TookOver"
	ReasonStillThere  = "OtherProxyRunning"
	ReasonNotTakeover = "TakeoverFailed"
)

// Run waits until the first Sync of the plane has succeeded, removes what others have
// left, and looks a few more times: in a rolling update the other proxy may go on for
// a while, and write again what was removed. It returns nil when that is over or ctx
// is done. After ten minutes whoever writes is meant to be there, and is left alone.
func (p *Plane) Run(ctx context.Context, tell Tell) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.inForce:
	}
	w := watcher{taker: p.taker, tell: tell, began: time.Now(), pause: watchMin}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		wait := w.pass(ctx)
		if wait == 0 || ctx.Err() != nil {
			return nil
		}
		timer.Reset(wait)
	}
}

// A watcher decides when to look again.
type watcher struct {
	taker *Taker
	tell  Tell
	began time.Time
	pause time.Duration // of the next look, when nothing is to be done

	sum     Result // what was removed before it was told
	told    bool
	pending bool          // in the last pass
	backoff time.Duration // after failures
	failure string        // that was told last
}

// pass is one look, and returns when the next is due; zero for never.
func (w *watcher) pass(ctx context.Context) time.Duration {
	start := time.Now()
	r, err := w.taker.Pass(ctx)
	if ctx.Err() != nil {
		return 0
	}
	took := time.Since(start)
	log := w.taker.cfg.Log
	w.sum = w.sum.plus(r)
	if r.Removed() > 0 {
		log.Info("removed what another proxy or another mode has left", append(r.attrs(), "pending", r.Pending())...)
	}
	if err != nil {
		w.backoff = min(max(2*w.backoff, retryMin), retryMax)
		if msg := err.Error(); msg != w.failure {
			w.failure = msg
			log.Error("cannot remove all that another proxy has left", "err", err, "retry", w.backoff)
			w.tell(ReasonNotTakeover, msg, true)
		}
		return w.backoff
	}
	w.backoff, w.failure = 0, ""
	if !w.told && w.sum.Removed() > 0 {
		w.told = true
		w.tell(ReasonTookOver, message(w.sum), false)
	}
	if r.Pending() && !w.pending {
		log.Info("what is left of another proxy is removed when its connections have ended", r.attrs()...)
	}
	if !r.Pending() && w.pending {
		log.Info("nothing is left of another proxy")
	}
	w.pending = r.Pending()
	return w.next(r, took)
}

// next returns when to look again after a pass that has not failed, and took so long.
func (w *watcher) next(r Result, took time.Duration) time.Duration {
	switch late := time.Since(w.began) > watchFor; {
	case late && r.Chains+r.Tables > 0:
		msg := "another proxy goes on writing; it is left alone from now on"
		w.taker.cfg.Log.Warn(msg)
		w.tell(ReasonStillThere, msg, true)
		return 0
	case r.Pending():
		return drainEvery
	case late:
		return 0
	case r.Removed() > 0:
		w.pause = watchMin
	default:
		w.pause = max(w.pause, min(passShare*took, watchMax))
	}
	wait := w.pause
	w.pause = min(2*w.pause, watchMax)
	return wait
}
