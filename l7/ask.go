package l7

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// An attempt is the tries of one request at one destination.
type attempt struct {
	s     *Server
	x     *exchange.Exchange
	f     *flight
	d     *destination
	pick  balance.Pick
	tried [4]netip.AddrPort // room for Pick.Tried
	tries int
	began time.Time
	fresh bool // the next try takes a new connection
}

// ask has the request answered by a backend.
func (s *Server) ask(x *exchange.Exchange, f *flight) {
	d := f.pick(x)
	f.dest = d
	if d == nil {
		x.Answer(http.StatusServiceUnavailable, reasonNoBackend)
		return
	}
	if d.backend.external.Load() && f.rule != nil && !f.rule.route.External {
		x.Answer(http.StatusServiceUnavailable, reasonExternal)
		return
	}
	s.budget.Begin()
	f.counted = true
	if !s.askAt(x, f, d) && f.rule != nil && f.rule.fallback != nil {
		f.dest = f.rule.fallback
		s.askAt(x, f, f.dest)
	}
	if x.Response == nil {
		x.Answer(http.StatusServiceUnavailable, reasonNoEndpoint)
	}
}

// askAt asks endpoints of d until one answers. It reports false, without an answer, if d has none.
func (s *Server) askAt(x *exchange.Exchange, f *flight, d *destination) bool {
	a := attempt{s: s, x: x, f: f, d: d, began: time.Now()}
	a.pick.Client = x.Request.Client.Addr()
	a.pick.Tried = a.tried[:0]
	if len(d.key) > 0 {
		a.pick.Key = d.hashKey(x)
	}
	if d.sticky != nil {
		a.pick.Session = cookie(x, d.sticky.Name)
	}
	for {
		ep, ok := d.balancer.Pick(&a.pick)
		if !ok {
			return false
		}
		if a.once(ep) {
			return true
		}
	}
}

// once asks one endpoint. It reports whether the request has its answer.
func (a *attempt) once(ep *balance.Endpoint) bool {
	a.tries++
	a.f.endpoint = ep
	ep.Begin()
	began := time.Now()
	resp, err := a.s.client.Do(a.x, a.target(ep))
	took := time.Since(began)
	if a.tries > 1 && !a.fresh {
		a.s.budget.Done()
	}
	a.fresh = false
	if err == nil {
		return a.answered(ep, resp, took)
	}
	var e *upstream.Error
	if !errors.As(err, &e) {
		e = &upstream.Error{Phase: upstream.Build, Err: err}
	}
	return a.failed(ep, e, took)
}

func (a *attempt) target(ep *balance.Endpoint) upstream.Target {
	t := upstream.Target{
		Addr: ep.Addr(), Protocol: a.d.protocol, TLS: a.d.tls, Timeouts: a.d.timeouts, Fresh: a.fresh,
	}
	if t.Protocol == upstream.HTTP {
		t.Protocol = a.d.backend.protocol()
	}
	return t
}

// answered judges the answer of an endpoint.
func (a *attempt) answered(ep *balance.Endpoint, resp *exchange.Response, took time.Duration) bool {
	outcome := balance.Answered
	if resp.Status >= http.StatusBadGateway && resp.Status <= http.StatusGatewayTimeout {
		outcome = balance.Failed
	}
	ep.Report(outcome, took)
	if slices.Contains(a.d.retry.Statuses, resp.Status) && a.again(ep, a.repeatable()) {
		if resp.Body != nil {
			resp.Body.Close()
		}
		return false
	}
	a.f.upstream = took
	a.x.Response = resp
	if a.pick.Fresh && a.d.sticky != nil {
		resp.Header.Add("Set-Cookie", a.d.sticky.SetCookie(a.pick.Session, a.x.Request.Secure, time.Now()))
	}
	return true
}

// failed decides what comes of a failure. It reports true if that is the end.
func (a *attempt) failed(ep *balance.Endpoint, e *upstream.Error, took time.Duration) bool {
	switch {
	case e.Canceled || a.x.Context.Err() != nil:
		ep.Report(balance.Aborted, took)
		a.x.Answer(statusClientGone, reasonClientGone)
		return true
	case errors.Is(e.Err, policy.ErrBodyTooLarge):
		ep.Report(balance.Aborted, took)
		policy.TooLarge(a.x)
		return true
	case e.Phase == upstream.Build || e.Phase == upstream.Request:
		ep.Report(balance.Aborted, took)
		a.answerFor(e)
		return true
	case e.Reused && !e.Answered && !e.Timeout && !e.BodyRead && (!e.Sent || idempotent(a.x.Request.Method)):
		// The endpoint was just closing a connection that had been kept: that is no failure of its own.
		ep.Report(balance.Aborted, took)
		ep.End()
		a.f.endpoint = nil
		a.fresh = true
		return a.freshly(ep)
	}
	ep.Report(balance.Failed, took)
	wanted := a.d.retry.Error
	switch {
	case e.Timeout:
		wanted = a.d.retry.Timeouts
	case e.Phase == upstream.Head && e.Answered:
		wanted = a.d.retry.InvalidHeader
	}
	if wanted && !e.BodyRead && a.again(ep, !e.Sent || a.repeatable()) {
		return false
	}
	a.answerFor(e)
	return true
}

// freshly asks the same endpoint once more, on a new connection.
func (a *attempt) freshly(ep *balance.Endpoint) bool { return a.once(ep) }

// again reports whether another endpoint is to be asked, and makes ready for that.
func (a *attempt) again(ep *balance.Endpoint, may bool) bool {
	r := &a.d.retry
	switch {
	case !may, r.Tries > 0 && a.tries >= r.Tries, r.Within > 0 && time.Since(a.began) >= r.Within, !a.s.budget.Retry():
		return false
	}
	a.s.stats.Retries.Add(1)
	a.pick.Tried = append(a.pick.Tried, ep.Addr())
	a.f.letGo()
	return true
}

// repeatable reports whether the request may be sent twice.
func (a *attempt) repeatable() bool {
	body := a.x.Request.Length == 0
	if !body {
		_, body = a.x.Request.Body.(interface{ Len() int }) // in memory
	}
	return body && (idempotent(a.x.Request.Method) || a.d.retry.NonIdempotent)
}

// idempotent reports whether nothing can come of a second request that has not come of the first. PUT and
// DELETE are too by RFC 9110, but who has sent one would not expect it of a proxy.
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// answerFor tells the client about a failure.
func (a *attempt) answerFor(e *upstream.Error) {
	status, reason := http.StatusBadGateway, reasonBroken
	switch {
	case e.Phase == upstream.Build:
		status, reason = http.StatusBadRequest, reasonBadRequest
	case e.Phase == upstream.Request && e.Timeout:
		status, reason = http.StatusRequestTimeout, reasonClientBody
	case e.Phase == upstream.Request:
		status, reason = http.StatusBadRequest, reasonClientBody
	case e.Timeout:
		status, reason = http.StatusGatewayTimeout, reasonTimeout
	case e.Phase == upstream.Dial || e.Phase == upstream.TLS:
		reason = reasonUnreachable
	case e.Phase == upstream.Head && e.Answered:
		reason = reasonBadAnswer
	}
	a.x.Answer(status, reason)
	a.s.cfg.Log.Debug("a request got no answer", "service", a.d.target.Namespace+"/"+a.d.target.Service, "endpoint", a.f.endpointAddr(), "err", e)
}

func (f *flight) endpointAddr() netip.AddrPort {
	if f.endpoint == nil {
		return netip.AddrPort{}
	}
	return f.endpoint.Addr()
}
