package service

import "net/netip"

// A Flow is the first packet of a connection as it meets this node.
type Flow struct {
	Protocol Protocol
	Src      netip.Addr
	In       string         // interface it arrived on; empty if generated on this node
	Dst      netip.AddrPort // the port is ignored for ICMP
}

// A Hop is one place a forwarded Flow may be sent.
type Hop struct {
	Endpoint   Endpoint // without its weight
	Masquerade bool     // the endpoint sees the node's address, not the caller's
}

// An Outcome says what must happen to a Flow. Hops is empty unless Verdict is
// Forward, and sorted by endpoint; every Hop must be possible and no other.
type Outcome struct {
	Verdict Verdict
	Hops    []Hop
}
