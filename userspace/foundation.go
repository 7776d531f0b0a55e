package userspace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// makeMissing makes the sets and the routing that are missing, and reports whether any
// was.
func (d *Dataplane) makeMissing(ctx context.Context) (changed bool, err error) {
	ops, err := d.missing(ctx)
	if err != nil {
		return false, fmt.Errorf("userspace: read sets and routing: %w", err)
	}
	if len(ops) == 0 {
		return false, nil
	}
	refused, err := d.kernel.Apply(ctx, ops)
	if err == nil {
		err = refusal(refused)
	}
	if err != nil {
		return false, fmt.Errorf("userspace: write sets and routing: %w", err)
	}
	return true, nil
}

// keepRules makes the rules right, and reports whether they were not.
func (d *Dataplane) keepRules(ctx context.Context) (changed bool, err error) {
	var errs []error
	for _, f := range d.cfg.families() {
		wrote, err := d.rules.Keep(ctx, d.want.Rules(xt.Family(f)))
		changed = changed || wrote
		if err != nil {
			errs = append(errs, fmt.Errorf("userspace: %w", err))
		}
	}
	return changed, errors.Join(errs...)
}

// missing returns what has to be made.
func (d *Dataplane) missing(ctx context.Context) ([]kernel.Op, error) {
	var ops []kernel.Op
	rules, err := d.kernel.Rules(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	routes, err := d.kernel.Routes(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	for _, f := range d.cfg.families() {
		have, err := d.kernel.Sets(ctx, setPrefix(f))
		if err != nil {
			return nil, err
		}
		for id := range setID(numSets) {
			want := setOf(f, id)
			switch i := slices.IndexFunc(have, func(h kernel.Set) bool { return h.Name == want.Name }); {
			case i < 0:
				ops = append(ops, kernel.NewSet{Set: want})
			case have[i].Type != want.Type:
				return nil, fmt.Errorf("set %s is of type %s, want %s; destroy it", want.Name, have[i].Type, want.Type)
			}
		}
		if to := everywhere(f); !slices.Contains(routes, to) {
			ops = append(ops, kernel.AddRoute{Table: routeTable, To: to})
		}
		mark := d.cfg.routeMark()
		want := kernel.Rule{Family: f, Priority: rulePriority, Mark: mark, Mask: mark, Table: routeTable}
		there := false
		for _, r := range rules {
			switch {
			case r == want && !there:
				there = true
			case r.Family == f:
				ops = append(ops, kernel.DelRule{Rule: r})
			}
		}
		if !there {
			ops = append(ops, kernel.AddRule{Rule: want})
		}
	}
	return ops, nil
}

// everywhere is the route of the table: whatever comes by it is for the node.
func everywhere(f service.Family) netip.Prefix { return netip.PrefixFrom(f.Any(), 0) }

// A Watcher tells of changes of a device and a routing table: [kernel.Linux].
type Watcher interface {
	Watch(ctx context.Context, device string, table uint32, changed func()) error
}

// Watch calls changed when w tells of a change of our routing table or the rules
// that lead there, also when it is we who change them, until ctx is done.
func Watch(ctx context.Context, w Watcher, changed func()) error {
	const none = "fairlead-none" // there is no device that we have
	return w.Watch(ctx, none, routeTable, changed)
}
