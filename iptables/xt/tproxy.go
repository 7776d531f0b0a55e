package xt

import (
	"errors"
	"fmt"
	"net/netip"
)

// TProxy hands the packet to the transparent socket that listens at On, without
// rewriting it, and sets MarkBits of its mark. To be delivered there it must be
// routed to this node as well, which policy routing by the mark does. Where no
// socket listens the packet is dropped. It ends the table. Only mangle has it,
// before routing, and only for TCP and UDP
// (Documentation/networking/tproxy.rst of the kernel).
type TProxy struct {
	On       netip.AddrPort
	MarkBits uint32
}

func (t TProxy) appendArgs(b []byte) []byte {
	b = fmt.Appendf(b, "-j TPROXY --on-port %d --on-ip %v --tproxy-mark ", t.On.Port(), t.On.Addr())
	b = appendHex(b, t.MarkBits)
	return appendHex(append(b, '/'), t.MarkBits)
}

func (t TProxy) check(f Family, table Table, p Protocol) error {
	switch {
	case !t.On.IsValid() || FamilyOf(t.On.Addr()) != f || t.On.Addr().Zone() != "":
		return fmt.Errorf("TPROXY to %v is not %v", t.On, f)
	case t.On.Port() == 0:
		return fmt.Errorf("TPROXY to %v has no port", t.On)
	case p != TCP && p != UDP:
		return errors.New("TPROXY for packets that may be neither TCP nor UDP")
	}
	return only(Mangle, table, "TPROXY")
}

// ToSocket matches packets of connections that a transparent socket on this node
// has, and ICMP errors about them: not those that only a listener at any address
// would take (net/netfilter/xt_socket.c).
type ToSocket struct{}

func (ToSocket) appendArgs(b []byte) []byte { return append(b, "-m socket --transparent"...) }
func (ToSocket) matches(p *Packet) bool     { return p.Socket }
func (ToSocket) check(Family) error         { return nil }
func (ToSocket) slot() slot                 { return slotExtension }

// ConnMarkIs matches packets whose connection has all Bits of its mark set.
type ConnMarkIs struct{ Bits uint32 }

func (m ConnMarkIs) appendArgs(b []byte) []byte {
	b = appendHex(append(b, "-m connmark --mark "...), m.Bits)
	return appendHex(append(b, '/'), m.Bits)
}
func (m ConnMarkIs) matches(p *Packet) bool { return p.ConnMark&m.Bits == m.Bits }
func (ConnMarkIs) check(Family) error       { return nil }
func (ConnMarkIs) slot() slot               { return slotExtension }

// OrConnMark sets Bits of the mark of the packet's connection, which all its later
// packets have, in both directions.
type OrConnMark struct{ Bits uint32 }

func (t OrConnMark) appendArgs(b []byte) []byte {
	b = appendHex(append(b, "-j CONNMARK --set-xmark "...), t.Bits)
	return appendHex(append(b, '/'), t.Bits)
}
func (OrConnMark) check(Family, Table, Protocol) error { return nil }
