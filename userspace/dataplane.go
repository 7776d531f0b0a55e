package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"syscall"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A Server is the proxy as the Dataplane knows it: [Proxy], but for tests.
type Server interface {
	// Follow tells of the node, of Ports that have changed, and of what is to be
	// served where. It is in force when Follow returns.
	Follow(node *service.Node, ports []PortChange, places []PlaceChange)
}

// A PortChange is a Port before and after; one of them may be nil.
type PortChange struct{ Old, New *service.Port }

// A PlaceChange says what is served at an address, port and protocol.
type PlaceChange struct {
	Place    Place
	Port     *service.Port
	Frontend *service.Frontend // nil for nothing
}

// A Dataplane puts Snapshots in force with a proxy on the path of the data, in one
// or both families. It implements [service.Dataplane].
type Dataplane struct {
	cfg    Config
	kernel kernel.Kernel
	rules  *xt.Keeper
	server Server
	log    *slog.Logger

	last *service.Snapshot // what is wanted; nil before the first Sync
	want *State            // for last

	// sure says that the sets hold what want says, but for what the kernel has refused:
	// of that, refused says whether they hold it.
	sure    bool
	refused map[member]bool

	verifying bool // what is written is a repair
}

// New returns a Dataplane that has not touched the kernel yet.
func New(cfg Config, k kernel.Kernel, run xt.Runner, s Server) (*Dataplane, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		return nil, errors.New("userspace: Config.Log is required")
	}
	return &Dataplane{cfg: cfg, kernel: k, rules: xt.NewKeeper(run), server: s, log: cfg.Log}, nil
}

// Sync implements [service.Dataplane]. The proxy is told first, so that it serves
// what packets are sent to it for.
func (d *Dataplane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	t := newTouched()
	same := d.want != nil && d.want.plans(&snap.Node)
	if same {
		d.want.node = &snap.Node
		d.want.advance(d.last, snap, t)
		d.follow(d.last, snap, t)
	} else {
		d.rebuild(snap)
	}
	d.last = snap
	if !d.sure || !same {
		return d.resync(ctx)
	}
	return d.write(ctx, t)
}

// rebuild makes a new State, and tells the server of all that differs.
func (d *Dataplane) rebuild(snap *service.Snapshot) {
	t := &touched{places: make(map[Place]struct{})}
	if d.want != nil {
		for p := range d.want.places {
			t.at(p)
		}
	}
	d.want = newState(d.cfg, &snap.Node)
	d.want.advance(nil, snap, t)
	d.follow(d.last, snap, t)
}

// follow tells the server what has changed from prev to snap.
func (d *Dataplane) follow(prev, snap *service.Snapshot, t *touched) {
	var ports []PortChange
	for old, now := range snap.Changed(prev) {
		ports = append(ports, PortChange{old, now})
	}
	places := make([]PlaceChange, 0, len(t.places))
	for p := range t.places {
		c := PlaceChange{Place: p}
		if has, ok := d.want.places[p]; ok {
			c.Port, c.Frontend = has.port, has.frontend
		}
		places = append(places, c)
	}
	d.server.Follow(&snap.Node, ports, places)
}

// resync makes sure of everything. Rules come first, so that nothing is caught by rules
// that are about to change; but last where they take the place of another dataplane's,
// since packets must find at once what they are sent for.
func (d *Dataplane) resync(ctx context.Context) (r service.Report, err error) {
	d.sure = false
	changed, err := d.makeMissing(ctx)
	if err != nil {
		return r, err
	}
	follows := d.cfg.Follows != nil && d.cfg.Follows(ctx)
	var wrote bool
	if !follows {
		if wrote, err = d.keepRules(ctx); err != nil {
			return r, err
		}
	}
	r, err = d.writeAll(ctx)
	if follows {
		var failed error
		if wrote, failed = d.keepRules(ctx); failed != nil {
			d.sure = false // or nobody would try again
			err = errors.Join(err, failed)
		}
	}
	r.Resynced = true
	r.Repaired = d.verifying && (changed || wrote || r.Added+r.Removed > 0)
	return r, err
}

// writeAll makes the sets hold what they should.
func (d *Dataplane) writeAll(ctx context.Context) (service.Report, error) {
	t := newTouched()
	if err := d.read(ctx, t.members); err != nil {
		return service.Report{}, fmt.Errorf("userspace: read sets: %w", err)
	}
	for m := range d.want.members() {
		t.note(m, false)
	}
	d.sure, d.refused = true, nil
	return d.write(ctx, t)
}

// read adds what our sets hold.
func (d *Dataplane) read(ctx context.Context, held map[member]bool) error {
	for _, f := range d.cfg.families() {
		for id := range setID(numSets) {
			elems, err := d.kernel.Elements(ctx, setName(f, id))
			if err != nil {
				return err
			}
			for _, e := range elems {
				held[member{f, id, e}] = true
			}
		}
	}
	return nil
}

// write changes the sets where they differ from what is wanted, as far as t says
// they may.
func (d *Dataplane) write(ctx context.Context, t *touched) (service.Report, error) {
	maps.Copy(t.members, d.refused)
	var add, remove []member
	for m, has := range t.members {
		switch wants := d.want.wants(m); {
		case wants && !has:
			add = append(add, m)
		case !wants && has:
			remove = append(remove, m)
		}
	}
	slices.SortFunc(add, member.compare)
	slices.SortFunc(remove, func(a, b member) int { return b.compare(a) })
	r := service.Report{Added: len(add), Removed: len(remove), Deviations: d.want.deviations()}
	var ops []kernel.Op
	for _, m := range add {
		ops = append(ops, m.add())
	}
	for _, m := range remove {
		ops = append(ops, m.remove())
	}
	d.refused = nil
	if len(ops) == 0 {
		return r, nil
	}
	if d.verifying {
		d.log.Warn("the kernel differs from what was left there", "changes", len(ops), "first", fmt.Sprint(ops[:min(len(ops), 3)]))
	}
	refused, err := d.kernel.Apply(ctx, ops)
	if err != nil {
		d.sure = false
		return r, fmt.Errorf("userspace: write %d changes: %w", len(ops), err)
	}
	d.remember(slices.Concat(add, remove), len(add), refused)
	return r, refusal(refused)
}

// remember notes what the sets do not hold as they should after n additions and the
// removals after them. The next Sync tries again.
func (d *Dataplane) remember(ms []member, n int, refused []*kernel.OpError) {
	if len(refused) == 0 {
		return
	}
	if errors.Is(refused[0].Err, syscall.ENOENT) {
		d.sure = false // a set is gone
		return
	}
	d.refused = make(map[member]bool, len(refused))
	for _, e := range refused {
		d.refused[ms[e.Index]] = e.Index >= n
	}
}

// refusal sums up what the kernel refused; nil if nothing.
func refusal(refused []*kernel.OpError) error {
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("userspace: the kernel refused %d changes, first: %w", len(refused), refused[0])
}

// Audit implements [service.Dataplane]: it reads all that is ours and repairs what
// differs.
func (d *Dataplane) Audit(ctx context.Context) (service.Report, error) {
	if d.last == nil {
		return service.Report{}, nil
	}
	d.verifying = true
	defer func() { d.verifying = false }()
	return d.resync(ctx)
}

// Cleanup implements [service.Dataplane]. The proxy goes on, but nothing is sent to
// it any more.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.last, d.want, d.sure, d.refused = nil, nil, false, nil
	d.rules.Forget()
	var errs []error
	for _, f := range d.cfg.families() {
		if err := d.rules.Remove(ctx, xt.Family(f)); err != nil {
			errs = append(errs, fmt.Errorf("userspace: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // sets cannot go while rules refer to them
	}
	ops, err := d.remains(ctx)
	if err != nil {
		return fmt.Errorf("userspace: read what is there: %w", err)
	}
	refused, err := d.kernel.Apply(ctx, ops)
	if err != nil {
		return fmt.Errorf("userspace: remove: %w", err)
	}
	refused = slices.DeleteFunc(refused, func(e *kernel.OpError) bool { // gone by itself
		return errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ESRCH)
	})
	return refusal(refused)
}

// remains returns the ops that remove what is left of us.
func (d *Dataplane) remains(ctx context.Context) ([]kernel.Op, error) {
	var ops []kernel.Op
	rules, err := d.kernel.Rules(ctx, routeTable)
	if err != nil {
		return nil, err
	}
	routes, err := d.kernel.Routes(ctx, routeTable)
	if err != nil {
		return nil, err
	}
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
	for _, f := range d.cfg.families() {
		sets, err := d.kernel.Sets(ctx, setPrefix(f))
		if err != nil {
			return nil, err
		}
		for _, s := range sets {
			ops = append(ops, kernel.DelSet{Name: s.Name})
		}
	}
	return ops, nil
}

// Elements returns what the sets hold for the State, by name and sorted.
func (st *State) Elements() map[string][]kernel.Element {
	out := make(map[string][]kernel.Element)
	for _, m := range slices.Compact(slices.SortedFunc(st.members(), member.compare)) {
		name := setName(m.family, m.set)
		out[name] = append(out[name], m.elem)
	}
	return out
}
