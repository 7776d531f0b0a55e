package ingress

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// A secret is a Secret and its certificate, parsed when somebody first asks for it.
type secret struct {
	in     *Secret
	parsed bool
	cert   Certificate
	err    error
}

// certificate returns the certificate, or nil if there is none; then s.err says why.
func (s *secret) certificate(b *Builder) Certificate {
	if !s.parsed {
		s.parsed = true
		if s.cert, s.err = b.cfg.Certificate(s.in); s.err != nil {
			s.cert = nil
		}
	}
	return s.cert
}

// A tlsChoice is what an Ingress says about TLS for one host.
type tlsChoice struct {
	on      bool // there is TLS, if only with the default certificate
	secrets []service.Name
	fields  []string // of each of secrets
}

// tlsFor returns what u says about TLS for host: the Secrets of all entries that list it (several, so that there can
// be a certificate of each kind of key), or else of those that list the wildcard over it, or else
// the first whose certificate is valid for it.
func (u *unit) tlsFor(host string, b *Builder) tlsChoice {
	list := u.tlsListing(func(h string) bool { return strings.EqualFold(h, host) })
	if !list.on {
		if wild := wildcardOf(host); wild != "" {
			list = u.tlsListing(func(h string) bool { return strings.EqualFold(h, wild) })
		}
	}
	if list.on {
		return list
	}
	for i, t := range u.in.TLS {
		name := service.Name{Namespace: u.in.Namespace, Name: t.Secret}
		if s := b.secrets[name]; t.Secret != "" && host != "" && s != nil && s.validFor(host, b) == nil {
			return tlsChoice{on: true, secrets: []service.Name{name}, fields: []string{tlsField(i)}}
		}
	}
	// ingress-nginx gives the default certificate to all hosts of an Ingress that has any tls. By
	// the API, an entry without hosts means all of them.
	list.on = len(u.in.TLS) > 0 && u.dialect == route.Nginx && host != "" ||
		slices.ContainsFunc(u.in.TLS, func(t TLS) bool { return len(t.Hosts) == 0 })
	return list
}

// tlsListing returns the entries with a host for which is is true.
func (u *unit) tlsListing(is func(string) bool) tlsChoice {
	var c tlsChoice
	for i, t := range u.in.TLS {
		if !slices.ContainsFunc(t.Hosts, is) {
			continue
		}
		c.on = true
		name := service.Name{Namespace: u.in.Namespace, Name: t.Secret}
		if t.Secret != "" && !slices.Contains(c.secrets, name) {
			c.secrets = append(c.secrets, name)
			c.fields = append(c.fields, tlsField(i))
		}
	}
	return c
}

// validFor returns why the certificate of s is of no use for host, or nil.
func (s *secret) validFor(host string, b *Builder) error {
	c := s.certificate(b)
	if c == nil {
		return s.err
	}
	if !c.ValidFor(host) {
		return fmt.Errorf("the certificate of Secret %s is not valid for %s", s.in.Name, host)
	}
	return nil
}

// usable returns those Secrets of c whose certificates are valid for host. What u has to hear is added to
// problems; that a Secret is missing or bad it has heard already.
func (c tlsChoice) usable(u *unit, host string, b *Builder, problems *[]service.Problem) []service.Name {
	var good []service.Name
	for i, name := range c.secrets {
		s := b.secrets[name]
		if s == nil || s.certificate(b) == nil {
			continue
		}
		if err := s.validFor(host, b); err != nil {
			*problems = append(*problems, u.newProblem("CertMismatch", c.fields[i], "%v: clients get the default certificate", err))
			continue
		}
		good = append(good, name)
	}
	return good
}

// wildcardOf returns the wildcard that covers host, or "" if host is one itself or has one label only.
func wildcardOf(host string) string {
	i := strings.IndexByte(host, '.')
	if i < 1 || host[0] == '*' {
		return ""
	}
	return "*" + host[i:]
}

func tlsField(i int) string { return fmt.Sprintf("spec.tls[%d].secretName", i) }
