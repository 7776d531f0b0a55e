package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// requestFields sets what the backend sees besides the forwarding fields, over which it wins.
type requestFields struct {
	fields []Field
	host   string // instead of the client's, if not empty
}

func (b *builder) requestHeaders() error {
	c := b.config.Headers
	if err := checkFields(c.Request); err != nil {
		return fmt.Errorf("request headers: %w", err)
	}
	if c.Upstream != "" && !httpguts.ValidHostHeader(c.Upstream) {
		return fmt.Errorf("the host %q for the backend is not valid", c.Upstream)
	}
	if len(c.Request) != 0 || c.Upstream != "" {
		b.stage(&requestFields{fields: c.Request, host: c.Upstream})
	}
	return nil
}

// Admit lets x pass with other fields.
func (s *requestFields) Admit(x *exchange.Exchange) bool {
	if s.host != "" {
		x.Request.RawHost = s.host
	}
	apply(&x.Request.Header, s.fields)
	return true
}

// responseFields hides what the backend says, and then sets fields of all answers.
type responseFields struct {
	hide   []string
	fields []Field
}

func (b *builder) responseHeaders() error {
	c := b.config.Headers
	errs := []error{checkFields(c.Response)}
	for _, name := range c.Hide {
		errs = append(errs, checkName(name))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("response headers: %w", err)
	}
	if len(c.Hide) != 0 || len(c.Response) != 0 {
		b.filter(&responseFields{hide: c.Hide, fields: c.Response})
	}
	return nil
}

// Apply changes the answer's fields.
func (f *responseFields) Apply(x *exchange.Exchange) {
	h := &x.Response.Header
	if len(f.hide) != 0 {
		h.DelFunc(func(field exchange.Field) bool {
			return slices.ContainsFunc(f.hide, func(name string) bool { return strings.EqualFold(name, field.Name) })
		})
	}
	apply(h, f.fields)
}

// strictTransport is the value of Strict-Transport-Security.
type strictTransport string

func (b *builder) hsts() error {
	c := b.config.HSTS
	if c == nil {
		return nil
	}
	if c.MaxAge < 0 {
		return fmt.Errorf("hsts: max-age is %s", c.MaxAge)
	}
	v := "max-age=" + strconv.FormatInt(int64(c.MaxAge.Seconds()), 10)
	if c.IncludeSubDomains {
		v += "; includeSubDomains"
	}
	if c.Preload {
		v += "; preload"
	}
	b.filter(strictTransport(v))
	return nil
}

// Apply sets the field on answers over TLS; on others browsers have to ignore it (RFC 6797, 7.2).
func (s strictTransport) Apply(x *exchange.Exchange) {
	if x.Request.Secure {
		x.Response.Header.Set("Strict-Transport-Security", string(s))
	}
}
