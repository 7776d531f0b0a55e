package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A rule is one that was read, as far as it is of interest. Its slices are valid until
// the next is read.
type rule struct {
	chain  []byte
	handle uint64
	exprs  []byte
}

// request returns a batch with one message about a table and perhaps a chain of it.
func request(f xt.Family, typ, flags uint16, table xt.Table, tableAttr uint16, chain string, chainAttr uint16) *batch {
	b := &batch{family: protocolFamily(f)}
	b.begin(typ, flags)
	if table != "" {
		b.text(tableAttr, string(table))
	}
	if chain != "" {
		b.text(chainAttr, chain)
	}
	b.end()
	return b
}

// generation returns what every change of nf_tables in this network namespace makes
// larger.
func (c *conn) generation(ctx context.Context) (gen uint32, err error) {
	b := &batch{}
	b.begin(msgGetGen, flagAck)
	b.end()
	err = c.ask(ctx, b, func(m message) error {
		if id := attr(m.attrs(), genID); m.typ == msgNewGen && len(id) == 4 {
			gen = binary.BigEndian.Uint32(id)
		}
		return nil
	})
	return gen, err
}

// quiet waits until no transaction is under way, and returns the generation then. The
// kernel makes a transaction visible bit by bit after it has taken a new generation;
// an empty one of ours has to wait for that.
func (c *conn) quiet(ctx context.Context) (uint32, error) {
	b := &batch{}
	b.message(msgBatchBegin, 0, 0, subsystem)
	b.end()
	b.message(msgBatchEnd, 0, 0, subsystem)
	b.end()
	if err := c.open(); err != nil {
		return 0, err
	}
	if _, err := c.send(b); err != nil {
		c.close()
		return 0, err
	}
	return c.generation(ctx)
}

// has reports whether a chain exists.
func (c *conn) has(ctx context.Context, f xt.Family, t xt.Table, chain string) (bool, error) {
	b := request(f, msgGetChain, flagAck, t, chainTable, chain, chainName)
	err := c.ask(ctx, b, func(message) error { return nil })
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// everyChain returns the chains of some tables of f. It fails with errInterrupted if
// anything changes meanwhile: the kernel finds its way back into a list by counting, so
// that it skips some when others go, and does not always notice.
func (c *conn) everyChain(ctx context.Context, f xt.Family, tables []xt.Table) (out []xt.ChainRef, err error) {
	before, err := c.quiet(ctx)
	if err != nil {
		return nil, err
	}
	b := request(f, msgGetChain, flagDump, "", 0, "", 0)
	err = c.ask(ctx, b, func(m message) error {
		if m.typ != msgNewChain {
			return nil
		}
		table := cString(attr(m.attrs(), chainTable))
		i := slices.IndexFunc(tables, func(t xt.Table) bool { return string(t) == string(table) })
		if i >= 0 {
			out = append(out, xt.ChainRef{Table: tables[i], Name: string(cString(attr(m.attrs(), chainName)))})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	after, err := c.quiet(ctx)
	if err == nil && after != before {
		err = errInterrupted
	}
	return out, err
}

// rules calls each for every rule of a chain, in their order. A chain that does not exist
// has none.
func (c *conn) rules(ctx context.Context, f xt.Family, t xt.Table, chain string, each func(r rule) error) error {
	b := request(f, msgGetRule, flagDump, t, ruleTable, chain, ruleChain)
	err := c.ask(ctx, b, func(m message) error {
		if m.typ != msgNewRule {
			return nil
		}
		var r rule
		var table []byte
		for rest := m.attrs(); ; {
			typ, data, more, ok := nextAttr(rest)
			if !ok {
				break
			}
			switch rest = more; typ {
			case ruleTable:
				table = cString(data)
			case ruleChain:
				r.chain = cString(data)
			case ruleHandle:
				r.handle = binary.BigEndian.Uint64(data)
			case ruleExprs:
				r.exprs = data
			}
		}
		if string(table) != string(t) || string(r.chain) != chain {
			return nil // a kernel that cannot choose
		}
		return each(r)
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// steadily calls read until nothing changed while it read.
func steadily(ctx context.Context, read func() error) error {
	for try := 1; ; try++ {
		err := read()
		if (errors.Is(err, errInterrupted) || errors.Is(err, syscall.EINTR)) && try < maxTries && ctx.Err() == nil {
			continue
		}
		return err
	}
}

// An expression is one of a rule.
type expression struct {
	name string
	data []byte
}

// nextExpr returns the first expression of b, and the rest.
func nextExpr(b []byte) (e expression, rest []byte, ok bool) {
	_, elem, rest, ok := nextAttr(b)
	if !ok {
		return expression{}, nil, false
	}
	return expression{string(cString(attr(elem, exprName))), attr(elem, exprData)}, rest, true
}

// jumpOf returns the chain that the verdict of a rule leads to, empty if none.
func jumpOf(exprs []byte) string {
	for rest := exprs; ; {
		e, more, ok := nextExpr(rest)
		if !ok {
			return ""
		}
		rest = more
		if e.name == "immediate" {
			verdict := attr(attr(e.data, immediateData), dataVerdict)
			if chain := cString(attr(verdict, verdictChain)); len(chain) > 0 {
				return string(chain)
			}
		}
	}
}

// isHook reports whether a rule is h, whatever it has counted.
func isHook(exprs []byte, h xt.Hook) bool {
	comment, found := h.Rule().Comment, 0
	for rest := exprs; ; found++ {
		e, more, ok := nextExpr(rest)
		if !ok {
			return found == 3
		}
		rest = more
		switch {
		case found == 0 && e.name == "match" && string(cString(attr(e.data, compatName))) == "comment" &&
			string(cString(attr(e.data, compatInfo))) == comment:
		case found == 1 && e.name == "counter":
		case found == 2 && e.name == "immediate" && isJump(e.data, h.Chain):
		default:
			return false
		}
	}
}

func isJump(immediate []byte, chain string) bool {
	verdict := attr(attr(immediate, immediateData), dataVerdict)
	code := attr(verdict, verdictCode)
	const jump = -codeJump
	return len(code) == 4 && -int32(binary.BigEndian.Uint32(code)) == jump && string(cString(attr(verdict, verdictChain))) == chain
}

// hooks are built-in chains, and the handles of the hooks in them.
type hooks struct {
	exists  map[xt.ChainRef]bool
	handles map[xt.Hook][]uint64
}

func (h *hooks) builtin(x xt.Hook) bool {
	return h.exists[xt.ChainRef{Table: x.Table, Name: x.Builtin}]
}

// take returns the handle of x once.
func (h *hooks) take(x xt.Hook) (uint64, bool) {
	all := h.handles[x]
	if len(all) == 0 {
		return 0, false
	}
	h.handles[x] = all[1:]
	return all[0], true
}

// hooks looks for the hooks that tables are to change, and returns the generation in
// which it has found them: zero if there are none to change.
func (c *conn) hooks(ctx context.Context, f xt.Family, tables []xt.TableRestore) (*hooks, uint32, error) {
	var all []xt.Hook
	for i := range tables {
		all = slices.Concat(all, tables[i].DelHooks, tables[i].AddHooks)
	}
	if len(all) == 0 {
		return &hooks{}, 0, nil
	}
	gen, err := c.quiet(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("generation: %w", err)
	}
	found, err := c.find(ctx, f, all)
	return found, gen, err
}

// find looks for hooks.
func (c *conn) find(ctx context.Context, f xt.Family, all []xt.Hook) (*hooks, error) {
	out := &hooks{exists: map[xt.ChainRef]bool{}, handles: map[xt.Hook][]uint64{}}
	for _, h := range all {
		ref := xt.ChainRef{Table: h.Table, Name: h.Builtin}
		if _, ok := out.exists[ref]; ok {
			continue
		}
		exists, err := c.has(ctx, f, ref.Table, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("chain %v: %w", ref, err)
		}
		out.exists[ref] = exists
		var handles map[xt.Hook][]uint64
		err = steadily(ctx, func() error {
			handles = map[xt.Hook][]uint64{}
			return c.findIn(ctx, f, ref, all, handles)
		})
		if err != nil {
			return nil, fmt.Errorf("chain %v: %w", ref, err)
		}
		maps.Copy(out.handles, handles)
	}
	return out, nil
}

func (c *conn) findIn(ctx context.Context, f xt.Family, ref xt.ChainRef, all []xt.Hook, out map[xt.Hook][]uint64) error {
	return c.rules(ctx, f, ref.Table, ref.Name, func(r rule) error {
		jump := jumpOf(r.exprs)
		if !strings.HasPrefix(jump, xt.Prefix) {
			return nil
		}
		h := xt.Hook{Table: ref.Table, Builtin: ref.Name, Chain: jump}
		if slices.Contains(all, h) && isHook(r.exprs, h) {
			out[h] = append(out[h], r.handle)
		}
		return nil
	})
}
