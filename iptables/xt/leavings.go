package xt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// An Owner tells the chains of another program from everybody else's.
type Owner struct {
	// Chain reports whether a chain is the program's.
	Chain func(ChainRef) bool
	// Entry reports whether the program jumps to a chain of its own from built-in
	// chains. Such jumps go; any other rule of a built-in chain is somebody's who
	// relies on the chain.
	Entry func(ChainRef) bool
	// Needs lists chains that do their part for one that stays, without being
	// reached from it. They stay too, with the jumps to them. May be nil.
	Needs func(ChainRef) []ChainRef
}

// Leavings are the chains of another program in one family, and the rules of
// built-in chains that lead there. What else refers to a chain, in a chain of
// somebody else, keeps it, and all that it leads to: see Kept.
type Leavings struct {
	Family Family
	Chains []ChainRef // to be removed, sorted
	Kept   []ChainRef // that somebody else uses, sorted
	jumps  []Stray
}

// Jumps is how many rules of built-in chains lead to the Chains.
func (l *Leavings) Jumps() int { return len(l.jumps) }

// Empty reports whether nothing is to be removed.
func (l *Leavings) Empty() bool { return len(l.Chains)+len(l.jumps) == 0 }

// Leavings finds what programs have left in the tables that exist, for each owner in
// one reading of them; of none where the names of all chains say that there is nothing.
// It has no kernel module loaded and no table made.
func (e *Exec) Leavings(ctx context.Context, f Family, owners ...Owner) ([]*Leavings, error) {
	if e.nobody(ctx, f, owners) {
		out := make([]*Leavings, len(owners))
		for i := range out {
			out[i] = &Leavings{Family: f}
		}
		return out, nil
	}
	readers := make([]leavingsReader, len(owners))
	for i, o := range owners {
		readers[i] = leavingsReader{owner: o, chains: map[ChainRef]bool{}, leads: map[ChainRef][]ChainRef{}, used: map[ChainRef]bool{}}
	}
	each := func(line []byte) error {
		for i := range readers {
			readers[i].line(line)
		}
		return nil
	}
	c := command{path: e.paths(f).Save, read: func(r io.Reader) error { return eachLine(r, each) }}
	if stderr, err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("look for chains of others in %v: %w", f, withStderr(err, stderr))
	}
	out := make([]*Leavings, len(owners))
	for i := range readers {
		out[i] = readers[i].leavings(f)
	}
	return out, nil
}

// A leavingsReader gathers Leavings from the lines of iptables-save.
type leavingsReader struct {
	owner  Owner
	table  Table
	chains map[ChainRef]bool
	leads  map[ChainRef][]ChainRef // from one chain of the owner to another
	used   map[ChainRef]bool       // by somebody else
	jumps  []Stray
}

func (s *leavingsReader) line(b []byte) {
	switch {
	case len(b) == 0:
	case b[0] == '*':
		s.table = Table(b[1:])
	case b[0] == ':':
		name, _, _ := bytes.Cut(b[1:], []byte(" "))
		if ref := (ChainRef{s.table, string(name)}); s.owner.Chain(ref) {
			s.chains[ref] = true
		}
	case bytes.HasPrefix(b, []byte("-A ")) && s.mayLead(b):
		parent, rule, _ := strings.Cut(string(b[len("-A "):]), " ")
		s.rule(parent, rule)
	}
}

// mayLead reports whether a word after -j or -g is a chain of the owner, which few of
// the rules of a large table say: only those are worth a closer look.
func (s *leavingsReader) mayLead(rule []byte) bool {
	for _, option := range []string{" -j ", " -g "} {
		for rest := rule; ; {
			_, after, found := bytes.Cut(rest, []byte(option))
			if !found {
				break
			}
			name, _, _ := bytes.Cut(after, []byte(" "))
			if s.owner.Chain(ChainRef{s.table, string(name)}) {
				return true
			}
			rest = after
		}
	}
	return false
}

func (s *leavingsReader) rule(parent, rule string) {
	target := ChainRef{s.table, jumpOf(splitWords(rule))}
	if target.Name == "" || !s.owner.Chain(target) {
		return
	}
	from := ChainRef{s.table, parent}
	switch {
	case s.owner.Chain(from):
		s.leads[from] = append(s.leads[from], target)
	case isBuiltin(parent) && s.owner.Entry(target):
		s.jumps = append(s.jumps, Stray{Table: s.table, Parent: parent, Chain: target.Name, Rule: rule})
	default:
		s.used[target] = true
	}
}

// keep marks what stays because a chain that is used leads there.
func (s *leavingsReader) keep() map[ChainRef]bool {
	kept := map[ChainRef]bool{}
	todo := slices.SortedFunc(maps.Keys(s.used), ChainRef.compare)
	for len(todo) > 0 {
		ref := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if kept[ref] || !s.chains[ref] {
			continue
		}
		kept[ref] = true
		todo = append(todo, s.leads[ref]...)
		if s.owner.Needs != nil {
			todo = append(todo, s.owner.Needs(ref)...)
		}
	}
	return kept
}

func (s *leavingsReader) leavings(f Family) *Leavings {
	kept := s.keep()
	l := &Leavings{Family: f, Kept: slices.SortedFunc(maps.Keys(kept), ChainRef.compare)}
	for _, ref := range slices.SortedFunc(maps.Keys(s.chains), ChainRef.compare) {
		if !kept[ref] {
			l.Chains = append(l.Chains, ref)
		}
	}
	for _, j := range s.jumps {
		if !kept[ChainRef{j.Table, j.Chain}] {
			l.jumps = append(l.jumps, j)
		}
	}
	return l
}

// atOnce is how many chains Discard removes in one transaction: the time that the nft
// variant takes for one grows with the square of their number.
const atOnce = 1000

// Discard removes l. The jumps of a table go in one transaction, before any chain,
// so that no packet meets half of what was there. A second call does what the first
// has not, if that failed; what has gone meanwhile is an error, and another look
// with [Exec.Leavings] is needed.
func (e *Exec) Discard(ctx context.Context, l *Leavings) error {
	for _, t := range []Table{NAT, Filter, Mangle, "raw", "security"} {
		var jumps []Stray
		for _, j := range l.jumps {
			if j.Table == t {
				jumps = append(jumps, j)
			}
		}
		var chains []string
		for _, ref := range l.Chains {
			if ref.Table == t {
				chains = append(chains, ref.Name)
			}
		}
		for _, text := range discardTexts(t, jumps, chains) {
			if err := e.restoreText(ctx, l.Family, text); err != nil {
				return fmt.Errorf("remove chains of others from %v table %s: %w", l.Family, t, err)
			}
		}
	}
	return nil
}

// discardTexts returns the input for each run of iptables-restore: all of it in one if
// there is little. Chains are emptied before the first is deleted, since one may
// lead to another in a later transaction.
func discardTexts(t Table, jumps []Stray, chains []string) []string {
	var out []string
	var b strings.Builder
	end := func() {
		if b.Len() > 0 {
			out = append(out, "*"+string(t)+"\n"+b.String()+"COMMIT\n")
			b.Reset()
		}
	}
	little := len(chains) <= atOnce
	declare := func(list []string) {
		for _, c := range list {
			b.WriteString(":" + c + " - [0:0]\n")
		}
	}
	if little {
		declare(chains)
	}
	for _, j := range jumps {
		b.WriteString("-D " + j.Parent + " " + j.Rule + "\n")
	}
	if !little {
		end()
		for part := range slices.Chunk(chains, atOnce) {
			declare(part)
			end()
		}
	}
	for part := range slices.Chunk(chains, atOnce) {
		for _, c := range part {
			b.WriteString("-X " + c + "\n")
		}
		end()
	}
	end()
	return out
}

// restoreText has iptables-restore read a text that is not ours.
func (e *Exec) restoreText(ctx context.Context, f Family, text string) error {
	left, err := e.waitForLock(ctx)
	if err != nil {
		return &RestoreError{Family: f, Busy: ctx.Err() == nil, Err: err}
	}
	c := command{
		path: e.paths(f).Restore,
		args: []string{"-w", left, "--noflush"},
		write: func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		},
	}
	if stderr, err := c.run(ctx); err != nil {
		return &RestoreError{Family: f, Stderr: stderr, Err: err}
	}
	return nil
}
