package control_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

const ms = time.Millisecond

// wish adds to r when the next audit is wanted.
func (p *plane) wish(r service.Report, err error) service.Report {
	if p.again != 0 && err == nil {
		r.Again = time.Now().Add(p.again)
	}
	return r
}

// audits runs a loop with a sync period of 100 s, whose first regular audit is due
// 75 to 95 s after the first sync, and returns when audits began, counted from
// that sync.
func audits(t *testing.T, use func(r *rig)) []time.Duration {
	t.Helper()
	var got []time.Duration
	run(t, control.Config{SyncPeriod: 100 * time.Second, Coalesce: ms}, func(r *rig) {
		r.loop.Synced()
		r.sleep(ms)
		use(r)
		for _, at := range r.plane.starts("audit") {
			got = append(got, at-ms)
		}
	})
	return got
}

func TestAgain(t *testing.T) {
	tests := []struct {
		name string
		use  func(r *rig)
		want []time.Duration
	}{
		{"asked for by each report", func(r *rig) {
			r.plane.set(func() { r.plane.again = 2 * time.Second })
			r.add(1)
			r.sleep(ms + 5*time.Second)
			r.plane.set(func() { r.plane.again = 0 })
			r.sleep(time.Minute)
		}, []time.Duration{2001 * ms, 4001 * ms, 6001 * ms}},
		{"taken back by the next sync", func(r *rig) {
			r.plane.set(func() { r.plane.again = 2 * time.Second })
			r.add(1)
			r.sleep(time.Second)
			r.plane.set(func() { r.plane.again = 0 })
			r.add(2)
			r.sleep(time.Minute)
		}, nil},
		{"in the past", func(r *rig) {
			r.plane.set(func() { r.plane.again = -time.Hour })
			r.add(1)
			r.sleep(ms + 500*ms)
			r.plane.set(func() { r.plane.again = 0 })
			r.sleep(time.Minute)
		}, []time.Duration{ms, 201 * ms, 401 * ms, 601 * ms}},
		{"nobody asks", func(r *rig) { r.sleep(74 * time.Second) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(audits(t, tt.use), tt.want); d != "" {
				t.Errorf("audits (-got +want):\n%s", d)
			}
		})
	}
}

func TestAuditSoon(t *testing.T) {
	tests := []struct {
		name string
		use  func(r *rig)
		want []time.Duration
	}{
		{"once", func(r *rig) {
			r.loop.AuditSoon()
			r.sleep(time.Minute)
		}, []time.Duration{50 * ms}},
		{"several are one", func(r *rig) {
			for range 40 {
				r.loop.AuditSoon()
				r.sleep(ms)
			}
			r.sleep(time.Minute)
		}, []time.Duration{50 * ms}},
		{"a steady stream", func(r *rig) {
			for range 100 {
				r.loop.AuditSoon()
				r.sleep(10 * ms)
			}
		}, []time.Duration{50 * ms, 250 * ms, 450 * ms, 650 * ms, 850 * ms}},
		{"during an audit that takes long", func(r *rig) {
			r.plane.set(func() { r.plane.took = time.Second })
			r.loop.AuditSoon()
			r.sleep(500 * ms)
			r.loop.AuditSoon()
			r.sleep(time.Minute)
		}, []time.Duration{50 * ms, 1250 * ms}},
		{"sooner than a dataplane asks", func(r *rig) {
			r.plane.set(func() { r.plane.again = 2 * time.Second })
			r.add(1)
			r.sleep(ms + 999*ms)
			r.plane.set(func() { r.plane.again = 0 })
			r.loop.AuditSoon()
			r.sleep(time.Minute)
		}, []time.Duration{1050 * ms}},
		{"from many goroutines", func(r *rig) {
			var all sync.WaitGroup
			for range 50 {
				all.Go(r.loop.AuditSoon)
			}
			all.Wait()
			r.sleep(time.Minute)
		}, []time.Duration{50 * ms}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(audits(t, tt.use), tt.want); d != "" {
				t.Errorf("audits (-got +want):\n%s", d)
			}
		})
	}
}

// TestExtraAuditsKeepTheRegularOnes: the dataplane looks closely only when its own
// period is over, so the call at that time must come.
func TestExtraAuditsKeepTheRegularOnes(t *testing.T) {
	var regular []time.Duration
	got := audits(t, func(r *rig) {
		for range 60 {
			r.loop.AuditSoon()
			r.sleep(10 * time.Second)
		}
	})
	for _, at := range got {
		if at%(10*time.Second) != 50*ms {
			regular = append(regular, at)
		}
	}
	// Ten minutes hold six or seven of 75 to 95 s; one may fall on an extra one.
	if n := len(regular); n < 5 || n > 8 {
		t.Errorf("regular audits at %v, want six or seven in ten minutes", regular)
	}
	if n := len(got); n < 60 || n > 68 {
		t.Errorf("%d audits, want 60 and the regular ones", n)
	}
}

func TestAuditSoonBeforeTheFirstSync(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		r.loop.AuditSoon()
		r.sleep(time.Second)
		r.loop.AuditSoon()
		r.sleep(time.Second)
		r.plane.set(func() { r.plane.fail["sync"] = 3 })
		r.loop.Synced()
		r.sleep(50 * ms)
		r.loop.AuditSoon()
		r.sleep(20 * time.Second)
		if got := r.plane.starts("audit"); len(got) > 0 {
			t.Errorf("audits at %v, want none", got)
		}
	})
}

// TestAuditSoonWhileFailing: the sync that follows reads the kernel first, and the
// audit comes once one has succeeded.
func TestAuditSoonWhileFailing(t *testing.T) {
	run(t, control.Config{}, func(r *rig) {
		r.loop.Synced()
		r.sleep(time.Second)
		r.plane.set(func() { r.plane.fail["sync"] = 3 })
		r.add(1)
		r.sleep(50 * ms)
		r.loop.AuditSoon()
		r.sleep(10 * time.Second)
		syncs, audits := r.plane.starts("sync"), r.plane.starts("audit")
		if len(audits) != 1 || audits[0] != syncs[len(syncs)-1] {
			t.Errorf("syncs at %v, audits at %v; want an audit right after the last sync", syncs, audits)
		}
	})
}

// TestAuditSoonWithoutLoop: nobody need run the loop, before or after.
func TestAuditSoonWithoutLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Config{})
		r.stop()
		for range 3 {
			r.loop.AuditSoon()
		}
	})
}

// TestEarliestWishCounts has two dataplanes with wishes of their own.
func TestEarliestWishCounts(t *testing.T) {
	for _, tt := range []struct{ a, b, want time.Duration }{
		{2 * time.Second, 3 * time.Second, 2 * time.Second},
		{3 * time.Second, 2 * time.Second, 2 * time.Second},
		{0, 3 * time.Second, 3 * time.Second},
		{3 * time.Second, 0, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &plane{start: time.Now(), fail: make(map[string]int), again: tt.a}
			b := &plane{start: time.Now(), fail: make(map[string]int), again: tt.b}
			loop, err := control.New(control.Config{Log: slog.New(slog.DiscardHandler), Coalesce: 1},
				service.NewStore(), []service.Dataplane{a, b})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), tt.want+time.Second)
			defer cancel()
			loop.Synced()
			if err := loop.Run(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if got := a.starts("audit"); len(got) != 1 || got[0] != tt.want+1 {
				t.Errorf("wishes of %s and %s: audits at %v, want one at %s", tt.a, tt.b, got, tt.want)
			}
		})
	}
}
