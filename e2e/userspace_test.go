//go:build linux

package e2e

import (
	"testing"

	"github.com/fairlead-project/fairlead/e2e/world"
)

// The faults that every mode has to bear, in userspace mode.

func TestUserspaceFaultTCP(t *testing.T)           { eachUserspace(t, faultTCP) }
func TestUserspaceFaultUDP(t *testing.T)           { eachUserspace(t, faultUDP) }
func TestUserspaceFaultHostile(t *testing.T)       { eachUserspace(t, faultHostile) }
func TestUserspaceFaultForwardPolicy(t *testing.T) { eachUserspace(t, faultForwardPolicy) }

// eachUserspace runs a test in a bed of its own with each kind of iptables.
func eachUserspace(t *testing.T, test func(t *testing.T, b *bed), args ...string) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			test(t, newBedIn(t, world.Userspace, v, args...))
		})
	}
}
