package ingress

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/service"
)

// A Builder makes a Model of objects that come and go, and makes anew only what a change touches.
// It belongs to one goroutine; what it hands out is immutable.
type Builder struct {
	cfg Config

	ingresses  map[service.Name]*Ingress
	classes    map[string]*Class
	secrets    map[service.Name]*secret
	configMaps map[service.Name]*ConfigMap

	units    map[service.Name]*unit // of all Ingresses, ours or not
	hosts    map[string]*hostState
	under    index[string, string] // the hosts under a wildcard
	backends map[BackendKey]*backendState

	// Who refers to what, as of the last Commit.
	byClass, bySecret, byConfigMap index[service.Name, service.Name]

	seed   maphash.Seed
	shared map[uint64]*sharedSettings

	dirty      map[service.Name]struct{} // Ingresses to compile
	dirtyHosts map[string]struct{}       // hosts to rebuild
	fresh      map[service.Name]struct{} // Secrets that have changed
}

// NewBuilder returns a Builder without objects.
func NewBuilder(cfg Config) *Builder {
	if cfg.Certificate == nil {
		cfg.Certificate = ParseCertificate
	}
	if cfg.Globals == nil {
		g := annotation.DefaultGlobals()
		cfg.Globals = &g
	}
	return &Builder{
		cfg:        cfg,
		ingresses:  make(map[service.Name]*Ingress),
		classes:    make(map[string]*Class),
		secrets:    make(map[service.Name]*secret),
		configMaps: make(map[service.Name]*ConfigMap),
		units:      make(map[service.Name]*unit),
		hosts:      make(map[string]*hostState),
		backends:   make(map[BackendKey]*backendState),
		under:      make(index[string, string]),

		byClass:     make(index[service.Name, service.Name]),
		bySecret:    make(index[service.Name, service.Name]),
		byConfigMap: make(index[service.Name, service.Name]),

		seed:   maphash.MakeSeed(),
		shared: make(map[uint64]*sharedSettings),

		dirty:      make(map[service.Name]struct{}),
		dirtyHosts: make(map[string]struct{}),
		fresh:      make(map[service.Name]struct{}),
	}
}

// Build returns the Model of o.
func Build(o Objects, cfg Config) *Model {
	b := NewBuilder(cfg)
	for _, c := range o.Classes {
		b.SetClass(c)
	}
	for _, s := range o.Secrets {
		b.SetSecret(s)
	}
	for _, m := range o.ConfigMaps {
		b.SetConfigMap(m)
	}
	for _, in := range o.Ingresses {
		b.SetIngress(in)
	}
	b.Commit()
	return b.Model()
}

// SetIngress adds an Ingress or replaces the one with its name. Nothing happens until Commit.
func (b *Builder) SetIngress(in *Ingress) {
	b.ingresses[in.Name] = in
	b.dirty[in.Name] = struct{}{}
}

// DeleteIngress removes an Ingress, if it exists. Nothing happens until Commit.
func (b *Builder) DeleteIngress(name service.Name) {
	delete(b.ingresses, name)
	b.dirty[name] = struct{}{}
}

// SetClass adds or replaces an IngressClass.
func (b *Builder) SetClass(c *Class) {
	b.classes[c.Name] = c
	b.spoil(b.byClass[service.Name{Name: c.Name}])
}

// DeleteClass removes an IngressClass, if it exists.
func (b *Builder) DeleteClass(name string) {
	delete(b.classes, name)
	b.spoil(b.byClass[service.Name{Name: name}])
}

// SetSecret adds or replaces a Secret. Secrets that nobody refers to cost nothing but their memory.
func (b *Builder) SetSecret(s *Secret) {
	b.secrets[s.Name] = &secret{in: s}
	b.fresh[s.Name] = struct{}{}
	b.spoil(b.bySecret[s.Name])
}

// DeleteSecret removes a Secret, if it exists.
func (b *Builder) DeleteSecret(name service.Name) {
	delete(b.secrets, name)
	b.fresh[name] = struct{}{}
	b.spoil(b.bySecret[name])
}

// SetConfigMap adds or replaces a ConfigMap that annotations may refer to.
func (b *Builder) SetConfigMap(m *ConfigMap) {
	b.configMaps[m.Name] = m
	b.spoil(b.byConfigMap[m.Name])
}

// DeleteConfigMap removes a ConfigMap, if it exists.
func (b *Builder) DeleteConfigMap(name service.Name) {
	delete(b.configMaps, name)
	b.spoil(b.byConfigMap[name])
}

// SetGlobals replaces the defaults of annotations. Everything is compiled again. g must not be nil.
func (b *Builder) SetGlobals(g *annotation.Globals) {
	b.cfg.Globals = g
	for name := range b.ingresses {
		b.dirty[name] = struct{}{}
	}
}

// spoil marks Ingresses to be compiled again.
func (b *Builder) spoil(names map[service.Name]struct{}) {
	for name := range names {
		b.dirty[name] = struct{}{}
	}
}

// Ingress returns the Ingress of that name, ours or not, or nil.
func (b *Builder) Ingress(name service.Name) *Ingress { return b.ingresses[name] }

// Secret returns the Secret of that name, or nil.
func (b *Builder) Secret(name service.Name) *Secret {
	if s := b.secrets[name]; s != nil {
		return s.in
	}
	return nil
}

// ConfigMap returns the ConfigMap of that name, or nil.
func (b *Builder) ConfigMap(name service.Name) *ConfigMap { return b.configMaps[name] }

// Certificate returns what Config.Certificate has made of the Secret of that name, or nil if there is no such Secret or it
// is bad.
func (b *Builder) Certificate(name service.Name) Certificate {
	if s := b.secrets[name]; s != nil {
		return s.certificate(b)
	}
	return nil
}

// References returns the Secrets and ConfigMaps that served Ingresses refer to, whether they exist or not, by name.
func (b *Builder) References() (secrets, configMaps []service.Name) {
	return b.bySecret.keys(), b.byConfigMap.keys()
}

// Served returns the Ingresses that are ours, by name.
func (b *Builder) Served() []service.Name {
	var names []service.Name
	for name, u := range b.units {
		if u.served {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, service.Name.Compare)
	return names
}

// Problems returns all that is wrong, by object and each thing once.
func (b *Builder) Problems() []service.Problem {
	var list []service.Problem
	for _, u := range b.units {
		list = append(list, u.problems...)
	}
	for _, h := range b.hosts {
		list = append(list, h.problems...)
	}
	slices.SortFunc(list, func(p, q service.Problem) int {
		return cmp.Or(p.Object.Name.Compare(q.Object.Name), strings.Compare(p.Field, q.Field),
			strings.Compare(p.Reason, q.Reason), strings.Compare(p.Message, q.Message))
	})
	return slices.Compact(list)
}

// Model returns everything as of the last Commit.
func (b *Builder) Model() *Model {
	m := &Model{
		Hosts:       make(map[string]*HostModel),
		Backends:    make(map[BackendKey]*BackendModel),
		Certs:       make(map[string][]service.Name),
		Passthrough: make(map[string]BackendKey),
		Problems:    b.Problems(),
		Served:      b.Served(),
	}
	for name, h := range b.hosts {
		if h.model != nil {
			m.Hosts[name] = h.model
		}
		if len(h.certs) > 0 {
			m.Certs[name] = h.certs
		}
		if h.passthrough != nil {
			m.Passthrough[name] = *h.passthrough
		}
	}
	for key, s := range b.backends {
		m.Backends[key] = s.model
	}
	return m
}

// An index says which B belong to an A.
type index[A, B comparable] map[A]map[B]struct{}

func (x index[A, B]) add(a A, b B) {
	if x[a] == nil {
		x[a] = make(map[B]struct{})
	}
	x[a][b] = struct{}{}
}

func (x index[A, B]) remove(a A, b B) {
	delete(x[a], b)
	if len(x[a]) == 0 {
		delete(x, a)
	}
}

func (x index[A, B]) keys() []A { return slices.Collect(maps.Keys(x)) }
