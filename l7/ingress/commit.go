package ingress

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/service"
)

// A Delta is how the Model differs from that of the Commit before.
type Delta struct {
	Hosts       map[string]*HostModel        // nil: not served any more
	Backends    map[BackendKey]*BackendModel // nil: nothing leads there any more
	Certs       map[string][]service.Name    // nil: none of its own any more
	Passthrough map[string]*BackendKey       // nil: not passed through any more
	Secrets     map[service.Name]struct{}    // referred to, and changed or gone
}

// Empty reports whether nothing has changed. Problems may have all the same.
func (d *Delta) Empty() bool {
	return len(d.Hosts)+len(d.Backends)+len(d.Certs)+len(d.Passthrough)+len(d.Secrets) == 0
}

// Commit puts all changes since the last Commit in force and says what that has come to. Hosts that
// a change might have touched are made anew, and are in the Delta even if they
// have come out the same.
func (b *Builder) Commit() *Delta {
	d := &Delta{
		Hosts:       make(map[string]*HostModel),
		Backends:    make(map[BackendKey]*BackendModel),
		Certs:       make(map[string][]service.Name),
		Passthrough: make(map[string]*BackendKey),
		Secrets:     make(map[service.Name]struct{}),
	}
	for name := range b.dirty {
		b.replace(name)
	}
	for name := range b.fresh {
		if len(b.bySecret[name]) > 0 {
			d.Secrets[name] = struct{}{}
		}
	}
	b.spread()
	touched := make(map[BackendKey]struct{})
	for name := range b.dirtyHosts { // wildcards first: whether they have TLS counts for the hosts under them
		if strings.HasPrefix(name, "*.") {
			before := b.hosts[name] != nil && b.hosts[name].tls
			b.rebuild(name, d, touched)
			if after := b.hosts[name] != nil && b.hosts[name].tls; before != after {
				for host := range b.under[name] {
					b.dirtyHosts[host] = struct{}{}
				}
			}
		}
	}
	for name := range b.dirtyHosts {
		if !strings.HasPrefix(name, "*.") {
			b.rebuild(name, d, touched)
		}
	}
	for key := range touched {
		b.settle(key, d)
	}
	clear(b.dirty)
	clear(b.dirtyHosts)
	clear(b.fresh)
	return d
}

// replace compiles the Ingress of that name and marks the hosts that it claims, or did.
func (b *Builder) replace(name service.Name) {
	if old := b.units[name]; old != nil {
		delete(b.units, name)
		b.refer(old, index[service.Name, service.Name].remove)
		for _, c := range old.claims {
			h := b.hosts[c.host]
			h.claims = slices.DeleteFunc(h.claims, func(o *claim) bool { return o == c })
			b.dirtyHosts[c.host] = struct{}{}
		}
	}
	in := b.ingresses[name]
	if in == nil {
		return
	}
	u := b.newUnit(in)
	b.units[name] = u
	b.refer(u, index[service.Name, service.Name].add)
	for _, c := range u.claims {
		h := b.hosts[c.host]
		if h == nil {
			h = new(hostState)
			b.hosts[c.host] = h
			if wild := wildcardOf(c.host); wild != "" {
				b.under.add(wild, c.host)
			}
		}
		i, _ := slices.BinarySearchFunc(h.claims, c, compareClaims)
		h.claims = slices.Insert(h.claims, i, c)
		b.dirtyHosts[c.host] = struct{}{}
	}
}

// refer notes or forgets what u refers to.
func (b *Builder) refer(u *unit, do func(index[service.Name, service.Name], service.Name, service.Name)) {
	if u.in.Class != "" {
		do(b.byClass, service.Name{Name: u.in.Class}, u.in.Name)
	}
	for _, s := range u.secrets {
		do(b.bySecret, s, u.in.Name)
	}
	for _, m := range u.configMaps {
		do(b.byConfigMap, m, u.in.Name)
	}
}

// spread marks the aliases and twins of marked hosts.
func (b *Builder) spread() {
	var more []string
	for name := range b.dirtyHosts {
		for _, c := range b.hosts[name].of(byRule) {
			for _, other := range c.unit.claims {
				if other.kind != byRule && other.of == name {
					more = append(more, other.host)
				}
			}
		}
	}
	for _, name := range more {
		b.dirtyHosts[name] = struct{}{}
	}
}

// compareClaims orders the claims to one host by kind, then by age.
func compareClaims(c, o *claim) int {
	return cmp.Or(cmp.Compare(c.kind, o.kind), c.unit.in.compareAge(o.unit.in), strings.Compare(c.of, o.of))
}

// compareAge orders Ingresses from the oldest to the youngest, and by name if they are of one age.
func (in *Ingress) compareAge(o *Ingress) int {
	return cmp.Or(in.Created.Compare(o.Created), in.Name.Compare(o.Name))
}

// rebuild makes a host anew and notes what has changed.
func (b *Builder) rebuild(name string, d *Delta, touched map[BackendKey]struct{}) {
	h := b.hosts[name]
	old := *h
	for _, s := range old.backends {
		s.hosts.drop(h)
		touched[s.key] = struct{}{}
	}
	h.backends = nil
	h.rebuild(name, b)
	h.countBackends(b, touched)
	if h.model != nil || old.model != nil {
		d.Hosts[name] = h.model
	}
	if !slices.Equal(h.certs, old.certs) {
		d.Certs[name] = h.certs
	}
	if (h.passthrough == nil) != (old.passthrough == nil) || h.passthrough != nil && *h.passthrough != *old.passthrough {
		d.Passthrough[name] = h.passthrough
	}
	if len(h.claims) == 0 {
		delete(b.hosts, name)
		if wild := wildcardOf(name); wild != "" {
			b.under.remove(wild, name)
		}
	}
}

// wildcardTLS reports whether there is TLS for the wildcard that covers host.
func (b *Builder) wildcardTLS(host string) bool {
	h := b.hosts[wildcardOf(host)]
	return h != nil && wildcardOf(host) != "" && h.tls
}

// A hostSet is hosts with the Ingresses whose routes lead to one backend.
type hostSet map[*hostState][]*unit

func (s hostSet) drop(h *hostState) { delete(s, h) }

// A backendState is which hosts have routes to a backend.
type backendState struct {
	key   BackendKey
	hosts hostSet
	model *BackendModel
}

// settle makes the model of a backend anew, or removes it.
func (b *Builder) settle(key BackendKey, d *Delta) {
	s := b.backends[key]
	if len(s.hosts) == 0 {
		delete(b.backends, key)
		if s.model != nil {
			d.Backends[key] = nil
		}
		return
	}
	model := s.choose(key)
	if s.model == nil || !reflect.DeepEqual(s.model, model) {
		s.model = model
		d.Backends[key] = model
	}
}

// choose goes by the oldest Ingress, and about health by the oldest that says something about it.
func (s *backendState) choose(key BackendKey) *BackendModel {
	var oldest, says *unit
	for _, units := range s.hosts {
		for _, u := range units {
			if oldest == nil || u.in.compareAge(oldest.in) < 0 {
				oldest = u
			}
			if u.settings.Balance.Health != (balance.Health{}) && (says == nil || u.in.compareAge(says.in) < 0) {
				says = u
			}
		}
	}
	m := &BackendModel{Key: key}
	if oldest != nil {
		m.Protocol = oldest.settings.Upstream.Protocol
	}
	if says != nil {
		m.Health = says.settings.Balance.Health
	}
	return m
}

// countBackends notes what the model leads to, each with those that say how it is asked.
func (h *hostState) countBackends(b *Builder, touched map[BackendKey]struct{}) {
	if h.model == nil {
		return
	}
	lead := func(key BackendKey, by service.Name) {
		if key == (BackendKey{}) {
			return
		}
		s := b.backends[key]
		if s == nil {
			s = &backendState{key: key, hosts: make(hostSet)}
			b.backends[key] = s
		}
		list, known := s.hosts[h]
		if !known {
			h.backends = append(h.backends, s)
			touched[key] = struct{}{}
		}
		if u := b.units[by]; !slices.Contains(list, u) {
			s.hosts[h] = append(list, u)
		}
	}
	routes := h.model.Routes
	if h.model.Fallback != nil {
		routes = append(slices.Clip(routes), h.model.Fallback)
	}
	for _, r := range routes {
		lead(r.Backend, r.Ingress)
		if r.Default != nil {
			lead(*r.Default, r.Ingress)
		}
		if r.Canary != nil {
			lead(r.Canary.Backend, r.Canary.Ingress)
		}
	}
}
