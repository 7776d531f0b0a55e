package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// host makes a Host of rules like "exact /a", whose values are the rules themselves. "fallback" makes one.
func host(t testing.TB, d Dialect, rules string) *Host[string] {
	t.Helper()
	paths, fallback := parse(t, rules)
	return NewHost(d, paths, fallback)
}

func parse(t testing.TB, rules string) (paths []Path[string], fallback *string) {
	t.Helper()
	for rule := range strings.SplitSeq(rules, ", ") {
		kind, path, _ := strings.Cut(rule, " ")
		switch kind {
		case "":
		case "fallback":
			fallback = &rule
		default:
			k := slices.IndexFunc([]Kind{Exact, Prefix, Regex, String}, func(k Kind) bool { return k.String() == kind })
			if k < 0 {
				t.Fatalf("unknown kind in %q", rule)
			}
			paths = append(paths, Path[string]{Kind: Kind(k), Path: path, Value: rule})
		}
	}
	return paths, fallback
}

// show is what a Match is compared as: the rule, "-" for none, with "/" in front for a redirect.
func show(m Match[string], ok bool) string {
	switch {
	case !ok:
		return "-"
	case m.Slash:
		return "301 " + m.Value
	}
	return m.Value
}

func TestStrict(t *testing.T) {
	for _, tc := range []struct {
		rules string
		want  map[string]string // by path
	}{
		{"", map[string]string{"/": "-"}},
		{"fallback", map[string]string{"/": "fallback", "/x": "fallback"}},
		{"prefix /", map[string]string{"/": "prefix /", "/a/b": "prefix /", "//": "prefix /"}},
		{"exact /foo", map[string]string{"/foo": "exact /foo", "/bar": "-", "/foo/": "-", "/FOO": "-", "/": "-"}},
		{"exact /foo/", map[string]string{"/foo/": "exact /foo/", "/foo": "-"}},
		{"prefix /foo", map[string]string{"/foo": "prefix /foo", "/foo/": "prefix /foo", "/foo/a": "prefix /foo", "/fooo": "-", "/fo": "-", "/FOO": "-"}},
		{"prefix /foo/", map[string]string{"/foo": "prefix /foo/", "/foo/": "prefix /foo/", "/foo/a": "prefix /foo/"}},
		{"prefix /aaa/bb", map[string]string{"/aaa/bbb": "-"}},
		{"prefix /aaa/bbb/", map[string]string{"/aaa/bbb": "prefix /aaa/bbb/", "/aaa/bbb/ccc": "prefix /aaa/bbb/", "/aaa/bbbxyz": "-"}},
		{"prefix /, prefix /aaa, prefix /aaa/bbb", map[string]string{
			"/aaa/bbb": "prefix /aaa/bbb", "/aaa/bbb/c": "prefix /aaa/bbb", "/aaa/ccc": "prefix /aaa", "/aaa": "prefix /aaa", "/ccc": "prefix /", "/": "prefix /",
		}},
		{"prefix /foo, exact /foo", map[string]string{"/foo": "exact /foo", "/foo/": "prefix /foo"}},
		{"prefix /foo/, exact /foo", map[string]string{"/foo": "exact /foo", "/foo/": "prefix /foo/"}},
		{"prefix /foo, prefix /foo/", map[string]string{"/foo/": "prefix /foo/", "/foo/a": "prefix /foo/", "/foo": "prefix /foo/"}},
		{"prefix /aaa, fallback", map[string]string{"/ccc": "fallback", "/aaa": "prefix /aaa"}},
		{"exact /a, exact /a", map[string]string{"/a": "exact /a"}},
		{"prefix /a!b, prefix /a, prefix /a/b", map[string]string{"/a!b/c": "prefix /a!b", "/a/b": "prefix /a/b", "/a!": "-", "/a/c": "prefix /a"}},
		{"string /a, prefix /a/b", map[string]string{"/abc": "string /a", "/a": "string /a", "/a/b": "prefix /a/b", "/a/bc": "string /a"}},

		// Regular expressions come after exact paths and before prefixes, however long those are.
		{"regex /a.*, exact /abc, prefix /abcdef, prefix /", map[string]string{
			"/abc": "exact /abc", "/abcdef": "regex /a.*", "/abcdef/g": "regex /a.*", "/ABC": "regex /a.*", "/b": "prefix /",
		}},
		{`regex /a/\d+, regex /a/\d+/edit, regex /a`, map[string]string{
			"/a/1": `regex /a/\d+`, "/a/1/edit": `regex /a/\d+/edit`, "/a/x": "regex /a", "/ab": "regex /a", "/b/a": "-",
		}},
		{"regex /a|/b", map[string]string{"/a": "regex /a|/b", "/b": "regex /a|/b", "/x/b": "-"}},
	} {
		h := host(t, Strict, tc.rules)
		for path, want := range tc.want {
			if got := show(h.Lookup(path)); got != want {
				t.Errorf("%s: Lookup(%q) = %q, want %q", tc.rules, path, got, want)
			}
		}
	}
}

func TestNginx(t *testing.T) {
	for _, tc := range []struct {
		rules string
		want  map[string]string
	}{
		{"prefix /p", map[string]string{"/p": "prefix /p", "/p/": "prefix /p", "/p/x": "prefix /p", "/px": "-"}},
		{"prefix /p/", map[string]string{"/p": "301 prefix /p/", "/p/": "prefix /p/", "/p/x": "prefix /p/", "/px": "-"}},
		{"exact /p/", map[string]string{"/p": "301 exact /p/", "/p/": "exact /p/", "/p/x": "-"}},
		{"exact /p/, prefix /", map[string]string{"/p": "301 exact /p/", "/p/": "exact /p/", "/p/x": "prefix /"}},
		{"exact /p/, prefix /p/", map[string]string{"/p": "301 exact /p/", "/p/": "exact /p/", "/p/x": "prefix /p/"}},
		{"prefix /p/, exact /p", map[string]string{"/p": "exact /p", "/p/": "prefix /p/"}},
		{"prefix /p, exact /p", map[string]string{"/p": "exact /p", "/p/": "prefix /p", "/p/x": "prefix /p"}},
		{"prefix /p, prefix /p/", map[string]string{"/p": "prefix /p", "/p/": "prefix /p/", "/p/x": "prefix /p"}},
		{"string /p", map[string]string{"/p": "string /p", "/pfoo": "string /p", "/p/x": "string /p", "/": "-"}},
		{"string /p/", map[string]string{"/p": "301 string /p/", "/p/x": "string /p/"}},
		{"string /, prefix /a", map[string]string{"/a": "prefix /a", "/ab": "string /", "/": "string /"}},
		{"prefix /", map[string]string{"/": "prefix /", "/x": "prefix /"}},

		// One expression makes expressions of all paths.
		{"regex /a/[0-9]+, exact /foo, prefix /b/, prefix /v1.0", map[string]string{
			"/A/1": "regex /a/[0-9]+", "/a/x": "-", "/foo": "exact /foo", "/FOO/x": "exact /foo", "/foobar": "exact /foo",
			"/b": "-", "/b/": "prefix /b/", "/v1x0": "prefix /v1.0", "/x/foo": "-",
		}},
		{"regex /a, prefix /abc, fallback", map[string]string{"/abc": "prefix /abc", "/abcd": "prefix /abc", "/ab": "regex /a", "/x": "fallback"}},
		{"regex /a, prefix /b(", map[string]string{"/b(": "prefix /b(", "/B(c": "prefix /b(", "/b": "-"}},
		{"regex /a|/b", map[string]string{"/x/b": "regex /a|/b", "/x/a": "-"}},
	} {
		h := host(t, Nginx, tc.rules)
		for path, want := range tc.want {
			if got := show(h.Lookup(path)); got != want {
				t.Errorf("%s: Lookup(%q) = %q, want %q", tc.rules, path, got, want)
			}
		}
	}
}

func TestNilHost(t *testing.T) {
	var h *Host[string]
	if got := show(h.Lookup("/")); got != "-" {
		t.Errorf("Lookup in nil Host = %q", got)
	}
	if h.Dialect() != Strict || h.Fallback() != nil || len(slices.Collect(h.Paths())) != 0 {
		t.Error("nil Host has something in it")
	}
}

// slowStrict is the strict dialect said in the words of its documentation: every rule is tried, and the best kept.
func slowStrict(paths []Path[string], path string) string {
	best, rank := "-", [4]int{}
	for _, p := range paths {
		var this [4]int
		switch p.Kind {
		case Exact:
			if p.Path == path {
				this = [4]int{3}
			}
		case Regex:
			if re, err := Compile(Strict, p.Path); err == nil && re.MatchString(path) {
				this = [4]int{2, len(p.Path)}
			}
		case Prefix:
			elements := strings.TrimRight(p.Path, "/")
			if path == elements || strings.HasPrefix(path, elements+"/") {
				this = [4]int{1, len(elements) + 1, len(p.Path), 2}
			}
		case String:
			if strings.HasPrefix(path, p.Path) {
				this = [4]int{1, len(p.Path), len(p.Path), 1}
			}
		}
		if slices.Compare(this[:], rank[:]) > 0 {
			best, rank = p.Value, this
		}
	}
	return best
}

// slowNginx asks locations one after the other, as nginx' documentation tells.
func slowNginx(paths []Path[string], path string) string {
	h := &Host[string]{dialect: Nginx, rules: paths}
	locations := h.locations()
	longest, slash, best := -1, "", "-"
	for _, l := range locations {
		value := paths[l.rule].Value
		switch {
		case l.exact && l.name == path:
			return value
		case l.name == path+"/" && path != "/" && (slash == "" || l.exact):
			slash = "301 " + value
		}
		if !l.exact && strings.HasPrefix(path, l.name) && len(l.name) > longest {
			longest, best = len(l.name), value
		}
	}
	if slash != "" && longest != len(path) {
		return slash
	}
	return best
}

// TestOracles compares lookups with rules tried one by one, for few rules and for many.
func TestOracles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	elements := []string{"a", "b", "ab", "a-", "a.b", "~", ""}
	random := func() string {
		var b strings.Builder
		for range 1 + r.IntN(4) {
			b.WriteString("/" + elements[r.IntN(len(elements))])
		}
		return b.String()
	}
	for round := range 400 {
		n := 1 + r.IntN(8)
		if round%10 == 0 {
			n = 300
		}
		var paths, plain []Path[string]
		for i := range n {
			p := Path[string]{Kind: Kind(r.IntN(4)), Path: random()}
			p.Value = fmt.Sprint(i, " ", p.Kind, " ", p.Path)
			if paths = append(paths, p); p.Kind != Regex && !strings.Contains(p.Path, "//") {
				plain = append(plain, p)
			}
		}
		strict, nginx := NewHost(Strict, paths, nil), NewHost(Nginx, plain, nil)
		for range 50 {
			path := random()
			if got, want := show(strict.Lookup(path)), slowStrict(paths, path); got != want {
				t.Fatalf("strict, %d rules: Lookup(%q) = %s, want %s", n, path, got, want)
			}
			path = strings.ReplaceAll(path, "//", "/")
			if got, want := show(nginx.Lookup(path)), slowNginx(plain, path); got != want {
				t.Fatalf("nginx, %d rules: Lookup(%q) = %s, want %s", n, path, got, want)
			}
		}
	}
}

// TestLiteral proves that asking for the literal first never changes an answer.
func TestLiteral(t *testing.T) {
	for _, tc := range []struct{ pattern, want string }{
		{"/api/(v[12])/x", "/api/v"},
		{"/(api)/x", "/api/x"},
		{"/API", "/api"},
		{"/a?b", "/"},
		{"/a*", "/"},
		{"/a|/b", "/"},
		{"x|y", ""},
		{"/a{2}b", "/"},
		{"", ""},
		{"/é", "/"},
		{"/a(?-i)B", "/ab"},
	} {
		re, err := Compile(Strict, tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		got := literalOf(re)
		if !strings.HasPrefix(got, tc.want) || got == "" != (tc.want == "") {
			t.Errorf("literalOf(%s) = %q, want %q", tc.pattern, got, tc.want)
		}
	}
}

func FuzzLiteral(f *testing.F) {
	f.Add("/a(b|c)d*", "/abd")
	f.Add("(?s:/k).", "/Kx")
	f.Add("(?m)/a$", "/a")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		path, err := Canonical(path, Options{AllowBackslash: true})
		if err != nil {
			return
		}
		for _, d := range []Dialect{Strict, Nginx} {
			re, err := Compile(d, pattern)
			if err == nil && re.MatchString(path) && !hasPrefixFold(path, literalOf(re)) {
				t.Fatalf("%s matches %q, which does not begin with %q", re, path, literalOf(re))
			}
		}
	})
}

func TestCompileRefuses(t *testing.T) {
	for _, pattern := range []string{"/a(?=b)", "/(?!b)", `/(a)\1`, "/a(", "/a)(b", "/a{2000}", strings.Repeat("a", 1025)} {
		for _, d := range []Dialect{Strict, Nginx} {
			if re, err := Compile(d, pattern); err == nil {
				t.Errorf("Compile(%s, %.20q) = %s, want an error", d, pattern, re)
			}
		}
	}
}
