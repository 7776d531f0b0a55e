package l7

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

// certificates is what is known of Secrets with certificates. Server.mu guards it.
type certificates struct {
	cache    certs.Cache
	hosts    map[string][]service.Name            // which Secrets each host has
	users    map[service.Name]map[string]struct{} // which hosts each Secret has
	own      *certs.Pair                          // made by ourselves, for want of another default
	chosen   []*certs.Pair                        // the operator's default, the last good one; nil: none yet
	asked    bool                                 // for the operator's default
	dates    map[service.Name][]service.Problem   // with the dates of Secrets in use
	dated    []service.Problem                    // all of dates, in order
	fallback []service.Problem                    // with the operator's default
	globals  []service.Problem                    // with the ConfigMap
}

func newCertificates() certificates {
	return certificates{
		hosts: make(map[string][]service.Name), users: make(map[service.Name]map[string]struct{}),
		dates: make(map[service.Name][]service.Problem),
	}
}

// setDefault puts the certificate for hosts that have none in force: the operator's, or until that is there, our own.
// s.mu is held.
func (s *Server) setDefault() {
	pairs := s.secrets.chosen
	if pairs == nil {
		pairs = []*certs.Pair{s.secrets.own}
	}
	s.certs.SetDefault(certs.Default{Pairs: pairs, Reject: s.process.Load().globals.TLS.RejectHandshake})
}

// readCertificates takes over what has changed about certificates, in time that depends on that alone. s.mu is held.
func (s *Server) readCertificates(d *ingress.Delta, changes []kube.Change) {
	touched := make(map[service.Name]struct{})
	hosts := make(map[string]struct{})
	for host, names := range d.Certs {
		s.useCertificates(host, names, touched)
		hosts[host] = struct{}{}
	}
	for n := range d.Secrets {
		touched[n] = struct{}{}
		for host := range s.secrets.users[n] {
			hosts[host] = struct{}{}
		}
	}
	if len(hosts) > 0 {
		updates := make(map[string][]*certs.Pair, len(hosts))
		for host := range hosts {
			updates[host] = s.pairs(s.secrets.hosts[host])
		}
		s.certs.Update(updates)
	}
	if name := s.cfg.DefaultCertificate; name.Name != "" {
		of := func(c kube.Change) bool { return c.Object.Kind == "Secret" && c.Object.Name == name }
		if !s.secrets.asked || slices.ContainsFunc(changes, of) {
			s.readDefault(name)
			touched[name] = struct{}{}
		}
	}
	s.judge(touched, time.Now())
}

// useCertificates notes which Secrets a host has from now on, and puts those that it had or has into touched. s.mu is held.
func (s *Server) useCertificates(host string, names []service.Name, touched map[service.Name]struct{}) {
	for _, n := range s.secrets.hosts[host] {
		touched[n] = struct{}{}
		if delete(s.secrets.users[n], host); len(s.secrets.users[n]) == 0 {
			delete(s.secrets.users, n)
		}
	}
	for _, n := range names {
		touched[n] = struct{}{}
		if s.secrets.users[n] == nil {
			s.secrets.users[n] = make(map[string]struct{})
		}
		s.secrets.users[n][host] = struct{}{}
	}
	if s.secrets.hosts[host] = names; len(names) == 0 {
		delete(s.secrets.hosts, host)
	}
}

// readDefault takes over the operator's default certificate. One that is bad or has gone changes nothing. s.mu is held.
func (s *Server) readDefault(name service.Name) {
	s.secrets.asked, s.secrets.fallback = true, nil
	problem := func(reason, message string) {
		s.secrets.fallback = []service.Problem{{
			Object: service.Object{Kind: "Secret", Name: name}, Reason: reason, Message: message + "; the default certificate stays what it was",
		}}
	}
	v := s.builder.Secret(name)
	if v == nil {
		problem("SecretNotFound", "there is no such Secret")
		return
	}
	pair, err := s.secrets.cache.Parse(v.Data["tls.crt"], v.Data["tls.key"])
	if err != nil {
		problem("CertInvalid", err.Error())
		return
	}
	s.secrets.chosen = []*certs.Pair{pair}
	s.setDefault()
}

// pairs returns the certificates in Secrets that the builder has found good.
func (s *Server) pairs(names []service.Name) []*certs.Pair {
	var out []*certs.Pair
	for _, n := range names {
		if pair, ok := s.builder.Certificate(n).(*certs.Pair); ok && pair != nil {
			out = append(out, pair)
		}
	}
	return out
}

// judge finds out which of the certificates in Secrets are over or soon will be. s.mu is held.
func (s *Server) judge(names map[service.Name]struct{}, now time.Time) {
	for n := range names {
		var list []service.Problem
		if len(s.secrets.users[n]) > 0 || n == s.cfg.DefaultCertificate {
			for _, p := range s.pairs([]service.Name{n}) {
				list = append(list, p.Problems(service.Object{Kind: "Secret", Name: n, UID: s.builder.Secret(n).UID}, now)...)
			}
		}
		if slices.Equal(list, s.secrets.dates[n]) {
			continue
		}
		s.secrets.dated = nil
		if s.secrets.dates[n] = list; len(list) == 0 {
			delete(s.secrets.dates, n)
		}
	}
}

// datedProblems are with the dates of certificates. s.mu is held.
func (s *Server) datedProblems() []service.Problem {
	if s.secrets.dated == nil && len(s.secrets.dates) > 0 {
		s.secrets.dated = slices.Concat(slices.Collect(maps.Values(s.secrets.dates))...)
		slices.SortFunc(s.secrets.dated, func(a, b service.Problem) int {
			return cmp.Or(a.Object.Name.Compare(b.Object.Name), strings.Compare(a.Reason, b.Reason), strings.Compare(a.Message, b.Message))
		})
	}
	return s.secrets.dated
}

// judgeAll looks at the dates of all certificates in use.
func (s *Server) judgeAll(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make(map[service.Name]struct{})
	for n := range s.secrets.users {
		names[n] = struct{}{}
	}
	if s.cfg.DefaultCertificate.Name != "" {
		names[s.cfg.DefaultCertificate] = struct{}{}
	}
	s.judge(names, now)
	s.report()
}

// watchDates looks at the dates of certificates every hour.
func (s *Server) watchDates(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.judgeAll(now)
		}
	}
}
