package iptables

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// all returns every chain of a tree, by building it from nothing.
func all(t *tree) map[string][]xt.Rule {
	_, write, _ := (&tree{space: t.space}).update(nil, slices.Clone(t.entries))
	return write
}

func treeEntry(a netip.Addr, port uint16) *entry {
	return &entry{key: addrKey(a), addr: a, port: port, target: xt.Goto{Chain: fmt.Sprintf("FL-F-%s-%d", addrKey(a), port)}}
}

// TestTreeUpdate compares trees that were changed step by step with trees built
// at once from the same entries.
func TestTreeUpdate(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		tr := &tree{space: addrSpace(xt.IPv4, prefixTree)}
		have := make(map[string][]xt.Rule)
		for step := range 60 {
			var gone, added []*entry
			for _, e := range tr.entries {
				if rng.IntN(12) == 0 {
					gone = append(gone, e)
				}
			}
			for range rng.IntN(25) {
				// Few distinct high digits, so that nodes split and join.
				a := netip.AddrFrom4([4]byte{10, byte(96 + rng.IntN(2)), byte(rng.IntN(3) * 16), byte(rng.IntN(256))})
				added = append(added, treeEntry(a, uint16(step)))
			}
			next, write, remove := tr.update(gone, added)
			maps.Copy(have, write)
			for _, name := range remove {
				if _, ok := have[name]; !ok {
					t.Fatalf("seed %d step %d: removes %s, which is not there", seed, step, name)
				}
				delete(have, name)
			}
			tr = next
			if d := cmp.Diff(all(tr), have, cmp.AllowUnexported(netip.Addr{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Fatalf("seed %d step %d: (-built at once +changed)\n%s", seed, step, d)
			}
		}
	}
}

// TestTreeDepth builds the deepest tree there can be, one address for each
// digit, and checks the bound.
func TestTreeDepth(t *testing.T) {
	base := netip.MustParseAddr("2001:db8::").As16()
	var list []*entry
	for digit := 8; digit < 32; digit++ {
		a := base
		a[digit/2] |= 1 << (4 * (1 - digit%2))
		list = append(list, treeEntry(netip.AddrFrom16(a), 80))
	}
	for i := range 2 * leafSize {
		list = append(list, treeEntry(netip.AddrFrom16(base), uint16(1000+i)))
	}
	tr := &tree{space: addrSpace(xt.IPv6, prefixTree)}
	tr, write, _ := tr.update(nil, list)
	if got := len(write); got > maxLevels {
		t.Errorf("a single branch has %d chains, want at most %d", got, maxLevels)
	}
	deepest, rules := 0, 0
	for name, r := range write {
		deepest = max(deepest, len(name))
		rules += len(r)
	}
	if want := len(list) + len(write) - 1; rules != want {
		t.Errorf("got %d rules in all, want %d: every entry once and a way to every chain but the root", rules, want)
	}
	if deepest > xt.MaxChainName {
		t.Errorf("a chain name has %d characters, the kernel takes %d", deepest, xt.MaxChainName)
	}
	_ = tr
}
