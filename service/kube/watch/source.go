package watch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A Source feeds a Sink from an API server.
type Source struct {
	Client kubernetes.Interface // required
	Sink   kube.Sink            // required
	Log    *slog.Logger         // required

	// NodeName is the name of our Node; empty means to watch none.
	NodeName string

	// Node, if not nil, is called with our Node, before Synced and after every
	// change that counts; nil when it does not exist. Calls do not overlap.
	Node func(ctx context.Context, n *kube.NodeInfo)

	// Report, if not nil, hears the Problems of objects. It must not block, and
	// is called from several goroutines.
	Report kube.ReportFunc

	// Headless says that headless Services and their slices are wanted too.
	Headless bool
}

// Run feeds the Sink until ctx is done. It retries for ever, and calls Synced
// after the first complete lists of all kinds.
func (s *Source) Run(ctx context.Context) {
	mirrors := []*mirror{s.services(), s.slices()}
	if s.NodeName != "" {
		mirrors = append(mirrors, s.node())
	}
	ctx = quietContext(ctx, s.Log)
	var missing atomic.Int32
	missing.Store(int32(len(mirrors)))
	var wg sync.WaitGroup
	for _, m := range mirrors {
		m.synced = func() {
			if missing.Add(-1) == 0 {
				s.Sink.Synced()
			}
		}
		wg.Go(func() { m.run(ctx) })
	}
	wg.Wait()
}

// The selectors of kube-proxy. Server-side selection keeps what is none of ours
// off the wire, and an object that gets such a label arrives as a deletion.
const (
	ourServices   = "!" + kube.LabelProxyName
	ourSlices     = "!" + kube.LabelHeadless
	withClusterIP = "spec.clusterIP!=" + corev1.ClusterIPNone
)

func (s *Source) services() *mirror {
	api := s.Client.CoreV1().Services(metav1.NamespaceAll)
	k := &kind{
		name:   "Service",
		sample: &corev1.Service{},
		labels: ourServices,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		watch: api.Watch,
	}
	if !s.Headless {
		k.fields = withClusterIP
	}
	return s.mirror(k)
}

func (s *Source) slices() *mirror {
	api := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	k := &kind{
		name:   "EndpointSlice",
		sample: &discoveryv1.EndpointSlice{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		watch: api.Watch,
	}
	if !s.Headless {
		k.labels = ourSlices
	}
	return s.mirror(k)
}

func (s *Source) node() *mirror {
	api := s.Client.CoreV1().Nodes()
	m := s.mirror(&kind{
		name:   "Node",
		sample: &corev1.Node{},
		fields: fields.OneTermEqualSelector(metav1.ObjectNameField, s.NodeName).String(),
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		watch: api.Watch,
	})
	m.node = s.Node
	return m
}

func (s *Source) mirror(k *kind) *mirror {
	k.log = s.Log.With("kind", k.name)
	m := &mirror{kind: k, client: s.Client, sink: s.Sink, report: s.Report, complaining: make(map[service.Object]bool)}
	m.convert.Headless = s.Headless
	return m
}

// A kind is how to list and watch objects of one kind.
type kind struct {
	name           string
	sample         runtime.Object
	labels, fields string
	list           func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch          func(context.Context, metav1.ListOptions) (watch.Interface, error)
	log            *slog.Logger

	unselectable atomic.Bool // the server does not know the field label
	failing      atomic.Bool
}

// listWatch returns k for a reflector. Whether the client can stream lists is
// known only to client.
func (k *kind) listWatch(client kubernetes.Interface) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return attempt(ctx, k, o, k.list)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return attempt(ctx, k, o, k.watch)
		},
	}, client)
}

// attempt makes one request. A server that cannot select by our field gets the
// request again without: the conversion leaves out the same objects.
func attempt[T any](ctx context.Context, k *kind, o metav1.ListOptions,
	do func(context.Context, metav1.ListOptions) (T, error),
) (T, error) {
	o.LabelSelector = k.labels
	if !k.unselectable.Load() {
		o.FieldSelector = k.fields
	}
	out, err := do(ctx, o)
	if apierrors.IsBadRequest(err) && o.FieldSelector == withClusterIP {
		k.log.Info("the API server cannot select by field; selecting here", "selector", o.FieldSelector)
		k.unselectable.Store(true)
		o.FieldSelector = ""
		out, err = do(ctx, o)
	}
	k.note(ctx, err)
	return out, err
}

// note logs when requests begin to fail and when they succeed again. Expired
// resource versions and servers that cannot stream lists are the daily business
// of a reflector, not failures.
func (k *kind) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err):
	case err == nil:
		if k.failing.CompareAndSwap(true, false) {
			k.log.Info("the API server answers again")
		}
	case k.failing.CompareAndSwap(false, true):
		k.log.Warn("cannot read from the API server; what is in force stays, and will be updated as soon as it answers", "err", err)
	}
}
