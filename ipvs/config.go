package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A VIPMode says how packets to virtual addresses get to IPVS, which only sees
// what is addressed to the node.
type VIPMode uint8

// The modes.
const (
	// Routed marks packets to declared ports and routes those, and nothing else
	// of the address, to the node. See the package comment.
	Routed VIPMode = iota
	// Device gives the node every virtual address, as kube-proxy does. It is for
	// nodes where somebody needs the mark or the routing rule for himself.
	Device
)

// String returns "routed" or "device".
func (m VIPMode) String() string {
	if m == Device {
		return "device"
	}
	return "routed"
}

// ParseVIPMode is the reverse of String.
func ParseVIPMode(s string) (VIPMode, error) {
	switch s {
	case "routed":
		return Routed, nil
	case "device":
		return Device, nil
	}
	return 0, fmt.Errorf("unknown VIP mode %q; valid: routed, device", s)
}

// A Config says how to put Snapshots in force. The zero Config is not valid: use
// [DefaultConfig].
type Config struct {
	// MasqueradeBit is the bit of the packet mark, 0 to 31, that says "replace
	// the source address". kube-proxy's default is 14, the mark 0x4000.
	MasqueradeBit int
	// RouteBit is the bit that routes a packet to the node; it is not used with
	// Device. The default is 15, the mark 0x8000, which was kube-proxy's mark
	// for packets to drop, so that others keep off it.
	RouteBit int
	// RandomFully asks MASQUERADE for fully random source ports.
	RandomFully bool

	VIPMode VIPMode

	// Scheduler is the algorithm of Services that do not ask for one.
	Scheduler string
	// Available are the algorithms the kernel has. A Service that asks for
	// another gets Scheduler, and a Deviation. Nil means all.
	Available []string

	// Exclude are networks whose virtual servers are somebody else's: those that
	// are there are not touched, and none is made.
	Exclude []netip.Prefix

	// DrainTimeout is how long a destination that takes no new connections may
	// keep its old ones. Zero means as long as they last.
	DrainTimeout time.Duration

	// AuditEvery is the time between two looks at all the kernel has. Zero means
	// at every call of Audit.
	AuditEvery time.Duration

	// Families are the address families to program; empty means both.
	Families []service.Family

	// Assert makes sure of what else the mode needs, such as kernel parameters,
	// and reports whether it had to change anything. It is called by every full
	// audit, and may be nil.
	Assert func() (changed bool, err error)

	// Held returns the addresses that the node's own connections come from. Where the
	// node was given a virtual address as a whole, by kube-proxy, it keeps that as long
	// as such a connection does. May be nil.
	Held func() (map[netip.Addr]bool, error)

	// Follows reports whether somebody else has Services in force now, whose place the
	// dataplane takes when it puts everything in force: another proxy, or this one in
	// another mode. It is asked by each Sync that does; nil means that nobody has.
	Follows func(context.Context) bool

	// Log is required by New, and not used by Plan.
	Log *slog.Logger
}

// DefaultConfig returns kube-proxy's defaults, for a kernel that has everything.
func DefaultConfig() Config {
	return Config{MasqueradeBit: 14, RouteBit: 15, RandomFully: true, Scheduler: "rr"}
}

// Validate reports every problem of c.
func (c Config) Validate() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("ipvs.%s: "+format, append([]any{field}, args...)...))
	}
	for field, bit := range map[string]int{"masqueradeBit": c.MasqueradeBit, "routeBit": c.RouteBit} {
		if bit < 0 || bit > 31 {
			fail(field, "%d is not between 0 and 31", bit)
		}
	}
	if c.MasqueradeBit == c.RouteBit {
		fail("routeBit", "%d is the masquerade bit too", c.RouteBit)
	}
	if !c.available(c.Scheduler) || !slices.Contains(service.Schedulers(), c.Scheduler) {
		fail("scheduler", "the kernel has no scheduler %q; it has: %s", c.Scheduler, strings.Join(c.schedulers(), ", "))
	}
	if c.DrainTimeout < 0 {
		fail("drainTimeout", "%s is negative", c.DrainTimeout)
	}
	for _, p := range c.Exclude {
		if !p.IsValid() {
			fail("excludeCIDRs", "invalid prefix")
		}
	}
	return errors.Join(errs...)
}

func (c Config) schedulers() []string {
	if c.Available == nil {
		return service.Schedulers()
	}
	return c.Available
}

func (c Config) available(scheduler string) bool {
	return slices.Contains(c.schedulers(), scheduler)
}

func (c Config) families() []service.Family {
	if len(c.Families) == 0 {
		return []service.Family{service.IPv4, service.IPv6}
	}
	return c.Families
}

func (c Config) serves(f service.Family) bool { return slices.Contains(c.families(), f) }

func (c Config) masqMark() uint32  { return 1 << c.MasqueradeBit }
func (c Config) routeMark() uint32 { return 1 << c.RouteBit }

func (c Config) excludes(a netip.Addr) bool {
	return slices.ContainsFunc(c.Exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}
