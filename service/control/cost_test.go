package control_test

import (
	"context"
	"log/slog"
	"runtime"
	"testing"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

// A bell is a Dataplane that costs nothing and tells of each Sync.
type bell chan *service.Snapshot

func (b bell) Sync(_ context.Context, snap *service.Snapshot) (service.Report, error) {
	b <- snap
	return service.Report{}, nil
}
func (bell) Audit(context.Context) (service.Report, error) { return service.Report{}, nil }
func (bell) Cleanup(context.Context) error                 { return nil }

// TestOneChangeAmongMany is a guard: what the loop allocates for one changed endpoint,
// with metrics, health and what judges stale flows, must not grow with the number of
// Services.
func TestOneChangeAmongMany(t *testing.T) {
	cost := func(n int) (objects, bytes uint64) {
		synced, stale := make(bell), 0
		loop, err := control.New(control.Config{
			Log: slog.New(slog.DiscardHandler), Coalesce: 1, MinSyncPeriod: 1,
			HealthPorts: control.NewHealthPorts(control.NewHealth(0, nil), slog.New(slog.DiscardHandler)),
			Stale:       func(*service.Stale) { stale++ },
		}, service.NewStore(), []service.Dataplane{synced})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		update := func(change func(*service.Store) bool) {
			t.Helper()
			if err := loop.Update(ctx, change); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			update(func(s *service.Store) bool { return s.SetService(svc(i)) })
			update(func(s *service.Store) bool { return s.SetSlice(slice(i, 2)) })
		}
		loop.Synced()
		<-synced
		update(func(s *service.Store) bool { return s.SetSlice(slice(0, 4)) })
		<-synced // now the loop is done with the first
		const rounds = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range rounds {
			update(func(s *service.Store) bool { return s.SetSlice(slice(i*n/rounds, 3)) })
			<-synced
		}
		runtime.ReadMemStats(&after)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if stale < rounds {
			t.Errorf("told of stale flows %d times, want %d", stale, rounds)
		}
		return (after.Mallocs - before.Mallocs) / rounds, (after.TotalAlloc - before.TotalAlloc) / rounds
	}
	few, fewBytes := cost(1000)
	many, manyBytes := cost(10000)
	t.Logf("1,000 Services: %d objects, %d bytes; 10,000: %d objects, %d bytes", few, fewBytes, many, manyBytes)
	if many > few+10 || manyBytes > 2*fewBytes {
		t.Errorf("one change allocates %d objects and %d bytes among 1,000 Services, %d and %d among 10,000",
			few, fewBytes, many, manyBytes)
	}
}
