//go:build linux

package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// versionsEnv names the releases of Kubernetes whose programs the tests below run, such as
// "1.28.15 1.35.4". They cost minutes each: without it they are skipped, and make
// e2e-versions sets it.
const versionsEnv = "FAIRLEAD_E2E_VERSIONS"

func olderReleases() []string { return strings.Fields(os.Getenv(versionsEnv)) }

// requireReleases skips the test if no releases are asked for.
func requireReleases(t *testing.T) []string {
	t.Helper()
	list := olderReleases()
	if len(list) == 0 {
		t.Skipf("%s is empty: make e2e-versions runs this", versionsEnv)
	}
	return list
}

// minorOf returns 28 for 1.28.15.
func minorOf(t *testing.T, release string) int {
	t.Helper()
	minor, err := strconv.Atoi(strings.Split(release+".", ".")[1])
	if err != nil {
		t.Fatalf("%s: %q is no release, such as 1.28.15", versionsEnv, release)
	}
	return minor
}

// eachRelease runs a test with kube-proxy of one release after the other.
func eachRelease(t *testing.T, variant string, test func(t *testing.T, s *stage, minor int)) {
	t.Helper()
	for _, v := range requireReleases(t) {
		t.Run(v, func(t *testing.T) {
			minor := minorOf(t, v)
			path, err := controlplane.Release(t.Context(), v, "kube-proxy")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := output(t, path, "--version"), "Kubernetes v"+v+"\n"; got != want {
				t.Fatalf("%s --version: got %q, want %q", path, got, want)
			}
			test(t, newStageWith(t, variant, path, nftablesGate(minor)...), minor)
		})
	}
}

// varied is a Service for which kube-proxy has chains that are not there for plain ones.
func varied() fixture {
	f := web(5, 2, 3)
	f.lb = []string{"203.0.113.85", "2001:db8:113::85"}
	f.external = []string{"203.0.113.86", "2001:db8:113::86"}
	f.sources = []string{"198.51.100.0/24", "2001:db8:51::/64"}
	f.local, f.sticky = true, true
	return f
}

// The mode nftables came with 1.29, and was on by default from 1.31 on.
const (
	nftablesAlpha = 29
	nftablesBeta  = 31
)

func nftablesGate(minor int) []string {
	if minor < nftablesAlpha || minor >= nftablesBeta {
		return nil
	}
	return []string{"--feature-gates=NFTablesProxyMode=true"}
}

// TestVersionsTakeover is [TestTakeover] with kube-proxy of older releases.
func TestVersionsTakeover(t *testing.T) {
	eachRelease(t, "nft", func(t *testing.T, s *stage, minor int) {
		s.more = []fixture{varied()}
		iptables, userspace := actor{mode: world.IPTables, variant: "nft"}, actor{mode: world.Userspace, variant: "nft"}
		actors := []actor{
			{kube: "iptables", variant: "nft"}, iptables,
			{kube: "iptables", variant: "legacy"}, iptables,
			{kube: "iptables", variant: "nft"}, userspace,
			{kube: "iptables", variant: "legacy"}, userspace,
		}
		if minor >= nftablesAlpha {
			actors = append(actors,
				actor{kube: "nftables", variant: "nft"}, iptables,
				actor{kube: "nftables", variant: "nft"}, userspace,
			)
		}
		s.walk(t, 40*time.Millisecond, actors)
	})
}

// TestIPVSVersionsTakeover is the same where the kernel has IPVS.
func TestIPVSVersionsTakeover(t *testing.T) {
	requireIPVS(t)
	v := ipvsVariants(t)[0]
	kube := func(mode string) actor { return actor{kube: mode, variant: v} }
	fairlead := func(m world.Mode) actor { return actor{mode: m, variant: v} }
	eachRelease(t, v, func(t *testing.T, s *stage, _ int) {
		s.walk(t, 500*time.Millisecond, []actor{
			kube("ipvs"), fairlead(world.IPVS),
			kube("ipvs"), fairlead(world.IPTables),
			kube("iptables"), fairlead(world.IPVS),
			kube("ipvs"), fairlead(world.Userspace),
		})
	})
}
