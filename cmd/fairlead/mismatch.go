package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// checkFamilies looks for configuration that is of another address family than what
// is served. What kube-proxy does not start with is an error; the rest, of which
// people have much that never did any harm, is a warning.
func (p *process) checkFamilies(s nodeState, families []service.Family) error {
	warnings, fatal := mismatches(s, families, p.cfg)
	for _, w := range warnings {
		p.log.Warn("the configuration may be incomplete or wrong", "problem", w)
	}
	return fatal
}

// mismatches returns what is odd in what fairlead is told of node s, and why it
// cannot serve these families with it, nil if it can. The first of families is the
// primary one.
func mismatches(s nodeState, families []service.Family, cfg config) (warnings []string, fatal error) {
	primary := families[0]
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	switch s.Config.Detect {
	case detectClusterCIDR:
		own := s.Config.ClusterCIDRs
		switch {
		case own[primary].IsValid():
		case !own[1-primary].IsValid():
			warn("--detect-local-mode is ClusterCIDR and --cluster-cidr is empty: pods are not told from other callers")
		case len(families) == 1:
			return warnings, fmt.Errorf("--cluster-cidr: %s is the only CIDR, and only %s is served", own[1-primary], primary)
		default:
			warn("--cluster-cidr: %s is the only CIDR: pods are not told from other callers over %s", own[1-primary], primary)
		}
	case detectNodeCIDR:
		if !slices.ContainsFunc(s.Info.PodCIDRs, func(p netip.Prefix) bool { return service.FamilyOf(p.Addr()) == primary }) {
			return warnings, fmt.Errorf("--detect-local-mode=NodeCIDR: the pod CIDRs of Node %s, %v, are not %s, as its address is", s.Name, s.Info.PodCIDRs, primary)
		}
	}
	if !s.Config.PortPrimary && slices.Equal(s.Config.PortAddrs[primary], everywhere()[primary]) {
		warn(`--nodeport-addresses is not given: node ports answer at every local address; consider "primary"`)
	}
	if len(families) == 1 {
		for flag, addr := range map[string]string{"healthz-bind-address": cfg.Healthz, "metrics-bind-address": cfg.Metrics} {
			at, err := netip.ParseAddrPort(addr)
			if err == nil && !at.Addr().IsUnspecified() && service.FamilyOf(at.Addr()) != primary {
				warn("--%s is %s, and only %s is served", flag, addr, primary)
			}
		}
	}
	slices.Sort(warnings)
	return warnings, nil
}
