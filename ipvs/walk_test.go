package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A bed is a kernel and its tables in memory, which know of each other as the
// real ones do.
type bed struct {
	kernel *kernel.Fake
	tables *xt.Fake
	rng    *rand.Rand
}

func newBed() *bed {
	b := &bed{kernel: kernel.NewFake(service.Schedulers()...), tables: xt.NewFake(), rng: rand.New(rand.NewPCG(1, 4))}
	b.kernel.Refer = b.tables.UsesSet
	b.tables.HasSet = b.kernel.Has
	return b
}

// foreign puts there what belongs to others.
func (b *bed) foreign(t *testing.T) {
	t.Helper()
	key := kernel.ServerKey{Addr: netip.MustParseAddrPort("192.0.2.200:80")}
	err := errors.Join(
		b.kernel.Tamper(
			kernel.NewServer{Key: key, Server: kernel.Server{Scheduler: "wlc"}},
			kernel.NewDest{Key: key, Addr: netip.MustParseAddrPort("192.0.2.201:80"), Weight: 7},
			kernel.NewSet{Set: kernel.Set{Name: "KUBE-CLUSTER-IP", Type: kernel.HashIPPort, MaxElem: 65536}},
			kernel.AddElem{Set: "KUBE-CLUSTER-IP", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: netip.MustParseAddr("10.96.0.11"), Port: 80}},
			kernel.NewDevice{Name: "kube-ipvs0"},
			kernel.AddAddr{Device: "kube-ipvs0", Addr: netip.MustParseAddr("192.0.2.202")},
			kernel.AddRoute{Table: 17995, To: netip.MustParsePrefix("192.0.2.203/32")},
			kernel.AddRule{Rule: kernel.Rule{Priority: 80, Mark: 1, Mask: 1, Table: 17995}},
		),
		b.tables.AddForeign(xt.IPv4, xt.Mangle, ":KUBE-MARK - [0:0]", "-A KUBE-MARK -j MARK --set-xmark 0x1/0x1", "-A PREROUTING -j KUBE-MARK"),
		b.tables.AddForeign(xt.IPv6, xt.Filter, "-A INPUT -p tcp -m set --match-set KUBE-CLUSTER-IP dst,dst -j DROP"),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// fault makes everything fail with probability p.
func (b *bed) fault(p float64) {
	b.kernel.Fail(p, b.rng.Uint64())
	b.tables.Fail = func(op string) error {
		if b.rng.Float64() < p {
			return fmt.Errorf("%s: %w", op, kernel.ErrInjected)
		}
		return nil
	}
}

// state returns all there is but for what drains: UDP flows keep their endpoint
// while it serves, and nothing but time tells that they have ended.
func (b *bed) state(t *testing.T) []byte {
	t.Helper()
	k := b.kernel.Clone()
	servers, err := k.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, s := range servers {
		left := len(s.Dests)
		for _, d := range s.Dests {
			if d.Weight == 0 && key.Protocol == service.UDP {
				left--
				err = errors.Join(err, k.Tamper(kernel.DelDest{Key: key, Addr: d.Addr}))
			}
		}
		if left == 0 && len(s.Dests) > 0 { // nobody but the drained had need of it
			e, f := element(key), service.FamilyOf(key.Addr.Addr())
			err = errors.Join(err, k.Tamper(kernel.DelServer{Key: key},
				kernel.DelElem{Set: setName(f, "OWN"), Type: kernel.HashIPPort, Elem: e},
				kernel.DelElem{Set: setName(f, "VIP"), Type: kernel.HashIPPort, Elem: e}))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(k.Dump(), b.tables.Dump()...)
}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Log = slog.New(slog.DiscardHandler)
	return cfg
}

func (b *bed) dataplane(t testing.TB, cfg Config) *Dataplane {
	t.Helper()
	d, err := New(cfg, b.kernel, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A patient is a Dataplane that is audited when it asks for it. With reborn,
// another takes its place when it fails, as after a crash.
type patient struct {
	*Dataplane
	reborn func() *Dataplane // may be nil
}

func (p *patient) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	r, err := p.Dataplane.Sync(ctx, snap)
	if err == nil && r.Again != (time.Time{}) {
		_, err = p.Audit(ctx)
	}
	if err != nil && p.reborn != nil {
		p.Dataplane = p.reborn()
	}
	return r, err
}

func TestWalk(t *testing.T) {
	for _, mode := range []VIPMode{Routed, Device} {
		for _, name := range []string{"alone", "beside others"} {
			t.Run(mode.String()+" "+name, func(t *testing.T) {
				cfg := testConfig()
				cfg.VIPMode = mode
				b, fresh := beds(t, cfg, name != "alone")
				servicetest.Walk(t, &patient{Dataplane: b.dataplane(t, cfg)}, b.fault, func() []byte { return b.state(t) }, fresh)
			})
		}
	}
}

// TestHardWalk has twice the faults, and crashes.
func TestHardWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	for seed := range uint64(4) {
		cfg := testConfig()
		cfg.VIPMode = VIPMode(seed % 2)
		b, fresh := beds(t, cfg, true)
		p := &patient{Dataplane: b.dataplane(t, cfg)}
		if seed >= 2 {
			p.reborn = func() *Dataplane { return b.dataplane(t, cfg) }
		}
		servicetest.WalkSeed(t, 100+seed, p, func(p float64) { b.fault(2 * p) }, func() []byte { return b.state(t) }, fresh)
		if t.Failed() {
			t.Fatalf("the walk of seed %d failed", 100+seed)
		}
	}
}

// beds returns a bed, and what a new one is like after a first Sync; beside is
// whether others have put things there.
func beds(t *testing.T, cfg Config, beside bool) (*bed, func(*service.Snapshot) []byte) {
	t.Helper()
	start := func() *bed {
		b := newBed()
		if beside {
			b.foreign(t)
		}
		return b
	}
	return start(), func(snap *service.Snapshot) []byte {
		b := start()
		if _, err := b.dataplane(t, cfg).Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		if got := b.kernel.Stats(); got.Refused > 0 {
			t.Errorf("the kernel refused %d ops of a first Sync", got.Refused)
		}
		return b.state(t)
	}
}
