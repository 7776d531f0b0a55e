package h1

import (
	"bytes"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A scanner remembers how far the search for the end of a head has come, so
// that a head which arrives byte by byte is looked at once.
type scanner struct {
	pos   int // searched up to here
	start int // of the current line
	lines int // complete ones, with the empty one at the end
	whole bool
}

// scan looks for the empty line that ends a head. Lines end in CR LF and nothing else. It returns where the
// head ends once whole is set, and refuses what is too long before it is there.
func scan(b []byte, s scanner, l Limits) (int, scanner, *Error) {
	for s.pos < len(b) {
		i := bytes.IndexByte(b[s.pos:], '\n')
		if i < 0 {
			s.pos = len(b)
			break
		}
		i += s.pos
		if i == s.start || b[i-1] != '\r' {
			return 0, s, errBareLF
		}
		if s.lines == 0 && i >= l.Line {
			return 0, s, errLongLine
		}
		s.lines++
		empty := i-1 == s.start
		s.pos, s.start = i+1, i+1
		if empty {
			s.whole = true
			break
		}
	}
	switch {
	case s.lines == 0 && len(b) >= l.Line:
		return 0, s, errLongLine
	case s.start > l.Head || !s.whole && len(b) >= l.Head:
		return 0, s, errLongHead
	case s.lines == 1 && s.whole:
		return 0, s, errLine // an empty line where a head should begin
	case s.lines-1 > l.Fields+1:
		return 0, s, errManyFields
	}
	return s.start, s, nil
}

// fields gathers what the fields of a head say about the message itself.
type fields struct {
	header      exchange.Header
	underscores bool
	dropped     int

	host, length, coding, upgrade string
	hosts, lengths, codings       int

	close, keep, upgrades bool
	trailers              bool
	expects, continues    bool
	nominated             []string // by Connection, but for those that we know
}

// parse reads complete lines. Every line ends in CR LF; scan has seen to that.
func (f *fields) parse(s string) *Error {
	for s != "" {
		eol := strings.IndexByte(s, '\n')
		if err := f.field(s[:eol-1]); err != nil {
			return err
		}
		s = s[eol+1:]
	}
	return nil
}

func (f *fields) field(line string) *Error {
	colon, seen := 0, false
	for colon < len(line) && classes[line[colon]]&tokenByte != 0 {
		seen = seen || line[colon] == '_'
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return nameError(line, colon)
	}
	name, value := line[:colon], trimSpace(line[colon+1:])
	if !ValidValue(value) {
		return errControl
	}
	if seen && (!f.underscores || Protected(name) || HopByHop(strings.ReplaceAll(name, "_", "-"))) {
		f.dropped++
		return nil
	}
	if k := kindOf(name); k != other {
		return f.take(k, value)
	}
	f.header = append(f.header, exchange.Field{Name: name, Value: value})
	return nil
}

// nameError says what is wrong with a line that does not begin with a name and a colon.
func nameError(line string, at int) *Error {
	switch {
	case at < len(line) && (line[at] == ' ' || line[at] == '\t'):
		if at == 0 {
			return errFold
		}
		return errSpaceColon
	case at < len(line) && (line[at] < ' ' || line[at] == 0x7f):
		return errControl
	default:
		return errName
	}
}

func (f *fields) take(k kind, value string) *Error {
	switch k {
	case host:
		f.host = value
		f.hosts++
	case contentLength:
		f.length = value
		f.lengths++
	case transferEncoding:
		f.coding = value
		f.codings++
	case connection:
		return f.connection(value)
	case te:
		each(value, func(item string) bool {
			f.trailers = f.trailers || fold(item, "trailers")
			return true
		})
	case upgrade:
		f.upgrade = value
	case expect:
		f.expects = true
		f.continues = fold(value, "100-continue")
	}
	return nil
}

func (f *fields) connection(value string) *Error {
	ok := each(value, func(item string) bool {
		switch {
		case fold(item, "keep-alive"):
			f.keep = true
		case fold(item, "close"):
			f.close = true
		case fold(item, "upgrade"):
			f.upgrades = true
		case fold(item, "host") || kindOf(item) == contentLength || kindOf(item) == transferEncoding || kindOf(item) == other:
			f.nominated = append(f.nominated, item)
		}
		return ValidToken(item)
	})
	if !ok {
		return errName
	}
	return nil
}

// each calls do for the items of a comma-separated list until one returns false, and returns that.
func each(list string, do func(string) bool) bool {
	for list != "" {
		item, rest, _ := strings.Cut(list, ",")
		list = rest
		if item = trimSpace(item); item != "" && !do(item) {
			return false
		}
	}
	return true
}

// dropNominated takes out the fields that Connection names: they were for us alone.
func (f *fields) dropNominated() {
	for _, name := range f.nominated {
		f.header.Del(name)
	}
}

// ParseTrailer reads the fields after a chunked body, each line with its end, and leaves out those
// that have no business there.
func ParseTrailer(b []byte) (exchange.Header, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var f fields
	for rest := b; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 1 || rest[i-1] != '\r' {
			return nil, errBareLF
		}
		rest = rest[i+1:]
	}
	if err := f.parse(string(b)); err != nil {
		return nil, err
	}
	f.header.DelFunc(func(x exchange.Field) bool { return !TrailerAllowed(x.Name) })
	return f.header, nil
}
