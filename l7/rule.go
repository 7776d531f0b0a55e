package l7

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"strings"
	"weak"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/l7/upstream"
	"github.com/fairlead-project/fairlead/service"
)

// A rule is a Route that can serve. It is immutable; what its backends know changes under it.
type rule struct {
	route    *ingress.Route
	target   exchange.Target
	pipeline *policy.Pipeline
	primary  *destination    // nil: the rule has no backend
	canary   *destination    // nil: there is none
	choose   *balance.Canary // between the two
	fallback *destination    // the annotation default-backend: who is asked when there are no endpoints, and for error pages
	log      bool

	stats, canaryStats *stats.Rule // the same if there is no canary
}

// A destination is a backend with one rule's way of asking it.
type destination struct {
	*way
	sticky *balance.Sticky // nil: there are no sessions
	target *exchange.Target
}

// A way is how a backend is asked. Rules for which it is the same share it, and so the turn of its endpoints: there may be
// many thousand rules.
type way struct {
	backend  *backend
	balancer *balance.Balancer
	key      []keyPart // of hashing
	protocol upstream.Protocol
	tls      *tls.Config
	timeouts upstream.Timeouts
	head     int // room for that of an answer
	retry    *annotation.Retry
	external bool // the backend may be a DNS name
}

// A wayKey is what makes one way to a backend differ from another. Settings are shared by the Ingresses for which they are the same.
type wayKey struct {
	settings *annotation.Settings
	tls      *tls.Config
	external bool
}

// A keyPart is a piece of what is hashed.
type keyPart struct {
	text  string
	value func(*exchange.Exchange) string // nil: text
}

// compile makes a rule of a Route. s.mu is held.
func (s *Server) compile(h *ingress.HostModel, r *ingress.Route) *rule {
	out := &rule{
		route: r, log: r.Settings == nil || r.Settings.AccessLog,
		target: *targetOf(r.Ingress, r.Backend, r.Path),
	}
	out.stats = s.stats.Rule(stats.Key{Namespace: r.Ingress.Namespace, Ingress: r.Ingress.Name, Service: out.target.Service, Class: r.Class})
	out.canaryStats = out.stats
	if r.WWW == "" && r.Refused == "" {
		out.primary = s.destination(r, r.Backend, r.Settings, &out.target)
	}
	if r.Default != nil {
		plain := *r.Settings // sessions are with the rule's own backend
		plain.Balance, plain.HashBy = balance.Config{}, nil
		out.fallback = s.destination(r, *r.Default, &plain, targetOf(r.Ingress, *r.Default, r.Path))
	}
	if c := r.Canary; c != nil && c.Refused == "" && c.Settings.Canary != nil {
		out.canary = s.destination(r, c.Backend, canarySettings(r), targetOf(c.Ingress, c.Backend, r.Path))
		out.choose = c.Settings.Canary
		out.canaryStats = s.stats.Rule(stats.Key{Namespace: c.Ingress.Namespace, Ingress: c.Ingress.Name, Service: c.Backend.Service.Name, Class: r.Class})
	}
	options := r.Dialect.Options()
	options.Rewritten = true
	var err error
	out.pipeline, err = policy.Compile(*r.Policy, policy.Env{
		Rule:      r.Ingress.String() + " " + r.Host + " " + r.Path,
		AnyHost:   h.Name == "" || strings.HasPrefix(h.Name, "*."),
		Shared:    s.shared,
		Canonical: func(path string) (string, error) { return route.Canonical(path, options) },
		ErrorPage: func(x *exchange.Exchange, question exchange.Header) (*exchange.Response, error) {
			return s.errorPage(out, x, question)
		},
	})
	if err != nil {
		s.cfg.Log.Error("a rule is closed", "ingress", r.Ingress, "host", r.Host, "path", r.Path, "err", err)
	}
	return out
}

// canarySettings are the Route's, but for how the canary chooses endpoints; unless it says otherwise, clients keep to
// its endpoints by the same sessions.
func canarySettings(r *ingress.Route) *annotation.Settings {
	out, own := *r.Settings, r.Canary.Settings
	sticky := out.Balance.Sticky
	out.Balance, out.HashBy = own.Balance, own.HashBy
	if !own.Canary.Legacy {
		out.Balance.Sticky = sticky
	}
	return &out
}

func targetOf(in service.Name, key ingress.BackendKey, path string) *exchange.Target {
	return &exchange.Target{Namespace: in.Namespace, Ingress: in.Name, Service: key.Service.Name, Port: key.Port.String(), Path: path}
}

// destination makes what asks a backend in the way of set. s.mu is held.
func (s *Server) destination(r *ingress.Route, key ingress.BackendKey, set *annotation.Settings, target *exchange.Target) *destination {
	b := s.backends[key]
	if b == nil {
		return nil
	}
	k := wayKey{settings: set, tls: s.plainTLS, external: r.External}
	if set.Upstream.TLS != (annotation.UpstreamTLS{}) {
		k.tls = s.upstreamTLS(r, set.Upstream.TLS)
	}
	if set.Balance.Sticky == nil {
		return &destination{way: b.way(k), target: target}
	}
	c := set.Balance
	sticky := *c.Sticky
	if sticky.Path == "" {
		sticky.Path = set.CookiePath(annotation.Rule{Path: r.Path, Regex: r.Kind == route.Regex})
	}
	c.Sticky = &sticky
	return &destination{way: b.newWay(k, c), sticky: &sticky, target: target}
}

// way returns the way to b that k says, the one there is or a new one. s.mu is held.
func (b *backend) way(k wayKey) *way {
	if w := b.ways[k].Value(); w != nil {
		return w
	}
	if len(b.ways) >= b.sweep { // those that no rule has any more
		maps.DeleteFunc(b.ways, func(_ wayKey, w weak.Pointer[way]) bool { return w.Value() == nil })
		b.sweep = 2*len(b.ways) + 16
	}
	w := b.newWay(k, k.settings.Balance)
	b.ways[k] = weak.Make(w)
	return w
}

func (b *backend) newWay(k wayKey, c balance.Config) *way {
	up := &k.settings.Upstream
	w := &way{
		backend: b, retry: &up.Retry, protocol: protocolOf(up.Protocol), tls: k.tls, external: k.external,
		timeouts: upstream.Timeouts{Connect: up.ConnectTimeout, Read: up.ReadTimeout, Write: up.SendTimeout},
		head:     int(up.MaxHead), balancer: b.pool.Balancer(c),
	}
	for _, p := range k.settings.HashBy {
		w.key = append(w.key, keyPart{text: p.Text, value: policy.Variable(p.Variable)})
	}
	return w
}

func protocolOf(p annotation.Protocol) upstream.Protocol {
	switch p {
	case annotation.HTTPS:
		return upstream.HTTPS
	case annotation.GRPC:
		return upstream.GRPC
	case annotation.GRPCS:
		return upstream.GRPCS
	}
	return upstream.HTTP
}

// A tlsKey is what makes one way of speaking TLS to backends differ from another.
type tlsKey struct {
	name            string
	verify          bool
	lowest, highest uint16
	secret          *ingress.Secret // this version of it, or nil
}

// upstreamTLS is how TLS is spoken to a backend. Rules that have it alike share connections, also with what
// they were before a change. s.mu is held.
func (s *Server) upstreamTLS(r *ingress.Route, t annotation.UpstreamTLS) *tls.Config {
	key := tlsKey{verify: t.Verify, lowest: t.MinVersion, highest: t.MaxVersion}
	if t.ServerName || t.Verify {
		if key.name = t.Name; key.name == "" && !strings.HasPrefix(r.Host, "*.") {
			key.name = r.Host
		}
	}
	if t.Secret != "" {
		key.secret = s.builder.Secret(service.Name{Namespace: r.Ingress.Namespace, Name: t.Secret})
	}
	if c := s.upstreams[key].Value(); c != nil {
		return c
	}
	c := upstream.TLSConfig(s.tlsOptions(key))
	s.upstreams[key] = weak.Make(c)
	return c
}

// tlsOptions makes what is compared into what is used. A Secret that should have what to trust and has not leaves
// nobody to trust. s.mu is held.
func (s *Server) tlsOptions(k tlsKey) upstream.TLSOptions {
	o := upstream.TLSOptions{Name: k.name, Verify: k.verify, MinVersion: k.lowest, MaxVersion: k.highest}
	if k.secret == nil {
		return o
	}
	if pem := k.secret.Data["ca.crt"]; len(pem) > 0 {
		o.Roots = x509.NewCertPool()
		o.Roots.AppendCertsFromPEM(pem)
	}
	if pair, err := s.secrets.cache.Parse(k.secret.Data["tls.crt"], k.secret.Data["tls.key"]); err == nil {
		o.Certificates = []tls.Certificate{pair.Certificate}
	}
	return o
}

// hashKey is what a request is hashed by.
func (d *destination) hashKey(x *exchange.Exchange) string {
	if len(d.key) == 1 && d.key[0].value != nil {
		return d.key[0].value(x)
	}
	var b strings.Builder
	for _, p := range d.key {
		if p.value != nil {
			b.WriteString(p.value(x))
		} else {
			b.WriteString(p.text)
		}
	}
	return b.String()
}
