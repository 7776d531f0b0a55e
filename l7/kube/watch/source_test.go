package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

// TestMain takes away the sleep of client-go between errors, which goes by the time of
// the last error of this process: a bubble of fake time, which begins in the year 2000,
// would wait for decades.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// A sink says what it holds.
type sink struct {
	mu     sync.Mutex
	held   map[service.Object]string
	steps  []string // every change, in order
	synced int
	log    bytes.Buffer
	err    error
}

func newSink() *sink { return &sink{held: make(map[service.Object]string)} }

func (s *sink) Update(_ context.Context, changes []kube.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		text := ""
		switch {
		case c.Ingress != nil:
			text = "class=" + c.Ingress.Class
			for _, t := range c.Ingress.TLS {
				text += " tls=" + t.Secret
			}
		case c.Class != nil:
			text = c.Class.Controller
		case c.Secret != nil:
			text = string(c.Secret.Data["auth"])
		case c.ConfigMap != nil:
			text = fmt.Sprint(c.ConfigMap.Data)
		}
		step := c.Object.Kind + " " + c.Object.String() + ": " + text
		if s.held[c.Object] = text; text == "" {
			delete(s.held, c.Object)
			step = c.Object.Kind + " " + c.Object.String() + " gone"
		}
		s.steps = append(s.steps, step)
	}
	return s.err
}

func (s *sink) Synced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced++
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *sink) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *sink) state() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for object, text := range s.held {
		out = append(out, object.Kind+" "+object.String()+": "+text)
	}
	slices.Sort(out)
	return out
}

// take returns the changes since the last time.
func (s *sink) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.steps
	s.steps = nil
	return out
}

func ourIngress(name string, secrets ...string) *networkingv1.Ingress {
	class := "fairlead"
	o := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       networkingv1.IngressSpec{IngressClassName: &class},
	}
	for _, s := range secrets {
		o.Spec.TLS = append(o.Spec.TLS, networkingv1.IngressTLS{SecretName: s})
	}
	return o
}

func ourClass(name, controller string) *networkingv1.IngressClass {
	return &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller},
	}
}

func secret(name, value string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{"auth": []byte(value)},
	}
}

// A bench is a Source at a fake API server, in a bubble of fake time.
type bench struct {
	*fake.Clientset
	*sink
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	return &bench{Clientset: fake.NewClientset(objects...), sink: newSink(), t: t, done: make(chan error, 1)}
}

func (b *bench) start(change ...func(*Source)) {
	cfg := ingress.Config{Classes: ingress.DefaultClasses(false)}
	src := &Source{
		Client: b.Clientset, Sink: b.sink, Log: slog.New(slog.NewTextHandler(b.sink, nil)),
		Serves: func(v *ingress.Ingress, classes map[string]*ingress.Class) bool { return kube.Serves(&cfg, v, classes) },
	}
	for _, do := range change {
		do(src)
	}
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(b.t.Context())
	go func() { b.done <- src.Run(ctx) }()
}

// stop ends the Source; nothing of it may be left for the bubble to end.
func (b *bench) stop() {
	b.t.Helper()
	b.cancel()
	if err := <-b.done; err != nil {
		b.t.Error(err)
	}
}

// settle lets everything happen that does not wait for long.
func settle() {
	synctest.Wait()
	time.Sleep(time.Second)
	synctest.Wait()
}

func (b *bench) want(what string, want ...string) {
	b.t.Helper()
	settle()
	if d := cmp.Diff(b.state(), want); d != "" {
		b.t.Errorf("%s (-got +want):\n%s", what, d)
	}
}

func (b *bench) put(objects ...runtime.Object) {
	b.t.Helper()
	for _, o := range objects {
		var err error
		ctx := b.t.Context()
		switch o := o.(type) {
		case *networkingv1.Ingress:
			if _, err = b.NetworkingV1().Ingresses(o.Namespace).Update(ctx, o, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
				_, err = b.NetworkingV1().Ingresses(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			}
		case *networkingv1.IngressClass:
			if _, err = b.NetworkingV1().IngressClasses().Update(ctx, o, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
				_, err = b.NetworkingV1().IngressClasses().Create(ctx, o, metav1.CreateOptions{})
			}
		case *corev1.Secret:
			if _, err = b.CoreV1().Secrets(o.Namespace).Update(ctx, o, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
				_, err = b.CoreV1().Secrets(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			}
		case *corev1.ConfigMap:
			if _, err = b.CoreV1().ConfigMaps(o.Namespace).Update(ctx, o, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
				_, err = b.CoreV1().ConfigMaps(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			}
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestSourceReadsWhatIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("web", "a", "b"),
			secret("a", "1"), secret("private", "x"))
		b.start()
		defer b.stop()
		web := "Ingress shop/web: class=fairlead tls=a tls=b"
		class := "IngressClass /fairlead: fairlead.io/ingress"
		b.want("at first", web, class, "Secret shop/a: 1")
		if b.synced != 1 {
			t.Errorf("synced %d times, want once", b.synced)
		}
		b.take()
		b.put(ourIngress("web", "a", "c"), secret("c", "3"), secret("a", "1"))
		b.want("another name", "Ingress shop/web: class=fairlead tls=a tls=c", class, "Secret shop/a: 1", "Secret shop/c: 3")
		steps := b.take()
		if i, j := slices.Index(steps, "Secret shop/c: 3"), slices.Index(steps, "Ingress shop/web: class=fairlead tls=a tls=c"); i < 0 || j < 0 || len(steps) != 2 {
			t.Errorf("changes: %q, want the Secret and the Ingress", steps)
		}

		if err := b.NetworkingV1().IngressClasses().Delete(t.Context(), "fairlead", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.want("without its class", "Ingress shop/web: class=fairlead tls=a tls=c")
		want := []string{"IngressClass /fairlead gone", "Secret shop/a gone", "Secret shop/c gone"}
		if d := cmp.Diff(b.take(), want); d != "" {
			t.Errorf("changes, in order (-got +want):\n%s", d)
		}
		b.put(ourClass("fairlead", ingress.Controller))
		settle()
		if steps := b.take(); len(steps) != 3 || steps[2] != class {
			t.Errorf("class again: changes %q, want the class after what it makes wanted", steps)
		}
		if err := b.NetworkingV1().Ingresses("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.want("without the Ingress", class)
	})
}

// fail makes lists of Secrets fail while the flag is set.
func (b *bench) fail(flag *atomic.Bool) {
	b.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return flag.Load(), nil, apierrors.NewInternalError(errors.New("cannot decrypt"))
	})
}

func TestIngressWaitsForWhatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("plain"), ourIngress("web", "a"), secret("a", "1"))
		var failing atomic.Bool
		failing.Store(true)
		b.fail(&failing)
		b.start()
		defer b.stop()
		class, plain := "IngressClass /fairlead: fairlead.io/ingress", "Ingress shop/plain: class=fairlead"
		b.want("while the Secret cannot be read", plain, class)
		if b.synced != 0 {
			t.Error("synced while something is missing")
		}
		failing.Store(false)
		time.Sleep(patience / 2)
		b.want("then", plain, "Ingress shop/web: class=fairlead tls=a", class, "Secret shop/a: 1")
		if b.synced != 1 {
			t.Errorf("synced %d times, want once", b.synced)
		}

		failing.Store(true)
		b.put(ourIngress("web", "b"), secret("b", "2"))
		b.want("the old version stays while the new one waits",
			plain, "Ingress shop/web: class=fairlead tls=a", class, "Secret shop/a: 1")
		b.put(ourIngress("web", "c"))
		b.want("and while a newer one does", plain, "Ingress shop/web: class=fairlead tls=a", class, "Secret shop/a: 1")
		time.Sleep(patience)
		b.want("nothing waits for ever", plain, "Ingress shop/web: class=fairlead tls=c", class)
		b.put(secret("c", "3"))
		failing.Store(false)
		time.Sleep(2 * retryNamed)
		b.want("at last", plain, "Ingress shop/web: class=fairlead tls=c", class, "Secret shop/c: 3")
	})
}

func forbid(resource string, when func(clienttesting.Action) bool) clienttesting.ReactionFunc {
	return func(a clienttesting.Action) (bool, runtime.Object, error) {
		if !when(a) {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
	}
}

// fieldsOf returns the field selector of a list.
func fieldsOf(a clienttesting.Action) string {
	if l, ok := a.(clienttesting.ListAction); ok {
		return l.GetListRestrictions().Fields.String()
	}
	return ""
}

func TestForbiddenSecretIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("web", "a"), secret("a", "1"))
		b.PrependReactor("list", "secrets", forbid("secrets", func(clienttesting.Action) bool { return true }))
		b.start()
		defer b.stop()
		b.want("it is served without", "Ingress shop/web: class=fairlead tls=a", "IngressClass /fairlead: fairlead.io/ingress")
		time.Sleep(time.Minute)
		if got := strings.Count(b.said(), "may not read"); b.synced != 1 || got != 1 {
			t.Errorf("synced %d times, said %d times, want once each", b.synced, got)
		}
	})
}

// many returns Ingresses that each name a Secret, and these.
func many(n int) (all []runtime.Object, want []string) {
	all = append(all, ourClass("fairlead", ingress.Controller), secret("private", "x"))
	want = append(want, "IngressClass /fairlead: fairlead.io/ingress")
	for i := range n {
		name := fmt.Sprintf("s%02d", i)
		all = append(all, ourIngress(name, name), secret(name, "1"))
		want = append(want, "Ingress shop/"+name+": class=fairlead tls="+name, "Secret shop/"+name+": 1")
	}
	slices.Sort(want)
	return all, want
}

// watches counts the watches of Secrets by what they select.
func (b *bench) watches() map[string]int {
	out := make(map[string]int)
	for _, a := range b.Actions() {
		if w, ok := a.(clienttesting.WatchAction); ok && a.GetResource().Resource == "secrets" {
			kind := "namespace"
			if strings.HasPrefix(w.GetWatchRestrictions().Fields.String(), "metadata.name=") {
				kind = "single"
			}
			out[kind]++
		}
	}
	b.ClearActions()
	return out
}

func TestManySecretsShareAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects, want := many(30)
		b := newBench(t, objects...)
		b.start()
		defer b.stop()
		b.want("at first", want...)
		if got := b.watches(); got["namespace"] == 0 || got["single"] != 0 {
			t.Errorf("watches: %v, want one of the namespace and none of single Secrets", got)
		}
		var more []string
		for i := range 9 { // a quarter of 30 is less than ten
			name := fmt.Sprintf("t%02d", i)
			b.put(secret(name, "2"), ourIngress(name, name))
			more = append(more, "Ingress shop/"+name+": class=fairlead tls="+name, "Secret shop/"+name+": 2")
		}
		want = slices.Sorted(slices.Values(append(want, more...)))
		b.want("with some more", want...)
		if got := b.watches(); got["namespace"] != 0 || got["single"] < 9 {
			t.Errorf("watches for some more: %v, want single ones", got)
		}
		for i := range 5 {
			name := fmt.Sprintf("u%02d", i)
			b.put(secret(name, "3"), ourIngress(name, name))
			want = append(want, "Ingress shop/"+name+": class=fairlead tls="+name, "Secret shop/"+name+": 3")
		}
		slices.Sort(want)
		b.want("with too many more", want...)
		if got := b.watches(); got["namespace"] == 0 {
			t.Errorf("watches for too many more: %v, want a new one of the namespace", got)
		}
		b.take()
		b.put(secret("t00", "new"), secret("private", "y"), secret("s05", "new"))
		settle()
		got := slices.Sorted(slices.Values(b.take()))
		if d := cmp.Diff(got, []string{"Secret shop/s05: new", "Secret shop/t00: new"}); d != "" {
			t.Errorf("changes (-got +want):\n%s", d)
		}
	})
}

func TestForbiddenNamespaceIsReadOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects, want := many(30)
		b := newBench(t, objects...)
		group := func(a clienttesting.Action) bool { return !strings.HasPrefix(fieldsOf(a), "metadata.name=") }
		b.PrependReactor("list", "secrets", forbid("secrets", group))
		b.start()
		defer b.stop()
		b.want("with single watches", want...)
		if strings.Contains(b.said(), "may not read") {
			t.Errorf("it says that something may not be read:\n%s", b.said())
		}
	})
}

// TestEmptyListIsConfirmed has the API server say that there is nothing any more, before
// it is so.
func TestEmptyListIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("web"))
		var mode, version atomic.Value // mode: what lists of Ingresses say
		mode.Store("truth")
		b.PrependReactor("list", "ingresses", func(a clienttesting.Action) (bool, runtime.Object, error) {
			again := a.(clienttesting.ListActionImpl).ListOptions.Limit == 1
			switch mode.Load() {
			case "truth":
				return false, nil, nil
			case "mistake":
				if again {
					return false, nil, nil
				}
			}
			return true, &networkingv1.IngressList{ListMeta: metav1.ListMeta{ResourceVersion: version.Load().(string)}}, nil
		})
		var current atomic.Value
		b.PrependWatchReactor("ingresses", func(a clienttesting.Action) (bool, apiwatch.Interface, error) {
			if mode.Load() != "truth" {
				return true, nil, apierrors.NewResourceExpired("too old")
			}
			w, err := b.Tracker().Watch(a.GetResource(), a.GetNamespace())
			current.Store(&w)
			return true, w, err
		})
		relist := func(m, v string) {
			mode.Store(m)
			version.Store(v)
			(*current.Load().(*apiwatch.Interface)).Stop()
			time.Sleep(time.Minute)
		}
		b.start()
		defer b.stop()
		settle()
		want := []string{"Ingress shop/web: class=fairlead", "IngressClass /fairlead: fairlead.io/ingress"}
		for _, c := range [][2]string{{"nothing", ""}, {"nothing", "0"}, {"mistake", "7"}} {
			relist(c[0], c[1])
			b.want("lists say "+c[0]+" with version "+c[1], want...)
			mode.Store("truth")
			time.Sleep(time.Minute)
			b.want("lists say the truth", want...)
		}
		relist("nothing", "7")
		b.want("when it is confirmed", want[1])
	})
}

func TestGlobalsNameMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := func(namespace, name string, data map[string]string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
		}
		b := newBench(t, cm("l7", "globals", map[string]string{"proxy-set-headers": "infra/headers"}),
			cm("infra", "headers", map[string]string{"X-A": "1"}), cm("infra", "others", map[string]string{"X-B": "2"}),
			secret("default-tls", "d"))
		b.start(func(s *Source) {
			s.Globals = service.Name{Namespace: "l7", Name: "globals"}
			s.Always.Secrets = []service.Name{{Namespace: "shop", Name: "default-tls"}}
		})
		defer b.stop()
		b.want("at first", "ConfigMap infra/headers: map[X-A:1]", "ConfigMap l7/globals: map[proxy-set-headers:infra/headers]", "Secret shop/default-tls: d")
		if b.synced != 1 {
			t.Errorf("synced %d times, want once", b.synced)
		}
		b.put(cm("l7", "globals", map[string]string{"add-headers": "infra/others"}))
		b.want("then", "ConfigMap infra/others: map[X-B:2]", "ConfigMap l7/globals: map[add-headers:infra/others]", "Secret shop/default-tls: d")
	})
}

func TestSourceEndsWithItsSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller))
		b.sink.err = errors.New("gone")
		b.start()
		settle()
		if err := <-b.done; err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("got %v, want what the Sink said", err)
		}
		b.cancel()
	})
}

// TestStatusIsNoChange makes sure that a write of status, ours or another's, compiles
// nothing anew.
func TestStatusIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("web", "a"), secret("a", "1"))
		b.start()
		defer b.stop()
		settle()
		b.take()
		o := ourIngress("web", "a")
		o.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}
		o.Annotations = map[string]string{"example.com/any": "thing"}
		s := secret("a", "1")
		s.Labels = map[string]string{"any": "thing"}
		b.put(o, s)
		settle()
		if got := b.take(); got != nil {
			t.Errorf("changes: %q, want none", got)
		}
	})
}
