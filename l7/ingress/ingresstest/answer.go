package ingresstest

import (
	"context"
	"net/netip"
	"strings"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// A Harness answers requests by a Model and nothing else: no connections, no endpoints.
type Harness struct {
	table    *route.Table[*ingress.Route]
	services map[service.Name]Service
	fallback service.Name
	shared   *policy.Shared
}

// NewHarness returns a Harness for m, in which services exist. fallback is the default backend of the controller, if any.
func NewHarness(m *ingress.Model, services []Service, fallback service.Name) *Harness {
	hosts := make(map[string]*route.Host[*ingress.Route])
	for name, h := range m.Hosts {
		hosts[name] = ingress.Compile(h, func(r *ingress.Route) *ingress.Route { return r })
	}
	h := &Harness{
		table:    new(route.Table[*ingress.Route]).With(hosts),
		services: make(map[service.Name]Service),
		fallback: fallback,
		shared:   policy.NewShared(policy.SharedConfig{}),
	}
	for _, s := range services {
		h.services[s.Name] = s
	}
	return h
}

// Answer returns what a client gets that asks r.
func (h *Harness) Answer(r Request) Answer {
	host, port, err := route.ParseHost(r.Host)
	if err != nil {
		return Answer{Status: 400}
	}
	found := h.table.Find(host)
	raw, query, hasQuery := strings.Cut(r.Target, "?")
	path, err := route.Canonical(raw, found.Options())
	if err != nil {
		return Answer{Status: 400}
	}
	x := &exchange.Exchange{Context: context.Background(), Request: exchange.Request{
		Method: r.Method, Protocol: exchange.HTTP11, Secure: r.Secure, Host: host, Port: port, RawHost: r.Host,
		Path: path, RawPath: raw, Query: query, HasQuery: hasQuery,
		Client: netip.MustParseAddrPort("198.51.100.1:1234"), Peer: netip.MustParseAddrPort("198.51.100.1:1234"),
	}}
	for _, f := range r.Fields {
		x.Request.Header.Add(f.Name, f.Value)
	}
	m, ok := found.Lookup(path)
	if !ok {
		if h.fallback == (service.Name{}) {
			return Answer{Status: 404}
		}
		return h.ask(x, ingress.BackendKey{Service: h.fallback}, nil)
	}
	return h.route(x, m)
}

// route answers by the rule that has been found.
func (h *Harness) route(x *exchange.Exchange, m route.Match[*ingress.Route]) Answer {
	r := m.Value
	config := *r.Policy
	config.Redirect.Slash = m.Slash
	o := r.Dialect.Options()
	o.Rewritten = true
	pipeline, err := policy.Compile(config, policy.Env{
		Rule: r.Ingress.String() + r.Path, AnyHost: r.Host == "", Shared: h.shared,
		Canonical: func(path string) (string, error) { return route.Canonical(path, o) },
	})
	if err != nil {
		return Answer{Status: 503}
	}
	if !pipeline.Admit(x) {
		return Answer{Status: x.Response.Status, Location: x.Response.Header.Get("Location")}
	}
	if c := r.Canary; c != nil && chosen(c.Settings.Canary, x) {
		if c.Refused != "" {
			return Answer{Status: 503}
		}
		return h.ask(x, c.Backend, r)
	}
	if r.Refused != "" {
		return Answer{Status: 503}
	}
	return h.ask(x, r.Backend, r)
}

// chosen reports whether x goes to the canary. Only weights of nothing and of all can be told from here.
func chosen(c *annotation.Canary, x *exchange.Exchange) bool {
	if v := x.Request.Header.Get(c.Header); c.Header != "" && v != "" {
		switch {
		case c.Value != "" && v == c.Value, c.Pattern != nil && c.Pattern.MatchString(v):
			return true
		case c.Value == "" && c.Pattern == nil && (v == "always" || v == "never"):
			return v == "always"
		}
	}
	for pair := range strings.SplitSeq(x.Request.Header.Get("Cookie"), "; ") {
		if name, v, _ := strings.Cut(pair, "="); name == c.Cookie && (v == "always" || v == "never") {
			return v == "always"
		}
	}
	return c.Total > 0 && c.Weight >= c.Total
}

// ask answers as a backend would, or says that there is none. r is nil for the default backend of the controller.
func (h *Harness) ask(x *exchange.Exchange, key ingress.BackendKey, r *ingress.Route) Answer {
	s, ok := h.services[key.Service]
	if !ok || s.External != "" && (r == nil || !r.External) {
		return Answer{Status: 503}
	}
	i, err := ingress.ChoosePort(key.Port, s.Ports)
	if err != nil {
		return Answer{Status: 503}
	}
	if s.Empty {
		if r != nil && r.Default != nil && *r.Default != key {
			return h.ask(x, *r.Default, r)
		}
		return Answer{Status: 503}
	}
	return Answer{Status: 200, Backend: s.Name, Port: s.Ports[i].Number, Path: x.Request.Path}
}
