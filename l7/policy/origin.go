package policy

import (
	"net/netip"
	"strings"
)

// parseOrigin takes an Origin field apart, as the Fetch standard serialises it: scheme://host, perhaps with :port.
// It returns false for "null" and for anything else that is not so.
func parseOrigin(s string) (o Origin, ok bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || rest == "" || len(s) > 512 {
		return Origin{}, false
	}
	for i := range len(scheme) {
		if c := scheme[i] | 0x20; (c < 'a' || c > 'z') && (i == 0 || !strings.Contains("0123456789+-.", scheme[i:i+1])) {
			return Origin{}, false
		}
	}
	host, port := rest, ""
	if strings.HasPrefix(rest, "[") {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return Origin{}, false
		}
		host, port = rest[1:end], rest[end+1:]
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() || a.Zone() != "" {
			return Origin{}, false
		}
	} else if i := strings.IndexByte(rest, ':'); i >= 0 {
		host, port = rest[:i], rest[i:]
	}
	if port != "" {
		if port = port[1:]; rest[len(rest)-len(port)-1] != ':' || !digits(port) {
			return Origin{}, false
		}
	}
	if rest[0] != '[' && !hostBytes(host) {
		return Origin{}, false
	}
	return Origin{Scheme: strings.ToLower(scheme), Host: strings.ToLower(host), Port: port}.normal(), true
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 5
}

// hostBytes reports whether s consists of letters, digits, dots, hyphens and underscores.
func hostBytes(s string) bool {
	for i := range len(s) {
		if c := s[i]; !unreserved(c) || c == '~' {
			return false
		}
	}
	return s != ""
}

// normal leaves out the port that goes without saying, and the brackets of an address.
func (o Origin) normal() Origin {
	if o.Scheme == "https" && o.Port == "443" || o.Scheme == "http" && o.Port == "80" {
		o.Port = ""
	}
	o.Host = strings.TrimSuffix(strings.TrimPrefix(o.Host, "["), "]")
	return o
}

// admits reports whether got, from parseOrigin, is this origin or has one label in the place of its star. Both are normal.
func (o Origin) admits(got Origin) bool {
	if o.Scheme != got.Scheme || o.Port != got.Port {
		return false
	}
	parent, wild := strings.CutPrefix(o.Host, "*.")
	if !wild {
		return o.Host == got.Host
	}
	label, rest, ok := strings.Cut(got.Host, ".")
	return ok && label != "" && rest == parent
}
