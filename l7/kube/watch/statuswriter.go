package watch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"

	"github.com/fairlead-project/fairlead/service"
)

// How many status writes there may be, and how they are tried again.
const (
	statusPerSecond = 50
	statusBurst     = 100
	statusRetryMin  = 500 * time.Millisecond
	statusRetryMax  = 5 * time.Minute
	statusWriters   = 4
)

// A StatusKind is a kind of routes with a status that depends on what is served. What
// that status is, only the kind knows: one that has an observedGeneration says there
// which generation it has compiled, and is outdated while that is not the newest.
type StatusKind interface {
	// Watch has changed called with every object whose status is not what it must
	// be, now and from now on; nil ends that. changed does not block.
	Watch(changed func(service.Name))

	// Write brings the status of one object up to date, if it is not. An error means
	// that it must be tried again.
	Write(ctx context.Context, n service.Name) error
}

// A StatusWriter writes the statuses of one kind, no more than some at a time, and tries
// again what fails. Its Lead is a task of a [Leadership].
type StatusWriter struct {
	Kind StatusKind   // required
	Log  *slog.Logger // required

	failing atomic.Bool
}

// Lead writes until ctx is done.
func (w *StatusWriter) Lead(ctx context.Context) {
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[service.Name](statusRetryMin, statusRetryMax))
	limit := flowcontrol.NewTokenBucketRateLimiter(statusPerSecond, statusBurst)
	defer limit.Stop()
	defer w.Kind.Watch(nil)
	defer context.AfterFunc(ctx, queue.ShutDown)()
	w.Kind.Watch(queue.Add)
	var wg sync.WaitGroup
	for range statusWriters {
		wg.Go(func() {
			for w.one(ctx, queue, limit) {
			}
		})
	}
	wg.Wait()
}

// one writes the next status, and reports whether there may be more.
func (w *StatusWriter) one(ctx context.Context, queue workqueue.TypedRateLimitingInterface[service.Name], limit flowcontrol.RateLimiter) bool {
	n, over := queue.Get()
	if over {
		return false
	}
	defer queue.Done(n)
	if limit.Wait(ctx) != nil {
		return false
	}
	err := w.Kind.Write(ctx, n)
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		queue.Forget(n)
		if w.failing.CompareAndSwap(true, false) {
			w.Log.Info("status can be written again")
		}
	default:
		queue.AddRateLimited(n)
		if w.failing.CompareAndSwap(false, true) {
			w.Log.Warn("cannot write status; trying again", "err", err)
		}
	}
	return true
}
