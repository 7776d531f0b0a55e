package ingress

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
)

// patternOf makes a regular expression of path.
func patternOf(path string, d route.Dialect) (matcher, error) {
	if !strings.HasPrefix(path, "/") {
		return matcher{}, fmt.Errorf("path %q does not begin with a slash", path)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return matcher{}, errors.New("path has control characters")
	}
	re, err := route.Compile(d, path)
	if err != nil {
		return matcher{}, err
	}
	return matcher{kind: route.Regex, path: path, re: re}, nil
}

// isRegex reports whether a path is a pattern in dialect d, given the annotations use-regex and rewrite-target of its Ingress.
func isRegex(p *Path, useRegex bool, target string, d route.Dialect) bool {
	if d == route.Nginx {
		return useRegex || target != "" && target != p.Path
	}
	return useRegex && p.Type == ImplementationSpecific
}
