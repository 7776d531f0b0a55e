package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A Dataplane puts Snapshots in force with IPVS, in one or both families. It
// implements [service.Dataplane]. It remembers what is in the kernel and sends
// only what differs; it reads the kernel at the first Sync, after it could not be
// reached, and in Audit.
type Dataplane struct {
	cfg     Config
	kernel  kernel.Kernel
	rules   *xt.Keeper
	log     *slog.Logger
	metrics *Metrics
	now     func() time.Time

	last   *service.Snapshot // what is wanted; nil before the first Sync
	want   *State            // for last
	out    batch
	have   *have // what the kernel has; nil if unsure
	drains *drainer

	dirty *touched // what a failed op leaves in doubt

	maxElem map[string]uint32 // of the sets

	polled    time.Time // when connections were last counted
	lastAudit time.Time
	verifying bool         // what is written is a repair
	replacing *replacement // nil but while another proxy is replaced

	// declares is set while another proxy is replaced with Device. What has an address
	// of the node already is reached without being published, and must not be refused
	// for a moment because the address is known as a virtual one and the port is not.
	declares bool

	held    map[netip.Addr]bool // of one reading: see Config.Held; nil if not asked
	suspect atomic.Bool
}

// New returns a Dataplane that has not touched the kernel yet. The metrics may be
// nil.
func New(cfg Config, k kernel.Kernel, run xt.Runner, m *Metrics) (*Dataplane, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		return nil, errors.New("ipvs: Config.Log is required")
	}
	m.serve(cfg.families())
	return &Dataplane{
		cfg: cfg, kernel: k, rules: xt.NewKeeper(run), log: cfg.Log, metrics: m, now: time.Now,
		drains: newDrainer(cfg.DrainTimeout), dirty: newTouched(),
		maxElem: make(map[string]uint32),
	}, nil
}

// Suspect has the next Audit read everything, whatever its time. It may be called
// from any goroutine, when somebody tells of a change that may not be ours.
func (d *Dataplane) Suspect() { d.suspect.Store(true) }

// Sync implements [service.Dataplane]. An op that the kernel refuses leaves only
// its own address and port in doubt: everything else is in force when the error
// is returned, and the next Sync looks at what is in doubt and tries again.
func (d *Dataplane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	if d.have == nil {
		return d.resync(ctx, snap)
	}
	t, err := d.follow(ctx, snap)
	if err != nil {
		d.forget() // what t holds has not been done, and would never be asked for again
		return service.Report{}, err
	}
	r, err := d.settle(ctx, t)
	if err != nil && d.have != nil && d.now().Sub(d.polled) > pollMin {
		// Nobody audits until a Sync succeeds, and what drains is not to wait for
		// what the kernel refuses.
		err = errors.Join(err, d.drain(ctx, &r))
	}
	return d.finish(r), err
}

// follow makes snap what is wanted, and returns what that may change.
func (d *Dataplane) follow(ctx context.Context, snap *service.Snapshot) (*change, error) {
	t := newChange(d.want)
	if d.want.planner.plans(&snap.Node) {
		d.want.planner.node = &snap.Node
		d.want.advance(d.last, snap, t.touched)
		d.last = snap
		return t, nil
	}
	d.want = newState(d.cfg, &snap.Node)
	d.want.advance(nil, snap, nil)
	d.last = snap
	d.restoreHeld()
	t.everything(d.have, d.want)
	if err := d.restoreRules(ctx); err != nil {
		d.forget() // the addresses that may have changed are not remembered
		return nil, err
	}
	return t, nil
}

// restoreHeld tells a new State of the addresses that are kept for what drains.
func (d *Dataplane) restoreHeld() {
	for key, s := range d.drains.servers {
		if s.held {
			d.want.use(key.Addr.Addr(), s.use, 1, nil)
		}
	}
}

// resync reads the kernel and sends what differs from the plan for snap.
func (d *Dataplane) resync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	t := newChange(d.want)
	d.want = newState(d.cfg, &snap.Node)
	d.want.advance(nil, snap, nil)
	d.last = snap
	for _, s := range d.drains.servers {
		s.held = false
	}
	if d.follows(ctx) {
		r, err := d.replace(ctx, t)
		return d.finish(r), err
	}
	turns, err := d.turns(ctx)
	if err != nil {
		return service.Report{}, err
	}
	d.want.planner.turning = turns
	d.declares = d.cfg.VIPMode == Device && d.cfg.Follows != nil && d.cfg.Follows(ctx)
	defer func() { d.declares = false }()
	if err := d.foundation(ctx); err != nil {
		return service.Report{}, err
	}
	if err := d.read(ctx); err != nil {
		return service.Report{}, err
	}
	t.everything(d.have, d.want)
	r, err := d.settle(ctx, t)
	r.Resynced = true
	if turns && err == nil {
		err = d.turned(ctx)
	}
	return d.finish(r), err
}

// finish completes a report.
func (d *Dataplane) finish(r service.Report) service.Report {
	r.Deviations = d.want.deviations()
	r.Again = d.drains.next(d.now())
	d.metrics.state(d.have, d.drains)
	return r
}

// A change is what a step may have changed, and the units before it.
type change struct {
	*touched
	before map[kernel.ServerKey]*unit // of the State that was wanted before; may be nil
	old    *State
}

func newChange(old *State) *change {
	c := &change{touched: newTouched(), old: old}
	if old != nil {
		c.before = make(map[kernel.ServerKey]*unit)
		c.touched.before = func(k kernel.ServerKey) {
			if _, ok := c.before[k]; !ok {
				c.before[k] = old.units[k]
			}
		}
	}
	return c
}

// everything touches all there is.
func (c *change) everything(h *have, st *State) {
	for k := range h.units {
		c.key(k)
	}
	for k := range st.units {
		c.key(k)
	}
	for a := range h.uses {
		c.addr(a)
	}
	for a := range st.uses {
		c.addr(a)
	}
}

// maxTries is how often settle tries again to do what the kernel refused, after a
// look at what it has.
const maxTries = 2

// checkAtOnce is how many servers settle looks at for destinations that are idle
// already. Where more begin to drain, they wait for the next poll.
const checkAtOnce = 64

// settle makes the kernel have what is wanted, as far as t says it may differ.
func (d *Dataplane) settle(ctx context.Context, t *change) (service.Report, error) {
	var total service.Report
	var refused []*kernel.OpError
	for range maxTries {
		if err := d.doubts(ctx, t); err != nil {
			return total, err
		}
		began := d.decide(t)
		var err error
		if refused, err = d.send(ctx, t, &total); err != nil {
			return total, err
		}
		if len(began) > 0 && len(began) <= checkAtOnce {
			more, err := d.poll(ctx, began, &total)
			if err != nil {
				return total, err
			}
			refused = append(refused, more...)
		}
		if len(refused) == 0 {
			return total, nil
		}
		if err := d.growSets(ctx, refused); err != nil {
			return total, err
		}
		t = newChange(d.want)
	}
	return total, refusal(refused)
}

// refusal sums up what the kernel refused.
func refusal(refused []*kernel.OpError) error {
	const shown = 3
	var errs []error
	for _, e := range refused[:min(len(refused), shown)] {
		errs = append(errs, e)
	}
	if more := len(refused) - shown; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return fmt.Errorf("ipvs: the kernel refused: %w", errors.Join(errs...))
}

// doubts looks at what is in doubt, and adds it to t.
func (d *Dataplane) doubts(ctx context.Context, t *change) error {
	for key := range d.dirty.keys {
		s, err := d.kernel.Server(ctx, key)
		if err != nil {
			d.forget()
			return fmt.Errorf("ipvs: read %s: %w", key, err)
		}
		d.have.doubt(key, s, d.target(key))
		t.key(key)
	}
	for a := range d.dirty.addrs {
		d.have.uses[a] = ^d.want.usesOf(a) & (1<<numUses - 1)
		t.addr(a)
	}
	d.dirty = newTouched()
	return nil
}

// decide has the drainer decide about every key of t, and returns those where
// something began to drain.
func (d *Dataplane) decide(t *change) []kernel.ServerKey {
	now := d.now()
	var began []kernel.ServerKey
	for key := range t.keys {
		a := key.Addr.Addr()
		u := d.want.units[key]
		if d.drains.update(now, key, d.have.units[key], u, t.before[key], d.have.uses[a]) {
			began = append(began, key)
		}
		d.hold(key, u == nil, t)
	}
	return began
}

// hold keeps, or lets go, the address of a server that nobody wants while it
// drains.
func (d *Dataplane) hold(key kernel.ServerKey, orphan bool, t *change) {
	s := d.drains.servers[key]
	if s == nil {
		return
	}
	want := orphan && len(s.dests) > 0
	switch {
	case want && !s.held:
		d.want.use(key.Addr.Addr(), s.use, 1, t.touched)
	case !want && s.held:
		d.want.use(key.Addr.Addr(), s.use, -1, t.touched)
	}
	s.held = want
	if len(s.dests) == 0 {
		delete(d.drains.servers, key)
	}
}

// target is what the kernel should have for key.
func (d *Dataplane) target(key kernel.ServerKey) target {
	var t target
	u := d.want.units[key]
	if u != nil {
		t = target{serves: u.serves, server: u.server, pool: u.pool, in: u.in, sources: u.sources, alias: u.alias}
	}
	s := d.drains.servers[key]
	if s == nil || len(s.dests) == 0 {
		return t
	}
	t.leaving = s.dests
	if !t.serves {
		t.serves, t.server = true, s.server
		t.in |= inOwn
		if s.published {
			t.in |= inVIP
		}
	}
	if u == nil {
		t.in |= inRefuse
	}
	return t
}

// send sends what differs, a portion after the other, and returns what the kernel
// refused.
func (d *Dataplane) send(ctx context.Context, t *change, total *service.Report) (refused []*kernel.OpError, err error) {
	for p := range d.want.portions(t.touched) {
		r, err := d.sendPortion(ctx, p, total)
		if err != nil {
			return nil, err
		}
		refused = append(refused, r...)
	}
	return refused, nil
}

// sendPortion sends one portion as a transaction.
func (d *Dataplane) sendPortion(ctx context.Context, p portion, total *service.Report) (refused []*kernel.OpError, err error) {
	b := &d.out
	b.node, b.declares = d.last.Node.Name, d.declares
	defer b.reset()
	for _, key := range p.keys {
		d.have.set(key, b.unit(key, d.have.units[key], d.target(key)))
	}
	for _, a := range p.addrs {
		have, want := d.have.uses[a], d.want.usesOf(a)
		if !p.last {
			want |= have // what goes may be needed by what goes later
		}
		b.uses(a, d.cfg.VIPMode, have, want)
		d.have.setUses(a, want)
	}
	for _, f := range d.cfg.families() {
		b.healthPorts(f, d.have.health[f], d.want.health[f])
		d.have.health[f] = d.want.health[f]
	}
	total.Added += b.added
	total.Changed += b.changed
	total.Removed += b.removed
	// Ownership ends when what we own is gone, not when we have said so.
	for _, ops := range [][]kernel.Op{b.before(phaseRelease), b.phases[phaseRelease], b.phases[phaseDisown]} {
		if len(refused) > 0 {
			for _, op := range ops {
				d.doubt(op)
			}
			continue
		}
		if refused, err = d.apply(ctx, ops); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// apply sends ops, and notes what is in doubt after it.
func (d *Dataplane) apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	if d.verifying {
		d.log.Warn("the kernel differs from what was left there", "changes", len(ops), "first", fmt.Sprint(ops[:min(len(ops), 3)]))
	}
	refused, err := d.kernel.Apply(ctx, ops)
	d.metrics.applied(len(ops), len(refused), err)
	if err != nil {
		d.forget()
		return nil, fmt.Errorf("ipvs: write %d changes: %w", len(ops), err)
	}
	for _, e := range refused {
		d.log.Debug("the kernel refused a change", "change", e.Op, "err", e.Err)
		d.doubt(e.Op)
	}
	if slices.ContainsFunc(refused, func(e *kernel.OpError) bool { return aboutHealth(e.Op) }) {
		d.forget() // rare enough to read everything
		return nil, refusal(refused)
	}
	return refused, nil
}

// aboutHealth reports whether op is about a health-check node port, which is no
// address's.
func aboutHealth(op kernel.Op) bool {
	switch op := op.(type) {
	case kernel.AddElem:
		return op.Type == kernel.BitmapPort
	case kernel.DelElem:
		return op.Type == kernel.BitmapPort
	}
	return false
}

// doubt notes that nothing is known of what op was about.
func (d *Dataplane) doubt(op kernel.Op) {
	elem := func(t kernel.SetType, e kernel.Element) {
		switch t {
		case kernel.HashIPPort, kernel.HashIPPortNet:
			key := kernel.ServerKey{Addr: netip.AddrPortFrom(e.Addr, e.Port), Protocol: e.Protocol}
			d.dirty.key(key)
			d.have.allows(key, e.Net)
		case kernel.HashIP:
			d.dirty.addr(e.Addr)
		}
	}
	switch op := op.(type) {
	case kernel.NewServer:
		d.dirty.key(op.Key)
	case kernel.SetServer:
		d.dirty.key(op.Key)
	case kernel.DelServer:
		d.dirty.key(op.Key)
	case kernel.NewDest:
		d.dirty.key(op.Key)
	case kernel.SetDest:
		d.dirty.key(op.Key)
	case kernel.DelDest:
		d.dirty.key(op.Key)
	case kernel.AddElem:
		elem(op.Type, op.Elem)
	case kernel.DelElem:
		elem(op.Type, op.Elem)
	case kernel.AddAddr:
		d.dirty.addr(op.Addr)
	case kernel.DelAddr:
		d.dirty.addr(op.Addr)
	case kernel.AddRoute:
		d.dirty.addr(op.To.Addr())
	case kernel.DelRoute:
		d.dirty.addr(op.To.Addr())
	}
}

// forget gives up what is remembered of the kernel.
func (d *Dataplane) forget() {
	d.have = nil
	d.dirty = newTouched()
}

// poll counts the connections of servers where something drains, and removes what
// is idle or late.
func (d *Dataplane) poll(ctx context.Context, keys []kernel.ServerKey, total *service.Report) ([]*kernel.OpError, error) {
	seen, err := d.observe(ctx, keys)
	if err != nil {
		d.forget()
		return nil, fmt.Errorf("ipvs: count connections: %w", err)
	}
	t := newChange(nil)
	now := d.now()
	d.polled = now
	for _, key := range keys {
		if d.drains.observe(now, key, seen[key]) {
			t.key(key)
			d.hold(key, d.want.units[key] == nil, t)
		}
	}
	return d.send(ctx, t, total)
}

func (d *Dataplane) observe(ctx context.Context, keys []kernel.ServerKey) (map[kernel.ServerKey]*kernel.ServerState, error) {
	if len(keys) > checkAtOnce {
		return d.servers(ctx, keys)
	}
	out := make(map[kernel.ServerKey]*kernel.ServerState, len(keys))
	for _, key := range keys {
		s, err := d.kernel.Server(ctx, key)
		if err != nil {
			return nil, err
		}
		out[key] = s
	}
	return out, nil
}

// Audit implements [service.Dataplane]. It counts the connections of what drains;
// and when a full audit is due, or somebody raised a suspicion, it reads all there
// is of ours and repairs what differs. A full audit is due every
// Config.AuditEvery, but takes no more than a tenth of the time.
func (d *Dataplane) Audit(ctx context.Context) (service.Report, error) {
	if d.last == nil {
		return service.Report{}, nil
	}
	if d.have == nil {
		return d.resync(ctx, d.last)
	}
	now := d.now()
	due := d.lastAudit.Add(auditEarly * d.cfg.AuditEvery / 10)
	if d.suspect.Swap(false) || !now.Before(due) {
		return d.verify(ctx)
	}
	var r service.Report
	err := d.drain(ctx, &r)
	return d.finish(r), err
}

// drain polls everything that drains.
func (d *Dataplane) drain(ctx context.Context, total *service.Report) error {
	refused, err := d.poll(ctx, slices.Collect(maps.Keys(d.drains.servers)), total)
	if err == nil && len(refused) > 0 {
		err = refusal(refused)
	}
	return err
}

// auditEarly is how early a full audit may be, in tenths of the period: the caller
// comes at random times.
const auditEarly = 7

// verify compares the kernel with what should be there, and repairs it.
func (d *Dataplane) verify(ctx context.Context) (service.Report, error) {
	begin := d.now()
	repaired, asserted := false, error(nil)
	if d.cfg.Assert != nil {
		repaired, asserted = d.cfg.Assert()
	}
	changed, err := d.checkFoundation(ctx)
	if err != nil {
		d.forget()
		return service.Report{}, errors.Join(asserted, err)
	}
	d.verifying = true
	defer func() { d.verifying = false }()
	if err := d.read(ctx); err != nil {
		return service.Report{}, err
	}
	t := newChange(nil)
	t.everything(d.have, d.want)
	r, err := d.settle(ctx, t)
	if err != nil {
		return r, err
	}
	d.verifying = false
	var drained service.Report
	if err := d.drain(ctx, &drained); err != nil {
		return r, err
	}
	r.Repaired = repaired || changed || r.Added+r.Changed+r.Removed > 0
	r.Resynced = true
	d.lastAudit = begin
	return d.finish(r), asserted
}
