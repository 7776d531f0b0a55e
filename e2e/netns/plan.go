//go:build linux

package netns

import (
	"fmt"
	"net/netip"
)

// Dual is one address per family.
type Dual struct{ V4, V6 netip.Addr }

// Slice returns the addresses, IPv4 first.
func (d Dual) Slice() []netip.Addr { return []netip.Addr{d.V4, d.V6} }

// Like returns the address of the family of a.
func (d Dual) Like(a netip.Addr) netip.Addr {
	if a.Is4() {
		return d.V4
	}
	return d.V6
}

// DualPrefix is one prefix per family.
type DualPrefix struct{ V4, V6 netip.Prefix }

// Slice returns the prefixes, IPv4 first.
func (d DualPrefix) Slice() []netip.Prefix { return []netip.Prefix{d.V4, d.V6} }

// Contains reports whether a is in the prefix of its family.
func (d DualPrefix) Contains(a netip.Addr) bool { return d.V4.Contains(a) || d.V6.Contains(a) }

func dual(v4, v6 string, args ...any) Dual {
	return Dual{netip.MustParseAddr(fmt.Sprintf(v4, args...)), netip.MustParseAddr(fmt.Sprintf(v6, args...))}
}

func dualPrefix(v4, v6 string, args ...any) DualPrefix {
	return DualPrefix{netip.MustParsePrefix(fmt.Sprintf(v4, args...)), netip.MustParsePrefix(fmt.Sprintf(v6, args...))}
}

// The address plan. Numbers are written in decimal in both families, so node 12
// is 172.18.0.22 and fd00:172:18::22.

// RouterAddr is the router's address on the nodes' network.
func RouterAddr() Dual { return dual("172.18.0.1", "fd00:172:18::1") }

// NodeAddr is the address of node k, counted from 1.
func NodeAddr(k int) Dual {
	return dual("172.18.0.%[1]d", "fd00:172:18::%[1]d", 10+k)
}

// PodCIDR is the pod range of node k, counted from 1.
func PodCIDR(k int) DualPrefix {
	return dualPrefix("10.244.%[1]d.0/24", "fd00:10:244:%[1]d::/64", k)
}

// PodAddr is the address of pod m of node k. Pods count from 2: 1 is the node's
// own address towards its pods.
func PodAddr(k, m int) Dual {
	return dual("10.244.%[1]d.%[2]d", "fd00:10:244:%[1]d::%[2]d", k, m)
}

// ClientAddr is the i-th address of the client, counted from 1.
func ClientAddr(i int) Dual {
	return dual("198.51.100.%[1]d", "2001:db8:51::%[1]d", i)
}

// ServiceCIDR is where cluster IPs come from.
func ServiceCIDR() DualPrefix { return dualPrefix("10.96.0.0/16", "fd00:10:96::/112") }

// VIPRange is where load-balancer and external IPs come from.
func VIPRange() DualPrefix { return dualPrefix("203.0.113.0/24", "2001:db8:113::/64") }

// gatewayAddr is the first address of a node's pod range.
func gatewayAddr(k int) Dual { return PodAddr(k, 1) }

// clientGateway is the router's address on the client's network.
func clientGateway() Dual { return dual("198.51.100.254", "2001:db8:51::fe") }

// onLink widens an address to the prefix of the network it is on.
func onLink(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 24)
	}
	return netip.PrefixFrom(a, 64)
}

// alone is the prefix that holds only a.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
