package userspace

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// keepsSource reports whether an endpoint sees the address of its caller. It does
// not if the Route says so, or if it calls itself. What arrives and is sent to the
// node itself keeps its source in any case, as in [service.Snapshot.Resolve].
func keepsSource(n *service.Node, r *service.Route, client, endpoint netip.Addr) bool {
	if isLocal(n, endpoint) && !isLocal(n, client) {
		return true
	}
	return !r.Masquerade && endpoint != client
}

func isLocal(n *service.Node, a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(n.Addrs, a, netip.Addr.Compare)
	return ok || a.IsLoopback()
}
