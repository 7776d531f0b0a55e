package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// maxRewritten bounds what comes of captures that are used many times.
const maxRewritten = 8 << 10

// A rewriter is the compiled Rewrite. The target is pieces of text and the numbers of captures between them.
type rewriter struct {
	pattern   *regexp.Regexp
	pieces    []piece
	prefix    string
	canonical func(string) (string, error)
}

// A piece is text, or a capture if capture is positive (1 is the first) and else none.
type piece struct {
	text    string
	capture int
	query   bool // after a question mark in the target
}

func (b *builder) rewrite() error {
	c := b.config.Rewrite
	if c == nil {
		return nil
	}
	if b.env.Canonical == nil {
		return errors.New("rewrite: Env.Canonical is missing")
	}
	if err := checkValue("X-Forwarded-Prefix", c.Prefix); err != nil {
		return fmt.Errorf("rewrite: %w", err)
	}
	pieces, err := parseTarget(c.Target)
	if err != nil {
		return fmt.Errorf("rewrite to %q: %w", c.Target, err)
	}
	b.stage(&rewriter{pattern: c.Pattern, pieces: pieces, prefix: c.Prefix, canonical: b.env.Canonical})
	return nil
}

// parseTarget takes a path, perhaps with a query, that has $1 to $9 or ${1} to ${99} in it.
func parseTarget(s string) ([]piece, error) {
	if !httpguts.ValidHeaderFieldValue(s) || strings.ContainsAny(s, " \t#\\") {
		return nil, errors.New("has bytes that may not be in a path")
	}
	var pieces []piece
	query := false
	text := func(s string) {
		if before, after, ok := strings.Cut(s, "?"); ok && !query {
			pieces, query = append(pieces, piece{text: before}), true
			s = "?" + after
		}
		if s != "" {
			pieces = append(pieces, piece{text: s, query: query})
		}
	}
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			text(s)
			break
		}
		text(s[:i])
		n, rest, err := cutCapture(s[i+1:])
		if err != nil {
			return nil, err
		}
		pieces, s = append(pieces, piece{capture: n, query: query}), rest
	}
	if len(pieces) == 0 {
		return nil, errors.New("is empty")
	}
	return pieces, nil
}

// cutCapture cuts the number of a capture from what follows a dollar.
func cutCapture(s string) (n int, rest string, err error) {
	digits := s
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		if digits, rest, ok = strings.Cut(inner, "}"); !ok || len(digits) > 2 {
			return 0, "", errors.New("${ without a number and }")
		}
	} else if s != "" {
		digits, rest = s[:1], s[1:]
	}
	n, err = strconv.Atoi(digits)
	if err != nil || n < 1 || digits[0] == '+' {
		return 0, "", errors.New("$ without the number of a capture")
	}
	return n, rest, nil
}

// Admit gives x its new path. If the pattern does not match, the path stays.
func (r *rewriter) Admit(x *exchange.Exchange) bool {
	path := x.Request.Path
	var match []int
	if r.pattern != nil {
		if match = r.pattern.FindStringSubmatchIndex(path); match == nil {
			return true
		}
	}
	out, query, ok := r.expand(path, match)
	if ok {
		out, ok = r.check(out)
	}
	if !ok {
		x.Answer(400, ReasonBadRewrite)
		return false
	}
	x.Request.Path = out
	if query != "" {
		if x.Request.Query != "" {
			query += "&" + x.Request.Query
		}
		x.Request.Query, x.Request.HasQuery = query, true
	}
	if r.prefix != "" {
		x.Request.Header.Set("X-Forwarded-Prefix", r.prefix)
	}
	return true
}

// expand returns the new path, and what goes in front of the query.
func (r *rewriter) expand(path string, match []int) (out, query string, ok bool) {
	b := make([]byte, 0, len(path)+64)
	mark := -1
	for _, p := range r.pieces {
		if p.query && mark < 0 {
			mark = len(b)
		}
		switch i := 2 * p.capture; {
		case i == 0:
			b = append(b, p.text...)
		case i+1 < len(match) && match[i] >= 0:
			capture := path[match[i]:match[i+1]]
			if p.query {
				capture = escapeQuery(capture)
			}
			b = append(b, capture...)
		}
		if len(b) > maxRewritten {
			return "", "", false
		}
	}
	if mark < 0 {
		return string(b), "", true
	}
	return string(b[:mark]), string(b[mark+1:]), true
}

// check makes sure that a rewritten path is one, and that no part of it leads up: dot segments which come
// about after the rule was chosen would lead out of it. Two slashes at the beginning are for canonical to merge, and refused
// if it does not.
func (r *rewriter) check(path string) (string, bool) {
	if !strings.HasPrefix(path, "/") || dotSegments(path) {
		return "", false
	}
	clean, err := r.canonical(path)
	if err != nil || !localPath(clean) || dotSegments(clean) || !httpguts.ValidHeaderFieldValue(clean) {
		return "", false
	}
	return clean, true
}

// localPath reports whether a path begins with one slash. Two would be a host to some.
func localPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//")
}

// dotSegments reports whether a segment of the path is "." or "..", written in any way. Parameters after a semicolon
// do not count, since there are servers that cut them off first.
func dotSegments(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		if len(segment) > len("%2e%2e") || segment == "" {
			continue
		}
		switch strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") {
		case ".", "..":
			return true
		}
	}
	return false
}
