package ingress

import (
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// A unit is one Ingress, compiled as far as that goes without the others.
type unit struct {
	in       *Ingress
	dialect  route.Dialect
	served   bool // it is ours, and not so bad that nothing of it counts
	settings *annotation.Settings
	shared   *sharedSettings
	instead  *BackendKey // what the annotation default-backend names, or nil
	problems []service.Problem
	claims   []*claim

	secrets, configMaps []service.Name // what it refers to
}

// A claimKind says why an Ingress has something to do with a host, in order of precedence.
type claimKind uint8

const (
	byRule  claimKind = iota // a rule names it
	byAlias                  // an annotation makes it an alias of a host of a rule
	byTwin                   // it is that with or without "www." and only redirects
	byTLS                    // only tls names it
)

// A claim is what one Ingress wants of one host.
type claim struct {
	unit     *unit
	kind     claimKind
	host     string  // the key of the host
	of       string  // for byAlias and byTwin: the host it stands for
	drafts   []draft // for byRule
	fallback *draft  // nil: the Ingress has no default backend
}

// A draft is what a Route will be made of for each host that it is part of.
type draft struct {
	path    *Path // nil for a default backend
	to      *Backend
	refused string // why to is unusable
	matcher
}

// name returns the path as written, and its type.
func (d *draft) name() (string, PathType) {
	if d.path == nil {
		return "", ""
	}
	return d.path.Path, d.path.Type
}

// newUnit compiles in.
func (b *Builder) newUnit(in *Ingress) *unit {
	u := &unit{in: in}
	var ours bool
	if u.dialect, ours = b.cfg.DialectOf(in, b.classes[in.Class]); !ours {
		return u
	}
	u.served = true
	u.annotations(b)
	if b.cfg.Globals.StrictPaths(u.dialect) && !u.plainPaths() {
		u.served = false
		return u
	}
	u.checkTLS(b)
	if len(in.Rules) == 0 && in.Default == nil {
		u.problem("InvalidIngress", "spec", "there are neither rules nor a default backend")
		return u
	}
	u.rules(b)
	u.others()
	return u
}

// annotations parses the annotations and remembers which objects they refer to.
func (u *unit) annotations(b *Builder) {
	in := u.in
	name := func(n string) service.Name { return service.Name{Namespace: in.Namespace, Name: n} }
	settings, findings := annotation.Parse(annotation.Input{
		Namespace: in.Namespace, Name: in.Name.Name, Annotations: in.Annotations,
		Dialect: u.dialect, Globals: b.cfg.Globals,
		SecretData: func(n string) (map[string][]byte, bool) {
			u.secrets = append(u.secrets, name(n))
			if s := b.secrets[name(n)]; s != nil {
				return s.in.Data, true
			}
			return nil, false
		},
		ConfigMapData: func(n string) (map[string]string, bool) {
			u.configMaps = append(u.configMaps, name(n))
			if m := b.configMaps[name(n)]; m != nil {
				return m.Data, true
			}
			return nil, false
		},
	})
	u.settings, u.shared = b.share(in, &settings)
	if n := settings.Routing.DefaultBackend; n != "" {
		u.instead = &BackendKey{Service: name(n)}
	}
	for _, f := range findings {
		u.problem(f.Reason(), "metadata.annotations["+f.Key+"]", "%s", f.Message)
	}
}

// plainPaths reports whether the paths are what ingress-nginx lets pass; else it leaves out the whole Ingress.
func (u *unit) plainPaths() bool {
	for i, r := range u.in.Rules {
		for j, p := range r.Paths {
			if (p.Type == Exact || p.Type == Prefix) && !isPlainPath(p.Path) {
				u.problem("InvalidPath", pathField(i, j)+".path",
					"path %q of type %s has characters other than letters, digits and ._-/: the Ingress is not served", p.Path, p.Type)
				return false
			}
		}
	}
	return true
}

// checkTLS looks at the Secrets that tls names, once for all hosts.
func (u *unit) checkTLS(b *Builder) {
	for i, t := range u.in.TLS {
		field := fmt.Sprintf("spec.tls[%d]", i)
		for j, host := range t.Hosts {
			if err := checkHost(host); err != nil {
				u.problem("InvalidHost", fmt.Sprintf("%s.hosts[%d]", field, j), "%v", err)
			}
		}
		if t.Secret == "" {
			continue
		}
		name := service.Name{Namespace: u.in.Namespace, Name: t.Secret}
		u.secrets = append(u.secrets, name)
		switch s := b.secrets[name]; {
		case s == nil:
			u.problem("SecretNotFound", field+".secretName", "there is no Secret %s: clients get the default certificate", name)
		case s.certificate(b) == nil:
			u.problem("CertInvalid", field+".secretName", "%v: clients get the default certificate", s.err)
		}
	}
}

// rules makes a claim for each host of a rule, and for the default backend where there are none.
func (u *unit) rules(b *Builder) {
	var fallback *draft
	if to := u.in.Default; to != nil {
		fallback = &draft{to: to, refused: u.refused(to, "spec.defaultBackend")}
	}
	if len(u.in.Rules) == 0 {
		u.claim("", b, "spec.defaultBackend", fallback)
	}
	for i, r := range u.in.Rules {
		field := fmt.Sprintf("spec.rules[%d]", i)
		if r.Host != "" {
			if err := checkHost(r.Host); err != nil {
				u.problem("InvalidHost", field+".host", "%v", err)
				continue
			}
		}
		c := u.claim(r.Host, b, field+".host", fallback)
		if c == nil {
			continue
		}
		for j := range r.Paths {
			if d, ok := u.draft(&r.Paths[j], pathField(i, j)); ok {
				c.drafts = append(c.drafts, d)
			}
		}
	}
}

// claim returns the claim of a rule to host, and makes it if there is none yet. It is nil if no Ingress may have it.
func (u *unit) claim(host string, b *Builder, field string, fallback *draft) *claim {
	if host == "" && b.cfg.NoCatchAll {
		u.problem("CatchAllRefused", field, "Ingresses that serve all hosts are not allowed here")
		return nil
	}
	for _, c := range u.claims {
		if c.host == host {
			return c
		}
	}
	c := &claim{unit: u, kind: byRule, host: host, fallback: fallback}
	u.claims = append(u.claims, c)
	return c
}

// others makes the claims that do not come from rules. A canary makes none: it only adds to what is there.
func (u *unit) others() {
	if u.settings.Canary != nil {
		return
	}
	ruled := len(u.claims)
	for _, c := range u.claims[:ruled] {
		if c.host == "" {
			continue
		}
		for _, alias := range u.settings.Routing.Aliases {
			if checkHost(alias) == nil {
				u.claims = append(u.claims, &claim{unit: u, kind: byAlias, host: alias, of: c.host})
			}
		}
		if u.settings.Routing.FromToWWW && !strings.HasPrefix(c.host, "*.") {
			u.claims = append(u.claims, &claim{unit: u, kind: byTwin, host: twin(c.host), of: c.host})
		}
	}
	for _, t := range u.in.TLS {
		for _, host := range t.Hosts {
			if checkHost(host) == nil {
				u.claims = append(u.claims, &claim{unit: u, kind: byTLS, host: host})
			}
		}
	}
}

// twin returns host with "www." in front, or without it if it is there.
func twin(host string) string {
	if bare, ok := strings.CutPrefix(host, "www."); ok {
		return bare
	}
	return "www." + host
}

// draft compiles one path. It returns false if that cannot match anything.
func (u *unit) draft(p *Path, field string) (draft, bool) {
	s := u.settings
	m, err := matcherOf(p, u.dialect, isRegex(p, s.Routing.UseRegex, s.Rewrite.Target, u.dialect))
	if err != nil {
		u.problem("InvalidPath", field+".path", "%v", err)
		return draft{}, false
	}
	return draft{path: p, to: &p.Backend, refused: u.refused(&p.Backend, field+".backend"), matcher: m}, true
}

// refused returns why to is no usable backend, or "".
func (u *unit) refused(to *Backend, field string) string {
	reason, err := checkBackend(to)
	if err == nil {
		return ""
	}
	u.problem(reason, field, "%v: requests get 503", err)
	return err.Error()
}

// backend returns what d leads to; nothing if it is refused.
func (u *unit) backend(d *draft) BackendKey {
	if d.refused != "" {
		return BackendKey{}
	}
	return BackendKey{
		Service: service.Name{Namespace: u.in.Namespace, Name: d.to.Service},
		Port:    d.to.Port,
		Address: u.settings.Upstream.ServiceAddress,
	}
}

// problem records something that is wrong with the Ingress alone.
func (u *unit) problem(reason, field, format string, args ...any) {
	u.problems = append(u.problems, u.newProblem(reason, field, format, args...))
}

func (u *unit) newProblem(reason, field, format string, args ...any) service.Problem {
	return service.Problem{
		Object: service.Object{Kind: "Ingress", Name: u.in.Name, UID: u.in.UID},
		Reason: reason, Field: field, Message: fmt.Sprintf(format, args...),
	}
}

func pathField(rule, path int) string {
	return fmt.Sprintf("spec.rules[%d].http.paths[%d]", rule, path)
}

// className is what the Ingress calls its class.
func (u *unit) className() string {
	if u.in.Class != "" {
		return u.in.Class
	}
	return u.in.Annotations[classAnnotation]
}
