package takeover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// device holds virtual addresses, of kube-proxy and of fairlead in ipvs mode.
const device = "kube-ipvs0"

// A Claim is what the sets of kube-proxy say is its.
type Claim struct {
	sets  []string // all of kube-proxy's that there are
	keys  map[kernel.ServerKey]bool
	ports map[service.Protocol]map[uint16]bool // node ports
	addrs map[netip.Addr]bool                  // of the device, which a set names
	on    map[netip.Addr]kernel.AddrState      // all of the device
	local []netip.Addr                         // of the node
}

// ReadClaim reads the sets of kube-proxy. It finds none where kube-proxy was not in ipvs
// mode. Local are the addresses of the node.
func ReadClaim(ctx context.Context, k kernel.Kernel, local []netip.Addr) (*Claim, error) {
	c := &Claim{
		keys: make(map[kernel.ServerKey]bool), addrs: make(map[netip.Addr]bool), local: local,
		ports: map[service.Protocol]map[uint16]bool{service.TCP: {}, service.UDP: {}},
	}
	all, err := k.Sets(ctx, "KUBE-")
	if err != nil {
		return nil, fmt.Errorf("list the sets of kube-proxy: %w", err)
	}
	for _, s := range all {
		use, is := useOf(s.Name)
		if !is {
			continue
		}
		c.sets = append(c.sets, s.Name)
		if use == useNothing {
			continue
		}
		elems, err := k.Elements(ctx, s.Name)
		if errors.Is(err, syscall.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the set %s of kube-proxy: %w", s.Name, err)
		}
		for _, e := range elems {
			c.note(use, e)
		}
	}
	slices.Sort(c.sets)
	dev, err := k.Device(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", device, err)
	}
	c.on = dev.Addrs
	return c, nil
}

func (c *Claim) note(use setUse, e kernel.Element) {
	switch use {
	case useServers:
		c.keys[kernel.ServerKey{Addr: netip.AddrPortFrom(e.Addr, e.Port), Protocol: e.Protocol}] = true
	case usePortsTCP:
		c.ports[service.TCP][e.Port] = true
	case usePortsUDP:
		c.ports[service.UDP][e.Port] = true
	case useAddresses:
		c.addrs[e.Addr] = true
	case useNothing:
	}
}

// Names reports whether the sets name a virtual server.
func (c *Claim) Names(key kernel.ServerKey) bool {
	return c.keys[key] || c.ports[key.Protocol][key.Addr.Port()] && slices.Contains(c.local, key.Addr.Addr())
}

// server reports whether a virtual server is kube-proxy's. Where it was stopped half-way,
// not every server is named yet; but nobody else's is at an address of the device, of
// which kube-proxy has removed all that are not its own.
func (c *Claim) server(key kernel.ServerKey) bool {
	_, on := c.on[key.Addr.Addr()]
	return c.Names(key) || on
}

// Addr reports whether an address of the device kube-ipvs0 is kube-proxy's.
func (c *Claim) Addr(a netip.Addr) bool { return c.addrs[a] }

// A drained is what became of virtual servers.
type drained struct {
	removed int
	left    []kernel.ServerKey // that still have connections
	flows   []kernel.ServerKey // of UDP, removed
}

// drain removes those servers that have no connection any more; the others get no new
// ones. Flows of UDP need not end: they are sent elsewhere once connection tracking
// has forgotten them.
//
// In userspace mode all are removed at once. Its proxy answers at the virtual addresses
// themselves, where IPVS comes first (it is called in LOCAL_IN before sockets are looked
// for): a server that gets no new connections would refuse those of the proxy.
func (t *Taker) drain(ctx context.Context, servers map[kernel.ServerKey]*kernel.ServerState) (drained, error) {
	var out drained
	var ops []kernel.Op
	for _, key := range slices.SortedFunc(maps.Keys(servers), kernel.ServerKey.Compare) {
		busy := false
		var quiet []kernel.Op
		for _, d := range servers[key].Dests {
			busy = busy || !d.Conns.Idle()
			if d.Weight > 0 && !d.Other {
				quiet = append(quiet, kernel.SetDest{Key: key, Addr: d.Addr})
			}
		}
		switch {
		case key.Protocol == service.UDP:
			out.flows = append(out.flows, key)
			ops = append(ops, kernel.DelServer{Key: key})
		case !busy || t.cfg.Mode == Userspace:
			ops = append(ops, kernel.DelServer{Key: key})
		default:
			out.left = append(out.left, key)
			ops = append(ops, quiet...)
			continue
		}
		out.removed++
	}
	return out, apply(ctx, t.cfg.Kernel, ops)
}

// apply makes changes; what is gone already is no error.
func apply(ctx context.Context, k kernel.Kernel, ops []kernel.Op) error {
	if len(ops) == 0 {
		return nil
	}
	refused, err := k.Apply(ctx, ops)
	if err != nil {
		return fmt.Errorf("write %d changes: %w", len(ops), err)
	}
	var errs []error
	for _, e := range refused {
		if !errors.Is(e.Err, syscall.ENOENT) && !errors.Is(e.Err, syscall.ESRCH) && !errors.Is(e.Err, syscall.ENODEV) {
			errs = append(errs, e)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel refused %d of %d changes, first: %w", len(errs), len(ops), errs[0])
}

// predecessors removes the virtual servers, addresses and sets of kube-proxy.
func (t *Taker) predecessors(ctx context.Context, r *Result) error {
	local, err := t.cfg.Local()
	if err != nil {
		return fmt.Errorf("read the addresses of the node: %w", err)
	}
	c, err := ReadClaim(ctx, t.cfg.Kernel, local)
	if err != nil {
		return err
	}
	if len(c.sets) == 0 {
		return t.captured(ctx, r)
	}
	all, err := t.cfg.Kernel.Servers(ctx)
	if err != nil {
		return fmt.Errorf("read virtual servers: %w", err)
	}
	ours, err := t.ours(ctx)
	if err != nil {
		return err
	}
	for key, s := range all {
		switch a := key.Addr.Addr(); {
		case !c.server(key) || ours.keys[key] || t.excluded(a):
			delete(all, key)
		case s != nil:
			c.addrs[a] = true
		}
	}
	d, err := t.drain(ctx, all)
	r.Servers += d.removed
	r.Draining += len(d.left)
	if err != nil {
		return fmt.Errorf("remove virtual servers of kube-proxy: %w", err)
	}
	if err := t.forgetFlows(ctx, d.flows); err != nil {
		return err
	}
	held, err := t.addresses(ctx, c.addrs, ours.addrs, d.left, r)
	if err != nil {
		return fmt.Errorf("remove addresses of kube-proxy: %w", err)
	}
	if len(d.left)+held > 0 {
		return nil // the sets tell what is still to be done
	}
	return t.sets(ctx, c.sets, r)
}

// An owned is what the dataplane in force has of IPVS.
type owned struct {
	keys  map[kernel.ServerKey]bool
	addrs map[netip.Addr]bool
}

// ours returns what belongs to the dataplane in force, which is nothing but in ipvs
// mode.
func (t *Taker) ours(ctx context.Context) (owned, error) {
	o := owned{keys: map[kernel.ServerKey]bool{}, addrs: map[netip.Addr]bool{}}
	if t.cfg.Mode != IPVS {
		return o, nil
	}
	var err error
	if o.keys, err = ipvs.Owned(ctx, t.cfg.Kernel); err != nil {
		return o, err
	}
	for _, name := range ipvs.AddressSets() {
		elems, err := t.cfg.Kernel.Elements(ctx, name)
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return o, fmt.Errorf("read the set %s: %w", name, err)
		}
		for _, e := range elems {
			o.addrs[e.Addr] = true
		}
	}
	return o, nil
}

// captured looks after addresses of ours that the node has as a whole since it served by
// way of them, and keeps as long as its own connections come from there. The dataplane
// sees when they have ended.
func (t *Taker) captured(ctx context.Context, r *Result) error {
	if t.cfg.Mode != IPVS || t.cfg.IPVS.VIPMode != ipvs.Routed {
		return nil
	}
	ours, err := t.ours(ctx)
	if err != nil || len(ours.addrs) == 0 {
		return err
	}
	dev, err := t.cfg.Kernel.Device(ctx, device)
	if err != nil {
		return fmt.Errorf("read the addresses of %s: %w", device, err)
	}
	sockets, err := t.cfg.Sockets()
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	for a, state := range dev.Addrs {
		if state.Local && sockets[a] && ours.addrs[a] {
			t.rehome(a)
			r.Held++
		}
	}
	return nil
}

func (t *Taker) excluded(a netip.Addr) bool {
	return slices.ContainsFunc(t.cfg.IPVS.Exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addresses removes those of the device that were kube-proxy's, and returns how many
// are still needed: by connections through IPVS, or by sockets of the node, which
// kube-proxy's way has given such an address for their own.
func (t *Taker) addresses(ctx context.Context, theirs, ours map[netip.Addr]bool, left []kernel.ServerKey, r *Result) (held int, err error) {
	dev, err := t.cfg.Kernel.Device(ctx, device)
	if err != nil || !dev.Exists {
		return 0, err
	}
	busy := make(map[netip.Addr]bool)
	for _, key := range left {
		busy[key.Addr.Addr()] = true
	}
	sockets, err := t.cfg.Sockets()
	if err != nil {
		return 0, fmt.Errorf("list sockets: %w", err)
	}
	for a, state := range dev.Addrs {
		if state.Local && sockets[a] && (theirs[a] || ours[a]) {
			t.rehome(a)
		}
	}
	var ops []kernel.Op
	remain := len(dev.Addrs)
	for _, a := range slices.SortedFunc(maps.Keys(dev.Addrs), netip.Addr.Compare) {
		switch {
		case !theirs[a] || ours[a] || t.excluded(a):
		case busy[a] || sockets[a]:
			held++
		default:
			ops = append(ops, kernel.DelAddr{Device: device, Addr: a})
			remain--
		}
	}
	r.Addresses += len(ops)
	r.Held += held
	if remain == 0 && t.cfg.Mode != IPVS {
		ops = append(ops, kernel.DelDevice{Name: device})
	}
	return held, apply(ctx, t.cfg.Kernel, ops)
}

// rehome sees to it that no new connection of the node has a virtual address for its
// source.
func (t *Taker) rehome(a netip.Addr) {
	if t.rehomed[a] {
		return
	}
	t.rehomed[a] = true
	source := t.cfg.Source[service.FamilyOf(a)]
	if !source.IsValid() {
		return
	}
	if err := t.cfg.Rehome(a, source); err != nil {
		t.cfg.Log.Warn("an address stays as long as the node calls it", "address", a, "err", err)
	}
}

// sets removes sets of kube-proxy. Those that a rule still names stay: the rule is
// somebody else's, or nf_tables is slow to let go of it.
func (t *Taker) sets(ctx context.Context, names []string, r *Result) error {
	var ops []kernel.Op
	for _, n := range names {
		ops = append(ops, kernel.DelSet{Name: n})
	}
	refused, err := t.cfg.Kernel.Apply(ctx, ops)
	if err != nil {
		return fmt.Errorf("remove sets of kube-proxy: %w", err)
	}
	r.Sets += len(ops) - len(refused)
	var errs []error
	for _, e := range refused {
		switch {
		case errors.Is(e.Err, syscall.EBUSY):
			r.Busy++
		case !errors.Is(e.Err, syscall.ENOENT):
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

// forgetFlows deletes what connection tracking knows of UDP flows to virtual servers
// that are gone. Their next datagram is translated anew.
func (t *Taker) forgetFlows(ctx context.Context, keys []kernel.ServerKey) error {
	if len(keys) == 0 {
		return nil
	}
	gone := make(map[netip.AddrPort]bool, len(keys))
	for _, k := range keys {
		gone[k.Addr] = true
	}
	var errs []error
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		_, err := t.cfg.Flows.Purge(ctx, f, func(c service.ConntrackFlow) bool {
			return c.Protocol == service.UDP && gone[c.OrigDst]
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
