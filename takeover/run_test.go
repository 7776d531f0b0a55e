package takeover

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// TestWatcherNext is how long the watcher waits after passes that have not failed.
func TestWatcherNext(t *testing.T) {
	removed, pending, nothing := Result{Chains: 3}, Result{Draining: 1}, Result{}
	for _, c := range []struct {
		name    string
		age     time.Duration
		results []Result
		want    []time.Duration
		told    []string
	}{
		{"nothing there", 0, []Result{nothing, nothing, nothing}, []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second}, nil},
		{"removed, and it stays away", 0, []Result{removed, nothing, nothing}, []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second}, nil},
		{"it comes back", 0, []Result{removed, nothing, removed, nothing}, []time.Duration{10 * time.Second, 20 * time.Second, 10 * time.Second, 20 * time.Second}, nil},
		{"connections last", 0, []Result{removed, pending, pending, nothing}, []time.Duration{10 * time.Second, drainEvery, drainEvery, 20 * time.Second}, nil},
		{"late, and nothing", time.Hour, []Result{nothing}, []time.Duration{0}, nil},
		{"late, and connections last", time.Hour, []Result{pending}, []time.Duration{drainEvery}, nil},
		{"late, and somebody writes", time.Hour, []Result{removed}, []time.Duration{0}, []string{ReasonStillThere}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told []string
			w := watcher{
				taker: newTaking(t, IPTables).Taker, began: time.Now().Add(-c.age), pause: watchMin,
				tell: func(reason, _ string, _ bool) { told = append(told, reason) },
			}
			var got []time.Duration
			for _, r := range c.results {
				got = append(got, w.next(r, 0))
			}
			if d := cmp.Diff(got, c.want); d != "" {
				t.Errorf("waits (-got +want):\n%s", d)
			}
			if !slices.Equal(told, c.told) {
				t.Errorf("told %v, want %v", told, c.told)
			}
		})
	}
}

// TestDearPass: where all tables take long to read, they are read less often.
func TestDearPass(t *testing.T) {
	w := watcher{taker: newTaking(t, IPTables).Taker, began: time.Now(), pause: watchMin}
	got := []time.Duration{w.next(Result{}, time.Second/2), w.next(Result{Chains: 1}, time.Minute), w.next(Result{}, time.Minute)}
	if want := []time.Duration{50 * time.Second, watchMin, watchMax}; !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
}

// A stubPlane fails a number of times.
type stubPlane struct {
	service.Dataplane
	failures int
}

var errStub = errors.New("not yet")

func (p *stubPlane) Sync(context.Context, *service.Snapshot) (service.Report, error) {
	if p.failures--; p.failures >= 0 {
		return service.Report{}, errStub
	}
	return service.Report{}, nil
}

// TestPlane removes nothing before the first Sync has succeeded, tries again what
// fails, and says once what it did.
func TestPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTaking(t, IPTables)
		var looks atomic.Int32
		local, sockets := x.cfg.Local, x.cfg.Sockets
		x.cfg.Local = func() ([]netip.Addr, error) {
			looks.Add(1)
			return local()
		}
		x.cfg.Sockets = func() (map[netip.Addr]bool, error) {
			if looks.Load() < 3 {
				return nil, errors.New("no sockets")
			}
			return sockets()
		}
		p := NewPlane(&stubPlane{failures: 1}, x.Taker)
		var told []string
		done := make(chan error, 1)
		go func() {
			done <- p.Run(t.Context(), func(reason, _ string, _ bool) { told = append(told, reason) })
		}()
		if _, err := p.Sync(t.Context(), nil); !errors.Is(err, errStub) {
			t.Fatalf("the first Sync: %v", err)
		}
		time.Sleep(time.Hour)
		if n := looks.Load(); n != 0 {
			t.Fatalf("%d looks after a Sync that failed", n)
		}
		if _, err := p.Sync(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := looks.Load(); n < 5 || n > 20 {
			t.Errorf("%d looks, want some in ten minutes, and then no more", n)
		}
		if !slices.Equal(told, []string{ReasonNotTakeover, ReasonTookOver}) {
			t.Errorf("told %v, want the failure and then the success", told)
		}
		if got := x.servers(t); !slices.Equal(got, bystanders) {
			t.Errorf("servers left: %v, want %v", got, bystanders)
		}
	})
}
