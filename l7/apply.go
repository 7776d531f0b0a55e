package l7

import (
	"maps"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// apply puts changes of objects in force.
func (s *Server) apply(changes []kube.Change) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	kube.Apply(s.builder, changes)
	s.readGlobals(changes)
	d := s.builder.Commit()
	s.publish(d)
	s.readCertificates(d, changes)
	if s.cfg.Served != nil {
		s.cfg.Served(s.builder.Served())
	}
	s.report()
	s.compiled.generation.Add(1)
	s.compiled.last.Store(time.Now().UnixNano())
	s.compiled.took.Store(int64(time.Since(began)))
}

// readGlobals takes over a new version of the ConfigMap of defaults, and of those that it names. One that is
// bad where it protects something changes nothing.
func (s *Server) readGlobals(changes []kube.Change) {
	name := s.cfg.Globals
	if name.Name == "" {
		return
	}
	now := s.process.Load().globals
	touched := func(c kube.Change) bool {
		return c.Object.Kind == "ConfigMap" && (c.Object.Name == name || c.Object.Name == now.ProxySetHeaders || c.Object.Name == now.AddHeaders)
	}
	if !slices.ContainsFunc(changes, touched) {
		return
	}
	g, findings := annotation.ParseGlobals(s.configMap(name))
	g, more := g.WithHeaders(name.Namespace, func(n service.Name) (map[string]string, bool) {
		data := s.configMap(n)
		return data, data != nil
	})
	s.secrets.globals = nil
	for _, f := range append(findings, more...) {
		s.secrets.globals = append(s.secrets.globals, service.Problem{
			Object: service.Object{Kind: "ConfigMap", Name: name}, Reason: f.Reason(), Field: "data." + f.Key, Message: f.Message,
		})
		if f.Severity == annotation.Refused {
			return
		}
	}
	g.SSLPassthrough = s.cfg.Passthrough
	if err := s.configure(g); err != nil {
		s.cfg.Log.Error("the defaults of the ConfigMap are not in force", "err", err)
		return
	}
	s.builder.SetGlobals(&g)
}

func (s *Server) configMap(n service.Name) map[string]string {
	if m := s.builder.ConfigMap(n); m != nil {
		return m.Data
	}
	return nil
}

// publish makes a Delta what requests see. s.mu is held.
func (s *Server) publish(d *ingress.Delta) {
	for key, m := range d.Backends {
		if m != nil && s.backends[key] == nil {
			b := s.newBackend(key)
			s.backends[key] = b
			if s.last != nil {
				s.resolve(b)
			}
		}
		if m != nil {
			s.backends[key].pool.SetHealth(m.Health)
		}
	}
	hosts := make(map[string]*route.Host[*rule], len(d.Hosts))
	for name, h := range d.Hosts {
		if h == nil {
			hosts[name] = nil
			continue
		}
		hosts[name] = ingress.Compile(h, func(r *ingress.Route) *rule { return s.compile(h, r) })
	}
	if len(hosts) > 0 {
		s.table.Store(s.table.Load().With(hosts))
	}
	if len(d.Passthrough) > 0 {
		s.publishPassthrough(d.Passthrough)
	}
	for key, m := range d.Backends {
		if m == nil && s.backends[key] != nil {
			s.backends[key].pool.Close()
			delete(s.backends, key)
		}
	}
}

func (s *Server) publishPassthrough(changes map[string]*ingress.BackendKey) {
	hosts := maps.Clone(*s.passthrough.Load())
	for host, key := range changes {
		if key == nil {
			delete(hosts, host)
		} else {
			hosts[host] = s.backends[*key]
		}
	}
	s.passthrough.Store(&hosts)
}

// report tells what is wrong with objects. s.mu is held.
func (s *Server) report() {
	if s.cfg.Problems == nil {
		return
	}
	list := s.builder.Problems()
	list = append(list, s.missingProblems()...)
	list = append(list, s.secrets.globals...)
	list = append(list, s.secrets.dates...)
	s.cfg.Problems(list)
}

// reportMissing reports again if the backends that do not exist are others than before. s.mu is held.
func (s *Server) reportMissing() {
	n := 0
	for _, b := range s.backends {
		if b.trouble != (trouble{}) {
			n++
		}
	}
	if n != s.missing || n > 0 {
		s.missing = n
		s.report()
	}
}

// missingProblems are about Ingresses whose backends do not exist. s.mu is held.
func (s *Server) missingProblems() []service.Problem {
	if s.last == nil {
		return nil
	}
	var bad bool
	for _, b := range s.backends {
		bad = bad || b.trouble != (trouble{})
	}
	if !bad {
		return nil
	}
	var list []service.Problem
	seen := map[service.Problem]bool{}
	for _, h := range s.builder.Model().Hosts {
		for _, r := range append(slices.Clone(h.Routes), h.Fallback) {
			if r == nil || r.WWW != "" {
				continue
			}
			b := s.backends[r.Backend]
			if b == nil || b.trouble == (trouble{}) {
				continue
			}
			if p := r.Problem(b.trouble.reason, "%s", b.trouble.text); !seen[p] {
				seen[p] = true
				list = append(list, p)
			}
		}
	}
	slices.SortFunc(list, func(a, b service.Problem) int { return a.Object.Name.Compare(b.Object.Name) })
	return list
}
