// Package takeover removes what another proxy has left on the node, once what
// fairlead has put in force serves in its place: kube-proxy in any of its modes, or
// fairlead itself in another mode or with the other variant of iptables.
//
// # Order
//
// Rules of two proxies beside each other are harmless: whichever translates a new
// connection first decides for good, and both lead to an endpoint. So everything of
// ours is in force before anything of theirs goes. Connections that are established
// live in connection tracking, and no rule is needed for them; those that IPVS
// balances live in its virtual servers, which stay until their last connection has
// ended.
//
//	Prepare   before the first Sync: what would not get on together is kept apart
//	Sync      ours
//	Pass      tables of nft, jumps and chains, virtual servers, addresses, sets
//
// The proxy of userspace mode is the one that does not get on with others: what it
// has caught must not be translated as well. Before its first Sync marked packets are
// excepted from everybody's translation; and where it is what leaves, the first
// packets of connections are dropped, for the moment between the rules of the others
// and the removal of its own, and clients repeat them.
//
// # What is whose
//
//   - Chains by their names: those of kube-proxy 1.28 to 1.36, with 16 characters of a
//     hash where they have one. KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT
//     and KUBE-MARK-DROP are the kubelet's and stay. A chain that a rule of somebody
//     else leads to stays as well, with all that it leads to.
//   - The tables ip kube-proxy and ip6 kube-proxy of nft.
//   - Sets by their names. They say what else is kube-proxy's: a virtual server, if its
//     address and port are in one of them, or, for a node port, if the port is and the
//     address is the node's; or if its address is one of kube-ipvs0, from which
//     kube-proxy removes all that is not its own. An address of kube-ipvs0 is
//     kube-proxy's if it is in KUBE-IPVS-IPS or has such a virtual server. Where there
//     is no such set, and for all else, it is somebody else's and stays, and so does
//     what is in the networks that are to be left alone.
//
// The sets go last, so that they are the memory of what is still to be removed, also
// for the next process.
//
// Kernel parameters stay as they are.
package takeover
