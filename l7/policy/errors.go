package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// errorPages is the compiled Errors.
type errorPages struct {
	statuses map[int]bool
	fetch    func(*exchange.Exchange, exchange.Header) (*exchange.Response, error)
}

func (b *builder) errorPages() error {
	c := b.config.Errors
	if c == nil || len(c.Statuses) == 0 {
		return nil
	}
	if b.env.ErrorPage == nil {
		return errors.New("custom errors: Env.ErrorPage is missing")
	}
	f := &errorPages{statuses: map[int]bool{}, fetch: b.env.ErrorPage}
	for _, s := range c.Statuses {
		if s < 400 || s > 599 {
			return fmt.Errorf("custom errors: %d is not the status of an error", s)
		}
		f.statuses[s] = true
	}
	b.filter(f)
	return nil
}

// Apply replaces an error by what the default backend has to say about it. The status stays whatever that answers, and what
// authentication has said stays as a whole (CVE-2026-24513). If there is no such page, the error stays as it is.
func (f *errorPages) Apply(x *exchange.Exchange) {
	r := x.Response
	if !f.statuses[r.Status] || strings.HasPrefix(r.Reason, "auth-") || x.Request.Upgrade != "" || isGRPC(&x.Request) {
		return
	}
	page, err := f.fetch(x, errorQuestion(x))
	if err != nil || page == nil {
		return
	}
	if r.Body != nil {
		r.Body.Close()
	}
	// What belongs to the status goes with it.
	for _, name := range [...]string{"WWW-Authenticate", "Allow", "Retry-After", "Content-Range"} {
		page.Header.Del(name)
		for _, v := range r.Header.Values(name) {
			page.Header.Add(name, v)
		}
	}
	page.Status, page.Reason = r.Status, r.Reason
	x.Response = page
}

// errorQuestion is the fields that the default backend is asked with, as ingress-nginx names them.
func errorQuestion(x *exchange.Exchange) exchange.Header {
	var t exchange.Target
	if x.Target != nil {
		t = *x.Target
	}
	var h exchange.Header
	for _, f := range [...]exchange.Field{
		{Name: "X-Code", Value: strconv.Itoa(x.Response.Status)},
		{Name: "X-Format", Value: x.Request.Header.Get("Accept")},
		{Name: "X-Original-URI", Value: requestURI(x)},
		{Name: "X-Namespace", Value: t.Namespace},
		{Name: "X-Ingress-Name", Value: t.Ingress},
		{Name: "X-Service-Name", Value: t.Service},
		{Name: "X-Service-Port", Value: t.Port},
		{Name: "X-Request-ID", Value: x.Request.ID},
		{Name: "Accept-Language", Value: x.Request.Header.Get("Accept-Language")},
	} {
		if f.Value != "" && httpguts.ValidHeaderFieldValue(f.Value) {
			h = append(h, f)
		}
	}
	return h
}
