package l7

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
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
	s.readKey()
	d := s.builder.Commit()
	s.readCertificates(d, changes)
	s.publish(d)
	s.compiled.generation.Add(1)
	s.compiled.last.Store(time.Now().UnixNano())
	s.compiled.took.Store(int64(time.Since(began)))
	before := s.served
	s.tellServed(changes)
	s.tellInForce(changes, before)
	s.report()
}

// tellServed says which Ingresses are served, if that may have changed. s.mu is held.
func (s *Server) tellServed(changes []kube.Change) {
	if s.cfg.Served == nil && s.cfg.InForce == nil {
		return
	}
	same := s.served != nil
	for _, c := range changes {
		_, was := s.served[c.Object.Name]
		same = same && c.Object.Kind != "IngressClass" && (c.Object.Kind != "Ingress" || was == s.builder.Serves(c.Object.Name))
	}
	if same {
		return
	}
	names := s.builder.Served()
	s.served = make(map[service.Name]struct{}, len(names))
	for _, n := range names {
		s.served[n] = struct{}{}
	}
	if s.cfg.Served != nil {
		s.cfg.Served(names)
	}
}

// tellInForce says which Ingresses have just been put in force or taken out of it, given which were served before. s.mu is held.
func (s *Server) tellInForce(changes []kube.Change, before map[service.Name]struct{}) {
	if s.cfg.InForce == nil {
		return
	}
	names := make(map[service.Name]struct{})
	classes := false
	for _, c := range changes {
		switch c.Object.Kind {
		case "Ingress":
			names[c.Object.Name] = struct{}{}
		case "IngressClass":
			classes = true
		}
	}
	if classes { // which says whose Ingresses are
		for n := range s.served {
			if _, was := before[n]; !was {
				names[n] = struct{}{}
			}
		}
		for n := range before {
			if _, is := s.served[n]; !is {
				names[n] = struct{}{}
			}
		}
	}
	var changed []*ingress.Ingress
	var gone []service.Name
	for n := range names {
		_, was := before[n]
		_, is := s.served[n]
		switch touched := s.builder.Ingress(n); {
		case is && touched != nil:
			changed = append(changed, touched)
		case was && !is:
			gone = append(gone, n)
		}
	}
	if len(changed)+len(gone) > 0 {
		s.cfg.InForce(changed, gone)
	}
}

// readGlobals takes over a new version of the ConfigMap of defaults, and of those that it names. One that is
// bad where it protects something changes nothing.
func (s *Server) readGlobals(changes []kube.Change) {
	name := s.cfg.Globals
	if name.Name == "" {
		return
	}
	touched := func(c kube.Change) bool {
		return c.Object.Kind == "ConfigMap" && (c.Object.Name == name || slices.Contains(s.headers[:], c.Object.Name))
	}
	if !slices.ContainsFunc(changes, touched) {
		return
	}
	g, findings := annotation.ParseGlobals(s.configMap(name))
	s.headers = [2]service.Name{g.ProxySetHeaders, g.AddHeaders}
	g, more := g.WithHeaders(name.Namespace, func(n service.Name) (map[string]string, bool) {
		data := s.configMap(n)
		return data, data != nil
	})
	s.secrets.globals = nil
	refused := false
	for _, f := range append(findings, more...) {
		s.globalsProblem(f.Reason(), "data."+f.Key, f.Message)
		refused = refused || f.Severity == annotation.Refused || f.Severity == annotation.Invalid && strings.HasPrefix(f.Key, "block-")
	}
	if refused {
		return
	}
	g.SSLPassthrough = s.cfg.Passthrough
	if err := s.configure(g); err != nil {
		s.globalsProblem("InvalidSetting", "data", err.Error())
		return
	}
	s.globals = &g
	s.builder.SetGlobals(&g)
}

func (s *Server) globalsProblem(reason, field, message string) {
	s.secrets.globals = append(s.secrets.globals, service.Problem{
		Object: service.Object{Kind: "ConfigMap", Name: s.cfg.Globals}, Reason: reason, Field: field, Message: message,
	})
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
		if m == nil {
			continue
		}
		b := s.backends[key]
		if b == nil {
			b = s.newBackend(key)
			s.backends[key] = b
			if s.last != nil {
				s.resolve(b)
			}
		}
		b.setModel(m)
	}
	hosts := make(map[string]*route.Host[*rule], len(d.Hosts))
	for name, h := range d.Hosts {
		s.leadTo(name, h)
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
		for host, key := range d.Passthrough {
			if key == nil {
				delete(s.through, host)
			} else {
				s.through[host] = *key
			}
		}
		s.publishPassthrough()
	}
	for key, m := range d.Backends {
		if b := s.backends[key]; m == nil && b != nil {
			s.drop(b)
			delete(s.backends, key)
		}
	}
}

// drop ends a backend that nothing leads to any more. Requests on their way go on.
func (s *Server) drop(b *backend) {
	s.ejected.Add(b.pool.Ejections())
	b.pool.Close()
}

// publishPassthrough makes s.through what connections see. s.mu is held.
func (s *Server) publishPassthrough() {
	hosts := make(map[string]*passage, len(s.through))
	for host, key := range s.through {
		if b := s.backends[key]; b != nil {
			hosts[host] = &passage{backend: b, balancer: b.pool.Balancer(balance.Config{})}
		}
	}
	s.passthrough.Store(&hosts)
}

// readKey takes over the key that all nodes share, if it has changed. Pools are made with it, so they are all made
// anew then, and so are the rules. s.mu is held.
func (s *Server) readKey() {
	key := s.sessionKey()
	if bytes.Equal(key, s.key) {
		return
	}
	s.key = bytes.Clone(key)
	if err := s.tickets.SetSecret(s.key); err != nil {
		s.cfg.Log.Error("the key for session tickets cannot be used", "secret", s.cfg.Keys, "err", err)
	}
	for key, old := range s.backends {
		b := s.newBackend(key)
		b.hosts, b.addrs, b.name = old.hosts, old.addrs, old.name
		b.pool.Set(b.addrs, nil)
		s.backends[key] = b
		if s.last != nil {
			s.resolve(b)
		}
		b.setModel(old.model)
		s.drop(old)
	}
	if len(s.backends) > 0 {
		s.builder.SetGlobals(s.globals)
		s.publishPassthrough()
	}
}

// sessionKey is what the names of endpoints in cookies are hidden with, and what tickets are derived
// from. It is nil if nodes share none. s.mu is held.
func (s *Server) sessionKey() []byte {
	if s.cfg.Keys.Name == "" {
		return nil
	}
	if v := s.builder.Secret(s.cfg.Keys); v != nil {
		return v.Data["key"]
	}
	return nil
}
