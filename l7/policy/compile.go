package policy

import (
	"errors"
	"fmt"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// An Env is what the policies of one rule need of their surroundings.
type Env struct {
	// Rule names the rule among all of this process, so that a client's account with it outlives
	// a new Compile. Required if there are Limits or an ExtAuth with a cache.
	Rule string

	// AnyHost says that the rule serves hosts which nobody has written down: requests choose
	// $host then, and it may not say who is asked about access.
	AnyHost bool

	// Shared is what the rules of a process have in common. Required if there are Limits,
	// BasicAuth, ExtAuth or Compress.
	Shared *Shared

	// Canonical is route.Canonical with the options of the dialect. Required for Rewrite.
	Canonical func(path string) (string, error)

	// ErrorPage asks the default backend: GET / with the given fields. Required for Errors. It
	// may return nil when there is nobody to ask.
	ErrorPage func(x *exchange.Exchange, question exchange.Header) (*exchange.Response, error)
}

// A Pipeline is the policies of one rule, ready for use by many requests at the same time. A nil
// Pipeline has none. An engine calls, for every request,
//
//	id := forwarder.Identify(x)   // before it looks for the rule
//	forwarder.Forward(x, id, p.Nginx())
//	defer p.Done(x)
//	if p.Admit(x) { … ask a backend … }
//	p.Apply(x)                    // with p == nil too: it writes the proxy's own answers
//
// and recovers from panics, so that they end one request alone.
type Pipeline struct {
	Stages  []exchange.Stage
	Filters []exchange.Filter

	nginx  bool
	server bool
	counts bool // there is something for Done
}

// Nginx reports whether backends get the fields that ingress-nginx sends, see Forwarder.Forward.
func (p *Pipeline) Nginx() bool { return p != nil && p.nginx }

// Server reports whether the Server field of the backend is passed on; else the engine writes its own.
func (p *Pipeline) Server() bool { return p != nil && p.server }

// Admit lets x through all stages. It returns false when one of them has answered.
func (p *Pipeline) Admit(x *exchange.Exchange) bool {
	if p == nil {
		return true
	}
	for _, s := range p.Stages {
		if !s.Admit(x) {
			return false
		}
	}
	return true
}

// Apply lets all filters work on the answer, the proxy's own as well, and writes a page for the latter where it has none.
// Without a Response it does nothing.
func (p *Pipeline) Apply(x *exchange.Exchange) {
	if x.Response == nil {
		return
	}
	if p != nil {
		for _, f := range p.Filters {
			f.Apply(x)
		}
	}
	Page(x)
}

// Done gives back what x holds, such as its place among the concurrent requests of a client. It is called
// once the answer's last byte has gone, or the request has failed in any way, and may be called again.
func (p *Pipeline) Done(x *exchange.Exchange) {
	if p == nil || !p.counts {
		return
	}
	if s := stateOf(x); s != nil {
		s.done()
	}
}

// Compile makes the Pipeline of a rule. What stands in c is looked at once more, so that nothing gets into
// a header that may not be there. Should it be wrong, the error says all that is,
// and the Pipeline returned with it refuses every request with 503.
//
// Requests meet the stages in this order:
//
//	Refused, Redirect, Access, CORS, Limits, BasicAuth, ExtAuth, Rewrite, Headers, Body
//
// and with NginxOrder in this, which is nginx' order of phases:
//
//	Refused, Redirect, CORS, Limits, Access, BasicAuth, ExtAuth, Rewrite, Headers, Body
//
// Body is last, since reading a body is what tells a client to send it (100-continue): who is refused has sent nothing.
//
// Answers meet Errors, the cookies of ExtAuth, Headers, HSTS, CORS and Compress. A Config without policies makes a
// Pipeline that is empty.
func Compile(c Config, e Env) (*Pipeline, error) {
	p := &Pipeline{nginx: c.Headers.Nginx, server: c.Headers.Server}
	if c.Refused != "" {
		p.Stages = []exchange.Stage{refused{}}
		return p, nil
	}
	b := builder{config: &c, env: &e, pipeline: p}
	for _, add := range b.order() {
		if err := add(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
	if len(b.errs) != 0 {
		return &Pipeline{Stages: []exchange.Stage{refused{}}, nginx: p.nginx},
			fmt.Errorf("compile the policies of %s: %w", e.Rule, errors.Join(b.errs...))
	}
	return p, nil
}

// refused closes a rule.
type refused struct{}

func (refused) Admit(x *exchange.Exchange) bool {
	x.Answer(503, ReasonRefused)
	return false
}

// A builder compiles one Config.
type builder struct {
	config   *Config
	env      *Env
	pipeline *Pipeline
	errs     []error

	crossOrigin *cors    // stage and filter
	external    *extAuth // stage and filter
}

func (b *builder) order() []func() error {
	steps := []func() error{b.redirect}
	if b.config.NginxOrder {
		steps = append(steps, b.preflight, b.limits, b.gate)
	} else {
		steps = append(steps, b.access, b.preflight, b.limits, b.auth)
	}
	return append(steps, b.rewrite, b.requestHeaders, b.body, // stages end here
		b.errorPages, b.cookies, b.responseHeaders, b.hsts, b.cors, b.compress)
}

func (b *builder) stage(s exchange.Stage)   { b.pipeline.Stages = append(b.pipeline.Stages, s) }
func (b *builder) filter(f exchange.Filter) { b.pipeline.Filters = append(b.pipeline.Filters, f) }

// shared says what is missing if there is no Shared for the named policy.
func (b *builder) shared(policy string) error {
	if b.env.Shared == nil {
		return fmt.Errorf("%s: Env.Shared is missing", policy)
	}
	return nil
}
