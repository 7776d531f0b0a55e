//go:build linux

package e2e

import (
	"net/netip"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestFaultForwardPolicy sets the policy of FORWARD to DROP, as container engines
// do: what is masqueraded must pass all the same, and nothing else of a client.
func TestFaultForwardPolicy(t *testing.T) { eachVariant(t, faultForwardPolicy) }

func faultForwardPolicy(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2))
	b.begin(t, fixture{
		name: "behind", ip: clusterIP(1), port: 80, target: 8080, nodePort: 31080, endpoints: podsOf(2),
	})
	b.ipt(t, "-P", "FORWARD", "DROP")
	for i, node := range netns.NodeAddr(1).Slice() {
		direct := netip.AddrPortFrom(pod(2).Slice()[i], 8080)
		if r := probe(t, b.Client, direct); r.Class != netns.Dropped {
			t.Errorf("%v: %v, want it dropped: the policy does nothing", direct, r)
		}
		at := netip.AddrPortFrom(node, 31080)
		if r := probe(t, b.Client, at); r.Class != netns.Reply || r.From.Addr != direct {
			t.Errorf("%v: %v, want an answer of %v", at, r, direct)
		}
	}
}
