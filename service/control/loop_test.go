package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

// A plane is a Dataplane that takes its time, fails when told to, and remembers.
type plane struct {
	mu      sync.Mutex
	start   time.Time
	took    time.Duration
	fail    map[string]int // what: how many more times
	report  service.Report
	repairs bool
	again   time.Duration // wanted after each call but for a failed one; zero for none
	calls   []call
	last    *service.Snapshot
}

type call struct {
	What       string
	Start, End time.Duration
	Ports      int
	Err        bool
}

var errPlane = errors.New("kernel says no")

func (p *plane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	err := p.call(ctx, "sync", snap)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wish(p.report, err), err
}

func (p *plane) Audit(ctx context.Context) (service.Report, error) {
	err := p.call(ctx, "audit", nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wish(service.Report{Repaired: p.repairs}, err), err
}

func (p *plane) Cleanup(context.Context) error { panic("the loop must not clean up") }

func (p *plane) call(ctx context.Context, what string, snap *service.Snapshot) error {
	c := call{What: what, Start: time.Since(p.start)}
	p.mu.Lock()
	took := p.took
	p.mu.Unlock()
	var err error
	if took > 0 {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail[what] > 0 {
		p.fail[what]--
		err = errPlane
	}
	if snap != nil {
		c.Ports = snap.Ports.Len()
		p.last = snap
	}
	c.End, c.Err = time.Since(p.start), err != nil
	p.calls = append(p.calls, c)
	return err
}

func (p *plane) set(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// starts returns when each call of the given kind began.
func (p *plane) starts(what string) []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []time.Duration
	for _, c := range p.calls {
		if c.What == what {
			out = append(out, c.Start)
		}
	}
	return out
}

// A rig is a running loop over one plane.
type rig struct {
	t      *testing.T
	loop   *control.Loop
	plane  *plane
	cancel context.CancelFunc
	done   chan error
}

// run starts a loop in a bubble of its own, calls use, and stops the loop. The
// bubble fails the test if a goroutine is left.
func run(t *testing.T, cfg control.Config, use func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, cfg)
		synctest.Wait()
		use(r)
		r.stop()
	})
}

func start(t *testing.T, cfg control.Config) *rig {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &plane{start: time.Now(), fail: make(map[string]int)}
	loop, err := control.New(cfg, service.NewStore(), []service.Dataplane{p})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &rig{t: t, loop: loop, plane: p, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- loop.Run(ctx) }()
	return r
}

func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Errorf("Run: %v, want nil", err)
	}
}

// sleep lets d pass and waits until the loop waits too.
func (r *rig) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) update(change func(*service.Store) bool) {
	r.t.Helper()
	if err := r.loop.Update(r.t.Context(), change); err != nil {
		r.t.Fatal(err)
	}
}

// add hands over Service number n of the test with one endpoint.
func (r *rig) add(n int) {
	r.t.Helper()
	r.update(func(s *service.Store) bool { return s.SetService(svc(n)) })
	r.update(func(s *service.Store) bool { return s.SetSlice(slice(n, 2)) })
}

// change moves the endpoint of Service n.
func (r *rig) change(n, host int) {
	r.t.Helper()
	r.update(func(s *service.Store) bool { return s.SetSlice(slice(n, host)) })
}

func name(n int) service.Name {
	return service.Name{Namespace: "default", Name: fmt.Sprintf("s%d", n)}
}

func svc(n int) *service.Service {
	return &service.Service{
		Name:       name(n),
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)})},
		Families:   []service.Family{service.IPv4},
		Ports:      []service.ServicePort{{Protocol: service.UDP, Port: 53}},
	}
}

func slice(n, host int) *service.Slice {
	return &service.Slice{
		Service: name(n), Name: fmt.Sprintf("s%d-a", n),
		Ports: []service.SlicePort{{Protocol: service.UDP, Port: 53}},
		Endpoints: []service.SliceEndpoint{
			service.NewSliceEndpoint(netip.AddrFrom4([4]byte{10, 244, 1, byte(host)}), &service.EndpointState{Ready: true, Serving: true}),
		},
	}
}

func TestNothingBeforeSynced(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		for n := range 1000 { // more than the queue holds
			r.add(n)
		}
		r.sleep(time.Hour)
		if got := len(r.plane.calls); got > 0 {
			t.Errorf("%d calls before Synced, want none", got)
		}
		r.loop.Synced()
		r.loop.Synced()
		r.sleep(time.Second)
		got, want := r.plane.calls, []call{{What: "sync", Start: time.Hour + control.DefaultCoalesce, End: time.Hour + control.DefaultCoalesce, Ports: 1000}}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("calls (-got +want):\n%s", d)
		}
	})
}

func TestFirstSyncHoldsAllThatCameBefore(t *testing.T) {
	run(t, control.Config{Coalesce: time.Nanosecond}, func(r *rig) {
		for n := range 100 {
			r.add(n)
		}
		r.loop.Synced()
		r.sleep(time.Second)
		if c := r.plane.calls; len(c) != 1 || c[0].Ports != 100 {
			t.Errorf("calls %+v, want one with 100 ports", c)
		}
	})
}

func TestEmptyClusterIsSynced(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		if got := len(r.plane.starts("sync")); got != 1 {
			t.Errorf("%d syncs, want 1", got)
		}
	})
}

func TestCoalescing(t *testing.T) {
	run(t, control.Config{Coalesce: 5 * time.Millisecond}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		r.update(func(s *service.Store) bool { return s.SetService(svc(1)) })
		r.sleep(2 * time.Millisecond)
		r.change(1, 2)
		r.sleep(2 * time.Millisecond)
		r.change(1, 3)
		r.sleep(time.Second)
		r.change(1, 3) // no change
		r.sleep(time.Second)
		got := r.plane.starts("sync")
		want := []time.Duration{5 * time.Millisecond, 1005 * time.Millisecond}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("syncs (-got +want):\n%s", d)
		}
		if got := r.plane.last.Ports.At(0).Cluster[0].Addr.String(); got != "10.244.1.3:53" {
			t.Errorf("endpoint in force %s, want 10.244.1.3:53", got)
		}
	})
}

func TestPacing(t *testing.T) {
	tests := []struct {
		name string
		cfg  control.Config
		took time.Duration
		skip int           // syncs before the wanted pace
		want time.Duration // between the starts of two syncs
	}{
		{name: "cheap syncs follow changes", took: time.Millisecond, want: 100 * time.Millisecond},
		{name: "dear syncs wait", took: 30 * time.Millisecond, skip: 4, want: 3 * time.Second},
		{name: "a quarter of the time", cfg: control.Config{DutyCycle: 0.25, Burst: 1}, took: time.Second, want: 4 * time.Second},
		{name: "half of the time", cfg: control.Config{DutyCycle: 0.5, Burst: 1}, took: time.Second, want: 2 * time.Second},
		{name: "a burst first", cfg: control.Config{DutyCycle: 0.25}, took: 20 * time.Millisecond, want: 100 * time.Millisecond},
		{name: "no longer than MaxDelay", cfg: control.Config{MaxDelay: 2 * time.Second}, took: 5 * time.Second, want: 7 * time.Second},
		{name: "no longer than two and a half times MinSyncPeriod", cfg: control.Config{MinSyncPeriod: time.Second}, took: 5 * time.Second, want: 7500 * time.Millisecond},
		{name: "MinSyncPeriod and eight syncs", cfg: control.Config{MinSyncPeriod: time.Second}, took: 50 * time.Millisecond, skip: 3, want: 1450 * time.Millisecond},
		{name: "MinSyncPeriod delays nothing", cfg: control.Config{DutyCycle: 0.25, Burst: 1, MinSyncPeriod: 20 * time.Second}, took: time.Second, want: 4 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Coalesce = time.Nanosecond
			tt.cfg.SyncPeriod = time.Hour // no audit meanwhile
			run(t, tt.cfg, func(r *rig) {
				r.plane.set(func() { r.plane.took = tt.took })
				r.loop.Synced()
				for i := range 600 { // a minute of changes
					r.sleep(100 * time.Millisecond)
					r.add(i)
				}
				r.sleep(time.Minute)
				starts := r.plane.starts("sync")
				if len(starts) < tt.skip+5 {
					t.Fatalf("syncs at %v, want more", starts)
				}
				for i := tt.skip + 2; i < tt.skip+5; i++ { // after those of the first change
					if got := starts[i] - starts[i-1]; got < tt.want-time.Millisecond || got > tt.want+100*time.Millisecond {
						t.Errorf("sync %d came %s after the one before, want %s", i, got, tt.want)
					}
				}
				if got := r.plane.last.Ports.Len(); got != 600 {
					t.Errorf("%d ports in force at last, want 600", got)
				}
			})
		})
	}
}

// TestChurn has changes come at a steady rate for a minute, with the settings of the
// program: what share of the time goes into syncs, and what does a change wait?
func TestChurn(t *testing.T) {
	tests := []struct {
		name   string
		every  time.Duration // between two changes
		took   time.Duration // a sync
		share  float64       // at most, of the time
		within time.Duration // in force after a change
	}{
		{"one at a time", time.Second, 31 * ms, 0.032, 33 * ms},
		{"one at a time, a large table", 1500 * ms, 230 * ms, 0.16, 232 * ms},
		{"a few a second", 310 * ms, 10 * ms, 0.034, 12 * ms},
		{"churn", 50 * ms, ms, 0.013, 150 * ms},
		{"churn, written over netlink", 50 * ms, 5 * ms, 0.013, 560 * ms},
		{"churn, a table of 1,000 Services", 50 * ms, 31 * ms, 0.027, 1350 * ms},
		{"churn, a large table", 50 * ms, 230 * ms, 0.09, 3000 * ms},
		{"a flood, a large table", ms, 800 * ms, 0.48, 2800 * ms},
		{"a thousand a second", ms, 30 * ms, 0.033, 1350 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run(t, control.Config{SyncPeriod: time.Hour, MinSyncPeriod: time.Second}, func(r *rig) {
				r.plane.set(func() { r.plane.took = tt.took })
				r.add(1)
				r.loop.Synced()
				r.sleep(time.Minute)
				begin := time.Since(r.plane.start)
				for i := 0; time.Since(r.plane.start) < begin+time.Minute; i++ {
					r.change(1, i%200)
					r.sleep(tt.every)
				}
				r.sleep(time.Minute)
				var longest, spent time.Duration
				first := begin // of the changes that a sync holds
				for _, c := range r.plane.calls[1:] {
					longest = max(longest, c.End-first)
					spent += c.End - c.Start
					first = begin + ((c.Start-begin)/tt.every+1)*tt.every
				}
				if got := spent.Seconds() / 60; got > tt.share || got == 0 {
					t.Errorf("%.4f of the time in syncs, want at most %.4f", got, tt.share)
				}
				if longest > tt.within {
					t.Errorf("a change was in force after %s, want %s at most", longest, tt.within)
				}
			})
		})
	}
}

// TestChurnEnds requires that what came last does not wait for more, once it is clear
// that nothing more comes.
func TestChurnEnds(t *testing.T) {
	for took, within := range map[time.Duration]time.Duration{
		5 * ms:   310 * ms,
		31 * ms:  370 * ms,
		230 * ms: 1390 * ms, // another sync is under way at worst
	} {
		run(t, control.Config{SyncPeriod: time.Hour, MinSyncPeriod: time.Second}, func(r *rig) {
			r.plane.set(func() { r.plane.took = took })
			r.add(1)
			r.loop.Synced()
			r.sleep(time.Minute)
			for i := range 600 {
				r.sleep(50 * ms)
				r.change(1, i%200)
			}
			last := time.Since(r.plane.start)
			r.sleep(time.Minute)
			if got := r.plane.calls[len(r.plane.calls)-1].End - last; got > within {
				t.Errorf("a sync takes %s: the last change was in force after %s, want %s at most", took, got, within)
			}
		})
	}
}

// TestIdleAfterSlowSync requires that a sync long past does not delay a change.
func TestIdleAfterSlowSync(t *testing.T) {
	run(t, control.Config{SyncPeriod: time.Hour}, func(r *rig) {
		r.plane.set(func() { r.plane.took = 2 * time.Second })
		r.loop.Synced()
		r.sleep(time.Minute)
		r.add(1)
		r.sleep(time.Minute)
		got, want := r.plane.starts("sync"), []time.Duration{control.DefaultCoalesce, time.Minute + control.DefaultCoalesce}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("syncs (-got +want):\n%s", d)
		}
	})
}

// TestFlood requires that sources that never pause cannot put a sync off.
func TestFlood(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		ctx, cancel := context.WithCancel(r.t.Context())
		var sources sync.WaitGroup
		for range 3 {
			sources.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					_ = r.loop.Update(ctx, func(s *service.Store) bool {
						time.Sleep(10 * time.Microsecond) // else time stands still in the bubble
						return s.SetSlice(slice(1, i%200))
					})
				}
			})
		}
		r.update(func(s *service.Store) bool { return s.SetService(svc(1)) })
		r.loop.Synced()
		r.sleep(100 * time.Millisecond)
		if got := len(r.plane.starts("sync")); got < 5 {
			t.Errorf("%d syncs in 100 ms of flood, want at least 5", got)
		}
		cancel()
		sources.Wait()
	})
}

func TestRetry(t *testing.T) {
	run(t, control.Config{SyncPeriod: time.Second}, func(r *rig) {
		r.plane.set(func() { r.plane.fail["sync"] = 7 })
		r.loop.Synced()
		r.sleep(5000 * time.Millisecond)
		var got []time.Duration
		starts := r.plane.starts("sync")
		for i := 1; i < len(starts); i++ {
			got = append(got, starts[i]-starts[i-1])
		}
		const ms = time.Millisecond
		want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms, 1000 * ms, 1000 * ms}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("pauses (-got +want):\n%s", d)
		}
		if audits := r.plane.starts("audit"); len(audits) > 0 {
			t.Errorf("audits at %v while syncs fail, want none", audits)
		}
		r.sleep(time.Minute)
		if n := len(r.plane.starts("sync")); n != len(starts) {
			t.Errorf("%d syncs after success without a change, want none", n-len(starts))
		}
	})
}

func TestChangeRetriesSooner(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		r.plane.set(func() { r.plane.fail["sync"] = 9 })
		r.loop.Synced()
		r.sleep(27 * time.Second) // the next try by itself is after 51.1 s
		before := len(r.plane.starts("sync"))
		r.plane.set(func() { r.plane.fail["sync"] = 0 })
		r.add(1)
		r.sleep(10 * time.Millisecond)
		if got := len(r.plane.starts("sync")); got != before+1 {
			t.Errorf("%d syncs within 10 ms of a change, want 1", got-before)
		}
		// A new row of failures begins with a short pause.
		r.plane.set(func() { r.plane.fail["sync"] = 1 })
		r.add(2)
		r.sleep(200 * time.Millisecond)
		if got := len(r.plane.starts("sync")); got != before+3 {
			t.Errorf("%d syncs after success, want a failure and its retry", got-before-1)
		}
	})
}

func TestAudit(t *testing.T) {
	run(t, control.Config{SyncPeriod: 10 * time.Second}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Hour)
		audits := r.plane.starts("audit")
		if n := len(audits); n < 378 || n > 480 {
			t.Errorf("%d audits in an hour, want about 424", n)
		}
		distinct := make(map[time.Duration]bool)
		for i := 1; i < len(audits); i++ {
			d := audits[i] - audits[i-1]
			distinct[d] = true
			if d < 7500*time.Millisecond || d > 9500*time.Millisecond {
				t.Errorf("audit %d came after %s, want somewhat less than 10s", i, d)
			}
		}
		if len(distinct) < 10 {
			t.Errorf("%d different periods, want jitter", len(distinct))
		}
		if got := len(r.plane.starts("sync")); got != 1 {
			t.Errorf("%d syncs, want 1", got)
		}
	})
}

func TestFailedAuditIsFollowedBySync(t *testing.T) {
	run(t, control.Config{SyncPeriod: 10 * time.Second}, func(r *rig) {
		r.plane.set(func() { r.plane.fail["audit"] = 1 })
		r.loop.Synced()
		r.sleep(12 * time.Second)
		audits, syncs := r.plane.starts("audit"), r.plane.starts("sync")
		if len(audits) != 1 || len(syncs) != 2 || syncs[1] != audits[0]+100*time.Millisecond {
			t.Errorf("audits at %v, syncs at %v, want a sync 100ms after the audit", audits, syncs)
		}
	})
}

// TestNoAuditWhileFailing: the retries read the kernel anyway.
func TestNoAuditWhileFailing(t *testing.T) {
	run(t, control.Config{SyncPeriod: 10 * time.Second}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		r.plane.set(func() { r.plane.fail["sync"] = 1000 })
		r.add(1)
		r.sleep(5 * time.Minute)
		if got := r.plane.starts("audit"); len(got) > 0 {
			t.Errorf("audits at %v, want none", got)
		}
		r.plane.set(func() { r.plane.fail["sync"] = 0 })
		r.sleep(time.Minute)
		if got := len(r.plane.starts("audit")); got < 4 {
			t.Errorf("%d audits in the minute after, want about 5", got)
		}
	})
}

func TestStopWhileSyncing(t *testing.T) {
	logs := &recorder{}
	run(t, control.Config{Log: slog.New(logs)}, func(r *rig) {
		r.plane.set(func() { r.plane.took = time.Hour })
		r.loop.Synced()
		r.sleep(time.Minute)
		began := time.Now()
		r.stop()
		r.done <- nil // for the second stop
		if got := time.Since(began); got != 0 {
			t.Errorf("stopped after %s, want at once", got)
		}
		if err := r.loop.Update(r.t.Context(), func(*service.Store) bool { return true }); !errors.Is(err, control.ErrStopped) {
			t.Errorf("Update after the end: %v, want ErrStopped", err)
		}
	})
	if len(logs.lines) > 0 {
		t.Errorf("log %q, want nothing: stopping is no failure", logs.lines)
	}
}

func TestUpdateGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loop, err := control.New(control.Config{Log: slog.New(slog.DiscardHandler)}, service.NewStore(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for err == nil { // nobody runs the loop: the queue fills
			err = loop.Update(ctx, func(*service.Store) bool { return true })
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Update = %v, want deadline exceeded", err)
		}
	})
}

func TestValidateReportsEverything(t *testing.T) {
	_, err := control.New(control.Config{SyncPeriod: -1, MaxDelay: -1, MinSyncPeriod: -1, Coalesce: -1, Burst: -1, DutyCycle: 2}, service.NewStore(), nil)
	for _, field := range []string{"log", "syncPeriod", "maxDelay", "minSyncPeriod", "coalesce", "dutyCycle"} {
		if err == nil || !contains(err.Error(), field+": ") {
			t.Errorf("error %v, want %s in it", err, field)
		}
	}
}
