package ipvs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// foundation makes sure of what does not depend on Services: sets, rules, the
// device, the routing rule. It comes before everything else, so that no address
// answers before its connections are masqueraded.
func (d *Dataplane) foundation(ctx context.Context) error {
	_, err := d.checkFoundation(ctx)
	return err
}

// checkFoundation is foundation, and reports whether something was missing.
func (d *Dataplane) checkFoundation(ctx context.Context) (changed bool, err error) {
	changed, err = d.makeMissing(ctx)
	if err != nil {
		return false, err
	}
	wrote, err := d.checkRules(ctx)
	return wrote || changed, err
}

// makeMissing makes what of the foundation is missing, apart from rules.
func (d *Dataplane) makeMissing(ctx context.Context) (changed bool, err error) {
	ops, err := d.missing(ctx)
	if err != nil {
		return false, fmt.Errorf("ipvs: read sets, device and routing rules: %w", err)
	}
	if len(ops) == 0 {
		return false, nil
	}
	refused, err := d.kernel.Apply(ctx, ops)
	if err != nil {
		d.forget()
		return false, fmt.Errorf("ipvs: write sets, device and routing rules: %w", err)
	}
	if len(refused) > 0 {
		return false, refusal(refused)
	}
	return true, nil
}

// missing returns what has to be made, and what of another mode has to go.
func (d *Dataplane) missing(ctx context.Context) ([]kernel.Op, error) {
	var ops []kernel.Op
	for _, f := range d.cfg.families() {
		have, err := d.kernel.Sets(ctx, setName(f, ""))
		if err != nil {
			return nil, err
		}
		for _, s := range sets(f) {
			i := slices.IndexFunc(have, func(h kernel.Set) bool { return h.Name == s.Name })
			switch {
			case i < 0:
				s.MaxElem = max(s.MaxElem, d.maxElem[s.Name])
				ops = append(ops, kernel.NewSet{Set: s})
			case have[i].Type != s.Type || s.Type != kernel.BitmapPort && have[i].Family != f:
				return nil, fmt.Errorf("set %s is of type %s, want %s; destroy it", s.Name, have[i].Type, s.Type)
			default:
				d.maxElem[s.Name] = have[i].MaxElem
			}
		}
	}
	dev, err := d.kernel.Device(ctx, deviceName)
	if err != nil {
		return nil, err
	}
	if !dev.Exists {
		ops = append(ops, kernel.NewDevice{Name: deviceName})
	}
	routing, err := d.missingRouting(ctx)
	return append(ops, routing...), err
}

func (d *Dataplane) missingRouting(ctx context.Context) ([]kernel.Op, error) {
	rules, err := d.kernel.Rules(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	routes, err := d.kernel.Routes(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	var ops []kernel.Op
	want := d.routingRules()
	for _, f := range d.cfg.families() {
		alias := aliasPrefix(f)
		switch there := slices.Contains(routes, alias); {
		case d.want.planner.routed() && !there:
			ops = append(ops, kernel.AddRoute{Table: routeTable, To: alias})
		case !d.want.planner.routed() && there:
			ops = append(ops, kernel.DelRoute{Table: routeTable, To: alias})
		}
	}
	for _, r := range want {
		if !slices.Contains(rules, r) {
			ops = append(ops, kernel.AddRule{Rule: r})
		}
	}
	for i, r := range rules {
		surplus := !slices.Contains(want, r) || slices.Contains(rules[:i], r)
		if d.cfg.serves(r.Family) && surplus {
			ops = append(ops, kernel.DelRule{Rule: r})
		}
	}
	return ops, nil
}

// routingRules are the rules that route marked packets by our table.
func (d *Dataplane) routingRules() []kernel.Rule {
	if !d.want.planner.routed() {
		return nil
	}
	var out []kernel.Rule
	for _, f := range d.cfg.families() {
		mark := d.cfg.routeMark()
		out = append(out, kernel.Rule{Family: f, Priority: rulePriority, Mark: mark, Mask: mark, Table: routeTable})
	}
	return out
}

// checkRules makes the rules of iptables right, and reports whether they were
// not. Where the tables have not changed since they were found right, they are
// not read.
func (d *Dataplane) checkRules(ctx context.Context) (wrote bool, err error) {
	var errs []error
	for _, f := range d.cfg.families() {
		w, err := d.rules.Keep(ctx, d.want.Rules(xt.Family(f)))
		wrote = wrote || w
		if err != nil {
			d.metrics.rulesFailed(f)
			errs = append(errs, fmt.Errorf("ipvs: %w", err))
		}
	}
	return wrote, errors.Join(errs...)
}

// restoreRules writes the rules anew, after what they depend on has changed.
func (d *Dataplane) restoreRules(ctx context.Context) error {
	_, err := d.checkRules(ctx)
	return err
}

// growSets makes the sets larger that were full.
func (d *Dataplane) growSets(ctx context.Context, refused []*kernel.OpError) error {
	full := make(map[string]kernel.AddElem)
	for _, e := range refused {
		if op, ok := e.Op.(kernel.AddElem); ok && errors.Is(e.Err, kernel.ErrSetFull) {
			full[op.Set] = op
		}
	}
	for name, op := range full {
		if err := d.grow(ctx, name, op.Type, service.FamilyOf(op.Elem.Addr)); err != nil {
			return fmt.Errorf("ipvs: make the set %s larger: %w", name, err)
		}
	}
	return nil
}

// maxMaxElem is where growing ends: more than any kernel is given memory for.
const maxMaxElem = 1 << 26

// grow replaces a set by a larger one with the same elements. Rules refer to sets
// by number, and the two change numbers, so no packet sees a set half full.
func (d *Dataplane) grow(ctx context.Context, name string, t kernel.SetType, f service.Family) error {
	size := max(d.maxElem[name], maxElem) * 2
	if size > maxMaxElem {
		return fmt.Errorf("it is full with %d elements", size/2)
	}
	elems, err := d.kernel.Elements(ctx, name)
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	larger := name + "-NEW"
	ops := []kernel.Op{kernel.NewSet{Set: kernel.Set{Name: larger, Type: t, Family: f, MaxElem: size}}}
	for _, e := range elems {
		ops = append(ops, kernel.AddElem{Set: larger, Type: t, Elem: e})
	}
	ops = append(ops, kernel.SwapSets{A: name, B: larger}, kernel.DelSet{Name: larger})
	refused, err := d.kernel.Apply(ctx, ops)
	if err == nil && len(refused) > 0 {
		err = refusal(refused)
	}
	if err != nil {
		d.forget()
		return err
	}
	d.maxElem[name] = size
	d.log.Info("a set was full and has been made larger", "set", name, "elements", size)
	return nil
}

// Cleanup implements [service.Dataplane]. It removes the virtual servers that the
// set of owned ones names, our addresses, routes, rules and sets; and the device,
// unless somebody else has an address on it.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.forget()
	d.last, d.want = nil, nil
	d.drains = newDrainer(d.cfg.DrainTimeout)
	d.rules.Forget()
	var errs []error
	for _, f := range d.cfg.families() {
		if err := d.rules.Remove(ctx, xt.Family(f)); err != nil {
			errs = append(errs, fmt.Errorf("ipvs: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // sets cannot go while rules refer to them
	}
	ops, err := d.remains(ctx)
	if err != nil {
		return fmt.Errorf("ipvs: read what is there: %w", err)
	}
	refused, err := d.kernel.Apply(ctx, ops)
	refused = slices.DeleteFunc(refused, func(e *kernel.OpError) bool { // gone by itself
		return errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ESRCH) || errors.Is(e.Err, syscall.ENODEV)
	})
	switch {
	case err != nil:
		return fmt.Errorf("ipvs: remove: %w", err)
	case len(refused) > 0:
		return refusal(refused)
	}
	return nil
}

// remains returns the ops that remove what is left of us.
func (d *Dataplane) remains(ctx context.Context) ([]kernel.Op, error) {
	dev, err := d.kernel.Device(ctx, deviceName)
	if err != nil {
		return nil, err
	}
	var ops, last []kernel.Op
	h := newHave()
	for _, f := range d.cfg.families() {
		if err := d.readSets(ctx, f, h); err != nil {
			return nil, err
		}
		all, err := d.kernel.Sets(ctx, setName(f, ""))
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			last = append(last, kernel.DelSet{Name: s.Name})
		}
	}
	owned := h.owned()
	servers, err := d.servers(ctx, owned)
	if err != nil {
		return nil, err
	}
	for _, key := range owned {
		if servers[key] != nil {
			ops = append(ops, kernel.DelServer{Key: key})
		}
	}
	left := len(dev.Addrs)
	for a := range dev.Addrs {
		if h.uses[a]&(useAddr|useExt) != 0 || aliasPrefix(service.FamilyOf(a)).Contains(a) {
			ops = append(ops, kernel.DelAddr{Device: deviceName, Addr: a})
			left--
		}
	}
	if dev.Exists && left == 0 {
		ops = append(ops, kernel.DelDevice{Name: deviceName})
	}
	routing, err := d.remainingRouting(ctx)
	return slices.Concat(ops, routing, last), err
}

func (d *Dataplane) remainingRouting(ctx context.Context) ([]kernel.Op, error) {
	rules, err := d.kernel.Rules(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	routes, err := d.kernel.Routes(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	var ops []kernel.Op
	for _, r := range rules {
		if d.cfg.serves(r.Family) {
			ops = append(ops, kernel.DelRule{Rule: r})
		}
	}
	for _, r := range routes {
		if d.cfg.serves(service.FamilyOf(r.Addr())) {
			ops = append(ops, kernel.DelRoute{Table: routeTable, To: r})
		}
	}
	return ops, nil
}
