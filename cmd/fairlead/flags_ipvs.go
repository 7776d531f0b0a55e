package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/service"
)

// maxIPVSTimeout is the longest timeout that IPVS takes, in whole seconds that
// it counts in ticks of the kernel's clock (net/netfilter/ipvs/ip_vs_ctl.c,
// ip_vs_set_timeout). The fastest clock there is ticks 1000 times a second.
const maxIPVSTimeout = (1<<31 - 1) / 1000 * time.Second

// ipvsFlags is the part of the command line that only ipvs mode reads.
type ipvsFlags struct {
	Scheduler     string
	ExcludeCIDRs  []string
	StrictARP     bool
	SyncPeriod    time.Duration
	MinSyncPeriod time.Duration
	TCPTimeout    time.Duration
	TCPFinTimeout time.Duration
	UDPTimeout    time.Duration

	// These are not in kube-proxy.
	VIPMode      string
	DrainTimeout time.Duration
}

func (f *flags) addIPVS(fs *pflag.FlagSet) {
	f.addIPVSPlan(fs)
	v := &f.IPVS
	fs.BoolVar(&v.StrictARP, "ipvs-strict-arp", false, "set arp_ignore to 1 and arp_announce to 2, which --ipvs-vip-mode=routed does not need")
	fs.DurationVar(&v.SyncPeriod, "ipvs-sync-period", 30*time.Second, "as --iptables-sync-period, in ipvs mode")
	fs.DurationVar(&v.MinSyncPeriod, "ipvs-min-sync-period", time.Second, "as --iptables-min-sync-period, in ipvs mode")
	fs.DurationVar(&v.TCPTimeout, "ipvs-tcp-timeout", 0, "timeout of idle TCP connections in IPVS; 0 means that of connection tracking (kube-proxy: the kernel's 15m)")
	fs.DurationVar(&v.TCPFinTimeout, "ipvs-tcpfin-timeout", 0, "timeout of TCP connections in IPVS after a FIN; 0 leaves it alone")
	fs.DurationVar(&v.UDPTimeout, "ipvs-udp-timeout", 0, "timeout of UDP flows in IPVS; 0 means that of connection tracking (kube-proxy: the kernel's 5m)")
	fs.DurationVar(&v.DrainTimeout, "ipvs-drain-timeout", 0, "how long an endpoint that has left a Service, but still runs, keeps its connections; 0 means as long as they last (not in kube-proxy)")
}

// addIPVSPlan adds the flags that shape a plan.
func (f *flags) addIPVSPlan(fs *pflag.FlagSet) {
	v := &f.IPVS
	fs.StringVar(&v.Scheduler, "ipvs-scheduler", "", "scheduler of virtual servers whose Service asks for none; empty means rr")
	fs.StringSliceVar(&v.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, "CIDRs of virtual servers that are somebody else's: none is made, changed or removed there")
	fs.StringVar(&v.VIPMode, "ipvs-vip-mode", "routed", "how packets get to virtual servers: routed takes single ports, device takes whole addresses, as kube-proxy does (not in kube-proxy)")
}

// An ipvsConfig is the part of the command line that only ipvs mode reads,
// understood.
type ipvsConfig struct {
	Scheduler    string // never empty
	Exclude      []netip.Prefix
	VIPMode      ipvs.VIPMode
	DrainTimeout time.Duration
}

// ipvs reads the flags of ipvs mode. In other modes they are not looked at, as in
// kube-proxy.
func (f *flags) ipvs(fail failFunc) ipvsConfig {
	v := &f.IPVS
	c := ipvsConfig{Scheduler: cmp.Or(v.Scheduler, "rr"), DrainTimeout: v.DrainTimeout}
	if !slices.Contains(service.Schedulers(), c.Scheduler) {
		fail("ipvs-scheduler", "unknown scheduler %q; valid: %s", c.Scheduler, strings.Join(service.Schedulers(), ", "))
	}
	for _, s := range v.ExcludeCIDRs {
		p, err := parseCIDR(s)
		if err != nil {
			fail("ipvs-exclude-cidrs", "%w", err)
			continue
		}
		c.Exclude = append(c.Exclude, p)
	}
	var err error
	if c.VIPMode, err = ipvs.ParseVIPMode(v.VIPMode); err != nil {
		fail("ipvs-vip-mode", "%w", err)
	}
	for name, d := range map[string]time.Duration{
		"ipvs-tcp-timeout":    v.TCPTimeout,
		"ipvs-tcpfin-timeout": v.TCPFinTimeout,
		"ipvs-udp-timeout":    v.UDPTimeout,
	} {
		if d < 0 || d > maxIPVSTimeout {
			fail(name, "must be between 0 and %s, is %s", maxIPVSTimeout, d)
		}
	}
	if v.DrainTimeout < 0 {
		fail("ipvs-drain-timeout", "must not be negative, is %s", v.DrainTimeout)
	}
	return c
}

// plan returns what a plan needs of the command line. The bit is the one that asks
// for masquerading.
func (c ipvsConfig) plan(bit int) ipvs.Config {
	cfg := ipvs.DefaultConfig()
	if cfg.RouteBit == bit {
		cfg.RouteBit = cfg.MasqueradeBit // which is free, then
	}
	cfg.MasqueradeBit = bit
	cfg.Scheduler, cfg.Exclude = c.Scheduler, c.Exclude
	cfg.VIPMode, cfg.DrainTimeout = c.VIPMode, c.DrainTimeout
	return cfg
}
