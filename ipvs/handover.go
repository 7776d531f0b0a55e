package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// AddressSets returns the names of the sets of addresses that are on the device.
func AddressSets() []string {
	var out []string
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		out = append(out, setName(f, useNames()[0]), setName(f, useNames()[1]))
	}
	return out
}

// RouteChain returns a chain of the table mangle that this mode has, and iptables mode
// as long as connections of this one have not ended.
func RouteChain() string { return chainRoute }

// OldConnections returns the chains of the table mangle as they are when another
// dataplane has taken over: connections that are open are still routed to their
// virtual servers, and new ones meet nothing.
func OldConnections(cfg Config, f service.Family) []xt.Chain {
	fam := family{planner: newPlanner(cfg, &service.Node{}), f: f}
	if !fam.routed() {
		return []xt.Chain{{Name: chainPre}, {Name: chainOut}}
	}
	mark := cfg.routeMark()
	return []xt.Chain{
		{Name: chainPre, Rules: []xt.Rule{
			rule(xt.Return{}, isDNAT),
			rule(xt.Return{}, isNew),
			rule(xt.OrMark{Bits: mark}, fam.in(inVIP)),
		}},
		{Name: chainOut, Rules: []xt.Rule{
			rule(xt.ClearMark{Bits: mark}, xt.ViaIPVS{}, xt.MarkIs{Value: mark, Mask: mark}),
			rule(xt.Return{}, xt.ViaIPVS{}),
			rule(xt.Return{}, isDNAT),
			rule(xt.Return{}, isNew),
			rule(xt.OrMark{Bits: mark}, fam.in(inVIP)),
		}},
	}
}

// follows reports whether somebody else serves, whose place is taken.
func (d *Dataplane) follows(ctx context.Context) bool {
	return d.cfg.VIPMode == Routed && d.cfg.Follows != nil && d.cfg.Follows(ctx)
}

// replace puts everything in force in the place of another proxy. So rules come after
// what they lead to: they take the place of rules that lead elsewhere, and without them
// nothing is routed to virtual servers. Where there is no other proxy they have to come
// first: virtual servers for node ports are reached without them, and answers that are
// not masqueraded are lost. Addresses that kube-proxy has given the node stay routed
// there until then.
func (d *Dataplane) replace(ctx context.Context, t *change) (r service.Report, err error) {
	r.Resynced = true
	if _, err := d.makeMissing(ctx); err != nil {
		return r, err
	}
	d.replacing = &replacement{}
	err = d.read(ctx)
	captured := d.replacing.captured
	d.replacing = nil
	if err != nil {
		return r, err
	}
	t.everything(d.have, d.want)
	r, err = d.settle(ctx, t)
	r.Resynced = true
	if d.have == nil {
		return r, err
	}
	if failed := d.restoreRules(ctx); failed != nil {
		d.forget()
		return r, errors.Join(err, failed)
	}
	if err != nil || !captured {
		return r, err
	}
	if err := d.read(ctx); err != nil {
		return r, err
	}
	again := newChange(nil)
	again.everything(d.have, d.want)
	more, err := d.settle(ctx, again)
	r.Added, r.Changed, r.Removed = r.Added+more.Added, r.Changed+more.Changed, r.Removed+more.Removed
	return r, err
}

// turns reports whether this mode was in force with the other VIPMode, by the routing
// rule that only one of the two has. Then rules of both are in force until addresses are
// as they are to be: packets are routed to the node either way, and what the node has as
// a whole is guarded.
func (d *Dataplane) turns(ctx context.Context) (bool, error) {
	rules, err := d.kernel.Rules(ctx, routeTable)
	if err != nil {
		return false, fmt.Errorf("ipvs: read routing rules: %w", err)
	}
	if d.cfg.VIPMode == Device || len(rules) > 0 {
		return d.cfg.VIPMode == Device && len(rules) > 0, nil
	}
	for _, f := range d.cfg.families() {
		sets, err := d.kernel.Sets(ctx, setName(f, ""))
		if err != nil {
			return false, fmt.Errorf("ipvs: read sets: %w", err)
		}
		if len(sets) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// turned takes away what only the other VIPMode needs.
func (d *Dataplane) turned(ctx context.Context) error {
	d.want.planner.turning = false
	err := d.restoreRules(ctx)
	if err == nil {
		_, err = d.makeMissing(ctx)
	}
	if err != nil {
		d.forget()
	}
	return err
}

// A replacement is noted while addresses that are routed to the node as a whole are to
// be left so.
type replacement struct {
	captured bool // there are some
}

// stays reports whether the node keeps an address as a whole for now, which it was
// given by somebody else: until our rules are there, and then as long as connections
// of the node come from it.
func (d *Dataplane) stays(a netip.Addr) (bool, error) {
	if d.replacing != nil {
		d.replacing.captured = true
		return true, nil
	}
	if d.cfg.Held == nil {
		return false, nil
	}
	if d.held == nil {
		var err error
		if d.held, err = d.cfg.Held(); err != nil {
			return false, err
		}
	}
	return d.held[a], nil
}
