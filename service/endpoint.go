package service

import (
	"net/netip"
	"slices"
)

// A SliceEndpoint is one entry of an EndpointSlice's endpoints. Only its first
// address counts. There may be a hundred thousand of them, so what many have in
// common is behind a pointer. Make one with [NewSliceEndpoint]; the zero
// SliceEndpoint is of no use.
type SliceEndpoint struct {
	addr [16]byte // IPv4 addresses are mapped
	*EndpointState
}

// An EndpointState is everything about an endpoint but its address. It is shared
// by endpoints, so it is not changed.
type EndpointState struct {
	Node        string // nodeName, empty if unknown: never this node
	Ready       bool   // nil counts as true
	Serving     bool   // nil counts as true
	Terminating bool   // nil counts as false
	ForZones    []string
	ForNodes    []string
}

// NewSliceEndpoint returns an endpoint. The address must be valid, without a zone
// and not an IPv4-mapped one; the state must not be nil.
func NewSliceEndpoint(a netip.Addr, s *EndpointState) SliceEndpoint {
	return SliceEndpoint{a.As16(), s}
}

// Addr returns the address.
func (e SliceEndpoint) Addr() netip.Addr { return netip.AddrFrom16(e.addr).Unmap() }

// Equal reports whether e and o mean the same.
func (e SliceEndpoint) Equal(o SliceEndpoint) bool {
	return e.addr == o.addr && (e.EndpointState == o.EndpointState || e.EndpointState.equal(o.EndpointState))
}

func (s *EndpointState) equal(o *EndpointState) bool {
	return s.Node == o.Node && s.Ready == o.Ready && s.Serving == o.Serving && s.Terminating == o.Terminating &&
		slices.Equal(s.ForZones, o.ForZones) && slices.Equal(s.ForNodes, o.ForNodes)
}
