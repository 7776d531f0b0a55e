package ingress

import (
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// A hostState is what is known of one host: who wants something of it, and what that comes to.
type hostState struct {
	claims []*claim // byRule first, then by kind; the oldest Ingress first in each

	model       *HostModel // nil: not served
	certs       []service.Name
	tls         bool // somebody says that there is TLS for it
	passthrough *BackendKey
	problems    []service.Problem
	backends    []*backendState // what the model leads to
}

// of returns the claims of that kind.
func (h *hostState) of(kind claimKind) []*claim {
	lo := 0
	for lo < len(h.claims) && h.claims[lo].kind < kind {
		lo++
	}
	hi := lo
	for hi < len(h.claims) && h.claims[hi].kind == kind {
		hi++
	}
	return h.claims[lo:hi]
}

// rebuild makes everything in h but claims anew.
func (h *hostState) rebuild(name string, b *Builder) {
	h.model, h.passthrough, h.problems = nil, nil, nil
	h.certs, h.tls = nil, false
	claims := h.claimants(name, b)
	if len(claims) == 0 {
		h.certsOnly(name, b)
		return
	}
	h.chooseTLS(name, claims, b)
	h.model = &HostModel{
		Name: name, Dialect: claims[0].unit.dialect, AliasOf: aliasOf(name, claims[0]),
		TLS: h.tls || b.wildcardTLS(name),
	}
	if claims[0].kind == byTwin {
		h.redirectTwin(name, claims[0])
	} else {
		h.addRoutes(claims, b)
		h.addFallback(name, claims, b)
		h.addCanaries(claims)
		h.choosePassthrough(name, claims)
	}
}

// claimants returns the claims that the host is built of: those of rules, or else those
// of the host it is an alias of, or else that which makes it a twin.
func (h *hostState) claimants(name string, b *Builder) []*claim {
	if list := h.primaries(b, h.of(byRule)); len(list) > 0 {
		for _, c := range append(h.of(byAlias), h.of(byTwin)...) {
			if c.kind == byAlias {
				h.conflict(c.unit, "metadata.annotations", "host "+name+", wanted as an alias,", list[0].unit)
			}
		}
		return list
	}
	for _, c := range h.of(byAlias) {
		origin := b.hosts[c.of]
		list := h.primaries(b, origin.of(byRule))
		owner := aliasOwner(list)
		if owner == nil || owner != c.unit {
			if owner != nil {
				h.conflict(c.unit, "metadata.annotations", "the aliases of host "+c.of, owner)
			}
			continue
		}
		return list
	}
	for _, c := range h.of(byTwin) {
		for _, p := range h.primaries(b, b.hosts[c.of].of(byRule)) {
			if p.unit == c.unit {
				return []*claim{c}
			}
		}
	}
	return nil
}

// primaries returns list if anything in it is no canary, without those who may not have the host.
func (h *hostState) primaries(b *Builder, list []*claim) []*claim {
	var first *unit
	for _, c := range list {
		if c.unit.settings.Canary == nil {
			first = c.unit
			break
		}
	}
	if first == nil {
		for _, c := range list {
			h.lonely(c)
		}
		return nil
	}
	var kept []*claim
	for _, c := range list {
		if b.cfg.OwnedHosts && c.unit.in.Namespace != first.in.Namespace {
			h.conflict(c.unit, "spec.rules", "host "+c.host, first)
			continue
		}
		kept = append(kept, c)
	}
	return firstPrimary(kept)
}

// firstPrimary moves the canaries in list behind the others.
func firstPrimary(list []*claim) []*claim {
	sorted := make([]*claim, 0, len(list))
	for _, canary := range []bool{false, true} {
		for _, c := range list {
			if (c.unit.settings.Canary != nil) == canary {
				sorted = append(sorted, c)
			}
		}
	}
	return sorted
}

// aliasOwner returns the oldest Ingress of a host that has aliases for it: only it may.
func aliasOwner(list []*claim) *unit {
	for _, c := range list {
		if c.unit.settings.Canary == nil && len(c.unit.settings.Routing.Aliases) > 0 {
			return c.unit
		}
	}
	return nil
}

// aliasOf returns the host that name is an alias of, given that it is built of c.
func aliasOf(name string, c *claim) string {
	if c.kind == byRule && c.host != name {
		return c.host
	}
	return ""
}

// choosePassthrough settles where undecrypted connections go. The oldest Ingress of the host says whether any do.
func (h *hostState) choosePassthrough(name string, claims []*claim) {
	for i, c := range claims {
		switch {
		case !c.unit.settings.Routing.SSLPassthrough || c.unit.settings.Canary != nil:
		case i > 0:
			h.conflict(c.unit, "metadata.annotations", "whether host "+name+" is passed through", claims[0].unit)
		case name == "":
			h.problems = append(h.problems, c.unit.newProblem("InvalidAnnotation", "metadata.annotations",
				"connections are passed through by the host they name: a rule without a host has none"))
		default:
			if r := h.rootOf(c.unit); r != nil {
				h.passthrough = &r.Backend
			} else {
				h.problems = append(h.problems, c.unit.newProblem("InvalidAnnotation", "spec.rules",
					"to pass connections through there has to be a path / for host %q", name))
			}
		}
	}
}

// rootOf returns the route for "/" that u has, or its fallback, if it leads anywhere.
func (h *hostState) rootOf(u *unit) *Route {
	for _, r := range h.model.Routes {
		if r.Ingress == u.in.Name && (r.Path == "/" || r.Path == "") && r.Refused == "" {
			return r
		}
	}
	if f := h.model.Fallback; f != nil && f.Ingress == u.in.Name && f.Refused == "" {
		return f
	}
	return nil
}

// chooseTLS settles the certificates: the oldest Ingress that says anything about TLS for the host decides.
func (h *hostState) chooseTLS(name string, claims []*claim, b *Builder) {
	var winner *unit
	var won tlsChoice
	for _, c := range claims {
		if c.unit.settings.Canary != nil {
			continue
		}
		choice := c.unit.tlsFor(name, b)
		switch {
		case !choice.on:
		case winner == nil:
			winner, won, h.tls = c.unit, choice, true
			h.certs = choice.usable(c.unit, name, b, &h.problems)
		case len(choice.secrets) > 0 && !slices.Equal(choice.secrets, won.secrets):
			h.conflict(c.unit, choice.fields[0], "the certificate of host "+name, winner)
		}
	}
}

// certsOnly settles the certificates of a host that has no rules, but that some tls names.
func (h *hostState) certsOnly(name string, b *Builder) {
	h.chooseTLS(name, h.of(byTLS), b)
}

// conflict says that what u wants is winner's.
func (h *hostState) conflict(u *unit, field, what string, winner *unit) {
	if u != winner {
		h.problems = append(h.problems, u.newProblem("Conflict", field, "%s belongs to Ingress %s, which is older",
			strings.TrimSuffix(what, ","), winner.in.Name))
	}
}
