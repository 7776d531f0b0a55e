// Package userspace puts Snapshots in force with a proxy on the path of the data:
// what is sent to a Service is accepted here, and passed on to an endpoint.
//
// It is for nodes whose kernel offers little, and it is the only dataplane that sees
// a connection fail: it tries the next endpoint, and leaves out for a while those
// that fail again and again.
//
// # How packets get here
//
// The rules are a fixed number, and so are the sockets: for each family three that
// listen for TCP, and three for UDP (times the workers), on the loopback addresses.
// What there is of Services is in ipsets, of which one element is one netlink
// message.
//
//	FLU4-VIP     addresses and ports that are served
//	FLU4-DROP    new connections are dropped, except …
//	FLU4-SHORT   … of callers on this node, who are served
//	FLU4-REFUSE  new connections are rejected: nothing serves them
//	FLU4-FW      only the callers in FLU4-FWSRC may come
//	FLU4-CLUSTER addresses whose undeclared ports are rejected
//	FLU4-HC      health-check node ports, accepted in INPUT
//
// and the same with FLU6.
//
//	mangle PREROUTING  FL-PREROUTING: a TCP connection that we have? mark 0x8000
//	                   in FLU4-DROP? dropped; in FLU4-REFUSE? left to the filter table
//	                   in FLU4-VIP? TPROXY to the socket for pods, for the node
//	                   itself, or for all others; mark 0x8000
//	routing            90: fwmark 0x8000/0x8000 lookup 17997; local default dev lo
//	mangle OUTPUT      what the node sends to FLU4-VIP gets the mark, so it comes back
//	                   by lo and meets the rules above
//
// TPROXY (Documentation/networking/tproxy.rst) rewrites nothing: an accepted socket
// has the frontend for its own address, so the kernel need not remember, nor be
// asked, where a connection was sent; and it does so for UDP, where REDIRECT has no
// way to tell. By which of the three sockets a connection comes says who calls, so
// the rules decide that, with the matches the other dataplanes use. What is not
// forwarded never gets here: user space cannot refuse what it has accepted.
//
// # Source addresses
//
// Where the policy keeps the address of the caller, the connection to the endpoint
// is made from a transparent socket that is bound to it. The answers come to this
// node, as the caller or the endpoint is on it; the match socket finds whose they
// are, and the mark brings them in. An endpoint that is the node itself answers from
// within: its answers are found by a mark on the connection (CONNMARK).
//
// If the caller and the endpoint are reached by the same device, answers would not
// pass this node: pods on one bridge, or both on other nodes. Then the endpoint sees
// the node's address. The proxy's own packets have the mark 0x2000, and are never
// caught again: an endpoint may be a Service's address.
//
// # What is lost
//
// When the process ends the kernel resets its connections; other dataplanes keep
// theirs. New ones are not refused meanwhile: where no socket listens, TPROXY drops,
// and the client's kernel tries again after a second. Before it ends, nobody is heard
// for a second who wants to connect, so that short connections come to their end.
//
// A process that starts while another runs takes its place, and loses nothing: it
// gets the listeners, the sockets of all connections and sessions with the state they
// are in, and what is known of clients and endpoints (package handover, and
// succession_linux.go for the order). See [Proxy] for endpoints that leave.
//
// # What was measured
//
// Linux 6.18, 2 CPUs, loopback, separate processes, alternating rounds, beside
// HAProxy 2.6.12 in TCP mode with splicing: CPU of the proxy for a request of 1 KiB
// on 64 connections 0.88 of HAProxy's; for a connection per request 0.80; for bulk
// data 0.75. An idle connection takes 279 bytes and two descriptors (package relay).
package userspace
