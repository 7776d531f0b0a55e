package route

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// compileStrict fills in h from its rules. The best of each name comes first and stays.
func (h *Host[T]) compileStrict() {
	order := make([]int32, len(h.rules))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		p, q := &h.rules[a], &h.rules[b]
		return cmp.Or(cmp.Compare(min(p.Kind, Prefix), min(q.Kind, Prefix)), // Exact before all others
			cmp.Compare(len(q.Path), len(p.Path)), cmp.Compare(p.Kind, q.Kind))
	})
	for _, i := range order {
		switch r := &h.rules[i]; r.Kind {
		case Exact:
			h.addExact(r.Path, i, false)
		case Regex:
			h.addPattern(r.Path, r.Regexp, i)
		case String:
			h.addPrefix(r.Path, i)
		case Prefix:
			elements := strings.TrimRight(r.Path, "/")
			if elements != "" {
				h.addExact(elements, i, true)
			}
			h.addPrefix(elements+"/", i)
		}
	}
}

// A location is what ingress-nginx makes of a rule, or of half of it.
type location struct {
	name  string
	exact bool
	rule  int32
}

// compileNginx fills in h from its rules by way of locations.
func (h *Host[T]) compileNginx() {
	list := h.locations()
	if slices.ContainsFunc(h.rules, func(p Path[T]) bool { return p.Kind == Regex }) {
		slices.SortStableFunc(list, func(a, b location) int {
			return cmp.Or(cmp.Compare(len(b.name), len(a.name)), strings.Compare(b.name, a.name))
		})
		for _, l := range list {
			h.addPattern(l.name, h.rules[l.rule].Regexp, l.rule)
		}
		return
	}
	for _, l := range list {
		if l.exact {
			h.addExact(l.name, l.rule, false)
		} else {
			h.addPrefix(l.name, l.rule)
		}
	}
	h.addSlashes(list)
}

// locations returns the locations in the order of the rules.
func (h *Host[T]) locations() []location {
	isExact := make(map[string]bool)
	for i := range h.rules {
		if h.rules[i].Kind == Exact {
			isExact[h.rules[i].Path] = true
		}
	}
	var list []location
	for i := range h.rules {
		r, rule := &h.rules[i], int32(i)
		switch {
		case r.Kind == Prefix && r.Path != "/":
			list = append(list, location{name: strings.TrimSuffix(r.Path, "/") + "/", rule: rule})
			if !isExact[r.Path] {
				list = append(list, location{name: r.Path, exact: true, rule: rule})
			}
		default:
			list = append(list, location{name: r.Path, exact: r.Kind == Exact, rule: rule})
		}
	}
	return list
}

// addSlashes makes the redirects to locations that end in a slash. An exact location is asked before the string of the same name.
func (h *Host[T]) addSlashes(list []location) {
	named := make(map[string]bool, len(list))
	for _, l := range list {
		named[l.name] = true
	}
	slices.SortStableFunc(list, func(a, b location) int {
		switch {
		case a.exact == b.exact:
			return 0
		case a.exact:
			return -1
		}
		return 1
	})
	for _, l := range list {
		without, ok := strings.CutSuffix(l.name, "/")
		if !ok || named[without] || without == "" || strings.HasSuffix(without, "/") {
			continue
		}
		named[without] = true
		h.addExact(without, l.rule, false)
		h.exact[len(h.exact)-1].slash = true
	}
}

func (h *Host[T]) addExact(name string, rule int32, late bool) {
	h.exact = append(h.exact, exact{name: name, rule: rule, late: late})
}

func (h *Host[T]) addPrefix(name string, rule int32) {
	h.prefixes = append(h.prefixes, prefix{name: name, rule: rule})
}

// addPattern adds an expression. What does not compile was never meant to be one, but stands beside
// one in the Nginx dialect: it is taken literally.
func (h *Host[T]) addPattern(expr string, re *regexp.Regexp, rule int32) {
	if re == nil {
		var err error
		if re, err = Compile(h.dialect, expr); err != nil {
			re = regexp.MustCompile("(?i)^" + regexp.QuoteMeta(expr))
		}
	}
	h.patterns = append(h.patterns, pattern{literal: literalOf(re), re: re, rule: rule})
}

// link sorts what has been added, drops all but the first of each name, and finds the prefixes of prefixes.
func (h *Host[T]) link() {
	slices.SortStableFunc(h.exact, func(a, b exact) int { return strings.Compare(a.name, b.name) })
	h.exact = slices.CompactFunc(h.exact, func(a, b exact) bool { return a.name == b.name })
	slices.SortStableFunc(h.prefixes, func(a, b prefix) int { return strings.Compare(a.name, b.name) })
	h.prefixes = slices.CompactFunc(h.prefixes, func(a, b prefix) bool { return a.name == b.name })
	for i := range h.prefixes {
		up := int32(i - 1)
		for up >= 0 && !strings.HasPrefix(h.prefixes[i].name, h.prefixes[up].name) {
			up = h.prefixes[up].up
		}
		h.prefixes[i].up = up
	}
}
