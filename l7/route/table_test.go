package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// table makes a Table whose hosts each have one rule, "prefix /", and a value that is their key.
func table(names ...string) *Table[string] {
	changes := make(map[string]*Host[string])
	for _, name := range names {
		changes[name] = one(name)
	}
	return new(Table[string]).With(changes)
}

func one(value string) *Host[string] {
	return NewHost(Strict, []Path[string]{{Kind: Prefix, Path: "/", Value: value}}, nil)
}

func TestFind(t *testing.T) {
	for _, tc := range []struct{ names, host, want string }{
		{"", "a.com", "-"},
		{"a.com", "a.com", "a.com"},
		{"a.com", "b.com", "-"},
		{"a.com", "", "-"},
		{"*.foo.com", "bar.foo.com", "*.foo.com"},
		{"*.foo.com", "baz.bar.foo.com", "-"},
		{"*.foo.com", "foo.com", "-"},
		{"*.foo.com", ".foo.com", "-"},
		{"*.foo.com bar.foo.com", "bar.foo.com", "bar.foo.com"},
		{"*.foo.com bar.foo.com", "x.foo.com", "*.foo.com"},
		{"*.com *.foo.com", "foo.com", "*.com"},
		{"*.com *.foo.com", "a.b.foo.com", "-"},
		{"*.foo.com |", "foo.com", "|"},
		{"*.foo.com |", "x.foo.com", "*.foo.com"},
		{"|", "anything", "|"},
		{"|", "", "|"},
		{"|", "[::1]", "|"},
	} {
		names := strings.Fields(tc.names)
		for i := range names {
			names[i] = strings.ReplaceAll(names[i], "|", "") // the host without a name
		}
		want := strings.ReplaceAll(tc.want, "|", "")
		if got := show(table(names...).Lookup(tc.host, "/")); got != want {
			t.Errorf("hosts %q: Lookup(%q) = %q, want %q", names, tc.host, got, want)
		}
	}
}

// TestExclusive: a host whose paths do not match keeps the request from the wildcard and from rules without a host.
func TestExclusive(t *testing.T) {
	tb := table("", "*.foo.com").With(map[string]*Host[string]{
		"a.foo.com": NewHost(Strict, []Path[string]{{Kind: Exact, Path: "/x", Value: "x"}}, nil),
	})
	if got := show(tb.Lookup("a.foo.com", "/y")); got != "-" {
		t.Errorf("Lookup = %q, want nothing", got)
	}
	if got := show(tb.Lookup("b.foo.com", "/y")); got != "*.foo.com" {
		t.Errorf("Lookup = %q, want the wildcard", got)
	}
}

// TestWith walks at random and compares a Table with a plain map; old tables must not change.
func TestWith(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	want := make(map[string]string)
	tb := new(Table[string])
	type past struct {
		table *Table[string]
		want  map[string]string
	}
	var history []past
	for range 500 {
		changes := make(map[string]*Host[string])
		for range r.IntN(5) {
			name := fmt.Sprintf("h%d.com", r.IntN(60))
			switch r.IntN(4) {
			case 0:
				name = "*." + name
			case 1:
				name = ""
			}
			if r.IntN(3) == 0 {
				changes[name] = nil
				delete(want, name)
				continue
			}
			value := fmt.Sprint(r.Uint32())
			changes[name], want[name] = one(value), value
		}
		tb = tb.With(changes)
		history = append(history, past{tb, maps.Clone(want)})
	}
	for i, p := range history {
		got := make(map[string]string)
		for name, h := range p.table.All() {
			m, _ := h.Lookup("/")
			got[name] = m.Value
			if p.table.Get(name) != h {
				t.Fatalf("table %d: Get(%q) is another Host than All yields", i, name)
			}
		}
		if !maps.Equal(got, p.want) || p.table.Len() != len(p.want) {
			t.Fatalf("table %d holds %v (Len %d), want %v", i, got, p.table.Len(), p.want)
		}
	}
}

func TestNilTable(t *testing.T) {
	var tb *Table[string]
	if tb.Find("a") != nil || tb.Get("a") != nil || tb.Len() != 0 {
		t.Error("nil Table has something in it")
	}
	for range tb.All() {
		t.Error("nil Table yields a host")
	}
	if got := show(tb.With(map[string]*Host[string]{"a": one("a")}).Lookup("a", "/")); got != "a" {
		t.Errorf("Lookup = %q", got)
	}
}

// TestSmallAsLarge: what a host answers does not depend on how many others there are.
func TestSmallAsLarge(t *testing.T) {
	names := []string{"", "a.com", "*.a.com", "b.a.com", "*.com"}
	large := crowd(5000)
	small := table(names...)
	changes := make(map[string]*Host[string])
	for name, h := range small.All() {
		changes[name] = h
	}
	large = large.With(changes)
	for _, host := range []string{"", "a.com", "b.a.com", "c.a.com", "c.b.a.com", "com", "x.com", "x.y"} {
		if got, want := show(large.Lookup(host, "/p")), show(small.Lookup(host, "/p")); got != want {
			t.Errorf("Lookup(%q) = %q among 5,000 hosts, %q among %d", host, got, want, len(names))
		}
	}
}

// crowd makes a table of n hosts with six paths each.
func crowd(n int) *Table[string] {
	changes := make(map[string]*Host[string], n)
	for i := range n {
		changes[crowdName(i)] = crowdHost(i)
	}
	return new(Table[string]).With(changes)
}

func crowdName(i int) string { return fmt.Sprintf("app-%d.team-%d.example.org", i, i%50) }

func crowdHost(i int) *Host[string] {
	value := fmt.Sprint(i)
	return NewHost(Strict, []Path[string]{
		{Kind: Prefix, Path: "/", Value: value},
		{Kind: Prefix, Path: "/api", Value: value},
		{Kind: Prefix, Path: "/api/v1", Value: value},
		{Kind: Exact, Path: "/healthz", Value: value},
		{Kind: Exact, Path: "/login", Value: value},
		{Kind: Prefix, Path: "/static", Value: value},
	}, nil)
}

// TestLongPath: the time does not grow with the number of slashes that a client sends.
func TestLongPath(t *testing.T) {
	h := host(t, Strict, "prefix /a, prefix /a/b, prefix /")
	path := strings.Repeat("/a", 1<<19)
	start := time.Now()
	if got := show(h.Lookup(path)); got != "prefix /a" {
		t.Errorf("Lookup = %q", got)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("Lookup of a path with half a million elements took %v", d)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tb := crowd(n)
			names := make([]string, n)
			for i := range names {
				names[i] = crowdName(i)
			}
			paths := []string{"/", "/api/v1/users/1", "/api/x", "/healthz", "/static/js/app.js", "/login"}
			r := rand.New(rand.NewPCG(1, 1))
			order := make([]int, 1<<14)
			for i := range order {
				order[i] = r.IntN(n)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := tb.Lookup(names[order[i&(1<<14-1)]], paths[i%6]); !ok {
					b.Fatal("no match")
				}
				i++
			}
		})
	}
}

func BenchmarkWith(b *testing.B) {
	tb := crowd(10_000)
	h := crowdHost(1)
	b.ReportAllocs()
	for b.Loop() {
		tb.With(map[string]*Host[string]{crowdName(4711): h})
	}
}

func BenchmarkNewHost(b *testing.B) {
	paths := slices.Collect(crowdHost(1).Paths())
	b.ReportAllocs()
	for b.Loop() {
		NewHost(Strict, paths, nil)
	}
}
