package ingress

import (
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"weak"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/policy"
)

// Settings and policies are large, and of ten thousand Ingresses most say the same. A sharedSettings is the last that came of some
// annotations, as long as an Ingress has them.
type sharedSettings struct {
	settings weak.Pointer[annotation.Settings]
	policy   weak.Pointer[policy.Config] // of a rule with these settings
}

// share returns settings like these that another Ingress has, or these. What annotations come to also depends on other things, so
// equality counts and not where they come from.
func (b *Builder) share(in *Ingress, settings *annotation.Settings) (*annotation.Settings, *sharedSettings) {
	key := b.written(in)
	s := b.shared[key]
	if s == nil {
		if len(b.shared) > 2*len(b.units)+16 {
			maps.DeleteFunc(b.shared, func(_ uint64, s *sharedSettings) bool { return s.settings.Value() == nil })
		}
		s = &sharedSettings{}
		b.shared[key] = s
	}
	if known := s.settings.Value(); known != nil && reflect.DeepEqual(known, settings) {
		return known, s
	}
	s.settings, s.policy = weak.Make(settings), weak.Pointer[policy.Config]{}
	return settings, s
}

// written is a hash of what annotations are written, and where.
func (b *Builder) written(in *Ingress) uint64 {
	var h maphash.Hash
	h.SetSeed(b.seed)
	write := func(s string) {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	write(in.Namespace)
	write(in.Class)
	for _, k := range slices.Sorted(maps.Keys(in.Annotations)) {
		write(k)
		write(in.Annotations[k])
	}
	return h.Sum64()
}

// sharePolicy returns a policy like c that another rule with the same settings has, or c.
func (s *sharedSettings) sharePolicy(c policy.Config) *policy.Config {
	if known := s.policy.Value(); known != nil && reflect.DeepEqual(*known, c) {
		return known
	}
	s.policy = weak.Make(&c)
	return &c
}
