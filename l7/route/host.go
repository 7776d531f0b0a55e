package route

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// ErrHost is what ParseHost finds wrong with any host that it refuses. Clients get 400.
var ErrHost = errors.New("invalid host")

// maxHost is the length of the longest name that DNS can hold, with its last dot.
const maxHost = 254

// ParseHost splits the value of a Host field, or the authority of a request, into a host in
// the form that tables are keyed by and a port. The host is in lower case and without the
// dot that may end a name; an IPv6 literal keeps its brackets and is spelled as RFC 5952
// wants it. The port is "" where there is none. An empty value is no error: the
// client has not said which host it means.
//
// Names are letters, digits, hyphens, underscores and dots: everything else that RFC 3986
// would let a host be (escapes, sub-delimiters, user information, zones) is refused.
// A host in lower case costs no allocation.
func ParseHost(raw string) (host, port string, err error) {
	if raw == "" {
		return "", "", nil
	}
	if raw[0] == '[' {
		return literal(raw)
	}
	host = raw
	if i := strings.IndexByte(raw, ':'); i >= 0 {
		if host, port = raw[:i], raw[i+1:]; !isPort(port) {
			return "", "", ErrHost
		}
	}
	if len(host) > maxHost {
		return "", "", ErrHost
	}
	host = strings.TrimSuffix(host, ".")
	upper, ok := scanName(host)
	if !ok {
		return "", "", ErrHost
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, port, nil
}

// literal is ParseHost for what begins with a bracket.
func literal(raw string) (host, port string, err error) {
	end := strings.IndexByte(raw, ']')
	if end < 0 {
		return "", "", ErrHost
	}
	if rest := raw[end+1:]; rest != "" {
		if port = rest[1:]; rest[0] != ':' || !isPort(port) {
			return "", "", ErrHost
		}
	}
	a, err := netip.ParseAddr(raw[1:end])
	if err != nil || !a.Is6() || a.Zone() != "" {
		return "", "", ErrHost
	}
	return "[" + a.String() + "]", port, nil
}

// scanName reports whether s is a name and whether it has upper-case letters.
func scanName(s string) (upper, ok bool) {
	label := 0 // bytes of it so far
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '.' && label > 0:
			label = 0
			continue
		default:
			return false, false
		}
		label++
	}
	return upper, label > 0
}

// isPort reports whether s is a port number, or nothing: "host:" is legal.
func isPort(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	if s == "" {
		return true
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && len(s) <= 5
}
