package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// A Config says how to put Snapshots in force. The zero Config is not valid: use
// [DefaultConfig].
type Config struct {
	// SocketBit is the bit of the packet mark, 0 to 31, that sockets of the proxy
	// have: what they send is never caught again. The default is 13, the mark
	// 0x2000. It must not be 14, of which rules that kube-proxy or an old kubelet
	// left behind say that it asks for masquerading.
	SocketBit int
	// RouteBit is the bit that routes a packet to the node. The default is 15, the
	// mark 0x8000.
	RouteBit int

	// Ports are where the proxy listens, on the loopback addresses, one for each
	// origin, over TCP and UDP. They are in the rules, so they have to be known
	// before, and should be the same after a restart.
	Ports Ports

	// Families are the address families to program; empty means both.
	Families []service.Family

	// Follows reports whether somebody else has Services in force now, whose place the
	// dataplane takes when it puts everything in force: another proxy, or this one in
	// another mode. It is asked by each Sync that does; nil means that nobody has.
	Follows func(context.Context) bool

	// Log is required by New, and not used by Plan.
	Log *slog.Logger
}

// Ports are port numbers indexed by [service.Origin].
type Ports [service.NumOrigins]uint16

// DefaultPorts are next to those of Kubernetes' own components.
func DefaultPorts() Ports { return Ports{10265, 10266, 10267} }

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{SocketBit: 13, RouteBit: 15, Ports: DefaultPorts()}
}

// Validate reports every problem of c.
func (c Config) Validate() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("userspace.%s: "+format, append([]any{field}, args...)...))
	}
	for field, bit := range map[string]int{"socketBit": c.SocketBit, "routeBit": c.RouteBit} {
		if bit < 0 || bit > 31 {
			fail(field, "%d is not between 0 and 31", bit)
		}
	}
	if c.SocketBit == c.RouteBit {
		fail("routeBit", "%d is the socket bit too", c.RouteBit)
	}
	for i, p := range c.Ports {
		if p == 0 || slices.Contains(c.Ports[:i], p) {
			fail("ports", "%v are not three port numbers", c.Ports)
			break
		}
	}
	return errors.Join(errs...)
}

func (c Config) families() []service.Family {
	if len(c.Families) == 0 {
		return []service.Family{service.IPv4, service.IPv6}
	}
	return c.Families
}

func (c Config) serves(f service.Family) bool { return slices.Contains(c.families(), f) }

// SocketMark is the mark of the proxy's own sockets.
func (c Config) SocketMark() uint32 { return 1 << c.SocketBit }

func (c Config) routeMark() uint32 { return 1 << c.RouteBit }

// Listen returns where the proxy listens for callers of an origin.
func (c Config) Listen(f service.Family, o service.Origin) netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == service.IPv6 {
		loopback = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(loopback, c.Ports[o])
}
