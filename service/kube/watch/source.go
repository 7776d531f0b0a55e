package watch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

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

	// Compact, if not nil, reads Services and EndpointSlices in place of Client. It
	// is for this Source only.
	Compact *Compact

	// All says that Services are wanted that are none of L4's business too: see
	// [kube.Converter].
	All bool
}

// Run feeds the Sink until ctx is done. It retries for ever, and calls Synced
// after the first complete lists of all kinds.
func (s *Source) Run(ctx context.Context) {
	mirrors := []*mirror{s.services(), s.slices()}
	if s.NodeName != "" {
		mirrors = append(mirrors, s.node())
	}
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
	k := &Kind{
		Name:   "Service",
		Sample: &corev1.Service{},
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		Watch: api.Watch,
	}
	if s.Compact != nil {
		k = s.Compact.services.listing(s.All)
	}
	if !s.All {
		k.Labels, k.Fields = ourServices, withClusterIP
	}
	return s.mirror(k)
}

func (s *Source) slices() *mirror {
	api := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	k := &Kind{
		Name:   "EndpointSlice",
		Sample: &discoveryv1.EndpointSlice{},
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		Watch: api.Watch,
	}
	if s.Compact != nil {
		k = s.Compact.slices.listing(s.All)
	}
	if !s.All {
		k.Labels = ourSlices
	}
	return s.mirror(k)
}

func (s *Source) node() *mirror {
	api := s.Client.CoreV1().Nodes()
	m := s.mirror(&Kind{
		Name:   "Node",
		Sample: &corev1.Node{},
		Fields: fields.OneTermEqualSelector(metav1.ObjectNameField, s.NodeName).String(),
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return api.List(ctx, o)
		},
		Watch: api.Watch,
	})
	m.node = s.Node
	return m
}

func (s *Source) mirror(k *Kind) *mirror {
	k.Log = s.Log
	m := &mirror{
		Kind: k, client: s.Client, sink: s.Sink, report: s.Report,
		nobody: new(metav1.ObjectMeta), complaining: make(map[service.Object]bool),
	}
	m.convert.All = s.All
	k.share = m.share
	return m
}
