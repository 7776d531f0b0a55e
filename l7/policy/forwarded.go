package policy

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A hop is one element of the Forwarded field (RFC 7239).
type hop struct {
	For, By, Host, Proto string
}

var errForwarded = errors.New("the Forwarded field is malformed")

// parseForwarded reads the value of Forwarded fields that were joined by commas. Parameters which RFC 7239 does not name are
// skipped; one that stands twice in an element, and anything that is not in the grammar, makes the whole field bad.
func parseForwarded(s string) ([]hop, error) {
	var hops []hop
	var h hop
	seen := map[string]bool{}
	for {
		s = strings.TrimLeft(s, " \t")
		name, value, rest, err := cutPair(s)
		if err != nil {
			return nil, err
		}
		if name != "" {
			name = strings.ToLower(name)
			if seen[name] {
				return nil, errForwarded
			}
			seen[name] = true
			h.set(name, value)
		}
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || rest[0] == ',' {
			if len(seen) != 0 {
				hops = append(hops, h)
			}
			h = hop{}
			clear(seen)
		}
		switch {
		case rest == "":
			return hops, nil
		case rest[0] != ';' && rest[0] != ',':
			return nil, errForwarded
		}
		s = rest[1:]
	}
}

func (h *hop) set(name, value string) {
	switch name {
	case "for":
		h.For = value
	case "by":
		h.By = value
	case "host":
		h.Host = value
	case "proto":
		h.Proto = value
	}
}

// cutPair cuts name=value from the front of s. The name is empty if s begins with a separator.
func cutPair(s string) (name, value, rest string, err error) {
	if s == "" || s[0] == ';' || s[0] == ',' {
		return "", "", s, nil
	}
	i := tokenLen(s)
	if i == 0 || i == len(s) || s[i] != '=' {
		return "", "", "", errForwarded
	}
	name, s = s[:i], s[i+1:]
	if !strings.HasPrefix(s, `"`) {
		i = tokenLen(s)
		if i == 0 {
			return "", "", "", errForwarded
		}
		return name, s[:i], s[i:], nil
	}
	value, rest, ok := cutQuoted(s[1:])
	if !ok {
		return "", "", "", errForwarded
	}
	return name, value, rest, nil
}

// cutQuoted reads a quoted-string whose first quote is gone.
func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			c = s[i]
			if c < ' ' && c != '\t' || c == 0x7f {
				return "", "", false
			}
			b.WriteByte(c)
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

func tokenLen(s string) int {
	for i := range len(s) {
		if !tokenByte(s[i]) {
			return i
		}
	}
	return len(s)
}

func tokenByte(c byte) bool {
	return unreserved(c) || strings.IndexByte("!#$%&'*+^`|", c) >= 0
}

// fromForwarded reads the Forwarded fields of h into the lists that the older fields would have. A bad field says
// nothing.
func fromForwarded(h exchange.Header) (hops, protos, hosts []string) {
	elements, err := parseForwarded(strings.Join(h.Values("Forwarded"), ","))
	if err != nil {
		return nil, nil, nil
	}
	for _, e := range elements {
		hops = append(hops, e.For)
		protos = append(protos, e.Proto)
		hosts = append(hosts, e.Host)
	}
	return hops, protos, hosts
}

// forwardedValue is the one element that this proxy writes.
func forwardedValue(client netip.Addr, host, proto string) string {
	var b strings.Builder
	b.WriteString("for=")
	switch {
	case !client.IsValid():
		b.WriteString("unknown")
	case client.Is4():
		b.WriteString(client.String())
	default:
		b.WriteString(`"[` + client.String() + `]"`)
	}
	if host != "" {
		b.WriteString(";host=")
		if tokenLen(host) == len(host) {
			b.WriteString(host)
		} else {
			b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(host) + `"`)
		}
	}
	return b.String() + ";proto=" + proto
}
