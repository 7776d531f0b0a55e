package policy

import (
	"math/rand/v2"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// trace passes on the trace context that came (W3C Trace Context), if it is good, and else makes one for the share of requests that
// are sampled. A bad traceparent goes, and a tracestate without a good one too.
func (f *Forwarder) trace(h *exchange.Header) {
	parent, n, state := "", 0, false
	for i := range *h {
		switch field := &(*h)[i]; {
		case len(field.Name) == len("traceparent") && strings.EqualFold(field.Name, "traceparent"):
			parent, n = field.Value, n+1
		case len(field.Name) == len("tracestate") && strings.EqualFold(field.Name, "tracestate"):
			state = true
		}
	}
	if n == 1 && validTrace(parent) {
		return
	}
	if n > 0 {
		h.Del("traceparent")
	}
	if state {
		h.Del("tracestate")
	}
	if f.sample <= 0 {
		return
	}
	flags := "-00"
	if rand.Float64() < f.sample {
		flags = "-01"
	}
	h.Add("traceparent", "00-"+nonZero(16)+"-"+nonZero(8)+flags)
}

// nonZero is randomHex without the value that means none.
func nonZero(n int) string {
	for {
		if s := randomHex(n); strings.Trim(s, "0") != "" {
			return s
		}
	}
}

// validTrace reports whether s is a traceparent: version, trace, parent and flags in lower-case hexadecimal digits. Later versions may have
// more behind.
func validTrace(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	for _, part := range [...]string{version, trace, parent, flags} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	if version == "ff" || strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return false
	}
	return len(s) == 55 || version != "00" && s[55] == '-'
}
