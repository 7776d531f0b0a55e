package balance

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A Mode is what the cookie of a sticky session holds.
type Mode uint8

// The modes, by ingress-nginx's names. Balanced is a random value, by which the
// endpoint is found as by a hash: sessions move when endpoints come, a few to the
// new one. Persistent names the endpoint, by a keyed hash: sessions move only when theirs goes.
const (
	Balanced Mode = iota
	Persistent
)

// Secure says when a cookie has the attribute Secure.
type Secure uint8

// The ways to set Secure. SecureAuto is: when the client speaks TLS.
const (
	SecureAuto Secure = iota
	SecureAlways
	SecureNever
)

// Sticky keeps the requests of a client at one endpoint by a cookie.
type Sticky struct {
	Name            string // of the cookie; required
	Mode            Mode
	Path            string // required; ingress-nginx takes the rule's path
	Domain          string
	SameSite        http.SameSite // 0: the attribute is left out
	Secure          Secure
	MaxAge          time.Duration // 0: left out; negative: the cookie is to be deleted at once
	Expires         time.Duration // from now; 0: left out; negative: in the past
	ChangeOnFailure bool          // the session moves for good when its endpoint has failed a request
}

// Validate returns all that is wrong with s, by field.
func (s *Sticky) Validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("Sticky."+format, args...))
		}
	}
	wrong(!token(s.Name), "Name: %q is not a token", s.Name)
	wrong(strings.ContainsFunc(s.Path, notAttribute), "Path: %q holds what an attribute of a cookie does not", s.Path)
	wrong(strings.ContainsFunc(s.Domain, notAttribute), "Domain: %q holds what an attribute of a cookie does not", s.Domain)
	wrong(s.SameSite == http.SameSiteNoneMode && s.Secure == SecureNever, "SameSite: None without Secure is refused by browsers")
	wrong(s.Mode > Persistent, "Mode: there is no %d", s.Mode)
	return errors.Join(errs...)
}

// SetCookie returns the value of a Set-Cookie field that gives the client the
// session value, which is Pick.Session when Pick.Fresh. It is HttpOnly always.
// Secure says whether the client speaks TLS, now what time it is.
func (s *Sticky) SetCookie(value string, secure bool, now time.Time) string {
	c := http.Cookie{
		Name: s.Name, Value: value, Path: s.Path, Domain: s.Domain, HttpOnly: true, SameSite: s.SameSite,
		Secure: s.Secure == SecureAlways || s.Secure == SecureAuto && secure,
	}
	switch {
	case s.MaxAge < 0:
		c.MaxAge = -1
	case s.MaxAge > 0:
		c.MaxAge = max(1, int(s.MaxAge/time.Second))
	}
	if s.Expires != 0 {
		c.Expires = now.Add(s.Expires)
	}
	return c.String()
}

// CookieValue returns the value of the first cookie of that name in a Cookie
// field (RFC 6265, 5.4: pairs separated by semicolons), without quotes around it.
func CookieValue(field, name string) (string, bool) {
	for field != "" {
		var pair string
		pair, field, _ = strings.Cut(field, ";")
		if n, v, ok := strings.Cut(strings.Trim(pair, " \t"), "="); ok && n == name {
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v, true
		}
	}
	return "", false
}

// token reports whether s is one (RFC 9110, 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func notAttribute(r rune) bool { return r < ' ' || r > '~' || r == ';' }
