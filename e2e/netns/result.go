//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Proto is what a probe or server speaks.
type Proto uint8

// The protocols. ICMP is for probes only: an echo request. SCTP needs a kernel
// that has it, see [HasSCTP].
const (
	TCP Proto = iota + 1
	UDP
	ICMP
	SCTP
)

// String returns "tcp", "udp", "icmp" or "sctp".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("Proto(%d)", uint8(p))
}

// Class is what became of a probe, as an application sees it.
type Class uint8

// The classes.
const (
	// Failed: the probe could not be made (no such source address, port in use,
	// context ended). It says nothing about the network.
	Failed Class = iota
	// Reply: a server of this package answered, or, for ICMP, the destination.
	Reply
	// Refused: a TCP reset, an SCTP abort or ICMP "port unreachable" came back.
	Refused
	// Unreachable: another ICMP error came back ("host unreachable",
	// "administratively prohibited", ...), or there is no route.
	Unreachable
	// Dropped: nothing came back within the timeout.
	Dropped
	// Closed: a connection was established, and ended without a reply.
	Closed
)

// String returns the name in lower case.
func (c Class) String() string {
	names := [...]string{"failed", "reply", "refused", "unreachable", "dropped", "closed"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// Identity says which server answered.
type Identity struct {
	// Name of the server's namespace.
	Name string
	// Addr is the address the server itself was reached at, that is, after any
	// translation of destinations.
	Addr netip.AddrPort
}

// String returns name@address:port.
func (i Identity) String() string { return i.Name + "@" + i.Addr.String() }

// Result is the outcome of one exchange.
type Result struct {
	Class Class
	// From is who answered; zero unless Class is Reply and the protocol has
	// servers.
	From Identity
	// SeenSource is the address of the client as the server saw it, after any
	// translation of sources. It equals Local if there was none.
	SeenSource netip.AddrPort
	// Local is the client's own address; zero if it never got one.
	Local netip.AddrPort
	// Err is the error behind any class but Reply.
	Err error
	// Elapsed is the time from before the first packet to the verdict.
	Elapsed time.Duration
}

// String describes the result on one line.
func (r Result) String() string {
	if r.Class != Reply {
		return fmt.Sprintf("%v (%v) after %v", r.Class, r.Err, r.Elapsed.Round(time.Millisecond))
	}
	return fmt.Sprintf("reply from %v to %v, seen as %v", r.From, r.Local, r.SeenSource)
}

// classify tells what an error of a socket says about the network. The kernel's
// mapping of ICMP messages to error numbers is in icmp(7) and RFC 1122, 4.2.3.9.
func classify(err error) Class {
	var errno unix.Errno
	switch {
	case err == nil:
		return Reply
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Dropped
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Failed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Closed
	case !errors.As(err, &errno):
		return Failed
	}
	switch errno {
	case unix.ECONNREFUSED:
		return Refused
	case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ENOPROTOOPT,
		unix.EHOSTDOWN, unix.ENONET, unix.EOPNOTSUPP:
		return Unreachable
	case unix.ECONNRESET, unix.EPIPE:
		return Closed
	case unix.ETIMEDOUT:
		return Dropped
	}
	return Failed
}
