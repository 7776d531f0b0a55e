package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A reader gathers a State from what the kernel lists.
type reader struct {
	state  *xt.State
	strays bool // a rule of somebody else leads to a chain of ours
}

// read takes the tables of f, one chain after the other: to go on with a list, the kernel
// counts from its beginning, so that a list of all rules would take time by the square
// of their number. Others may write meanwhile. They do not write our chains, so what is
// read of those is what there is.
func (s *reader) read(ctx context.Context, c *conn, f xt.Family, tables []xt.Table) error {
	var all []xt.ChainRef
	err := steadily(ctx, func() (err error) {
		all, err = c.everyChain(ctx, f, tables)
		return err
	})
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, ref := range all {
		if err := steadily(ctx, func() error { return s.chain(ctx, c, f, ref) }); err != nil {
			return fmt.Errorf("list rules of %v: %w", ref, err)
		}
	}
	return nil
}

// chain takes one chain, ours or not.
func (s *reader) chain(ctx context.Context, c *conn, f xt.Family, ref xt.ChainRef) error {
	if strings.HasPrefix(ref.Name, xt.Prefix) {
		cur := xt.ChainState{Sum: sumOffset}
		err := c.rules(ctx, f, ref.Table, ref.Name, func(r rule) error {
			cur.Rules++
			cur.Sum = addRule(cur.Sum, r.exprs)
			return nil
		})
		s.state.Chains[ref] = cur
		return err
	}
	hooks, strays := map[xt.Hook]int{}, false
	err := c.rules(ctx, f, ref.Table, ref.Name, func(r rule) error {
		jump := jumpOf(r.exprs)
		if !strings.HasPrefix(jump, xt.Prefix) {
			return nil
		}
		if h := (xt.Hook{Table: ref.Table, Builtin: ref.Name, Chain: jump}); isHook(r.exprs, h) {
			hooks[h]++
		} else {
			strays = true
		}
		return nil
	})
	maps.Copy(s.state.Hooks, hooks)
	s.strays = s.strays || strays
	return err
}

// sumOffset and sumPrime are those of 64-bit FNV-1a, here of words, for speed: a change
// of any word gives another sum.
const (
	sumOffset = 14695981039346656037
	sumPrime  = 1099511628211
)

// addRule adds a rule to a sum, without what it has counted.
func addRule(sum uint64, exprs []byte) uint64 {
	for rest := exprs; ; {
		e, more, ok := nextExpr(rest)
		if !ok {
			return addBytes(sum, []byte{'\n'})
		}
		if e.name == "counter" {
			sum = addBytes(sum, []byte(e.name))
		} else {
			sum = addBytes(sum, rest[:len(rest)-len(more)])
		}
		rest = more
	}
}

func addBytes(sum uint64, b []byte) uint64 {
	for ; len(b) >= 8; b = b[8:] {
		sum = (sum ^ binary.LittleEndian.Uint64(b)) * sumPrime
		sum ^= sum >> 32 // high bits reach the low ones
	}
	for _, c := range b {
		sum = (sum ^ uint64(c)) * sumPrime
	}
	return sum
}
