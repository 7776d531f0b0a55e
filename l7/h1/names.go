package h1

import "strings"

// A kind is what a field means to the proxy itself; other is for the ends only.
type kind uint8

const (
	other kind = iota
	host
	contentLength
	transferEncoding
	connection
	te
	upgrade
	expect
	hop // of this hop alone, with nothing in it for us
)

// kindOf looks at the length first: most fields of a request are told apart by it.
func kindOf(name string) kind {
	switch len(name) {
	case 2:
		return is(name, "te", te)
	case 4:
		return is(name, "host", host)
	case 6:
		return is(name, "expect", expect)
	case 7:
		if k := is(name, "upgrade", upgrade); k != other {
			return k
		}
		return is(name, "trailer", hop)
	case 10:
		if k := is(name, "connection", connection); k != other {
			return k
		}
		return is(name, "keep-alive", hop)
	case 14:
		if k := is(name, "content-length", contentLength); k != other {
			return k
		}
		return is(name, "http2-settings", hop)
	case 16:
		return is(name, "proxy-connection", hop)
	case 17:
		return is(name, "transfer-encoding", transferEncoding)
	case 18:
		return is(name, "proxy-authenticate", hop)
	case 19:
		return is(name, "proxy-authorization", hop)
	}
	return other
}

func is(name, want string, k kind) kind {
	if fold(name, want) {
		return k
	}
	return other
}

// HopByHop reports whether a field of that name is between two neighbours only and so never is passed
// on: RFC 9110 section 7.6.1, with framing, Host and Expect, which each hop writes itself.
func HopByHop(name string) bool { return kindOf(name) != other }

// protected are the fields which a client must not take away by naming them in Connection: backends
// trust them. A name that ends in a dash stands for all that begin so.
var protected = [...]string{
	"host", "content-length", "transfer-encoding", "content-encoding", "content-type", "content-range",
	"expect", "authorization", "cookie", "date", "range", "via",
	"forwarded", "x-forwarded-", "x-real-ip", "x-original-", "x-scheme", "x-request-id", "x-auth-request-",
	"x-envoy-", "ssl-client-", "traceparent", "tracestate",
}

// Protected reports whether name is of a field that carries framing, routing, identity or
// forwarding, where an underscore counts as a dash, as many backends have it.
func Protected(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		name = strings.ReplaceAll(name, "_", "-")
	}
	for _, p := range protected {
		if fold(name, p) || p[len(p)-1] == '-' && len(name) > len(p) && fold(name[:len(p)], p) {
			return true
		}
	}
	return false
}

// TrailerAllowed reports whether a field may come after a body: RFC 9110 section 6.5.1 forbids
// what is needed before, and what backends trust must not come by the back door.
func TrailerAllowed(name string) bool {
	if HopByHop(name) || Protected(name) || strings.IndexByte(name, '_') >= 0 {
		return false
	}
	switch strings.ToLower(name) {
	case "set-cookie", "www-authenticate", "age", "cache-control", "expires", "location", "retry-after",
		"vary", "warning", "max-forwards", "pragma", "te", "if-match", "if-none-match", "if-modified-since",
		"if-unmodified-since", "if-range", "origin", "referer", "access-control-allow-origin":
		return false
	}
	return true
}
