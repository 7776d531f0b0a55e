// Package kernel is the edge between the IPVS dataplane and the kernel: what of
// IPVS, ipset and rtnetlink the dataplane writes, as values with the meaning of
// errors nailed down, and two implementations of it. Linux talks netlink; Fake
// keeps everything in memory and is as strict as the kernel is.
//
// Linux is here for its speed: a Service of kube-proxy's size is a dozen ops, a
// node can have 10 000 of them, and libraries wait for an answer to each op. It
// writes many messages with one call and asks for an acknowledgement of the last
// only. The kernel executes all of them in order before that call returns, goes
// on after a message that it refuses, and says which that was.
package kernel
