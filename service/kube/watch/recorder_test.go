package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-project/fairlead/service"
)

var web = service.Object{Kind: "Service", Name: service.Name{Namespace: "shop", Name: "web"}}

func problem(message string) service.Problem {
	o := web
	o.UID = "u1"
	return service.Problem{Object: o, Reason: "InvalidAddress", Field: "spec.externalIPs[0]", Message: message}
}

// A recording is a Recorder with a client that keeps what is sent.
type recording struct {
	*Recorder
	client *fake.Clientset
	log    bytes.Buffer
}

func newRecording(t *testing.T, client *fake.Clientset, node string) *recording {
	r := &recording{client: client}
	r.Recorder = NewRecorder(client, node, slog.New(slog.NewTextHandler(&r.log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *recording) notes(t *testing.T) []string {
	t.Helper()
	synctest.Wait()
	list, err := r.client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Note)
	}
	return out
}

func TestEvent(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := problem("x is not an IP address")
	got := event(saying{Problem: p}, "n1", 0, now)
	want := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: "shop", Name: got.Name},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "fairlead.io/fairlead",
		ReportingInstance:   "n1",
		Action:              "Serve",
		Reason:              "InvalidAddress",
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: "web", UID: "u1"},
		Note:                "spec.externalIPs[0]: x is not an IP address",
		Type:                "Warning",
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("event (-got +want):\n%s", d)
	}
	p.Object = service.Object{Kind: "Node", Name: service.Name{Name: strings.Repeat("n", 253)}}
	p.Message = strings.Repeat("ö", 2000)
	got = event(saying{Problem: p}, strings.Repeat("n", 253), 0, now)
	if errs := validation.IsDNS1123Subdomain(got.Name); errs != nil {
		t.Errorf("name of the Event %q: %v", got.Name, errs)
	}
	if got.Namespace != "default" || len(got.Note) > 1024 || len(got.ReportingInstance) > 128 || strings.ContainsRune(got.Note, '\uFFFD') {
		t.Errorf("Event exceeds a limit of the API: %+v", got)
	}
}

func TestEventNames(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a, b := saying{Problem: problem("a")}, saying{Problem: problem("b")}
	local := saying{Problem: problem("a"), local: true}
	base := eventName(a, "n1", 0, now)
	for _, tc := range []struct {
		name string
		got  string
		same bool
	}{
		{"other node", eventName(a, "n2", 0, now), true},
		{"a minute later", eventName(a, "n1", 0, now.Add(time.Minute)), true},
		{"an hour later", eventName(a, "n1", 0, now.Add(time.Hour)), false},
		{"again", eventName(a, "n1", 1, now), false},
		{"other problem", eventName(b, "n1", 0, now), false},
		{"local", eventName(local, "n1", 0, now), false},
	} {
		if same := tc.got == base; same != tc.same {
			t.Errorf("%s: same name %v, want %v", tc.name, same, tc.same)
		}
	}
	if eventName(local, "n1", 0, now) == eventName(local, "n2", 0, now) {
		t.Error("local problems of two nodes have the same name")
	}
}

func TestRecorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := problem("a"), problem("b")
		r := newRecording(t, fake.NewClientset(), "n1")
		other := newRecording(t, r.client, "n2")
		count := func(what string, want int) {
			t.Helper()
			if got := r.notes(t); len(got) != want {
				t.Errorf("%s: %d events, want %d: %q", what, len(got), want, got)
			}
		}
		r.Report(web, []service.Problem{a, b})
		count("two problems", 2)
		r.Report(web, []service.Problem{b, a})
		other.Report(web, []service.Problem{a})
		count("same problems, and on another node", 2)
		r.Report(web, []service.Problem{b})
		r.Report(web, []service.Problem{b, a})
		count("one came back", 3)
		r.Report(web, nil)
		time.Sleep(time.Hour)
		r.Report(web, []service.Problem{a})
		count("and an hour later", 4)
		r.SendLocal([]service.Problem{a})
		other.SendLocal([]service.Problem{a})
		count("local problems of two nodes", 6)
	})
}

func TestRecorderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t, fake.NewClientset(), "n1")
		var many []service.Problem
		for i := range 2 * eventsWaiting {
			many = append(many, problem(fmt.Sprint(i)))
		}
		r.Report(web, many)
		if got := len(r.notes(t)); got > eventsBurst+1 {
			t.Errorf("%d events at once, want at most %d", got, eventsBurst)
		}
		if got := strings.Count(r.log.String(), "too many"); got != 1 {
			t.Errorf("%d warnings, want 1", got)
		}
		time.Sleep(10 * time.Second)
		if got := len(r.notes(t)); got > eventsBurst+11 {
			t.Errorf("%d events after ten seconds, want at most %d", got, eventsBurst+11)
		}
		r.Report(web, nil) // what still waits is not true any more
		sent := len(r.notes(t))
		time.Sleep(time.Hour)
		if got := len(r.notes(t)); got > sent+1 {
			t.Errorf("%d events after the problems were gone, had %d", got, sent)
		}
	})
}

func TestRecorderRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var mu sync.Mutex
		var fail error
		attempts := 0
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts++
			return fail != nil, nil, fail
		})
		failWith := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			attempts, fail = 0, err
		}
		r := newRecording(t, client, "n1")
		failWith(apierrors.NewInternalError(fmt.Errorf("etcd")))
		r.Send([]service.Problem{problem("a")})
		time.Sleep(time.Hour)
		synctest.Wait()
		if attempts < 10 || strings.Count(r.log.String(), "level=WARN") != 1 {
			t.Errorf("%d attempts in an hour, want some sixty and one warning; log:\n%s", attempts, r.log.String())
		}
		failWith(nil)
		time.Sleep(2 * eventRetryMax)
		if got := r.notes(t); len(got) != 1 {
			t.Errorf("%d events after recovery, want 1", len(got))
		}
		failWith(apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", fmt.Errorf("namespace is being terminated")))
		r.Send([]service.Problem{problem("b")})
		time.Sleep(time.Hour)
		synctest.Wait()
		if attempts != 1 {
			t.Errorf("%d attempts after a refusal, want 1", attempts)
		}
	})
}
