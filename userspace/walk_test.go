package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A recorder is a Server that only remembers what it was told.
type recorder struct {
	ports  map[service.PortID]*service.Port
	served map[Place]PlaceChange
	wrong  []string
}

func newRecorder() *recorder {
	return &recorder{ports: make(map[service.PortID]*service.Port), served: make(map[Place]PlaceChange)}
}

// Follow implements [Server].
func (r *recorder) Follow(_ *service.Node, ports []PortChange, places []PlaceChange) {
	for _, c := range ports {
		switch {
		case c.Old != nil && r.ports[c.Old.ID] != c.Old:
			r.wrong = append(r.wrong, fmt.Sprintf("%v is said to have been another", c.Old.ID))
		case c.Old == nil && r.ports[c.New.ID] != nil:
			r.wrong = append(r.wrong, fmt.Sprintf("%v is said to be new", c.New.ID))
		}
		if c.New == nil {
			delete(r.ports, c.Old.ID)
		} else {
			r.ports[c.New.ID] = c.New
		}
	}
	for _, c := range places {
		if c.Frontend == nil {
			delete(r.served, c.Place)
			continue
		}
		r.served[c.Place] = c
	}
	for at, c := range r.served {
		if r.ports[c.Port.ID] != c.Port {
			r.wrong = append(r.wrong, fmt.Sprintf("%v is served for a Port that is no more", at))
		}
	}
}

func (r *recorder) dump() []byte {
	var out []byte
	for _, at := range slices.SortedFunc(maps.Keys(r.served), func(a, b Place) int {
		return slices.Compare([]string{a.Protocol.String(), a.Addr.String()}, []string{b.Protocol.String(), b.Addr.String()})
	}) {
		c := r.served[at]
		out = fmt.Appendf(out, "%v for %v: %v\n", at, c.Port.ID, *c.Frontend)
	}
	return out
}

// A bed is a kernel, its tools and a proxy in memory.
type bed struct {
	kernel *kernel.Fake
	tables *xt.Fake
	proxy  *recorder
	rng    *rand.Rand
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{kernel: kernel.NewFake(), tables: xt.NewFake(), proxy: newRecorder(), rng: rand.New(rand.NewPCG(1, 5))}
	b.kernel.Refer = b.tables.UsesSet
	b.tables.HasSet = b.kernel.Has
	err := errors.Join( // of others
		b.kernel.Tamper(
			kernel.NewSet{Set: kernel.Set{Name: "FL4-VIP", Type: kernel.HashIPPort, MaxElem: 65536}},
			kernel.AddElem{Set: "FL4-VIP", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: netip.MustParseAddr("10.96.0.11"), Port: 80}},
			kernel.AddRoute{Table: 17996, To: netip.MustParsePrefix("192.0.2.203/32")},
			kernel.AddRule{Rule: kernel.Rule{Priority: 80, Mark: 1, Mask: 1, Table: 17996}},
		),
		b.tables.AddForeign(xt.IPv4, xt.Mangle, ":KUBE-MARK - [0:0]", "-A KUBE-MARK -j MARK --set-xmark 0x1/0x1", "-A PREROUTING -j KUBE-MARK"),
	)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bed) dataplane(t *testing.T) *Dataplane {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Log = slog.New(slog.DiscardHandler)
	d, err := New(cfg, b.kernel, b.tables, b.proxy)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (b *bed) fault(p float64) {
	b.kernel.Fail(p, b.rng.Uint64())
	b.tables.Fail = func(op string) error {
		if b.rng.Float64() < p {
			return fmt.Errorf("%s: %w", op, kernel.ErrInjected)
		}
		return nil
	}
}

// A forgetful Dataplane has its proxy forget everything with Cleanup.
type forgetful struct {
	*Dataplane
	proxy *recorder
}

func (f forgetful) Cleanup(ctx context.Context) error {
	*f.proxy = *newRecorder()
	return f.Dataplane.Cleanup(ctx)
}

func (b *bed) state(t *testing.T) []byte {
	t.Helper()
	for _, w := range b.proxy.wrong {
		t.Error(w)
	}
	b.proxy.wrong = nil
	return slices.Concat(b.kernel.Dump(), []byte(b.tables.Dump()), b.proxy.dump())
}

func TestWalk(t *testing.T) {
	b := newBed(t)
	fresh := func(snap *service.Snapshot) []byte {
		b := newBed(t)
		if _, err := b.dataplane(t).Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		if got := b.kernel.Stats(); got.Refused > 0 {
			t.Errorf("the kernel refused %d ops of a first Sync", got.Refused)
		}
		return b.state(t)
	}
	servicetest.Walk(t, forgetful{b.dataplane(t), b.proxy}, b.fault, func() []byte { return b.state(t) }, fresh)
}

// TestNothingToDo: a restart, and an audit, of what is in force write nothing.
func TestNothingToDo(t *testing.T) {
	for c := range servicetest.Corpus() {
		snap := c.Snapshots(t)[0]
		b := newBed(t)
		if _, err := b.dataplane(t).Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		b.kernel.Fail(0, 0)
		again := b.dataplane(t)
		b.tables.ResetStats()
		r, err := again.Sync(t.Context(), snap)
		if err != nil || r.Added+r.Changed+r.Removed > 0 || b.tables.Stats().Restores > 0 {
			t.Errorf("%s: a restart: %+v, %v, %d restores", c.Name, r, err, b.tables.Stats().Restores)
		}
		if r, err := again.Audit(t.Context()); err != nil || r.Repaired {
			t.Errorf("%s: an audit: %+v, %v", c.Name, r, err)
		}
	}
}

// TestAudit has somebody flush a set, delete the routing rule, and flush a table.
func TestAudit(t *testing.T) {
	for c := range servicetest.Corpus() {
		if c.Name != "select-both-local" {
			continue
		}
		snap := c.Snapshots(t)[0]
		b := newBed(t)
		d := b.dataplane(t)
		if _, err := d.Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		want := string(b.state(t))
		mark := d.cfg.routeMark()
		for _, injury := range []struct {
			name string
			do   func() error
		}{
			{"sets", func() error {
				elems, err := b.kernel.Elements(t.Context(), "FLU4-VIP")
				for _, e := range elems {
					err = errors.Join(err, b.kernel.Tamper(kernel.DelElem{Set: "FLU4-VIP", Type: kernel.HashIPPort, Elem: e}))
				}
				return err
			}},
			{"routing rule", func() error {
				return b.kernel.Tamper(kernel.DelRule{Rule: kernel.Rule{Priority: rulePriority, Mark: mark, Mask: mark, Table: routeTable}})
			}},
			{"rules", func() error { // last, since what was flushed of others is gone
				b.tables.Flush(xt.IPv4, xt.Mangle)
				return b.tables.AddForeign(xt.IPv4, xt.Mangle, "-A PREROUTING -j KUBE-MARK")
			}},
		} {
			if err := injury.do(); err != nil {
				t.Fatal(err)
			}
			if string(b.state(t)) == want {
				t.Fatalf("%s: not injured", injury.name)
			}
			r, err := d.Audit(t.Context())
			if err != nil || !r.Repaired {
				t.Errorf("%s: %+v, %v", injury.name, r, err)
			}
			if got := string(b.state(t)); got != want && injury.name != "rules" {
				t.Errorf("%s: not as before:\n%s", injury.name, got)
			}
		}
	}
}
