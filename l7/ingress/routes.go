package ingress

import (
	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

// A pathKey is what two Routes of one host cannot share.
type pathKey struct {
	kind route.Kind
	typ  PathType
	path string
}

// keyOf returns the key of r. In the strict dialect what matches the same is the same; in that of nginx
// paths of different types stand side by side.
func keyOf(r *draft, d route.Dialect) pathKey {
	if d == route.Nginx {
		return pathKey{typ: r.path.Type, path: r.matcher.path}
	}
	return pathKey{kind: r.kind, path: r.matcher.path}
}

// addRoutes fills in the routes of all that are no canaries.
func (h *hostState) addRoutes(claims []*claim, b *Builder) {
	taken := make(map[pathKey]*Route)
	for _, c := range claims {
		if c.unit.settings.Canary != nil {
			continue
		}
		for i := range c.drafts {
			d := &c.drafts[i]
			key := keyOf(d, h.model.Dialect)
			if winner := taken[key]; winner != nil {
				h.problems = append(h.problems, c.unit.newProblem("Conflict", "spec.rules",
					"path %q of type %s of host %q belongs to Ingress %s", d.path.Path, d.path.Type, c.host, winner.Ingress))
				continue
			}
			taken[key] = h.route(d, c.unit, b)
			h.model.Routes = append(h.model.Routes, taken[key])
		}
	}
}

// route makes the Route of d at this host.
func (h *hostState) route(d *draft, u *unit, b *Builder) *Route {
	r := &Route{
		Ingress: u.in.Name, UID: u.in.UID, Host: h.model.Name,
		Kind: d.kind, Match: d.matcher.path, Regexp: d.re,
		Backend: u.backend(d), Refused: d.refused, Default: u.instead,
		External: u.dialect == route.Nginx || b.cfg.ExternalNames,
		Dialect:  u.dialect, Settings: u.settings, Class: u.className(),
	}
	r.Path, r.Type = d.name()
	config, err := r.Settings.Rule(annotation.Rule{
		Path: r.Path, Regex: r.Kind == route.Regex, Service: r.Backend.Service.Name, Certificate: h.model.TLS,
	})
	if err != nil {
		h.problems = append(h.problems, u.newProblem("InvalidAnnotation", "metadata.annotations", "%v: requests get 503", err))
	}
	r.Policy = u.shared.sharePolicy(config)
	return r
}

// addFallback fills in what unmatched paths get: the default backend of the oldest Ingress that names the host; without a
// name, of the oldest that has one.
func (h *hostState) addFallback(name string, claims []*claim, b *Builder) {
	for i, c := range claims {
		if c.fallback == nil || c.unit.settings.Canary != nil {
			continue
		}
		switch {
		case h.model.Fallback != nil:
			h.problems = append(h.problems, c.unit.newProblem("Conflict", "spec.defaultBackend",
				"the default backend of host %q is that of Ingress %s", c.host, h.model.Fallback.Ingress))
		case i > 0 && name != "":
			h.conflict(c.unit, "spec.defaultBackend", "host "+c.host+", and whether it has a default backend,", claims[0].unit)
		default:
			h.model.Fallback = h.route(c.fallback, c.unit, b)
		}
	}
}

// addCanaries attaches each canary to the route with its path and type.
func (h *hostState) addCanaries(claims []*claim) {
	for _, c := range claims {
		if c.unit.settings.Canary == nil {
			continue
		}
		for i := range c.drafts {
			h.attach(c, h.find(&c.drafts[i]), &c.drafts[i])
		}
		if c.fallback != nil && len(c.drafts) == 0 {
			h.attach(c, h.model.Fallback, c.fallback)
		}
	}
}

// find returns the Route that d is a canary of, or nil.
func (h *hostState) find(d *draft) *Route {
	path, typ := d.name()
	for _, r := range h.model.Routes {
		if r.Type == typ && r.Path == path {
			return r
		}
	}
	return nil
}

func (h *hostState) attach(c *claim, to *Route, d *draft) {
	path, _ := d.name()
	switch {
	case to == nil:
		h.lonely(c)
	case to.Canary != nil:
		h.problems = append(h.problems, c.unit.newProblem("Conflict", "spec.rules",
			"path %q of host %q has a canary already, Ingress %s", path, c.host, to.Canary.Ingress))
	default:
		u := c.unit
		to.Canary = &CanaryRoute{Ingress: u.in.Name, UID: u.in.UID, Backend: u.backend(d), Refused: d.refused, Settings: u.settings}
	}
}

// lonely says that a canary has nothing to be a canary of.
func (h *hostState) lonely(c *claim) {
	h.problems = append(h.problems, c.unit.newProblem("CanaryWithoutPrimary", "spec.rules",
		"no other Ingress has a rule with the same host %q, path and type: the canary gets no requests", c.host))
}

// redirectTwin makes the one route of a host that only redirects.
func (h *hostState) redirectTwin(name string, c *claim) {
	u := c.unit
	only := policy.Config{Redirect: policy.Redirect{WWW: c.of, HTTPSCode: u.settings.Policy.Redirect.HTTPSCode}}
	settings := &annotation.Settings{Policy: only, AccessLog: u.settings.AccessLog}
	h.model.Routes = []*Route{{
		Ingress: u.in.Name, UID: u.in.UID, Host: name, Path: "/", Type: Prefix,
		Kind: route.Prefix, Match: "/", WWW: c.of, Dialect: u.dialect, Settings: settings, Policy: &only,
	}}
}
