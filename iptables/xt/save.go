package xt

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxLine bounds a line of save output. The tools themselves stop at 10 KiB.
const maxLine = 1 << 20

// fnvOffset and fnvPrime are those of 64-bit FNV-1a: stable between processes,
// and cheap enough to take over a whole save.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// A saveReader gathers a State from the lines of iptables-save, or of
// iptables -S, without keeping them.
type saveReader struct {
	state  State
	table  Table
	chains map[string]*ChainState // of table
	name   string                 // of cur
	cur    *ChainState            // the chain of the last rule; rules come in runs
}

func newSaveReader() *saveReader {
	return &saveReader{state: State{Chains: map[ChainRef]ChainState{}, Hooks: map[Hook]int{}}}
}

// read takes all lines of one save. A table that does not end in COMMIT is an
// error: the tool died.
func (s *saveReader) read(r io.Reader) error {
	if err := eachLine(r, s.line); err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	if s.table != "" {
		return fmt.Errorf("read rules: table %s is cut short", s.table)
	}
	return nil
}

func (s *saveReader) line(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == '#':
		return nil
	case b[0] == '*':
		s.begin(Table(b[1:]))
		return nil
	case s.table == "":
		return fmt.Errorf("%q outside a table", b)
	case b[0] == ':':
		if name, _, _ := bytes.Cut(b[1:], []byte(" ")); bytes.HasPrefix(name, []byte(Prefix)) {
			s.chain(name)
		}
		return nil
	case string(b) == "COMMIT":
		s.commit()
		return nil
	case bytes.HasPrefix(b, []byte("-A ")):
		parent, rule, _ := bytes.Cut(b[len("-A "):], []byte(" "))
		s.rule(parent, rule)
		return nil
	}
	return fmt.Errorf("cannot understand %q", b)
}

func (s *saveReader) begin(t Table) {
	s.table, s.chains, s.name, s.cur = t, map[string]*ChainState{}, "", nil
}

func (s *saveReader) commit() {
	for name, c := range s.chains {
		s.state.Chains[ChainRef{s.table, name}] = *c
	}
	s.table = ""
}

func (s *saveReader) chain(name []byte) *ChainState {
	c := s.chains[string(name)]
	if c == nil {
		c = &ChainState{Sum: fnvOffset}
		s.chains[string(name)] = c
	}
	return c
}

func (s *saveReader) rule(parent, rule []byte) {
	if !bytes.HasPrefix(parent, []byte(Prefix)) {
		s.foreign(string(parent), rule)
		return
	}
	if s.cur == nil || string(parent) != s.name {
		s.cur, s.name = s.chain(parent), string(parent)
	}
	s.cur.Rules++
	s.cur.Sum = addText(s.cur.Sum, rule)
}

// addText adds the text of one more rule to the sum of a chain.
func addText(sum uint64, rule []byte) uint64 {
	for _, c := range rule {
		sum = (sum ^ uint64(c)) * fnvPrime
	}
	return (sum ^ '\n') * fnvPrime
}

// textSum returns the Sum of a chain that iptables-save prints as its rules were given,
// but for REJECT, whose default it adds.
func textSum(f Family, rules []Rule) uint64 {
	sum, text := uint64(fnvOffset), []byte(nil)
	for i := range rules {
		text = rules[i].appendArgs(text[:0])
		if rules[i].Target == (Reject{}) {
			text = append(text, " --reject-with "...)
			text = append(text, [...]string{IPv4: "icmp-port-unreachable", IPv6: "icmp6-port-unreachable"}[f]...)
		}
		sum = addText(sum, text)
	}
	return sum
}

// foreign looks for a jump to us in a rule of somebody else's chain.
func (s *saveReader) foreign(parent string, rule []byte) {
	if !bytes.Contains(rule, []byte(" "+Prefix)) && !bytes.HasPrefix(rule, []byte("-j "+Prefix)) {
		return
	}
	words := splitWords(string(rule))
	chain := jumpOf(words)
	if !strings.HasPrefix(chain, Prefix) {
		return
	}
	h := Hook{Table: s.table, Builtin: parent, Chain: chain}
	if slices.Equal(words, splitWords(h.args())) {
		s.state.Hooks[h]++
		return
	}
	s.state.Strays = append(s.state.Strays, Stray{Table: s.table, Parent: parent, Chain: chain, Rule: string(rule)})
}

// jumpOf returns what follows -j or -g, which the tools print as an option of
// its own: a comment "-j" cannot be told from it, except that it does not come
// next to last.
func jumpOf(words []string) string {
	for i := len(words) - 2; i >= 0; i-- {
		if (words[i] == "-j" || words[i] == "-g") && (i == 0 || words[i-1] != "--comment") {
			return words[i+1]
		}
	}
	return ""
}

// splitWords splits a line as iptables-restore does: at blanks outside double
// quotes, where a backslash takes the next character as it is.
func splitWords(line string) []string {
	var words []string
	var word []byte
	quoted, open := false, false // inside quotes; inside a word
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"':
			quoted, open = !quoted, true
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word = append(word, line[i])
		case (c == ' ' || c == '\t') && !quoted:
			if open {
				words = append(words, string(word))
			}
			word, open = word[:0], false
		default:
			word, open = append(word, c), true
		}
	}
	if open {
		words = append(words, string(word))
	}
	return words
}

// readList takes the output of iptables -S for chains of table t and returns
// the number of rules in it.
func (s *saveReader) readList(r io.Reader, t Table) (int, error) {
	s.begin(t)
	rules := 0
	err := eachLine(r, func(b []byte) error {
		if !bytes.HasPrefix(b, []byte("-A ")) { // -N and -P say what chains there are
			return nil
		}
		rules++
		return s.line(b)
	})
	s.commit()
	return rules, err
}

// eachLine calls do for each line of r, until it fails.
func eachLine(r io.Reader, do func(line []byte) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 16<<10), maxLine)
	for sc.Scan() {
		if err := do(sc.Bytes()); err != nil {
			return err
		}
	}
	return sc.Err()
}
