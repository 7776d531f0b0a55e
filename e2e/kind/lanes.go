//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
)

// errSkipped is why a lane cannot be run on this machine.
var errSkipped = errors.New("this machine cannot run it")

// workload is what the checks talk to.
//
//go:embed workload.yaml
var workload string

// A lane is one way of running fairlead in a cluster.
type lane struct {
	name, what string
	needs      func() error // nil if every machine can
	mode       string       // kubeProxyMode of kind
	show       func(ctx context.Context, c *cluster, o options) error
}

func lanes() []lane {
	install := func(mode string) func(context.Context, *cluster, options) error {
		return func(ctx context.Context, c *cluster, o options) error { return c.cleanInstall(ctx, o, mode) }
	}
	return []lane{
		{name: "iptables", what: "no kube-proxy; deploy/kustomize/iptables", mode: "none", show: install("iptables")},
		{name: "userspace", what: "no kube-proxy; deploy/kustomize/userspace", mode: "none", show: install("userspace")},
		{name: "ipvs", what: "no kube-proxy; deploy/kustomize/ipvs", mode: "none", needs: haveIPVS, show: install("ipvs")},
		{name: "l7", what: "no kube-proxy; deploy/kustomize/with-l7", mode: "none", show: ingress},
		{name: "swap", what: "kube-proxy in the mode iptables; deploy/swap.sh, and back", mode: "iptables", show: swapByScript},
		{name: "swap-nftables", what: "kube-proxy in the mode nftables; another image, and back", mode: "nftables", show: swapByHand},
	}
}

func laneNames() []string {
	var out []string
	for _, l := range lanes() {
		out = append(out, l.name)
	}
	return out
}

// haveIPVS looks into the kernel, which nodes of kind share with the machine.
func haveIPVS() error {
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		return nil
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		mods, err := os.ReadFile("/lib/modules/" + strings.TrimSpace(string(release)) + "/" + list)
		if err == nil && strings.Contains(string(mods), "/ip_vs.ko") {
			return nil
		}
	}
	return fmt.Errorf("%w: kernel %s has no ip_vs", errSkipped, strings.TrimSpace(string(release)))
}

// run makes the cluster, shows what the lane is about, and takes it away. When it
// fails, it first prints what one wants to know then.
func (l lane) run(ctx context.Context, s *shell, o options, keep bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	if l.needs != nil {
		if err := l.needs(); err != nil {
			return err
		}
	}
	c, err := newCluster(ctx, s, o, l.mode)
	defer func() {
		if c == nil {
			return
		}
		end := context.WithoutCancel(ctx)
		if err != nil {
			c.report(end)
		}
		if !keep {
			err = errors.Join(err, c.delete(end))
		}
	}()
	if err != nil {
		return err
	}
	if err := c.apply(ctx, workload); err != nil {
		return err
	}
	return l.show(ctx, c, o)
}

// report prints the state of a cluster in which something went wrong.
func (c *cluster) report(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "pod,node,service,endpointslice", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type!=Normal"},
		{"-n", "kube-system", "logs", "-l", "app.kubernetes.io/name=fairlead", "--tail=40", "--all-containers", "--prefix"},
		{"-n", "fairlead-l7", "logs", "-l", "app.kubernetes.io/name=fairlead-l7", "--tail=40", "--prefix"},
		{"-n", "kube-system", "logs", "-l", "k8s-app=kube-proxy", "--tail=40", "--prefix"},
	} {
		out, err := c.kubectl(ctx, args...)
		c.say("kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			c.say("%v", err)
		}
	}
}
