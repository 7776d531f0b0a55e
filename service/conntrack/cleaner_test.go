package conntrack

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
)

// A fakeKernel holds UDP entries and can be slow or refuse.
type fakeKernel struct {
	mu      sync.Mutex
	start   time.Time
	entries map[service.Family]map[service.ConntrackFlow]bool
	took    time.Duration
	fail    int // this many calls
	log     []string
}

var errFake = errors.New("no")

func (k *fakeKernel) Purge(ctx context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (int, error) {
	at := time.Since(k.start)
	select {
	case <-time.After(k.took):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail > 0 {
		k.fail--
		k.log = append(k.log, fmt.Sprintf("%s %s failed", at, f))
		return 0, errFake
	}
	n := 0
	for e := range k.entries[f] {
		if orphan(e) {
			delete(k.entries[f], e)
			n++
		}
	}
	k.log = append(k.log, fmt.Sprintf("%s %s deleted %d", at, f, n))
	return n, nil
}

func (k *fakeKernel) add(vip, endpoint string) {
	dst := netip.MustParseAddrPort(vip)
	f := service.FamilyOf(dst.Addr())
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries[f] == nil {
		k.entries[f] = make(map[service.ConntrackFlow]bool)
	}
	k.entries[f][service.ConntrackFlow{Protocol: service.UDP, OrigDst: dst, ReplySrc: netip.MustParseAddrPort(endpoint)}] = true
}

// serving returns what is stale at vip when only the endpoints are left.
func serving(vip string, endpoints ...string) *service.Stale {
	p := &service.Port{
		ID:        service.PortID{Service: service.Name{Namespace: "default", Name: vip}, Protocol: service.UDP},
		Frontends: []service.Frontend{{Addr: netip.MustParseAddrPort(vip)}},
	}
	for _, ep := range endpoints {
		p.Serving = append(p.Serving, service.Endpoint{Addr: netip.MustParseAddrPort(ep)})
	}
	return service.NewStale(nil, &service.Snapshot{Ports: service.NewPortList(p)})
}

const (
	vip, vip2  = "10.96.0.10:53", "10.96.0.11:53"
	old, other = "10.244.1.2:53", "10.244.1.3:53"
)

type cleanerCase struct {
	name string
	took time.Duration
	fail int
	run  func(c *Cleaner, k *fakeKernel)
	want []string
}

func cleanerCases() []cleanerCase {
	return []cleanerCase{
		{
			name: "three passes, then silence",
			run: func(c *Cleaner, k *fakeKernel) {
				k.add(vip, old)
				c.Enqueue(serving(vip))
				time.Sleep(500 * time.Millisecond)
				k.add(vip, old) // raced in
				time.Sleep(time.Minute)
			},
			want: []string{"0s IPv4 deleted 1", "1s IPv4 deleted 1", "5s IPv4 deleted 0"},
		},
		{
			name: "nothing stale, nothing done",
			run: func(c *Cleaner, k *fakeKernel) {
				c.Enqueue(nil)
				c.Enqueue(service.NewStale(nil, &service.Snapshot{}))
				time.Sleep(time.Minute)
			},
		},
		{
			name: "what arrives meanwhile is merged, and starts over",
			took: 100 * time.Millisecond,
			run: func(c *Cleaner, k *fakeKernel) {
				k.add(vip, old)
				c.Enqueue(serving(vip))
				synctest.Wait()
				k.add(vip2, old)
				c.Enqueue(serving(vip2))
				c.Enqueue(serving(vip, other))
				time.Sleep(time.Minute)
			},
			want: []string{"0s IPv4 deleted 1", "400ms IPv4 deleted 1", "1.1s IPv4 deleted 0", "5.1s IPv4 deleted 0"},
		},
		{
			name: "newer knowledge wins",
			run: func(c *Cleaner, k *fakeKernel) {
				c.Enqueue(serving(vip))
				time.Sleep(200 * time.Millisecond)
				k.add(vip, old)
				c.Enqueue(serving(vip, old)) // it came back
				time.Sleep(time.Minute)
			},
			want: []string{"0s IPv4 deleted 0", "200ms IPv4 deleted 0", "1.2s IPv4 deleted 0", "5.2s IPv4 deleted 0"},
		},
		{
			name: "a slow table leaves most of the time to others",
			took: 10 * time.Second,
			run: func(c *Cleaner, k *fakeKernel) {
				c.Enqueue(serving(vip))
				time.Sleep(5 * time.Minute)
			},
			want: []string{"0s IPv4 deleted 0", "40s IPv4 deleted 0"},
		},
		{
			name: "failures are tried again, and kept for the next change",
			fail: 3,
			run: func(c *Cleaner, k *fakeKernel) {
				k.add(vip, old)
				c.Enqueue(serving(vip))
				time.Sleep(time.Minute)
				c.Enqueue(serving(vip2))
				time.Sleep(time.Minute)
			},
			want: []string{
				"0s IPv4 failed", "1s IPv4 failed", "5s IPv4 failed",
				"1m0s IPv4 deleted 1", "1m1s IPv4 deleted 0", "1m5s IPv4 deleted 0",
			},
		},
	}
}

func TestCleaner(t *testing.T) {
	for _, tt := range cleanerCases() {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &fakeKernel{start: time.Now(), entries: make(map[service.Family]map[service.ConntrackFlow]bool), took: tt.took, fail: tt.fail}
				stop := start(t, Config{Families: []service.Family{service.IPv4}}, k, func(c *Cleaner) { tt.run(c, k) })
				stop()
				if d := cmp.Diff(k.log, tt.want); d != "" {
					t.Errorf("calls (-got +want):\n%s", d)
				}
			})
		})
	}
}

// start runs a Cleaner, calls use, and returns a function that stops the Cleaner
// and waits for it.
func start(t *testing.T, cfg Config, k *fakeKernel, use func(c *Cleaner)) (stop func()) {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	c := newCleaner(cfg, k)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	synctest.Wait()
	use(c)
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestCleanerStopsWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{start: time.Now(), took: time.Hour}
		stop := start(t, Config{}, k, func(c *Cleaner) {
			c.Enqueue(serving(vip))
			time.Sleep(time.Second)
		})
		stop()
		if got := time.Since(k.start); got != time.Second {
			t.Errorf("stopped after %s, want 1s", got)
		}
	})
}

func TestCleanerObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		cfg := Config{Observe: func(f service.Family, took time.Duration, deleted int) {
			got = append(got, fmt.Sprint(f, took, deleted))
		}}
		k := &fakeKernel{start: time.Now(), entries: make(map[service.Family]map[service.ConntrackFlow]bool), took: time.Millisecond}
		k.add(vip, old)
		k.add("[fd00:10:96::10]:53", "[fd00:10:244:1::2]:53")
		stop := start(t, cfg, k, func(c *Cleaner) {
			c.Enqueue(serving(vip))
			time.Sleep(100 * time.Millisecond)
		})
		stop()
		want := []string{fmt.Sprint(service.IPv4, time.Millisecond, 1), fmt.Sprint(service.IPv6, time.Millisecond, 0)}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("observed (-got +want):\n%s", d)
		}
	})
}

// TestRunTwice: a second Run would share the work, and each would act on what it
// knows of it.
func TestRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCleaner(Config{Log: slog.New(slog.DiscardHandler)}, &fakeKernel{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		if err := c.Run(ctx); !errors.Is(err, errRunning) {
			t.Errorf("a second Run: %v, want %v", err, errRunning)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the first: %v", err)
		}
	})
}
