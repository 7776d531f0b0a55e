package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-project/fairlead/service"
)

// An office counts who leads.
type office struct {
	mu      sync.Mutex
	holders []string
	most    int
}

func (o *office) enter(who string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holders = append(o.holders, who)
	o.most = max(o.most, len(o.holders))
}

func (o *office) leave(who string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.holders, who)
	o.holders = slices.Delete(o.holders, i, i+1)
}

func (o *office) held() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.holders, " ")
}

// runFor starts a candidate whose task takes a while to end, and returns how to stop it.
func (o *office) run(t *testing.T, client *fake.Clientset, who string, log *sink) func() {
	l := &Leadership{
		Client: client, Lease: lease(), Identity: who, Log: slog.New(slog.NewTextHandler(log, nil)),
		Tasks: []func(context.Context){func(ctx context.Context) {
			o.enter(who)
			<-ctx.Done()
			time.Sleep(time.Second)
			o.leave(who)
		}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, o, log := fake.NewClientset(), &office{}, newSink()
		stopA := o.run(t, client, "a", log)
		time.Sleep(5 * time.Second)
		stopB := o.run(t, client, "b", log)
		time.Sleep(time.Minute)
		if got := o.held(); got != "a" {
			t.Fatalf("leaders: %q, want a", got)
		}
		start := time.Now()
		stopA()
		for o.held() != "b" && time.Since(start) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("b leads after %v, want it to take over what a has given back", took)
		}
		stopB()
		if o.most != 1 {
			t.Errorf("%d have led at once", o.most)
		}
	})
}

// TestLeadershipIsLost keeps the leader from renewing the lease: it must have ended
// what it does before another one begins.
func TestLeadershipIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, o, log := fake.NewClientset(), &office{}, newSink()
		var cut atomic.Bool
		stopA := func() func() {
			mine := fake.NewClientset()
			mine.PrependReactor("*", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
				if cut.Load() {
					return true, nil, errors.New("connection refused")
				}
				obj, err := client.Invokes(a, nil)
				return true, obj, err
			})
			return o.run(t, mine, "a", log)
		}()
		time.Sleep(5 * time.Second)
		stopB := o.run(t, client, "b", newSink())
		time.Sleep(30 * time.Second)
		cut.Store(true)
		time.Sleep(time.Minute)
		if got := o.held(); got != "b" || o.most != 1 {
			t.Errorf("leaders: %q, at most %d at once; want b and 1", got, o.most)
		}
		for _, said := range []string{"has lost the lease", "leader election fails"} {
			if !strings.Contains(log.said(), said) {
				t.Errorf("a does not say that it %s:\n%s", said, log.said())
			}
		}
		cut.Store(false)
		time.Sleep(time.Minute)
		if got := o.held(); got != "b" {
			t.Errorf("leaders: %q, want b still", got)
		}
		stopB()
		time.Sleep(10 * time.Second)
		if got := o.held(); got != "a" {
			t.Errorf("leaders: %q, want a again", got)
		}
		stopA()
	})
}

func TestLeadershipValidate(t *testing.T) {
	err := (&Leadership{}).Run(t.Context())
	for _, want := range []string{"Client", "Lease", "Identity"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %s", err, want)
		}
	}
}

func problem(n, reason string) service.Problem {
	return service.Problem{Object: service.Object{Kind: "Ingress", Name: name(n), UID: "u"}, Reason: reason, Message: reason + "!"}
}

func TestAnnouncer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, log := fake.NewClientset(), newSink()
		a := NewAnnouncer(client, "n1", slog.New(slog.NewTextHandler(log, nil)))
		object := service.Object{Kind: "Ingress", Name: name("web")}
		a.From("objects")(object, []service.Problem{problem("web", "Odd")})
		a.All("ingress", []service.Problem{problem("web", "Conflict"), problem("old", "Conflict")})
		a.All("ingress", []service.Problem{problem("web", "Conflict"), problem("web", "Worse")})
		events := func() []string {
			t.Helper()
			settle()
			list, err := client.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, e := range list.Items {
				out = append(out, fmt.Sprintf("%s %s by %s", e.Regarding.Name, e.Reason, e.ReportingInstance))
			}
			slices.Sort(out)
			return out
		}
		if got := events(); got != nil {
			t.Errorf("Events without leading: %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Lead(ctx); close(done) }()
		want := []string{"web Conflict by n1", "web Odd by n1", "web Worse by n1"}
		if d := cmp.Diff(events(), want); d != "" {
			t.Errorf("Events (-got +want):\n%s", d)
		}
		a.From("objects")(object, nil) // does not disturb what the other source has said
		a.All("ingress", []service.Problem{problem("web", "Conflict"), problem("web", "Worse"), problem("new", "Conflict")})
		if d := cmp.Diff(events(), append([]string{"new Conflict by n1"}, want...)); d != "" {
			t.Errorf("Events, with one more (-got +want):\n%s", d)
		}
		cancel()
		<-done
		a.All("ingress", []service.Problem{problem("late", "Conflict")})
		if got := len(events()); got != 4 {
			t.Errorf("%d Events after leading, want no more than the 4 before", got)
		}
		if got := len(a.Known()); got != 1 {
			t.Errorf("%d problems known, want one", got)
		}
		if got := strings.Count(log.said(), "msg=problem"); got != 6 {
			t.Errorf("logged %d problems, want each once, which is 6:\n%s", got, log.said())
		}
	})
}

func TestAnnouncerWithoutAPIServer(t *testing.T) {
	log := newSink()
	a := NewAnnouncer(nil, "n1", slog.New(slog.NewTextHandler(log, nil)))
	a.All("ingress", []service.Problem{problem("web", "Conflict")})
	a.Lead(t.Context())
	if !strings.Contains(log.said(), "Conflict!") {
		t.Errorf("not logged:\n%s", log.said())
	}
}
