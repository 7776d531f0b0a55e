package main

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A nodeState is everything a service.Node is made of.
type nodeState struct {
	Config nodeConfig
	Name   string        // of this node; never empty
	Info   kube.NodeInfo // from the API server; zero if there is none or it is not known yet
	Addrs  localAddrs
}

// localAddrs are the addresses of this machine.
type localAddrs struct {
	// All are sorted, without those in 127.0.0.0/8 and ::1.
	All []netip.Addr
	// Outward is the address in each family that the machine is most likely
	// known by, for want of a Node object; the zero Addr if there is none.
	Outward [service.NumFamilies]netip.Addr
}

// build decides what this node is. A family without a primary address has the
// zero Addr, and answers node ports nowhere if they follow the primary ones.
func (s nodeState) build() service.Node {
	n := service.Node{
		Name:          s.Name,
		Zone:          s.Info.Zone,
		Primary:       s.primary(),
		Addrs:         s.Addrs.All,
		PortAddrs:     s.Config.PortAddrs,
		MasqueradeAll: s.Config.MasqueradeAll,
		Pods:          s.detector(),
	}
	if s.Config.PortPrimary {
		n.PortAddrs = only(n.Primary)
	}
	n.LocalhostPorts = s.Config.LocalhostPorts && slices.ContainsFunc(n.PortAddrs[service.IPv4], holdsLoopback)
	return n
}

// primary takes the address of a family from --bind-address, else the Node
// object, else the machine.
func (s nodeState) primary() [service.NumFamilies]netip.Addr {
	out := s.Info.Primary()
	for f, a := range s.Addrs.Outward {
		if !out[f].IsValid() && len(s.Info.Addrs) == 0 {
			out[f] = a
		}
	}
	if a := s.Config.Bind; a.IsValid() {
		out[service.FamilyOf(a)] = a
	}
	return out
}

// primaryFamily is the family this node cannot do without: that of its first
// address. It reports false if no address is known.
func (s nodeState) primaryFamily() (service.Family, bool) {
	if s.Config.Bind.IsValid() {
		return service.FamilyOf(s.Config.Bind), true
	}
	if len(s.Info.Addrs) > 0 {
		return service.FamilyOf(s.Info.Addrs[0]), true
	}
	for f, a := range s.Addrs.Outward {
		if a.IsValid() {
			return service.Family(f), true
		}
	}
	return 0, false
}

// detector says how traffic of pods on this node is told from other traffic.
func (s nodeState) detector() service.Detector {
	switch s.Config.Detect {
	case detectBridge:
		return service.Detector{Interface: s.Config.Interface}
	case detectPrefix:
		return service.Detector{Interface: s.Config.Interface, IsPrefix: true}
	case detectNodeCIDR:
		var d service.Detector
		for _, p := range s.Info.PodCIDRs {
			d.Prefixes[service.FamilyOf(p.Addr())] = p
		}
		return d
	default:
		return service.Detector{Prefixes: s.Config.ClusterCIDRs}
	}
}

func only(addrs [service.NumFamilies]netip.Addr) [service.NumFamilies][]netip.Prefix {
	var out [service.NumFamilies][]netip.Prefix
	for f, a := range addrs {
		if a.IsValid() {
			out[f] = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
		}
	}
	return out
}

// holdsLoopback reports whether p and 127.0.0.0/8 have an address in common.
func holdsLoopback(p netip.Prefix) bool {
	return p.Overlaps(netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8))
}
