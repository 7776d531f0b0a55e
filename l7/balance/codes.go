package balance

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Codes is a set of HTTP statuses from 100 to 599. The zero value is empty.
type Codes [8]uint64

// ParseCodes reads a list such as "200,204,300-399" or "2xx 3xx": statuses and
// ranges, separated by commas or blanks.
func ParseCodes(text string) (Codes, error) {
	var c Codes
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	if len(fields) == 0 {
		return Codes{}, errors.New("no status is given")
	}
	for _, f := range fields {
		low, high, ok := strings.Cut(f, "-")
		if !ok {
			high = low
		}
		if len(f) == 3 && strings.EqualFold(f[1:], "xx") {
			low, high = f[:1]+"00", f[:1]+"99"
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || from < 100 || to > 599 || from > to {
			return Codes{}, fmt.Errorf("%q is neither a status from 100 to 599 nor a range of them", f)
		}
		for s := from; s <= to; s++ {
			c[(s-100)/64] |= 1 << ((s - 100) % 64)
		}
	}
	return c, nil
}

// Has reports whether status is in c.
func (c *Codes) Has(status int) bool {
	i := status - 100
	return i >= 0 && i < 500 && c[i/64]&(1<<(i%64)) != 0
}

// String returns c as ParseCodes reads it, as short as ranges make it.
func (c Codes) String() string {
	var parts []string
	for s := 100; s < 600; s++ {
		if !c.Has(s) {
			continue
		}
		from := s
		for c.Has(s + 1) {
			s++
		}
		if from == s {
			parts = append(parts, strconv.Itoa(s))
		} else {
			parts = append(parts, strconv.Itoa(from)+"-"+strconv.Itoa(s))
		}
	}
	return strings.Join(parts, ",")
}

// A Check asks an endpoint again and again whether it is well. It is comparable:
// endpoints that are checked alike by several Pools are checked once.
type Check struct {
	Interval time.Duration // from one check to the next, give or take a tenth; 0 means 5 s
	Timeout  time.Duration // of one check; 0 means 1 s
	Rise     int           // checks in a row that bring an endpoint back; 0 means 2
	Fall     int           // failed checks in a row that take it out; 0 means 3
	Method   string        // of the request; empty means GET
	Path     string        // with query if need be; empty: only a connection is made
	Host     string        // of the request; empty: the endpoint's address
	Expected Codes         // empty means 200-399
	TLS      bool          // over TLS; the certificate is not verified, as for any backend by default
}

// filled returns c with its defaults in place.
func (c Check) filled() Check {
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.Rise == 0 {
		c.Rise = 2
	}
	if c.Fall == 0 {
		c.Fall = 3
	}
	if c.Method == "" {
		c.Method = "GET"
	}
	if c.Expected == (Codes{}) {
		for s := 200; s < 400; s++ {
			c.Expected[(s-100)/64] |= 1 << ((s - 100) % 64)
		}
	}
	return c
}

// Validate returns all that is wrong with c, by field.
func (c *Check) Validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("Check."+format, args...))
		}
	}
	wrong(c.Interval < 0 || c.Interval > 0 && c.Interval < 100*time.Millisecond, "Interval: %v is less than 100 ms", c.Interval)
	wrong(c.Timeout < 0, "Timeout: %v is negative", c.Timeout)
	wrong(c.Rise < 0 || c.Rise > 100, "Rise: %d is not from 0 to 100", c.Rise)
	wrong(c.Fall < 0 || c.Fall > 100, "Fall: %d is not from 0 to 100", c.Fall)
	wrong(c.Method != "" && c.Method != "GET" && c.Method != "HEAD" && c.Method != "OPTIONS",
		"Method: %q is none of GET, HEAD and OPTIONS", c.Method)
	wrong(c.Path != "" && !visible(c.Path, '/'), "Path: %q does not begin with a slash or holds what a URL does not", c.Path)
	wrong(c.Host != "" && !visible(c.Host, c.Host[0]), "Host: %q holds what a host does not", c.Host)
	return errors.Join(errs...)
}

// visible reports whether s begins with first and is visible ASCII throughout.
func visible(s string, first byte) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && s[0] == first
}
