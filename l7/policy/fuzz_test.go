package policy

import (
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// FuzzLocation lets users write where redirects go, and clients what stands in variables: what comes out is a Location that may
// stand in a header and is not on a host that the template has not named, or no redirect.
func FuzzLocation(f *testing.F) {
	f.Add("https://$host$request_uri", "a.example", "/x", "q=1")
	f.Add("/a/$1$arg_q?$args", "a.example", "//evil.example", "q=%0d%0aX")
	f.Add("$scheme://other.example/${http_x_tenant}", "[::1]:8080", "/", "")
	f.Add("$request_uri", "a.example", "//evil.example/x", "")
	f.Fuzz(func(t *testing.T, location, host, path, query string) {
		l, err := parseLocation(location)
		if err != nil || l == nil {
			return
		}
		x := &exchange.Exchange{Request: exchange.Request{
			Method: "GET", Host: strings.ToLower(host), RawHost: host, Path: "/" + path, RawPath: "/" + path, Query: query, HasQuery: query != "",
		}}
		x.Request.Header.Add("X-Tenant", query)
		r := &redirector{Redirect: Redirect{}}
		r.send(x, 302, ReasonRedirect, l.expand(x))
		got := x.Response.Header.Get("Location")
		if x.Response.Status == 400 && got == "" {
			return
		}
		if _, err := url.Parse(got); err != nil || !httpguts.ValidHeaderFieldValue(got) || strings.HasPrefix(got, "//") {
			t.Errorf("%q for host %q, path %q, query %q leads to %q", location, host, path, query, got)
		}
		if strings.HasPrefix(location, "/") && !strings.HasPrefix(got, "/") {
			t.Errorf("%q for host %q, path %q, query %q leads away to %q", location, host, path, query, got)
		}
	})
}

// FuzzTemplate takes templates apart; text without variables stays what it is.
func FuzzTemplate(f *testing.F) {
	f.Add("a$host-${arg_x}$", "a=b; Session=s3", "x=1&y")
	f.Add("$$$cookie_session$cookie_", ";;=;a", "&&=")
	f.Fuzz(func(t *testing.T, text, cookies, query string) {
		tmpl, err := parseTemplate(text)
		if err != nil {
			return
		}
		x := &exchange.Exchange{Request: exchange.Request{Query: query, Host: "a.example", Path: "/"}}
		x.Request.Header.Add("Cookie", cookies)
		if got := tmpl.expand(x, nil); !strings.Contains(text, "$") && got != text {
			t.Errorf("%q has become %q", text, got)
		}
		if again := tmpl.expand(x, nil); again != tmpl.expand(x, nil) {
			t.Errorf("%q gives now this, now that", text)
		}
	})
}

// FuzzValues reads what clients write: cookies, parameters, credentials, trace contexts and addresses. What is found is part of what
// was written.
func FuzzValues(f *testing.F) {
	f.Add("a=b; c=d", "c")
	f.Add("Basic YTpi", "x")
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	f.Add("[2001:db8::1]:443", "_hidden")
	f.Fuzz(func(t *testing.T, value, name string) {
		h := exchange.Header{{Name: "Cookie", Value: value}, {Name: "Authorization", Value: value}, {Name: "traceparent", Value: value}}
		if got := cookieValue(h, name); !strings.Contains(value, got) {
			t.Errorf("the cookie %q of %q is %q", name, value, got)
		}
		if got := argument(value, name); !strings.Contains(value, got) {
			t.Errorf("the parameter %q of %q is %q", name, value, got)
		}
		user, _, ok := credentials(h)
		if !ok && user != "" || strings.ContainsAny(user, "\r\n\x00") {
			t.Errorf("%q is the user %q, %v", value, user, ok)
		}
		if validTrace(value) && (len(value) < 55 || !httpguts.ValidHeaderFieldValue(value[:55]) || strings.ToLower(value[:55]) != value[:55]) {
			t.Errorf("%q counts as a trace context", value)
		}
		if at, ok := parseNode(value); ok && !at.Addr().IsValid() {
			t.Errorf("%q is an address, but none", value)
		}
	})
}
