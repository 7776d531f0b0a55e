package watch

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
	servicekube "github.com/fairlead-project/fairlead/service/kube"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// How long after an outage it takes at most to ask again: for the two kinds that are
// watched as a whole, and for what they name, which may be thousands of watches.
const (
	retryKinds = 5 * time.Second
	retryNamed = 15 * time.Second
)

// A Source feeds a Sink from an API server.
type Source struct {
	Client kubernetes.Interface // required
	Sink   kube.Sink            // required
	Log    *slog.Logger         // required

	// Serves, required, says whether v is for us to serve, with the classes there
	// are, by name. What an Ingress names is read only if it is. It must not keep or
	// change the map.
	Serves func(v *ingress.Ingress, classes map[string]*ingress.Class) bool

	// Namespace is the only one whose Ingresses are read; empty means all.
	Namespace string

	// Always is what is read besides what Ingresses name, and Globals the ConfigMap of
	// defaults, which may name others; the zero Name for none.
	Always  kube.References
	Globals service.Name

	// Report, if not nil, hears the Problems of objects. It must not block, and is
	// called from one goroutine.
	Report servicekube.ReportFunc

	// Statuses, if not nil, is told the status of every Ingress.
	Statuses *Statuses
}

// Run feeds the Sink until ctx is done, and then returns nil. It retries for ever, and
// calls Synced after the first complete lists and when everything they name has been
// asked for. It fails only if the Sink does.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	d := newDesk(s)
	defer d.tasks.Wait()
	defer cancel()
	d.secrets = newShelf(d, "Secret", s.secretFeed)
	d.configMaps = newShelf(d, "ConfigMap", s.configMapFeed)
	d.add(d.fixed())
	for _, f := range []*feed{d.ingressFeed(ctx), d.classFeed(ctx)} {
		d.unlisted[f.kind.Name] = true
		d.tasks.Go(func() { f.run(ctx) })
	}
	return d.run(ctx)
}

func (d *desk) ingressFeed(ctx context.Context) *feed {
	api := d.Client.NetworkingV1().Ingresses(d.Namespace)
	f := &feed{
		client: d.Client,
		kind: &servicewatch.Kind{
			Name: "Ingress", Sample: &networkingv1.Ingress{}, Log: d.Log, Watch: api.Watch, Retry: retryKinds,
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		},
		convert: d.convertIngress,
	}
	f.send = func(n news) error { return d.do(ctx, func() { d.heardIngresses(n) }) }
	return f
}

func (s *Source) convertIngress(o metav1.Object) *converted {
	in, ok := o.(*networkingv1.Ingress)
	if !ok {
		return &converted{}
	}
	v, problems := kube.Ingress(in)
	c := &converted{problems: problems}
	c.change = kube.Change{Object: ingressObject(service.Name{Namespace: in.Namespace, Name: in.Name}), Ingress: v}
	if s.Statuses != nil {
		c.status = s.Statuses.observed(in)
	}
	return c
}

// heardIngresses handles what the API server says of Ingresses. The first classes come
// before the first Ingresses, so that it is known which of them are ours.
func (d *desk) heardIngresses(n news) {
	if d.unlisted["IngressClass"] {
		d.early = append(d.early, n)
		return
	}
	seen := make(map[service.Name]bool, len(n.set))
	for _, c := range n.set {
		name := c.change.Object.Name
		seen[name] = true
		d.complain(c.change.Object, c.problems)
		if c.status != nil {
			d.Statuses.observe(name, c.status)
		}
		if c.change.Ingress == nil {
			d.removeIngress(name)
		} else {
			d.setIngress(c.change.Ingress)
		}
	}
	if n.list {
		delete(d.unlisted, "Ingress")
		for name := range d.ingresses {
			if !seen[name] {
				n.gone = append(n.gone, name)
			}
		}
	}
	for _, name := range n.gone {
		d.complain(ingressObject(name), nil)
		d.removeIngress(name)
		if d.Statuses != nil {
			d.Statuses.observe(name, nil)
		}
	}
}

func (d *desk) classFeed(ctx context.Context) *feed {
	api := d.Client.NetworkingV1().IngressClasses()
	f := &feed{
		client: d.Client,
		kind: &servicewatch.Kind{
			Name: "IngressClass", Sample: &networkingv1.IngressClass{}, Log: d.Log, Watch: api.Watch, Retry: retryKinds,
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		},
		convert: convertClass,
	}
	f.send = func(n news) error { return d.do(ctx, func() { d.heardClasses(n) }) }
	return f
}

func convertClass(o metav1.Object) *converted {
	in, ok := o.(*networkingv1.IngressClass)
	if !ok {
		return &converted{}
	}
	v, problems := kube.IngressClass(in)
	return &converted{problems: problems, change: kube.Change{Object: classObject(in.Name), Class: v}}
}

// heardClasses handles what the API server says of IngressClasses.
func (d *desk) heardClasses(n news) {
	seen := make(map[string]bool, len(n.set))
	for _, c := range n.set {
		seen[c.Name] = true
		d.complain(c.change.Object, c.problems)
		d.setClass(c.Name, c.change.Class)
	}
	if n.list {
		delete(d.unlisted, "IngressClass")
		for name := range d.classes {
			if !seen[name] {
				n.gone = append(n.gone, service.Name{Name: name})
			}
		}
	}
	for _, name := range n.gone {
		d.complain(classObject(name.Name), nil)
		d.setClass(name.Name, nil)
	}
	early := d.early
	d.early = nil
	for _, n := range early {
		d.heardIngresses(n)
	}
}

// secretFeed returns the feed of Secrets, which is quiet: of the API server being away,
// Ingresses say enough. A namespace as a whole is asked without the
// Secrets that never are for us and often are large.
func (s *Source) secretFeed(namespace string, names map[string]bool, group bool) *feed {
	api := s.Client.CoreV1().Secrets(namespace)
	k := &servicewatch.Kind{
		Name: "Secret", Sample: &corev1.Secret{}, Log: servicewatch.Quiet(s.Log), Watch: api.Watch, Retry: retryNamed,
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
	}
	k.Fields = selector(names, group, fields.AndSelectors(
		fields.OneTermNotEqualSelector("type", "helm.sh/release.v1"),
		fields.OneTermNotEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)),
		fields.OneTermNotEqualSelector("type", string(corev1.SecretTypeBootstrapToken)),
	).String())
	return &feed{client: s.Client, kind: k, convert: func(o metav1.Object) *converted {
		in, ok := o.(*corev1.Secret)
		if !ok || !names[in.Name] {
			return &converted{}
		}
		v, problems := kube.Secret(in)
		object := service.Object{Kind: "Secret", Name: service.Name{Namespace: in.Namespace, Name: in.Name}}
		return &converted{problems: problems, change: kube.Change{Object: object, Secret: v}}
	}}
}

func (s *Source) configMapFeed(namespace string, names map[string]bool, group bool) *feed {
	api := s.Client.CoreV1().ConfigMaps(namespace)
	k := &servicewatch.Kind{
		Name: "ConfigMap", Sample: &corev1.ConfigMap{}, Log: servicewatch.Quiet(s.Log), Watch: api.Watch, Retry: retryNamed,
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
	}
	k.Fields = selector(names, group, "")
	return &feed{client: s.Client, kind: k, convert: func(o metav1.Object) *converted {
		in, ok := o.(*corev1.ConfigMap)
		if !ok || !names[in.Name] {
			return &converted{}
		}
		v, problems := kube.ConfigMap(in)
		object := service.Object{Kind: "ConfigMap", Name: service.Name{Namespace: in.Namespace, Name: in.Name}}
		return &converted{problems: problems, change: kube.Change{Object: object, ConfigMap: v}}
	}}
}

// selector returns the field selector for the one name, or that of a group.
func selector(names map[string]bool, group bool, forGroup string) string {
	if group {
		return forGroup
	}
	for name := range names {
		return fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
	return forGroup
}
