package annotation

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// errEmpty is for values with nothing in them.
var errEmpty = errors.New("is empty")

// maxValue bounds any value. Annotations of one object may have 256 KiB in all.
const maxValue = 8 << 10

// clean refuses what is in no value: control bytes, what is not UTF-8, and too much of
// anything. With lines, newlines and tabs may be in it.
func clean(s string, lines bool) error {
	if len(s) > maxValue {
		return fmt.Errorf("is longer than %d bytes", maxValue)
	}
	for _, r := range s {
		switch {
		case lines && (r == '\n' || r == '\r'):
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029':
			return fmt.Errorf("holds the control character %U", r)
		case r == '\uFFFD':
			return errors.New("is not UTF-8")
		}
	}
	return nil
}

// trim takes away the white space around a value, such as the newline at the end of a YAML block.
func trim(s string) string { return strings.Trim(s, " \t\r\n") }

// parseBool takes what strconv.ParseBool takes, in any case.
func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(s))
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}

// parseSwitch takes on and off, as nginx writes it, besides true and false.
func parseSwitch(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	b, err := strconv.ParseBool(strings.ToLower(s))
	if err != nil {
		return false, fmt.Errorf("%q is neither on nor off", s)
	}
	return b, nil
}

// intIn returns a parser of decimal numbers from low to high.
func intIn(low, high int) func(string) (int, error) {
	return func(s string) (int, error) {
		if !digits(s) {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%s is not within %d and %d", s, low, high)
		}
		return n, nil
	}
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// parseSize takes sizes as nginx writes them: bytes, or k, m, g for the powers of 1024.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	number := s
	if s != "" {
		switch s[len(s)-1] {
		case 'b', 'B':
			number = s[:len(s)-1]
		case 'k', 'K':
			unit, number = 1<<10, s[:len(s)-1]
		case 'm', 'M':
			unit, number = 1<<20, s[:len(s)-1]
		case 'g', 'G':
			unit, number = 1<<30, s[:len(s)-1]
		}
	}
	if !digits(number) {
		return 0, fmt.Errorf("%q is not a size such as 512, 16k, 8m or 1g", s)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("the size %s is too large", s)
	}
	return n * unit, nil
}

// timeIn returns a parser of times from low to high: seconds if there is no unit, or with units of Go or
// nginx (ms, s, m, h, d), such as 1h30m.
func timeIn(low, high time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := parseTime(s)
		if err != nil {
			return 0, err
		}
		if d < low || d > high {
			return 0, fmt.Errorf("%s is not within %s and %s", s, low, high)
		}
		return d, nil
	}
}

func parseTime(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a time such as 60, 60s, 500ms or 1h30m", s)
	if digits(s) {
		s += "s"
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		j := i
		for j < len(rest) && rest[j] >= 'a' && rest[j] <= 'z' {
			j++
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		unit := timeUnit(rest[i:j])
		if err != nil || unit == 0 || n > int64((math.MaxInt64-sum)/unit) {
			return 0, bad
		}
		sum += time.Duration(n) * unit
		rest = rest[j:]
	}
	if s == "" {
		return 0, bad
	}
	return sum, nil
}

func timeUnit(s string) time.Duration {
	switch s {
	case "ms":
		return time.Millisecond
	case "s":
		return time.Second
	case "m":
		return time.Minute
	case "h":
		return time.Hour
	case "d":
		return 24 * time.Hour
	default:
		return 0
	}
}

// oneOf returns a parser of words, which are compared without regard to case and
// returned as they stand in words.
func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, w := range words {
			if strings.EqualFold(s, w) {
				return w, nil
			}
		}
		return "", fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
	}
}

// listOf returns a parser of lists with commas or white space between the elements. There must be one.
func listOf[T any](element func(string) (T, error)) func(string) ([]T, error) {
	return func(s string) ([]T, error) {
		var out []T
		for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			v, err := element(word)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		if out == nil {
			return nil, errEmpty
		}
		return out, nil
	}
}

// parseRange takes an address or a range in CIDR notation. Bits after the mask are no error, as in nginx.
func parseRange(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a range such as 10.0.0.0/8", s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q mixes IPv4 and IPv6", s)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// parseToken takes a token of RFC 9110, such as the name of a cookie.
func parseToken(s string) (string, error) {
	if !httpguts.ValidHeaderFieldName(s) || len(s) > 256 {
		return "", fmt.Errorf("%q is not a token: letters, digits and a few signs", s)
	}
	return s, nil
}

// parseMethod takes the methods that a proxy may ask with.
func parseMethod(s string) (string, error) {
	return oneOf("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")(s)
}

// parseText takes any text that may stand in a header value.
func parseText(s string) (string, error) {
	if !httpguts.ValidHeaderFieldValue(s) || strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) {
		return "", errors.New("holds characters that may not be in a header field")
	}
	return s, nil
}

// parseStatus takes statuses of errors.
func parseStatus(s string) (int, error) {
	n, err := intIn(400, 599)(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a status from 400 to 599", s)
	}
	return n, nil
}
