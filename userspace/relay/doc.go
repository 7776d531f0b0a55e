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
package relay
