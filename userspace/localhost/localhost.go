package localhost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// A Server is the proxy as the Dataplane knows it: one of [userspace.NewPlainProxy],
// but for tests.
type Server interface {
	userspace.Server
	// Listen begins to listen at a place, which was told by Follow before.
	Listen(userspace.Place) error
	// Unlisten ends that. When it returns, who calls is refused.
	Unlisten(userspace.Place)
}

// A Config says what a Dataplane serves.
type Config struct {
	// Families are the address families to serve; empty means both.
	Families []service.Family
	// Log is required.
	Log *slog.Logger
}

// A Dataplane has a proxy serve the node ports of Snapshots at the loopback addresses.
// It implements [service.Dataplane] for nothing else. Counts in its Reports are of
// places to listen at.
type Dataplane struct {
	cfg    Config
	server Server

	last   *service.Snapshot // nil before the first Sync
	at     addresses         // of last
	want   map[userspace.Place]target
	open   map[userspace.Place]struct{}
	failed map[userspace.Place]error // of those that should be open
	why    map[service.PortID]string // what else is not served as told
}

// A target is what is served at a place.
type target struct {
	port     *service.Port
	frontend *service.Frontend
}

func (t target) forwards() bool {
	return t.frontend != nil && t.frontend.Routes[service.FromHost].Verdict == service.Forward
}

// addresses are the loopback addresses at which node ports answer; the zero Addr is
// none.
type addresses [service.NumFamilies]netip.Addr

// New returns a Dataplane that listens nowhere yet.
func New(cfg Config, s Server) (*Dataplane, error) {
	if cfg.Log == nil {
		return nil, errors.New("localhost: Config.Log is required")
	}
	if len(cfg.Families) == 0 {
		cfg.Families = []service.Family{service.IPv4, service.IPv6}
	}
	d := &Dataplane{cfg: cfg, server: s}
	d.forget()
	return d, nil
}

func (d *Dataplane) forget() {
	d.last, d.at = nil, addresses{}
	d.want = make(map[userspace.Place]target)
	d.open = make(map[userspace.Place]struct{})
	d.failed = make(map[userspace.Place]error)
	d.why = make(map[service.PortID]string)
}

// addresses returns where node ports answer on n, as far as --nodeport-addresses
// says. Whether the kernel answers them there is not the question.
func (d *Dataplane) addresses(n *service.Node) addresses {
	all := addresses{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	var out addresses
	for _, f := range d.cfg.Families {
		if slices.ContainsFunc(n.PortAddrs[f], func(p netip.Prefix) bool { return p.Contains(all[f]) }) {
			out[f] = all[f]
		}
	}
	return out
}

// Sync implements [service.Dataplane]. It does not fail: a place that cannot be had
// is a Deviation.
func (d *Dataplane) Sync(_ context.Context, snap *service.Snapshot) (service.Report, error) {
	r := service.Report{Resynced: d.last == nil}
	ports, touched := d.advance(snap)
	for _, p := range touched {
		if _, is := d.open[p]; is && !d.want[p].forwards() {
			d.server.Unlisten(p) // first, so that nobody is accepted for nothing
			delete(d.open, p)
			r.Removed++
		}
		delete(d.failed, p)
	}
	d.server.Follow(&snap.Node, ports, d.changes(touched))
	for _, p := range touched {
		if _, is := d.open[p]; !is && d.want[p].forwards() {
			d.failed[p] = nil
		}
	}
	r.Added = d.listen()
	r.Deviations = d.deviations()
	return r, nil
}

// Audit implements [service.Dataplane]: it tries again to listen where that failed.
func (d *Dataplane) Audit(context.Context) (service.Report, error) {
	if d.last == nil {
		return service.Report{}, nil
	}
	return service.Report{Added: d.listen(), Deviations: d.deviations()}, nil
}

// Cleanup implements [service.Dataplane].
func (d *Dataplane) Cleanup(ctx context.Context) error {
	if d.last == nil {
		return nil
	}
	if _, err := d.Sync(ctx, &service.Snapshot{Node: d.last.Node}); err != nil {
		return err
	}
	d.forget()
	return nil
}

// advance takes d to snap, and returns what has changed of Ports that have node
// ports, and which places may be concerned, sorted.
func (d *Dataplane) advance(snap *service.Snapshot) ([]userspace.PortChange, []userspace.Place) {
	at := d.addresses(&snap.Node)
	var ports []userspace.PortChange
	for old, now := range d.changed(at, snap) {
		c := userspace.PortChange{}
		if old != nil && old.ID.Protocol != service.SCTP && hasAny(d.at.places(old)) {
			c.Old = old
		}
		if now != nil && now.ID.Protocol != service.SCTP && hasAny(at.places(now)) {
			c.New = now
		}
		if c.Old != nil || c.New != nil {
			ports = append(ports, c)
		}
		if old != nil {
			delete(d.why, old.ID)
		}
		if why := at.complaint(now); why != "" {
			d.why[now.ID] = why
		}
	}
	touched := make(map[userspace.Place]struct{})
	for _, c := range ports { // all of these first: a place may go from one Port to another
		for p := range d.at.places(c.Old) {
			touched[p] = struct{}{}
			delete(d.want, p)
		}
	}
	for _, c := range ports {
		for p, fe := range at.places(c.New) {
			touched[p] = struct{}{}
			d.want[p] = target{c.New, fe}
		}
	}
	d.last, d.at = snap, at
	return ports, slices.SortedFunc(maps.Keys(touched), comparePlaces)
}

// changed yields the Ports that differ, as [service.Snapshot.Changed] does. Where
// node ports answer at other addresses than before, all have gone and come anew.
func (d *Dataplane) changed(at addresses, snap *service.Snapshot) iter.Seq2[*service.Port, *service.Port] {
	if at == d.at {
		return snap.Changed(d.last)
	}
	return func(yield func(*service.Port, *service.Port) bool) {
		for old := range (&service.Snapshot{}).Changed(d.last) {
			if !yield(old, nil) {
				return
			}
		}
		for _, now := range snap.Changed(nil) {
			if !yield(nil, now) {
				return
			}
		}
	}
}

// places yields where the node ports of p answer, which may be nil.
func (a addresses) places(p *service.Port) iter.Seq2[userspace.Place, *service.Frontend] {
	return func(yield func(userspace.Place, *service.Frontend) bool) {
		if p == nil || !a[p.ID.Family].IsValid() {
			return
		}
		for i := range p.Frontends {
			fe := &p.Frontends[i]
			if fe.Kind != service.NodePort {
				continue
			}
			at := userspace.Place{Protocol: p.ID.Protocol, Addr: netip.AddrPortFrom(a[p.ID.Family], fe.Addr.Port())}
			if !yield(at, fe) {
				return
			}
		}
	}
}

// Listener returns the Port that a Dataplane for both families listens for at a place,
// nil if it does not listen there. It asks no kernel whether the place is free.
func Listener(snap *service.Snapshot, at userspace.Place) *service.Port {
	d := Dataplane{cfg: Config{Families: []service.Family{service.IPv4, service.IPv6}}}
	addrs := d.addresses(&snap.Node)
	for p := range snap.Ports.All() {
		if p.ID.Protocol != at.Protocol || at.Protocol == service.SCTP {
			continue
		}
		for place, fe := range addrs.places(p) {
			if place == at && (target{p, fe}).forwards() {
				return p
			}
		}
	}
	return nil
}

func hasAny(places iter.Seq2[userspace.Place, *service.Frontend]) bool {
	for range places {
		return true
	}
	return false
}

// complaint says what of the node ports of p, which may be nil, is not served as told.
func (a addresses) complaint(p *service.Port) string {
	for at, fe := range a.places(p) {
		switch {
		case at.Protocol == service.SCTP:
			return fmt.Sprintf("node port %d: the proxy for localhost speaks TCP and UDP only; SCTP does not answer there", at.Addr.Port())
		case fe.Routes[service.FromHost].Verdict == service.Drop:
			return fmt.Sprintf("node port %d: callers at localhost are refused, and not dropped", at.Addr.Port())
		}
	}
	return ""
}

func (d *Dataplane) changes(touched []userspace.Place) []userspace.PlaceChange {
	out := make([]userspace.PlaceChange, 0, len(touched))
	for _, p := range touched {
		out = append(out, userspace.PlaceChange{Place: p, Port: d.want[p].port, Frontend: d.want[p].frontend})
	}
	return out
}

// listen tries to listen at all places where nobody does that should, and returns at
// how many it could.
func (d *Dataplane) listen() int {
	n := 0
	for _, p := range slices.SortedFunc(maps.Keys(d.failed), comparePlaces) {
		old := d.failed[p]
		if d.failed[p] = d.server.Listen(p); d.failed[p] != nil {
			continue
		}
		delete(d.failed, p)
		d.open[p] = struct{}{}
		n++
		if old != nil {
			d.cfg.Log.Info("a node port answers at localhost now", "addr", p.Addr, "protocol", p.Protocol, "service", d.want[p].port.ID.Service)
		}
	}
	return n
}

// deviations are sorted.
func (d *Dataplane) deviations() []service.Deviation {
	var out []service.Deviation
	for p, err := range d.failed {
		reason := fmt.Sprintf("node port %d does not answer at localhost: %v", p.Addr.Port(), err)
		if errors.Is(err, syscall.EADDRINUSE) {
			reason = fmt.Sprintf("node port %d does not answer at localhost: another program of the node has %v/%s", p.Addr.Port(), p.Addr, p.Protocol)
		}
		out = append(out, service.Deviation{Port: d.want[p].port.ID, Reason: reason, Here: true})
	}
	for id, why := range d.why {
		out = append(out, service.Deviation{Port: id, Reason: why})
	}
	slices.SortFunc(out, func(a, b service.Deviation) int {
		return cmp.Or(a.Port.Compare(b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

func comparePlaces(a, b userspace.Place) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Addr.Compare(b.Addr))
}
