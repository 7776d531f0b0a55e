//go:build linux

package e2e

import (
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
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

// ipvsVariants are the kinds of iptables that work here: not every kernel that
// has IPVS has nf_tables for IP.
func ipvsVariants(t *testing.T) []string {
	t.Helper()
	c, err := netns.New(netns.Config{Nodes: 1, Prefix: "flprobe"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var works []string
	for _, v := range variants() {
		_, err := c.Nodes[0].Output(t.Context(), "iptables-"+v, "-t", "nat", "-N", "PROBE")
		if err != nil {
			t.Logf("iptables-%s does not work here: %v", v, err)
			continue
		}
		works = append(works, v)
	}
	if len(works) == 0 {
		t.Fatal("no kind of iptables works here")
	}
	return works
}

// TestIPVSFlows plays every flow of the corpus as real packets in the IPVS modes.
func TestIPVSFlows(t *testing.T) {
	requireIPVS(t)
	binary := requireWorld(t)
	works := ipvsVariants(t)
	var runs []corpusRun
	for _, tools := range works {
		for _, mode := range []world.Mode{world.IPVS, world.IPVSDevice} {
			runs = append(runs, corpusRun{string(mode) + "-" + tools, mode, tools, 3, newManifests, everything})
		}
	}
	playAll(t, binary, runs)
}

// TestIPVSFlowsAPI is TestIPVSFlows with a real API server.
func TestIPVSFlowsAPI(t *testing.T) {
	requireIPVS(t)
	binary := requireWorld(t)
	tools := ipvsVariants(t)[0]
	playAll(t, binary, []corpusRun{{"api-" + tools, world.IPVS, tools, 1, newAPI, admitted}})
}
