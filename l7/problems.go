package l7

import (
	"cmp"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// missing is what is wrong with the backends of hosts. Only hosts whose rules or backends have changed
// are looked at again.
type missing struct {
	byHost   map[string][]service.Problem
	doubtful map[string]struct{} // hosts to look at
	list     []service.Problem   // all of byHost, in order
}

func newMissing() missing {
	return missing{byHost: make(map[string][]service.Problem), doubtful: make(map[string]struct{})}
}

// leadTo notes which backends the rules of a host lead to. s.mu is held.
func (s *Server) leadTo(name string, h *ingress.HostModel) {
	eachBackend(s.models[name], func(key ingress.BackendKey, _ *ingress.Route) {
		if b := s.backends[key]; b != nil {
			delete(b.hosts, name)
		}
	})
	eachBackend(h, func(key ingress.BackendKey, _ *ingress.Route) {
		if b := s.backends[key]; b != nil {
			b.hosts[name] = struct{}{}
		}
	})
	if h == nil {
		delete(s.models, name)
	} else {
		s.models[name] = h
	}
	s.missing.doubtful[name] = struct{}{}
}

// eachBackend calls do for everything that the rules of h lead to, with a Route of the Ingress that says so.
func eachBackend(h *ingress.HostModel, do func(ingress.BackendKey, *ingress.Route)) {
	if h == nil {
		return
	}
	each := func(r *ingress.Route) {
		if r == nil || r.WWW != "" {
			return
		}
		do(r.Backend, r)
		if r.Default != nil {
			do(*r.Default, r)
		}
		if c := r.Canary; c != nil {
			do(c.Backend, &ingress.Route{Ingress: c.Ingress, UID: c.UID, Host: r.Host, Path: r.Path, External: r.External})
		}
	}
	for _, r := range h.Routes {
		each(r)
	}
	each(h.Fallback)
}

// missingProblems are about Ingresses whose backends do not exist, or may not be used. s.mu is held.
func (s *Server) missingProblems() []service.Problem {
	m := &s.missing
	if s.last == nil || len(m.doubtful) == 0 {
		return m.list
	}
	changed := false
	for name := range m.doubtful {
		var list []service.Problem
		eachBackend(s.models[name], func(key ingress.BackendKey, r *ingress.Route) {
			switch b := s.backends[key]; {
			case b == nil:
			case b.trouble != (trouble{}):
				list = append(list, r.Problem(b.trouble.reason, "%s", b.trouble.text))
			case b.name != nil && !r.External:
				list = append(list, r.Problem("ExternalNameRefused",
					"Service %v stands for a DNS name, which nobody has allowed (--enable-external-names)", key.Service))
			}
		})
		if slices.Equal(list, m.byHost[name]) {
			continue
		}
		changed = true
		if m.byHost[name] = list; len(list) == 0 {
			delete(m.byHost, name)
		}
	}
	clear(m.doubtful)
	if changed {
		m.list = m.sorted()
	}
	return m.list
}

func (m *missing) sorted() []service.Problem {
	var list []service.Problem
	for _, l := range m.byHost {
		list = append(list, l...)
	}
	slices.SortFunc(list, func(a, b service.Problem) int {
		return cmp.Or(a.Object.Name.Compare(b.Object.Name), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(list)
}

// report tells what is wrong with objects. s.mu is held.
func (s *Server) report() {
	if s.cfg.Problems != nil {
		s.cfg.Problems(s.problems())
	}
}

// problems is all that is wrong with objects. s.mu is held.
func (s *Server) problems() []service.Problem {
	return slices.Concat(s.builder.Problems(), s.missingProblems(), s.fallbackProblems(), s.secrets.globals, s.secrets.fallback, s.datedProblems())
}

// fallbackProblems are about the Service for what no rule is about. s.mu is held.
func (s *Server) fallbackProblems() []service.Problem {
	if s.fallback == nil || s.fallback.backend.trouble == (trouble{}) {
		return nil
	}
	b := s.fallback.backend
	return []service.Problem{{
		Object: service.Object{Kind: "Service", Name: b.key.Service}, Reason: b.trouble.reason, Message: b.trouble.text,
	}}
}

// reportMissing reports again if backends have become good or bad. s.mu is held.
func (s *Server) reportMissing(before []service.Problem) {
	if now := slices.Concat(s.missingProblems(), s.fallbackProblems()); !slices.Equal(now, before) {
		s.report()
	}
}
