package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A cors is the compiled CORS. It is a Stage for preflights and a Filter for all answers.
type cors struct {
	any         bool
	origins     []Origin
	credentials bool
	methods     string
	headers     string
	expose      string
	maxAge      string
}

func newCORS(c *CORS) (*cors, error) {
	s := &cors{any: c.Origins == nil, credentials: c.Credentials, methods: c.Methods, headers: c.Headers, expose: c.Expose}
	for _, o := range c.Origins {
		if o == (Origin{}) {
			s.any = true
			continue
		}
		o.Scheme, o.Host = strings.ToLower(o.Scheme), strings.ToLower(o.Host)
		s.origins = append(s.origins, o.normal())
	}
	if c.MaxAge > 0 {
		s.maxAge = strconv.FormatInt(int64(c.MaxAge.Seconds()), 10)
	}
	err := errors.Join(checkValue("Access-Control-Allow-Methods", c.Methods),
		checkValue("Access-Control-Allow-Headers", c.Headers), checkValue("Access-Control-Expose-Headers", c.Expose))
	if err != nil {
		return nil, fmt.Errorf("cors: %w", err)
	}
	return s, nil
}

// preflight compiles CORS and adds the stage.
func (b *builder) preflight() error {
	if b.config.CORS == nil {
		return nil
	}
	var err error
	if b.crossOrigin, err = newCORS(b.config.CORS); err != nil {
		return err
	}
	b.stage(b.crossOrigin)
	return nil
}

// cors adds the filter.
func (b *builder) cors() error {
	if b.crossOrigin != nil {
		b.filter(b.crossOrigin)
	}
	return nil
}

// Admit answers preflights: OPTIONS with Origin and Access-Control-Request-Method. One from a stranger gets the same 204
// without permission. No other OPTIONS request is touched.
func (c *cors) Admit(x *exchange.Exchange) bool {
	r := &x.Request
	if r.Method != "OPTIONS" || !r.Header.Has("Origin") || !r.Header.Has("Access-Control-Request-Method") {
		return true
	}
	x.Answer(204, ReasonPreflight)
	return false
}

// Apply says on an answer who may read it. What the backend says about that is replaced: this rule's policy is the operator's.
func (c *cors) Apply(x *exchange.Exchange) {
	h := &x.Response.Header
	h.DelFunc(func(f exchange.Field) bool { return begins(f.Name, "Access-Control-") })
	if !c.any {
		vary(h, "Origin")
	}
	allowed := c.allows(x.Request.Header)
	if allowed == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", allowed)
	// Browsers take no credentials together with a star, so nothing is lost by not saying it.
	if c.credentials && allowed != "*" {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if x.Response.Reason != ReasonPreflight {
		set(h, "Access-Control-Expose-Headers", c.expose)
		return
	}
	set(h, "Access-Control-Allow-Methods", c.methods)
	set(h, "Access-Control-Allow-Headers", c.headers)
	set(h, "Access-Control-Max-Age", c.maxAge)
}

// allows returns the value of Access-Control-Allow-Origin, or nothing if the answer is not for whoever asks.
func (c *cors) allows(h exchange.Header) string {
	if c.any {
		return "*"
	}
	value, n := "", 0
	for _, f := range h {
		if strings.EqualFold(f.Name, "Origin") {
			value, n = f.Value, n+1
		}
	}
	if n != 1 {
		return ""
	}
	got, ok := parseOrigin(value)
	if !ok {
		return ""
	}
	for _, o := range c.origins {
		if o.admits(got) {
			return value
		}
	}
	return ""
}

func set(h *exchange.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}
