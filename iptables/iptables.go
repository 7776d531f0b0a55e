package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// A Dataplane puts Snapshots in force with iptables, in one or both families. It
// implements [service.Dataplane]. It remembers what it last committed and writes
// only what differs; it reads the kernel at the first Sync, after an error, and
// in Audit.
type Dataplane struct {
	cfg     Config
	run     xt.Runner
	log     *slog.Logger
	metrics *Metrics
	planes  []*plane

	judged *service.Snapshot // what unserved was found in
	// unserved are the Ports the kernel cannot serve.
	unserved map[service.PortID]bool
}

// A plane is one family of a Dataplane.
type plane struct {
	*Dataplane
	family xt.Family

	last  *service.Snapshot // what is in force; nil if unsure
	state *state            // for last

	// sums are fingerprints of chains as an Audit found them, of chains that
	// were not written since. They tell an edited chain from ours.
	sums map[xt.ChainRef]uint64

	verified string        // fingerprint of the tables when an Audit found them right; empty for none
	probed   string        // fingerprint of the tables when their hooks were found right; empty for none
	trusted  time.Time     // until when a fingerprint like verified is enough
	auditDue time.Time     // when the tables may be read again
	written  bool          // something was, since they were read
	reading  time.Duration // what it took to read them last; zero before
	renewal  time.Time     // when no chain is trusted by its name
}

// New returns a Dataplane that has not touched the kernel yet. The metrics may be
// nil.
func New(cfg Config, run xt.Runner, m *Metrics) (*Dataplane, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		return nil, errors.New("iptables: Config.Log is required")
	}
	d := &Dataplane{cfg: cfg, run: run, log: cfg.Log, metrics: m, unserved: make(map[service.PortID]bool)}
	for _, f := range cfg.families() {
		d.planes = append(d.planes, &plane{Dataplane: d, family: f})
		m.serve(f)
	}
	return d, nil
}

// Sync implements [service.Dataplane]. The families are independent: when one
// fails, the other is in force all the same.
func (d *Dataplane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	r, err := d.each(func(p *plane) (service.Report, error) { return p.sync(ctx, snap) })
	r.Deviations = d.deviations(snap)
	return r, err
}

// deviations lists the Ports the kernel cannot serve.
func (d *Dataplane) deviations(snap *service.Snapshot) []service.Deviation {
	if d.cfg.SCTP {
		return nil
	}
	for old, now := range snap.Changed(d.judged) {
		if old != nil {
			delete(d.unserved, old.ID)
		}
		if now != nil && now.ID.Protocol == service.SCTP && len(now.Frontends) > 0 {
			d.unserved[now.ID] = true
		}
	}
	d.judged = snap
	var out []service.Deviation
	for _, id := range slices.SortedFunc(maps.Keys(d.unserved), service.PortID.Compare) {
		out = append(out, service.Deviation{Port: id, Reason: "the kernel cannot match ports of SCTP (xt_sctp)"})
	}
	return out
}

// Audit implements [service.Dataplane]. It costs next to nothing as long as
// nobody seems to have changed the tables since they were found right. Otherwise
// it looks at one hook of each table, which no flush of the table can miss. The
// tables as a whole, with every hook and chain of ours, are read as often as keeps
// that to a third of one per cent of the time when they change; for the first time
// after changes of our own, too, when so much time has passed. When by their
// fingerprint they have not changed, those of the nft variant are not read at all, and
// those of the legacy variant for a tenth of one per cent of the time at most, the
// larger the less, see [trust]. Once an hour no chain is
// trusted by its name.
func (d *Dataplane) Audit(ctx context.Context) (service.Report, error) {
	return d.each(func(p *plane) (service.Report, error) { return p.audit(ctx) })
}

func (d *Dataplane) each(do func(*plane) (service.Report, error)) (service.Report, error) {
	var total service.Report
	var errs []error
	for _, p := range d.planes {
		r, err := do(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("iptables %s: %w", p.family, err))
		}
		total.Resynced = total.Resynced || r.Resynced
		total.Repaired = total.Repaired || r.Repaired
		total.Added += r.Added
		total.Changed += r.Changed
		total.Removed += r.Removed
	}
	return total, errors.Join(errs...)
}

// Cleanup implements [service.Dataplane]. It removes every chain of ours, also
// those of an earlier process, and every jump to them.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	_, err := d.each(func(p *plane) (service.Report, error) {
		p.forget()
		have, err := d.run.Save(ctx, p.family)
		if err != nil {
			return service.Report{}, fmt.Errorf("read tables: %w", err)
		}
		return service.Report{}, d.run.Restore(ctx, xt.Diff(have, &xt.Ruleset{Family: p.family}, nil))
	})
	return err
}

func (p *plane) forget() { p.last, p.state, p.sums, p.verified, p.probed = nil, nil, nil, "", "" }

// sync writes the difference to what is in force, or everything the kernel does
// not have yet if that is not known.
func (p *plane) sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	if p.state == nil || !p.state.renders(&snap.Node) {
		return p.resync(ctx, snap, nil)
	}
	d := p.state.advance(p.last, snap)
	p.last = snap
	if err := p.commit(ctx, d.restore(p.family)); err != nil {
		return service.Report{}, err
	}
	p.unsure(d)
	p.schedule()
	p.metrics.synced(p.family, p.state.totals, d)
	return service.Report{Added: d.added, Changed: len(d.write) - d.added, Removed: len(d.remove)}, nil
}

// unsure forgets the fingerprints of what d touched.
func (p *plane) unsure(d *delta) {
	if d.first != nil {
		p.unsure(d.first)
	}
	for ref := range d.write {
		delete(p.sums, ref)
	}
	for _, ref := range d.remove {
		delete(p.sums, ref)
	}
}

// resync reads the kernel and writes what differs from the plan for snap. Chains
// named by their contents are trusted unless doubt says otherwise.
func (p *plane) resync(ctx context.Context, snap *service.Snapshot, doubt func(chain string) bool) (service.Report, error) {
	p.forget()
	begin := time.Now()
	have, err := p.run.Save(ctx, p.family)
	if err != nil {
		return service.Report{}, fmt.Errorf("read tables: %w", err)
	}
	st := newState(p.cfg, p.family, &snap.Node)
	d := st.advance(nil, snap)
	want := &xt.Ruleset{Family: p.family, Chains: d.write, Hooks: hooks()}
	r := xt.Diff(have, want, func(chain string) bool {
		return contentNamed(chain) && (doubt == nil || !doubt(chain))
	})
	if err := p.commit(ctx, r); err != nil {
		return service.Report{}, err
	}
	p.last, p.state = snap, st
	p.schedule()
	end := time.Now()
	p.renewal = end.Add(max(renewEvery, renewShare*end.Sub(begin)))
	p.metrics.synced(p.family, st.totals, d)
	return tally(r, have), nil
}

// A chain that is trusted by its name could have been edited where no Audit could
// tell, before the first one. So now and then every chain is written again that
// is not printed as it was given, and less often the longer that takes.
const (
	renewEvery = time.Hour
	renewShare = 1000
)

// commit applies r; after a failure nothing is known of the kernel.
func (p *plane) commit(ctx context.Context, r *xt.Restore) error {
	if r.Empty() {
		return nil
	}
	p.metrics.verify(p.family, false)
	if err := p.run.Restore(ctx, r); err != nil {
		p.metrics.failed(p.family, p.state != nil)
		p.forget()
		return fmt.Errorf("write tables: %w", err)
	}
	return nil
}

// tally counts what a restore did to a kernel that held have.
func tally(r *xt.Restore, have *xt.State) service.Report {
	out := service.Report{Resynced: true}
	for _, t := range r.Tables {
		out.Removed += len(t.Delete)
		for _, c := range t.Write {
			if _, ok := have.Chains[xt.ChainRef{Table: t.Table, Name: c.Name}]; ok {
				out.Changed++
			} else {
				out.Added++
			}
		}
	}
	return out
}

// How much longer than a reading of the tables the pause after it must be: when
// they have changed since, and when by their fingerprint they have not.
const (
	auditShare = 300
	trustShare = 1000

	// A reading that takes longer than slowReading is rarer still: slowShare for what
	// it takes more.
	slowReading = 50 * time.Millisecond
	slowShare   = 5000

	// trustPeriods is how many sync periods that are.
	trustPeriods = 10

	// ruleReading is about what a rule adds to a reading, until one has been measured.
	ruleReading = 3 * time.Microsecond
	// startReading is about what a reading takes of few rules. What takes more than
	// twice as long as it should is a busy machine, on which to wait spares nothing.
	startReading = 10 * time.Millisecond
)

// expected returns what a reading should take.
func (p *plane) expected() time.Duration {
	rules := 0
	for _, n := range p.state.totals {
		rules += n
	}
	return startReading + time.Duration(rules)*ruleReading
}

// trust returns how long a fingerprint that does not tell every change is enough,
// after a reading that took so long.
func (p *plane) trust(reading time.Duration) time.Duration {
	return max(trustShare*reading, trustShare*slowReading+slowShare*(reading-slowReading), trustPeriods*p.cfg.SyncPeriod)
}

// schedule notes that something was written, and says when the tables may be read
// for that. What is written meanwhile does not put it off.
func (p *plane) schedule() {
	if p.written {
		return
	}
	p.written = true
	reading := p.reading
	if reading == 0 {
		reading = p.expected() - startReading
	}
	if at := time.Now().Add(auditShare * reading); at.After(p.auditDue) {
		p.auditDue = at
	}
}

func (p *plane) audit(ctx context.Context) (service.Report, error) {
	if p.state == nil {
		return service.Report{}, nil
	}
	begin := time.Now()
	if begin.After(p.renewal) {
		return p.resync(ctx, p.last, func(string) bool { return true })
	}
	seen := p.run.Fingerprint(p.family)
	if seen != "" && seen == p.verified && (xt.Exact(seen) || begin.Before(p.trusted)) {
		return service.Report{}, nil
	}
	early := begin.Before(p.auditDue)
	if early && seen != "" && seen == p.probed {
		return service.Report{}, nil
	}
	intact, err := p.run.Probe(ctx, p.family, sentinels(), nil)
	if err != nil {
		return service.Report{}, fmt.Errorf("probe tables: %w", err)
	}
	if intact && early {
		p.probed = seen
		return service.Report{}, nil
	}
	return p.inspect(ctx, seen)
}

// inspect reads the tables, whose fingerprint is seen, and repairs what is wrong.
func (p *plane) inspect(ctx context.Context, seen string) (service.Report, error) {
	begin := time.Now()
	have, err := p.run.Save(ctx, p.family)
	if err != nil {
		return service.Report{}, fmt.Errorf("read tables: %w", err)
	}
	end := time.Now()
	p.reading, p.written = min(end.Sub(begin), 2*p.expected()), false
	p.auditDue, p.trusted = end.Add(auditShare*p.reading), end.Add(p.trust(p.reading))
	bad := p.damage(have)
	if len(bad) == 0 && hooked(have) {
		p.sums, p.verified = sums(have), seen
		p.metrics.verify(p.family, true)
		return service.Report{}, nil
	}
	p.log.Warn("the tables differ from what was written; repairing", "family", p.family, "chains", len(bad), "hooked", hooked(have))
	r, err := p.resync(ctx, p.last, func(chain string) bool { return bad[xt.ChainRef{Table: xt.NAT, Name: chain}] })
	r.Repaired = err == nil
	return r, err
}

// sentinels are the hooks that a cheap audit looks at. With the legacy tools each
// costs a copy of its table, so there is one for a table.
func sentinels() []xt.Hook {
	return slices.DeleteFunc(hooks(), func(h xt.Hook) bool {
		return h.Builtin != "PREROUTING" && h.Builtin != "FORWARD"
	})
}

// damage returns the chains that are not as they were written, are missing, or
// are not ours although they bear our name.
func (p *plane) damage(have *xt.State) map[xt.ChainRef]bool {
	bad := make(map[xt.ChainRef]bool)
	want := p.state.chains()
	for ref, rules := range want {
		got, ok := have.Chains[ref]
		sum, known := p.sums[ref]
		if !ok || got.Rules != rules || known && sum != got.Sum {
			bad[ref] = true
		}
	}
	for ref := range have.Chains {
		if _, ok := want[ref]; !ok {
			bad[ref] = true
		}
	}
	return bad
}

func hooked(have *xt.State) bool {
	want := make(map[xt.Hook]int)
	for _, h := range hooks() {
		want[h] = 1
	}
	return maps.Equal(have.Hooks, want)
}

func sums(have *xt.State) map[xt.ChainRef]uint64 {
	out := make(map[xt.ChainRef]uint64, len(have.Chains))
	for ref, c := range have.Chains {
		out[ref] = c.Sum
	}
	return out
}
