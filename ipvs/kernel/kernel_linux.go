package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Linux is the Kernel that runs, in the network namespace of the thread that
// called Open. Its methods are to be called from threads of that namespace too:
// sockets are opened again after errors, and /proc shows the caller's.
type Linux struct {
	ipvs, ipset, route conn
	types              map[typeKey]revision // of sets, what the kernel supports
	out                batch
}

// Open opens the sockets. It needs CAP_NET_ADMIN, but says so only later.
func Open() (*Linux, error) {
	l := &Linux{
		ipvs:  conn{protocol: unix.NETLINK_GENERIC},
		ipset: conn{protocol: unix.NETLINK_NETFILTER},
		route: conn{protocol: unix.NETLINK_ROUTE},
		types: map[typeKey]revision{},
	}
	for _, c := range l.conns() {
		if err := c.open(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Close closes the sockets; what the kernel was told remains.
func (l *Linux) Close() error {
	var errs []error
	for _, c := range l.conns() {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

func (l *Linux) conns() [3]*conn { return [...]*conn{&l.ipvs, &l.ipset, &l.route} }

// Apply implements Kernel. Neighbouring ops of one part of the kernel go there
// in as few sends as there are 64 KiB in them.
func (l *Linux) Apply(ctx context.Context, ops []Op) ([]*OpError, error) {
	t := &transaction{ctx: ctx, l: l, ops: ops, batch: &l.out, links: map[string]link{}, there: map[int]bool{}}
	t.batch.reset()
	for i := range ops {
		if err := t.add(i); err != nil {
			return nil, err
		}
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	slices.SortFunc(t.failed, func(a, b *OpError) int { return cmp.Compare(a.Index, b.Index) })
	return t.failed, nil
}

// A transaction is one call of Apply.
type transaction struct {
	ctx    context.Context
	l      *Linux
	ops    []Op
	conn   *conn // where batch goes; nil before the first op
	batch  *batch
	failed []*OpError // in the order in which they became known

	family uint16          // of IPVS; 0 until it was looked up
	links  map[string]link // that were looked up

	unsettled []int        // ops that add IPv6 addresses, see settle
	there     map[int]bool // those of them whose address was there
}

// add encodes one op, and sends what was there before if it goes elsewhere or
// there is no room.
func (t *transaction) add(i int) error {
	c := t.destination(t.ops[i])
	if c == nil {
		return fmt.Errorf("op %d: unknown %T", i, t.ops[i])
	}
	if !addressed(t.ops[i]) {
		t.fail(i, unix.EINVAL)
		return nil
	}
	if t.conn != c {
		if err := t.finish(); err != nil {
			return err
		}
		t.conn = c
	}
	if t.conn.full(t.batch) {
		if err := t.flush(); err != nil {
			return err
		}
	}
	switch c {
	case &t.l.ipvs:
		return t.addIPVS(i)
	case &t.l.ipset:
		return t.addSet(i)
	default:
		return t.addRoute(i)
	}
}

// addressed reports whether op has the addresses it needs. The kernel would take
// what is encoded in their place for 0.0.0.0 or ::.
func addressed(op Op) bool {
	proper := func(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }
	element := func(typ SetType, e Element) bool {
		return typ == BitmapPort || proper(e.Addr) && (typ != HashIPPortNet || e.Net.IsValid())
	}
	switch op := op.(type) {
	case NewServer:
		return proper(op.Key.Addr.Addr())
	case SetServer:
		return proper(op.Key.Addr.Addr())
	case DelServer:
		return proper(op.Key.Addr.Addr())
	case NewDest:
		return proper(op.Key.Addr.Addr()) && proper(op.Addr.Addr())
	case SetDest:
		return proper(op.Key.Addr.Addr()) && proper(op.Addr.Addr())
	case DelDest:
		return proper(op.Key.Addr.Addr()) && proper(op.Addr.Addr())
	case AddElem:
		return element(op.Type, op.Elem)
	case DelElem:
		return element(op.Type, op.Elem)
	case AddAddr:
		return proper(op.Addr)
	case DelAddr:
		return proper(op.Addr)
	case AddRoute:
		return op.To.IsValid()
	case DelRoute:
		return op.To.IsValid()
	default:
		return true
	}
}

func (t *transaction) destination(op Op) *conn {
	switch op.(type) {
	case NewServer, SetServer, DelServer, NewDest, SetDest, DelDest:
		return &t.l.ipvs
	case NewSet, DelSet, SwapSets, AddElem, DelElem:
		return &t.l.ipset
	case NewDevice, DelDevice, AddAddr, DelAddr, AddRoute, DelRoute, AddRule, DelRule:
		return &t.l.route
	default:
		return nil
	}
}

// flush sends what is in the batch.
func (t *transaction) flush() error {
	if len(t.batch.msgs) == 0 {
		return nil
	}
	err := t.conn.exchange(t.ctx, t.batch, func(place int, e syscall.Errno) {
		m := t.batch.msgs[place]
		switch err := m.meaning(e); {
		case err == errThere:
			t.there[m.op] = true
		case err != nil:
			t.fail(m.op, err)
		}
	})
	t.batch.reset()
	if err != nil {
		return fmt.Errorf("apply changes: %w", err)
	}
	return nil
}

// finish sends what is in the batch and what comes out of that.
func (t *transaction) finish() error {
	if err := t.flush(); err != nil {
		return err
	}
	return t.settle()
}

// refused reports whether an op failed.
func (t *transaction) refused(i int) bool {
	return slices.ContainsFunc(t.failed, func(e *OpError) bool { return e.Index == i })
}

// fail notes that an op failed, for the first reason given.
func (t *transaction) fail(i int, err error) {
	if n := len(t.failed); n > 0 && t.failed[n-1].Index == i {
		return
	}
	t.failed = append(t.failed, &OpError{Index: i, Op: t.ops[i], Err: err})
}
