package l7

import (
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/l7/status"
)

// DrainTime is how long requests under way may take after the process was told to stop.
func (s *Server) DrainTime() time.Duration { return s.process.Load().globals.Listeners.Drain }

// Register adds the metrics of s.
func (s *Server) Register(r prometheus.Registerer) {
	s.stats.SetSources(stats.Sources{
		H1: s.gates, Upstream: &s.client.Stats, Listeners: s.listenerStats,
		Endpoints: s.eachEndpoint, Ejections: s.ejections, Config: s.inForce,
		Certificates: s.certs.Snapshot, HandshakesBusy: s.limiter.Refused, AccessLog: s.access.Lines,
		Refused: func() iter.Seq2[string, uint64] { return s.engine.Stats().Refused.All() },
	})
	r.MustRegister(s.stats)
}

func (s *Server) listenerStats() []stats.Listener {
	var out []stats.Listener
	for _, l := range s.engine.Stats().Listeners() {
		out = append(out, stats.Listener{
			Name: l.Name, Accepted: l.Accepted.Load(), Open: l.Open.Load(),
			Refused:   map[string]uint64{"full": l.Shed.Load(), "client": l.PerClient.Load(), "proxy": l.BadProxy.Load()},
			Cut:       map[string]uint64{"room": l.Evicted.Load(), "idle": l.CutIdle.Load(), "head": l.CutHead.Load(), "handshake": l.CutHandshake.Load()},
			Protocols: map[string]uint64{"http/1.1": l.HTTP1.Load(), "h2": l.HTTP2.Load(), "passthrough": l.Passthrough.Load()},
		})
	}
	return out
}

// pools returns the backends there are, by name.
func (s *Server) pools() []*backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*backend
	for _, b := range s.backends {
		list = append(list, b)
	}
	if s.fallback != nil {
		list = append(list, s.fallback.backend)
	}
	slices.SortFunc(list, func(a, b *backend) int { return strings.Compare(a.key.String(), b.key.String()) })
	return list
}

func (s *Server) eachEndpoint() iter.Seq[balance.EndpointStatus] {
	return func(yield func(balance.EndpointStatus) bool) {
		for _, b := range s.pools() {
			for _, e := range b.pool.Snapshot() {
				if !yield(e) {
					return
				}
			}
		}
	}
}

func (s *Server) ejections() uint64 {
	n := s.ejected.Load()
	for _, b := range s.pools() {
		n += b.pool.Ejections()
	}
	return n
}

func (s *Server) inForce() stats.Config {
	c := stats.Config{
		Generation: s.compiled.generation.Load(), Compile: time.Duration(s.compiled.took.Load()),
		Hosts: s.table.Load().Len(), Backends: len(s.pools()),
	}
	if at := s.compiled.last.Load(); at != 0 {
		c.Applied = time.Unix(0, at)
	}
	for _, h := range s.table.Load().All() {
		for range h.Paths() {
			c.Routes++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Ingresses, c.Problems = len(s.builder.Served()), len(s.problems())
	return c
}

// StatusPage returns the handler of the status page for clients in allow; nobody in it means this machine.
func (s *Server) StatusPage(allow []netip.Prefix) http.Handler {
	return status.Handler(status.Config{Allow: allow, View: s.view, Log: s.cfg.Log})
}

func (s *Server) view() status.View {
	c := s.inForce()
	v := status.View{
		Version: s.cfg.Version, Started: s.started, Generation: c.Generation, Applied: c.Applied,
		Certificates: s.certs.Snapshot(),
	}
	select {
	case <-s.ready:
		v.Serving = true
	default:
		v.Why = "not everything is in force yet"
	}
	for _, l := range s.engine.Stats().Listeners() {
		protocol := "HTTP/1.1"
		if l.Secure {
			protocol = "HTTP/1.1, HTTP/2 over TLS"
		}
		v.Listeners = append(v.Listeners, status.Listener{
			Name: l.Name, Address: l.Address, Protocol: protocol, Open: l.Open.Load(), Accepted: l.Accepted.Load(),
		})
	}
	for _, b := range s.pools() {
		v.Backends = append(v.Backends, status.Backend{Name: b.key.String(), Endpoints: b.pool.Snapshot(), Problem: s.troubleOf(b)})
	}
	v.Hosts, v.Classes = s.viewHosts()
	s.mu.Lock()
	v.Problems, v.Ingresses = s.problems(), s.builder.Served()
	s.mu.Unlock()
	written, dropped := s.access.Lines()
	v.Counters = []status.Counter{
		{Name: "access log lines written", Value: written}, {Name: "access log lines dropped", Value: dropped},
		{Name: "retries", Value: s.stats.Retries.Load()}, {Name: "ejections", Value: s.ejections()}, {Name: "panics", Value: s.stats.Panics.Load()},
	}
	return v
}

func (s *Server) troubleOf(b *backend) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.trouble.text
}

func (s *Server) viewHosts() ([]status.Host, []status.Class) {
	classes := map[string]*status.Class{}
	counted := map[string]bool{}
	var hosts []status.Host
	s.mu.Lock()
	model := s.builder.Model()
	s.mu.Unlock()
	for name, m := range model.Hosts {
		h := status.Host{Name: name, Dialect: m.Dialect.String(), TLS: m.TLS, AliasOf: m.AliasOf}
		if key, ok := model.Passthrough[name]; ok {
			h.Passthrough = key.String()
		}
		routes := slices.Clone(m.Routes)
		if m.Fallback != nil {
			routes = append(routes, m.Fallback)
		}
		for _, r := range routes {
			h.Paths = append(h.Paths, viewPath(r, r == m.Fallback))
			c := classes[r.Class]
			if c == nil {
				c = &status.Class{Name: r.Class, Dialect: r.Dialect.String(), Controller: s.controller(r)}
				classes[r.Class] = c
			}
			if in := r.Ingress.String(); !counted[in] {
				counted[in] = true
				c.Ingresses++
			}
		}
		hosts = append(hosts, h)
	}
	var list []status.Class
	for _, c := range classes {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b status.Class) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(hosts, func(a, b status.Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, list
}

func (s *Server) controller(r *ingress.Route) string {
	for _, c := range s.cfg.Ingress.Classes {
		if c.Dialect == r.Dialect {
			return c.Controller
		}
	}
	return ""
}

func viewPath(r *ingress.Route, fallback bool) status.Path {
	p := status.Path{
		Path: r.Path, Kind: r.Kind.String(), Ingress: r.Ingress.String(), Backend: r.Backend.String(),
		Policies: policies(r.Policy), Refused: r.Refused,
	}
	if fallback {
		p.Path, p.Kind = "", ""
	}
	if r.Policy != nil && r.Policy.Refused != "" {
		p.Refused = r.Policy.Refused
	}
	if c := r.Canary; c != nil {
		p.Canary = c.Backend.String()
		if d := c.Settings.Canary; d != nil && d.Weight > 0 {
			p.Canary += fmt.Sprintf(", %d of %d", d.Weight, max(d.Total, 100))
		}
	}
	if r.WWW != "" {
		p.Backend = "redirect to " + r.WWW
	}
	return p
}

// policies names what a rule has, in a word each.
func policies(c *policy.Config) []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, p := range []struct {
		name  string
		there bool
	}{
		{"https", c.Redirect.HTTPS}, {"redirect", c.Redirect.Temporal != "" || c.Redirect.Permanent != ""}, {"app-root", c.Redirect.AppRoot != ""},
		{"rewrite", c.Rewrite != nil}, {"access", c.Access != nil}, {"cors", c.CORS != nil}, {"limits", len(c.Limits) > 0},
		{"basic-auth", c.BasicAuth != nil}, {"external-auth", c.ExtAuth != nil}, {"compression", c.Compress != nil},
		{"error-pages", c.Errors != nil}, {"hsts", c.HSTS != nil}, {"body-limit", c.Body.Max > 0},
	} {
		if p.there {
			out = append(out, p.name)
		}
	}
	return out
}
