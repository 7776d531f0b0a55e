// Package udp carries datagrams between clients and the endpoints that a [Handler]
// names for them.
//
//	client ──▶ listener ──▶ session ──▶ socket connected to the endpoint
//	client ◀── socket bound to the frontend ◀── session ◀──┘
//
// A session is a client and a frontend. It begins with a datagram, for which the
// Handler names an endpoint, and lasts until nothing was sent either way for a
// time. Its socket is connected, so what comes from elsewhere does not reach it,
// and ICMP errors do: an endpoint that refuses is left at once.
//
// # Sockets
//
// In transparent mode TPROXY rules hand a listener datagrams for any address. The
// socket that answers for a frontend is bound to its address and shared by its
// sessions. It is connected to a peer that never sends, or else it would be found
// for what clients send to the frontend, in particular by rules with -m socket.
// The socket that calls the endpoint is bound to the client's address and port
// if [Target.Source] says so, or to the address alone if the port is taken.
//
// Each worker has listeners of its own, between which the kernel divides the
// clients (SO_REUSEPORT). So a session belongs to one worker, and workers share
// nothing but the number of sessions. A worker waits in epoll, and receives and
// sends several datagrams with one system call where there are several.
//
// # Limits
//
// Nothing grows without bound. At [Config.MaxSessions], or when the process has
// no more descriptors, the session that was idle longest makes room for a new
// one, unless it was used in the last few seconds: then the new datagram is
// dropped. Every dropped datagram is counted by its [Drop].
//
// The Engine needs Linux.
package udp
