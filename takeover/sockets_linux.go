package takeover

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tcpEnding are the states in which a socket needs its address no more: TIME_WAIT,
// CLOSE and LISTEN (include/net/tcp_states.h).
func tcpEnding(state uint8) bool { return state == 6 || state == 7 || state == 10 }

// SocketAddrs returns the local addresses of the sockets in the network namespace of the
// calling thread that are connected.
func SocketAddrs() (map[netip.Addr]bool, error) {
	out := make(map[netip.Addr]bool)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return nil, fmt.Errorf("list TCP sockets: %w", err)
		}
		udp, err := netlink.SocketDiagUDP(family)
		if err != nil {
			return nil, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, s := range tcp {
			if a, ok := netip.AddrFromSlice(s.ID.Source); ok && !tcpEnding(s.State) {
				out[a.Unmap()] = true
			}
		}
		for _, s := range udp {
			if a, ok := netip.AddrFromSlice(s.ID.Source); ok && s.ID.DestinationPort != 0 {
				out[a.Unmap()] = true
			}
		}
	}
	return out, nil
}
