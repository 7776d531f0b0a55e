package watch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// How many Events of this kind there may be. Who changes an Ingress looks at it within
// minutes; of many at once only the youngest are spoken of.
const (
	greetingsPerSecond = 5
	greetingsBurst     = 50
	greetingsWaiting   = 500
	greetingTries      = 5
	greetingRetry      = 2 * time.Second
	maxName            = 253
	greetingSettles    = 2 * time.Second // after which an Ingress that is still being changed is one change
)

// ReasonSynced is the reason of the Events of a [Greeter].
const ReasonSynced = "Synced"

// A Greeter says by a Normal Event at an Ingress that it is in force as written: once for
// each version, which is what its spec and our annotations are, whoever leads. The name
// of the Event is made from that version, so that another process that begins to lead does not say
// it again as long as the Event exists. InForce may be called from any goroutine and does
// not block.
type Greeter struct {
	client kubernetes.Interface
	node   string
	log    *slog.Logger
	wake   chan struct{} // holds one token

	mu      sync.Mutex
	known   map[service.Name]*ingress.Ingress // everything in force
	waiting []greeting                        // the youngest last
	leads   bool
}

// A greeting is an Ingress to be spoken of.
type greeting struct {
	name  service.Name
	since time.Time // when it came into force
}

// NewGreeter returns a Greeter that writes Events in the name of the given node.
func NewGreeter(client kubernetes.Interface, node string, log *slog.Logger) *Greeter {
	return &Greeter{client: client, node: node, log: log, wake: make(chan struct{}, 1), known: make(map[service.Name]*ingress.Ingress)}
}

// InForce takes note of Ingresses that are in force as they are now, and of those that no
// longer are.
func (g *Greeter) InForce(changed []*ingress.Ingress, gone []service.Name) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range gone {
		delete(g.known, n)
	}
	slices.SortFunc(changed, older)
	for _, in := range changed {
		old := g.known[in.Name]
		g.known[in.Name] = in
		if g.leads && (old == nil || old.UID != in.UID || version(old) != version(in)) {
			g.enqueue(greeting{in.Name, now})
		}
	}
}

func older(a, b *ingress.Ingress) int {
	return cmp.Or(a.Created.Compare(b.Created), a.Name.Compare(b.Name))
}

// enqueue is called with mu held.
func (g *Greeter) enqueue(w greeting) {
	g.waiting = append(slices.DeleteFunc(g.waiting, func(o greeting) bool { return o.name == w.name }), w)
	if len(g.waiting) > greetingsWaiting {
		g.waiting = slices.Delete(g.waiting, 0, len(g.waiting)-greetingsWaiting)
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Lead writes Events until ctx is done. It is a task of a [Leadership].
func (g *Greeter) Lead(ctx context.Context) {
	if g.client == nil {
		return
	}
	limit := flowcontrol.NewTokenBucketRateLimiter(greetingsPerSecond, greetingsBurst)
	defer limit.Stop()
	g.begin()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.leads, g.waiting = false, nil
	}()
	for {
		in, wait := g.next(time.Now())
		switch {
		case wait > 0:
			if !sleep(ctx, wait) {
				return
			}
		case in != nil:
			if limit.Wait(ctx) != nil || g.say(ctx, in) != nil {
				return
			}
		default:
			select {
			case <-ctx.Done():
				return
			case <-g.wake:
			}
		}
	}
}

// begin has everything in force to be spoken of, the oldest first.
func (g *Greeter) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leads = true
	list := slices.SortedFunc(maps.Values(g.known), older)
	now := time.Now()
	for _, in := range list[max(0, len(list)-greetingsWaiting):] {
		g.waiting = append(g.waiting, greeting{in.Name, now})
	}
}

// next takes an Ingress to be spoken of, or says for how long there is none.
func (g *Greeter) next(now time.Time) (*ingress.Ingress, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 {
		w := g.waiting[0]
		in := g.known[w.name]
		if left := greetingSettles - now.Sub(w.since); in != nil && left > 0 {
			return nil, left
		}
		g.waiting = slices.Delete(g.waiting, 0, 1)
		if in != nil {
			return in, 0
		}
	}
	return nil, 0
}

// sleep waits, and reports whether ctx is not done.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// say writes the Event about in. One that does not come through within some tries is no
// loss. The error is that of ctx.
func (g *Greeter) say(ctx context.Context, in *ingress.Ingress) error {
	e := g.event(in, time.Now())
	for try := 1; ; try++ {
		tryCtx, cancel := context.WithTimeout(ctx, statusTimeout)
		_, err := g.client.EventsV1().Events(e.Namespace).Create(tryCtx, e, metav1.CreateOptions{})
		cancel()
		if err == nil || apierrors.IsAlreadyExists(err) || ctx.Err() != nil {
			return ctx.Err()
		}
		final := apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err)
		if final || try == greetingTries {
			g.log.Warn("cannot write the Event that an Ingress is in force", "ingress", in.Name.String(), "err", err)
			return nil
		}
		if !sleep(ctx, greetingRetry<<try) {
			return ctx.Err()
		}
	}
}

// event returns the Event about in.
func (g *Greeter) event(in *ingress.Ingress, now time.Time) *eventsv1.Event {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", ReasonSynced, in.UID, version(in)))
	suffix := "." + hex.EncodeToString(sum[:8])
	n := in.Name
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: n.Namespace, Name: strings.TrimRight(n.Name[:min(len(n.Name), maxName-len(suffix))], ".-") + suffix,
		},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "fairlead.io/fairlead",
		ReportingInstance:   g.node[:min(len(g.node), maxManager)],
		Action:              "Serve",
		Reason:              ReasonSynced,
		Regarding: corev1.ObjectReference{
			APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "Ingress", Namespace: n.Namespace, Name: n.Name, UID: types.UID(in.UID),
		},
		Note: greetingText(in),
		Type: corev1.EventTypeNormal,
	}
}

// version says what of an Ingress is in force: its generation counts changes of the spec
// alone.
func version(in *ingress.Ingress) string {
	sum := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(in.Annotations)) {
		fmt.Fprintf(sum, "%q %q ", k, in.Annotations[k])
	}
	return fmt.Sprintf("%d %x", in.Generation, sum.Sum(nil))
}

func greetingText(in *ingress.Ingress) string {
	paths := 0
	for _, r := range in.Rules {
		paths += len(r.Paths)
	}
	return fmt.Sprintf("In force as of generation %d: %d rules with %d paths", in.Generation, len(in.Rules), paths)
}
