package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Handler decides where connections go. Workers call it concurrently; it must not
// block, since all connections of a worker would wait.
type Handler interface {
	// Accepted says that client has connected to frontend, at a listener for
	// callers of this origin. Connections with a nil Journey are reset.
	Accepted(client, frontend netip.AddrPort, origin service.Origin) Journey
}

// A Journey is one connection on its way to an endpoint. It is called by one
// worker, never concurrently, and must not block. The order of calls is
//
//	Next { Failed Next } [ Connected ] Closed
//
// where a false of Next, the end of the client or of the Engine leads to Closed
// directly.
type Journey interface {
	// Next names the endpoint to try, at first or after the last one has failed.
	// False gives up: the client is reset.
	Next() (Target, bool)

	// Failed says that the last Target did not answer. Err is a unix.Errno, among
	// them ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, and ETIMEDOUT if its Timeout
	// was up. EADDRNOTAVAIL and EADDRINUSE are about this node: it has no port left
	// for connections to this endpoint. Lack of descriptors is not reported here,
	// it ends the connection.
	Failed(err error)

	// Connected says that the last Target has answered. The handle is valid until
	// Closed.
	Connected(h Handle)

	// Closed says that the connection is over. It is called exactly once.
	Closed(s Stats)
}

// A Target is an endpoint to be tried.
type Target struct {
	Addr netip.AddrPort // required

	// Source is the address to connect from, which may be foreign to the node if
	// Config.Transparent is set. If its port is zero or taken, the kernel chooses
	// one. The zero Source leaves the choice of the address to the kernel as well.
	Source netip.AddrPort

	// Timeout is how long to wait for an answer; zero stands for
	// Config.ConnectTimeout.
	Timeout time.Duration
}

// Stats is the account of a connection that is over.
type Stats struct {
	FromClient uint64        // bytes read from the client
	ToClient   uint64        // bytes read from the endpoint
	Duration   time.Duration // since it was accepted
	Err        error         // nil if both sides have ended their streams properly
}

// Why connections end before their time. Besides these, Stats.Err may be a
// unix.Errno that one of the sides met, such as ECONNRESET.
var (
	ErrAborted    = errors.New("aborted")
	ErrClosed     = errors.New("the relay is closed")
	ErrClientGone = errors.New("the client went away before an endpoint answered")
	ErrGiven      = errors.New("another process goes on with it")
	ErrExhausted  = errors.New("no endpoint answered")
	ErrIdle       = errors.New("idle for too long")
	ErrShed       = errors.New("no descriptors left")
)

// A Config is what an Engine needs to know.
type Config struct {
	Handler Handler // required

	// Workers is the number of event loops; zero stands for GOMAXPROCS. They cost least
	// if GOMAXPROCS is larger: as long as Go's scheduler has an idle processor, it does
	// not take theirs away as soon as they wait.
	Workers int

	// Transparent lets listeners accept what was sent to any address, and Targets
	// have foreign Sources. It needs CAP_NET_ADMIN.
	Transparent bool

	// Mark is the firewall mark (SO_MARK) of sockets to endpoints; zero for none.
	// It needs CAP_NET_ADMIN.
	Mark uint32

	// ConnectTimeout is for Targets without a Timeout; zero stands for 5 seconds.
	ConnectTimeout time.Duration

	// IdleTimeout is when connections are reset that have moved nothing; zero for
	// never. It may take a quarter longer.
	IdleTimeout time.Duration

	// KeepAlive is after what silence the kernel probes whether a peer is still
	// there, on both sides; zero stands for 15 minutes, below zero for never.
	KeepAlive time.Duration

	// MaxConns is how many connections may exist at a time; more are reset as they
	// come. Zero leaves the limit to the descriptors, of which each connection
	// needs two.
	MaxConns int

	// MaxPipes is how many pipes may exist at a time; flows beyond are copied. Each
	// has two descriptors and may hold 1 MiB. Zero stands for 256, below
	// zero for none.
	MaxPipes int
}

const (
	defaultConnectTimeout = 5 * time.Second
	defaultKeepAlive      = 15 * time.Minute
	defaultMaxPipes       = 256
)

// Validate reports all that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	if c.Handler == nil {
		errs = append(errs, errors.New("Handler: required"))
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"Workers", c.Workers}, {"MaxConns", c.MaxConns},
		{"ConnectTimeout", int(c.ConnectTimeout)}, {"IdleTimeout", int(c.IdleTimeout)},
	} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("%s: below zero", n.name))
		}
	}
	return errors.Join(errs...)
}
