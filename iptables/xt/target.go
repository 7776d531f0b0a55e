package xt

import (
	"errors"
	"fmt"
	"net/netip"
)

// Target is the closed set of what a rule can do to a packet.
type Target interface {
	appendArgs(b []byte) []byte
	check(f Family, t Table, p Protocol) error
}

// Jump continues in Chain and comes back when it ends.
type Jump struct{ Chain string }

// Goto continues in Chain. When it ends the packet comes back not here but to
// where this chain was jumped from.
type Goto struct{ Chain string }

// Return ends this chain.
type Return struct{}

// Accept ends the table: the packet passes it.
type Accept struct{}

// DropPacket discards the packet silently. The nat table does not have it.
type DropPacket struct{}

// Reject discards the packet and answers "port unreachable" (a TCP client sees
// "connection refused" too). Only the filter table has it.
type Reject struct{}

// Reset discards the packet and answers with a TCP reset, which ends a connection
// that is under way: of "port unreachable" its client would take no notice. The
// rule must match TCP. Only the filter table has it.
type Reset struct{}

// DNAT sends the connection to To instead. The rule must match a protocol that
// has ports. Only the nat table has it, before routing.
type DNAT struct{ To netip.AddrPort }

// DNATAddr sends the connection to the address To instead, at the same port.
// Only the nat table has it, before routing.
type DNATAddr struct{ To netip.Addr }

// NetMap sends the connection to where To is the network and the other bits
// and the port are as they were. Only the nat table has it. It belongs before
// routing: after it the kernel would map the source, which nobody here wants.
type NetMap struct{ To netip.Prefix }

// OrMark sets Bits of the packet's mark.
type OrMark struct{ Bits uint32 }

// ClearMark clears Bits of the packet's mark.
type ClearMark struct{ Bits uint32 }

// XorMark flips Bits of the packet's mark.
type XorMark struct{ Bits uint32 }

// Masquerade replaces the source of the connection by the address of the
// interface it leaves by. RandomFully draws the port at random, which avoids
// races between connections (needs iptables 1.6.2). Only the nat table has it,
// after routing.
type Masquerade struct{ RandomFully bool }

func (t Jump) appendArgs(b []byte) []byte { return append(append(b, "-j "...), t.Chain...) }
func (t Goto) appendArgs(b []byte) []byte { return append(append(b, "-g "...), t.Chain...) }
func (Return) appendArgs(b []byte) []byte { return append(b, "-j RETURN"...) }
func (Accept) appendArgs(b []byte) []byte { return append(b, "-j ACCEPT"...) }

func (DropPacket) appendArgs(b []byte) []byte { return append(b, "-j DROP"...) }
func (Reject) appendArgs(b []byte) []byte     { return append(b, "-j REJECT"...) }
func (Reset) appendArgs(b []byte) []byte {
	return append(b, "-j REJECT --reject-with tcp-reset"...)
}

func (t DNAT) appendArgs(b []byte) []byte {
	return t.To.AppendTo(append(b, "-j DNAT --to-destination "...))
}

func (t DNATAddr) appendArgs(b []byte) []byte {
	return t.To.AppendTo(append(b, "-j DNAT --to-destination "...))
}

func (t NetMap) appendArgs(b []byte) []byte {
	return t.To.Masked().AppendTo(append(b, "-j NETMAP --to "...))
}

// Set-xmark is what all forms of mark are to the kernel, and what save prints.
func (t OrMark) appendArgs(b []byte) []byte {
	b = appendHex(append(b, "-j MARK --set-xmark "...), t.Bits)
	return appendHex(append(b, '/'), t.Bits)
}

func (t ClearMark) appendArgs(b []byte) []byte {
	return appendHex(append(b, "-j MARK --set-xmark 0x0/"...), t.Bits)
}

func (t XorMark) appendArgs(b []byte) []byte {
	b = appendHex(append(b, "-j MARK --set-xmark "...), t.Bits)
	return append(b, "/0x0"...)
}

func (t Masquerade) appendArgs(b []byte) []byte {
	b = append(b, "-j MASQUERADE"...)
	if t.RandomFully {
		b = append(b, " --random-fully"...)
	}
	return b
}

func (t Jump) check(Family, Table, Protocol) error       { return checkChainName(t.Chain) }
func (t Goto) check(Family, Table, Protocol) error       { return checkChainName(t.Chain) }
func (Return) check(Family, Table, Protocol) error       { return nil }
func (Accept) check(Family, Table, Protocol) error       { return nil }
func (OrMark) check(Family, Table, Protocol) error       { return nil }
func (XorMark) check(Family, Table, Protocol) error      { return nil }
func (ClearMark) check(Family, Table, Protocol) error    { return nil }
func (Reject) check(_ Family, t Table, _ Protocol) error { return only(Filter, t, "REJECT") }

func (Reset) check(_ Family, t Table, p Protocol) error {
	if p != TCP {
		return errors.New("a TCP reset for packets that may not be TCP")
	}
	return only(Filter, t, "REJECT")
}

func (DropPacket) check(_ Family, t Table, _ Protocol) error {
	if t == NAT {
		return errors.New("DROP does not exist in table nat")
	}
	return nil
}

func (d DNAT) check(f Family, t Table, p Protocol) error {
	switch {
	case !d.To.IsValid() || FamilyOf(d.To.Addr()) != f || d.To.Addr().Zone() != "":
		return fmt.Errorf("DNAT to %v is not %v", d.To, f)
	case d.To.Port() == 0:
		return fmt.Errorf("DNAT to %v has no port", d.To)
	case !p.hasPorts():
		return fmt.Errorf("DNAT to %v without a protocol that has ports", d.To)
	}
	return only(NAT, t, "DNAT")
}

func (d DNATAddr) check(f Family, t Table, _ Protocol) error {
	if !d.To.IsValid() || FamilyOf(d.To) != f || d.To.Zone() != "" {
		return fmt.Errorf("DNAT to %v is not %v", d.To, f)
	}
	return only(NAT, t, "DNAT")
}

func (m NetMap) check(f Family, t Table, _ Protocol) error {
	if err := checkPrefix(m.To, f); err != nil {
		return fmt.Errorf("NETMAP: %w", err)
	}
	// The tools print a prefix of all bits without its length; nobody needs it.
	if m.To.Bits() == 0 || m.To.IsSingleIP() {
		return fmt.Errorf("NETMAP to %v maps nothing or everything", m.To)
	}
	return only(NAT, t, "NETMAP")
}

// of returns the address a is mapped to.
func (m NetMap) of(a netip.Addr) netip.Addr {
	bits := a.AsSlice()
	network := m.To.Masked().Addr().AsSlice()
	for i := range bits {
		host := byte(0xff)
		if n := m.To.Bits() - 8*i; n >= 8 {
			host = 0
		} else if n > 0 {
			host >>= n
		}
		bits[i] = network[i]&^host | bits[i]&host
	}
	mapped, _ := netip.AddrFromSlice(bits)
	return mapped
}

func (Masquerade) check(_ Family, t Table, _ Protocol) error { return only(NAT, t, "MASQUERADE") }

func only(want, got Table, target string) error {
	if want != got {
		return fmt.Errorf("%s exists only in table %s", target, want)
	}
	return nil
}
