package xt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Check reports everything in r that the tools would refuse or misread.
func (r *Restore) Check() error { return r.check() }

func (r *Restore) check() error {
	var errs []error
	for i := range r.Tables {
		t := &r.Tables[i]
		errs = append(errs, t.check(r.Family)...)
	}
	return errors.Join(errs...)
}

func (t *TableRestore) check(f Family) (errs []error) {
	seen := make(map[string]bool, len(t.Write)+len(t.Delete))
	own := func(name string) {
		if err := checkOwnName(name); err != nil {
			errs = append(errs, fmt.Errorf("%v table %s: %w", f, t.Table, err))
		}
		if seen[name] {
			errs = append(errs, fmt.Errorf("%v table %s: chain %s is written or deleted twice", f, t.Table, name))
		}
		seen[name] = true
	}
	for _, c := range t.Write {
		own(c.Name)
		for j := range c.Rules {
			if err := c.Rules[j].check(f, t.Table); err != nil {
				errs = append(errs, fmt.Errorf("%v table %s chain %s rule %d: %w", f, t.Table, c.Name, j+1, err))
			}
		}
	}
	for _, name := range t.Delete {
		own(name)
	}
	for _, h := range slices.Concat(t.DelHooks, t.AddHooks) {
		if err := h.check(t.Table); err != nil {
			errs = append(errs, fmt.Errorf("%v hook %v: %w", f, h, err))
		}
	}
	for _, s := range t.DelStrays {
		if s.Table != t.Table || checkChainName(s.Parent) != nil || strings.ContainsAny(s.Rule, "\r\n") {
			errs = append(errs, fmt.Errorf("%v table %s: stray rule in %q", f, t.Table, s.Parent))
		}
	}
	return errs
}

func (r *Rule) check(f Family, t Table) error {
	var used [slotExtension]bool
	proto := r.protocol()
	for _, m := range r.Match {
		if err := m.check(f); err != nil {
			return err
		}
		if s := m.slot(); s < slotExtension {
			if used[s] {
				return errors.New("the same field is matched twice")
			}
			used[s] = true
		}
		if other := protocolOf(m); other != 0 && other != proto {
			return fmt.Errorf("protocol is both %v and %v", proto, other)
		}
	}
	if r.Target == nil {
		return nil
	}
	return r.Target.check(f, t, proto)
}

func (h Hook) check(t Table) error {
	if h.Table != t {
		return fmt.Errorf("is not for table %s", t)
	}
	if !slices.Contains(builtins(t), h.Builtin) {
		return fmt.Errorf("table %s has no built-in chain %s", t, h.Builtin)
	}
	return checkOwnName(h.Chain)
}

// builtins returns the built-in chains of t, nil if t is no table we know.
func builtins(t Table) []string {
	switch t {
	case Filter:
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	case NAT:
		return []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
	case Mangle:
		return []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	}
	return nil
}

func checkOwnName(name string) error {
	if !strings.HasPrefix(name, Prefix) || len(name) == len(Prefix) {
		return fmt.Errorf("chain %q does not start with %s", name, Prefix)
	}
	return checkChainName(name)
}

func checkChainName(name string) error {
	if len(name) > MaxChainName {
		return fmt.Errorf("chain name %q is longer than %d", name, MaxChainName)
	}
	if !isWord(name) || name[0] == '-' || name[0] == '!' || name[0] == ':' {
		return fmt.Errorf("chain name %q has characters that cannot be written", name)
	}
	return nil
}

// Check reports whether the kernel could take r; see AppendText.
func (r *Ruleset) Check() error {
	var errs []error
	for _, h := range r.Hooks {
		if err := h.check(h.Table); err != nil {
			errs = append(errs, fmt.Errorf("%v hook %v: %w", r.Family, h, err))
		} else if _, ok := r.Chains[ChainRef{h.Table, h.Chain}]; !ok {
			errs = append(errs, fmt.Errorf("%v hook %v: the chain is not declared", r.Family, h))
		}
	}
	d := depths{r: r, depth: make(map[ChainRef]int, len(r.Chains))}
	for _, t := range r.tables() {
		if builtins(t) == nil {
			errs = append(errs, fmt.Errorf("%v: unknown table %q", r.Family, t))
		}
		for _, ref := range r.sorted(t) {
			d.of(ref)
		}
	}
	return errors.Join(append(errs, d.errs...)...)
}

// depths finds how deep chains nest, jumps that lead nowhere, and loops.
type depths struct {
	r     *Ruleset
	depth map[ChainRef]int // -1 while being looked at
	order []ChainRef       // every chain after those it jumps to
	errs  []error
}

// of returns how many own chains nest from ref downwards, ref included.
func (d *depths) of(ref ChainRef) int {
	if n, ok := d.depth[ref]; ok {
		if n < 0 {
			d.errs = append(d.errs, fmt.Errorf("%v chain %v: jumps in a loop", d.r.Family, ref))
			return 0
		}
		return n
	}
	d.depth[ref] = -1
	deepest := 0
	for i, rule := range d.r.Chains[ref] {
		next, ok := rule.next(ref.Table)
		if !ok || !strings.HasPrefix(next.Name, Prefix) {
			continue
		}
		if _, ok := d.r.Chains[next]; !ok {
			d.errs = append(d.errs, fmt.Errorf("%v chain %v rule %d: jumps to %s, which is not declared",
				d.r.Family, ref, i+1, next.Name))
			continue
		}
		deepest = max(deepest, d.of(next))
	}
	d.depth[ref] = deepest + 1
	d.order = append(d.order, ref)
	if deepest+1 == MaxDepth { // the built-in chain comes on top; said once, not again by every chain above
		d.errs = append(d.errs, fmt.Errorf("%v chain %v: nested deeper than %d", d.r.Family, ref, MaxDepth))
	}
	return deepest + 1
}

// next returns the chain r goes to, if any.
func (r *Rule) next(t Table) (ChainRef, bool) {
	switch target := r.Target.(type) {
	case Jump:
		return ChainRef{t, target.Chain}, true
	case Goto:
		return ChainRef{t, target.Chain}, true
	}
	return ChainRef{}, false
}
