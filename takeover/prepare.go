package takeover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// shield is the chain of the table nat that excepts what the proxy has caught.
const shield = ownPrefix + "SHIELD"

// Prepare keeps apart what would not get on together: the proxy of userspace mode and
// the translations of others. It comes before anything of ours is written, and does
// nothing where that proxy neither comes nor goes.
func (t *Taker) Prepare(ctx context.Context) error {
	if t.cfg.Mode == Userspace {
		return t.raiseShields(ctx)
	}
	return t.pauseProxy(ctx)
}

// raiseShields excepts packets with the mark of the proxy from everybody's
// translation.
func (t *Taker) raiseShields(ctx context.Context) error {
	mark := uint32(1) << t.cfg.Userspace.RouteBit
	var errs []error
	if t.cfg.NFT != nil {
		errs = append(errs, t.cfg.NFT.Shield(mark))
	}
	kube := kubeProxy()
	translates := func(c xt.ChainRef) bool {
		return c.Table == xt.NAT && (strings.HasPrefix(c.Name, ownPrefix) || kube.Chain(c))
	}
	for _, tool := range t.cfg.Tools {
		all, err := tool.Run.Chains(ctx, tool.Family)
		if err == nil && slices.ContainsFunc(all, translates) {
			err = raiseShield(ctx, tool, mark)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", tool.Name, err))
		}
	}
	return errors.Join(errs...)
}

func raiseShield(ctx context.Context, tool Tool, mark uint32) error {
	have, err := tool.Run.Save(ctx, tool.Family)
	if err != nil {
		return err
	}
	w := xt.TableRestore{Table: xt.NAT, Write: []xt.Chain{{
		Name: shield, Rules: []xt.Rule{{Match: []xt.Match{xt.MarkIs{Value: mark, Mask: mark}}, Target: xt.Accept{}}},
	}}}
	for _, builtin := range []string{"PREROUTING", "OUTPUT"} {
		h := xt.Hook{Table: xt.NAT, Builtin: builtin, Chain: shield}
		for range have.Hooks[h] {
			w.DelHooks = append(w.DelHooks, h) // it has to be the first rule
		}
		w.AddHooks = append(w.AddHooks, h)
	}
	return tool.Run.Restore(ctx, &xt.Restore{Family: tool.Family, Tables: []xt.TableRestore{w}})
}

// lowerShields removes what raiseShields has added.
func (t *Taker) lowerShields(ctx context.Context, looks []look) error {
	var errs []error
	var r Result // it was ours, and does not count
	for _, l := range looks {
		if err := t.discard(ctx, l.tool, l.shield, &r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.tool.Name, err))
		}
	}
	return errors.Join(errs...)
}

func shieldOwner() xt.Owner {
	is := func(c xt.ChainRef) bool { return c == xt.ChainRef{Table: xt.NAT, Name: shield} }
	return xt.Owner{Chain: is, Entry: is}
}

// pauseProxy has first packets dropped that the proxy of userspace mode would catch:
// translated as well, they would be its connections with an address it does not know.
func (t *Taker) pauseProxy(ctx context.Context) error {
	sets, err := t.cfg.Kernel.Sets(ctx, userspace.SetPrefix)
	if err != nil {
		return fmt.Errorf("look for a proxy of userspace mode: %w", err)
	}
	if len(sets) == 0 {
		return nil
	}
	var errs []error
	for _, tool := range t.cfg.Tools {
		errs = append(errs, pause(ctx, tool))
	}
	return errors.Join(errs...)
}

func pause(ctx context.Context, tool Tool) error {
	all, err := tool.Run.Chains(ctx, tool.Family)
	if err != nil {
		return err
	}
	w := xt.TableRestore{Table: xt.Mangle}
	for _, name := range userspace.CatchChains() {
		if !slices.Contains(all, xt.ChainRef{Table: xt.Mangle, Name: name}) {
			return nil // no proxy here
		}
		w.Write = append(w.Write, xt.Chain{Name: name, Rules: []xt.Rule{{Target: xt.DropPacket{}}}})
	}
	return tool.Run.Restore(ctx, &xt.Restore{Family: tool.Family, Tables: []xt.TableRestore{w}})
}

// A Plane is the dataplane in force, and starts the removal when its first Sync has
// succeeded.
type Plane struct {
	service.Dataplane
	taker    *Taker
	prepared bool
	inForce  chan struct{}
	released bool
}

// NewPlane wraps a dataplane. t is its own from here on.
func NewPlane(d service.Dataplane, t *Taker) *Plane {
	return &Plane{Dataplane: d, taker: t, inForce: make(chan struct{})}
}

// Sync implements [service.Dataplane].
func (p *Plane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	if !p.prepared {
		p.prepared = true
		if err := p.taker.Prepare(ctx); err != nil {
			p.taker.cfg.Log.Warn("cannot keep apart what another proxy has left and what is about to be in force; connections may be lost until it is removed", "err", err)
		}
	}
	r, err := p.Dataplane.Sync(ctx, snap)
	if err == nil && !p.released {
		p.released = true
		close(p.inForce)
	}
	return r, err
}
