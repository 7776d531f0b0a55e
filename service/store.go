package service

import (
	"maps"
	"reflect"
	"slices"
	"time"
)

// A Store accumulates what the API server, or a folder, said. It is not safe
// for concurrent use: service/control's loop owns it. Setters report whether
// the change can matter to this node, so that noise wakes nobody.
type Store struct {
	node     Node
	services map[Name]*Service
	slices   map[Name]map[string]*Slice // by Service, then name of the slice
	ledger   ledger

	built     map[Name]*built
	notable   map[Name]*built // those of built with more than ports
	dirty     map[Name]bool
	last      Snapshot // what the last one held, but for Node and Triggered
	triggered []time.Time

	serviceChanges, sliceChanges uint64
}

// A built is what one Service adds to a Snapshot.
type built struct {
	ports    []*Port // by ID
	health   []HealthPort
	problems []Problem
	external *External
}

// NewStore returns an empty Store.
func NewStore() *Store {
	return &Store{
		services: make(map[Name]*Service),
		slices:   make(map[Name]map[string]*Slice),
		ledger:   make(ledger),
		built:    make(map[Name]*built),
		notable:  make(map[Name]*built),
		dirty:    make(map[Name]bool),
	}
}

// Service returns the Object that names a Service, with its UID while the Store
// holds it.
func (s *Store) Service(n Name) Object {
	if v := s.services[n]; v != nil {
		return v.object()
	}
	return Object{Kind: "Service", Name: n}
}

// Node returns the node last set.
func (s *Store) Node() Node { return s.node }

// Changes returns how many changes of Services and of slices were accepted, that
// is, changed something this Store holds.
func (s *Store) Changes() (services, slices uint64) { return s.serviceChanges, s.sliceChanges }

// SetNode replaces the node. Node.Addrs must be sorted.
func (s *Store) SetNode(n Node) bool {
	if reflect.DeepEqual(s.node, n) {
		return false
	}
	if !samePolicy(&s.node, &n) {
		for name := range s.services {
			s.dirty[name] = true
		}
	}
	s.node = n
	return true
}

// samePolicy reports whether a and b make the same choices for every Service.
func samePolicy(a, b *Node) bool {
	return a.Name == b.Name && a.Zone == b.Zone && a.Primary == b.Primary &&
		a.MasqueradeAll == b.MasqueradeAll &&
		a.Pods.Detects(IPv4) == b.Pods.Detects(IPv4) && a.Pods.Detects(IPv6) == b.Pods.Detects(IPv6)
}

// SetService adds a Service or replaces the one of the same name.
func (s *Store) SetService(v *Service) bool {
	old := s.services[v.Name]
	if old != nil && reflect.DeepEqual(old, v) {
		return false
	}
	if old != nil {
		s.ledger.remove(old, s.touch)
	}
	s.services[v.Name] = v
	s.ledger.add(v, s.touch)
	s.touch(v.Name)
	s.serviceChanges++
	return true
}

// DeleteService removes a Service. Its slices are kept until they are deleted
// themselves: the two come in any order.
func (s *Store) DeleteService(n Name) bool {
	old := s.services[n]
	if old == nil {
		return false
	}
	s.ledger.remove(old, s.touch)
	delete(s.services, n)
	s.touch(n)
	s.serviceChanges++
	return true
}

// SetSlice adds a slice or replaces the one of the same Service and name.
func (s *Store) SetSlice(v *Slice) bool {
	bySlice := s.slices[v.Service]
	if bySlice == nil {
		bySlice = make(map[string]*Slice)
		s.slices[v.Service] = bySlice
	}
	old := bySlice[v.Name]
	bySlice[v.Name] = v
	if old != nil && old.equal(v) {
		return false
	}
	return s.sliceChanged(v.Service, v.Triggered)
}

// DeleteSlice removes a slice of a Service.
func (s *Store) DeleteSlice(svc Name, slice string) bool {
	bySlice := s.slices[svc]
	if bySlice[slice] == nil {
		return false
	}
	delete(bySlice, slice)
	if len(bySlice) == 0 {
		delete(s.slices, svc)
	}
	return s.sliceChanged(svc, time.Time{})
}

func (s *Store) sliceChanged(svc Name, at time.Time) bool {
	s.sliceChanges++
	if s.services[svc] == nil {
		return false
	}
	s.touch(svc)
	if !at.IsZero() {
		s.triggered = append(s.triggered, at)
	}
	return true
}

func (s *Store) touch(n Name) { s.dirty[n] = true }

// equal reports whether v and o mean the same to a Snapshot.
func (v *Slice) equal(o *Slice) bool {
	return v.Family == o.Family && v.Weight == o.Weight && slices.Equal(v.Ports, o.Ports) &&
		slices.EqualFunc(v.Endpoints, o.Endpoints, func(a, b SliceEndpoint) bool {
			return a.Addr == b.Addr && a.Node == b.Node &&
				a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
				slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
		})
}

// Snapshot returns the state to put in force. Ports whose inputs did not change
// since the last call, or changed nothing that counts, are the same pointers, and
// lists in which nothing changed are the same arrays.
func (s *Store) Snapshot() *Snapshot {
	names := slices.SortedFunc(maps.Keys(s.dirty), Name.Compare)
	noted := false
	for _, n := range names {
		noted = s.rebuild(n) || noted
	}
	clear(s.dirty)
	s.last.Rev++
	s.last.Ports = s.last.Ports.replace(names, func(n Name) []*Port {
		if b := s.built[n]; b != nil {
			return b.ports
		}
		return nil
	})
	if noted {
		s.note()
	}
	snap := s.last
	snap.Node, snap.Triggered = s.node, s.triggered
	s.triggered = nil
	return &snap
}

// note gathers what Services add to a Snapshot besides ports.
func (s *Store) note() {
	s.last.Health, s.last.Problems, s.last.External = nil, nil, nil
	for _, b := range s.notable {
		s.last.Health = append(s.last.Health, b.health...)
		s.last.Problems = append(s.last.Problems, b.problems...)
		if b.external != nil {
			s.last.External = append(s.last.External, b.external)
		}
	}
	slices.SortFunc(s.last.External, func(a, b *External) int { return a.Service.Compare(b.Service) })
	slices.SortFunc(s.last.Health, HealthPort.compare)
	slices.SortFunc(s.last.Problems, Problem.compare)
}

// rebuild decides everything about one Service anew, and reports whether what it adds
// besides ports has changed.
func (s *Store) rebuild(n Name) (noted bool) {
	v, old, was := s.services[n], s.built[n], s.notable[n]
	if v == nil {
		delete(s.built, n)
		delete(s.notable, n)
		return was != nil
	}
	b := s.build(v)
	if old != nil {
		for i, p := range b.ports {
			j, ok := slices.BinarySearchFunc(old.ports, p.ID, func(p *Port, id PortID) int { return p.ID.Compare(id) })
			if ok && reflect.DeepEqual(old.ports[j], p) {
				b.ports[i] = old.ports[j]
			}
		}
		if reflect.DeepEqual(old.external, b.external) {
			b.external = old.external
		}
	}
	s.built[n] = b
	if delete(s.notable, n); len(b.health)+len(b.problems) > 0 || b.external != nil {
		s.notable[n] = b
	}
	now := s.notable[n]
	if was == nil || now == nil {
		return was != now
	}
	return was.external != now.external || !slices.Equal(was.health, now.health) || !slices.Equal(was.problems, now.problems)
}
