package servicetest

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// shrink takes things out of w as long as fails still holds without them.
func (w *World) shrink(fails func() bool) {
	for again := true; again; {
		again = w.shrinkServices(fails)
		again = w.shrinkSlices(fails) || again
	}
}

func (w *World) shrinkServices(fails func() bool) (smaller bool) {
	for _, name := range slices.SortedFunc(maps.Keys(w.Services), service.Name.Compare) {
		old := w.Services[name]
		delete(w.Services, name)
		if fails() {
			smaller = true
			continue
		}
		w.Services[name] = old
		for simpler := range simplerServices(old) {
			w.Services[name] = simpler
			if fails() {
				smaller = true
				break // the next round goes on from here
			}
			w.Services[name] = old
		}
	}
	return smaller
}

// simplerServices yields copies of v with one thing less.
func simplerServices(v *service.Service) func(yield func(*service.Service) bool) {
	edits := []func(*service.Service) bool{
		func(c *service.Service) bool { defer func() { c.Affinity = 0 }(); return c.Affinity != 0 },
		func(c *service.Service) bool {
			defer func() { c.Scheduling = service.Scheduling{} }()
			return c.Scheduling != service.Scheduling{}
		},
		func(c *service.Service) bool {
			defer func() { c.HealthCheckNodePort = 0 }()
			return c.HealthCheckNodePort != 0
		},
		func(c *service.Service) bool {
			defer func() { c.Internal = service.Cluster }()
			return c.Internal != service.Cluster
		},
		func(c *service.Service) bool {
			defer func() { c.External = service.Cluster }()
			return c.External != service.Cluster
		},
		func(c *service.Service) bool {
			defer func() { c.Restricted, c.SourceRanges = false, nil }()
			return c.Restricted
		},
	}
	return func(yield func(*service.Service) bool) {
		for _, edit := range edits {
			if c := *v; edit(&c) && !yield(&c) {
				return
			}
		}
		lists := func(c *service.Service) []*[]netip.Addr { return []*[]netip.Addr{&c.ExternalIPs, &c.LoadBalancerIPs} }
		for l := range lists(v) {
			for i := range *lists(v)[l] {
				c := *v
				*lists(&c)[l] = without(*lists(v)[l], i)
				if !yield(&c) {
					return
				}
			}
		}
		for i := range v.Ports {
			if c := *v; len(v.Ports) > 1 {
				c.Ports = without(v.Ports, i)
				if !yield(&c) {
					return
				}
			}
		}
	}
}

func (w *World) shrinkSlices(fails func() bool) (smaller bool) {
	for _, k := range slices.SortedFunc(maps.Keys(w.Slices), SliceKey.compare) {
		old := w.Slices[k]
		delete(w.Slices, k)
		if fails() {
			smaller = true
			continue
		}
		w.Slices[k] = old
		if old.Weight != 0 {
			c := *old
			c.Weight = 0
			if w.Slices[k] = &c; fails() {
				smaller = true
			} else {
				w.Slices[k] = old
			}
		}
		for i := len(old.Endpoints) - 1; i >= 0; i-- {
			c := *w.Slices[k]
			c.Endpoints = without(c.Endpoints, i)
			prev := w.Slices[k]
			w.Slices[k] = &c
			if fails() {
				smaller = true
			} else {
				w.Slices[k] = prev
			}
		}
	}
	return smaller
}

// without returns a copy of list without its i-th element.
func without[T any](list []T, i int) []T {
	return slices.Concat(list[:i:i], list[i+1:])
}
