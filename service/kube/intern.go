package kube

import "github.com/fairlead-project/fairlead/service"

// maxInterned bounds how many strings an Interner remembers, so that nodes and
// zones that came and went are forgotten some day.
const maxInterned = 1 << 16

// An Interner makes slices share their strings: a hundred thousand endpoints
// name a few hundred nodes, a handful of zones and the same ports again and
// again. The zero Interner is ready for use. It is for one goroutine.
type Interner struct {
	strings map[string]string
	single  map[string][]string // lists of one string, by that string
}

// Slice replaces the strings of s by equal strings that other slices use too.
func (in *Interner) Slice(s *service.Slice) {
	s.Service.Namespace = in.string(s.Service.Namespace)
	s.Service.Name = in.string(s.Service.Name)
	for i := range s.Ports {
		s.Ports[i].Name = in.string(s.Ports[i].Name)
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.Node = in.string(e.Node)
		e.ForZones = in.list(e.ForZones)
		e.ForNodes = in.list(e.ForNodes)
	}
}

func (in *Interner) string(s string) string {
	if s == "" {
		return ""
	}
	if known, ok := in.strings[s]; ok {
		return known
	}
	if in.strings == nil || len(in.strings) >= maxInterned {
		in.strings = make(map[string]string)
	}
	in.strings[s] = s
	return s
}

// list shares lists of one string, the usual length of a hint, as a whole.
func (in *Interner) list(l []string) []string {
	if len(l) != 1 {
		for i, s := range l {
			l[i] = in.string(s)
		}
		return l
	}
	if known, ok := in.single[l[0]]; ok {
		return known
	}
	if in.single == nil || len(in.single) >= maxInterned {
		in.single = make(map[string][]string)
	}
	l = []string{in.string(l[0])}
	in.single[l[0]] = l
	return l
}
