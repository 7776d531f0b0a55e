package h1

import (
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// Limits bound what a peer can make us hold, in bytes unless it says otherwise. A zero is the default.
type Limits struct {
	Line     int // of the request line with its end; 8 KiB
	Head     int // of the whole head; 32 KiB for requests and 64 KiB for answers
	Fields   int // number of fields; 100
	Chunk    int // extensions of all the chunks of a body; 4 KiB
	Trailers int // fields after a body; 8 KiB
}

func (l Limits) orDefaults() Limits {
	set := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	set(&l.Line, 8<<10)
	set(&l.Head, 32<<10)
	set(&l.Fields, 100)
	set(&l.Chunk, 4<<10)
	set(&l.Trailers, 8<<10)
	return l
}

// A Head is the start of a request, checked.
type Head struct {
	Method   string
	Target   string // in origin form, or "*"; as received but for the host that was in it
	Host     string // as received, from an absolute target if there was one; empty only in HTTP/1.0
	Protocol exchange.Protocol
	Header   exchange.Header // without Host, framing and what is of this hop alone
	Length   int64           // of the body; exchange.Unknown if it comes in chunks
	Close    bool            // the client wants no other answer on this connection
	Continue bool            // the client waits for a 100 before it sends the body
	Upgrade  string          // "websocket" or nothing
	Trailers bool            // the client takes fields after a body
	Dropped  int             // fields left out because their names had underscores
	Size     int             // bytes on the wire
}

// ParseRequest reads a whole head, from the method to the empty line. If it breaks a rule, the
// error is an *Error and the Head has what could be read before, for the log.
// underscores lets fields with an underscore in the name through, unless a backend might take them
// for one that it trusts.
func ParseRequest(b []byte, l Limits, underscores bool) (Head, error) {
	l = l.orDefaults()
	end, state, err := scan(b, scanner{}, l)
	if err == nil && (!state.whole || end != len(b)) {
		err = errLine
	}
	if err != nil {
		return Head{}, err
	}
	var h Head
	if err := parseRequest(&h, b, state.lines, l, underscores); err != nil {
		return h, err
	}
	return h, nil
}

// parseRequest wants a head that scan has found whole.
func parseRequest(h *Head, b []byte, lines int, l Limits, underscores bool) *Error {
	s := string(b) // the one copy: all strings of the head are parts of it
	h.Size = len(s)
	eol := strings.IndexByte(s, '\n')
	if err := h.line(s[:eol-1]); err != nil {
		return err
	}
	if lines-2 > l.Fields {
		return errManyFields
	}
	f := fields{header: make(exchange.Header, 0, lines+8), underscores: underscores}
	if err := f.parse(s[eol+1 : len(s)-2]); err != nil {
		return err
	}
	return h.settle(&f)
}

func (h *Head) line(s string) *Error {
	method, rest, ok := strings.Cut(s, " ")
	if len(method) > 32 || !ValidToken(method) {
		if len(s) > 0 && s[0] == 0x16 {
			return errTLS
		}
		return errMethod
	}
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 {
		return errLine
	}
	h.Method, h.Target = method, target
	switch version {
	case "HTTP/1.1":
		h.Protocol = exchange.HTTP11
	case "HTTP/1.0":
		h.Protocol = exchange.HTTP10
	default:
		return badVersion(version)
	}
	if !ValidTarget(target) {
		return errTarget
	}
	return h.form()
}

func badVersion(v string) *Error {
	if len(v) == 8 && v[:5] == "HTTP/" && v[6] == '.' && v[5] >= '0' && v[5] <= '9' && v[7] >= '0' && v[7] <= '9' {
		return errVersion
	}
	return errLine
}

// form settles the four forms of a target, RFC 9112 section 3.2.
func (h *Head) form() *Error {
	if h.Method == "CONNECT" {
		return errConnect
	}
	t := h.Target
	if t[0] == '/' {
		return nil
	}
	if t == "*" {
		if h.Method != "OPTIONS" {
			return errTarget
		}
		return nil
	}
	scheme, rest, ok := strings.Cut(t, "://")
	if !ok || !fold(scheme, "http") && !fold(scheme, "https") {
		return errTarget
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if h.Host = rest[:end]; !ValidHost(h.Host) {
		return errHost
	}
	if h.Target = rest[end:]; h.Target == "" || h.Target[0] == '?' {
		h.Target = "/" + h.Target
	}
	return nil
}

// settle takes what the fields say together.
func (h *Head) settle(f *fields) *Error {
	if err := h.hosts(f); err != nil {
		return err
	}
	if err := h.framing(f); err != nil {
		return err
	}
	for _, name := range f.nominated {
		if Protected(name) {
			return errNominated
		}
	}
	f.dropNominated()
	h.Header, h.Dropped, h.Trailers = f.header, f.dropped, f.trailers
	h.Close = f.close || h.Protocol == exchange.HTTP10 && !f.keep
	if f.expects && !f.continues {
		return errExpect
	}
	h.Continue = f.continues && h.Protocol == exchange.HTTP11 && h.Length != 0
	if f.upgrades && fold(f.upgrade, "websocket") && h.Method == "GET" && h.Protocol == exchange.HTTP11 {
		if h.Length != 0 {
			return errUpgrade
		}
		h.Upgrade = "websocket"
	}
	return nil
}

func (h *Head) hosts(f *fields) *Error {
	if f.hosts > 1 {
		return errHostTwice
	}
	if f.hosts == 0 {
		if h.Protocol == exchange.HTTP11 {
			return errHostMissing
		}
		return nil
	}
	if !ValidHost(f.host) {
		return errHost
	}
	if h.Host == "" {
		h.Host = f.host
	}
	return nil
}

func (h *Head) framing(f *fields) *Error {
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
		h.Length = exchange.Unknown
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

// parseLength takes digits and nothing else; 18 of them always fit.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, true
}
