package accesslog

import (
	"errors"
	"fmt"
	"strings"
)

// UpstreamInfo is the format of ingress-nginx without log-format-upstream.
const UpstreamInfo = `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" ` +
	`$request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr ` +
	`$upstream_response_length $upstream_response_time $upstream_status $req_id`

const (
	// valueLimit is where a value in a template is cut.
	valueLimit = 4 << 10
	// textLimit is the length from which on a line gets no more parts. One more part cannot make it longer than a chunk.
	textLimit = chunk - 6*valueLimit - 1<<10
	// maxText bounds the template itself.
	maxText = 16 << 10
	// maxParts bounds a template: each part costs time in every request.
	maxParts = 512
)

// A part is a piece of text, or one variable.
type part struct {
	text  string
	plain func(dst []byte, ln *line) []byte              // of values that need no escaping; nothing appended: there is none
	value func(ln *line, arg string) (s string, ok bool) // of all others; false: there is none
	arg   string                                         // for value: which field, cookie or parameter
}

// parse takes a template apart. A backslash in front of a quote or a backslash goes, and \n, \t and \r are what they are in
// the configuration of nginx, in which ingress-nginx puts the template between quotes.
func parse(s string) ([]part, error) {
	s = strings.TrimRight(s, "\n") // what a block of YAML ends with
	if s == "" {
		return nil, errors.New("the template is empty")
	}
	if len(s) > maxText {
		return nil, fmt.Errorf("the template has %d bytes, more than %d", len(s), maxText)
	}
	var parts []part
	var text strings.Builder
	end := func() {
		if text.Len() > 0 {
			parts = append(parts, part{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(s); {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			text.WriteString(unescape(s[i+1]))
			i += 2
		case s[i] == '$':
			name, n, err := cutName(s[i+1:])
			if err != nil {
				return nil, err
			}
			p, ok := variable(name)
			if !ok {
				return nil, fmt.Errorf("there is no variable $%s", name)
			}
			end()
			parts = append(parts, p)
			i += 1 + n
		default:
			text.WriteByte(s[i])
			i++
		}
	}
	if end(); len(parts) > maxParts {
		return nil, fmt.Errorf("the template has %d parts, more than %d", len(parts), maxParts)
	}
	return parts, nil
}

// unescape returns what stands for a backslash and c.
func unescape(c byte) string {
	switch c {
	case '"', '\'', '\\':
		return string(rune(c))
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'r':
		return "\r"
	}
	return string([]byte{'\\', c})
}

// cutName returns the name at the beginning of s, in lower case, and how long it is with its braces.
func cutName(s string) (name string, n int, err error) {
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		name, _, ok = strings.Cut(inner, "}")
		if !ok || nameLength(name) != len(name) || name == "" {
			return "", 0, errors.New("${ is not followed by a name and }")
		}
		return strings.ToLower(name), len(name) + 2, nil
	}
	if n = nameLength(s); n == 0 {
		return "", 0, errors.New("$ is not followed by the name of a variable")
	}
	return strings.ToLower(s[:n]), n, nil
}

func nameLength(s string) int {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
