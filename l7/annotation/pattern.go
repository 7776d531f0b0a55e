package annotation

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
)

// Bounds of patterns. RE2 matches in time linear to the text, but not to the pattern.
const (
	maxPattern = 1024   // bytes
	maxProgram = 10_000 // instructions
)

// CompilePattern compiles a regular expression that a user has written. Those of nginx are PCRE; ours are RE2, which has no
// look-around, no back-references, no atomic groups and no possessive quantifiers. The error says so where one of
// them is the reason.
func CompilePattern(expr string) (*regexp.Regexp, error) {
	if len(expr) > maxPattern {
		return nil, fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	}
	if err := clean(expr, false); err != nil {
		return nil, fmt.Errorf("the pattern %w", err)
	}
	if feature := perlFeature(expr); feature != "" {
		return nil, fmt.Errorf("the pattern %q uses %s, which RE2 does not have", expr, feature)
	}
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		var e *syntax.Error
		if errors.As(err, &e) {
			return nil, fmt.Errorf("the pattern %q: %s near %q", expr, e.Code, e.Expr)
		}
		return nil, fmt.Errorf("the pattern %q: %w", expr, err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("compile the pattern %q: %w", expr, err)
	}
	if len(program.Inst) > maxProgram {
		return nil, fmt.Errorf("the pattern %q is too large when its repetitions are written out", expr)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("compile the pattern %q: %w", expr, err)
	}
	return re, nil
}

// perlFeature names what PCRE has and RE2 has not, if expr uses it.
func perlFeature(expr string) string {
	class := false // within [...]
	for i := 0; i < len(expr); i++ {
		rest := expr[i:]
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			i++
			if !class && (rest[1] >= '1' && rest[1] <= '9' || rest[1] == 'k' || rest[1] == 'g') {
				return "a back-reference"
			}
		case class:
			class = rest[0] != ']'
		case rest[0] == '[':
			class = true
			for _, first := range []string{"[^]", "[]"} { // a bracket that comes first is meant as such
				if strings.HasPrefix(rest, first) {
					i += len(first) - 1
					break
				}
			}
		case strings.HasPrefix(rest, "(?=") || strings.HasPrefix(rest, "(?!"):
			return "look-ahead"
		case strings.HasPrefix(rest, "(?<=") || strings.HasPrefix(rest, "(?<!"):
			return "look-behind"
		case strings.HasPrefix(rest, "(?>"):
			return "an atomic group"
		case strings.HasPrefix(rest, "(?("):
			return "a condition"
		case strings.HasPrefix(rest, "(?R)") || strings.HasPrefix(rest, "(?&") || strings.HasPrefix(rest, "(?P>"):
			return "recursion"
		case strings.HasPrefix(rest, "(?P="):
			return "a back-reference"
		case rest[0] == '+' && i > 0 && (expr[i-1] == '+' || expr[i-1] == '*' || expr[i-1] == '?') && (i < 2 || expr[i-2] != '\\'):
			return "a possessive quantifier"
		}
	}
	return ""
}

// CompilePath compiles the path of a rule that is a pattern, as route.Compile does, with the bounds and the clear errors
// of CompilePattern.
func CompilePath(d route.Dialect, path string) (*regexp.Regexp, error) {
	if _, err := CompilePattern(path); err != nil {
		return nil, err
	}
	re, err := route.Compile(d, path)
	if err != nil {
		return nil, fmt.Errorf("compile the path: %w", err)
	}
	return re, nil
}
