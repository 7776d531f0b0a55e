package policy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// An extAuth is the compiled ExtAuth.
type extAuth struct {
	ExtAuth
	asker    *asker
	rule     string
	url      *locator
	signIn   *locator // nil if there is none
	cacheKey template // nil if there is none
	sentFrom string
}

// extAuth returns the stage, or nil.
func (b *builder) extAuth() (*extAuth, error) {
	c := b.config.ExtAuth
	if c == nil {
		return nil, nil
	}
	if err := b.shared("external authentication"); err != nil {
		return nil, err
	}
	s := &extAuth{ExtAuth: *c, asker: b.env.Shared.asker, rule: b.env.Rule, sentFrom: "fairlead"}
	s.Method = cmp.Or(c.Method, http.MethodGet)
	s.RedirectParam = cmp.Or(c.RedirectParam, "rd")
	s.Timeout = cmp.Or(c.Timeout, askTimeout)
	if b.config.Headers.Nginx {
		s.sentFrom = "nginx-ingress-controller"
	}
	errs := []error{s.check(b.env.AnyHost), checkFields(c.Request)}
	for _, name := range c.ResponseHeaders {
		errs = append(errs, checkName(name))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("external authentication: %w", err)
	}
	b.external = s
	return s, nil
}

// check compiles the templates.
func (s *extAuth) check(anyHost bool) error {
	var errs [4]error
	t, err := parseTemplate(s.URL)
	switch {
	case err != nil:
	case anyHost:
		err = t.absolute()
	default:
		err = t.absolute("host", "server_name")
	}
	s.url, errs[0] = newLocator(t), err
	if s.SignIn != "" {
		s.signIn, errs[1] = parseLocation(s.SignIn)
	}
	if s.ExtAuth.CacheKey != "" {
		s.cacheKey, errs[2] = parseTemplate(s.ExtAuth.CacheKey)
		if s.rule == "" {
			errs[2] = errors.New("Env.Rule is missing")
		}
		if len(s.CacheFor) == 0 {
			s.CacheFor = defaultCacheTimes()
		}
	}
	if !httpguts.ValidHeaderFieldName(s.Method) {
		errs[3] = fmt.Errorf("the method %q is no token", s.Method)
	}
	if errs[0] != nil {
		errs[0] = fmt.Errorf("the URL %q: %w", s.URL, errs[0])
	}
	return errors.Join(errs[:]...)
}

// cookies adds the filter.
func (b *builder) cookies() error {
	if b.external != nil {
		b.filter(b.external)
	}
	return nil
}

// Admit asks about x. What the other server says is final: no later policy changes it.
func (s *extAuth) Admit(x *exchange.Exchange) bool {
	got, err := s.answer(x)
	if err != nil {
		x.Answer(500, ReasonAuthUnanswered)
		return false
	}
	if len(got.cookies) != 0 {
		st := needState(x)
		st.cookies = append(st.cookies, got.cookies...)
	}
	switch {
	case got.status/100 == 2:
		s.strip(x)
		for _, name := range s.ResponseHeaders {
			for _, v := range got.header.Values(name) {
				x.Request.Header.Add(name, v)
			}
		}
		return true
	case got.status == 401 && s.signIn != nil:
		s.redirect(x)
	case got.status == 401, got.status == 403:
		s.pass(x, got)
	default:
		x.Answer(500, ReasonAuthUnanswered)
	}
	return false
}

// strip removes from the request, and from its trailer, what only the other server may say about the client.
func (s *extAuth) strip(x *exchange.Exchange) {
	if len(s.ResponseHeaders) == 0 {
		return
	}
	said := func(f exchange.Field) bool {
		return slices.ContainsFunc(s.ResponseHeaders, func(name string) bool { return same(name, f.Name) })
	}
	x.Request.Header.DelFunc(said)
	guardTrailer(x, said)
}

// pass gives the client the other server's answer.
func (s *extAuth) pass(x *exchange.Exchange, got *answer) {
	r := x.Answer(got.status, ReasonAuthExternal)
	for _, name := range [...]string{"WWW-Authenticate", "Content-Type", "Content-Language", "Cache-Control", "Retry-After"} {
		for _, v := range got.header.Values(name) {
			r.Header.Add(name, v)
		}
	}
	if len(got.body) == 0 {
		return
	}
	r.Length = int64(len(got.body))
	r.Body = io.NopCloser(bytes.NewReader(got.body))
}

// redirect sends the client to sign in, with the way back in a parameter unless the URL has it already.
func (s *extAuth) redirect(x *exchange.Exchange) {
	location := s.signIn.expand(x)
	u, err := url.Parse(location)
	if err != nil {
		x.Answer(500, ReasonAuthUnanswered)
		return
	}
	if !u.Query().Has(s.RedirectParam) {
		back := scheme(x) + "://" + escapeURL(cmp.Or(x.Request.RawHost, x.Request.Host)) + escapeAll(requestURI(x))
		fragment := ""
		if i := strings.IndexByte(location, '#'); i >= 0 {
			location, fragment = location[:i], location[i:]
		}
		glue := "?"
		if strings.Contains(location, "?") {
			glue = "&"
		}
		location += glue + escapeAll(s.RedirectParam) + "=" + strings.ReplaceAll(back, "&", "%26") + fragment
	}
	if !validLocation(location) {
		x.Answer(500, ReasonAuthUnanswered)
		return
	}
	x.Redirect(302, location, ReasonAuthSignIn)
}

// Apply adds the cookies that the other server has set. Unless they always are to be set, errors go without, as add_header in
// nginx has it; a redirect to the sign-in page has them.
func (s *extAuth) Apply(x *exchange.Exchange) {
	st := stateOf(x)
	if st == nil || len(st.cookies) == 0 {
		return
	}
	switch x.Response.Status {
	case 200, 201, 204, 206, 301, 302, 303, 304, 307, 308:
	default:
		if !s.AlwaysSetCookie {
			return
		}
	}
	for _, c := range st.cookies {
		x.Response.Header.Add("Set-Cookie", c)
	}
}

// answer remembers, or asks.
func (s *extAuth) answer(x *exchange.Exchange) (*answer, error) {
	if s.cacheKey == nil {
		return s.ask(x)
	}
	target := s.url.expand(x)
	h := sha256.New()
	for _, part := range [...]string{s.rule, s.Method, target, s.cacheKey.expand(x, nil)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	k := verdictKey(h.Sum(nil))
	if got := s.asker.recall(k); got != nil {
		return got, nil
	}
	got, err := s.ask(x)
	if err == nil {
		s.asker.remember(k, got, s.CacheFor)
	}
	return got, err
}

// ask puts the question and reads the answer.
func (s *extAuth) ask(x *exchange.Exchange) (*answer, error) {
	parent := x.Context
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, s.Timeout)
	defer cancel()
	q, err := s.question(ctx, x)
	if err != nil {
		return nil, err
	}
	r, err := s.asker.transport(s.Local).RoundTrip(q)
	if err != nil {
		return nil, fmt.Errorf("ask %s about access: %w", q.URL.Host, err)
	}
	defer r.Body.Close()
	got := &answer{status: r.StatusCode, cookies: r.Header.Values("Set-Cookie")}
	for name, values := range r.Header {
		if connection(name) || name == "Set-Cookie" {
			continue
		}
		for _, v := range values {
			if httpguts.ValidHeaderFieldValue(v) {
				got.header.Add(name, v)
			}
		}
	}
	got.body = readAnswer(r)
	got.cookies = slices.DeleteFunc(got.cookies, func(c string) bool { return !httpguts.ValidHeaderFieldValue(c) })
	return got, nil
}

// readAnswer returns the body of an answer that is passed on, if it can be had whole and is not too large. Of others, it reads
// what is short, so that the connection can be used again.
func readAnswer(r *http.Response) []byte {
	if r.StatusCode != 401 && r.StatusCode != 403 {
		if r.ContentLength >= 0 && r.ContentLength <= maxDiscarded {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer || r.Header.Get("Content-Encoding") != "" {
		return nil
	}
	return body
}
