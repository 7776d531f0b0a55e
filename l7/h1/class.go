package h1

import "strings"

// The classes of bytes in RFC 9110 section 5.6.2 and 5.5 and RFC 3986.
const (
	tokenByte   uint8 = 1 << iota // may stand in a method or a field name
	valueByte                     // may stand in a field value
	targetByte                    // may stand in a request target
	hostByte                      // may stand in a registered name or an IPv4 address
	literalByte                   // may stand between the brackets of an IP literal
)

// classes is a constant in all but name.
var classes = classify()

func classify() [256]uint8 {
	var t [256]uint8
	for c := range 256 {
		b := byte(c)
		alnum := '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if alnum || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0 {
			t[c] |= tokenByte
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= valueByte
		}
		// Bytes above ASCII are wrong by RFC 3986 and sent all the same; what they
		// mean is settled where the path is made canonical. A fragment never belongs
		// on the wire, and programs differ in what they make of one.
		if b > ' ' && b != 0x7f && b != '#' {
			t[c] |= targetByte
		}
		if alnum || strings.IndexByte("-._~!$&'()*+,;=%", b) >= 0 {
			t[c] |= hostByte
		}
		if '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F' || b == ':' || b == '.' {
			t[c] |= literalByte
		}
	}
	return t
}

func all(s string, class uint8) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

// ValidToken reports whether s is a token of RFC 9110, as methods and field names are.
func ValidToken(s string) bool { return s != "" && all(s, tokenByte) }

// ValidValue reports whether s may be a field's value: no control bytes but the tab.
func ValidValue(s string) bool { return all(s, valueByte) }

// ValidTarget reports whether s may stand in a request line: no spaces, no control bytes, no fragment.
func ValidTarget(s string) bool { return s != "" && all(s, targetByte) }

// ValidHost reports whether s is a host with or without a port, as in a Host field. User
// information is not.
func ValidHost(s string) bool {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		return end > 2 && all(s[1:end], literalByte) && validPort(s[end+1:])
	}
	name, port := s, ""
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		name, port = s[:colon], s[colon:]
	}
	return name != "" && all(name, hostByte) && validPort(port)
}

// validPort takes what follows the host: nothing, or a colon and a number that fits.
func validPort(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	n := 0
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

func trimSpace(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// fold reports whether s is name, which is in lower case, by letters of either case.
func fold(s, name string) bool {
	if len(s) != len(name) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != name[i] {
			return false
		}
	}
	return true
}
