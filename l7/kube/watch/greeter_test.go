package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

func inForce(n string, generation int64, notes ...string) *ingress.Ingress {
	in := &ingress.Ingress{Name: name(n), UID: "u-" + n, Generation: generation, Rules: []ingress.Rule{{Host: n + ".test", Paths: make([]ingress.Path, 2)}}}
	for _, note := range notes {
		in.Annotations = map[string]string{note: "x"}
	}
	return in
}

// A greeting bench is a Greeter and what it has said.
type greeterBench struct {
	*Greeter
	client *fake.Clientset
	log    *sink
	fail   atomic.Bool
}

func newGreeterBench(client *fake.Clientset) *greeterBench {
	b := &greeterBench{client: client, log: newSink()}
	b.Greeter = NewGreeter(client, "n1", slog.New(slog.NewTextHandler(b.log, nil)))
	client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		return b.fail.Load(), nil, errors.New("connection refused")
	})
	return b
}

// lead makes it lead, and returns what ends that.
func (b *greeterBench) lead(t *testing.T) func() {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { b.Lead(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (b *greeterBench) events(t *testing.T, after time.Duration) []string {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	list, err := b.client.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s %s: %s", e.Type, e.Reason, e.Regarding.Name, e.Regarding.UID, e.Note))
	}
	slices.Sort(out)
	return out
}

func TestGreeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGreeterBench(fake.NewClientset())
		line := func(n string, generation int) string {
			return fmt.Sprintf("Normal Synced %s u-%s: In force as of generation %d: 1 rules with 2 paths", n, n, generation)
		}
		want := func(what string, want ...string) {
			t.Helper()
			if d := cmp.Diff(b.events(t, 3*time.Second), want); d != "" {
				t.Errorf("%s (-got +want):\n%s", what, d)
			}
		}
		b.InForce([]*ingress.Ingress{inForce("a", 1), inForce("b", 1)}, nil)
		want("it does not lead")
		stop := b.lead(t)
		want("it leads", line("a", 1), line("b", 1))
		b.InForce([]*ingress.Ingress{inForce("a", 1), inForce("b", 2)}, nil)
		want("one has changed", line("a", 1), line("b", 1), line("b", 2))
		b.InForce([]*ingress.Ingress{inForce("a", 1, "fairlead.io/x")}, nil)
		want("an annotation has changed, which is no new generation", line("a", 1), line("a", 1), line("b", 1), line("b", 2))
		for i := range 10 {
			b.InForce([]*ingress.Ingress{inForce("b", int64(3+i))}, nil)
			time.Sleep(100 * time.Millisecond)
		}
		all := []string{line("a", 1), line("a", 1), line("b", 1), line("b", 2), line("b", 12)}
		slices.Sort(all)
		want("it changes all the time", all...)
		b.InForce([]*ingress.Ingress{inForce("gone", 1)}, nil)
		b.InForce(nil, []service.Name{name("gone")})
		want("one was there for a moment", all...)
		stop()
		b.InForce([]*ingress.Ingress{inForce("c", 1)}, nil)
		want("it does not lead any more", all...)
		heir := newGreeterBench(b.client)
		heir.InForce([]*ingress.Ingress{inForce("b", 12)}, nil)
		stop = heir.lead(t)
		want("another begins to lead, and knows what was said", all...)
		stop()
	})
}

// TestGreeterIsBounded lets many come into force at once.
func TestGreeterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGreeterBench(fake.NewClientset())
		stop := b.lead(t)
		var many []*ingress.Ingress
		for i := range 3000 {
			in := inForce(fmt.Sprintf("i%04d", i), 1)
			in.Created = time.Unix(int64(i), 0)
			many = append(many, in)
		}
		b.InForce(many, nil)
		if got, most := len(b.events(t, 3*time.Second)), greetingsBurst+greetingsPerSecond*2; got > most {
			t.Errorf("%d Events after a moment, more than %d", got, most)
		}
		got := b.events(t, 10*time.Minute)
		if len(got) != greetingsWaiting || !strings.Contains(got[0], "i2500") {
			t.Errorf("%d Events in the end, the first %q; want the youngest %d", len(got), got[0], greetingsWaiting)
		}
		stop()
	})
}

func TestGreeterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGreeterBench(fake.NewClientset())
		b.fail.Store(true)
		stop := b.lead(t)
		b.InForce([]*ingress.Ingress{inForce("a", 1)}, nil)
		b.events(t, 10*time.Minute)
		if n := len(b.client.Actions()); n > 10 || strings.Count(b.log.said(), "cannot write the Event") != 1 {
			t.Errorf("%d attempts, and it said:\n%s", n, b.log.said())
		}
		b.fail.Store(false)
		b.InForce([]*ingress.Ingress{inForce("b", 1)}, nil)
		if got := b.events(t, time.Minute); len(got) != 1 {
			t.Errorf("Events when it works again: %q", got)
		}
		stop()
	})
}

// TestGreeterEvent holds an Event to the limits of the API.
func TestGreeterEvent(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := NewGreeter(nil, strings.Repeat("n", 253), slog.New(slog.DiscardHandler))
	in := inForce("web", 3)
	got := g.event(in, now)
	want := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: got.Name}, EventTime: metav1.NewMicroTime(now),
		ReportingController: "fairlead.io/fairlead", ReportingInstance: strings.Repeat("n", 128), Action: "Serve", Reason: "Synced", Type: "Normal",
		Regarding: corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Namespace: "shop", Name: "web", UID: "u-web"},
		Note:      "In force as of generation 3: 1 rules with 2 paths",
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("Event (-got +want):\n%s", d)
	}
	in.Name.Name = strings.Repeat("w", 253)
	if errs := validation.IsDNS1123Subdomain(g.event(in, now).Name); errs != nil {
		t.Errorf("name of an Event: %v", errs)
	}
}
