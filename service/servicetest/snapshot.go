package servicetest

import (
	"testing"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// Snapshots returns one Snapshot per step, all from one Store, so that they
// keep pointers as in a running process.
func (c *Case) Snapshots(t testing.TB) []*service.Snapshot {
	t.Helper()
	store := service.NewStore()
	var prev *Step
	var out []*service.Snapshot
	store.SetNode(c.Node)
	for i := range c.Steps {
		c.Steps[i].apply(store, prev)
		prev = &c.Steps[i]
		out = append(out, store.Snapshot())
	}
	return out
}

// apply changes what differs from prev, which may be nil.
func (s *Step) apply(store *service.Store, prev *Step) {
	if prev != nil {
		prev.retract(store, s)
	}
	for _, o := range s.Services {
		if v, _ := kube.Service(o); v != nil {
			store.SetService(v)
		} else {
			store.DeleteService(service.Name{Namespace: o.Namespace, Name: o.Name})
		}
	}
	for _, o := range s.Slices {
		if v, _ := kube.Slice(o); v != nil {
			store.SetSlice(v)
		}
	}
}

// retract deletes what s put in force and next does not.
func (s *Step) retract(store *service.Store, next *Step) {
	services := make(map[service.Name]bool)
	for _, o := range next.Services {
		services[service.Name{Namespace: o.Namespace, Name: o.Name}] = true
	}
	for _, o := range s.Services {
		if n := (service.Name{Namespace: o.Namespace, Name: o.Name}); !services[n] {
			store.DeleteService(n)
		}
	}
	type key struct {
		service service.Name
		slice   string
	}
	slices := make(map[key]bool)
	for _, o := range next.Slices {
		if v, _ := kube.Slice(o); v != nil {
			slices[key{v.Service, v.Name}] = true
		}
	}
	for _, o := range s.Slices {
		if v, _ := kube.Slice(o); v != nil && !slices[key{v.Service, v.Name}] {
			store.DeleteSlice(v.Service, v.Name)
		}
	}
}

// conversionProblems returns what the conversion of the objects of s has to say, before
// any Store has seen them.
func (s *Step) conversionProblems() []service.Problem {
	var out []service.Problem
	for _, o := range s.Services {
		_, p := kube.Service(o)
		out = append(out, p...)
	}
	for _, o := range s.Slices {
		_, p := kube.Slice(o)
		out = append(out, p...)
	}
	return out
}
