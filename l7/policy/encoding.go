package policy

import (
	"iter"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// weighted yields the elements of an Accept-… field with their weights in thousandths. An element whose weight is not
// one (RFC 9110, 12.4.2) is left out: who does not say it well does not get it.
func weighted(s string) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for element := range strings.SplitSeq(s, ",") {
			name, params, _ := strings.Cut(element, ";")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			q, ok := 1000, true
			for param := range strings.SplitSeq(params, ";") {
				key, value, found := strings.Cut(param, "=")
				if found && strings.EqualFold(strings.TrimSpace(key), "q") {
					q, ok = parseWeight(strings.TrimSpace(value))
					break
				}
			}
			if ok && !yield(name, q) {
				return
			}
		}
	}
}

// parseWeight reads 0, 1, 0.5, 0.125, 1.000 and the like.
func parseWeight(s string) (int, bool) {
	if s == "" || len(s) > 5 || s[0] != '0' && s[0] != '1' || len(s) > 1 && s[1] != '.' {
		return 0, false
	}
	q, unit := int(s[0]-'0')*1000, 100
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		q += int(s[i]-'0') * unit
		unit /= 10
	}
	return q, q <= 1000
}

// acceptance is what a client takes, by weight; a weight below zero means that it says nothing.
type acceptance struct {
	gzip, brotli, identity int
}

// accepts reads the Accept-Encoding fields of h. Without any, all encodings are acceptable by the letter; in practice, none but
// identity is understood.
func accepts(h exchange.Header) acceptance {
	a := acceptance{gzip: -1, brotli: -1, identity: -1}
	star := -1
	for _, f := range h {
		if len(f.Name) != len("Accept-Encoding") || !strings.EqualFold(f.Name, "Accept-Encoding") {
			continue
		}
		for name, q := range weighted(f.Value) {
			switch {
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				a.gzip = max(a.gzip, q)
			case strings.EqualFold(name, "br"):
				a.brotli = max(a.brotli, q)
			case strings.EqualFold(name, "identity"):
				a.identity = max(a.identity, q)
			case name == "*":
				star = max(star, q)
			}
		}
	}
	if a.gzip < 0 {
		a.gzip = star
	}
	if a.brotli < 0 {
		a.brotli = star
	}
	return a
}

// choose returns the encoding to use of those that are on: "br", "gzip", or "" for none. At the same weight, the smaller result counts.
func (a acceptance) choose(gzip, brotli bool) string {
	best, name := 0, ""
	if brotli && a.brotli > best {
		best, name = a.brotli, "br"
	}
	if gzip && a.gzip > best {
		best, name = a.gzip, "gzip"
	}
	if a.identity > best {
		return ""
	}
	return name
}
