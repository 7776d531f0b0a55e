package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func TestBadTemplates(t *testing.T) {
	for template, want := range map[string]string{
		"$nothing":                        "there is no variable $nothing",
		"$status $Upstream_Foo":           "there is no variable $upstream_foo",
		"$http_":                          "there is no variable $http_",
		"$":                               "$ is not followed",
		"a $ b":                           "$ is not followed",
		"${status":                        "${ is not followed",
		"${}":                             "${ is not followed",
		"${sta tus}":                      "${ is not followed",
		"\n":                              "empty",
		strings.Repeat("$a1", 1):          "there is no variable $a1",
		strings.Repeat("$uri", 9):         "",
		strings.Repeat("$uri ", maxParts): "parts",
	} {
		l, err := New(&bytes.Buffer{}, Config{Format: template})
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", template, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || l != nil):
			t.Errorf("%q: error %v, want %q in it", template, err, want)
		}
		if (Check(template) == nil) != (want == "") {
			t.Errorf("%q: Check says %v", template, Check(template))
		}
	}
}

// FuzzTemplate looks whether a template that is taken makes lines, which are one line unless the template itself has more, and
// whether what a client sends can add anything to its text.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{UpstreamInfo, `{"a": "$request_uri", "b": "${http_x}"}`, "$", "${", "\\", `\n$uri\`, "$arg_", "${cookie_é}", "$args$$"} {
		f.Add(s, "/a?b", true)
		f.Add(s, "\"\n\\\xff", false)
	}
	f.Fuzz(func(t *testing.T, template, evil string, asJSON bool) {
		var out bytes.Buffer
		l, err := New(&out, Config{Format: template, EscapeJSON: asJSON})
		if err != nil {
			return
		}
		x := &exchange.Exchange{User: evil, Request: exchange.Request{Method: evil, RawPath: evil, Path: evil, Host: evil, Query: evil, HasQuery: true,
			Header: exchange.Header{{Name: "X", Value: evil}, {Name: "Cookie", Value: evil}}}}
		l.Write(x, Done{Status: 200})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		}
		parts, _ := parse(template)
		newlines := 1
		for _, p := range parts {
			newlines += strings.Count(p.text, "\n")
		}
		if n := strings.Count(out.String(), "\n"); n != newlines && out.Len() < textLimit {
			t.Errorf("%q with %q: %d lines, want %d", template, evil, n, newlines)
		}
		if out.Len() > chunk {
			t.Errorf("a line of %d bytes", out.Len())
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a\"\\\n\x00\x7fü\xff\xe2\x28")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal([]byte(`"`+string(appendJSON(nil, s))+`"`), &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		var want []rune
		for _, r := range s {
			want = append(want, r)
		}
		if got != string(want) {
			t.Errorf("%q comes back as %q", s, got)
		}
		short, cut := shorten(s, 7)
		if len(short) > 7 || cut != (len(s) > 7) || !strings.HasPrefix(s, short) {
			t.Errorf("%q is cut to %q, %v", s, short, cut)
		}
	})
}
