package kube

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// TestMirror walks at random through states of an API and requires that after
// every step the Store yields what a Store filled afresh does.
func TestMirror(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var m Mirror
	st := service.NewStore()
	state := map[service.Object]Entry{}
	for step := range 2000 {
		if r.IntN(10) == 0 {
			state = map[service.Object]Entry{}
			for range r.IntN(20) {
				o, e := randomEntry(r)
				state[o] = e
			}
			m.Replace(r.IntN(2)*len(state), maps.All(state))(st)
		} else {
			o, e := randomEntry(r)
			state[o] = e
			if change := m.Set(o, e); change != nil {
				change(st)
			}
		}
		fresh := service.NewStore()
		for _, e := range state {
			e.put(fresh)
		}
		if d := cmp.Diff(summary(st), summary(fresh)); d != "" {
			t.Fatalf("step %d: the Store differs from a fresh one (-got +want):\n%s", step, d)
		}
	}
}

func randomEntry(r *rand.Rand) (service.Object, Entry) {
	web := service.Name{Namespace: "shop", Name: fmt.Sprint("web-", r.IntN(3))}
	if r.IntN(3) == 0 {
		o := service.Object{Kind: "Service", Name: web}
		if r.IntN(4) == 0 {
			return o, Entry{}
		}
		return o, Entry{Service: &service.Service{
			Name: web, ClusterIPs: addrs("10.96.0.1" + web.Name[4:]), Families: []service.Family{service.IPv4},
			Ports: []service.ServicePort{{Port: uint16(80 + r.IntN(3))}},
		}}
	}
	o := service.Object{Kind: "EndpointSlice", Name: service.Name{Namespace: "shop", Name: fmt.Sprint("slice-", r.IntN(6))}}
	if r.IntN(4) == 0 {
		return o, Entry{}
	}
	return o, Entry{Slice: &service.Slice{
		Service: web, Name: o.Name.Name, Ports: []service.SlicePort{{Port: 8080}},
		Endpoints: []service.SliceEndpoint{endpoint(fmt.Sprintf("10.244.%s.%d", o.Name.Name[6:], r.IntN(3)+2), nil)},
	}}
}

// summary prints what a Store yields, for comparing two.
func summary(st *service.Store) []string {
	var out []string
	for p := range st.Snapshot().Ports.All() {
		out = append(out, fmt.Sprint(p.ID, p.Frontends, p.Cluster))
	}
	return out
}

func TestSame(t *testing.T) {
	web := service.Name{Namespace: "shop", Name: "web"}
	object := service.Object{Kind: "EndpointSlice", Name: service.Name{Namespace: "shop", Name: "web-1"}}
	entry := func(change func(*service.Slice)) Entry {
		s := &service.Slice{Service: web, Name: "web-1", Ports: []service.SlicePort{{Port: 80}}, Triggered: time.Unix(1, 0)}
		change(s)
		return Entry{Slice: s}
	}
	var m Mirror
	known := entry(func(*service.Slice) {})
	m.Set(object, known)
	for name, tc := range map[string]struct {
		object service.Object
		given  Entry
		same   bool
	}{
		"the same":        {object, entry(func(*service.Slice) {}), true},
		"another port":    {object, entry(func(s *service.Slice) { s.Ports[0].Port = 81 }), false},
		"another Service": {object, entry(func(s *service.Slice) { s.Service.Name = "db" }), false},
		"another time":    {object, entry(func(s *service.Slice) { s.Triggered = time.Unix(2, 0) }), false},
		"another name":    {service.Object{Kind: "EndpointSlice", Name: web}, entry(func(*service.Slice) {}), false},
		"nothing":         {object, Entry{}, false},
		"another kind":    {service.Object{Kind: "Service", Name: object.Name}, Entry{Service: &service.Service{Name: object.Name}}, false},
	} {
		want := tc.given
		if tc.same {
			want = known
		}
		if got := m.Same(tc.object, tc.given); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
