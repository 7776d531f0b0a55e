package xt

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzComment: whatever a comment holds, it is one line and one word of the
// restore input, short enough, and does not grow into options.
func FuzzComment(f *testing.F) {
	for _, s := range []string{
		"", "plain", `"`, `\`, `\"`, `" -j ACCEPT -m comment --comment "`, "a\nCOMMIT\n*filter", "a\r-A FL-X",
		"\x00", "\x7f", "\xff\xfe", "é☃\u2028", strings.Repeat(`"`, 300), strings.Repeat("é", 200), "-j", "$(id) `id` ' ;|&",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, comment string) {
		rule := Rule{Match: []Match{Proto{TCP}}, Comment: comment, Target: Return{}}
		text := rule.Text()
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) || !utf8.ValidString(text) {
			t.Errorf("%q has characters that should not be there", text)
		}
		words := splitWords(text)
		if comment == "" {
			if text != "-p tcp -j RETURN" {
				t.Errorf("no comment gives %q", text)
			}
			return
		}
		if len(words) != 8 || words[0] != "-p" || words[4] != "--comment" || words[6] != "-j" || words[7] != "RETURN" {
			t.Fatalf("%q is read as %q", text, words)
		}
		if len(words[5]) > maxComment || len(comment) > 0 && words[5] == "" {
			t.Errorf("%q becomes %q", comment, words[5])
		}
		if isPlain(comment) && len(comment) <= maxComment && words[5] != comment {
			t.Errorf("%q becomes %q", comment, words[5])
		}
	})
}

func isPlain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == utf8.RuneError
	})
}

// TestHostileComments has the tools read comments made to break out, and looks
// whether one rule with that comment comes back.
func TestHostileComments(t *testing.T) {
	comments := []string{
		`" -j ACCEPT -m comment --comment "`, `\`, `a\" -j DROP`, "a\nCOMMIT\n*filter\n:INPUT DROP\nCOMMIT", "-j", "! x", "#", "[1:2]",
		`'`, "$(id)`id`", "\x00x", "\xff", strings.Repeat(`"\`, 150), strings.Repeat("☃", 100), " ", "\t",
	}
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		for _, c := range comments {
			want := &Ruleset{Chains: map[ChainRef][]Rule{{NAT, "FL-A"}: {{Comment: c, Target: Return{}}}}}
			mustRestore(t, e, Diff(nil, want, nil))
			s := mustSave(t, e, IPv4)
			if len(s.Chains) != 1 || s.Chains[ChainRef{NAT, "FL-A"}].Rules != 1 || len(s.Hooks)+len(s.Strays) > 0 {
				t.Errorf("%q: kernel has %+v", c, s)
			}
			want.Chains[ChainRef{NAT, "FL-A"}][0].Target = nil
			if err := e.Restore(t.Context(), Diff(s, want, nil)); err != nil {
				t.Errorf("%q: %v", c, err)
			}
		}
	})
}
