//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

const (
	coldSamples  = 4 // Services looked at, from the first to the last
	flipLead     = 30 * time.Millisecond
	probePatient = 100 * time.Millisecond
	sendTimeout  = 10 * time.Second // for the API server to write an event
	settle       = 2 * time.Second  // before memory is read
	flipPause    = 2500 * time.Millisecond
	flipJitter   = 1000 * time.Millisecond // so that changes and a proxy's own rhythm are not in step
	churnProbe   = 3 * time.Second         // between two changes during churn whose effect is timed
	churnStride  = 7919                    // prime, so churn comes to every Service
)

// trial is one proxy in one network: what happens between its start and its end.
type trial struct {
	options options
	spec    spec
	subject subject
	variant variant
	log     *slog.Logger
	shim    string // folder to put first in PATH
	real    bool   // behind a real API server
	network *network
	run     *running
	out     *outcome
	random  *rand.Rand

	tell    func() error  // that there are new figures
	flips   int           // probe Services used up
	earlier time.Duration // CPU of the proxy's runs before this one
}

// probesNeeded is how many probe Services a trial uses.
func (o options) probesNeeded() int {
	return o.flips + int(o.churn/churnProbe) + 2 // the last of churn, and a restart
}

// phase is a part of a trial.
type phase struct {
	name string
	run  func(context.Context) error
}

func (t *trial) plan() []phase {
	start := phase{"cold start", t.coldStart}
	afterStart := phase{"memory after start", func(ctx context.Context) error { return t.memory(ctx, startRSS, startPeak) }}
	afterChurn := phase{"memory after churn", func(ctx context.Context) error { return t.memory(ctx, churnRSS, churnPeak) }}
	idle, isolated, churn := phase{"idle", t.idle}, phase{"isolated changes", t.isolatedChanges}, phase{"churn", t.churn}
	peaks := phase{"peaks", t.peaks}
	if t.options.mode == modeIptables {
		return []phase{start, afterStart, idle, isolated, churn, afterChurn, peaks}
	}
	rest := phase{"come to rest", func(ctx context.Context) error { return t.rest(ctx, t.options.coldTimeout) }}
	list := []phase{{start.name, t.startIPVS}, rest, afterStart, idle, rest, isolated}
	if t.options.churn > 0 {
		list = append(list, churn, rest)
	}
	return append(list, afterChurn, peaks, phase{"warm restart", t.warmRestart})
}

// phases runs a trial from beginning to end. The error says what the proxy, or
// the harness, did not manage; figures taken before that stay.
func (t *trial) phases(ctx context.Context) error {
	for _, phase := range t.plan() {
		t.log.Info("phase", "name", phase.name)
		err := phase.run(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", phase.name, context.Cause(ctx)) // not the proxy's fault
		}
		if err != nil {
			return fmt.Errorf("%s: %w", phase.name, errors.Join(err, t.run.ended()))
		}
		if err := errors.Join(t.run.ended(), t.tell()); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return nil
}

// coldStart waits for Services to answer, counted from the start of the proxy.
func (t *trial) coldStart(ctx context.Context) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // there is nothing to wait for when the proxy has ended
		select {
		case <-t.run.process.Done():
			cancel()
		case <-watching.Done():
		}
	}()
	w := t.coldWatcher()
	answered, err := w.run(watching, t.network.pod.NS)
	if err != nil {
		return err
	}
	used, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(answered, time.Time.IsZero); i >= 0 {
		if t.run.ended() == nil { // otherwise more time would not have helped
			t.out.atLeast(coldAll, time.Since(t.run.started).Seconds())
			t.out.atLeast(coldCPU, used.Seconds())
		}
		return fmt.Errorf("%s did not answer; the proxy was given %v, and used %.1f s of CPU",
			w.targets[i], time.Since(t.run.started).Round(10*time.Millisecond), used.Seconds())
	}
	t.out.add(coldFirst, slices.MinFunc(answered, time.Time.Compare).Sub(t.run.started).Seconds())
	t.out.add(coldAll, slices.MaxFunc(answered, time.Time.Compare).Sub(t.run.started).Seconds())
	t.out.add(coldCPU, used.Seconds())
	return nil
}

func (t *trial) memory(ctx context.Context, resident, peak metric) error {
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	m, err := readMemory(t.run.pid())
	if err != nil {
		return err
	}
	t.out.add(resident, float64(m.resident))
	t.out.add(peak, float64(m.peak))
	return nil
}

func (t *trial) idle(ctx context.Context) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := sleep(ctx, t.options.idle); err != nil {
		return err
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(idleCPU, milliseconds(after-before)/time.Since(begun).Seconds())
	return nil
}

// isolatedChanges makes changes that are far enough apart for the proxy to have
// come to rest: fewer than were asked for, but at least two, if it needs long for that.
func (t *trial) isolatedChanges(ctx context.Context) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	const limit = time.Minute
	begun, made := time.Now(), 0
	for made < t.options.flips && (made < 2 || time.Since(begun) < limit) {
		took, err := t.flip(ctx, t.nextFlip())
		if err != nil {
			return err
		}
		made++
		t.out.add(flipLatency, milliseconds(took))
		if err := t.pause(ctx); err != nil {
			return err
		}
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(flipCPU, milliseconds(after-before)/float64(made))
	return nil
}

// pause waits between two isolated changes. In the mode ipvs kube-proxy may go on
// with what it does about a change long after that is in force.
func (t *trial) pause(ctx context.Context) error {
	if t.options.mode == modeIPVS {
		if err := t.rest(ctx, t.options.flipTimeout); err != nil {
			return err
		}
	}
	return sleep(ctx, flipPause+time.Duration(t.random.Int64N(int64(flipJitter))))
}

func (t *trial) nextFlip() int {
	t.flips++
	return t.flips - 1
}

// flip gives the k-th probe Service its first live endpoint, and returns how long
// after the event was sent it answered.
func (t *trial) flip(ctx context.Context, k int) (time.Duration, error) {
	i := t.spec.probe(k)
	w := watcher{
		targets: []netip.AddrPort{vip(i)}, every: t.options.mode.pace().flipTick, patience: probePatient, timeout: t.options.flipTimeout,
		through: t.variant == userspace,
	}
	var answered []time.Time
	var probing error
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	done.Go(func() { answered, probing = w.run(ctx, t.network.pod.NS) })
	sent, err := t.sendFlip(ctx, i, k)
	if err != nil {
		cancel()
	}
	done.Wait()
	interrupted := ctx.Err()
	cancel()
	switch {
	case err != nil || probing != nil || interrupted != nil:
		return 0, errors.Join(err, probing, interrupted)
	case answered[0].IsZero():
		return 0, fmt.Errorf("a new endpoint did not answer; the proxy was given %v", t.options.flipTimeout)
	case answered[0].Before(sent):
		return 0, fmt.Errorf("an endpoint answered %v before it was announced", sent.Sub(answered[0]))
	}
	return answered[0].Sub(sent), nil
}

func (t *trial) sendFlip(ctx context.Context, i, k int) (time.Time, error) {
	if err := sleep(ctx, flipLead); err != nil { // until the probes are on their way
		return time.Time{}, err
	}
	change, err := t.network.moveEndpoint(ctx, i, 0, t.spec.spare(k))
	if err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return change.awaitSent(ctx)
}

// churn moves endpoints at a steady rate, and times the effect of some changes on
// the way and of the last one, so that it ends when there is no backlog.
func (t *trial) churn(ctx context.Context) error {
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	flips := newFlipGroup(ctx, t)
	changes, err := t.churnLoop(ctx, flips)
	if err == nil {
		flips.start()
	}
	if err := errors.Join(err, flips.wait()); err != nil {
		return err
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	t.out.add(churnLatency, flips.took...)
	t.out.add(churnCPU, (after-before).Seconds()*1000/float64(changes+flips.started))
	return nil
}

// churnLoop returns how many changes it made, apart from those of flips.
func (t *trial) churnLoop(ctx context.Context, flips *flipGroup) (int, error) {
	tick := time.NewTicker(time.Second / time.Duration(t.options.rate))
	defer tick.Stop()
	begun := time.Now()
	nextProbe := begun.Add(churnProbe / 2)
	spares := t.options.probesNeeded() // those before have the probes' own
	for c := 0; ; c++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c, context.Cause(ctx)
		}
		now := time.Now()
		if now.Sub(begun) >= t.options.churn {
			return c, nil
		}
		_, err := t.network.replay.store.moveEndpoint(c*churnStride%t.spec.Services, c%t.spec.Endpoints, t.spec.spare(spares+c))
		if err != nil {
			return c, err
		}
		if now.After(nextProbe) {
			nextProbe = nextProbe.Add(churnProbe)
			flips.start()
		}
	}
}

// flipGroup runs flips side by side.
type flipGroup struct {
	ctx     context.Context // of the phase; the group lives no longer
	trial   *trial
	started int
	running sync.WaitGroup

	mu   sync.Mutex
	took []float64 // milliseconds
	errs []error
}

func newFlipGroup(ctx context.Context, t *trial) *flipGroup { return &flipGroup{ctx: ctx, trial: t} }

// start begins a flip. Not for concurrent use.
func (g *flipGroup) start() {
	g.started++
	k := g.trial.nextFlip()
	g.running.Go(func() {
		took, err := g.trial.flip(g.ctx, k)
		g.mu.Lock()
		defer g.mu.Unlock()
		if err != nil {
			g.errs = append(g.errs, err)
			return
		}
		g.took = append(g.took, milliseconds(took))
	})
}

func (g *flipGroup) wait() error {
	g.running.Wait()
	return errors.Join(g.errs...)
}

func (t *trial) peaks(context.Context) error {
	t.out.add(childPeak, float64(t.run.children.peak()))
	if peak, ok := t.run.meter.peak(); ok {
		t.out.add(groupPeak, float64(peak))
	}
	return nil
}

// connectPaths are the destinations that are timed in a network with rules.
func connectPaths(n *network, p positions, other netip.AddrPort) map[[2]metric]*path {
	return map[[2]metric]*path{
		{connectFirst01, connectFirst50}:   {network: n, target: p.first},
		{connectMiddle01, connectMiddle50}: {network: n, target: p.middle},
		{connectLast01, connectLast50}:     {network: n, target: p.last},
		{connectOther01, connectOther50}:   {network: n, target: other},
	}
}

// effort is CPU time used by everybody, by this process, and by a proxy.
type effort struct {
	machine machine
	self    time.Duration
	proxy   time.Duration
}

func (t *trial) effort() (effort, error) {
	var usage syscall.Rusage
	m, err := readMachine()
	if err == nil {
		err = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	}
	if err != nil {
		return effort{}, err
	}
	proxy, err := t.run.meter.cpu()
	self := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	return effort{machine: m, self: self, proxy: t.earlier + proxy}, err
}

// foreign is the share of the machine, in percent, that neither the proxy nor
// this process used between two efforts: the noise of the trial.
func foreign(from, to effort) float64 {
	total := to.machine.total - from.machine.total
	others := (to.machine.busy - from.machine.busy) - (to.self - from.self) - (to.proxy - from.proxy)
	if total <= 0 {
		return 0
	}
	return 100 * max(0, float64(others)/float64(total))
}

// sleep waits, or returns the reason why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newTrial starts a proxy in a new network.
func newTrial(ctx context.Context, t trial) (*trial, error) {
	shown := t.spec
	if t.real {
		shown = spec{Services: 1, Endpoints: 1} // nobody looks at the replay
	}
	n, err := newNetwork(shown, t.log)
	if err != nil {
		return nil, err
	}
	if t.real {
		if err := n.withAPI(ctx, t.spec); err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	t.network = n
	t.random = rand.New(rand.NewPCG(uint64(t.out.Round), 1))
	t.run, err = t.start(ctx, t.shim)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return &t, nil
}

// start starts the proxy once more.
func (t *trial) start(ctx context.Context, shim string) (*running, error) {
	m := t.options.mode
	if m == modeSuite {
		m = t.variant.mode()
	}
	return t.subject.start(ctx, t.network, m, t.variant, shim)
}

// otherTarget is a destination behind the node that is no Service.
func otherTarget() netip.AddrPort { return netip.AddrPortFrom(netns.PodAddr(200, 200).V4, targetPort) }
