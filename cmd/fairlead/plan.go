package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

const planUsage = `fairlead plan prints what manifests ask for: as input for iptables-restore
--noflush, or with --dataplane=ipvs as a list of virtual servers, sets, addresses
and rules, or with --dataplane=userspace of what the proxy serves, sets and rules.
It needs neither root nor a cluster, and the same input gives the same output on every machine: the node it plans for is the one
that the flags, or a Node among the manifests, describe. Without
--hostname-override no endpoint is on it.

What is wrong with a manifest goes to the error output; the plan is made of the
rest, and the exit status is 1.

Usage:
  fairlead plan -f FILE-OR-FOLDER [-f …] [flags]`

// plan is the subcommand.
func (c command) plan(args []string) error {
	var w worldFlags
	if _, err := c.parse(planUsage, args, w.addPlan); err != nil {
		return err
	}
	req, err := w.request()
	if err == nil && len(w.Files) == 0 {
		err = errors.New("--file: is required")
	}
	if err != nil {
		return usageError(err)
	}
	known := c.load(w.Files)
	snap := req.snapshot(known.store, known.nodes[req.node.Name])
	c.complain(snap.Problems)
	if err := c.printPlans(snap, req, w.MasqueradeBit); err != nil {
		return err
	}
	if known.bad || len(snap.Problems) > 0 {
		return errReported
	}
	return nil
}

// printPlans writes the plan of the dataplane that was asked for. The bit is the
// one that asks for masquerading.
func (c command) printPlans(snap *service.Snapshot, req request, bit int) error {
	if req.dataplane == modeIPVS {
		cfg := req.ipvs.plan(bit)
		cfg.Families = req.families
		return c.printIPVSPlan(snap, cfg)
	}
	if req.dataplane == modeUserspace {
		cfg := req.userspace
		cfg.Families = req.families
		return c.printUserspacePlan(snap, cfg)
	}
	cfg := iptablesConfig(&flags{MasqueradeBit: bit})
	for _, f := range req.families {
		if err := printPlan(c.out, snap, cfg, f); err != nil {
			return err
		}
	}
	return nil
}

// printIPVSPlan writes the plan of all families, after a line that says what it
// is. What of snap cannot be had goes to the error output.
func (c command) printIPVSPlan(snap *service.Snapshot, cfg ipvs.Config) error {
	plan, deviations := ipvs.Plan(snap, cfg)
	return c.printLists(snap, modeIPVS, cfg.Families, deviations, plan.AppendText(nil))
}

// printUserspacePlan is the same for userspace mode.
func (c command) printUserspacePlan(snap *service.Snapshot, cfg userspace.Config) error {
	plan, deviations := userspace.Plan(snap, cfg)
	text := plan.AppendText(nil)
	for _, f := range cfg.Families {
		var err error
		if text, err = plan.Rules(xtFamily(f)).AppendText(text); err != nil {
			return fmt.Errorf("print the %s rules: %w", f, err)
		}
	}
	return c.printLists(snap, modeUserspace, cfg.Families, deviations, text)
}

func (c command) printLists(snap *service.Snapshot, mode string, families []service.Family, deviations []service.Deviation, text []byte) error {
	for _, d := range deviations {
		fmt.Fprintf(c.err, "%s: %s\n", d.Port, d.Reason)
	}
	header := fmt.Sprintf("# %s plan for %s: %d ports, %d lines\n",
		mode, nodeText(&snap.Node), countPorts(snap, families), bytes.Count(text, []byte("\n")))
	if _, err := io.WriteString(c.out, header+string(text)); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	return nil
}

func countPorts(snap *service.Snapshot, families []service.Family) int {
	n := 0
	for p := range snap.Ports.All() {
		if slices.Contains(families, p.ID.Family) {
			n++
		}
	}
	return n
}

// nodeText names a node in the first line of a plan.
func nodeText(n *service.Node) string { return cmp.Or(n.Name, "a node without pods") }

// printPlan writes the plan of one family for iptables, after a line that says what it is.
func printPlan(out io.Writer, snap *service.Snapshot, cfg iptables.Config, f service.Family) error {
	text, err := iptables.Plan(snap, cfg, xtFamily(f)).AppendText(nil)
	if err != nil {
		return fmt.Errorf("print the %s plan: %w", f, err)
	}
	ports := countPorts(snap, []service.Family{f})
	tool := "iptables-restore"
	if f == service.IPv6 {
		tool = "ip6tables-restore"
	}
	header := fmt.Sprintf("# %s plan for %s: %d ports, %d lines; for %s --noflush\n",
		f, nodeText(&snap.Node), ports, strings.Count(string(text), "\n"), tool)
	if _, err := io.WriteString(out, header+string(text)); err != nil {
		return fmt.Errorf("print the %s plan: %w", f, err)
	}
	return nil
}
