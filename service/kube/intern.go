package kube

import (
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// maxInterned bounds how many strings an Interner remembers, so that nodes and
// zones that came and went are forgotten some day.
const maxInterned = 1 << 16

// An interner makes slices share what they say: a hundred thousand endpoints
// name a few hundred nodes, a handful of zones and the same ports again and
// again. The zero interner is ready for use. A nil one shares nothing, and hands
// strings back as they are. It is for one goroutine.
type interner struct {
	strings map[string]string
	states  map[string]*service.EndpointState // by key
	ports   map[string][]service.SlicePort    // by key
	scratch []byte
}

// share returns a string that is equal to s, and shares memory with nothing but
// other strings from here.
func (in *interner) share(s string) string {
	if in == nil || s == "" {
		return s
	}
	if known, ok := in.strings[s]; ok {
		return known
	}
	if in.strings == nil || len(in.strings) >= maxInterned {
		in.strings = make(map[string]string)
	}
	s = strings.Clone(s)
	in.strings[s] = s
	return s
}

// own is share for a string that is not likely to come again.
func (in *interner) own(s string) string {
	if in == nil {
		return s
	}
	return strings.Clone(s)
}

// state returns an EndpointState that is equal to s and does not change.
func (in *interner) state(s *service.EndpointState) *service.EndpointState {
	if in == nil {
		return in.copyState(s)
	}
	flags := byte(0)
	for i, set := range [...]bool{s.Ready, s.Serving, s.Terminating} {
		if set {
			flags |= 1 << i
		}
	}
	key := append(in.scratch[:0], flags)
	key = appendString(key, s.Node)
	for _, z := range s.ForZones {
		key = appendString(append(key, 'z'), z)
	}
	for _, n := range s.ForNodes {
		key = appendString(append(key, 'n'), n)
	}
	in.scratch = key
	if known, ok := in.states[string(key)]; ok {
		return known
	}
	if in.states == nil || len(in.states) >= maxInterned {
		in.states = make(map[string]*service.EndpointState)
	}
	out := in.copyState(s)
	in.states[string(key)] = out
	return out
}

func (in *interner) copyState(s *service.EndpointState) *service.EndpointState {
	out := *s
	out.Node = in.share(s.Node)
	out.ForZones, out.ForNodes = in.copyList(s.ForZones), in.copyList(s.ForNodes)
	return &out
}

func (in *interner) copyList(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = in.share(s)
	}
	return out
}

// portList returns a list that is equal to list and does not change.
func (in *interner) portList(list []service.SlicePort) []service.SlicePort {
	switch {
	case len(list) == 0:
		return nil
	case in == nil:
		return slices.Clone(list)
	}
	key := in.scratch[:0]
	for _, p := range list {
		key = append(appendString(key, p.Name), byte(p.Protocol), byte(p.Port>>8), byte(p.Port))
	}
	in.scratch = key
	if known, ok := in.ports[string(key)]; ok {
		return known
	}
	if in.ports == nil || len(in.ports) >= maxInterned {
		in.ports = make(map[string][]service.SlicePort)
	}
	out := make([]service.SlicePort, len(list))
	for i, p := range list {
		p.Name = in.share(p.Name)
		out[i] = p
	}
	in.ports[string(key)] = out
	return out
}

// appendString appends s so that no two lists of strings look the same.
func appendString(key []byte, s string) []byte {
	n := len(s)
	return append(append(key, byte(n>>16), byte(n>>8), byte(n)), s...)
}
