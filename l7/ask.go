package l7

import (
	"bytes"
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
	s       *Server
	x       *exchange.Exchange
	f       *flight
	d       *destination
	pick    balance.Pick
	tried   [4]netip.AddrPort // room for Pick.Tried
	tries   int               // endpoints that were asked
	began   time.Time
	counted bool // the budget has allowed the next try, and waits for its end
}

// ask has the request answered by a backend.
func (s *Server) ask(x *exchange.Exchange, f *flight) {
	d := f.pick(x)
	if d == nil {
		x.Answer(http.StatusServiceUnavailable, reasonNoBackend)
		return
	}
	f.guard.put(x, f.body)
	s.budget.Begin()
	f.counted = true
	if !s.askAt(x, f, d) && f.rule != nil && f.rule.fallback != nil {
		s.askAt(x, f, f.rule.fallback)
	}
	if x.Response == nil {
		x.Answer(http.StatusServiceUnavailable, reasonNoEndpoint)
	}
}

// askAt asks endpoints of d until one answers. It reports false, without an answer, if d has none.
func (s *Server) askAt(x *exchange.Exchange, f *flight, d *destination) bool {
	f.dest = d
	if d.backend.external.Load() && !d.external {
		x.Answer(http.StatusServiceUnavailable, reasonExternal)
		return true
	}
	a := attempt{s: s, x: x, f: f, d: d, began: time.Now()}
	defer a.release()
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

// release tells the budget that the try which it has allowed is over, or will not be made.
func (a *attempt) release() {
	if a.counted {
		a.counted = false
		a.s.budget.Done()
	}
}

// once asks one endpoint. It reports whether the request has its answer.
func (a *attempt) once(ep *balance.Endpoint) bool {
	a.tries++
	a.f.endpoint = ep
	ep.Begin()
	resp, err, took := a.try(ep, false)
	if err != nil && a.stale(err) {
		// The endpoint was just closing a connection that had been kept: that is no failure of its own.
		resp, err, took = a.try(ep, true)
	}
	a.release()
	if p := a.f.guard.panicked.Load(); p != nil && err != nil {
		panic(p)
	}
	if err == nil {
		return a.answered(ep, resp, took)
	}
	return a.failed(ep, err, took)
}

func (a *attempt) try(ep *balance.Endpoint, fresh bool) (*exchange.Response, *upstream.Error, time.Duration) {
	began := time.Now()
	to := a.d.at(ep.Addr())
	to.Fresh = fresh
	resp, err := a.s.client.Do(a.x, to)
	took := time.Since(began)
	if err == nil {
		return resp, nil, took
	}
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		e = &upstream.Error{Phase: upstream.Build, Err: err}
	}
	return nil, e, took
}

// stale reports whether a connection that had been kept was closed before the endpoint can have begun with the request, so that
// it may be asked once more on a new one.
func (a *attempt) stale(e *upstream.Error) bool {
	return e.Reused && !e.Answered && !e.Timeout && !e.BodyRead && !e.Canceled &&
		e.Phase != upstream.Build && e.Phase != upstream.Request && (!e.Sent || idempotent(a.x.Request.Method))
}

// at is how d asks the endpoint at addr.
func (d *destination) at(addr netip.AddrPort) upstream.Target {
	t := upstream.Target{Addr: addr, Protocol: d.protocol, TLS: d.tls, Timeouts: d.timeouts, Head: d.head}
	if t.Protocol == upstream.HTTP {
		t.Protocol = d.backend.protocol()
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
	case e.Canceled || a.x.Context.Err() != nil && e.Phase != upstream.Request:
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

// again reports whether another endpoint is to be asked, and makes ready for that.
func (a *attempt) again(ep *balance.Endpoint, may bool) bool {
	r := a.d.retry
	switch {
	case !may, r.Tries > 0 && a.tries >= r.Tries, r.Within > 0 && time.Since(a.began) >= r.Within, !a.s.budget.Retry():
		return false
	}
	a.counted = true
	a.s.stats.Retries.Add(1)
	a.pick.Tried = append(a.pick.Tried, ep.Addr())
	a.f.letGo()
	return true
}

// repeatable reports whether the request may be sent twice.
func (a *attempt) repeatable() bool {
	whole := a.x.Request.Length == 0
	if !whole {
		_, whole = a.x.Request.Body.(*bytes.Reader)
	}
	return whole && (idempotent(a.x.Request.Method) || a.d.retry.NonIdempotent)
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
