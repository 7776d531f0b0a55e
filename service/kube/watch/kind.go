package watch

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// retryMin is how long to wait after the first of several failures.
const retryMin = 500 * time.Millisecond

// A Kind is how to list and watch objects of one kind.
type Kind struct {
	Name   string         // required, as in the API: Service
	Sample runtime.Object // required; an empty object
	List   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	Watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	Log    *slog.Logger // required

	Labels, Fields string // selectors; empty means all

	// Retry is how long to wait at most before a failed request is made again, give or
	// take; zero means what client-go does, which is up to a minute.
	Retry time.Duration

	// Failed, if not nil, hears why a request failed, each time.
	Failed func(error)

	// share is called by List with each object that was decoded the short way, between
	// calls of the store.
	share func(*converted)

	unselectable atomic.Bool // the server does not know the field label
	failing      atomic.Bool
}

// Follow lists and watches objects of one kind, and tells store, until ctx is done.
// It retries for ever. What client-go has to say about that is logged at debug
// level; k says itself when requests begin to fail and when they succeed again.
func (k *Kind) Follow(ctx context.Context, client kubernetes.Interface, store cache.ReflectorStore) {
	opts := cache.ReflectorOptions{Name: k.Name}
	if k.Retry > 0 {
		opts.Backoff = &wait.Backoff{Duration: retryMin, Cap: k.Retry, Steps: math.MaxInt32, Factor: 2, Jitter: 0.5}
	}
	r := cache.NewReflectorWithOptions(k.listWatch(client), k.Sample, store, opts)
	r.RunWithContext(QuietContext(ctx, k.Log))
}

// listWatch returns k for a reflector. Whether the client can stream lists is
// known only to client.
func (k *Kind) listWatch(client kubernetes.Interface) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return attempt(ctx, k, o, k.List)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return attempt(ctx, k, o, k.Watch)
		},
	}, client)
}

// attempt makes one request. A server that cannot select by our field gets the
// request again without: the conversion leaves out the same objects.
func attempt[T any](ctx context.Context, k *Kind, o metav1.ListOptions,
	do func(context.Context, metav1.ListOptions) (T, error),
) (T, error) {
	o.LabelSelector = k.Labels
	if !k.unselectable.Load() {
		o.FieldSelector = k.Fields
	}
	out, err := do(ctx, o)
	if apierrors.IsBadRequest(err) && o.FieldSelector == withClusterIP {
		k.Log.Info("the API server cannot select by field; selecting here", "kind", k.Name, "selector", o.FieldSelector)
		k.unselectable.Store(true)
		o.FieldSelector = ""
		out, err = do(ctx, o)
	}
	k.note(ctx, err)
	if err != nil && k.Failed != nil {
		k.Failed(err)
	}
	return out, err
}

// note logs when requests begin to fail and when they succeed again. Expired
// resource versions and servers that cannot stream lists are the daily business
// of a reflector, not failures.
func (k *Kind) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err):
	case err == nil:
		if k.failing.CompareAndSwap(true, false) {
			k.Log.Info("the API server answers again", "kind", k.Name)
		}
	case k.failing.CompareAndSwap(false, true):
		k.Log.Warn("cannot read from the API server; what is in force stays, and will be updated as soon as it answers", "kind", k.Name, "err", err)
	}
}
