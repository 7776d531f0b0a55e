package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/userspace"
)

const cleanupUsage = `fairlead cleanup removes everything fairlead has put in the kernel in any mode: every
rule and chain, in both variants of iptables and both families, as far as the tools
are installed, and virtual servers, ipsets, addresses and routes. It needs no API
server and loads no kernel module. What belongs to other programs, kernel parameters
and tracked connections stay; so do virtual servers and addresses that kube-proxy in
ipvs mode has taken over: what its ipsets name.

Usage:
  fairlead cleanup [flags]`

// cleanup is the subcommand. It goes on after a failure and reports all of them.
func (c command) cleanup(ctx context.Context, args []string) error {
	var f flags
	if _, err := c.parse(cleanupUsage, args, f.addLog); err != nil {
		return err
	}
	cfg := iptables.DefaultConfig()
	cfg.Log = c.logger(f.Verbosity)
	virtual := ipvs.DefaultConfig()
	virtual.Log = cfg.Log
	k, err := kernel.Open()
	if err != nil {
		return fmt.Errorf("open netlink sockets: %w", err)
	}
	defer k.Close()
	loaded := &loadedKernel{Kernel: k, root: "/"}
	claim, err := c.yield(ctx, loaded)
	if err != nil {
		return err
	}
	loaded.removed = 0
	var errs []error
	tools, err := everyTool()
	if err != nil {
		errs = append(errs, err)
	}
	for _, t := range tools {
		run := xt.NewExec(t.config())
		removed, err := sweep(ctx, cfg, run, t.family)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", t.paths.Save, err))
		case removed > 0:
			fmt.Fprintf(c.out, "%s: removed %d chains\n", t.paths.Save, removed)
		}
	}
	// Sets last: none can go while a rule names it.
	proxy := userspace.DefaultConfig()
	proxy.Log = cfg.Log
	errs = append(errs, c.cleanupSets(ctx, virtual, proxy, loaded, claim))
	return errors.Join(errs...)
}

// tables returns those that can hold rules of ours. The legacy tools would load
// the module of the table mangle, which only ipvs mode writes.
func (t toolSet) tables(root string) []xt.Table {
	if t.variant == iptables.NFT {
		return ipvsTables()
	}
	list := "/proc/net/ip_tables_names"
	if t.family == xt.IPv6 {
		list = "/proc/net/ip6_tables_names"
	}
	names, err := os.ReadFile(filepath.Join(root, list))
	if err == nil && !slices.Contains(strings.Fields(string(names)), string(xt.Mangle)) {
		return []xt.Table{xt.NAT, xt.Filter}
	}
	return ipvsTables()
}

// A toolSet is what manages the rules of one family in one variant.
type toolSet struct {
	variant iptables.Variant
	family  xt.Family
	paths   xt.Paths
	plain   bool // the variant is a guess
}

// config is what runs the tools. Where it is a guess which they are, they are asked for everything.
func (t toolSet) config() xt.ExecConfig {
	cfg := iptables.Tools{Variant: t.variant, IPv4: t.paths, IPv6: t.paths}.Config()
	cfg.Tables = t.tables("/")
	if t.plain {
		cfg.List = nil
	}
	return cfg
}

// everyTool returns all that is installed, an error if that is nothing.
func everyTool() ([]toolSet, error) {
	var out []toolSet
	for _, f := range []xt.Family{xt.IPv4, xt.IPv6} {
		before := len(out)
		for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
			if paths, err := xt.Locate(f, string(v)); err == nil {
				out = append(out, toolSet{v, f, paths, false})
			}
		}
		if len(out) > before {
			continue
		}
		// Before 1.8, and in images with one variant, only the plain names are
		// there. Taking the lock that the nft variant does not need is harmless.
		if paths, err := xt.Locate(f, ""); err == nil {
			v := iptables.Legacy
			if real, err := filepath.EvalSymlinks(paths.Save); err == nil && strings.Contains(filepath.Base(real), "nft") {
				v = iptables.NFT
			}
			out = append(out, toolSet{v, f, paths, true})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("none of iptables, iptables-nft, iptables-legacy and their IPv6 forms is complete in PATH, with -save and -restore")
	}
	return out, nil
}

// sweep removes what is ours in one family and returns how many chains that
// were.
func sweep(ctx context.Context, cfg iptables.Config, run *xt.Exec, f xt.Family) (int, error) {
	// A look that loads no kernel module: where nothing is ours, nothing need be
	// touched.
	s, err := run.Survey(ctx, f)
	if err != nil || s.Own == 0 {
		return 0, err
	}
	cfg.Families = []xt.Family{f}
	plane, err := iptables.New(cfg, run, nil)
	if err != nil {
		return 0, err
	}
	return s.Own, plane.Cleanup(ctx)
}
