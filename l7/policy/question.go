package policy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// question makes the request that asks about x: the client's fields without those on a body, on caching and on the connection, and
// those that say what it is about.
func (s *extAuth) question(ctx context.Context, x *exchange.Exchange) (*http.Request, error) {
	u, err := url.Parse(s.url.expand(x))
	if err != nil || u.User != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("what the URL of external authentication comes to is no URL")
	}
	if a, err := netip.ParseAddr(u.Host); err == nil && a.Is6() {
		u.Host = "[" + u.Host + "]"
	}
	q := (&http.Request{Method: s.Method, URL: u, Host: u.Host, Header: make(http.Header, len(x.Request.Header)+10)}).WithContext(ctx)
	for _, f := range x.Request.Header {
		if !aboutBody(f.Name) && !connection(f.Name) {
			q.Header.Add(f.Name, f.Value)
		}
	}
	s.describe(x, q.Header)
	for _, f := range s.Request {
		if f.Value == "" {
			q.Header.Del(f.Name)
		} else {
			q.Header.Set(f.Name, f.Value)
		}
	}
	if _, ok := q.Header["User-Agent"]; !ok {
		q.Header["User-Agent"] = nil // or net/http writes its own
	}
	return q, nil
}

// describe says in h what the question is about, whatever the client has said there.
func (s *extAuth) describe(x *exchange.Exchange, h http.Header) {
	addr := clientAddr(x)
	for _, f := range [...]Field{
		{"X-Original-Url", origin(x, hostname(x)) + requestURI(x)},
		{"X-Original-Method", x.Request.Method},
		{"X-Sent-From", s.sentFrom},
		{"X-Real-Ip", addr},
		{"X-Forwarded-For", addr},
		{"X-Forwarded-Proto", scheme(x)},
		{"X-Forwarded-Host", cmp.Or(x.Request.RawHost, x.Request.Host)},
		{"X-Forwarded-Uri", requestURI(x)},
		{"X-Forwarded-Method", x.Request.Method},
		{"X-Auth-Request-Redirect", requestURI(x)},
		{"X-Request-Id", x.Request.ID},
	} {
		h[f.Name] = []string{f.Value}
	}
}

// aboutBody reports whether a field makes no sense in a question without a body, whose answer is a verdict and no document.
func aboutBody(name string) bool {
	switch strings.ToLower(name) {
	case "content-encoding", "content-range", "content-md5", "range", "accept-encoding",
		"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range":
		return true
	}
	return false
}
