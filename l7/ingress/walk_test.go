package ingress_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/ingress/ingresstest"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// A world draws objects at random from few names, so that they get in each other's way.
type world struct {
	r       *rand.Rand
	secrets [][2][]byte // certificates to choose from, with keys
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{r: rand.New(rand.NewPCG(seed, 7))}
	for _, hosts := range [][]string{{"a.com"}, {"*.a.com", "b.com"}, {"nowhere.com"}} {
		crt, key, err := ingresstest.Certificate(false, hosts...)
		if err != nil {
			t.Fatal(err)
		}
		w.secrets = append(w.secrets, [2][]byte{crt, key})
	}
	w.secrets = append(w.secrets, [2][]byte{[]byte("bad"), []byte("bad")})
	return w
}

func pick[T any](w *world, from ...T) T { return from[w.r.IntN(len(from))] }

func (w *world) name() service.Name {
	return service.Name{Namespace: pick(w, "one", "two"), Name: pick(w, "a", "b", "c", "d")}
}

func (w *world) host() string {
	return pick(w, "a.com", "www.a.com", "x.a.com", "*.a.com", "b.com", "*.b.com", "", "BAD")
}

func (w *world) backend() ingress.Backend {
	b := ingress.Backend{Service: pick(w, "web", "api"), Port: ingress.Port{Number: pick[int32](w, 80, 81)}}
	if w.r.IntN(10) == 0 {
		b = ingress.Backend{Resource: "x/y/z"}
	}
	return b
}

func (w *world) annotations() map[string]string {
	out := map[string]string{}
	choices := map[string][]string{
		"canary": {"true"}, "canary-weight": {"10"}, "use-regex": {"true"}, "rewrite-target": {"/x/$1"}, "server-alias": {"alias.com", "b.com,y.a.com"},
		"from-to-www-redirect": {"true"}, "ssl-passthrough": {"true"}, "default-backend": {"sorry"}, "service-upstream": {"true"},
		"auth-type": {"basic"}, "auth-secret": {"a"}, "max-fails": {"3"}, "backend-protocol": {"GRPC", "HTTPS"}, "custom-headers": {"c"},
	}
	for _, key := range slices.Sorted(maps.Keys(choices)) { // a walk can be repeated
		if w.r.IntN(6) == 0 {
			out[annotation.OwnPrefix+key] = pick(w, choices[key]...)
		}
	}
	if w.r.IntN(10) == 0 {
		out["kubernetes.io/ingress.class"] = pick(w, "nginx", "other")
	}
	return out
}

func (w *world) ingress() *ingress.Ingress {
	in := &ingress.Ingress{
		Name: w.name(), UID: fmt.Sprint(w.r.Uint32()), Created: time.Unix(int64(w.r.IntN(4)), 0),
		Class: pick(w, "fairlead", "fairlead", "nginx", "", "other"), Annotations: w.annotations(),
	}
	if w.r.IntN(3) == 0 {
		b := w.backend()
		in.Default = &b
	}
	for range w.r.IntN(3) {
		in.TLS = append(in.TLS, ingress.TLS{Hosts: []string{w.host(), w.host()}[:w.r.IntN(3)], Secret: pick(w, "", "a", "b", "c")})
	}
	for range w.r.IntN(4) {
		rule := ingress.Rule{Host: w.host()}
		for range w.r.IntN(3) {
			rule.Paths = append(rule.Paths, ingress.Path{
				Path: pick(w, "/", "/a", "/a/", "/a/b", "/a(.*)", "/b//"), Type: pick(w, ingress.Exact, ingress.Prefix, ingress.ImplementationSpecific), Backend: w.backend(),
			})
		}
		in.Rules = append(in.Rules, rule)
	}
	return in
}

// change changes one object at random, in b and in o.
func (w *world) change(b *ingress.Builder, o *ingress.Objects) {
	next := *o
	drop := w.r.IntN(4) == 0
	switch w.r.IntN(8) {
	case 0:
		s := &ingress.Secret{Name: service.Name{Namespace: pick(w, "one", "two"), Name: pick(w, "a", "b", "c")}}
		pair := pick(w, w.secrets...)
		s.Data = map[string][]byte{"tls.crt": pair[0], "tls.key": pair[1], "auth": []byte("u:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")}
		next.Secrets = replace(o.Secrets, s, func(s *ingress.Secret) service.Name { return s.Name }, drop)
	case 1:
		c := &ingress.Class{Name: pick(w, "fairlead", "nginx", "other"), Controller: pick(w, ingress.Controller, ingress.NginxController, "else")}
		next.Classes = replace(o.Classes, c, func(c *ingress.Class) string { return c.Name }, drop)
	case 2:
		m := &ingress.ConfigMap{Name: service.Name{Namespace: pick(w, "one", "two"), Name: "c"}, Data: map[string]string{"X-A": "b"}}
		next.ConfigMaps = replace(o.ConfigMaps, m, func(m *ingress.ConfigMap) service.Name { return m.Name }, drop)
	default:
		next.Ingresses = replace(o.Ingresses, w.ingress(), func(in *ingress.Ingress) service.Name { return in.Name }, drop)
	}
	ingresstest.Move(b, *o, next)
	*o = next
}

// replace returns list with o in it, or without what has its key.
func replace[T any, K comparable](list []*T, o *T, key func(*T) K, drop bool) []*T {
	list = slices.DeleteFunc(slices.Clone(list), func(p *T) bool { return key(p) == key(o) })
	if drop {
		return list
	}
	return append(list, o)
}

// TestWalk changes objects at random and proves that what a Builder comes to, change by change, is what
// Build makes of the same objects at once, and that Deltas lead from one Model to the next.
func TestWalk(t *testing.T) {
	for seed := range uint64(4) {
		for _, owned := range []bool{false, true} {
			t.Run(fmt.Sprint(seed, owned), func(t *testing.T) { walk(t, newWorld(t, seed), owned) })
		}
	}
}

func walk(t *testing.T, w *world, owned bool) {
	globals := annotation.DefaultGlobals()
	globals.SSLPassthrough = true
	cfg := ingress.Config{Classes: ingress.DefaultClasses(true), WithoutClass: true, OwnedHosts: owned, Globals: &globals}
	b := ingress.NewBuilder(cfg)
	var o ingress.Objects
	followed := &ingress.Model{
		Hosts: map[string]*ingress.HostModel{}, Backends: map[ingress.BackendKey]*ingress.BackendModel{},
		Certs: map[string][]service.Name{}, Passthrough: map[string]ingress.BackendKey{},
	}
	steps := 250
	if testing.Short() {
		steps = 60
	}
	hosts, problems := 0, 0
	for i := range steps {
		for range 1 + w.r.IntN(3) {
			w.change(b, &o)
		}
		d := b.Commit()
		got := b.Model()
		if diff := cmp.Diff(got, ingress.Build(o, cfg), compare...); diff != "" {
			t.Fatalf("step %d: change by change (-) is not all at once (+):\n%s", i, diff)
		}
		hosts, problems = max(hosts, len(got.Hosts)), max(problems, len(got.Problems))
		follow(followed, d)
		followed.Problems, followed.Served = got.Problems, got.Served
		if diff := cmp.Diff(followed, got, compare...); diff != "" {
			t.Fatalf("step %d: the Deltas (-) do not lead to the Model (+):\n%s", i, diff)
		}
		if b.Commit(); !b.Commit().Empty() {
			t.Fatalf("step %d: a Commit without changes is not empty", i)
		}
	}
	if hosts < 4 || problems < 4 {
		t.Errorf("at most %d hosts and %d problems: the walk has come to nothing", hosts, problems)
	}
}

// compare leaves out what is shared and large: the settings, of which the policies of the routes are made.
var compare = []cmp.Option{
	cmpopts.IgnoreFields(ingress.Route{}, "Regexp", "Settings"),
	cmpopts.IgnoreFields(ingress.CanaryRoute{}, "Settings"),
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b annotation.Settings) bool { return reflect.DeepEqual(a, b) }),
	cmp.Exporter(func(reflect.Type) bool { return true }),
}

// follow changes m as d says.
func follow(m *ingress.Model, d *ingress.Delta) {
	put(m.Hosts, d.Hosts, func(h *ingress.HostModel) (*ingress.HostModel, bool) { return h, h != nil })
	put(m.Backends, d.Backends, func(b *ingress.BackendModel) (*ingress.BackendModel, bool) { return b, b != nil })
	put(m.Certs, d.Certs, func(c []service.Name) ([]service.Name, bool) { return c, len(c) > 0 })
	put(m.Passthrough, d.Passthrough, func(k *ingress.BackendKey) (ingress.BackendKey, bool) {
		if k == nil {
			return ingress.BackendKey{}, false
		}
		return *k, true
	})
}

func put[K comparable, V, D any](m map[K]V, d map[K]D, value func(D) (V, bool)) {
	for key, change := range d {
		if v, ok := value(change); ok {
			m[key] = v
		} else {
			delete(m, key)
		}
	}
}

// crowd makes n Ingresses with one host and six paths each.
func crowd(n int) ingress.Objects {
	o := ingress.Objects{Classes: []*ingress.Class{{Name: "fairlead", Controller: ingress.Controller}}}
	for i := range n {
		o.Ingresses = append(o.Ingresses, crowdIngress(i, "web"))
	}
	return o
}

func crowdIngress(i int, to string) *ingress.Ingress {
	in := &ingress.Ingress{
		Name: service.Name{Namespace: fmt.Sprint("team-", i%50), Name: fmt.Sprint("app-", i)}, Class: "fairlead", Created: time.Unix(int64(i), 0),
		Annotations: map[string]string{"nginx.ingress.kubernetes.io/proxy-body-size": "8m", "fairlead.io/load-balance": "least_requests"},
	}
	rule := ingress.Rule{Host: fmt.Sprintf("app-%d.example.org", i)}
	for _, path := range []string{"/", "/api", "/api/v1", "/static", "/login", "/healthz"} {
		rule.Paths = append(rule.Paths, ingress.Path{Path: path, Type: ingress.Prefix, Backend: ingress.Backend{Service: to, Port: ingress.Port{Number: 80}}})
	}
	in.Rules = append(in.Rules, rule)
	return in
}

// TestOneChange proves that a change touches its own hosts alone, and the table only where they are.
func TestOneChange(t *testing.T) {
	cfg := ingress.Config{Classes: ingress.DefaultClasses(false)}
	b := ingress.NewBuilder(cfg)
	ingresstest.Move(b, ingress.Objects{}, crowd(500))
	b.Commit()
	b.SetIngress(crowdIngress(77, "other"))
	d := b.Commit()
	if len(d.Hosts) != 1 || d.Hosts["app-77.example.org"] == nil {
		t.Errorf("hosts in the Delta: %d, want app-77.example.org alone", len(d.Hosts))
	}
	want := ingress.BackendKey{Service: service.Name{Namespace: "team-27", Name: "other"}, Port: ingress.Port{Number: 80}}
	if len(d.Backends) != 1 || d.Backends[want] == nil {
		t.Errorf("backends in the Delta: %v, want %v alone", d.Backends, want)
	}
}

func BenchmarkBuild(b *testing.B) {
	o := crowd(10_000)
	for b.Loop() {
		ingress.Build(o, ingress.Config{Classes: ingress.DefaultClasses(false)})
	}
}

// BenchmarkOneChange is one Ingress changed among 10,000, until the new table stands.
func BenchmarkOneChange(b *testing.B) {
	builder := ingress.NewBuilder(ingress.Config{Classes: ingress.DefaultClasses(false)})
	ingresstest.Move(builder, ingress.Objects{}, crowd(10_000))
	value := func(r *ingress.Route) *ingress.Route { return r }
	table := publish(new(route.Table[*ingress.Route]), builder.Commit(), value)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		builder.SetIngress(crowdIngress(4711, fmt.Sprint("web-", i%2)))
		table = publish(table, builder.Commit(), value)
	}
	if table.Len() != 10_000 {
		b.Fatalf("%d hosts", table.Len())
	}
}

func publish(t *route.Table[*ingress.Route], d *ingress.Delta, value func(*ingress.Route) *ingress.Route) *route.Table[*ingress.Route] {
	changes := make(map[string]*route.Host[*ingress.Route], len(d.Hosts))
	for name, h := range d.Hosts {
		changes[name] = nil
		if h != nil {
			changes[name] = ingress.Compile(h, value)
		}
	}
	return t.With(changes)
}
