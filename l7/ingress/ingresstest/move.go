package ingresstest

import (
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// Move tells b what is new, changed and gone between two sets of objects. What is the same pointer in both is the same.
func Move(b *ingress.Builder, from, to ingress.Objects) {
	move(from.Classes, to.Classes, func(c *ingress.Class) string { return c.Name }, b.SetClass, b.DeleteClass)
	move(from.Secrets, to.Secrets, func(s *ingress.Secret) service.Name { return s.Name }, b.SetSecret, b.DeleteSecret)
	move(from.ConfigMaps, to.ConfigMaps, func(m *ingress.ConfigMap) service.Name { return m.Name }, b.SetConfigMap, b.DeleteConfigMap)
	move(from.Ingresses, to.Ingresses, func(in *ingress.Ingress) service.Name { return in.Name }, b.SetIngress, b.DeleteIngress)
}

func move[T any, K comparable](from, to []*T, key func(*T) K, set func(*T), del func(K)) {
	before := make(map[K]*T)
	for _, o := range from {
		before[key(o)] = o
	}
	for _, o := range to {
		if before[key(o)] != o {
			set(o)
		}
		delete(before, key(o))
	}
	for k := range before {
		del(k)
	}
}
