package l7

import (
	"errors"
	"net/http"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// defaultDestination asks the Service of the operator for what no rule is about.
func (s *Server) defaultDestination() *destination {
	key := ingress.BackendKey{Service: s.cfg.DefaultBackend}
	return &destination{
		backend: s.fallback, balancer: s.fallback.pool.Balancer(balance.Config{}), tls: s.plainTLS,
		retry:  annotation.Retry{Error: true, Tries: 3},
		target: exchange.Target{Namespace: key.Service.Namespace, Service: key.Service.Name},
	}
}

var errNobody = errors.New("there is nobody to ask for an error page")

// errorPage asks the default backend of a rule, or that of the process, what it has to say about an answer.
func (s *Server) errorPage(r *rule, x *exchange.Exchange, question exchange.Header) (*exchange.Response, error) {
	d := r.fallback
	if d == nil && s.fallback != nil {
		d = s.defaultDestination()
	}
	if d == nil {
		return nil, errNobody
	}
	page := &exchange.Exchange{Context: x.Context, Target: &d.target, Request: exchange.Request{
		Method: http.MethodGet, Protocol: x.Request.Protocol, Secure: x.Request.Secure, Host: x.Request.Host, RawHost: x.Request.RawHost,
		Path: "/", RawPath: "/", Header: question, Client: x.Request.Client, Peer: x.Request.Peer, ID: x.Request.ID,
	}}
	ep, ok := d.balancer.Pick(&balance.Pick{Client: x.Request.Client.Addr()})
	if !ok {
		return nil, errNobody
	}
	resp, err := s.client.Do(page, upstream.Target{Addr: ep.Addr(), Protocol: d.protocol, TLS: d.tls, Timeouts: d.timeouts})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
