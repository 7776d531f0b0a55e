package watch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/fairlead-project/fairlead/service"
)

// How much a Recorder asks of the API server, and of this process.
const (
	eventsPerSecond = 1
	eventsBurst     = 25
	eventsWaiting   = 500 // more are dropped
	eventTimeout    = 10 * time.Second
	eventRetryMin   = time.Second
	eventRetryMax   = time.Minute
)

// A Recorder turns Problems into Events about the objects they are about.
//
// Every node of a cluster finds the same fault with an object. So that a
// thousand nodes do not write a thousand Events, the name of an Event says what
// it is about and when, to ten minutes: the first node creates it, the others
// learn that it exists. It is for this merging, and for waiting in a bounded
// queue instead of one goroutine per Event, that Events are not sent with the
// broadcaster of client-go.
//
// The methods never block, and may be called from any goroutine. Events wait
// for Run.
type Recorder struct {
	client kubernetes.Interface
	node   string
	log    *slog.Logger
	wake   chan struct{} // holds one token

	mu      sync.Mutex
	said    map[service.Object][]service.Problem // what Report was last told
	waiting []saying
	counts  map[saying]int // how often in window
	window  int64
	full    bool
}

// A saying is a Problem to be said by an Event.
type saying struct {
	service.Problem
	local  bool // other nodes may not say it for us
	normal bool // it is no trouble
}

// NewRecorder returns a Recorder that writes Events in the name of the given
// node.
func NewRecorder(client kubernetes.Interface, node string, log *slog.Logger) *Recorder {
	return &Recorder{
		client: client,
		node:   node,
		log:    log,
		wake:   make(chan struct{}, 1),
		said:   make(map[service.Object][]service.Problem),
	}
}

// Report takes note of all Problems that object has now: those it did not have
// when it was last reported become Events, those that are gone and still wait to
// be sent do not. It is a kube.ReportFunc.
func (r *Recorder) Report(object service.Object, problems []service.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.said[object]
	if len(problems) == 0 {
		delete(r.said, object)
	} else {
		r.said[object] = problems
	}
	r.waiting = slices.DeleteFunc(r.waiting, func(s saying) bool {
		return slices.Contains(old, s.Problem) && !slices.Contains(problems, s.Problem)
	})
	for _, p := range problems {
		if !slices.Contains(old, p) {
			r.enqueue(saying{Problem: p})
		}
	}
}

// Send makes Events of problems that any node would find.
func (r *Recorder) Send(problems []service.Problem) { r.send(problems, false) }

// SendLocal makes Events of problems of this node.
func (r *Recorder) SendLocal(problems []service.Problem) { r.send(problems, true) }

func (r *Recorder) send(problems []service.Problem, local bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range problems {
		r.enqueue(saying{Problem: p, local: local})
	}
}

// Announce makes an Event of what is no problem, such as that this process has
// begun.
func (r *Recorder) Announce(object service.Object, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enqueue(saying{Problem: service.Problem{Object: object, Reason: reason, Message: message}, local: true, normal: true})
}

// Flush sends what waits, once Run has returned, as long as the API server takes
// it and for at most the time given. The rest is lost.
func (r *Recorder) Flush(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for ctx.Err() == nil {
		s, nth, ok := r.next()
		if !ok {
			return
		}
		r.deliver(ctx, s, nth)
	}
}

// enqueue is called with mu held.
func (r *Recorder) enqueue(s saying) {
	if len(r.waiting) >= eventsWaiting {
		if !r.full {
			r.full = true
			r.log.Warn("too many problems to send an Event for each; dropping some", "waiting", len(r.waiting))
		}
		return
	}
	if slices.Contains(r.waiting, s) {
		return
	}
	r.waiting = append(r.waiting, s)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run sends Events until ctx is done.
func (r *Recorder) Run(ctx context.Context) {
	limit := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsBurst)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		for r.pending() {
			if limit.Wait(ctx) != nil {
				return
			}
			if s, nth, ok := r.next(); ok {
				r.deliver(ctx, s, nth)
			}
		}
	}
}

func (r *Recorder) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) > 0
}

// next takes the next saying and how often it was said before in the current
// window.
func (r *Recorder) next() (saying, int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return saying{}, 0, false
	}
	s := r.waiting[0]
	r.waiting = slices.Delete(r.waiting, 0, 1)
	r.full = r.full && len(r.waiting) > eventsWaiting/2
	if w := window(time.Now()); w != r.window || r.counts == nil {
		r.window, r.counts = w, make(map[saying]int)
	}
	nth := r.counts[s]
	r.counts[s]++
	return s, nth, true
}

// deliver sends one Event. It tries for as long as the API server cannot be
// reached, and not again once the server has refused.
func (r *Recorder) deliver(ctx context.Context, s saying, nth int) {
	e := event(s, r.node, nth, time.Now())
	warned := false
	for wait := eventRetryMin; ; wait = min(2*wait, eventRetryMax) {
		tryCtx, cancel := context.WithTimeout(ctx, eventTimeout)
		_, err := r.client.EventsV1().Events(e.Namespace).Create(tryCtx, e, metav1.CreateOptions{})
		cancel()
		switch {
		case err == nil, apierrors.IsAlreadyExists(err), ctx.Err() != nil:
			return
		case refused(err):
			r.log.Warn("the API server refused an Event", "problem", s.String(), "err", err)
			return
		case !warned:
			warned = true
			r.log.Warn("cannot send Events; they wait until the API server answers", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// refused reports whether err is an answer that will be the same next time.
func refused(err error) bool {
	var status apierrors.APIStatus // not itself an error, so not for errors.AsType
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != 429 && code != 408
}
