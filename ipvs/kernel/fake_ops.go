package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// do makes one change, or returns why the kernel would not.
func (f *Fake) do(op Op) error {
	switch op := op.(type) {
	case NewServer, SetServer, DelServer, NewDest, SetDest, DelDest:
		return f.doServer(op)
	case NewSet, DelSet, SwapSets, AddElem, DelElem:
		return f.doSet(op)
	case NewDevice:
		if f.devices[op.Name] != nil {
			return syscall.EEXIST
		}
		f.devices[op.Name] = &DeviceState{Exists: true, Addrs: map[netip.Addr]AddrState{}}
		return nil
	case DelDevice:
		if f.devices[op.Name] == nil {
			return syscall.ENODEV
		}
		delete(f.devices, op.Name)
		return nil
	case AddAddr:
		return f.addAddr(op)
	case DelAddr:
		d := f.devices[op.Device]
		if d == nil {
			return syscall.ENODEV
		}
		delete(d.Addrs, op.Addr)
		return nil
	case AddRoute, DelRoute, AddRule, DelRule:
		return f.doRoute(op)
	}
	panic(fmt.Sprintf("kernel: unknown op %T", op))
}

func (f *Fake) doServer(op Op) error {
	switch op := op.(type) {
	case NewServer:
		if f.servers[op.Key] != nil {
			return syscall.EEXIST
		}
		if err := f.checkServer(op.Key, op.Server); err != nil {
			return err
		}
		f.servers[op.Key] = &fakeServer{Server: op.Server, dests: map[netip.AddrPort]Dest{}}
	case SetServer:
		s := f.servers[op.Key]
		if s == nil {
			return syscall.ESRCH
		}
		if err := f.checkServer(op.Key, op.Server); err != nil {
			return err
		}
		s.Server = op.Server
	case DelServer:
		if f.servers[op.Key] == nil {
			return syscall.ESRCH
		}
		delete(f.servers, op.Key)
	case NewDest:
		return f.setDest(op.Key, op.Addr, op.Weight, true)
	case SetDest:
		return f.setDest(op.Key, op.Addr, op.Weight, false)
	case DelDest:
		s := f.servers[op.Key]
		if s == nil {
			return syscall.ESRCH
		}
		if _, ok := s.dests[op.Addr]; !ok {
			return syscall.ENOENT
		}
		delete(s.dests, op.Addr)
	}
	return nil
}

// checkServer knows that a scheduler comes from a module, that a service without
// a port must be persistent, and what Server promises.
func (f *Fake) checkServer(key ServerKey, s Server) error {
	known := key.Protocol == service.TCP || key.Protocol == service.UDP || key.Protocol == service.SCTP
	const flags = Persistent | OnePacket | Sched1 | Sched2 | Sched3
	persistent := s.Flags&Persistent != 0
	switch {
	case !slices.Contains(f.schedulers, s.Scheduler):
		return syscall.ENOENT
	case !known || !key.Addr.IsValid() || key.Addr.Addr().Is4In6() || key.Addr.Port() == 0 || s.Flags&^flags != 0:
		return syscall.EINVAL
	case s.Timeout%time.Second != 0 || s.Timeout < 0 || persistent != (s.Timeout > 0):
		return syscall.EINVAL
	}
	return nil
}

// setDest adds a destination or changes its weight. A destination that tunnels
// becomes one that masquerades, as every op wants it.
func (f *Fake) setDest(key ServerKey, addr netip.AddrPort, weight uint32, add bool) error {
	s := f.servers[key]
	if s == nil {
		return syscall.ESRCH
	}
	d, ok := s.dests[addr]
	switch {
	case ok && add:
		return syscall.EEXIST
	case !ok && !add:
		return syscall.ENOENT
	case !addr.IsValid() || addr.Port() == 0 || service.FamilyOf(addr.Addr()) != service.FamilyOf(key.Addr.Addr()):
		return syscall.EINVAL
	}
	d.Addr, d.Weight, d.Other = addr, weight, false
	s.dests[addr] = d
	return nil
}

func (f *Fake) doSet(op Op) error {
	switch op := op.(type) {
	case NewSet:
		return f.newSet(op.Set)
	case DelSet:
		if f.sets[op.Name] == nil {
			return syscall.ENOENT
		}
		if f.Refer != nil && f.Refer(op.Name) {
			return syscall.EBUSY
		}
		delete(f.sets, op.Name)
	case SwapSets:
		a, b := f.sets[op.A], f.sets[op.B]
		if a == nil || b == nil {
			return syscall.ENOENT
		}
		if a.Type != b.Type || a.Family != b.Family {
			return syscall.EINVAL
		}
		f.sets[op.A], f.sets[op.B] = b, a
		a.Name, b.Name = op.B, op.A
	case AddElem:
		s := f.sets[op.Set]
		if err := s.check(op.Type, op.Elem); err != nil || s.elems[op.Elem] {
			return err
		}
		if s.Type != BitmapPort && len(s.elems) >= int(s.MaxElem) {
			return ErrSetFull
		}
		s.elems[op.Elem] = true
	case DelElem:
		s := f.sets[op.Set]
		if err := s.check(op.Type, op.Elem); err != nil {
			return err
		}
		delete(s.elems, op.Elem)
	}
	return nil
}

func (f *Fake) newSet(s Set) error {
	var known bool
	switch s.Type {
	case HashIP, HashIPPort, HashIPPortNet:
		known = s.MaxElem > 0
	case BitmapPort:
		known = s.MaxElem == 0
		s.Family = 0 // it has none
	}
	if !known || s.Name == "" || len(s.Name) > 31 {
		return syscall.EINVAL
	}
	if have := f.sets[s.Name]; have != nil {
		if have.Set != s {
			return syscall.EEXIST
		}
		return nil
	}
	f.sets[s.Name] = &fakeSet{Set: s, elems: map[Element]bool{}}
	return nil
}

// check refuses elements that do not suit the set, and nil for the set.
func (s *fakeSet) check(t SetType, e Element) error {
	if s == nil {
		return syscall.ENOENT
	}
	family := func(a netip.Addr) bool { return a.IsValid() && service.FamilyOf(a) == s.Family }
	var want Element // with the fields of the type
	ok := t == s.Type
	switch t {
	case BitmapPort:
		want.Port = e.Port
	case HashIP:
		want.Addr = e.Addr
		ok = ok && family(e.Addr)
	case HashIPPort, HashIPPortNet:
		want.Addr, want.Port, want.Protocol = e.Addr, e.Port, e.Protocol
		ok = ok && family(e.Addr) && e.Protocol <= service.SCTP
		if t == HashIPPortNet {
			want.Net = e.Net
			ok = ok && family(e.Net.Addr()) && e.Net.Bits() > 0 && e.Net == e.Net.Masked()
		}
	}
	if !ok || e != want {
		return syscall.EINVAL
	}
	return nil
}

func (f *Fake) addAddr(op AddAddr) error {
	d := f.devices[op.Device]
	switch {
	case d == nil:
		return syscall.ENODEV
	case !op.Addr.IsValid() || op.Addr.Is4In6() || op.Addr.Zone() != "":
		return syscall.EINVAL
	}
	d.Addrs[op.Addr] = AddrState{Local: !op.Routed}
	return nil
}

func (f *Fake) doRoute(op Op) error {
	switch op := op.(type) {
	case AddRoute:
		if !op.To.IsValid() || op.To != op.To.Masked() || op.Table == 0 {
			return syscall.EINVAL
		}
		if f.routes[op.Table] == nil {
			f.routes[op.Table] = map[netip.Prefix]bool{}
		}
		f.routes[op.Table][op.To] = true
	case DelRoute:
		delete(f.routes[op.Table], op.To)
	case AddRule:
		if f.rules[op.Rule] {
			return syscall.EEXIST
		}
		f.rules[op.Rule] = true
	case DelRule:
		if !f.rules[op.Rule] {
			return syscall.ENOENT
		}
		delete(f.rules, op.Rule)
	}
	return nil
}
