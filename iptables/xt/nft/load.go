package nft

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

// little is how many chains and rules go in one transaction whatever they are.
const little = 1000

// portion is about how many bytes of a load go in one transaction. While the kernel
// works on one, nobody else can change nf_tables, and packets of the processor wait
// for what comes after it.
const portion = 512 << 10

// weight counts the chains and rules that r writes and deletes.
func weight(r *xt.Restore) int {
	n := 0
	for i := range r.Tables {
		t := &r.Tables[i]
		n += len(t.Write) + len(t.Delete)
		for j := range t.Write {
			n += len(t.Write[j].Rules)
		}
	}
	return n
}

// load writes much. Chains that are as they should be are left alone. New chains, which
// no packet can reach yet, are made first, and chains to be deleted, which none can
// reach any more, are emptied last, both in many transactions. What lies between is one
// transaction for each table.
func (w *writer) load(ctx context.Context, r *xt.Restore) error {
	for i := range r.Tables {
		if err := w.loadTable(ctx, &r.Tables[i]); err != nil {
			return err
		}
	}
	return nil
}

// spared returns r without the chains that are as they should be.
func (w *writer) spared(ctx context.Context, r *xt.Restore) (*xt.Restore, error) {
	out := &xt.Restore{Family: r.Family, Tables: slices.Clone(r.Tables)}
	for i := range out.Tables {
		t := &out.Tables[i]
		exists, err := w.exist(ctx, t.Table)
		if err != nil {
			return nil, err
		}
		if t.Write, err = w.differing(ctx, t.Table, t.Write, exists); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// exist returns the names of the chains of a table.
func (w *writer) exist(ctx context.Context, t xt.Table) (map[string]bool, error) {
	exists := map[string]bool{}
	err := steadily(ctx, func() error {
		all, err := w.conn.everyChain(ctx, w.family, []xt.Table{t})
		clear(exists)
		for _, ref := range all {
			exists[ref.Name] = true
		}
		return err
	})
	if err != nil {
		return nil, &xt.RestoreError{Family: w.family, Err: err}
	}
	return exists, nil
}

func (w *writer) loadTable(ctx context.Context, t *xt.TableRestore) error {
	exists, err := w.exist(ctx, t.Table)
	if err != nil {
		return err
	}
	fresh, rest := split(t, exists)
	if rest, err = w.differing(ctx, t.Table, rest, exists); err != nil {
		return err
	}
	if err := w.prepare(ctx, t.Table, fresh); err != nil {
		return err
	}
	atOnce := xt.TableRestore{Table: t.Table, Write: rest, DelHooks: t.DelHooks, AddHooks: t.AddHooks}
	if len(rest)+len(t.DelHooks)+len(t.AddHooks) == 0 {
		return w.discard(ctx, t, exists)
	}
	err = w.retry(ctx, []xt.TableRestore{atOnce}, func(old *hooks) error {
		w.start()
		if err := w.change(&atOnce, old); err != nil {
			return err
		}
		return w.commit()
	})
	if err != nil {
		return err
	}
	return w.discard(ctx, t, exists)
}

// split tells the chains that can be made beforehand. A new chain without rules is not
// made before the others are complete unless one leads to it: its name may vouch for
// them.
func split(t *xt.TableRestore, exists map[string]bool) (fresh, rest []xt.Chain) {
	entered := map[string]bool{}
	for i := range t.Write {
		for j := range t.Write[i].Rules {
			switch target := t.Write[i].Rules[j].Target.(type) {
			case xt.Jump:
				entered[target.Chain] = true
			case xt.Goto:
				entered[target.Chain] = true
			}
		}
	}
	for _, c := range t.Write {
		if exists[c.Name] || len(c.Rules) == 0 && !entered[c.Name] {
			rest = append(rest, c)
		} else {
			fresh = append(fresh, c)
		}
	}
	return fresh, rest
}

// differing returns the chains that are not what they should be already.
func (w *writer) differing(ctx context.Context, t xt.Table, chains []xt.Chain, exists map[string]bool) (out []xt.Chain, err error) {
	for _, c := range chains {
		same := false
		if exists[c.Name] {
			if same, err = w.same(ctx, t, c); err != nil {
				return nil, err
			}
		}
		if !same {
			out = append(out, c)
		}
	}
	return out, nil
}

// same reports whether a chain has the rules of want, to the byte.
func (w *writer) same(ctx context.Context, t xt.Table, want xt.Chain) (bool, error) {
	all, scratch := true, batch{family: protocolFamily(w.family)}
	n := 0
	err := steadily(ctx, func() error {
		all, n = true, 0
		return w.conn.rules(ctx, w.family, t, want.Name, func(r rule) error {
			n++
			if n > len(want.Rules) || !all {
				all = false
				return nil
			}
			encoded, err := abi.Encode(w.family, &want.Rules[n-1], w.sets)
			if err != nil {
				return err
			}
			scratch.reset()
			if err := scratch.exprs(&encoded); err != nil {
				return err
			}
			all = equal(r.exprs, scratch.buf)
			return nil
		})
	})
	if err != nil {
		return false, &xt.RestoreError{Family: w.family, Err: fmt.Errorf("list rules of %s/%s: %w", t, want.Name, err)}
	}
	return all && n == len(want.Rules), nil
}

// equal compares the expressions of two rules, but not what they have counted.
func equal(a, b []byte) bool {
	for {
		x, restA, okA := nextExpr(a)
		y, restB, okB := nextExpr(b)
		if !okA || !okB {
			return okA == okB
		}
		counters := x.name == "counter" && y.name == "counter"
		if !counters && !bytes.Equal(a[:len(a)-len(restA)], b[:len(b)-len(restB)]) {
			return false
		}
		a, b = restA, restB
	}
}

// portions calls add for each number below n, in as many transactions as it takes.
func (w *writer) portions(ctx context.Context, t xt.Table, n int, add func(i int) error) error {
	w.gen = 0
	for i := 0; i < n; {
		if err := ctx.Err(); err != nil {
			return &xt.RestoreError{Family: w.family, Err: err}
		}
		w.start()
		w.table(t)
		for ; i < n && w.size() < portion; i++ {
			if err := add(i); err != nil {
				return err
			}
		}
		if err := w.commit(); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes chains that do not exist. Each gets all of its rules at once, after all
// were made, because a rule can lead to any of them.
func (w *writer) prepare(ctx context.Context, t xt.Table, fresh []xt.Chain) error {
	err := w.portions(ctx, t, len(fresh), func(i int) error {
		w.declare(t, fresh[i].Name)
		return nil
	})
	if err != nil {
		return err
	}
	return w.portions(ctx, t, len(fresh), func(i int) error { return w.fill(t, fresh[i:i+1]) })
}

// discard deletes chains, after all of them were emptied.
func (w *writer) discard(ctx context.Context, t *xt.TableRestore, exists map[string]bool) error {
	var gone []string
	for _, name := range t.Delete {
		if exists[name] {
			gone = append(gone, name)
		}
	}
	err := w.portions(ctx, t.Table, len(gone), func(i int) error {
		w.flush(t.Table, gone[i])
		return nil
	})
	if err != nil {
		return err
	}
	return w.portions(ctx, t.Table, len(gone), func(i int) error {
		w.remove(t.Table, gone[i])
		return nil
	})
}
