package watch

import (
	"context"
	"encoding/json"
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
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-project/fairlead/service"
)

func lease() service.Name { return service.Name{Namespace: "l7", Name: "fairlead-l7"} }

func name(n string) service.Name { return service.Name{Namespace: "shop", Name: n} }

func TestParseAddresses(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{" , ", ""},
		{"203.0.113.10", "203.0.113.10"},
		{"LB.example.com., 203.0.113.10,::ffff:203.0.113.9, 2001:db8::1,203.0.113.10", "lb.example.com 203.0.113.9 203.0.113.10 2001:db8::1"},
		{"fe80::1%eth0", "error"},
		{"a b", "error"},
		{"203.0.113.10:80", "error"},
	} {
		list, err := ParseAddresses(tc.in)
		var got []string
		for _, in := range loadBalancer(list) {
			got = append(got, in.IP+in.Hostname)
		}
		if err != nil {
			got = []string{"error"}
		}
		if g := strings.Join(got, " "); g != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, g, tc.want)
		}
	}
}

func TestServiceAddresses(t *testing.T) {
	lb := func(in ...corev1.LoadBalancerIngress) corev1.ServiceStatus {
		return corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: in}}
	}
	for _, tc := range []struct {
		name string
		in   corev1.Service
		want string
	}{
		{"load balancer", corev1.Service{
			Spec:   corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalIPs: []string{"203.0.113.1"}, ClusterIPs: []string{"10.96.0.1"}},
			Status: lb(corev1.LoadBalancerIngress{Hostname: "lb.example.com"}, corev1.LoadBalancerIngress{IP: "203.0.113.2"}),
		}, "lb.example.com 203.0.113.1 203.0.113.2"},
		{"load balancer without an address yet", corev1.Service{
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.1"}},
		}, ""},
		{"cluster IPs", corev1.Service{
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00:10:96::1"}},
		}, "10.96.0.1 fd00:10:96::1"},
		{"external IPs", corev1.Service{
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIPs: []string{"10.96.0.1"}, ExternalIPs: []string{"203.0.113.1", "bad"}},
		}, "203.0.113.1"},
		{"external name", corev1.Service{
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"},
		}, "www.example.com"},
		{"headless", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}}, ""},
		{"old object", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}}, "10.96.0.1"},
		// A status left over from when it was a load balancer is not an address.
		{"no load balancer any more", corev1.Service{
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{"10.96.0.1"}}, Status: lb(corev1.LoadBalancerIngress{IP: "203.0.113.2"}),
		}, "10.96.0.1"},
	} {
		var got []string
		for _, in := range loadBalancer(ServiceAddresses(&tc.in)) {
			got = append(got, in.IP+in.Hostname)
		}
		if g := strings.Join(got, " "); g != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, g, tc.want)
		}
	}
}

// stated returns an Ingress with a status, written by a manager.
func stated(n, manager string, ips ...string) *networkingv1.Ingress {
	o := ourIngress(n)
	o.UID, o.ResourceVersion = "u", "5"
	for _, ip := range ips {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, networkingv1.IngressLoadBalancerIngress{IP: ip})
	}
	if manager != "" {
		o.ManagedFields = []metav1.ManagedFieldsEntry{
			{Manager: "kubectl"}, {Manager: manager, Subresource: "status", Operation: metav1.ManagedFieldsOperationUpdate},
		}
	}
	return o
}

// TestStatusWants is the table of what is written to whom.
func TestStatusWants(t *testing.T) {
	const manager, a, b = "fairlead-l7 l7/fairlead-l7", "203.0.113.1", "203.0.113.2"
	for _, tc := range []struct {
		name           string
		in             *networkingv1.Ingress
		served, ours   bool
		want           string
		before, silent bool // before everything is known; without addresses
	}{
		{name: "served, without a status", in: stated("web", ""), served: true, ours: true, want: a + "," + b},
		{name: "served, right", in: stated("web", manager, a, b), served: true, ours: true, want: "-"},
		{name: "served, right in another order", in: stated("web", "", b, a), served: true, ours: true, want: "-"},
		{name: "served, half of it", in: stated("web", manager, a), served: true, ours: true, want: a + "," + b},
		{name: "served, somebody else's", in: stated("web", "other", "192.0.2.1"), served: true, ours: true, want: a + "," + b},
		{name: "served, but given away a moment ago", in: stated("web", ""), served: true, want: "-"},
		{name: "never ours", in: stated("web", "other", a, b), want: "-"},
		{name: "not ours any more", in: stated("web", manager, a, b), want: ""},
		{name: "not ours any more, and clear", in: stated("web", manager), want: "-"},
		{name: "ours, but not served", in: stated("web", manager, a), ours: true, want: ""},
		{name: "of another installation", in: stated("web", manager+"2", a, b), want: "-"},
		{name: "before the first decision", in: stated("web", manager, a, b), before: true, want: "-"},
		{name: "before the addresses are known", in: stated("web", manager, a, b), silent: true, want: "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewStatuses(fake.NewClientset(), lease(), slog.New(slog.DiscardHandler))
			if !tc.silent {
				list, err := ParseAddresses(a + "," + b)
				if err != nil {
					t.Fatal(err)
				}
				s.Publish(list)
			}
			s.observe(name("web"), s.observed(tc.in))
			s.claim(name("web"), tc.ours)
			if served := []service.Name{name("web")}; !tc.before && tc.served {
				s.Serve(served)
			} else if !tc.before {
				s.Serve(nil)
			}
			var noted []service.Name
			s.Watch(func(n service.Name) { noted = append(noted, n) })
			w := s.want(name("web"))
			got := "-"
			if w != nil {
				got = describe(w.addresses)
			}
			if got != tc.want || (len(noted) > 0) != (w != nil) {
				t.Errorf("got %q and notes %v, want %q", got, noted, tc.want)
			}
		})
	}
}

func TestStatusPatch(t *testing.T) {
	w := statusWrite{uid: "u", version: "5", addresses: []networkingv1.IngressLoadBalancerIngress{{IP: "203.0.113.1"}}}
	got, err := w.patch()
	want := `{"metadata":{"resourceVersion":"5","uid":"u"},"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s and %v, want %s", got, err, want)
	}
	w.addresses = nil
	got, err = w.patch()
	var clear struct {
		Status struct {
			LoadBalancer struct{ Ingress []any }
		}
	}
	if err := errors.Join(err, json.Unmarshal(got, &clear)); err != nil || clear.Status.LoadBalancer.Ingress == nil {
		t.Errorf("clearing: got %s and %v, want an empty list, which null is not", got, err)
	}
}

// A statusBench writes statuses at a fake API server whose patches can be made to fail.
type statusBench struct {
	*Statuses
	log   *sink
	fail  atomic.Pointer[error]
	mu    sync.Mutex
	wrote []string
}

func newStatusBench() *statusBench {
	b := &statusBench{log: newSink()}
	client := fake.NewClientset()
	client.PrependReactor("patch", "ingresses", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchActionImpl)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wrote = append(b.wrote, fmt.Sprintf("%s %s/%s", p.GetName(), p.GetResource().Resource, p.GetSubresource()))
		if err := b.fail.Load(); err != nil {
			return true, nil, *err
		}
		after := stated(p.GetName(), "fairlead-l7 l7/fairlead-l7", "203.0.113.1")
		after.ResourceVersion = "6"
		return true, after, nil
	})
	b.Statuses = NewStatuses(client, lease(), slog.New(slog.NewTextHandler(b.log, nil)))
	list, _ := ParseAddresses("203.0.113.1")
	b.Publish(list)
	return b
}

func (b *statusBench) add(names ...string) {
	var all []service.Name
	for _, n := range names {
		b.observe(name(n), b.observed(stated(n, "")))
		b.claim(name(n), true)
		all = append(all, name(n))
	}
	b.Serve(all)
}

func (b *statusBench) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Sorted(slices.Values(b.wrote))
	b.wrote = nil
	return out
}

func TestStatusWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStatusBench()
		b.add("a", "b")
		w := &StatusWriter{Kind: b.Statuses, Log: b.logger()}
		lead := func() func() {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { w.Lead(ctx); close(done) }()
			return func() { cancel(); <-done }
		}
		stop := lead()
		synctest.Wait()
		if d := cmp.Diff(b.take(), []string{"a ingresses/status", "b ingresses/status"}); d != "" {
			t.Errorf("when it begins to lead (-got +want):\n%s", d)
		}
		down := errors.New("connection refused")
		b.fail.Store(&down)
		b.add("a", "b", "c") // and what was written to the others has been undone
		time.Sleep(10 * time.Second)
		if got := len(b.take()); got < 9 || got > 20 {
			t.Errorf("%d attempts in ten seconds for three that fail, want them to become rarer", got)
		}
		b.fail.Store(nil)
		time.Sleep(time.Minute)
		if d := cmp.Diff(b.take(), []string{"a ingresses/status", "b ingresses/status", "c ingresses/status"}); d != "" {
			t.Errorf("when it works again (-got +want):\n%s", d)
		}
		if got := strings.Count(b.log.said(), "cannot write status"); got != 1 {
			t.Errorf("said %d times that it fails, want once", got)
		}
		stop()
		b.add("d")
		time.Sleep(time.Minute)
		if got := b.take(); got != nil {
			t.Errorf("wrote %v when it does not lead", got)
		}
		conflict := error(apierrors.NewConflict(schema.GroupResource{Resource: "ingresses"}, "d", errors.New("changed")))
		b.fail.Store(&conflict)
		stop = lead()
		time.Sleep(time.Minute)
		want := []string{ // the others are not served any more
			"a ingresses/status", "b ingresses/status", "c ingresses/status", "d ingresses/status",
		}
		if d := cmp.Diff(b.take(), want); d != "" {
			t.Errorf("a conflict is not tried again (-got +want):\n%s", d)
		}
		stop()
	})
}

func (b *statusBench) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b.log, nil)) }

// TestOwnWriteIsRemembered makes sure that what was written is not written again before
// the watch has shown it, and that the watch counts if it was faster.
func TestOwnWriteIsRemembered(t *testing.T) {
	b := newStatusBench()
	b.add("a")
	for range 2 {
		if err := b.Write(t.Context(), name("a")); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(b.take(), []string{"a ingresses/status"}); d != "" {
		t.Errorf("writes (-got +want):\n%s", d)
	}
	newer := stated("a", "other", "192.0.2.1")
	newer.ResourceVersion = "7"
	b.observe(name("a"), b.observed(newer))
	after := stated("a", "fairlead-l7 l7/fairlead-l7", "203.0.113.1")
	b.Statuses.wrote(name("a"), "5", after)
	if w := b.want(name("a")); w == nil || w.version != "7" {
		t.Errorf("got %+v, want a write on version 7", w)
	}
}

func TestPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSink()
		client := fake.NewClientset(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "l7", Name: "other"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.9"}},
		})
		var mu sync.Mutex
		var got []string
		p := &Publisher{
			Client: client, Service: service.Name{Namespace: "l7", Name: "edge"}, Log: slog.New(slog.NewTextHandler(log, nil)),
			Publish: func(list []Address) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, describe(loadBalancer(list)))
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		settle()
		if !strings.Contains(log.said(), "does not exist") {
			t.Error("it does not say that the Service is missing")
		}
		edge := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "l7", Name: "edge"}, Spec: corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.1"}},
		}
		services := client.CoreV1().Services("l7")
		if _, err := services.Create(ctx, edge, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		settle()
		if err := services.Delete(ctx, "edge", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		settle()
		cancel()
		<-done
		if d := cmp.Diff(got, []string{"203.0.113.1"}); d != "" {
			t.Errorf("published (-got +want):\n%s", d)
		}
	})
}

// TestStatusOfTheLast takes the addresses away when nobody else is there to serve, and gives them back when somebody comes.
func TestStatusOfTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStatusBench()
		mine := func(ip ...string) *observed { return b.observed(stated("mine", "fairlead-l7 l7/fairlead-l7", ip...)) }
		b.observe(name("mine"), mine("203.0.113.1"))
		b.observe(name("theirs"), b.observed(stated("theirs", "other", "203.0.113.1")))
		for _, n := range []string{"mine", "theirs"} {
			b.claim(name(n), true)
		}
		b.Serve([]service.Name{name("mine"), name("theirs")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { (&StatusWriter{Kind: b.Statuses, Log: b.logger()}).Lead(ctx); close(done) }()
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if d := cmp.Diff(b.take(), want); d != "" {
				t.Errorf("%s (-got +want):\n%s", what, d)
			}
		}
		want("all is well")
		b.Alone(true)
		want("it is alone, and stays")
		b.Alone(false)
		b.Leave()
		b.Settle(t.Context()) // there is nothing to wait for
		want("it goes, and there are others")
		b.Alone(true)
		want("nobody is left", "mine ingresses/status")
		short, end := context.WithTimeout(t.Context(), time.Minute)
		b.Settle(short) // the answer of the client is that nothing has come of it
		if short.Err() == nil {
			t.Error("does not wait until the addresses are gone")
		}
		end()
		b.take()
		b.observe(name("mine"), mine())
		b.Settle(t.Context())
		want("they are gone")
		b.Alone(false)
		want("somebody has come", "mine ingresses/status")
		cancel()
		<-done
	})
}
