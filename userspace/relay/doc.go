// Package relay moves the bytes of TCP connections between clients and the
// endpoints that a Handler names, and tries the next endpoint if one does not
// answer. It knows nothing of Services: who may connect, and where to, is for the
// Handler to say.
//
//	client ──accept──▶ side 0 ══flow 0══▶ side 1 ──connect──▶ endpoint
//	                          ◀══flow 1══
//
// A few workers, one goroutine each, wait with epoll and own the connections they
// have accepted; nothing on the path of data is shared, locked or allocated. A
// connection that waits holds neither a buffer nor a pipe. Descriptors are watched
// with edge triggers, once, for everything: a side remembers whether it may have
// something to read (in) and room to write (out), reads end with the first read
// that is short, and what was read is written at once. After 64 KiB a flow that is
// still busy is spliced: the bytes stay in the kernel.
//
// The system calls on the path of data do not block, and are made without telling
// Go's scheduler (see socket_linux.go); only waiting is told.
//
// What one side does is done to the other: the end of a stream (FIN) is passed on
// after all that was before it, a reset is answered with a reset. Urgent data is
// passed on as ordinary data.
//
// An idle connection takes some 280 bytes here, besides its sockets. Against HAProxy
// 2.6 in mode tcp, on two processors over the loopback (November 2026), the processor
// time was 0.88 of HAProxy's for 1 KiB requests on 64 connections and 0.61 on one,
// 0.80 for a connection per request, and 0.75 for bulk spliced by both. To see yours:
//
//	RELAY_BENCH="ping solo conn bulk idle" go test -v -run 'TestBench|TestIdle$' ./userspace/relay
//
// Nodes that connect from their own address (Targets without a Source) to few
// endpoints want net.ipv4.tcp_tw_reuse=1: the side that ends a connection first keeps
// its port for a minute, and to the endpoint that is the relay if it was the client.
package relay
