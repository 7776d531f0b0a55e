package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
)

// A Canary says which requests go to another backend than the rule's own. Header comes
// before cookie, cookie before weight, as in ingress-nginx.
type Canary struct {
	Header  string         // name of the field to look at; empty: none
	Value   string         // the value that asks for the canary; empty: "always" does, and "never" asks for the primary
	Pattern *regexp.Regexp // instead of Value; nil: none
	Cookie  string         // name of the cookie that says "always" or "never"; empty: none
	Weight  int            // of Total requests that are not decided otherwise
	Total   int            // less than 100 means 100
	Legacy  bool           // affinity-canary-behavior: legacy; sessions do not bind clients to the canary or the primary
	Rand    func() uint64  // optional; for tests
}

// Validate returns all that is wrong with c, by field.
func (c *Canary) Validate() error {
	var errs []error
	if c.Header != "" && !token(c.Header) {
		errs = append(errs, fmt.Errorf("Canary.Header: %q is not a token", c.Header))
	}
	if c.Cookie != "" && !token(c.Cookie) {
		errs = append(errs, fmt.Errorf("Canary.Cookie: %q is not a token", c.Cookie))
	}
	if (c.Value != "" || c.Pattern != nil) && c.Header == "" {
		errs = append(errs, errors.New("Canary.Header: required by a value or a pattern"))
	}
	if c.Total < 0 {
		errs = append(errs, fmt.Errorf("Canary.Total: %d is negative", c.Total))
	}
	if c.Weight < 0 || c.Weight > max(c.Total, 100) {
		errs = append(errs, fmt.Errorf("Canary.Weight: %d is not from 0 to %d", c.Weight, max(c.Total, 100)))
	}
	return errors.Join(errs...)
}

// A CanaryRequest is what decides where a request goes.
type CanaryRequest struct {
	Header  string // value of the first field named Canary.Header, or empty
	Cookie  string // value of the cookie named Canary.Cookie, or empty
	Session string // value of the cookie of the sticky sessions, or empty

	Primary, Canary *Balancer // whose sessions bind; nil: none
}

// Choose reports whether the request goes to the canary. A session binds it, unless
// c is Legacy.
func (c *Canary) Choose(r CanaryRequest) bool {
	if !c.Legacy && r.Session != "" {
		switch {
		case r.Primary != nil && r.Primary.Owns(r.Session):
			return false
		case r.Canary != nil && r.Canary.Owns(r.Session):
			return true
		}
	}
	if r.Header != "" && c.Header != "" {
		switch {
		case c.Value != "":
			if r.Header == c.Value {
				return true
			}
		case c.Pattern != nil:
			if c.Pattern.MatchString(r.Header) {
				return true
			}
		case r.Header == "always":
			return true
		case r.Header == "never":
			return false
		}
	}
	if c.Cookie != "" {
		switch r.Cookie {
		case "always":
			return true
		case "never":
			return false
		}
	}
	return c.draw()
}

func (c *Canary) draw() bool {
	if c.Weight <= 0 {
		return false
	}
	random := c.Rand
	if random == nil {
		random = rand.Uint64
	}
	return below(random(), uint64(max(c.Total, 100))) < uint64(c.Weight)
}
