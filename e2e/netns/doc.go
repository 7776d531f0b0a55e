// Package netns builds a small Kubernetes-like network out of Linux network
// namespaces, and probes it with real packets, so that a test can run a
// Service proxy inside each node and see what happens to flows, IPv4 and IPv6,
// TCP, UDP and, where the kernel has sockets for it, SCTP.
//
//	                client  198.51.100.1 .. .5   2001:db8:51::1 .. ::5
//	                  │eth0
//	                  │to-client  198.51.100.254  2001:db8:51::fe
//	                router  (no default route: what leaks here is answered
//	                  │      with "net unreachable", and Watch counts it)
//	                  │br-nodes  172.18.0.1  fd00:172:18::1
//	   ┌──────────────┼──────────────┐
//	   │eth0          │eth0          │eth0
//	  n1 .11         n2 .12         n3 .13      one namespace per node
//	vethX│ │vethY     │vethZ
//	     │ │          └─ 10.244.2.2             one namespace per pod
//	     │ └──────────── 10.244.1.3
//	     └────────────── 10.244.1.2
//
// Pods are routed point to point, never bridged, as the ptp and kindnet CNI
// plugins do: two pods of one node reach each other only through the netfilter
// hooks of that node. The host end of each pod's link carries the first address
// of the node's pod CIDR, so that is the source a node uses towards its own pods.
//
// The router sends the Service and load-balancer ranges to node n1 until
// [Cluster.RouteTo] says otherwise, and each pod CIDR to its node. A process in
// the router namespace listening on 172.18.0.1 can play the API server.
//
// Namespaces are bind mounted under /run/netns, so while a test is stopped in a
// debugger a human may look around with "ip netns exec". [Cluster.Close] removes
// them; what a killed run left behind is removed by the next [New] with the same
// [Config.Prefix].
//
// The package needs Linux and root (or the equivalent in a user namespace);
// [Usable] says whether it has what it needs. iptables-legacy takes its lock in
// /run, which all namespaces share: give it XTABLES_LOCKFILE per node if nodes
// should not wait for each other.
package netns
