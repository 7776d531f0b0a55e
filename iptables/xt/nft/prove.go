package nft

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// Where Prove tries rules. Named like all else that is ours, what a crash leaves behind
// is found and removed. sampleChain is what sample rules lead to.
const (
	sampleChain = xt.Prefix + "PROBE"
	toolChain   = xt.Prefix + "PROBE-TOOL"
	ownChain    = xt.Prefix + "PROBE-OWN"
)

// Prove writes rules of all kinds with the tool and without it, in chains that no packet
// comes by, has the kernel give both back, and removes them. A nil error says that they
// are the same to the last byte, or could not be written either way. Anything else is a
// reason to leave f to the tool.
func (r *Runner) Prove(ctx context.Context, f xt.Family) (err error) {
	tables := map[xt.Table]bool{}
	for _, t := range r.cfg.Tables {
		tables[t] = true
	}
	all := samples(f, tables)
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		gone := &xt.Restore{Family: f}
		for _, t := range r.cfg.Tables {
			gone.Tables = append(gone.Tables, xt.TableRestore{Table: t, Delete: []string{ownChain, sampleChain, toolChain}})
		}
		err = errors.Join(err, r.write(late, gone))
	}()
	return r.halve(ctx, f, all)
}

// halve compares all at once, and in halves if the kernel lacks some.
func (r *Runner) halve(ctx context.Context, f xt.Family, all []sample) error {
	err := r.compare(ctx, f, all)
	switch {
	case !errors.Is(err, errImpossible):
		return err
	case len(all) == 1:
		return nil
	}
	half := len(all) / 2
	return errors.Join(r.halve(ctx, f, all[:half]), r.halve(ctx, f, all[half:]))
}

// errImpossible says that the tool cannot write some rules either.
var errImpossible = errors.New("neither way")

// compare writes rules both ways.
func (r *Runner) compare(ctx context.Context, f xt.Family, all []sample) error {
	byTool, own := restoreOf(f, all, toolChain), restoreOf(f, all, ownChain)
	toolErr := r.cfg.Tool.Restore(ctx, byTool)
	ownErr := r.write(ctx, own)
	switch {
	case toolErr != nil && ctx.Err() == nil && (ownErr != nil || len(all) > 1):
		return fmt.Errorf("%w: %w", errImpossible, toolErr)
	case toolErr != nil || ownErr != nil:
		return fmt.Errorf("with the tool: %v; without: %w", toolErr, cmp.Or(ownErr, toolErr))
	}
	for _, t := range byTool.Tables {
		want, err := r.list(ctx, f, t.Table, toolChain)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		got, err := r.list(ctx, f, t.Table, ownChain)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		rules := t.Write[len(t.Write)-1].Rules
		if len(got) != len(want) || len(got) != len(rules) {
			return fmt.Errorf("%v table %s: %d rules of %d", f, t.Table, len(got), len(rules))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				return fmt.Errorf("%v table %s: the tool writes %q as %x, not %x", f, t.Table, rules[i].Text(), want[i], got[i])
			}
		}
	}
	return nil
}

// restoreOf writes rules to a chain of each of their tables.
func restoreOf(f xt.Family, all []sample, chain string) *xt.Restore {
	out := &xt.Restore{Family: f}
	for _, s := range all {
		i := slices.IndexFunc(out.Tables, func(t xt.TableRestore) bool { return t.Table == s.table })
		if i < 0 {
			i = len(out.Tables)
			write := []xt.Chain{{Name: sampleChain}, {Name: chain}}
			out.Tables = append(out.Tables, xt.TableRestore{Table: s.table, Write: write})
		}
		c := &out.Tables[i].Write[1]
		c.Rules = append(c.Rules, s.rule)
	}
	return out
}

// list returns the expressions of the rules of a chain, without what they have counted.
func (r *Runner) list(ctx context.Context, f xt.Family, t xt.Table, chain string) (out [][]byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = steadily(ctx, func() error {
		out = nil
		return r.conn.rules(ctx, f, t, chain, func(x rule) error {
			var kept []byte
			for rest := x.exprs; ; {
				e, more, ok := nextExpr(rest)
				if !ok {
					break
				}
				if e.name == "counter" {
					kept = append(kept, e.name...)
				} else {
					kept = append(kept, rest[:len(rest)-len(more)]...)
				}
				rest = more
			}
			out = append(out, kept)
			return nil
		})
	})
	return out, err
}
