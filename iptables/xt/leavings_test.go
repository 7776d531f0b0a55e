package xt

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// theirs owns what begins with THEM-, and enters by THEM-IN.
func theirs() Owner {
	return Owner{
		Chain: func(c ChainRef) bool { return strings.HasPrefix(c.Name, "THEM-") },
		Entry: func(c ChainRef) bool { return c.Name == "THEM-IN" },
		Needs: func(c ChainRef) []ChainRef {
			if c.Name == "THEM-MARK" {
				return []ChainRef{{NAT, "THEM-OBEY"}}
			}
			return nil
		},
	}
}

func read(t *testing.T, text string) *Leavings {
	t.Helper()
	s := leavingsReader{owner: theirs(), chains: map[ChainRef]bool{}, leads: map[ChainRef][]ChainRef{}, used: map[ChainRef]bool{}}
	for line := range strings.Lines(text) {
		s.line([]byte(strings.TrimSuffix(line, "\n")))
	}
	return s.leavings(IPv4)
}

func TestLeavings(t *testing.T) {
	for _, c := range []struct {
		name, save   string
		chains, kept []ChainRef
		jumps        int
	}{
		{name: "nothing", save: "*nat\n:PREROUTING ACCEPT [0:0]\n:OURS - [0:0]\n-A PREROUTING -j OURS\nCOMMIT\n"},
		{
			name: "all of it",
			save: "# by a tool\n*nat\n:PREROUTING ACCEPT [0:0]\n:THEM-IN - [0:0]\n:THEM-X - [0:0]\n" +
				"-A PREROUTING -m comment --comment \"of them\" -j THEM-IN\n-A PREROUTING -j THEM-IN\n-A THEM-IN -d 10.0.0.1/32 -j THEM-X\nCOMMIT\n" +
				"*filter\n:INPUT ACCEPT [0:0]\n:THEM-X - [0:0]\nCOMMIT\n",
			chains: []ChainRef{{Filter, "THEM-X"}, {NAT, "THEM-IN"}, {NAT, "THEM-X"}}, jumps: 2,
		},
		{
			name: "a chain of somebody else leads there",
			save: "*nat\n:PREROUTING ACCEPT [0:0]\n:THEM-IN - [0:0]\n:THEM-MARK - [0:0]\n:THEM-OBEY - [0:0]\n:THEM-DEEP - [0:0]\n:OURS - [0:0]\n" +
				"-A PREROUTING -j THEM-IN\n-A THEM-IN -j THEM-MARK\n-A THEM-MARK -j THEM-DEEP\n-A OURS -p tcp -j THEM-MARK\nCOMMIT\n",
			chains: []ChainRef{{NAT, "THEM-IN"}},
			kept:   []ChainRef{{NAT, "THEM-DEEP"}, {NAT, "THEM-MARK"}, {NAT, "THEM-OBEY"}}, jumps: 1,
		},
		{
			name: "so does a rule of a built-in chain that is not theirs",
			save: "*nat\n:PREROUTING ACCEPT [0:0]\n:THEM-IN - [0:0]\n:THEM-X - [0:0]\n-A PREROUTING -j THEM-IN\n-A PREROUTING -p udp -g THEM-X\nCOMMIT\n",
			kept: []ChainRef{{NAT, "THEM-X"}}, chains: []ChainRef{{NAT, "THEM-IN"}}, jumps: 1,
		},
		{
			name: "a name in a comment is no jump",
			save: "*nat\n:PREROUTING ACCEPT [0:0]\n:THEM-IN - [0:0]\n-A PREROUTING -m comment --comment \"not -j THEM-IN\" -j ACCEPT\nCOMMIT\n",

			chains: []ChainRef{{NAT, "THEM-IN"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := read(t, c.save)
			if d := cmp.Diff(l.Chains, c.chains); d != "" {
				t.Errorf("chains (-got +want):\n%s", d)
			}
			if d := cmp.Diff(l.Kept, c.kept); d != "" {
				t.Errorf("kept (-got +want):\n%s", d)
			}
			if l.Jumps() != c.jumps || l.Empty() != (len(c.chains) == 0) {
				t.Errorf("%d jumps, empty %t; want %d jumps", l.Jumps(), l.Empty(), c.jumps)
			}
		})
	}
}

func TestDiscardTexts(t *testing.T) {
	jump := []Stray{{Table: NAT, Parent: "PREROUTING", Chain: "THEM-IN", Rule: `-m comment --comment "of them" -j THEM-IN`}}
	got := discardTexts(NAT, jump, []string{"THEM-IN", "THEM-X"})
	want := []string{"*nat\n:THEM-IN - [0:0]\n:THEM-X - [0:0]\n-D PREROUTING -m comment --comment \"of them\" -j THEM-IN\n-X THEM-IN\n-X THEM-X\nCOMMIT\n"}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("a little (-got +want):\n%s", d)
	}
	many := make([]string, 2*atOnce+1)
	for i := range many {
		many[i] = "THEM-X"
	}
	got = discardTexts(NAT, jump, many)
	if len(got) != 7 {
		t.Fatalf("%d texts, want the jumps, three to empty chains and three to delete them", len(got))
	}
	if want := "*nat\n-D PREROUTING " + jump[0].Rule + "\nCOMMIT\n"; got[0] != want {
		t.Errorf("first %q, want %q", got[0], want)
	}
	for i, text := range got[1:] {
		if emptying := i < 3; strings.Contains(text, ":THEM-X") != emptying || strings.Contains(text, "\n-X ") == emptying {
			t.Errorf("text %d: %.60q", i+1, text)
		}
	}
	if got := discardTexts(NAT, nil, nil); got != nil {
		t.Errorf("nothing gives %q", got)
	}
}
