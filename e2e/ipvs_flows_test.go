//go:build linux

package e2e

import (
	"slices"
	"strconv"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// ipvsState are the commands that show what fairlead has written in the IPVS
// modes, beside iptables-save.
func ipvsState() []string {
	return []string{
		"ipvsadm -Ln", "ipvsadm -Lnc", "ipset save",
		"ip rule", "ip -6 rule", "ip route show table 17996", "ip -6 route show table 17996",
		"ip addr show", "conntrack -L", "conntrack -L -f ipv6",
	}
}

// probeNode runs a function on a node of a cluster made for it.
func probeNode(t *testing.T, probe func(n1 *netns.Node)) {
	t.Helper()
	c, err := netns.New(netns.Config{Nodes: 1, Prefix: "flprobe"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	probe(c.Nodes[0])
}

// ipvsVariants are the kinds of iptables that work here: not every kernel that
// has IPVS has nf_tables for IP.
func ipvsVariants(t *testing.T) []string {
	t.Helper()
	var works []string
	probeNode(t, func(n1 *netns.Node) {
		for _, v := range variants() {
			if _, err := n1.Output(t.Context(), "iptables-"+v, "-t", "nat", "-N", "PROBE"); err == nil {
				works = append(works, v)
			}
		}
	})
	if len(works) == 0 {
		t.Fatal("no kind of iptables works here")
	}
	return works
}

// lackingSchedulers are those that the kernel does not have.
func lackingSchedulers(t *testing.T) []string {
	t.Helper()
	var out []string
	probeNode(t, func(n1 *netns.Node) {
		for i, s := range service.Schedulers() {
			// To load them by the first use can hang the machine: they wait for
			// namespaces to go, which wait for IPVS.
			if loaded := "net/ipv4/vs/" + s + "_expiration"; s == "lblc" || s == "lblcr" {
				_, _ = n1.Output(t.Context(), "modprobe", "ip_vs_"+s) // or it is built in, or there is none
				if _, err := n1.Sysctl(loaded); err != nil {
					out = append(out, s)
				}
				continue
			}
			if _, err := n1.Output(t.Context(), "ipvsadm", "-A", "-f", strconv.Itoa(1+i), "-s", s); err != nil {
				out = append(out, s)
			}
		}
	})
	if slices.Contains(out, "rr") {
		t.Fatalf("the kernel lacks the schedulers %q, that is, IPVS", out)
	}
	return out
}

// TestIPVSFlows plays every flow of the corpus as real packets in the IPVS modes.
func TestIPVSFlows(t *testing.T) {
	requireIPVS(t)
	binary := requireWorld(t)
	lacks := lackingSchedulers(t)
	var runs []corpusRun
	for _, tools := range ipvsVariants(t) {
		for _, mode := range []world.Mode{world.IPVS, world.IPVSDevice} {
			runs = append(runs, corpusRun{string(mode) + "-" + tools, mode, tools, 3, newManifests, everything, lacks})
		}
	}
	playAll(t, binary, runs)
}

// TestIPVSFlowsAPI plays with a real API server what has more than one step: an
// API server brings changes in another order than a folder does, and nothing else.
func TestIPVSFlowsAPI(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	binary := requireWorld(t)
	tools := ipvsVariants(t)[0]
	changing := func(c *servicetest.Case) bool { return admitted(c) && len(c.Steps) > 1 }
	playAll(t, binary, []corpusRun{{"api-" + tools, world.IPVS, tools, 1, newAPI, changing, lackingSchedulers(t)}})
}
