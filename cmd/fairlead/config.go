package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
	"github.com/fairlead-project/fairlead/userspace"
)

// The values of --detect-local-mode.
const (
	detectClusterCIDR = "ClusterCIDR"
	detectNodeCIDR    = "NodeCIDR"
	detectBridge      = "BridgeInterface"
	detectPrefix      = "InterfaceNamePrefix"
)

// The values of --proxy-mode.
const (
	modeIptables  = "iptables"
	modeIPVS      = "ipvs"
	modeUserspace = "userspace"
)

// The values of --iptables-variant.
const (
	variantAuto   = "auto"
	variantNFT    = "nft"
	variantLegacy = "legacy"
)

// kube-proxy's addresses. Cloud load balancers probe the first from outside.
const (
	healthzPort    = "10256"
	metricsPort    = "10249"
	defaultHealthz = "0.0.0.0:" + healthzPort
	defaultMetrics = "127.0.0.1:" + metricsPort
)

// maxInterfaceName is IFNAMSIZ less its terminator.
const maxInterfaceName = 15

// A config is the command line, understood.
type config struct {
	Mode    string // key of the dataplanes
	Healthz string // host:port; empty for none
	Metrics string // host:port; empty for none
	Node    nodeConfig
	IPVS    ipvsConfig // zero in other modes

	LocalhostProxy bool                  // a proxy beside the dataplane answers node ports at localhost
	Userspace      userspace.ProxyConfig // zero in other modes, unless LocalhostProxy

	// The sync periods are those of the mode.
	SyncPeriod    time.Duration
	MinSyncPeriod time.Duration
}

// A nodeConfig is what the command line says of this node.
type nodeConfig struct {
	Name string     // --hostname-override in its comparable form; empty means ask the system
	Bind netip.Addr // --bind-address; the zero Addr if it is unspecified

	Detect       string // one of the values of --detect-local-mode
	ClusterCIDRs [service.NumFamilies]netip.Prefix
	Interface    string // for the two modes that go by interface

	PortAddrs   [service.NumFamilies][]netip.Prefix // where node ports answer
	PortPrimary bool                                // node ports answer at the primary addresses, whatever PortAddrs says

	LocalhostPorts bool
	MasqueradeAll  bool
}

// Validate reports everything that is wrong with f, each error with the flag it
// is about. It changes nothing.
func (f *flags) Validate() error {
	_, err := f.configs()
	return err
}

// config returns what f means in the first of its modes. The error is that of Validate.
func (f *flags) config() (config, error) {
	list, err := f.configs()
	return list[0], err
}

// configs returns what f means in each of its modes, of which there is one at least. The error is that of Validate.
func (f *flags) configs() ([]config, error) {
	var faults faults
	modes, err := parseModes(f.ProxyMode)
	if err != nil {
		faults.add(f.label("proxy-mode"), "%w", err)
	}
	var out []config
	for _, mode := range modes {
		out = append(out, f.configOf(mode, func(flag, format string, args ...any) {
			faults.add(f.label(flag), format, args...)
		}))
	}
	return out, faults.join()
}

// Faults are what is wrong with settings. Several modes may find the same.
type faults []error

func (l *faults) add(label, format string, args ...any) {
	err := fmt.Errorf("%s: "+format, append([]any{label}, args...)...)
	if !slices.ContainsFunc(*l, func(e error) bool { return e.Error() == err.Error() }) {
		*l = append(*l, err)
	}
}

func (l faults) join() error { return errors.Join(l...) }

// configOf returns what f means in a mode, of which an unknown one is empty.
func (f *flags) configOf(mode string, fail failFunc) config {
	c := config{Mode: mode}
	check := func(flag string, err error) {
		if err != nil {
			fail(flag, "%w", err)
		}
	}
	var err error
	c.Healthz, err = parseListen(f.HealthzBindAddress, healthzPort)
	check("healthz-bind-address", err)
	c.Metrics, err = parseListen(f.MetricsBindAddress, metricsPort)
	check("metrics-bind-address", err)
	c.Node = f.node(fail)
	if c.Mode == modeIPVS {
		c.IPVS = f.ipvs(fail)
		// The kernel keeps packets from 127.0.0.1 out of IPVS.
		c.Node.LocalhostPorts = false
	}
	if f.LocalhostProxy && c.Mode != modeUserspace {
		c.LocalhostProxy = true
		c.Node.LocalhostPorts = false // in the kernel
	}
	if c.Mode == modeUserspace || c.LocalhostProxy {
		c.Userspace = f.userspace(fail)
	}
	c.SyncPeriod, c.MinSyncPeriod = f.periods(c.Mode, fail)
	f.checkNumbers(fail)
	f.Lifecycle.check(fail)
	f.checkSource(fail)
	f.Status.check(fail)
	return c
}

// checkRun reports what is wrong with flags that only fairlead without a subcommand has.
func (f *flags) checkRun() error {
	var faults faults
	fail := func(flag, format string, args ...any) { faults.add(f.label(flag), format, args...) }
	f.API.check(fail)
	f.Compat.check(fail)
	f.Log.check(fail)
	if f.HostnameOverride != "" && strings.TrimSpace(f.HostnameOverride) == "" {
		fail("hostname-override", "is blank")
	}
	return faults.join()
}

// A failFunc notes that something is wrong with a flag.
type failFunc func(flag, format string, args ...any)

func (f *flags) node(fail failFunc) nodeConfig {
	c := nodeConfig{
		Name:           strings.ToLower(strings.TrimSpace(f.HostnameOverride)),
		Detect:         f.DetectLocalMode,
		LocalhostPorts: f.LocalhostNodePorts,
		MasqueradeAll:  f.MasqueradeAll,
	}
	if a, err := netip.ParseAddr(f.BindAddress); err != nil || a.Zone() != "" {
		fail("bind-address", "%q is not an IP address", f.BindAddress)
	} else if a = a.Unmap(); !a.IsUnspecified() {
		c.Bind = a
	}
	f.detector(&c, fail)
	f.nodePorts(&c, fail)
	return c
}

// detector reads the flags of the detection mode. Those of other modes are not
// looked at, as in kube-proxy: people leave --cluster-cidr where it was.
func (f *flags) detector(c *nodeConfig, fail failFunc) {
	switch f.DetectLocalMode {
	case detectClusterCIDR:
		c.ClusterCIDRs = clusterCIDRs(f.ClusterCIDR, fail)
	case detectNodeCIDR:
	case detectBridge:
		c.Interface = interfaceName("pod-bridge-interface", f.PodBridge, fail)
	case detectPrefix:
		c.Interface = interfaceName("pod-interface-name-prefix", f.PodInterfacePrefix, fail)
	default:
		fail("detect-local-mode", "unknown mode %q; valid: %s", f.DetectLocalMode,
			strings.Join([]string{detectClusterCIDR, detectNodeCIDR, detectBridge, detectPrefix}, ", "))
	}
}

func clusterCIDRs(list string, fail failFunc) (out [service.NumFamilies]netip.Prefix) {
	if list == "" {
		return out
	}
	for s := range strings.SplitSeq(list, ",") {
		p, err := parseCIDR(s)
		if err != nil {
			fail("cluster-cidr", "%w", err)
			continue
		}
		f := service.FamilyOf(p.Addr())
		if out[f].IsValid() {
			fail("cluster-cidr", "%s is a second CIDR of family %s; want at most one of each", p, f)
			continue
		}
		out[f] = p
	}
	return out
}

// interfaceName refuses what could not be written into a rule: the kernel and
// iptables-restore take neither white space nor quotes, and a plus sign at the
// end would match other interfaces.
func interfaceName(flag, name string, fail failFunc) string {
	switch {
	case name == "":
		fail(flag, "is required in this --detect-local-mode")
	case len(name) > maxInterfaceName:
		fail(flag, "%q is longer than the %d bytes of an interface name", name, maxInterfaceName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }),
		strings.ContainsAny(name, `/"'\!+`), name[0] == '-':
		fail(flag, "%q is not an interface name", name)
	}
	return name
}

// nodePorts reads --nodeport-addresses. CIDRs of one family only leave the other
// answering nowhere, where kube-proxy would answer everywhere.
func (f *flags) nodePorts(c *nodeConfig, fail failFunc) {
	const flag = "nodeport-addresses"
	switch {
	case len(f.NodePortAddresses) == 0:
		c.PortAddrs = everywhere()
		return
	case slices.Contains(f.NodePortAddresses, "primary"):
		if len(f.NodePortAddresses) > 1 {
			fail(flag, `"primary" must be alone`)
		}
		c.PortPrimary = true
		return
	}
	for _, s := range f.NodePortAddresses {
		p, err := parseCIDR(s)
		if err != nil {
			fail(flag, "%w", err)
			continue
		}
		family := service.FamilyOf(p.Addr())
		c.PortAddrs[family] = append(c.PortAddrs[family], p)
	}
	for i, list := range c.PortAddrs {
		slices.SortFunc(list, netip.Prefix.Compare)
		c.PortAddrs[i] = slices.Compact(list)
	}
}

func everywhere() [service.NumFamilies][]netip.Prefix {
	var out [service.NumFamilies][]netip.Prefix
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		out[f] = []netip.Prefix{netip.PrefixFrom(f.Any(), 0)}
	}
	return out
}

func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	return p.Masked(), nil
}

// parseListen reads an address to listen on. A missing port is defaultPort, and
// port 0 disables, as an empty address does.
func parseListen(s, defaultPort string) (string, error) {
	if s == "" {
		return "", nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return net.JoinHostPort(a.String(), defaultPort), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is not an IP address with or without a port", s)
	}
	if a.Port() == 0 {
		return "", nil
	}
	return a.String(), nil
}

// hasPort reports whether an address to listen on comes with a port.
func hasPort(s string) bool {
	_, _, err := net.SplitHostPort(s)
	return err == nil
}

func withPort(s string, port int) string {
	return net.JoinHostPort(strings.Trim(s, "[]"), strconv.Itoa(port))
}

// periods returns the sync periods of a mode, whose flags are named after it. Those
// of other modes are not looked at, as in kube-proxy.
func (f *flags) periods(mode string, fail failFunc) (period, least time.Duration) {
	period, least = f.SyncPeriod, f.MinSyncPeriod
	if mode != modeIPVS {
		mode = modeIptables // whose flags serve userspace mode too
	} else {
		period, least = f.IPVS.SyncPeriod, f.IPVS.MinSyncPeriod
	}
	if period <= 0 {
		fail(mode+"-sync-period", "must be above 0, is %s", period)
	}
	if least < 0 || least > period {
		fail(mode+"-min-sync-period", "must be between 0 and --%s-sync-period, is %s", mode, least)
	}
	return period, least
}

func (f *flags) checkNumbers(fail failFunc) {
	if f.MasqueradeBit < 0 || f.MasqueradeBit > 31 {
		fail("iptables-masquerade-bit", "%d is not between 0 and 31", f.MasqueradeBit)
	}
	if f.ConfigSyncPeriod <= 0 {
		fail("config-sync-period", "must be above 0, is %s", f.ConfigSyncPeriod)
	}
	if !slices.Contains([]string{variantAuto, variantNFT, variantLegacy}, f.Variant) {
		fail("iptables-variant", "unknown variant %q; valid: auto, nft, legacy", f.Variant)
	}
	if !slices.Contains([]string{writerAuto, writerTool, writerNetlink}, f.Writer) {
		fail("iptables-writer", "unknown writer %q; valid: auto, tool, netlink", f.Writer)
	}
	for name, n := range map[string]int{
		"conntrack-max-per-core": f.ConntrackMaxPerCore,
		"conntrack-min":          f.ConntrackMin,
		"kube-api-burst":         f.Burst,
		"v":                      f.Verbosity,
	} {
		if n < 0 {
			fail(name, "must not be negative, is %s", strconv.Itoa(n))
		}
	}
	for name, d := range map[string]time.Duration{
		"conntrack-tcp-timeout-established": f.ConntrackTCPEstablished,
		"conntrack-tcp-timeout-close-wait":  f.ConntrackTCPCloseWait,
		"conntrack-udp-timeout":             f.ConntrackUDP,
		"conntrack-udp-timeout-stream":      f.ConntrackUDPStream,
	} {
		if d < 0 {
			fail(name, "must not be negative, is %s", d)
		}
	}
}

func (f *flags) checkSource(fail failFunc) {
	if f.Manifests != "" && (f.Kubeconfig != "" || f.Master != "") {
		fail("manifests", "cannot be combined with --kubeconfig or --master")
	}
}

// conntrack returns the connection-tracking part of f.
func (f *flags) conntrack() sysctl.Conntrack {
	return sysctl.Conntrack{
		MaxPerCore:            f.ConntrackMaxPerCore,
		Min:                   f.ConntrackMin,
		TCPEstablishedTimeout: f.ConntrackTCPEstablished,
		TCPCloseWaitTimeout:   f.ConntrackTCPCloseWait,
		TCPBeLiberal:          f.ConntrackTCPBeLiberal,
		UDPTimeout:            f.ConntrackUDP,
		UDPStreamTimeout:      f.ConntrackUDPStream,
	}
}

// complete sets the defaults that depend on other flags. It is called once, when
// f.origin is known.
func (f *flags) complete() {
	a, err := netip.ParseAddr(f.BindAddress)
	if err != nil || a.Unmap().Is4() {
		return
	}
	if f.origin["healthz-bind-address"] == "" {
		f.HealthzBindAddress = "[::]:" + healthzPort
	}
	if f.origin["metrics-bind-address"] == "" {
		f.MetricsBindAddress = "[::1]:" + metricsPort
	}
}

// attrs lists every flag with its effective value, for the log.
func attrs(fs *pflag.FlagSet) []any {
	var out []any
	fs.VisitAll(func(fl *pflag.Flag) {
		if fl.Name != "help" && fl.Name != "version" {
			out = append(out, fl.Name, fl.Value.String())
		}
	})
	return out
}
