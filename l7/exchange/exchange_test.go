package exchange

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func header(fields ...string) Header {
	var h Header
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("%s (-got +want):\n%s", what, d)
	}
}

func TestHeaderReads(t *testing.T) {
	h := header("Accept", "a", "X-One", "1", "accept", "b", "ACCEPT", "", "Empty", "")
	for _, c := range []struct {
		name   string
		first  string
		has    bool
		values []string
	}{
		{"Accept", "a", true, []string{"a", "b", ""}},
		{"aCCEPT", "a", true, []string{"a", "b", ""}},
		{"x-one", "1", true, []string{"1"}},
		{"Empty", "", true, []string{""}},
		{"X-On", "", false, nil},
		{"X-One-", "", false, nil},
		{"", "", false, nil},
	} {
		diff(t, "Get "+c.name, h.Get(c.name), c.first)
		diff(t, "Has "+c.name, h.Has(c.name), c.has)
		diff(t, "Values "+c.name, h.Values(c.name), c.values)
	}
	var none Header
	if none.Get("A") != "" || none.Has("A") || none.Values("A") != nil {
		t.Error("an empty header has fields")
	}
}

func TestHeaderWrites(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Header)
		want Header
	}{
		{"add", func(h *Header) { h.Add("a", "3") }, header("A", "1", "B", "x", "a", "2", "C", "y", "a", "3")},
		{"set keeps the place", func(h *Header) { h.Set("a", "9") }, header("A", "9", "B", "x", "C", "y")},
		{"set what is not there", func(h *Header) { h.Set("D", "z") }, header("A", "1", "B", "x", "a", "2", "C", "y", "D", "z")},
		{"set the last", func(h *Header) { h.Set("c", "z") }, header("A", "1", "B", "x", "a", "2", "C", "z")},
		{"delete all of a name", func(h *Header) { h.Del("A") }, header("B", "x", "C", "y")},
		{"delete what is not there", func(h *Header) { h.Del("D") }, header("A", "1", "B", "x", "a", "2", "C", "y")},
		{"delete by value", func(h *Header) { h.DelFunc(func(f Field) bool { return f.Value > "2" }) }, header("A", "1", "a", "2")},
		{"delete everything", func(h *Header) { h.DelFunc(func(Field) bool { return true }) }, Header{}},
	} {
		h := header("A", "1", "B", "x", "a", "2", "C", "y")
		c.edit(&h)
		diff(t, c.name, h, c.want)
	}
}

func TestHeaderClone(t *testing.T) {
	h := header("A", "1", "B", "2")
	c := h.Clone()
	c.Set("A", "9")
	c.Del("B")
	diff(t, "the original", h, header("A", "1", "B", "2"))
	diff(t, "the copy", c, header("A", "9"))
	if Header(nil).Clone() != nil {
		t.Error("a copy of nothing is something")
	}
}

func TestHeaderAllocations(t *testing.T) {
	h := header("Host", "a", "Accept", "b", "User-Agent", "c", "Cookie", "d")
	n := testing.AllocsPerRun(100, func() {
		if h.Get("cookie") == "" || h.Has("X-Missing") {
			t.Error("wrong")
		}
		h.Set("COOKIE", "e")
		h.DelFunc(func(f Field) bool { return f.Name == "X" })
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestAnswer(t *testing.T) {
	x := &Exchange{Response: &Response{Status: 200, Header: header("A", "b")}}
	r := x.Answer(503, "no-endpoints")
	if x.Response != r {
		t.Error("the answer is not the one that was returned")
	}
	diff(t, "answer", *r, Response{Status: 503, Reason: "no-endpoints"})
	x.Redirect(308, "https://a.example/", "https-redirect")
	diff(t, "redirect", *x.Response, Response{Status: 308, Reason: "https-redirect", Header: header("Location", "https://a.example/")})
}

func TestProtocolString(t *testing.T) {
	diff(t, "names", []string{HTTP10.String(), HTTP11.String(), HTTP2.String()}, []string{"HTTP/1.0", "HTTP/1.1", "HTTP/2.0"})
}
