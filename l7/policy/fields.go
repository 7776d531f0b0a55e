package policy

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// connection reports whether a field is about one connection or the framing of a
// message: no policy may set, copy or remove one.
func connection(name string) bool {
	switch strings.ToLower(name) {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect", "host":
		return true
	}
	return false
}

// checkName says what is wrong with the name of a field that somebody wants set.
func checkName(name string) error {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("field name %q: not a token", name)
	case connection(name):
		return fmt.Errorf("field %s: belongs to the connection or the framing", name)
	}
	return nil
}

// checkValue says what is wrong with the value of the named field.
func checkValue(name, value string) error {
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("field %s: value %q has bytes that may not be in a header", name, value)
	}
	return nil
}

func checkFields(fields []Field) error {
	var errs []error
	for _, f := range fields {
		errs = append(errs, checkName(f.Name), checkValue(f.Name, f.Value))
	}
	return errors.Join(errs...)
}

// apply sets and removes fields of h.
func apply(h *exchange.Header, fields []Field) {
	for _, f := range fields {
		if f.Value == "" {
			h.Del(f.Name)
		} else {
			h.Set(f.Name, f.Value)
		}
	}
}

// same reports whether two field names are the same to a backend that turns "-" into "_", as CGI and its children do.
func same(a, b string) bool {
	return len(a) == len(b) && begins(a, b)
}

// begins is same for the first bytes of name.
func begins(name, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if fold(name[i]) != fold(prefix[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case c == '_':
		return '-'
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	}
	return c
}

// vary adds a name to the Vary field, unless it is there.
func vary(h *exchange.Header, name string) {
	for _, f := range *h {
		if !strings.EqualFold(f.Name, "Vary") {
			continue
		}
		for token := range strings.SplitSeq(f.Value, ",") {
			token = strings.TrimSpace(token)
			if token == "*" || strings.EqualFold(token, name) {
				return
			}
		}
	}
	h.Add("Vary", name)
}
