package xt

import (
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// hookComment marks our jumps in the chains of others. One word, because the
// tools print such a comment the way it was written.
const hookComment = "fairlead"

// maxComment is what xt_comment stores, less its terminator. Longer comments
// are cut.
const maxComment = 255

// flushAt bounds the memory of a streamed Restore.
const flushAt = 64 << 10

// AppendText appends r as input for iptables-restore --noflush: tables, chains
// and hooks sorted, so that equal values give equal bytes. It fails, and b is
// unchanged, if the kernel could not take it: a chain that is not ours, whose
// name is too long, or that jumps to a chain we do not declare; a rule that is
// not possible in its table or family; nesting deeper than MaxDepth.
func (r *Ruleset) AppendText(b []byte) ([]byte, error) {
	if err := r.Check(); err != nil {
		return b, err
	}
	full := Restore{Family: r.Family}
	for _, t := range r.tables() {
		tr := TableRestore{Table: t}
		for _, ref := range r.sorted(t) {
			tr.Write = append(tr.Write, Chain{Name: ref.Name, Rules: r.Chains[ref]})
		}
		for _, h := range r.Hooks {
			if h.Table == t {
				tr.AddHooks = append(tr.AddHooks, h)
			}
		}
		slices.SortFunc(tr.AddHooks, Hook.compare)
		full.Tables = append(full.Tables, tr)
	}
	return full.AppendText(b)
}

// tables returns the tables of r, sorted.
func (r *Ruleset) tables() []Table {
	set := map[Table]bool{}
	for ref := range r.Chains {
		set[ref.Table] = true
	}
	for _, h := range r.Hooks {
		set[h.Table] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// sorted returns the chains of r in table t, sorted.
func (r *Ruleset) sorted(t Table) []ChainRef {
	var refs []ChainRef
	for ref := range r.Chains {
		if ref.Table == t {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, ChainRef.compare)
	return refs
}

// AppendText appends r as input for iptables-restore --noflush, in the order
// given. On error b is unchanged. Jumps to chains that r does not write are
// allowed: they may be in the kernel already.
func (r *Restore) AppendText(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, err
	}
	p := printer{b: b}
	p.restore(r)
	return p.b, nil
}

// WriteTo writes what AppendText would append, in pieces. Nothing is written
// if r cannot be.
func (r *Restore) WriteTo(w io.Writer) (int64, error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	return r.stream(w)
}

// stream is WriteTo for an r that was checked.
func (r *Restore) stream(w io.Writer) (int64, error) {
	p := printer{w: w, b: make([]byte, 0, flushAt+4<<10)}
	p.restore(r)
	p.flush()
	return p.n, p.err
}

// A printer collects text, and hands it on from time to time if it has a w.
type printer struct {
	b   []byte
	w   io.Writer
	n   int64
	err error
}

func (p *printer) flush() {
	if p.err == nil {
		var n int
		n, p.err = p.w.Write(p.b)
		p.n += int64(n)
	}
	p.b = p.b[:0]
}

// line ends a line; a line is never cut in two.
func (p *printer) line(parts ...string) {
	for _, s := range parts {
		p.b = append(p.b, s...)
	}
	p.b = append(p.b, '\n')
	if p.w != nil && len(p.b) >= flushAt {
		p.flush()
	}
}

func (p *printer) restore(r *Restore) {
	for i := range r.Tables {
		if t := &r.Tables[i]; !t.empty() {
			p.table(t)
		}
	}
}

// table declares, fills, hooks and deletes. A declaration empties a chain that
// exists, so the deleted ones are declared as well: whatever they referred to
// is free to go. Hooks are inserted at the head, hence the reverse order.
func (p *printer) table(t *TableRestore) {
	p.line("*", string(t.Table))
	for i := range t.Write {
		p.line(":", t.Write[i].Name, " - [0:0]")
	}
	for _, name := range t.Delete {
		p.line(":", name, " - [0:0]")
	}
	for i := range t.Write {
		for j := range t.Write[i].Rules {
			p.b = append(append(append(p.b, "-A "...), t.Write[i].Name...), ' ')
			p.b = t.Write[i].Rules[j].appendArgs(p.b)
			p.line()
		}
	}
	for _, h := range t.DelHooks {
		p.line("-D ", h.Builtin, " ", h.args())
	}
	for _, s := range t.DelStrays {
		p.line("-D ", s.Parent, " ", s.Rule)
	}
	for _, h := range slices.Backward(t.AddHooks) {
		p.line("-I ", h.Builtin, " 1 ", h.args())
	}
	for _, name := range t.Delete {
		p.line("-X ", name)
	}
	p.line("COMMIT")
}

func (h Hook) args() string { return "-m comment --comment " + hookComment + " -j " + h.Chain }

// Rule returns the rule that h is, at the head of its built-in chain.
func (h Hook) Rule() Rule { return Rule{Target: Jump{h.Chain}, Comment: hookComment} }

// Text returns r as iptables would be given it, without its chain.
func (r *Rule) Text() string { return string(r.appendArgs(nil)) }

// appendArgs writes r in the order of iptables-save.
func (r *Rule) appendArgs(b []byte) []byte {
	start := len(b)
	for s := slotSource; s < slotProto; s++ {
		for _, m := range r.Match {
			if m.slot() == s {
				b = append(m.appendArgs(b), ' ')
			}
		}
	}
	if p := r.protocol(); p != 0 {
		b = append(Proto{p}.appendArgs(b), ' ')
	}
	for _, m := range r.Match {
		if m.slot() == slotExtension {
			b = append(m.appendArgs(b), ' ')
		}
	}
	if r.Comment != "" {
		b = append(appendQuoted(append(b, "-m comment --comment "...), r.Comment), ' ')
	}
	if r.Target != nil {
		return r.Target.appendArgs(b)
	}
	if len(b) > start {
		b = b[:len(b)-1]
	}
	return b
}

// Protocol returns the protocol r matches, or zero for any.
func (r *Rule) Protocol() Protocol { return r.protocol() }

// protocol returns the protocol r matches, or zero.
func (r *Rule) protocol() Protocol {
	for _, m := range r.Match {
		if p := protocolOf(m); p != 0 {
			return p
		}
	}
	return 0
}

// protocolOf returns the protocol m insists on, or zero.
func protocolOf(m Match) Protocol {
	switch m := m.(type) {
	case Proto:
		return m.Protocol
	case DPort:
		return m.Protocol
	case DPortRange:
		return m.Protocol
	}
	return 0
}

// appendQuoted appends comment as one quoted word of restore input. Inside
// double quotes that parser knows the backslash and ends at a quote or a line
// end, and nothing else.
func appendQuoted(b []byte, comment string) []byte {
	b = append(b, '"')
	eachKept(comment, func(c rune) {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = utf8.AppendRune(b, c)
	})
	return append(b, '"')
}

// AppendComment appends the comment as the kernel stores it. Control characters
// would only garble listings, and are replaced. What is too long is cut between
// characters.
func (r *Rule) AppendComment(b []byte) []byte {
	eachKept(r.Comment, func(c rune) { b = utf8.AppendRune(b, c) })
	return b
}

// eachKept calls put with each character of comment that is stored.
func eachKept(comment string, put func(rune)) {
	room := maxComment
	for _, c := range comment {
		if c < ' ' || c == 0x7f || c == utf8.RuneError {
			c = '?'
		}
		if room -= utf8.RuneLen(c); room < 0 {
			return
		}
		put(c)
	}
}
