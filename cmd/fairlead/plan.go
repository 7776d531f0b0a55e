package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/service"
)

const planUsage = `fairlead plan prints the rules that manifests ask for, as input for
iptables-restore --noflush. It needs neither root nor a cluster, and the same
input gives the same output on every machine: the node it plans for is the one
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
	for _, f := range req.families {
		if err := printPlan(c.out, snap, iptablesConfig(&w.flags), f); err != nil {
			return err
		}
	}
	if known.bad || len(snap.Problems) > 0 {
		return errReported
	}
	return nil
}

// printPlan writes the plan of one family, after a line that says what it is.
func printPlan(out io.Writer, snap *service.Snapshot, cfg iptables.Config, f service.Family) error {
	text, err := iptables.Plan(snap, cfg, xtFamily(f)).AppendText(nil)
	if err != nil {
		return fmt.Errorf("print the %s plan: %w", f, err)
	}
	ports := 0
	for _, p := range snap.Ports {
		if p.ID.Family == f {
			ports++
		}
	}
	tool := "iptables-restore"
	if f == service.IPv6 {
		tool = "ip6tables-restore"
	}
	name := snap.Node.Name
	if name == "" {
		name = "a node without pods"
	}
	header := fmt.Sprintf("# %s plan for %s: %d ports, %d lines; for %s --noflush\n",
		f, name, ports, strings.Count(string(text), "\n"), tool)
	if _, err := io.WriteString(out, header+string(text)); err != nil {
		return fmt.Errorf("print the %s plan: %w", f, err)
	}
	return nil
}
