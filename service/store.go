package service

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Store accumulates what the API server, or a folder, said. It is not safe
// for concurrent use: service/control's loop owns it. Setters report whether
// the change can matter to this node, so that noise wakes nobody.
type Store struct {
	node     Node
	holdings map[Name]*holding
	ledger   ledger

	notable   map[Name]*holding // those that have built more than ports
	dirty     map[Name]bool
	last      Snapshot // what the last one held, but for Node and Triggered
	triggered []time.Time
	desk      desk

	serviceChanges, sliceChanges uint64
}

// A holding is everything the Store has about one Service.
type holding struct {
	svc    *Service // nil: there are only slices
	slices []*Slice // by name
	built
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
		holdings: make(map[Name]*holding),
		ledger:   make(ledger),
		notable:  make(map[Name]*holding),
		dirty:    make(map[Name]bool),
	}
}

// service returns what is held of the Service called n, or nil.
func (s *Store) service(n Name) *Service {
	if h := s.holdings[n]; h != nil {
		return h.svc
	}
	return nil
}

// holding returns the holding of n, a new one if need be.
func (s *Store) holding(n Name) *holding {
	h := s.holdings[n]
	if h == nil {
		h = new(holding)
		s.holdings[n] = h
	}
	return h
}

// Service returns the Object that names a Service, with its UID while the Store
// holds it.
func (s *Store) Service(n Name) Object {
	if v := s.service(n); v != nil {
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
		for name, h := range s.holdings {
			if h.svc != nil {
				s.dirty[name] = true
			}
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
	h := s.holding(v.Name)
	if h.svc != nil && reflect.DeepEqual(h.svc, v) {
		return false
	}
	if h.svc != nil {
		s.ledger.remove(h.svc, s.touch)
	}
	h.svc = v
	s.ledger.add(v, s.touch)
	s.touch(v.Name)
	s.serviceChanges++
	return true
}

// DeleteService removes a Service. Its slices are kept until they are deleted
// themselves: the two come in any order.
func (s *Store) DeleteService(n Name) bool {
	h := s.holdings[n]
	if h == nil || h.svc == nil {
		return false
	}
	s.ledger.remove(h.svc, s.touch)
	h.svc = nil
	s.touch(n)
	s.serviceChanges++
	return true
}

// SetSlice adds a slice or replaces the one of the same Service and name.
func (s *Store) SetSlice(v *Slice) bool {
	h := s.holding(v.Service)
	i, ok := h.find(v.Name)
	if !ok {
		if h.slices == nil {
			h.slices = make([]*Slice, 0, 1) // most Services have no more
		}
		h.slices = slices.Insert(h.slices, i, v)
		return s.sliceChanged(h, v.Service, v.Triggered)
	}
	old := h.slices[i]
	h.slices[i] = v
	if old.equal(v) {
		return false
	}
	return s.sliceChanged(h, v.Service, v.Triggered)
}

// DeleteSlice removes a slice of a Service.
func (s *Store) DeleteSlice(svc Name, slice string) bool {
	h := s.holdings[svc]
	if h == nil {
		return false
	}
	i, ok := h.find(slice)
	if !ok {
		return false
	}
	h.slices = slices.Delete(h.slices, i, i+1)
	changed := s.sliceChanged(h, svc, time.Time{})
	s.tidy(svc, h)
	return changed
}

// find returns where the slice with the given name is, or would be.
func (h *holding) find(slice string) (int, bool) {
	return slices.BinarySearchFunc(h.slices, slice, func(v *Slice, name string) int { return strings.Compare(v.Name, name) })
}

func (s *Store) sliceChanged(h *holding, svc Name, at time.Time) bool {
	s.sliceChanges++
	if h.svc == nil {
		return false
	}
	s.touch(svc)
	if !at.IsZero() {
		s.triggered = append(s.triggered, at)
	}
	return true
}

// tidy forgets a holding of nothing.
func (s *Store) tidy(n Name, h *holding) {
	if h.svc == nil && len(h.slices) == 0 && !s.dirty[n] {
		delete(s.holdings, n)
	}
}

func (s *Store) touch(n Name) { s.dirty[n] = true }

// equal reports whether v and o mean the same to a Snapshot.
func (v *Slice) equal(o *Slice) bool {
	return v.Family == o.Family && v.Weight == o.Weight && slices.Equal(v.Ports, o.Ports) &&
		slices.EqualFunc(v.Endpoints, o.Endpoints, SliceEndpoint.Equal)
}

// Identical reports whether v and o say the same, also what means nothing to a
// Snapshot.
func (v *Slice) Identical(o *Slice) bool {
	return v.Service == o.Service && v.Name == o.Name && v.Triggered.Equal(o.Triggered) && v.equal(o)
}

// maxKept is how large a map may be that is used again.
const maxKept = 1024

// Snapshot returns the state to put in force. Ports whose inputs did not change
// since the last call, or changed nothing that counts, are the same pointers, and
// lists in which nothing changed are the same arrays.
func (s *Store) Snapshot() *Snapshot {
	names := slices.SortedFunc(maps.Keys(s.dirty), Name.Compare)
	noted := false
	for _, n := range names {
		noted = s.rebuild(n) || noted
	}
	if len(names) > maxKept { // a map never shrinks
		s.dirty = make(map[Name]bool)
	}
	clear(s.dirty)
	s.desk.clear()
	s.last.Rev++
	s.last.Ports = s.last.Ports.replace(names, func(n Name) []*Port {
		if h := s.holdings[n]; h != nil {
			return h.ports
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
	_, was := s.notable[n]
	delete(s.notable, n)
	h := s.holdings[n]
	if h == nil {
		return was
	}
	if h.svc == nil {
		h.built = built{}
		delete(s.dirty, n)
		s.tidy(n, h)
		return was
	}
	old, b := h.built, s.build(h.svc, h.slices)
	for i, p := range b.ports {
		j, ok := slices.BinarySearchFunc(old.ports, p.ID, func(p *Port, id PortID) int { return p.ID.Compare(id) })
		if ok && reflect.DeepEqual(old.ports[j], p) {
			b.ports[i] = old.ports[j]
		}
	}
	if reflect.DeepEqual(old.external, b.external) {
		b.external = old.external
	}
	h.built = b
	now := len(b.health)+len(b.problems) > 0 || b.external != nil
	if now {
		s.notable[n] = h
	}
	if !was || !now {
		return was != now
	}
	return old.external != b.external || !slices.Equal(old.health, b.health) || !slices.Equal(old.problems, b.problems)
}
