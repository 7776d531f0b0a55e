package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A have is what the kernel has of ours, and of what we want, as it was last read
// or written.
type have struct {
	units  map[kernel.ServerKey]*actual
	uses   map[netip.Addr]use
	health [service.NumFamilies][]uint16

	servers, dests int // how many there are, for metrics
}

func newHave() *have {
	return &have{units: make(map[kernel.ServerKey]*actual), uses: make(map[netip.Addr]use)}
}

func (h *have) set(key kernel.ServerKey, a *actual) {
	h.count(h.units[key], -1)
	h.count(a, 1)
	if a == nil {
		delete(h.units, key)
	} else {
		h.units[key] = a
	}
}

func (h *have) count(a *actual, sign int) {
	if a != nil && a.serves {
		h.servers += sign
		h.dests += sign * a.dests.len()
	}
}

func (h *have) setUses(a netip.Addr, u use) {
	if u == 0 {
		delete(h.uses, a)
	} else {
		h.uses[a] = u
	}
}

// unit returns what is known for key, to be changed.
func (h *have) unit(key kernel.ServerKey) *actual {
	a := h.units[key]
	if a == nil {
		a = &actual{}
		h.units[key] = a
	}
	return a
}

// use notes that a has uses.
func (h *have) use(a netip.Addr, u use) { h.uses[a] |= u }

// allows notes that p may be among the allowed callers of key; an invalid Prefix
// is none. What is not wanted is removed then, and what is wanted is in doubt.
func (h *have) allows(key kernel.ServerKey, p netip.Prefix) {
	if a := h.unit(key); p.IsValid() && !slices.Contains(a.sources, p) {
		a.sources = append(slices.Clone(a.sources), p)
	}
}

// doubt takes the virtual server at key as it was just read. Of the sets nothing
// is known, so the opposite of what is wanted is assumed: all of it is written
// again, which does no harm.
func (h *have) doubt(key kernel.ServerKey, s *kernel.ServerState, t target) {
	a := h.unit(key)
	h.count(a, -1)
	defer h.count(a, 1)
	a.in = ^t.in & (1<<numMembers - 1)
	for _, p := range t.sources {
		a.sources = slices.DeleteFunc(slices.Clone(a.sources), func(q netip.Prefix) bool { return p == q })
	}
	a.take(s, t.pool)
}

// take sets the virtual server of a to what was read, of which wanted are to be the
// destinations; nil is none.
func (a *actual) take(s *kernel.ServerState, wanted service.Pool) {
	a.serves, a.server, a.dests = s != nil, kernel.Server{}, dests{}
	if s == nil {
		return
	}
	a.server, a.dests = s.Server, destsOf(s.Dests, wanted)
}

// read reads what the kernel has of ours, and of what is wanted. What belongs to
// others is left out, so that it is never changed.
func (d *Dataplane) read(ctx context.Context) error {
	d.forget()
	h := newHave()
	for _, f := range d.cfg.families() {
		if err := d.readSets(ctx, f, h); err != nil {
			return fmt.Errorf("ipvs: read sets: %w", err)
		}
	}
	servers, err := d.servers(ctx, h.owned())
	if err != nil {
		return fmt.Errorf("ipvs: read virtual servers: %w", err)
	}
	for key, s := range servers {
		own := h.units[key] != nil && h.units[key].in&inOwn != 0
		u := d.want.units[key]
		wanted := u != nil && u.serves
		if (own || wanted) && !d.cfg.excludes(key.Addr.Addr()) && d.cfg.serves(service.FamilyOf(key.Addr.Addr())) {
			a := h.unit(key)
			var pool service.Pool
			if wanted {
				pool = u.pool
			}
			a.take(s, pool)
			h.count(a, 1)
		}
	}
	if err := d.readAddresses(ctx, h); err != nil {
		return fmt.Errorf("ipvs: read addresses and routes: %w", err)
	}
	d.have = h
	return nil
}

// servers reads every virtual server, and makes sure of those that should be among
// them. The kernel lists the servers of all network namespaces by their number: if
// somebody removes one in another namespace between two pages, one of ours is left
// out (ip_vs_genl_dump_services of ip_vs_ctl.c). What was left out would be taken
// for gone, and stay for ever.
func (d *Dataplane) servers(ctx context.Context, among []kernel.ServerKey) (map[kernel.ServerKey]*kernel.ServerState, error) {
	all, err := d.kernel.Servers(ctx)
	if err != nil {
		return nil, err
	}
	for _, key := range among {
		if all[key] != nil {
			continue
		}
		one, err := d.kernel.Server(ctx, key)
		if err != nil {
			return nil, err
		}
		if one != nil {
			all[key] = one
		}
	}
	return all, nil
}

// owned returns what is said to have a virtual server of ours.
func (h *have) owned() []kernel.ServerKey {
	var out []kernel.ServerKey
	for key, a := range h.units {
		if a.in&inOwn != 0 {
			out = append(out, key)
		}
	}
	return out
}

func (d *Dataplane) readSets(ctx context.Context, f service.Family, h *have) error {
	each := func(name string, do func(kernel.Element)) error {
		elems, err := d.kernel.Elements(ctx, setName(f, name))
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
		for _, e := range elems {
			do(e)
		}
		return nil
	}
	key := func(e kernel.Element) kernel.ServerKey {
		return kernel.ServerKey{Addr: netip.AddrPortFrom(e.Addr, e.Port), Protocol: e.Protocol}
	}
	var errs []error
	for i, name := range memberNames() {
		errs = append(errs, each(name, func(e kernel.Element) { h.unit(key(e)).in |= 1 << i }))
	}
	for i, name := range useNames() {
		errs = append(errs, each(name, func(e kernel.Element) { h.use(e.Addr, 1<<i) }))
	}
	errs = append(errs,
		each(allowedSet, func(e kernel.Element) {
			a := h.unit(key(e))
			a.sources = append(a.sources, e.Net.Masked())
		}),
		each(healthSet, func(e kernel.Element) { h.health[f] = append(h.health[f], e.Port) }),
	)
	for _, a := range h.units {
		slices.SortFunc(a.sources, netip.Prefix.Compare)
	}
	slices.Sort(h.health[f])
	return errors.Join(errs...)
}

// readAddresses reads the device and our table. Addresses of the device that no
// set of ours knows were put there by others.
func (d *Dataplane) readAddresses(ctx context.Context, h *have) error {
	dev, err := d.kernel.Device(ctx, deviceName)
	if err != nil {
		return err
	}
	d.held = nil
	for a, state := range dev.Addrs {
		f := service.FamilyOf(a)
		wanted := d.want.usesOf(a)&useDevice != 0
		ours := wanted || h.uses[a]&(useAddr|useExt) != 0 || aliasPrefix(f).Contains(a)
		right := state.Local == (d.cfg.VIPMode == Device)
		if ours && state.Local && d.cfg.VIPMode == Routed {
			stays, err := d.stays(a)
			if err != nil {
				return err
			}
			if stays {
				right = true
				ours = wanted // as it is
			}
		}
		if ours && d.cfg.serves(f) && (right || !wanted) {
			h.use(a, useDevice)
		}
	}
	routes, err := d.kernel.Routes(ctx, routeTable)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if f := service.FamilyOf(r.Addr()); d.cfg.serves(f) && r != aliasPrefix(f) && r.Bits() == f.Bits() {
			h.use(r.Addr(), useRoute)
		}
	}
	return nil
}
