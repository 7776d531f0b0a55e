package route

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// maxPattern is the length of the longest pattern that Compile takes, in bytes.
const maxPattern = 1024

// Compile makes a pattern of the path of a rule: RE2, ignoring case, anchored at the start of the
// path but not at its end. With Nginx, the anchor binds closer than "|", so
// that all but the first alternative match anywhere, as they do there. Look-around and
// back-references do not exist in RE2 and are errors.
func Compile(d Dialect, pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pattern of %d bytes: longer than %d", len(pattern), maxPattern)
	}
	expr := "(?i)^(?:" + pattern + ")"
	if d == Nginx {
		expr = "(?i)^" + pattern
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	if _, err := syntax.Parse(pattern, syntax.Perl); err != nil { // such as "a)(b", which our parentheses would mend
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return re, nil
}

// literalOf returns, in lower case, what every match of re begins with if case is ignored. It is "" where
// that is not known. Asking for it first is far cheaper than asking re.
func literalOf(re *regexp.Regexp) string {
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil || tree.Op != syntax.OpConcat || tree.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	var literal []byte
	appendLiteral(&literal, tree)
	return string(literal)
}

// appendLiteral adds what re begins with and reports whether that is all of re.
func appendLiteral(to *[]byte, re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpEmptyMatch:
		return true
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if r >= 0x80 {
				return false
			}
			*to = append(*to, lower(byte(r)))
		}
		return true
	case syntax.OpCapture:
		return appendLiteral(to, re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if !appendLiteral(to, sub) {
				return false
			}
		}
		return true
	}
	return false
}

// hasPrefixFold reports whether path begins with literal, which is in lower case, if case is ignored. Paths are ASCII.
func hasPrefixFold(path, literal string) bool {
	if len(path) < len(literal) {
		return false
	}
	for i := range len(literal) {
		if lower(path[i]) != literal[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
