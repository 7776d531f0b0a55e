package kernel

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// ErrInjected is what a [Fake] fails with if it was told to fail at random.
var ErrInjected = errors.New("injected fault")

// A Fake is a [Kernel] in memory. It is strict: it refuses what the kernel
// refuses, and with EINVAL what no caller should ask for, such as an element
// that does not suit the type of its set. It knows nothing of who made what.
type Fake struct {
	// Refer reports whether a rule names a set, which cannot be destroyed then.
	// Optional: without it there are no rules.
	Refer func(set string) bool

	schedulers []string
	servers    map[ServerKey]*fakeServer
	sets       map[string]*fakeSet
	devices    map[string]*DeviceState
	routes     map[uint32]map[netip.Prefix]bool
	rules      map[Rule]bool

	fault struct {
		p   float64
		rng *rand.Rand
	}
	stats FakeStats
}

// FakeStats counts what a [Fake] was asked to do, successfully or not.
type FakeStats struct {
	Applies int // calls of Apply that had something to do
	Ops     int // in all of them
	Refused int // ops the caller was told of
	Reads   int // calls of everything else
}

type fakeServer struct {
	Server
	dests map[netip.AddrPort]Dest
}

type fakeSet struct {
	Set
	elems map[Element]bool
}

var _ Kernel = (*Fake)(nil)

// NewFake returns a kernel that has nothing yet but these schedulers; none stands
// for rr alone.
func NewFake(schedulers ...string) *Fake {
	if len(schedulers) == 0 {
		schedulers = []string{"rr"}
	}
	return &Fake{
		schedulers: schedulers,
		servers:    map[ServerKey]*fakeServer{},
		sets:       map[string]*fakeSet{},
		devices:    map[string]*DeviceState{},
		routes:     map[uint32]map[netip.Prefix]bool{},
		rules:      map[Rule]bool{},
	}
}

// Fail makes whatever is asked from now on fail with probability p, by random
// numbers from seed: a read; the whole of an Apply, before, amid or after its
// changes; some ops of one. Zero ends that.
func (f *Fake) Fail(p float64, seed uint64) {
	f.fault.p, f.fault.rng = p, rand.New(rand.NewPCG(seed, 3))
}

func (f *Fake) chance(p float64) bool { return f.fault.p > 0 && f.fault.rng.Float64() < p }

// Stats returns the counts since the Fake was made or ResetStats called.
func (f *Fake) Stats() FakeStats { return f.stats }

// ResetStats sets all counts to zero.
func (f *Fake) ResetStats() { f.stats = FakeStats{} }

// Clone returns a kernel with the same in it, that does not fail at random.
func (f *Fake) Clone() *Fake {
	c := NewFake(f.schedulers...)
	for key, s := range f.servers {
		c.servers[key] = &fakeServer{Server: s.Server, dests: maps.Clone(s.dests)}
	}
	for name, s := range f.sets {
		c.sets[name] = &fakeSet{Set: s.Set, elems: maps.Clone(s.elems)}
	}
	for name, d := range f.devices {
		c.devices[name] = &DeviceState{Exists: true, Up: d.Up, Addrs: maps.Clone(d.Addrs)}
	}
	for table, r := range f.routes {
		c.routes[table] = maps.Clone(r)
	}
	c.rules = maps.Clone(f.rules)
	return c
}

// Tamper makes changes as somebody else would: they neither fail at random nor
// count. The error joins what was refused.
func (f *Fake) Tamper(ops ...Op) error {
	var errs []error
	for i, op := range ops {
		if err := f.do(op); err != nil {
			errs = append(errs, &OpError{Index: i, Op: op, Err: err})
		}
	}
	return errors.Join(errs...)
}

// SetConns says what connections a destination has. It panics if there is no
// such destination.
func (f *Fake) SetConns(key ServerKey, dest netip.AddrPort, c Conns) {
	s := f.servers[key]
	if s == nil {
		panic("kernel: no server " + key.String())
	}
	d, ok := s.dests[dest]
	if !ok {
		panic("kernel: no destination " + dest.String() + " of " + key.String())
	}
	d.Conns = c
	s.dests[dest] = d
}

// SetOther makes a destination one that does not masquerade, as some other tool
// would. It panics if there is no such destination.
func (f *Fake) SetOther(key ServerKey, dest netip.AddrPort) {
	f.SetConns(key, dest, Conns{})
	d := f.servers[key].dests[dest]
	d.Other = true
	f.servers[key].dests[dest] = d
}

// Up brings a device up, which creates the local routes of all its addresses.
// It panics if there is no such device.
func (f *Fake) Up(device string) {
	d := f.devices[device]
	if d == nil {
		panic("kernel: no device " + device)
	}
	d.Up = true
	for a := range d.Addrs {
		d.Addrs[a] = AddrState{Local: true}
	}
}

// Apply implements [Kernel].
func (f *Fake) Apply(ctx context.Context, ops []Op) ([]*OpError, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	f.stats.Applies++
	f.stats.Ops += len(ops)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("change the kernel: %w", err)
	}
	stop := len(ops) + 1 // where the connection is lost
	if f.chance(f.fault.p) {
		stop = []int{0, f.fault.rng.IntN(len(ops)), len(ops)}[f.fault.rng.IntN(3)]
	}
	each := 0.0 // chance of an op to fail
	if f.chance(f.fault.p) {
		each = 0.3
	}
	var refused []*OpError
	for i, op := range ops {
		if i == stop {
			break
		}
		err := f.mishap(each)
		if err == nil {
			err = f.do(op)
		}
		if err != nil {
			refused = append(refused, &OpError{Index: i, Op: op, Err: err})
		}
	}
	if stop <= len(ops) {
		return nil, fmt.Errorf("change the kernel: %w", ErrInjected)
	}
	f.stats.Refused += len(refused)
	return refused, nil
}

// mishap returns, with probability p, an error that the kernel has for anything.
func (f *Fake) mishap(p float64) error {
	if !f.chance(p) {
		return nil
	}
	all := []error{syscall.EINTR, syscall.ENOMEM, syscall.ENOBUFS}
	return all[f.fault.rng.IntN(len(all))]
}

// read is the beginning of every read.
func (f *Fake) read(ctx context.Context, what string) error {
	f.stats.Reads++
	err := ctx.Err()
	if err == nil && f.chance(f.fault.p) {
		err = ErrInjected
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

// Servers implements [Kernel].
func (f *Fake) Servers(ctx context.Context) (map[ServerKey]*ServerState, error) {
	if err := f.read(ctx, "servers"); err != nil {
		return nil, err
	}
	out := make(map[ServerKey]*ServerState, len(f.servers))
	for key, s := range f.servers {
		out[key] = s.state()
	}
	return out, nil
}

// Server implements [Kernel].
func (f *Fake) Server(ctx context.Context, key ServerKey) (*ServerState, error) {
	if err := f.read(ctx, "server "+key.String()); err != nil {
		return nil, err
	}
	if s := f.servers[key]; s != nil {
		return s.state(), nil
	}
	return nil, nil
}

func (s *fakeServer) state() *ServerState {
	byAddr := func(a, b Dest) int { return a.Addr.Compare(b.Addr) }
	return &ServerState{Server: s.Server, Dests: slices.SortedFunc(maps.Values(s.dests), byAddr)}
}

// Sets implements [Kernel].
func (f *Fake) Sets(ctx context.Context, prefix string) ([]Set, error) {
	if err := f.read(ctx, "sets "+prefix+"*"); err != nil {
		return nil, err
	}
	var out []Set
	for _, name := range slices.Sorted(maps.Keys(f.sets)) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, f.sets[name].Set)
		}
	}
	return out, nil
}

// Elements implements [Kernel].
func (f *Fake) Elements(ctx context.Context, name string) ([]Element, error) {
	if err := f.read(ctx, "set "+name); err != nil {
		return nil, err
	}
	s := f.sets[name]
	if s == nil {
		return nil, fmt.Errorf("read set %s: %w", name, syscall.ENOENT)
	}
	return s.sorted(), nil
}

func (s *fakeSet) sorted() []Element {
	return slices.SortedFunc(maps.Keys(s.elems), func(a, b Element) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.Net.Compare(b.Net))
	})
}

// Has reports whether a set exists, as rules that name it require.
func (f *Fake) Has(set string) bool { return f.sets[set] != nil }

// Device implements [Kernel].
func (f *Fake) Device(ctx context.Context, name string) (DeviceState, error) {
	if err := f.read(ctx, "device "+name); err != nil {
		return DeviceState{}, err
	}
	d := f.devices[name]
	if d == nil {
		return DeviceState{}, nil
	}
	out := *d
	out.Addrs = maps.Clone(d.Addrs)
	return out, nil
}

// Routes implements [Kernel].
func (f *Fake) Routes(ctx context.Context, table uint32) ([]netip.Prefix, error) {
	if err := f.read(ctx, "routes"); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Keys(f.routes[table]), netip.Prefix.Compare), nil
}

// Rules implements [Kernel].
func (f *Fake) Rules(ctx context.Context, table uint32) ([]Rule, error) {
	if err := f.read(ctx, "rules"); err != nil {
		return nil, err
	}
	var out []Rule
	for _, r := range f.sortedRules() {
		if r.Table == table {
			out = append(out, r)
		}
	}
	return out, nil
}

func (f *Fake) sortedRules() []Rule {
	return slices.SortedFunc(maps.Keys(f.rules), func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Table, b.Table),
			cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Mask, b.Mask))
	})
}

// Dump returns everything there is as text, sorted: equal kernels give equal
// texts, and a new one gives none.
func (f *Fake) Dump() []byte {
	var b bytes.Buffer
	for _, key := range slices.SortedFunc(maps.Keys(f.servers), ServerKey.Compare) {
		s := f.servers[key]
		fmt.Fprintf(&b, "server %s %s\n", key, s.Server)
		for _, d := range s.state().Dests {
			fmt.Fprintf(&b, "  -> %s weight %d", d.Addr, d.Weight)
			if !d.Conns.Idle() {
				fmt.Fprintf(&b, " active %d inactive %d", d.Conns.Active, d.Conns.Inactive)
			}
			if d.Other {
				b.WriteString(" by other means")
			}
			b.WriteByte('\n')
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.sets)) {
		s := f.sets[name]
		fmt.Fprintf(&b, "set %s\n", s.Set)
		for _, e := range s.sorted() {
			fmt.Fprintf(&b, "  %s\n", e.text(s.Type))
		}
	}
	f.dumpRouting(&b)
	return b.Bytes()
}

func (f *Fake) dumpRouting(b *bytes.Buffer) {
	for _, name := range slices.Sorted(maps.Keys(f.devices)) {
		d := f.devices[name]
		fmt.Fprintf(b, "device %s up=%v\n", name, d.Up)
		for _, a := range slices.SortedFunc(maps.Keys(d.Addrs), netip.Addr.Compare) {
			fmt.Fprintf(b, "  %s local=%v\n", a, d.Addrs[a].Local)
		}
	}
	for _, table := range slices.Sorted(maps.Keys(f.routes)) {
		for _, p := range slices.SortedFunc(maps.Keys(f.routes[table]), netip.Prefix.Compare) {
			fmt.Fprintf(b, "route table %d local %s\n", table, p)
		}
	}
	for _, r := range f.sortedRules() {
		fmt.Fprintf(b, "rule %s\n", r)
	}
}
