package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
)

// An engine is a dataplane whose tools have been found and tried, before it is
// known which families to serve.
type engine interface {
	// unusable says for each family why it cannot be served, nil if it can.
	unusable() [service.NumFamilies]error
	// sysctls are the kernel parameters the dataplane needs on node n.
	sysctls(n *service.Node, families []service.Family) []sysctl.Setting
	// open returns the dataplane. The sysctls are set.
	open(families []service.Family) (service.Dataplane, error)
	// watch calls audit when somebody may have changed what is in force, until
	// ctx is done. It comes after open, and may return before ctx is done if
	// changes do not tell themselves.
	watch(ctx context.Context, audit func()) error
}

// An engineConfig is what finding an engine needs.
type engineConfig struct {
	Flags    *flags
	Config   config // what Flags mean
	Root     string // of /proc and /sys
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// detect finds the iptables tools to use.
func (c engineConfig) detect(ctx context.Context) (iptables.Tools, error) {
	tools, err := iptables.Detect(ctx, iptables.Variant(c.Flags.Variant))
	if err != nil {
		return tools, fmt.Errorf("find iptables: %w", err)
	}
	c.Log.Info("iptables found", "variant", tools.Variant, "version", tools.Version,
		"families", familyNames(tools.Families), "because", tools.Reason)
	return tools, nil
}

// A findFunc finds the tools of a dataplane and what the kernel offers it. The
// error names what is missing.
type findFunc func(context.Context, engineConfig) (engine, error)

// engines are the dataplanes by the name --proxy-mode has for them.
func engines() map[string]findFunc {
	return map[string]findFunc{modeIptables: findIptables, modeIPVS: findIPVS, modeUserspace: findUserspace}
}

// modeNFTables is a mode of kube-proxy, and none of ours.
const modeNFTables = "nftables"

// parseMode returns the key of engines that s means. Empty means iptables, as it
// does to kube-proxy 1.36.
func parseMode(s string) (string, error) {
	if s == "" {
		return modeIptables, nil
	}
	available := strings.Join(slices.Sorted(maps.Keys(engines())), ", ")
	switch {
	case engines()[s] != nil:
		return s, nil
	case s == modeNFTables:
		return "", fmt.Errorf("nftables is a proxy mode of kube-proxy only; here there are: %s. A FairleadConfiguration with modes chooses one, and leaves the configuration of kube-proxy as it is", available)
	default:
		return "", fmt.Errorf("unknown proxy mode %q; valid: %s", s, available)
	}
}

// parseModes returns the keys of engines that a list means, in its order. In a
// list, nftables is a mode that no node can run. With an error there is one mode,
// the empty one.
func parseModes(list string) ([]string, error) {
	words := strings.Split(list, ",")
	var out []string
	for _, w := range words {
		w = strings.TrimSpace(w)
		if len(words) > 1 && (w == modeNFTables || slices.Contains(out, w)) {
			continue
		}
		if len(words) > 1 && w == "" {
			return []string{""}, fmt.Errorf("%q has an empty word", list)
		}
		mode, err := parseMode(w)
		if err != nil {
			return []string{""}, err
		}
		out = append(out, mode)
	}
	if len(out) == 0 {
		_, err := parseMode(modeNFTables)
		return []string{""}, err
	}
	return out, nil
}

// iptablesEngine is the iptables dataplane.
type iptablesEngine struct {
	cfg     engineConfig
	tools   iptables.Tools
	support iptables.Support
	run     xt.Runner
	metrics *iptables.Metrics
}

func findIptables(ctx context.Context, c engineConfig) (engine, error) {
	tools, err := c.detect(ctx)
	if err != nil {
		return nil, err
	}
	m := iptables.NewMetrics(c.Registry)
	cfg := tools.Config()
	cfg.OnWait = m.LockWaited
	run, err := c.writer(ctx, tools, cfg)
	if err != nil {
		return nil, err
	}
	support, err := tools.Probe(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("try iptables: %w", err)
	}
	return &iptablesEngine{cfg: c, tools: tools, support: support, run: run, metrics: m}, nil
}

func (e *iptablesEngine) unusable() [service.NumFamilies]error { return missingFamilies(e.tools) }

// missingFamilies says for each family why tools cannot serve it, nil if they can.
func missingFamilies(tools iptables.Tools) [service.NumFamilies]error {
	var out [service.NumFamilies]error
	for f, err := range tools.Missing {
		out[f] = err
	}
	if out[service.IPv6] == nil {
		out[service.IPv6] = noIPv6("/")
	}
	return out
}

// noIPv6 says why the kernel does no IPv6, nil if it does, by kube-proxy's tests.
func noIPv6(root string) error {
	if _, err := os.Stat(filepath.Join(root, "proc/net/if_inet6")); errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel has no IPv6: /proc/net/if_inet6 does not exist")
	}
	const off = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	if v, err := sysctl.Read(root, off); err == nil && v == "1" {
		return fmt.Errorf("IPv6 is switched off: %s is 1", off)
	}
	return nil
}

func (e *iptablesEngine) sysctls(n *service.Node, families []service.Family) []sysctl.Setting {
	if n.LocalhostPorts && slices.Contains(families, service.IPv4) {
		return []sysctl.Setting{sysctl.RouteLocalnet()}
	}
	return nil
}

func (e *iptablesEngine) open(families []service.Family) (service.Dataplane, error) {
	cfg := iptablesConfig(e.cfg.Flags)
	cfg.RandomFully, cfg.BPF, cfg.SCTP = e.tools.RandomFully, e.support.BPF, e.support.SCTP
	cfg.Log, cfg.SyncPeriod = e.cfg.Log, e.cfg.Config.SyncPeriod
	for _, f := range families {
		cfg.Families = append(cfg.Families, xt.Family(f))
	}
	// Without the module there are no invalid packets to drop either.
	liberal, err := sysctl.TCPBeLiberal("/")
	if err != nil {
		e.cfg.Log.Warn("cannot read nf_conntrack_tcp_be_liberal; taking it to be off", "err", err)
	}
	cfg.DropInvalid = !liberal
	return iptables.New(cfg, e.run, e.metrics)
}

// watch returns at once: iptables changes are found by looking.
func (e *iptablesEngine) watch(context.Context, func()) error { return nil }

// iptablesConfig is what the command line says of the rules.
func iptablesConfig(f *flags) iptables.Config {
	cfg := iptables.DefaultConfig()
	cfg.MasqueradeBit = f.MasqueradeBit
	return cfg
}

// familyNames returns families as text: a list of small numbers would be logged
// as bytes.
func familyNames(families []xt.Family) []string {
	var out []string
	for _, f := range families {
		out = append(out, f.String())
	}
	return out
}
