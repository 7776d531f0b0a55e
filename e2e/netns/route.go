//go:build linux

package netns

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// RouteKind says what a route does with a packet.
type RouteKind int

// The kinds of route. The zero value forwards. A packet that the namespace
// itself would send along a Blackhole is refused to its sender with EINVAL.
const (
	RouteForward     RouteKind = 0
	RouteBlackhole   RouteKind = unix.RTN_BLACKHOLE   // drops silently
	RouteUnreachable RouteKind = unix.RTN_UNREACHABLE // answers "host unreachable"
	RouteProhibit    RouteKind = unix.RTN_PROHIBIT    // answers "administratively prohibited"
)

// Route is an entry of a namespace's main routing table.
type Route struct {
	Dst  netip.Prefix // required; host bits are ignored
	Kind RouteKind
	Via  netip.Addr // next hop; with Dev, it need not be on a connected network
	Dev  string     // needed if Via is not given, unless Kind drops
	Src  netip.Addr // preferred source of the namespace's own packets
}
