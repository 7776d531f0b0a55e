package xt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// sealLength is the length of the name of a seal.
const sealLength = len(Prefix) + 16

// Seal adds an empty chain to each of the tables whose name is a hash of all rules
// of r. Where the chain is found the others are as they were written, unless
// somebody edited them: so rules need not be written again after a restart.
func Seal(r *Ruleset, tables ...Table) {
	text, _ := r.AppendText(nil) // what cannot be written is refused when it is
	sum := sha256.Sum256(text)
	for _, t := range tables {
		r.Chains[ChainRef{t, Prefix + hex.EncodeToString(sum[:8])}] = nil
	}
}

// sealOf returns the name that Seal gave.
func sealOf(r *Ruleset) string {
	for ref, rules := range r.Chains {
		if len(rules) == 0 && len(ref.Name) == sealLength {
			return ref.Name
		}
	}
	return ""
}

// A Keeper keeps rulesets in force that were sealed. It remembers what the tables
// looked like when they were right, so that a look costs next to nothing where
// nothing has changed. It is not safe for concurrent use.
type Keeper struct {
	run    Runner
	prints map[Family]string              // of the tables and what is wanted, when they were found right
	sums   map[Family]map[ChainRef]uint64 // of our chains at that time
}

// NewKeeper returns a Keeper that knows nothing yet.
func NewKeeper(run Runner) *Keeper {
	k := &Keeper{run: run}
	k.Forget()
	return k
}

// Forget has the next Keep read everything.
func (k *Keeper) Forget() {
	k.prints = make(map[Family]string)
	k.sums = make(map[Family]map[ChainRef]uint64)
}

// Keep makes the tables have want and nothing else of ours, and reports whether
// they had not. Each table is changed at once, mangle first, unless nothing of ours
// is in nat: then packets have to find there what they are sent for by mangle.
func (k *Keeper) Keep(ctx context.Context, want *Ruleset) (wrote bool, err error) {
	f := want.Family
	seal := sealOf(want)
	seen := k.run.Fingerprint(f)
	print := seen + " " + seal
	if seen != "" && print == k.prints[f] {
		return false, nil
	}
	delete(k.prints, f)
	have, err := k.run.Save(ctx, f)
	if err != nil {
		return false, fmt.Errorf("read %v rules: %w", f, err)
	}
	whole := !k.edited(f, have)
	for ref := range want.Chains {
		_, ok := have.Chains[ChainRef{ref.Table, seal}]
		whole = whole && ok
	}
	r := Diff(have, want, func(string) bool { return whole })
	if r.Empty() {
		k.prints[f] = print
		k.remember(f, have)
		return false, nil
	}
	translateFirst(have, r)
	if err := k.run.Restore(ctx, r); err != nil {
		return false, fmt.Errorf("write %v rules: %w", f, err)
	}
	delete(k.sums, f)
	return true, nil
}

// translateFirst has the table nat written before all others if nothing of ours is in
// it yet.
func translateFirst(have *State, r *Restore) {
	for ref := range have.Chains {
		if ref.Table == NAT {
			return
		}
	}
	slices.SortStableFunc(r.Tables, func(a, b TableRestore) int {
		rank := func(t TableRestore) int {
			if t.Table == NAT {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
}

// Remove removes all that is ours in a family.
func (k *Keeper) Remove(ctx context.Context, f Family) error {
	have, err := k.run.Save(ctx, f)
	if err != nil {
		return fmt.Errorf("read %v rules: %w", f, err)
	}
	if err := k.run.Restore(ctx, Diff(have, &Ruleset{Family: f}, nil)); err != nil {
		return fmt.Errorf("remove %v rules: %w", f, err)
	}
	return nil
}

// remember keeps the hashes of our chains, as they are when right.
func (k *Keeper) remember(f Family, have *State) {
	sums := make(map[ChainRef]uint64, len(have.Chains))
	for ref, c := range have.Chains {
		sums[ref] = c.Sum
	}
	k.sums[f] = sums
}

// edited reports whether a chain is not as it was when it was right.
func (k *Keeper) edited(f Family, have *State) bool {
	for ref, sum := range k.sums[f] {
		if have.Chains[ref].Sum != sum {
			return true
		}
	}
	return false
}
