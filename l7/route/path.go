package route

import (
	"bytes"
	"errors"
)

// What Canonical finds wrong with a path. Clients get 400 for any of them.
var (
	ErrRelative     = errors.New("path does not begin with a slash")
	ErrByte         = errors.New("path has a byte that no path may have")
	ErrEscape       = errors.New("path has a percent sign without two hexadecimal digits")
	ErrNUL          = errors.New("path has an encoded NUL")
	ErrBackslash    = errors.New("path has a backslash")
	ErrEncodedSlash = errors.New("path has an encoded slash")
	ErrAboveRoot    = errors.New("path climbs above its root")
	ErrRewritten    = errors.New("rewritten path has dot segments or begins with two slashes")
)

// Options are the choices that Canonical leaves. The zero value is the strict dialect's.
type Options struct {
	// MergeSlashes makes one slash of several in a row, as nginx does.
	MergeSlashes bool
	// RejectEncodedSlash refuses %2F, which otherwise is data and never a separator.
	RejectEncodedSlash bool
	// AllowBackslash takes a backslash, encoded or not, for data (%5C). Some backends take it for
	// a slash, which is why it is refused otherwise.
	AllowBackslash bool
	// Rewritten says that the path comes out of a template: no client needs dot segments or two
	// slashes at the start there, so they are refused, not mended.
	Rewritten bool
}

// Canonical returns the one spelling of a path, without query, that stands for all its
// equivalent spellings (RFC 3986, section 6.2.2): escapes of unreserved characters are
// decoded, all other escapes have upper-case digits, bytes that should have been escaped are,
// and dot segments are resolved. The result decodes to what raw decodes to, but for
// the dot segments (and slashes, if they are merged), and is canonical itself.
//
// A path that is canonical already is returned as it is, without allocation.
func Canonical(raw string, o Options) (string, error) {
	if raw == "" || raw[0] != '/' {
		return "", ErrRelative
	}
	if o.Rewritten && len(raw) > 1 && raw[1] == '/' && !o.MergeSlashes {
		return "", ErrRewritten
	}
	if canonical(raw, o) {
		return raw, nil
	}
	p, err := respell(raw, o)
	if err != nil {
		return "", err
	}
	if o.Rewritten && hasDots(p) {
		return "", ErrRewritten
	}
	p, err = resolve(p, o.MergeSlashes)
	return string(p), err
}

// canonical reports whether raw, which begins with a slash, needs no work. It may
// be wrong in saying no.
func canonical(raw string, o Options) bool {
	for i := 1; i < len(raw); i++ {
		switch c := raw[i]; classes[c] {
		case plain:
		case slash:
			if o.MergeSlashes && raw[i-1] == '/' {
				return false
			}
		case dot:
			if raw[i-1] == '/' && isDots(raw[i:]) {
				return false
			}
		case percent:
			if i+2 >= len(raw) || !isUpperHex(raw[i+1]) || !isUpperHex(raw[i+2]) {
				return false
			}
			v := unhex(raw[i+1])<<4 | unhex(raw[i+2])
			if v == 0 || v == '/' && o.RejectEncodedSlash || v == '\\' && !o.AllowBackslash || isUnreserved(v) {
				return false
			}
			i += 2
		default:
			return false
		}
	}
	return true
}

// respell settles what is escaped and how. Dot segments are plain afterwards.
func respell(raw string, o Options) ([]byte, error) {
	p := make([]byte, 0, len(raw)+16)
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch classes[c] {
		case plain, slash, dot:
			p = append(p, c)
		case percent:
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return nil, ErrEscape
			}
			v := unhex(raw[i+1])<<4 | unhex(raw[i+2])
			if err := refused(v, o); err != nil {
				return nil, err
			}
			if i += 2; isUnreserved(v) {
				p = append(p, v)
			} else {
				p = appendEscape(p, v)
			}
		case loose:
			if c == '\\' && !o.AllowBackslash {
				return nil, ErrBackslash
			}
			p = appendEscape(p, c)
		default:
			return nil, ErrByte
		}
	}
	return p, nil
}

// refused returns why the escaped byte v may not be in a path.
func refused(v byte, o Options) error {
	switch {
	case v == 0:
		return ErrNUL
	case v == '/' && o.RejectEncodedSlash:
		return ErrEncodedSlash
	case v == '\\' && !o.AllowBackslash:
		return ErrBackslash
	}
	return nil
}

// resolve removes dot segments from p, in place, and makes one slash of several if merge is set.
func resolve(p []byte, merge bool) ([]byte, error) {
	w := 0 // p[:w] is done: segments, each with its slash in front
	for r := 0; r < len(p); {
		end := len(p)
		if n := bytes.IndexByte(p[r+1:], '/'); n >= 0 {
			end = r + 1 + n
		}
		segment, last := string(p[r+1:end]), end == len(p)
		switch {
		case segment == "" && merge && !last:
			r = end
			continue
		case segment == "..":
			if w == 0 {
				return nil, ErrAboveRoot
			}
			w = bytes.LastIndexByte(p[:w], '/')
		case segment != ".":
			w += copy(p[w:], p[r:end])
			r = end
			continue
		}
		if r = end; last { // what "." and ".." name is a directory
			p[w] = '/'
			w++
		}
	}
	return p[:w], nil
}

// hasDots reports whether p has a dot segment.
func hasDots(p []byte) bool {
	for i := 1; i < len(p); i++ {
		if p[i] == '.' && p[i-1] == '/' && isDots(string(p[i:min(len(p), i+3)])) {
			return true
		}
	}
	return false
}

// isDots reports whether s, which begins with a dot and stands behind a slash, begins with a dot segment.
func isDots(s string) bool {
	if len(s) > 1 && s[1] == '.' {
		s = s[1:]
	}
	return len(s) == 1 || s[1] == '/'
}

func appendEscape(p []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	return append(p, '%', digits[c>>4], digits[c&15])
}

// A class says what a byte means in a path.
type class uint8

const (
	never   class = iota // controls, space, and the delimiters of query and fragment
	plain                // may stand as it is (RFC 3986: pchar)
	loose                // ought to be escaped; clients send it plain all the same
	slash                // these three have rules of their own
	dot                  //
	percent              //
)

// classes is never written to.
var classes = func() (t [256]class) {
	for c := range 256 {
		if c > ' ' && c != 0x7f && c != '?' && c != '#' {
			t[c] = loose
		}
		if isUnreserved(byte(c)) {
			t[c] = plain
		}
	}
	for _, c := range []byte("!$&'()*+,;=:@") {
		t[c] = plain
	}
	t['/'], t['.'], t['%'] = slash, dot, percent
	return t
}()

func isUnreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}

func isUpperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func isHex(c byte) bool { return isUpperHex(c) || 'a' <= c && c <= 'f' }

// unhex returns the value of a digit; for anything else, something.
func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
