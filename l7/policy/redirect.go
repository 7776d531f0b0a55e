package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A redirector is the compiled Redirect.
type redirector struct {
	Redirect
	temporal, permanent *locator
}

func (b *builder) redirect() error {
	r := b.config.Redirect
	s := &redirector{Redirect: r}
	s.HTTPSCode = redirectCode(r.HTTPSCode, 308, 308)
	s.TemporalCode = redirectCode(r.TemporalCode, 302, 307)
	s.PermanentCode = redirectCode(r.PermanentCode, 301, 308)
	var errs [4]error
	s.temporal, errs[0] = parseLocation(r.Temporal)
	s.permanent, errs[1] = parseLocation(r.Permanent)
	if r.AppRoot != "" && (!strings.HasPrefix(r.AppRoot, "/") || r.AppRoot == "/" || !httpguts.ValidHeaderFieldValue(r.AppRoot)) {
		errs[2] = fmt.Errorf("app-root %q: neither a path nor anything but /", r.AppRoot)
	}
	if r.WWW != "" && !httpguts.ValidHostHeader(r.WWW) {
		errs[3] = fmt.Errorf("redirect to the host %q: not a host", r.WWW)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if r.HTTPS || r.Temporal != "" || r.Permanent != "" || r.WWW != "" || r.AppRoot != "" || r.Slash {
		b.stage(s)
	}
	return nil
}

// redirectCode is code if it redirects, which ends at last, and else byDefault: what ingress-nginx does with others.
func redirectCode(code, byDefault, last int) int {
	if code < 300 || code > last || code == 304 {
		return byDefault
	}
	return code
}

// parseLocation takes where a redirect goes: an URL, or a path on this host.
func parseLocation(s string) (*locator, error) {
	if s == "" {
		return nil, nil
	}
	t, err := parseTemplate(s)
	if err == nil && !httpguts.ValidHeaderFieldValue(s) {
		err = errors.New("has bytes that may not be in a header")
	}
	relative := strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.HasPrefix(s, `/\`)
	if err == nil && !relative && t[0].name != "request_uri" {
		err = t.absolute("host", "http_host", "best_http_host", "server_name")
	}
	if err != nil {
		return nil, fmt.Errorf("redirect to %q: %w", s, err)
	}
	return newLocator(t), nil
}

// Admit answers x if it belongs elsewhere.
func (r *redirector) Admit(x *exchange.Exchange) bool {
	switch {
	case r.HTTPS && !x.Request.Secure && !r.exempt(x.Request.Path):
		return r.send(x, r.HTTPSCode, ReasonHTTPSRedirect, r.https(x))
	case r.temporal != nil:
		return r.send(x, r.TemporalCode, ReasonRedirect, r.temporal.expand(x))
	case r.permanent != nil:
		return r.send(x, r.PermanentCode, ReasonRedirect, r.permanent.expand(x))
	case r.WWW != "":
		return r.send(x, r.HTTPSCode, ReasonWWWRedirect, origin(x, r.WWW)+requestURI(x))
	case r.AppRoot != "" && x.Request.Path == "/":
		return r.send(x, 302, ReasonAppRoot, origin(x, hostname(x))+r.AppRoot)
	case r.Slash:
		return RedirectToSlash(x)
	}
	return true
}

// RedirectToSlash answers x as nginx does when it asks for "/a" and there is only "/a/". It returns false.
func RedirectToSlash(x *exchange.Exchange) bool {
	uri := x.Request.Path + "/"
	if x.Request.HasQuery {
		uri += "?" + x.Request.Query
	}
	return (*redirector)(nil).send(x, 301, ReasonSlashRedirect, origin(x, hostname(x))+uri)
}

func (r *redirector) exempt(path string) bool {
	for _, p := range r.ExemptPrefix {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// https is where x is to go for TLS, or nothing if it says no host.
func (r *redirector) https(x *exchange.Exchange) string {
	host := hostname(x)
	if host == "" {
		return ""
	}
	if r.HTTPSPort != 0 && r.HTTPSPort != 443 {
		host += ":" + strconv.Itoa(r.HTTPSPort)
	}
	uri := requestURI(x)
	if !r.KeepSlash {
		uri = strings.TrimSuffix(uri, "/")
	}
	return "https://" + host + uri
}

// send answers with the redirect, or with 400 if what the request says makes no Location.
func (r *redirector) send(x *exchange.Exchange, code int, reason, location string) bool {
	if !validLocation(location) {
		x.Answer(400, ReasonBadRedirect)
		return false
	}
	x.Redirect(code, location, reason)
	return false
}

// validLocation reports whether s is an URL that may stand in a header. Two slashes at its beginning would
// be another host, which a template for a path cannot have meant.
func validLocation(s string) bool {
	_, err := url.Parse(s)
	return err == nil && s != "" && !strings.HasPrefix(s, "//") && httpguts.ValidHeaderFieldValue(s)
}

// hostname is the host as the client wrote it, without the port; an IPv6 address is in brackets.
func hostname(x *exchange.Exchange) string {
	host := cmp.Or(x.Request.RawHost, x.Request.Host)
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		return host[:end+1]
	}
	switch i := strings.IndexByte(host, ':'); {
	case i < 0:
		return host
	case i == strings.LastIndexByte(host, ':'):
		return host[:i]
	}
	return "[" + host + "]"
}

// origin is the scheme, the given host, and the port of x if it is not the scheme's own. Without a host it is
// empty, and what follows is a path: also a good Location.
func origin(x *exchange.Exchange, host string) string {
	if host == "" {
		return ""
	}
	s := scheme(x)
	p := x.Request.Port
	if p == "" || s == "https" && p == "443" || s == "http" && p == "80" {
		return s + "://" + host
	}
	return s + "://" + host + ":" + p
}
