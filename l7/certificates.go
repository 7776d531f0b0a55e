package l7

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

var noPrefixes = []netip.Prefix{}

// certificates is what is known of Secrets with certificates. Server.mu guards it.
type certificates struct {
	cache   certs.Cache
	hosts   map[string][]service.Name // which Secrets each host has
	globals []service.Problem         // with the ConfigMap
	dates   []service.Problem         // with the dates of certificates
	own     *certs.Pair               // made by ourselves, for want of another default
}

// defaultCertificate makes the certificate for hosts that have none, until the one of the operator is there.
func (s *Server) defaultCertificate() error {
	pair, err := certs.SelfSigned(time.Now())
	if err != nil {
		return fmt.Errorf("l7: make a certificate: %w", err)
	}
	s.secrets.own = pair
	s.certs.SetDefault(certs.Default{Pairs: []*certs.Pair{pair}, Reject: s.process.Load().globals.TLS.RejectHandshake})
	return nil
}

// readCertificates takes over what has changed about certificates. s.mu is held.
func (s *Server) readCertificates(d *ingress.Delta, changes []kube.Change) {
	for host, names := range d.Certs {
		if names == nil {
			delete(s.secrets.hosts, host)
		} else {
			s.secrets.hosts[host] = names
		}
	}
	updates := map[string][]*certs.Pair{}
	for host := range d.Certs {
		updates[host] = s.pairs(s.secrets.hosts[host])
	}
	if len(d.Secrets) > 0 {
		for host, names := range s.secrets.hosts {
			if slices.ContainsFunc(names, func(n service.Name) bool { _, ok := d.Secrets[n]; return ok }) {
				updates[host] = s.pairs(names)
			}
		}
	}
	if len(updates) > 0 {
		s.certs.Update(updates)
		s.checkDates(time.Now())
	}
	for _, c := range changes {
		if c.Object.Kind == "Secret" && c.Object.Name == s.cfg.DefaultCertificate {
			s.setDefaultCertificate()
		}
		if c.Object.Kind == "Secret" && c.Object.Name == s.cfg.Keys {
			s.setKeys()
		}
	}
}

// setDefaultCertificate takes over the operator's default certificate. A bad one changes nothing.
func (s *Server) setDefaultCertificate() {
	pairs := s.pairs([]service.Name{s.cfg.DefaultCertificate})
	if len(pairs) == 0 {
		s.cfg.Log.Error("the default certificate cannot be used; what was in force stays", "secret", s.cfg.DefaultCertificate)
		return
	}
	s.certs.SetDefault(certs.Default{Pairs: pairs, Reject: s.process.Load().globals.TLS.RejectHandshake})
}

// setKeys takes over the key that all nodes share.
func (s *Server) setKeys() {
	if err := s.tickets.SetSecret(s.sessionKey()); err != nil {
		s.cfg.Log.Error("the key for session tickets cannot be used", "secret", s.cfg.Keys, "err", err)
	}
}

// sessionKey is what the names of endpoints in cookies are hidden with, and what tickets are derived
// from. It is nil if nodes share none.
func (s *Server) sessionKey() []byte {
	if s.cfg.Keys.Name == "" {
		return nil
	}
	if v := s.builder.Secret(s.cfg.Keys); v != nil {
		return v.Data["key"]
	}
	return nil
}

func (s *Server) pairs(names []service.Name) []*certs.Pair {
	var out []*certs.Pair
	for _, n := range names {
		v := s.builder.Secret(n)
		if v == nil {
			continue
		}
		pair, err := s.secrets.cache.Parse(v.Data["tls.crt"], v.Data["tls.key"])
		if err != nil {
			s.cfg.Log.Error("a certificate cannot be used", "secret", n, "err", err)
			continue
		}
		out = append(out, pair)
	}
	return out
}

// checkDates finds certificates that are over or soon will be. s.mu is held.
func (s *Server) checkDates(now time.Time) {
	s.secrets.dates = nil
	seen := map[service.Name]bool{}
	for _, names := range s.secrets.hosts {
		for _, n := range names {
			if seen[n] {
				continue
			}
			seen[n] = true
			for _, p := range s.pairs([]service.Name{n}) {
				s.secrets.dates = append(s.secrets.dates, p.Problems(service.Object{Kind: "Secret", Name: n, UID: s.builder.Secret(n).UID}, now)...)
			}
		}
	}
	slices.SortFunc(s.secrets.dates, func(a, b service.Problem) int { return a.Object.Name.Compare(b.Object.Name) })
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
			s.mu.Lock()
			s.checkDates(now)
			s.report()
			s.mu.Unlock()
		}
	}
}
