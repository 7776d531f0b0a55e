package l7

import (
	"cmp"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
)

// Reasons for answers of our own, beside those of packages h1 and policy.
const (
	reasonHost        = "bad-host"
	reasonPath        = "bad-path"
	reasonServer      = "server-request" // OPTIONS *
	reasonBlocked     = "blocked"
	reasonNoRoute     = "no-route"
	reasonNoBackend   = "no-backend"
	reasonExternal    = "external-name" // the Service stands for a DNS name, and that is not allowed
	reasonNoEndpoint  = "no-endpoint"
	reasonUnreachable = "unreachable"   // no connection
	reasonBroken      = "broken"        // the connection broke before there was an answer
	reasonBadAnswer   = "bad-answer"    // it breaks the rules of HTTP
	reasonTimeout     = "timeout"       // no answer in time
	reasonClientGone  = "client-gone"   //
	reasonClientBody  = "client-body"   // the client has not delivered the body it had announced
	reasonBadRequest  = "unforwardable" // the request cannot be written as HTTP
)

// statusClientGone is what nginx logs when there is nobody to tell anything.
const statusClientGone = 499

// A flight is what we hold of a request until its end.
type flight struct {
	server   *Server
	rule     *rule
	pipeline *policy.Pipeline
	dest     *destination
	endpoint *balance.Endpoint // that has answered
	counted  bool              // by the budget
	body     io.Reader         // of the request, as the engine has made it
	guard    guardedBody       // it, as backends get it
	upstream time.Duration     // until the head of the answer
	canary   bool
}

func flightOf(x *exchange.Exchange) *flight {
	if f, ok := x.Hold.(*flight); ok {
		return f
	}
	return &flight{}
}

// end gives back what the request holds.
func (f *flight) end(x *exchange.Exchange) {
	f.letGo()
	if f.counted {
		f.server.budget.End()
		f.counted = false
	}
	f.pipeline.Done(x)
}

func (f *flight) letGo() {
	if f.endpoint != nil {
		f.endpoint.End()
		f.endpoint = nil
	}
}

// Handle is of std.Handler.
func (s *Server) Handle(x *exchange.Exchange) {
	f := &flight{server: s, body: x.Request.Body}
	x.Hold = f
	s.stats.InFlight.Add(1)
	if x.Response == nil && s.admit(x, f) {
		s.ask(x, f)
	}
	f.pipeline.Apply(x)
	s.sign(x, f)
}

// sign says who has answered, unless the rule lets backends say that.
func (s *Server) sign(x *exchange.Exchange, f *flight) {
	h := &x.Response.Header
	if !f.pipeline.Server() || !h.Has("Server") {
		h.Set("Server", "fairlead")
	}
}

// admit finds the rule and lets its policies decide. It returns false if the request has its answer.
func (s *Server) admit(x *exchange.Exchange, f *flight) bool {
	p := s.process.Load()
	id := p.forwarder.Identify(x)
	if blocked(p, x) {
		x.Answer(http.StatusForbidden, reasonBlocked)
		return false
	}
	if !s.find(x, f, id.Port) {
		return false
	}
	nginx := f.pipeline.Nginx()
	p.forwarder.Forward(x, id, nginx)
	if p.globals.Clients.OriginalURI {
		x.Request.Header.Set("X-Original-Uri", requestURI(x))
	}
	return f.pipeline.Admit(x)
}

func requestURI(x *exchange.Exchange) string {
	if x.Request.HasQuery {
		return x.Request.RawPath + "?" + x.Request.Query
	}
	return x.Request.RawPath
}

// find finds the rule for a request. The port is what a trusted proxy says, or nothing. It returns false if there is an answer
// instead.
func (s *Server) find(x *exchange.Exchange, f *flight, trusted string) bool {
	host, port, err := route.ParseHost(x.Request.RawHost)
	if err != nil {
		x.Answer(http.StatusBadRequest, reasonHost)
		return false
	}
	x.Request.Host, x.Request.Port = host, cmp.Or(trusted, port)
	if x.Request.RawPath == "*" {
		x.Answer(http.StatusNoContent, reasonServer)
		return false
	}
	h := s.table.Load().Find(host)
	if x.Request.Path, err = route.Canonical(x.Request.RawPath, h.Options()); err != nil {
		x.Answer(http.StatusBadRequest, reasonPath)
		return false
	}
	m, ok := h.Lookup(x.Request.Path)
	if !ok {
		return s.findDefault(x, f)
	}
	f.rule, f.pipeline = m.Value, m.Value.pipeline
	x.Target = &m.Value.target
	if m.Slash {
		return policy.RedirectToSlash(x)
	}
	return true
}

// findDefault is for what no rule is about.
func (s *Server) findDefault(x *exchange.Exchange, f *flight) bool {
	if s.fallback == nil {
		x.Answer(http.StatusNotFound, reasonNoRoute)
		return false
	}
	f.dest = s.fallback
	x.Target = f.dest.target
	return true
}

// blocked reports whether the operator serves nobody like this.
func blocked(p *process, x *exchange.Exchange) bool {
	c := &p.globals.Clients
	for _, r := range c.BlockRanges {
		if r.Contains(x.Request.Client.Addr()) {
			return true
		}
	}
	for _, m := range c.BlockAgents {
		if m.Match(x.Request.Header.Get("User-Agent")) {
			return true
		}
	}
	for _, m := range c.BlockReferers {
		if m.Match(x.Request.Header.Get("Referer")) {
			return true
		}
	}
	return false
}

// pick chooses between the rule's backend and its canary.
func (f *flight) pick(x *exchange.Exchange) *destination {
	r := f.rule
	if r == nil || r.canary == nil || r.primary == nil {
		if r != nil {
			return r.primary
		}
		return f.dest
	}
	q := balance.CanaryRequest{Primary: r.primary.balancer, Canary: r.canary.balancer}
	if r.choose.Header != "" {
		q.Header = x.Request.Header.Get(r.choose.Header)
	}
	if r.choose.Cookie != "" {
		q.Cookie = cookie(x, r.choose.Cookie)
	}
	if s := r.primary.sticky; s != nil {
		q.Session = cookie(x, s.Name)
	}
	if !r.choose.Choose(q) {
		return r.primary
	}
	f.canary = true
	x.Target = r.canary.target
	return r.canary
}

// cookie returns the first cookie of that name.
func cookie(x *exchange.Exchange, name string) string {
	for i := range x.Request.Header {
		h := &x.Request.Header[i]
		if !strings.EqualFold(h.Name, "Cookie") {
			continue
		}
		if v, ok := balance.CookieValue(h.Value, name); ok {
			return v
		}
	}
	return ""
}
