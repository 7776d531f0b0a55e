// Package ipvs puts Snapshots in force with the kernel's IP Virtual Server.
//
// # What is in the kernel
//
// Every address and port that is answered has a virtual server of its own, with
// the endpoints of callers from outside as its destinations (masquerading, which
// is NAT), so that "ipvsadm -Ln" shows what kube-proxy's users expect. Beside it
// there are ipsets that say what else is true of an address and port, a fixed
// number of iptables rules that look at the sets, and what routes packets to the
// node. One endpoint that changes is one netlink message; no program is started.
//
//	FL4-OWN     virtual servers that we made; written before the server
//	FL4-VIP     addresses and ports whose packets are routed to the node
//	FL4-REFUSE  new connections are rejected: nothing serves them
//	FL4-DROP    new connections are dropped: what serves them is not on this node
//	FL4-MASQ    connections are masqueraded
//	FL4-MASQX   connections are masqueraded, except of pods on this node
//	FL4-SHORT   callers on this node get another pool than those from outside
//	FL4-FW      only the callers in FL4-FWSRC may come
//	FL4-ADDR    addresses that answer ping and take ICMP errors
//	FL4-EXT     addresses that take ICMP errors about their connections
//	FL4-CLUSTER addresses whose undeclared ports are rejected
//	FL4-HC      health-check node ports, accepted in INPUT
//
// and the same with FL6.
//
// # How a packet gets there
//
// IPVS only sees packets that are addressed to the node (hooks LOCAL_IN and
// LOCAL_OUT; net/netfilter/ipvs/ip_vs_core.c). kube-proxy gives the node every
// virtual address, and with it every port: host processes answer at them, the
// node answers ARP for them, a port of a host or pod catches their traffic, and an
// external IP that belongs to another machine cuts it off. Here only packets to
// declared ports are marked, and a routing rule sends marked packets by a table of
// local routes:
//
//	mangle PREROUTING  FL-PREROUTING: to FL4-VIP? mark 0x8000
//	routing            90: fwmark 0x8000/0x8000 lookup 17996; local 10.96.0.10 dev lo
//	mangle INPUT       mark cleared: with it IPVS' own packets would come back
//	filter INPUT       nothing of ours refuses them
//	LOCAL_IN           IPVS picks a destination, the packet goes on from OUTPUT
//	nat POSTROUTING    masqueraded if nat PREROUTING marked it 0x4000
//
// IPVS takes the node's own packets in OUTPUT. They are marked in mangle OUTPUT all
// the same: if the destination is the node itself, IPVS leaves the packet on the
// way it was routed, which must not lead out of the node.
//
// The table holds one route for each address and never a default: where
// src_valid_mark is set, the kernel would take every source for one of its own.
// ICMP from a virtual address (port unreachable, fragmentation needed) is sent only
// if the kernel knows the address, so those of IPv4 are on the device kube-ipvs0,
// which is down, each without the local route that comes with it; so they still
// answer no ARP and catch nothing. IPv6 needs no address.
// [Device] is kube-proxy's way.
//
// # Two pools for one frontend
//
// With externalTrafficPolicy Local, callers from outside get the endpoints of this
// node, pods and the node itself those of the cluster. A virtual server has one
// pool; so the callers on the node are sent, by NETMAP in nat, to an alias of the
// frontend with a virtual server of its own: 203.0.113.7:80 becomes
// 251.0.113.7:80, and 2001:db8::7 becomes fdfa:db8::7. The alias never leaves the
// node. From the second packet on such a connection is nat's alone.
//
// # What stays impossible
//
// A client that calls an endpoint directly and by its Service, or by two Services,
// from one and the same port at the same time, confuses IPVS, which knows replies by
// the endpoint and the client only (kubernetes issue 90042). Affinity lasts two to three minutes
// at least, as long as closed connections are remembered. Node ports do not answer
// at 127.0.0.1: packets from there do not leave the node. Single flows cannot be
// deleted by user space. Network policies that hook FORWARD do not see requests to
// Services, only replies.
//
// # Ping
//
// Cluster and load-balancer addresses answer ping, where the other dataplanes
// reject or ignore it: the one thing that is not as the oracle has it.
package ipvs
