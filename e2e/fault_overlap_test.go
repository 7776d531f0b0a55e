//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// The tests below have node ports among the numbers that the node takes for its own
// connections, as on clusters with a range of their own: what comes back to such a
// connection is no call of the node port.

func TestOverlap(t *testing.T)          { eachVariant(t, portOverlap) }
func TestIPVSOverlap(t *testing.T)      { eachIPVS(t, portOverlap) }
func TestUserspaceOverlap(t *testing.T) { eachUserspace(t, portOverlap) }

func portOverlap(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	var all []fixture
	for i := range 64 {
		f := web(i+1, 2, 3)
		f.name, f.nodePort = fmt.Sprintf("overlap-%d", i), uint16(30000+i)
		all = append(all, f)
	}
	if err := b.N1.SetSysctl("net/ipv4/ip_local_port_range", "30000 30063"); err != nil {
		t.Fatal(err)
	}
	b.begin(t, all...)
	for i, r := range callAll(t, 3, b.callers(t, all[5])) {
		if !b.isPod(r) {
			t.Errorf("call %d: %v", i, r)
		}
	}
}
