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
	fatal, warnings := mismatches(s, families, p.cfg)
	for _, w := range warnings {
		p.log.Warn("the configuration may be incomplete or wrong", "problem", w)
	}
	return fatal
}

// mismatches returns why fairlead cannot serve these families with what it is told
// of node s, or nil, and what else is odd. The first of families is the primary
// one.
func mismatches(s nodeState, families []service.Family, cfg config) (fatal error, warnings []string) {
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
			return fmt.Errorf("--cluster-cidr: %s is the only CIDR, and only %s is served", own[1-primary], primary), warnings
		default:
			warn("--cluster-cidr: %s is the only CIDR: pods are not told from other callers over %s", own[1-primary], primary)
		}
	case detectNodeCIDR:
		if !slices.ContainsFunc(s.Info.PodCIDRs, func(p netip.Prefix) bool { return service.FamilyOf(p.Addr()) == primary }) {
			return fmt.Errorf("--detect-local-mode=NodeCIDR: the pod CIDRs of Node %s, %v, are not %s, as its address is", s.Name, s.Info.PodCIDRs, primary), warnings
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
	return nil, warnings
}
