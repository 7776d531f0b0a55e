package l7

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/ingress"
)

// newFallback makes what asks the Service of the operator for what no rule is about.
func (s *Server) newFallback() *destination {
	key := ingress.BackendKey{Service: s.cfg.DefaultBackend}
	b := s.newBackend(key)
	return &destination{
		way: &way{
			backend: b, balancer: b.pool.Balancer(balance.Config{}), tls: s.plainTLS, external: true,
			retry: &annotation.Retry{Error: true, Tries: 3},
		},
		target: &exchange.Target{Namespace: key.Service.Namespace, Service: key.Service.Name},
	}
}

var errNobody = errors.New("there is nobody to ask for an error page")

// errorPage asks the default backend of a rule, or that of the process, what it has to say about an answer.
func (s *Server) errorPage(r *rule, x *exchange.Exchange, question exchange.Header) (*exchange.Response, error) {
	d := r.fallback
	if d == nil {
		d = s.fallback
	}
	if d == nil || d.backend.external.Load() && !d.external {
		return nil, errNobody
	}
	page := &exchange.Exchange{Context: x.Context, Target: d.target, Request: exchange.Request{
		Method: http.MethodGet, Protocol: x.Request.Protocol, Secure: x.Request.Secure, Host: x.Request.Host, RawHost: x.Request.RawHost,
		Path: "/", RawPath: "/", Header: question, Client: x.Request.Client, Peer: x.Request.Peer, ID: x.Request.ID,
	}}
	ep, ok := d.balancer.Pick(&balance.Pick{Client: x.Request.Client.Addr()})
	if !ok {
		return nil, errNobody
	}
	ep.Begin()
	began := time.Now()
	resp, err := s.client.Do(page, d.at(ep.Addr()))
	if err != nil {
		outcome := balance.Failed
		if x.Context.Err() != nil {
			outcome = balance.Aborted
		}
		ep.Report(outcome, time.Since(began))
		ep.End()
		return nil, err
	}
	ep.Report(balance.Answered, time.Since(began))
	if resp.Body == nil {
		ep.End()
		return resp, nil
	}
	resp.Body = &pageBody{ReadCloser: resp.Body, end: sync.OnceFunc(ep.End)}
	return resp, nil
}

// A pageBody is that of an error page, whose endpoint is busy until it is closed.
type pageBody struct {
	io.ReadCloser
	end func()
}

// Close is of io.Closer.
func (b *pageBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
