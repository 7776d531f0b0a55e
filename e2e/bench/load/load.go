//go:build linux

// Package load makes TCP load, and answers it, at little cost of its own: what is
// to be measured is in between. Client and server are a loop over epoll on one
// thread each.
//
//	s, err := load.NewServer(map[load.Kind][]net.Listener{load.Ping: {l}})
//	defer s.Close()
//	result, err := load.Load{Kind: load.Ping, Target: addr, Conns: 64, …}.Run(ctx, nil)
//
// A thread that never sleeps in the Go scheduler costs the same in every trial; a
// goroutine for each connection would add wake-ups that depend on how busy the
// other threads are.
package load

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is what clients and servers say to each other.
type Kind int

// The kinds.
const (
	// Ping: on each connection a request follows an answer, for ever.
	Ping Kind = iota
	// Connect: there is a connection for each request. The server ends it.
	Connect
	// Bulk: after one request the server sends as fast as it can.
	Bulk
)

// String returns "ping", "connect" or "bulk".
func (k Kind) String() string {
	names := [...]string{"ping", "connect", "bulk"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return names[k]
}

const (
	// Message is the size of requests and answers, in bytes.
	Message = 1024
	// chunk is what is read and written at once, at most.
	chunk = 256 << 10
	// events is how many are taken from epoll at once.
	events = 128
)

// Load is what a client does.
type Load struct {
	Kind   Kind
	Target netip.AddrPort
	Conns  int // at a time
	// Warmup is the time before anything counts, Duration the time that counts.
	Warmup, Duration time.Duration
	// Patience is the time given to a connection, or to an answer. 0 means 5 s.
	Patience time.Duration
}

// Result is what came of a load in the time that counts.
type Result struct {
	Operations int64         // answers; Bulk: bytes
	Failed     int64         // connections that could not be made, or broke, or got no answer in time
	Slowest    time.Duration // answer, counted from the request or, with Connect, from connect()
	Elapsed    time.Duration
	// FirstError is why the first of Failed failed; nil if none did.
	FirstError error
}

func (l Load) patience() time.Duration {
	if l.Patience == 0 {
		return 5 * time.Second
	}
	return l.Patience
}

// sockaddr converts an address for the kernel.
func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, unix.AF_INET6
}

// retry reports whether a system call is to be made again, now or later.
func retry(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }
