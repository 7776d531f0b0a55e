package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// A Mode is one of fairlead's, by the name --proxy-mode has for it.
type Mode string

// The modes.
const (
	IPTables  Mode = "iptables"
	IPVS      Mode = "ipvs"
	Userspace Mode = "userspace"
)

// A Tool is iptables of one variant, for one family.
type Tool struct {
	Name   string // for logs
	Family xt.Family
	Run    *xt.Exec   // that reads and writes every table
	InUse  bool       // the dataplane in force writes with it
	Tables []xt.Table // that the dataplane in force has rules in, if InUse
}

// Flows is connection tracking: [conntrack.Kernel].
type Flows interface {
	Purge(ctx context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (int, error)
}

// A Config says what is in force and what is to be looked at. Every field but Metrics
// is required.
type Config struct {
	Mode  Mode
	Tools []Tool // every one that is installed
	// NFT is nil where nf_tables is nobody's business.
	NFT    *Tables
	Kernel kernel.Kernel // for nobody else; one that loads no modules
	Flows  Flows

	IPVS      ipvs.Config // of the dataplane in force, or else of one that may have been
	Userspace userspace.Config

	Local   func() ([]netip.Addr, error)        // the addresses of the node
	Sockets func() (map[netip.Addr]bool, error) // the addresses that sockets of the node have
	Rehome  func(virtual, source netip.Addr) error
	Source  [service.NumFamilies]netip.Addr // of the node; zero where it has none

	Log     *slog.Logger
	Metrics *Metrics
}

// A Result counts what a pass has removed, and what it could not yet.
type Result struct {
	Tables, Chains, Jumps, Servers, Addresses, Sets int

	Draining int // virtual servers that still have connections
	Held     int // addresses that are still used
	Busy     int // sets that are still named by rules
}

// Removed is how many objects were.
func (r Result) Removed() int {
	return r.Tables + r.Chains + r.Jumps + r.Servers + r.Addresses + r.Sets
}

// plus adds up what was removed.
func (r Result) plus(o Result) Result {
	r.Tables, r.Chains, r.Jumps = r.Tables+o.Tables, r.Chains+o.Chains, r.Jumps+o.Jumps
	r.Servers, r.Addresses, r.Sets = r.Servers+o.Servers, r.Addresses+o.Addresses, r.Sets+o.Sets
	return r
}

// Pending reports whether something is to be removed later.
func (r Result) Pending() bool { return r.Draining+r.Held+r.Busy > 0 }

func (r Result) attrs() []any {
	return []any{
		"tables", r.Tables, "chains", r.Chains, "jumps", r.Jumps, "servers", r.Servers,
		"addresses", r.Addresses, "sets", r.Sets, "draining", r.Draining, "held", r.Held,
	}
}

// A Taker removes what others have left. It is not safe for concurrent use.
type Taker struct {
	cfg  Config
	told map[string]bool // chains that stay, of which the log says so

	rehomed map[netip.Addr]bool
}

// New returns a Taker that has not touched anything yet.
func New(cfg Config) *Taker {
	return &Taker{cfg: cfg, told: make(map[string]bool), rehomed: make(map[netip.Addr]bool)}
}

// ownPrefix begins the names of fairlead's chains, in every mode.
const ownPrefix = xt.Prefix

// Pass removes what can be, and goes on after a failure. It is called after what is
// ours is in force; a second call finds nothing, or what was left or has come back.
func (t *Taker) Pass(ctx context.Context) (Result, error) {
	var r Result
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if t.cfg.NFT != nil {
		n, err := t.cfg.NFT.Remove()
		r.Tables += n
		step("nf_tables", err)
	}
	looks, err := t.look(ctx)
	if err != nil {
		return r, errors.Join(append(errs, err)...)
	}
	step("another mode", t.otherModes(ctx, looks, &r)) // first: a proxy may be paused
	for _, l := range looks {
		step(l.tool.Name, t.discard(ctx, l.tool, l.kubeProxy, &r))
	}
	step("ipvs", t.predecessors(ctx, &r))
	if len(errs) == 0 {
		step("shield", t.lowerShields(ctx, looks)) // when nobody translates any more
	}
	t.cfg.Metrics.passed(r)
	return r, errors.Join(errs...)
}

// A look is what there is in the tables of one tool. To read them is what a pass costs.
type look struct {
	tool                       Tool
	foreign, kubeProxy, shield *xt.Leavings
}

func (t *Taker) look(ctx context.Context) ([]look, error) {
	var out []look
	for _, tool := range t.cfg.Tools {
		l, err := tool.Run.Leavings(ctx, tool.Family, t.foreign(tool), kubeProxy(), shieldOwner())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tool.Name, err)
		}
		out = append(out, look{tool: tool, foreign: l[0], kubeProxy: l[1], shield: l[2]})
	}
	return out, nil
}

// discard removes the chains of an owner.
func (t *Taker) discard(ctx context.Context, tool Tool, l *xt.Leavings, r *Result) error {
	for _, ref := range l.Kept {
		if what := tool.Name + " " + ref.String(); !t.told[what] {
			t.told[what] = true
			t.cfg.Log.Info("a chain of another proxy stays, because a rule of somebody else leads to it", "tool", tool.Name, "chain", ref)
		}
	}
	if l.Empty() {
		return nil
	}
	if err := tool.Run.Discard(ctx, l); err != nil {
		return err
	}
	r.Chains += len(l.Chains)
	r.Jumps += l.Jumps()
	return nil
}

// foreign tells the chains of fairlead that the dataplane in force does not have, but
// for the shield.
func (t *Taker) foreign(tool Tool) xt.Owner {
	is := func(c xt.ChainRef) bool {
		return strings.HasPrefix(c.Name, ownPrefix) && c.Name != shield && !(tool.InUse && slices.Contains(tool.Tables, c.Table))
	}
	return xt.Owner{Chain: is, Entry: is}
}

// otherModes removes what fairlead has left in other modes, and with the other variant
// of iptables.
func (t *Taker) otherModes(ctx context.Context, looks []look, r *Result) error {
	busy, err := t.drainOwn(ctx, r)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range looks {
		if busy && l.tool.InUse && t.cfg.Mode == IPTables {
			errs = append(errs, t.onlyOld(ctx, l))
			continue
		}
		errs = append(errs, t.discard(ctx, l.tool, l.foreign, r))
	}
	if err := errors.Join(errs...); err != nil {
		return err // sets cannot go while rules name them
	}
	if t.cfg.Mode != IPVS && !busy {
		d, err := ipvs.New(t.cfg.IPVS, t.counted(r), xt.NoRules{}, nil)
		if err == nil {
			err = d.Cleanup(ctx)
		}
		errs = append(errs, t.later(err, r))
	}
	if t.cfg.Mode != Userspace {
		d, err := userspace.New(t.cfg.Userspace, t.counted(r), xt.NoRules{}, nil)
		if err == nil {
			err = d.Cleanup(ctx)
		}
		errs = append(errs, t.later(err, r))
	}
	return errors.Join(errs...)
}

// drainOwn removes the virtual servers that fairlead has left, unless it is in ipvs
// mode, and reports whether some are left.
func (t *Taker) drainOwn(ctx context.Context, r *Result) (busy bool, err error) {
	if t.cfg.Mode == IPVS {
		return false, nil
	}
	keys, err := ipvs.Owned(ctx, t.cfg.Kernel)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	all, err := t.cfg.Kernel.Servers(ctx)
	if err != nil {
		return false, fmt.Errorf("read virtual servers: %w", err)
	}
	for key := range all {
		if !keys[key] {
			delete(all, key)
		}
	}
	d, err := t.drain(ctx, all)
	r.Servers += d.removed
	r.Draining += len(d.left)
	if err != nil {
		return true, fmt.Errorf("remove virtual servers: %w", err)
	}
	return len(d.left) > 0, t.forgetFlows(ctx, d.flows)
}

// onlyOld leaves of the rules of ipvs mode what its connections need that are still
// open. New ones meet none of it.
func (t *Taker) onlyOld(ctx context.Context, l look) error {
	rules := ipvs.OldConnections(t.cfg.IPVS, service.Family(l.tool.Family))
	w := xt.TableRestore{Table: xt.Mangle}
	for _, c := range rules {
		if !slices.Contains(l.foreign.Chains, xt.ChainRef{Table: xt.Mangle, Name: c.Name}) {
			return nil // no rules of ipvs mode
		}
		w.Write = append(w.Write, c)
	}
	return l.tool.Run.Restore(ctx, &xt.Restore{Family: l.tool.Family, Tables: []xt.TableRestore{w}})
}

// message tells an operator what was removed.
func message(r Result) string {
	return fmt.Sprintf("what another proxy or mode has left was removed: %d tables, %d chains, %d virtual servers, %d addresses, %d sets",
		r.Tables, r.Chains, r.Servers, r.Addresses, r.Sets)
}
