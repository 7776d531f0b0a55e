package l7

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

// TestInForce is told of what is in force and what no longer is, each change once.
func TestInForce(t *testing.T) {
	var mu sync.Mutex
	var told []string
	w := newWorld(t, func(c *Config) {
		c.InForce = func(changed []*ingress.Ingress, gone []service.Name) {
			mu.Lock()
			defer mu.Unlock()
			for _, in := range changed {
				told = append(told, fmt.Sprintf("+%s %d", in.Name, in.Generation))
			}
			for _, n := range gone {
				told = append(told, "-"+n.String())
			}
		}
	})
	want := func(what string, want ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(told)
		if d := cmp.Diff(told, want); d != "" {
			t.Errorf("%s (-got +want):\n%s", what, d)
		}
		told = nil
	}
	at := func(n, class string, generation int64) (c ingress.Ingress) {
		c = *ing(n, "a.com", nil, leads("/", "web")).Ingress
		c.Class, c.Generation = class, generation
		return c
	}
	put := func(list ...ingress.Ingress) {
		for i := range list {
			c := ing(list[i].Name.String(), "", nil)
			c.Ingress = &list[i]
			w.change(c)
		}
	}
	put(at("default/a", "fairlead", 1), at("default/theirs", "other", 1))
	want("one of ours, one of theirs", "+default/a 1")
	put(at("default/a", "fairlead", 2), at("default/b", "late", 1))
	want("a new version, and one without its class", "+default/a 2")
	w.change(class("late", ingress.Controller))
	want("the class has come", "+default/b 1")
	put(at("default/a", "other", 3))
	want("it was given away", "-default/a")
	w.change(kube.Change{Object: service.Object{Kind: "IngressClass", Name: service.Name{Name: "late"}}})
	want("the class has gone", "-default/b")
	w.change(gone("Ingress", "default/b"), gone("Ingress", "default/theirs"))
	want("nothing of that was in force")
}
