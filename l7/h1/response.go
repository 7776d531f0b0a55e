package h1

import (
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A ResponseHead is the start of a backend's answer, checked.
type ResponseHead struct {
	Status   int
	Protocol exchange.Protocol
	Header   exchange.Header // without framing and what is of this hop alone
	// Length is what Content-Length says. It is exchange.Unknown if there is none. Whether there is
	// a body at all depends on the status and on what was asked.
	Length  int64
	Chunked bool
	Close   bool   // the connection ends after this answer
	Upgrade string // what the connection is to become, in a 101
	Size    int
}

// A Scan finds the end of a head that arrives in pieces. The zero Scan begins one.
type Scan struct{ s scanner }

// End returns where the head that b begins with ends, or 0 if it is not whole yet. b has to hold
// the same bytes as the last time, and more. The error is an *Error.
func (s *Scan) End(b []byte, l Limits) (int, error) {
	end, next, err := scan(b, s.s, l.orDefaults())
	s.s = next
	if err != nil {
		return 0, err
	}
	if !next.whole {
		return 0, nil
	}
	return end, nil
}

// ParseResponse reads a whole head, from the status line to the empty line. The error is an *Error.
// Names with underscores pass: the backend's answer is its own.
func ParseResponse(b []byte, l Limits) (ResponseHead, error) {
	if l.Head <= 0 {
		l.Head = 64 << 10
	}
	l = l.orDefaults()
	end, state, bad := scan(b, scanner{}, l)
	if bad == nil && (!state.whole || end != len(b)) {
		bad = errStatusLine
	}
	var h ResponseHead
	if bad == nil {
		bad = h.parse(b, state.lines, l)
	}
	if bad != nil {
		return h, bad
	}
	return h, nil
}

func (h *ResponseHead) parse(b []byte, lines int, l Limits) *Error {
	s := string(b)
	h.Size = len(s)
	eol := strings.IndexByte(s, '\n')
	if !h.line(s[:eol-1]) {
		return errStatusLine
	}
	if lines-2 > l.Fields {
		return errManyFields
	}
	f := fields{header: make(exchange.Header, 0, lines+4), underscores: true}
	if err := f.parse(s[eol+1 : len(s)-2]); err != nil {
		return err
	}
	f.dropNominated()
	h.Header, h.Upgrade = f.header, f.upgrade
	h.Close = f.close || h.Protocol == exchange.HTTP10 && !f.keep
	return h.framing(&f)
}

// line reads "HTTP/1.1 200 OK"; the phrase means nothing, and may be missing with its space.
func (h *ResponseHead) line(s string) bool {
	switch {
	case strings.HasPrefix(s, "HTTP/1.1 "):
		h.Protocol = exchange.HTTP11
	case strings.HasPrefix(s, "HTTP/1.0 "):
		h.Protocol = exchange.HTTP10
	default:
		return false
	}
	s = s[9:]
	if len(s) < 3 || len(s) > 3 && s[3] != ' ' || !ValidValue(s) {
		return false
	}
	n, ok := parseLength(s[:3])
	h.Status = int(n)
	return ok && n >= 100 && n <= 599
}

func (h *ResponseHead) framing(f *fields) *Error {
	h.Length = exchange.Unknown
	switch {
	case f.codings > 0 && f.lengths > 0:
		return errBoth
	case f.codings > 1:
		return errCodingTwice
	case f.codings > 0 && h.Protocol == exchange.HTTP10:
		return errCoding10
	case f.codings > 0 && !fold(f.coding, "chunked"):
		return errCoding
	case f.codings > 0:
		h.Chunked = true
	case f.lengths > 1:
		return errLengthTwice
	case f.lengths > 0:
		n, ok := parseLength(f.length)
		if !ok {
			return errLength
		}
		h.Length = n
	}
	return nil
}
