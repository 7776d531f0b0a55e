package iptables

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A Config says how to render a Snapshot. The zero Config is not valid: use
// [DefaultConfig].
type Config struct {
	// MasqueradeBit is the bit of the packet mark, 0 to 31, that says "replace
	// the source address". kube-proxy's default is 14, the mark 0x4000.
	MasqueradeBit int

	// RandomFully asks MASQUERADE for fully random source ports, which avoids
	// collisions under load. It needs iptables 1.6.2 and Linux 3.13.
	RandomFully bool

	// DropInvalid drops forwarded packets that connection tracking calls
	// INVALID: without NAT they would reach the client with the pod's address,
	// and its kernel would reset the connection. It must be off where the
	// sysctl nf_conntrack_tcp_be_liberal is on.
	DropInvalid bool

	// BPF says that the kernel has xt_bpf. With it one rule finds connections
	// that are sent back to their own caller; without, one for each endpoint.
	BPF bool

	// SCTP says that the kernel can match ports of SCTP. Without it, SCTP
	// ports are left out, each a Deviation: one such rule would have the kernel
	// refuse all others with it.
	SCTP bool

	// SyncPeriod is about how often Audit is called. Tables of the legacy variant that
	// look untouched are read again after ten such periods at the earliest.
	SyncPeriod time.Duration

	// Families are the address families to program; empty means both.
	Families []xt.Family

	// Log is required by New, and not used by Plan.
	Log *slog.Logger
}

// DefaultConfig returns kube-proxy's defaults, for a kernel that has everything.
func DefaultConfig() Config {
	return Config{MasqueradeBit: 14, RandomFully: true, DropInvalid: true, BPF: true, SCTP: true}
}

// Validate reports every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.MasqueradeBit < 0 || c.MasqueradeBit > 31 {
		errs = append(errs, fmt.Errorf("iptables.masqueradeBit: %d is not between 0 and 31", c.MasqueradeBit))
	}
	for _, f := range c.Families {
		if f != xt.IPv4 && f != xt.IPv6 {
			errs = append(errs, fmt.Errorf("iptables.families: %d is no address family", f))
		}
	}
	return errors.Join(errs...)
}

func (c Config) families() []xt.Family {
	if len(c.Families) == 0 {
		return []xt.Family{xt.IPv4, xt.IPv6}
	}
	return c.Families
}

func (c Config) mark() uint32 { return 1 << c.MasqueradeBit }
