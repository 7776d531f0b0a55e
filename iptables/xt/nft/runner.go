package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

// Config configures a [Runner].
type Config struct {
	// Tool does what a Runner does not: rules it cannot encode, and stray rules.
	Tool   xt.Runner
	Tables []xt.Table // what Save reads; nil means nat and filter
	Sets   abi.Sets   // finds ipsets; nil leaves rules with sets to Tool
	Log    *slog.Logger
}

// A Runner is the tables of iptables-nft, written and read without the tools. It keeps
// a socket open, in the network namespace in which it was first used. It implements
// [xt.Runner].
type Runner struct {
	cfg Config

	mu   sync.Mutex
	conn *conn
	buf  []byte             // kept between calls
	knew map[xt.Family]bool // nothing was read since something was written: who asks knows what is there
	said bool               // that the tool is needed
}

var _ xt.Runner = (*Runner)(nil)

// New returns a Runner that has not touched the kernel yet.
func New(cfg Config) *Runner {
	if cfg.Tables == nil {
		cfg.Tables = []xt.Table{xt.NAT, xt.Filter}
	}
	return &Runner{cfg: cfg, conn: newConn(), knew: map[xt.Family]bool{}}
}

// keptBuffer is how much memory stays allocated between calls.
const keptBuffer = 64 << 10

// Restore implements [xt.Runner]. A small r is one transaction, all tables together. Of
// a large one each table is one, as far as packets can tell: see load. Chains that are there
// as they should be are left alone by a large one, and by the first after a Save, whose
// sums do not tell that.
func (r *Runner) Restore(ctx context.Context, what *xt.Restore) error {
	if what.Empty() {
		return nil
	}
	if err := what.Check(); err != nil {
		return &xt.RestoreError{Family: what.Family, Err: err}
	}
	for i := range what.Tables {
		if len(what.Tables[i].DelStrays) > 0 { // they are known by the text of the tool
			return r.cfg.Tool.Restore(ctx, what)
		}
	}
	err := r.write(ctx, what)
	if errors.Is(err, abi.ErrNotEncodable) {
		r.tell(err)
		return r.cfg.Tool.Restore(ctx, what)
	}
	return err
}

// write calls the kernel. Nothing was written if the error is [abi.ErrNotEncodable],
// except for new chains that no packet comes by.
func (r *Runner) write(ctx context.Context, what *xt.Restore) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &writer{conn: r.conn, family: what.Family, sets: r.cfg.Sets}
	w.batch.buf = r.buf
	defer func() {
		r.buf = nil
		if cap(w.batch.buf) <= keptBuffer {
			r.buf = w.batch.buf[:0]
		}
	}()
	if weight(what) > little {
		return w.load(ctx, what)
	}
	if r.knew[what.Family] {
		return w.once(ctx, what)
	}
	what, err := w.spared(ctx, what)
	if err == nil && !what.Empty() {
		err = w.once(ctx, what)
	}
	if err == nil {
		r.knew[w.family] = true
	}
	return err
}

// tell says once that the tool is needed.
func (r *Runner) tell(err error) {
	r.mu.Lock()
	first := !r.said
	r.said = true
	r.mu.Unlock()
	if first && r.cfg.Log != nil {
		r.cfg.Log.Warn("some rules have to be written by iptables-nft-restore, which takes longer", "err", err)
	}
}

// Save implements [xt.Runner]. The sums are of what the kernel gives back, and differ
// from those of the tool.
func (r *Runner) Save(ctx context.Context, f xt.Family) (*xt.State, error) {
	state, strays, err := r.read(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("read %v tables: %w", f, err)
	}
	if !strays {
		return state, nil
	}
	told, err := r.cfg.Tool.Save(ctx, f)
	if err != nil {
		return nil, err
	}
	state.Strays = told.Strays
	return state, nil
}

// read also reports whether there are strays, which only the tool can put into words.
func (r *Runner) read(ctx context.Context, f xt.Family) (state *xt.State, strays bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.knew, f)
	s := reader{state: &xt.State{Chains: map[xt.ChainRef]xt.ChainState{}, Hooks: map[xt.Hook]int{}}}
	err = s.read(ctx, r.conn, f, r.cfg.Tables)
	return s.state, s.strays, err
}

// Probe implements [xt.Runner].
func (r *Runner) Probe(ctx context.Context, f xt.Family, want []xt.Hook, chains map[xt.ChainRef]int) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, err := r.conn.find(ctx, f, want)
	if err != nil {
		return false, fmt.Errorf("look for %v hooks: %w", f, err)
	}
	for _, h := range want {
		if len(found.handles[h]) != 1 {
			return false, nil
		}
	}
	for ref, n := range chains {
		exists, err := r.conn.has(ctx, f, ref.Table, ref.Name)
		if err != nil || !exists {
			return false, err
		}
		rules := 0
		err = steadily(ctx, func() error {
			rules = 0
			return r.conn.rules(ctx, f, ref.Table, ref.Name, func(rule) error {
				rules++
				return nil
			})
		})
		if err != nil || rules != n {
			return false, err
		}
	}
	return true, nil
}

// Fingerprint implements [xt.Runner].
func (r *Runner) Fingerprint(f xt.Family) string { return r.cfg.Tool.Fingerprint(f) }
