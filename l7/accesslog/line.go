package accesslog

import (
	"crypto/tls"
	"strconv"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A line is one request being written down. Lines are pooled, and with each goes a lane: what a CPU takes from
// the pool it mostly has put there itself.
type line struct {
	lane *lane
	x    *exchange.Exchange
	done Done
	buf  []byte
	tmp  []byte // a value before it is escaped
	utc  stamp
	here stamp
	iso  stamp

	// The last cipher suite that was written: crypto/tls makes a list of all to find a name.
	cipher     uint16
	cipherText string
}

// A stamp is a time to the second as text, kept because most lines of a second share it.
type stamp struct {
	second int64
	text   []byte
}

func (s *stamp) append(dst []byte, t time.Time, layout string) []byte {
	if sec := t.Unix(); sec != s.second || s.text == nil {
		s.second, s.text = sec, t.AppendFormat(s.text[:0], layout)
	}
	return append(dst, s.text...)
}

// make fills buf.
func (ln *line) make(f *format) {
	if cap(ln.buf) > chunk {
		ln.buf = nil // a rare one; memory is not kept for it
	}
	ln.buf = ln.buf[:0]
	if f.parts == nil {
		ln.json()
	} else {
		ln.text(f)
	}
	ln.buf = append(ln.buf, '\n')
}

// cipherName returns the name of a cipher suite.
func (ln *line) cipherName(id uint16) string {
	if id != ln.cipher || ln.cipherText == "" {
		ln.cipher, ln.cipherText = id, tls.CipherSuiteName(id)
	}
	return ln.cipherText
}

func (ln *line) status() int {
	if ln.done.Aborted {
		return 499
	}
	return ln.done.Status
}

func (ln *line) reason() string {
	if ln.done.Reason == "" && ln.x.Response != nil {
		return ln.x.Response.Reason
	}
	return ln.done.Reason
}

// traceID returns the trace of a traceparent, which has been checked by whoever passes it on.
func traceID(h exchange.Header) string {
	if p := h.Get("traceparent"); len(p) >= 55 && p[2] == '-' && p[35] == '-' {
		return p[3:35]
	}
	return ""
}

// text fills buf by the template of f.
func (ln *line) text(f *format) {
	for i := range f.parts {
		p := &f.parts[i]
		switch {
		case len(ln.buf) > textLimit:
			return // far more than any log is made for
		case p.plain != nil:
			n := len(ln.buf)
			if ln.buf = p.plain(ln.buf, ln); len(ln.buf) == n && !f.json {
				ln.buf = append(ln.buf, '-')
			}
		case p.value != nil:
			s, ok := p.value(ln, p.arg)
			ln.escaped(s, ok, f.json)
		default:
			ln.buf = append(ln.buf, p.text...)
		}
	}
}

func (ln *line) escaped(s string, ok, json bool) {
	s, cut := shorten(s, valueLimit)
	switch {
	case json:
		ln.buf = appendJSON(ln.buf, s)
		if cut {
			ln.buf = append(ln.buf, "…"...)
		}
	case !ok:
		ln.buf = append(ln.buf, '-')
	default:
		ln.buf = appendDefault(ln.buf, s)
		if cut {
			ln.buf = append(ln.buf, "..."...)
		}
	}
}

// seconds appends d in seconds with three digits, as nginx has it.
func seconds(dst []byte, d time.Duration) []byte { return fixed(dst, d, time.Millisecond, 3) }

// fixed appends d in seconds with a number of digits of the given unit.
func fixed(dst []byte, d, unit time.Duration, digits int) []byte {
	d = max(d, 0)
	dst = strconv.AppendInt(dst, int64(d/time.Second), 10)
	dst = append(dst, '.')
	return pad(dst, int64(d%time.Second/unit), digits)
}

// pad appends n with zeros in front, up to the given number of digits.
func pad(dst []byte, n int64, digits int) []byte {
	for p, i := int64(10), 1; i < digits; p, i = p*10, i+1 {
		if n < p {
			for range digits - i {
				dst = append(dst, '0')
			}
			break
		}
	}
	return strconv.AppendInt(dst, n, 10)
}
