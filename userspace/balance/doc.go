// Package balance chooses an endpoint for a new connection, and remembers what
// became of earlier ones.
//
// A [Balancer] serves one [service.Port]. Its frontends and origins may have
// different pools; what is known of an endpoint, and which client is bound to
// which, is shared by all of them. The caller says what happened:
//
//	Pick ──▶ connect ──▶ Connected ──▶ … ──▶ Finished
//	  ▲         │
//	  └─ Failed ┘            at most Config.Attempts times, no endpoint twice
//
// # Algorithms
//
// They have the names and the meaning of the schedulers of the kernel's IPVS
// (net/netfilter/ipvs). Ties go to the endpoint that was not picked for longest,
// and in the beginning to the first in an order of the node's own, so that nodes do
// not all begin at the same one.
//
//	rr    one after the other; weights do not matter
//	wrr   each as often as its weight says, spread out evenly; exact over a cycle
//	lc    fewest connections
//	wlc   fewest connections for its weight
//	sed   shortest expected delay: (connections + 1) / weight
//	nq    the first that has no connections, or else as sed
//	sh    hash of the client's address; with sh-port of its port too
//	mh    the same, with the port unless the flags leave it out
//	dh    hash of the frontend's address and port: one endpoint for each
//	fo    the heaviest; another only if that one is left out
//	ovf   the heaviest that has no more connections than its weight; nobody if all have
//
// Connections are those of this node. sh, mh and dh are weighted rendezvous
// hashing over 65,536 slots: if an endpoint leaves, its clients move and no others, and all nodes agree.
// Their fallback flags are always in force. lblc, lblcr and twos are not built:
// [Effective] names what is used instead.
//
// # Affinity
//
// With Port.Affinity a client's address stays with its endpoint until it has made
// no new connection for that long. A client whose endpoint has left the pool,
// fails to connect or is left out for failing is bound to the next one it gets.
// At the limit of remembered clients the one with the oldest connection is forgotten.
//
// # Outliers
//
// An endpoint that fails to connect several times in a row is left out of its
// pools for a while, but never too many of a pool at once. After that time one
// connection tries it: success brings it back, failure doubles the time. See
// [Outlier].
//
// The package reads no clock and starts no goroutine.
package balance
