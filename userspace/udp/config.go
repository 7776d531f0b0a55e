package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Config says what an Engine does.
type Config struct {
	Handler   Handler // required
	Listeners []Listener

	// Inherited are sockets that another Engine has opened, used in place of new ones
	// where a Listener has their address and origin. They determine the number of
	// workers. Open owns their descriptors.
	Inherited []Socket

	// Transparent takes the frontend from the datagram's original destination and
	// answers from there. It needs CAP_NET_ADMIN and TPROXY rules. Without it, the
	// frontend is the listener's own address.
	Transparent bool

	Mark        uint32 // SO_MARK of all sockets but the listeners; zero sets none
	Workers     int    // zero means one for each processor, at most 4
	MaxSessions int    // zero means 65536, or half of RLIMIT_NOFILE if that is less
	Attempts    int    // endpoints that one datagram may try; zero means 4

	// A session ends when nothing was sent either way for IdleTimeout, or for
	// NewTimeout as long as its endpoint has never answered. Zero means 120 s
	// and 30 s, as nf_conntrack_udp_timeout_stream and nf_conntrack_udp_timeout.
	// It may take a second or a sixteenth of the shorter timeout longer,
	// whichever is less.
	IdleTimeout, NewTimeout time.Duration

	// EvictAfter is for how long a session must have been idle to make room for
	// another. Zero means 5 s.
	EvictAfter time.Duration

	// ReceiveBuffer is the size in bytes of each listener's socket buffer. Zero
	// means 4 MiB. Without CAP_NET_ADMIN, net.core.rmem_max bounds it.
	ReceiveBuffer int
}

// A Listener is an address that datagrams arrive at, and who sends them.
type Listener struct {
	Addr   netip.AddrPort // port 0 means any: see Engine.Addrs
	Origin service.Origin
}

func (l Listener) validAddr() bool { return l.Addr.IsValid() && !l.Addr.Addr().Is4In6() }

// A Flow is what a session is for.
type Flow struct {
	Client   netip.AddrPort
	Frontend netip.AddrPort
	Origin   service.Origin
}

// A Target is where the datagrams of a Flow go.
type Target struct {
	Addr   netip.AddrPort
	Source netip.AddrPort // what the endpoint is to see; zero means the node's own address
	Lease  any            // handed back to the Handler; not looked at
}

// A Handler decides for an Engine. Its methods are called by several workers at
// once, while these hold up all else: they must be quick and must not call the
// Engine.
type Handler interface {
	// Target names where f goes. If failed is not nil, it is the Lease of a
	// Target of the same session that was closed as Failed, and another is
	// wanted. False drops the datagram and ends the session. Every Lease is
	// closed once.
	Target(f Flow, failed any) (Target, bool)

	// Answered says that the endpoint of the Lease has sent a first datagram.
	Answered(lease any)

	// Closed says that the Lease is not used any more.
	Closed(lease any, r Result)
}

// A Result is how the use of a Target went.
type Result struct {
	Reason   Reason
	Answered bool
	In, Out  Traffic
}

// Traffic counts datagrams and the bytes in them.
type Traffic struct{ Datagrams, Bytes uint64 }

func (t *Traffic) add(o Traffic) {
	t.Datagrams += o.Datagrams
	t.Bytes += o.Bytes
}

// A Reason says why a Target is not used any more.
type Reason uint8

// The reasons.
const (
	Idle       Reason = iota // nothing was sent for a time
	Failed                   // the endpoint refused, or cannot be reached
	Moved                    // Retarget
	Gone                     // EndFrontends, or the client calls from another Origin
	Evicted                  // it made room for another session
	Unable                   // no socket could be made, for want of descriptors or otherwise
	Stopped                  // the Engine has ended
	HandedOver               // another Engine goes on with it
	NumReasons
)

// String returns the lower-case name, for metrics.
func (r Reason) String() string {
	return [...]string{"idle", "failed", "moved", "gone", "evicted", "unable", "stopped", "handed_over"}[r]
}

// A Drop says why a datagram was dropped.
type Drop uint8

// The drops.
const (
	NoTarget      Drop = iota // the Handler named none
	TooMany                   // sessions
	NoDescriptors             // of files are left in the process or the system
	NoSocket                  // could be made for another reason
	Unreachable               // as many endpoints as may be tried did not take it
	NotSent                   // to the endpoint, for another reason than Unreachable
	NotAnswered               // the answer could not be sent to the client
	NotUnderstood             // it came without a destination
	NumDrops
)

// String returns the lower-case name, for metrics.
func (d Drop) String() string {
	return [...]string{
		"no_target", "too_many_sessions", "no_descriptors", "no_socket",
		"unreachable", "not_sent", "not_answered", "not_understood",
	}[d]
}

// Stats are numbers of an Engine. All but Sessions only grow.
type Stats struct {
	Sessions int
	Opened   uint64             // sessions
	Closed   [NumReasons]uint64 // uses of a Target; a session may have several
	Dropped  [NumDrops]uint64   // datagrams
	In       Traffic            // from clients, sent to endpoints
	Out      Traffic            // from endpoints, sent to clients
}

func (s *Stats) add(o *Stats) {
	s.Sessions += o.Sessions
	s.Opened += o.Opened
	for i, n := range o.Closed {
		s.Closed[i] += n
	}
	for i, n := range o.Dropped {
		s.Dropped[i] += n
	}
	s.In.add(o.In)
	s.Out.add(o.Out)
}

// Validate returns all that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(c.Handler == nil, "Handler: there is none")
	for i, l := range c.Listeners {
		wrong(!l.validAddr(), "Listeners[%d].Addr: %v is not an IPv4 or IPv6 address", i, l.Addr)
		wrong(l.Origin >= service.NumOrigins, "Listeners[%d].Origin: %d is none", i, l.Origin)
	}
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"Workers", int64(c.Workers)}, {"MaxSessions", int64(c.MaxSessions)}, {"Attempts", int64(c.Attempts)},
		{"IdleTimeout", int64(c.IdleTimeout)}, {"NewTimeout", int64(c.NewTimeout)},
		{"EvictAfter", int64(c.EvictAfter)}, {"ReceiveBuffer", int64(c.ReceiveBuffer)},
	} {
		wrong(f.n < 0, "%s: %d is negative", f.name, f.n)
	}
	return errors.Join(errs...)
}
