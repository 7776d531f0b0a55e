//go:build linux

package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
)

// Options says where a control plane runs. The zero value is a control plane on
// loopback.
type Options struct {
	// NetNS is the path of the network namespace to run in, such as
	// /run/netns/x or /proc/<pid>/ns/net. Its loopback interface must be up: the
	// API server is a client of itself. Optional; empty is the caller's own.
	NetNS string

	// BindAddress is what the API server listens on. Optional; 127.0.0.1.
	BindAddress netip.Addr

	// AdvertiseAddress is where clients find it: kubeconfigs and the endpoints of
	// the Service default/kubernetes say so. It must be of the family of the
	// first of ServiceCIDRs. Optional; BindAddress, and then required if that is
	// unspecified. Endpoints may not be loopback addresses, so a control plane
	// that advertises one has a Service default/kubernetes without endpoints.
	AdvertiseAddress netip.Addr

	// Port of the API server. Optional; one that is free is picked, and kept for
	// the life of the cluster.
	Port uint16

	// ServiceCIDRs are one or two ranges, then one of each family, the primary
	// first. Optional; 10.96.0.0/16 and fd00:10:96::/112.
	ServiceCIDRs []netip.Prefix

	// APIServerArgs are appended to kube-apiserver's command line. Optional.
	APIServerArgs []string

	// Dir holds data, keys and logs. It must exist and be empty, and is kept.
	// Optional; a temporary folder that Close removes.
	Dir string

	// Log is told what is started and stopped. Optional.
	Log *slog.Logger
}

// Validate reports every mistake that can be seen without starting anything.
func (o Options) Validate() error {
	var errs []error
	o = o.withDefaults()
	if o.AdvertiseAddress.IsUnspecified() {
		errs = append(errs, errors.New("AdvertiseAddress: required when BindAddress is unspecified"))
	}
	if n := len(o.ServiceCIDRs); n > 2 {
		errs = append(errs, fmt.Errorf("ServiceCIDRs: %d ranges, want at most 2", n))
	}
	for i, p := range o.ServiceCIDRs {
		if !p.IsValid() || p != p.Masked() {
			errs = append(errs, fmt.Errorf("ServiceCIDRs[%d]: %v is not a network prefix", i, p))
		}
	}
	if len(o.ServiceCIDRs) == 2 && o.ServiceCIDRs[0].Addr().Is4() == o.ServiceCIDRs[1].Addr().Is4() {
		errs = append(errs, errors.New("ServiceCIDRs: two ranges of one family"))
	}
	if primary := o.ServiceCIDRs[0].Addr(); primary.Is4() != o.AdvertiseAddress.Is4() {
		errs = append(errs, fmt.Errorf("AdvertiseAddress: %v is not of the family of the primary service range", o.AdvertiseAddress))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if !o.BindAddress.IsValid() {
		o.BindAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !o.AdvertiseAddress.IsValid() {
		o.AdvertiseAddress = o.BindAddress
	}
	if len(o.ServiceCIDRs) == 0 {
		o.ServiceCIDRs = []netip.Prefix{
			netip.MustParsePrefix("10.96.0.0/16"),
			netip.MustParsePrefix("fd00:10:96::/112"),
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// certAddrs returns every address a client may dial: those given, loopback, and
// the cluster IP of the Service default/kubernetes, which is the first of its
// range.
func (o Options) certAddrs() []netip.Addr {
	addrs := []netip.Addr{o.BindAddress, o.AdvertiseAddress, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, p := range o.ServiceCIDRs {
		addrs = append(addrs, p.Addr().Next())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// certNames are the DNS names of the API server, whether or not anything
// resolves them.
func certNames() []string {
	return []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
}

func (o Options) serviceCIDRs() string {
	var s []string
	for _, p := range o.ServiceCIDRs {
		s = append(s, p.String())
	}
	return strings.Join(s, ",")
}
