package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

// A writer fills one transaction after the other from a Restore.
type writer struct {
	conn    *conn
	batch   batch
	family  xt.Family
	sets    abi.Sets
	origins []origin // of the messages of the batch
	gen     uint32   // what the transaction relies on; zero if on nothing
}

// An origin is what a message of a batch is about.
type origin struct {
	verb  string
	table xt.Table
	chain string
	rule  *xt.Rule // may be nil
}

func (o origin) String() string {
	s := o.verb
	if o.chain != "" {
		s += " " + o.chain
	}
	if o.rule != nil {
		s += " " + o.rule.Text()
	}
	return s
}

func protocolFamily(f xt.Family) uint8 {
	if f == xt.IPv6 {
		return nfprotoIPv6
	}
	return nfprotoIPv4
}

// start begins a transaction.
func (w *writer) start() {
	w.batch.reset()
	w.batch.family = protocolFamily(w.family)
	w.origins = w.origins[:0]
	w.note(origin{verb: "begin"})
	w.batch.message(msgBatchBegin, 0, 0, subsystem)
	if w.gen != 0 {
		w.batch.u32(batchGenID, w.gen)
	}
	w.batch.end()
}

func (w *writer) note(o origin) { w.origins = append(w.origins, o) }

// started reports whether anything is in the transaction.
func (w *writer) started() bool { return w.batch.count > 1 }

// size is how large the transaction is so far, in bytes.
func (w *writer) size() int { return len(w.batch.buf) }

// commit ends the transaction and has the kernel do it.
func (w *writer) commit() error {
	if !w.started() {
		return nil
	}
	w.batch.acknowledge()
	w.note(origin{verb: "COMMIT"})
	w.batch.message(msgBatchEnd, 0, 0, subsystem)
	w.batch.end()
	refused, err := w.conn.transact(&w.batch)
	if err != nil {
		return &xt.RestoreError{Family: w.family, Err: fmt.Errorf("write to nf_tables: %w", err)}
	}
	if len(refused) > 0 {
		return w.explain(refused)
	}
	return nil
}

// errChanged is ERESTART: the tables are not those that the transaction relies on.
const errChanged = syscall.ERESTART

// explain names the first message that was refused: the others may be its consequence.
func (w *writer) explain(refused []refusal) *xt.RestoreError {
	first := slices.MinFunc(refused, func(a, b refusal) int { return cmp.Compare(a.place, b.place) })
	what := w.origins[first.place]
	err := fmt.Errorf("table %s: %w", what.table, first.errno)
	if what.table == "" {
		err = first.errno
	}
	return &xt.RestoreError{
		Family: w.family, Text: what.String(), Err: err,
		Busy: first.errno == errChanged || first.errno == syscall.EAGAIN,
	}
}

// The messages of a transaction. All can be sent whether or not a chain exists, except
// for remove.

func (w *writer) table(t xt.Table) {
	w.note(origin{verb: "*" + string(t), table: t})
	w.batch.begin(msgNewTable, flagCreate)
	w.batch.text(tableName, string(t))
	w.batch.end()
}

func (w *writer) declare(t xt.Table, chain string) {
	w.note(origin{verb: "-N", table: t, chain: chain})
	w.batch.begin(msgNewChain, flagCreate)
	w.batch.text(chainTable, string(t))
	w.batch.text(chainName, chain)
	w.batch.end()
}

func (w *writer) builtin(t xt.Table, chain string, b base) {
	w.note(origin{verb: "-N", table: t, chain: chain})
	w.batch.begin(msgNewChain, flagCreate)
	w.batch.text(chainTable, string(t))
	w.batch.text(chainName, chain)
	hook := w.batch.nest(chainHook)
	w.batch.u32(hookNumber, b.hook)
	w.batch.u32(hookPrio, uint32(b.priority))
	w.batch.close(hook)
	w.batch.text(chainType, b.kind)
	w.batch.end()
}

func (w *writer) flush(t xt.Table, chain string) {
	w.note(origin{verb: "-F", table: t, chain: chain})
	w.batch.begin(msgDelRule, 0)
	w.batch.text(ruleTable, string(t))
	w.batch.text(ruleChain, chain)
	w.batch.end()
}

func (w *writer) remove(t xt.Table, chain string) {
	w.note(origin{verb: "-X", table: t, chain: chain})
	w.batch.begin(msgDelChain, 0)
	w.batch.text(chainTable, string(t))
	w.batch.text(chainName, chain)
	w.batch.end()
}

// add appends a rule to a chain, or puts it at its head.
func (w *writer) add(t xt.Table, chain string, r *xt.Rule, head bool) error {
	o, flags := origin{"-A", t, chain, r}, uint16(flagCreate|flagAppend)
	if head {
		o.verb, flags = "-I", flagCreate
	}
	encoded, err := abi.Encode(w.family, r, w.sets)
	if err != nil {
		return fmt.Errorf("%v table %s: %s: %w", w.family, t, o, err)
	}
	w.note(o)
	b := &w.batch
	b.begin(msgNewRule, flags)
	b.text(ruleTable, string(t))
	b.text(ruleChain, chain)
	at := b.nest(ruleExprs)
	if err := b.exprs(&encoded); err != nil {
		return fmt.Errorf("%v table %s: %s: %w", w.family, t, o, err)
	}
	if len(b.buf)-at > maxAttr {
		return fmt.Errorf("%v table %s: %s: %w: too long", w.family, t, o, abi.ErrNotEncodable)
	}
	b.close(at)
	if encoded.Proto != 0 { // compat expressions want to know
		at := b.nest(ruleCompat)
		b.u32(compatProto, uint32(encoded.Proto))
		b.u32(compatFlags, 0)
		b.close(at)
	}
	b.end()
	return nil
}

// drop deletes the rule with a handle.
func (w *writer) drop(t xt.Table, chain string, handle uint64, r *xt.Rule) {
	w.note(origin{"-D", t, chain, r})
	w.batch.begin(msgDelRule, 0)
	w.batch.text(ruleTable, string(t))
	w.batch.text(ruleChain, chain)
	w.batch.u64(ruleHandle, handle)
	w.batch.end()
}

// fill adds the rules of chains that are empty or were flushed.
func (w *writer) fill(t xt.Table, chains []xt.Chain) error {
	for i := range chains {
		for j := range chains[i].Rules {
			if err := w.add(t, chains[i].Name, &chains[i].Rules[j], false); err != nil {
				return err
			}
		}
	}
	return nil
}

// change adds everything that one table needs to the transaction. All chains of the
// table are emptied before one is deleted, so that what they lead to can go.
func (w *writer) change(t *xt.TableRestore, old *hooks) error {
	w.table(t.Table)
	for i := range t.Write {
		w.declare(t.Table, t.Write[i].Name)
	}
	for _, name := range t.Delete {
		w.declare(t.Table, name)
	}
	for i := range t.Write {
		w.flush(t.Table, t.Write[i].Name)
	}
	for _, name := range t.Delete {
		w.flush(t.Table, name)
	}
	if err := errors.Join(w.fill(t.Table, t.Write), w.rehook(t, old)); err != nil {
		return err
	}
	for _, name := range t.Delete {
		w.remove(t.Table, name)
	}
	return nil
}

// rehook deletes and adds hooks. Those that are added go to the head of their chain in
// the order given.
func (w *writer) rehook(t *xt.TableRestore, old *hooks) error {
	for _, h := range t.DelHooks {
		handle, ok := old.take(h)
		rule := h.Rule()
		if !ok {
			return &xt.RestoreError{Family: w.family, Text: "-D " + h.Builtin + " " + rule.Text(), Err: syscall.ENOENT}
		}
		w.drop(h.Table, h.Builtin, handle, &rule)
	}
	for _, h := range slices.Backward(t.AddHooks) {
		if !old.builtin(h) {
			b, ok := baseOf(t.Table, h.Builtin)
			if !ok {
				return fmt.Errorf("%w: built-in chain %s of table %s", abi.ErrNotEncodable, h.Builtin, t.Table)
			}
			w.builtin(t.Table, h.Builtin, b)
			old.exists[xt.ChainRef{Table: t.Table, Name: h.Builtin}] = true
		}
		rule := h.Rule()
		if err := w.add(t.Table, h.Builtin, &rule, true); err != nil {
			return err
		}
	}
	return nil
}

// A base is where the kernel calls a built-in chain.
type base struct {
	kind     string
	hook     uint32
	priority int32
}

// baseOf returns what iptables-nft makes of a built-in chain (xtables_ipv4 of its
// source, which IPv6 shares).
func baseOf(t xt.Table, chain string) (base, bool) {
	hooks := map[string]uint32{"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
	hook, ok := hooks[chain]
	b := base{kind: "filter", hook: hook}
	switch t {
	case xt.Filter:
		ok = ok && hook >= 1 && hook <= 3
	case xt.Mangle:
		b.priority = -150
		if chain == "OUTPUT" {
			b.kind = "route"
		}
	case xt.NAT:
		b.kind, b.priority = "nat", -100
		if chain == "INPUT" || chain == "POSTROUTING" {
			b.priority = 100
		}
		ok = ok && chain != "FORWARD"
	default:
		return base{}, false
	}
	return b, ok
}

// once writes everything in one transaction, which is more than the callers ask for:
// they ask for one by table.
func (w *writer) once(ctx context.Context, r *xt.Restore) error {
	return w.retry(ctx, r.Tables, func(old *hooks) error {
		w.start()
		for i := range r.Tables {
			if err := w.change(&r.Tables[i], old); err != nil {
				return err
			}
		}
		return w.commit()
	})
}

// maxTries is how often a transaction is tried that relies on what others change.
const maxTries = 20

// retry looks for hooks that tables change, and calls do until nobody else has changed
// anything between the two.
func (w *writer) retry(ctx context.Context, tables []xt.TableRestore, do func(old *hooks) error) error {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return &xt.RestoreError{Family: w.family, Err: err}
		}
		old, gen, err := w.conn.hooks(ctx, w.family, tables)
		if err != nil {
			return &xt.RestoreError{Family: w.family, Err: fmt.Errorf("look for hooks: %w", err)}
		}
		w.gen = gen
		err = do(old)
		if !errors.Is(err, errChanged) || try == maxTries {
			return err
		}
	}
}
