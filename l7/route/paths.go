package route

import (
	"iter"
	"regexp"
	"slices"
	"strings"
)

// A Dialect says how paths match and which of several wins.
type Dialect uint8

// The dialects.
const (
	Strict Dialect = iota // the Ingress specification, and nothing unasked
	Nginx                 // what ingress-nginx makes of the same objects, quirks included
)

// String returns "strict" or "nginx".
func (d Dialect) String() string {
	if d == Nginx {
		return "nginx"
	}
	return "strict"
}

// Options returns how the paths of requests are made canonical in d.
func (d Dialect) Options() Options {
	nginx := d == Nginx
	return Options{MergeSlashes: nginx, AllowBackslash: nginx}
}

// A Kind says how a path matches.
type Kind uint8

// The kinds of paths.
const (
	Exact  Kind = iota // byte for byte
	Prefix             // element by element: "/a" matches "/a" and "/a/b", not "/ab"
	Regex              // a regular expression
	String             // byte by byte: "/a" matches "/ab"
)

// String returns the name of k in lower case.
func (k Kind) String() string {
	return [...]string{"exact", "prefix", "regex", "string"}[k&3]
}

// A Path is a rule: what it matches and what it leads to.
type Path[T any] struct {
	Kind   Kind
	Path   string         // canonical, unless Kind is Regex
	Regexp *regexp.Regexp // only if Kind is Regex; nil means Compile(dialect, Path)
	Value  T
}

// A Match is what Lookup has found.
type Match[T any] struct {
	Value T
	Path  string // of the rule, as configured; "" if it is the fallback
	Kind  Kind
	// Slash says that the client is to be sent to its path with a slash at the end, which is
	// where the rule is, with 301 (the Nginx dialect only).
	Slash bool
}

// A Host is the rules of one host, compiled. It is immutable. A nil Host matches nothing.
type Host[T any] struct {
	dialect  Dialect
	rules    []Path[T]
	exact    []exact   // by name
	prefixes []prefix  // by name
	patterns []pattern // in the order in which they are asked
	fallback *T
}

// An exact is a whole path that a rule matches.
type exact struct {
	name  string
	rule  int32
	late  bool // patterns come before it: it is half of a Prefix
	slash bool
}

// A prefix is what paths may begin with. All prefixes of a path but the longest are reached
// from that one by up: they are prefixes of it, too.
type prefix struct {
	name string
	rule int32
	up   int32 // index of the longest other prefix that name begins with, or -1
}

// A pattern is a regular expression with what must be there before it is worth asking.
type pattern struct {
	literal string
	re      *regexp.Regexp
	rule    int32
}

// NewHost compiles the rules of a host; where two are the same, the first counts. fallback, which may be nil,
// is for paths that nothing else matches.
//
// Strict: an Exact path wins over everything; then the longest Regex, by the length of the expression;
// then the longest Prefix or String. Two Prefixes that differ only in slashes at the end match the same: then the one
// written longer counts, as the Ingress API has it, and Prefix before String if even that is the same.
//
// Nginx: paths become locations, as ingress-nginx writes them. A Prefix "/a" is the string "/a/" and, unless there
// is an Exact "/a", the exact "/a" as well. Exact wins over strings, longer strings over shorter ones. Where there is
// a location "/a/" but none "/a", requests for the latter are redirected (Match.Slash).
// If there is any Regex, all paths are patterns that ignore case and match at the start only: Exact has no
// meaning any more, no redirects are made, and the longest expression that matches wins.
func NewHost[T any](d Dialect, paths []Path[T], fallback *T) *Host[T] {
	h := &Host[T]{dialect: d, rules: slices.Clone(paths), fallback: fallback}
	if d == Nginx {
		h.compileNginx()
	} else {
		h.compileStrict()
	}
	h.link()
	return h
}

// Dialect returns the dialect that h was made with; Strict for nil.
func (h *Host[T]) Dialect() Dialect {
	if h == nil {
		return Strict
	}
	return h.dialect
}

// Options returns how request paths are made canonical for h.
func (h *Host[T]) Options() Options { return h.Dialect().Options() }

// Fallback returns what is served where no path matches, or nil.
func (h *Host[T]) Fallback() *T {
	if h == nil {
		return nil
	}
	return h.fallback
}

// Paths yields the rules in the order in which they were given.
func (h *Host[T]) Paths() iter.Seq[Path[T]] {
	if h == nil {
		return func(func(Path[T]) bool) {}
	}
	return slices.Values(h.rules)
}

// Lookup finds the rule for a canonical path, or the fallback. It does not allocate. The time it takes grows with the
// logarithm of the number of paths, and with the number of Regexes whose literal beginning fits.
func (h *Host[T]) Lookup(path string) (Match[T], bool) {
	if h == nil {
		return Match[T]{}, false
	}
	i, found := search(h.exact, path)
	if found && (!h.exact[i].late || len(h.patterns) == 0) {
		return h.match(h.exact[i].rule, h.exact[i].slash), true
	}
	for k := range h.patterns {
		if p := &h.patterns[k]; hasPrefixFold(path, p.literal) && p.re.MatchString(path) {
			return h.match(p.rule, false), true
		}
	}
	if found {
		return h.match(h.exact[i].rule, false), true
	}
	if rule := h.longest(path); rule >= 0 {
		return h.match(rule, false), true
	}
	if h.fallback != nil {
		return Match[T]{Value: *h.fallback}, true
	}
	return Match[T]{}, false
}

func (h *Host[T]) match(rule int32, slash bool) Match[T] {
	r := &h.rules[rule]
	return Match[T]{Value: r.Value, Path: r.Path, Kind: r.Kind, Slash: slash}
}

// longest returns the rule of the longest prefix of path, or -1.
//
// All names that begin with a prefix P of path stand together behind P, and so the last name that
// is not greater than path is P or begins with P. Which is to say: every prefix of path
// is reached from that name upwards.
func (h *Host[T]) longest(path string) int32 {
	lo, hi := 0, len(h.prefixes)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); h.prefixes[mid].name <= path {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for i := int32(lo - 1); i >= 0; i = h.prefixes[i].up {
		if strings.HasPrefix(path, h.prefixes[i].name) {
			return h.prefixes[i].rule
		}
	}
	return -1
}

// search finds name in list, which is sorted. It returns the place where it is or would be.
func search(list []exact, name string) (int, bool) {
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); list[mid].name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(list) && list[lo].name == name
}
