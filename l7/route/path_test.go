package route

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	nginx := Nginx.Options()
	for _, tc := range []struct {
		raw  string
		o    Options
		want string
		err  error
	}{
		{raw: "/", want: "/"},
		{raw: "/a/b.c/~d;v=1,2/e@f:g/$&'()*+=!", want: "/a/b.c/~d;v=1,2/e@f:g/$&'()*+=!"},
		{raw: "", err: ErrRelative},
		{raw: "*", err: ErrRelative},
		{raw: "a/b", err: ErrRelative},
		{raw: "http://h/", err: ErrRelative},

		{raw: "/%61%7e%2D%5f%2e%30", want: "/a~-_.0"},
		{raw: "/%21%40!@", want: "/%21%40!@"}, // reserved: not the same to every backend
		{raw: "/a%2fb", want: "/a%2Fb"},
		{raw: "/a%2Fb", want: "/a%2Fb"},
		{raw: "/a%2Fb", o: Options{RejectEncodedSlash: true}, err: ErrEncodedSlash},
		{raw: "/%3f%23%25%20", want: "/%3F%23%25%20"},
		{raw: "/%0d%0a", want: "/%0D%0A"},
		{raw: "/%00", err: ErrNUL},
		{raw: "/a%", err: ErrEscape},
		{raw: "/a%4", err: ErrEscape},
		{raw: "/a%4g", err: ErrEscape},
		{raw: "/a%%41", err: ErrEscape},
		{raw: "/%2561", want: "/%2561"}, // decoded once, and never again

		{raw: "/a b", err: ErrByte},
		{raw: "/a\tb", err: ErrByte},
		{raw: "/a\r\nX: y", err: ErrByte},
		{raw: "/a\x00", err: ErrByte},
		{raw: "/a\x7f", err: ErrByte},
		{raw: "/a?b", err: ErrByte},
		{raw: "/a#b", err: ErrByte},
		{raw: "/é", want: "/%C3%A9"},
		{raw: `/"<>[]^{|}` + "`", want: "/%22%3C%3E%5B%5D%5E%7B%7C%7D%60"},

		{raw: `/a\b`, err: ErrBackslash},
		{raw: "/a%5cb", err: ErrBackslash},
		{raw: "/a%5Cb", err: ErrBackslash},
		{raw: `/a\..\b`, o: nginx, want: "/a%5C..%5Cb"},
		{raw: "/a%5cb", o: nginx, want: "/a%5Cb"},

		{raw: "/./a", want: "/a"},
		{raw: "/a/.", want: "/a/"},
		{raw: "/a/./b/../c", want: "/a/c"},
		{raw: "/a/..", want: "/"},
		{raw: "/a/../", want: "/"},
		{raw: "/a/b/../..", want: "/"},
		{raw: "/a/%2e%2E/b", want: "/b"},
		{raw: "/a/.%2e/b", want: "/b"},
		{raw: "/%2e/b", want: "/b"},
		{raw: "/..", err: ErrAboveRoot},
		{raw: "/../a", err: ErrAboveRoot},
		{raw: "/a/../../b", err: ErrAboveRoot},
		{raw: "/%2e%2e/b", err: ErrAboveRoot},
		{raw: "/...", want: "/..."},
		{raw: "/.well-known/acme-challenge/x", want: "/.well-known/acme-challenge/x"},
		{raw: "/a/..b/.c/d..", want: "/a/..b/.c/d.."},
		{raw: "/a/..;/b", want: "/a/..;/b"},
		{raw: "/a/..%2fb", want: "/a/..%2Fb"},

		{raw: "//", want: "//"},
		{raw: "/a//b", want: "/a//b"},
		{raw: "/a//../b", want: "/a/b"},
		{raw: "//..", want: "/"},
		{raw: "//", o: nginx, want: "/"},
		{raw: "/a//b///", o: nginx, want: "/a/b/"},
		{raw: "/a//../b", o: nginx, want: "/b"},
		{raw: "//..", o: nginx, err: ErrAboveRoot},
		{raw: "/a/.//b", o: nginx, want: "/a/b"},
		{raw: "/a//.", o: nginx, want: "/a/"},

		{raw: "/a/b", o: Options{Rewritten: true}, want: "/a/b"},
		{raw: "/a%7eb", o: Options{Rewritten: true}, want: "/a~b"},
		{raw: "/a/../b", o: Options{Rewritten: true}, err: ErrRewritten},
		{raw: "/a/%2e%2e/b", o: Options{Rewritten: true}, err: ErrRewritten},
		{raw: "/a/.", o: Options{Rewritten: true}, err: ErrRewritten},
		{raw: "//evil/", o: Options{Rewritten: true}, err: ErrRewritten},
		{raw: "/a/..", o: Options{Rewritten: true, MergeSlashes: true}, err: ErrRewritten},
		{raw: "//a/b", o: Options{Rewritten: true, MergeSlashes: true}, want: "/a/b"},
		{raw: "evil", o: Options{Rewritten: true}, err: ErrRelative},
	} {
		got, err := Canonical(tc.raw, tc.o)
		if got != tc.want || !errors.Is(err, tc.err) || (err != nil) != (tc.err != nil) {
			t.Errorf("Canonical(%q, %+v) = %q, %v; want %q, %v", tc.raw, tc.o, got, err, tc.want, tc.err)
		}
	}
}

// TestCanonicalFast proves that what is canonical costs nothing.
func TestCanonicalFast(t *testing.T) {
	for _, o := range []Options{{}, Nginx.Options(), {Rewritten: true}} {
		for _, p := range []string{"/", "/api/v1/users/42", "/.well-known/x", "/a%2Fb/%20c/...", strings.Repeat("/segment", 100)} {
			if n := testing.AllocsPerRun(100, func() {
				if got, err := Canonical(p, o); got != p || err != nil {
					t.Errorf("Canonical(%q) = %q, %v", p, got, err)
				}
			}); n != 0 {
				t.Errorf("Canonical(%q, %+v): %v allocations, want 0", p, o, n)
			}
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"/", "/a/../b", "/%2e%2E/%2f//x", "/a\\b%5c", "/é%c3", "//a//./b/..", "/%", "/a%00"} {
		for o := range uint8(16) {
			f.Add(seed, o)
		}
	}
	f.Fuzz(func(t *testing.T, raw string, flags uint8) {
		o := Options{flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0}
		p, err := Canonical(raw, o)
		if err != nil {
			if p != "" {
				t.Fatalf("Canonical(%q) = %q with error %v", raw, p, err)
			}
			return
		}
		again, err := Canonical(p, o)
		if again != p || err != nil {
			t.Fatalf("Canonical(%q) = %q, and of that %q, %v", raw, p, again, err)
		}
		if !canonical(p, o) {
			t.Fatalf("Canonical(%q) = %q is not on the fast path", raw, p)
		}
		checkCanonical(t, raw, p, o)
	})
}

// checkCanonical compares p with what net/url and a plain reading of RFC 3986 make of raw.
func checkCanonical(t *testing.T, raw, p string, o Options) {
	t.Helper()
	for segment := range strings.SplitSeq(p[1:], "/") {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			t.Fatalf("Canonical(%q) = %q: %v", raw, p, err)
		}
		if decoded == "." || decoded == ".." || strings.Contains(decoded, "\x00") {
			t.Fatalf("Canonical(%q) = %q has segment %q", raw, p, segment)
		}
	}
	for i := range len(p) {
		if c := p[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '?' || c == '#' {
			t.Fatalf("Canonical(%q) = %q has byte %q", raw, p, c)
		}
	}
	if got, want := slowCanonical(t, p, o), slowCanonical(t, raw, o); got != want {
		t.Fatalf("Canonical(%q, %+v) = %q, which means %q, want %q", raw, o, p, got, want)
	}
}

// slowCanonical decodes every segment, resolves, and encodes all that may be encoded. It goes further than
// Canonical, for which "!" and "%21" are two things (RFC 3986, section 2.2).
func slowCanonical(t *testing.T, raw string, o Options) string {
	t.Helper()
	var out []string
	segments := strings.Split(raw[1:], "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			t.Fatalf("Canonical accepts %q: %v", raw, err)
		}
		last := i == len(segments)-1
		switch {
		case decoded == "" && o.MergeSlashes && !last:
			continue
		case decoded == "..":
			out = out[:len(out)-1]
		case decoded != ".":
			out = append(out, encode(decoded))
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/")
}

// encode escapes everything but unreserved characters.
func encode(decoded string) string {
	var b strings.Builder
	for i := range len(decoded) {
		if c := decoded[i]; isUnreserved(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func BenchmarkCanonical(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Canonical("/api/v1/namespaces/default/pods/web-0123456789", Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
