package l7

import (
	"cmp"
	"maps"
	"slices"
	"strings"
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
			s.ejected.Add(s.backends[key].pool.Ejections())
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
	s.cfg.Problems(s.problems())
}

// problems is all that is wrong with objects. s.mu is held.
func (s *Server) problems() []service.Problem {
	return slices.Concat(s.builder.Problems(), s.missingProblems(), s.secrets.globals, s.secrets.dates)
}

// reportMissing reports again if backends have become good or bad. s.mu is held.
func (s *Server) reportMissing() {
	now := s.missingProblems()
	if !slices.Equal(now, s.missing) {
		s.missing = now
		s.report()
	}
}

// missingProblems are about Ingresses whose backends do not exist, or may not be used. s.mu is held.
func (s *Server) missingProblems() []service.Problem {
	if s.last == nil || !s.anyTrouble() {
		return nil
	}
	var list []service.Problem
	for _, h := range s.builder.Model().Hosts {
		for _, r := range append(slices.Clone(h.Routes), h.Fallback) {
			if r == nil || r.WWW != "" {
				continue
			}
			switch b := s.backends[r.Backend]; {
			case b == nil:
			case b.trouble != (trouble{}):
				list = append(list, r.Problem(b.trouble.reason, "%s", b.trouble.text))
			case b.name != nil && !r.External:
				list = append(list, r.Problem("ExternalNameRefused", "Service %v stands for a DNS name, which nobody has allowed (--enable-external-names)", b.key.Service))
			}
		}
	}
	slices.SortFunc(list, func(a, b service.Problem) int {
		return cmp.Or(a.Object.Name.Compare(b.Object.Name), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(list)
}

// anyTrouble reports whether some backend does not exist, or is a name. s.mu is held.
func (s *Server) anyTrouble() bool {
	for _, b := range s.backends {
		if b.trouble != (trouble{}) || b.name != nil {
			return true
		}
	}
	return false
}
