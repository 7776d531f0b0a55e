package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
	"github.com/fairlead-project/fairlead/userspace/balance"
)

// userspaceFlags is the part of the command line that only userspace mode reads.
// None of it is in kube-proxy 1.36, which has no such mode any more.
type userspaceFlags struct {
	Scheduler      string
	Port           int
	ConnectTimeout time.Duration
	UDPTimeout     time.Duration
	MaxSessions    int
	EjectOutliers  bool
}

func (f *flags) addUserspace(fs *pflag.FlagSet) {
	f.addUserspacePlan(fs)
	v := &f.Userspace
	fs.StringVar(&v.Scheduler, "userspace-scheduler", "rr", "in userspace mode, scheduler of Services that ask for none: "+strings.Join(balance.Algorithms(), ", "))
	fs.DurationVar(&v.ConnectTimeout, "userspace-connect-timeout", 2*time.Second, "in userspace mode, how long an endpoint may take to accept a connection before the next one is tried")
	fs.DurationVar(&v.UDPTimeout, "userspace-udp-timeout", 2*time.Minute, "in userspace mode, how long a UDP session lasts without a datagram")
	fs.IntVar(&v.MaxSessions, "userspace-max-udp-sessions", 65536, "in userspace mode, how many UDP sessions there may be")
	fs.BoolVar(&v.EjectOutliers, "userspace-eject-outliers", true, "in userspace mode, leave out for a while endpoints that fail to connect again and again")
}

// addUserspacePlan adds the flags that shape a plan.
func (f *flags) addUserspacePlan(fs *pflag.FlagSet) {
	fs.IntVar(&f.Userspace.Port, "userspace-port", int(userspace.DefaultPorts()[0]), "in userspace mode, the first of three ports on the loopback addresses where the proxy listens")
}

// userspace reads the flags of userspace mode.
func (f *flags) userspace(fail failFunc) userspace.ProxyConfig {
	v := &f.Userspace
	c := userspace.ProxyConfig{
		Config:         userspace.DefaultConfig(),
		ConnectTimeout: v.ConnectTimeout, UDPTimeout: v.UDPTimeout, MaxSessions: v.MaxSessions,
	}
	c.Balance.Default = service.Scheduling{Algorithm: cmp.Or(v.Scheduler, "rr")}
	c.Balance.Outlier.Off = !v.EjectOutliers
	if !slices.Contains(balance.Algorithms(), c.Balance.Default.Algorithm) {
		fail("userspace-scheduler", "unknown scheduler %q; valid: %s", v.Scheduler, strings.Join(balance.Algorithms(), ", "))
	}
	if v.Port < 1 || v.Port+len(c.Ports)-1 > 65535 {
		fail("userspace-port", "%d is not between 1 and %d", v.Port, 65536-len(c.Ports))
		v.Port = 1
	}
	for i := range c.Ports {
		c.Ports[i] = uint16(v.Port + i) //nolint:gosec // checked above
	}
	if v.ConnectTimeout <= 0 {
		fail("userspace-connect-timeout", "must be above 0, is %s", v.ConnectTimeout)
	}
	if v.UDPTimeout <= 0 {
		fail("userspace-udp-timeout", "must be above 0, is %s", v.UDPTimeout)
	}
	if v.MaxSessions < 1 {
		fail("userspace-max-udp-sessions", "must be above 0, is %d", v.MaxSessions)
	}
	return c
}
