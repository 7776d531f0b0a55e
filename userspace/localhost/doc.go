// Package localhost serves node ports at 127.0.0.1 and ::1 with a proxy, beside a
// dataplane in the kernel that serves them everywhere else.
//
// The kernel can do so for 127.0.0.1 only, and only if it is told to route loopback
// addresses (net.ipv4.conf.all.route_localnet), which opens to the neighbours what
// listens there; IPVS cannot at all. A program that listens can, for both families
// (the idea of KEP-6032). It is a small job: nothing but the node itself gets to
// these addresses, so there is one ordinary socket for each node port and family, no
// rule, no mark, and no source address to be kept.
//
//	Snapshot ──▶ Dataplane ── what is served where ──▶ userspace.Proxy ──▶ endpoints
//	                       ── where to listen ───────▶
//
// What happens to a connection is the Route that the Snapshot has for the node
// itself. Forward is a socket that listens. Reject is none: the kernel refuses, as it
// should. Drop, which no policy has for the node itself, is refused too, with a
// Deviation.
//
// A port that somebody else has on this node is a Deviation, and tried again by every
// Sync and Audit. What is lost when the process ends is the same as in userspace mode:
// connections are reset. New ones are refused until the next process listens.
package localhost
