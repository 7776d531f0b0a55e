package xt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Chains lists all chains of the tables of f that exist, perhaps without built-in ones.
// It has no kernel module loaded and no table made.
func (e *Exec) Chains(ctx context.Context, f Family) ([]ChainRef, error) {
	if all, ok := e.chains(ctx, f); ok {
		return all, nil
	}
	var out []ChainRef
	var table Table
	each := func(line []byte) error {
		switch {
		case len(line) == 0:
		case line[0] == '*':
			table = Table(line[1:])
		case line[0] == ':':
			name, _, _ := bytes.Cut(line[1:], []byte(" "))
			out = append(out, ChainRef{table, string(name)})
		}
		return nil
	}
	c := command{path: e.paths(f).Save, read: func(r io.Reader) error { return eachLine(r, each) }}
	if stderr, err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("list %v chains: %w", f, withStderr(err, stderr))
	}
	return out, nil
}

// chains asks [ExecConfig].List. What goes wrong with it is no error: there is a tool.
func (e *Exec) chains(ctx context.Context, f Family) ([]ChainRef, bool) {
	if e.cfg.List == nil {
		return nil, false
	}
	all, err := e.cfg.List(ctx, f)
	return all, err == nil
}

// nobody reports whether it is certain that no chain is of one of the owners. Then no
// rule can lead to one either: that takes a chain of the same table.
func (e *Exec) nobody(ctx context.Context, f Family, owners []Owner) bool {
	all, ok := e.chains(ctx, f)
	return ok && !slices.ContainsFunc(all, func(ref ChainRef) bool {
		return slices.ContainsFunc(owners, func(o Owner) bool { return o.Chain(ref) })
	})
}

// blank reports whether it is certain, and cheap to find out, that nothing in the tables
// is ours, as it is on a node that is new.
func (e *Exec) blank(ctx context.Context, f Family) bool {
	if e.cfg.List == nil || !e.cfg.Legacy || !fewRules(f, e.cfg.Tables) {
		return false
	}
	all, ok := e.chains(ctx, f)
	return ok && !slices.ContainsFunc(all, func(ref ChainRef) bool { return strings.HasPrefix(ref.Name, Prefix) })
}
