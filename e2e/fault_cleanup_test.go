//go:build linux

package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestFaultCleanup wants the tables of both variants to be, after a cleanup, what
// they were before fairlead first ran, although it has run in both.
func TestFaultCleanup(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	before := make(map[string]tables)
	for _, v := range []string{"nft", "legacy"} {
		b.variant = v
		b.foreignRules(t)
		before[v] = b.save(t)
	}
	for _, v := range []string{"nft", "legacy"} {
		b.variant, b.program = v, b.other(t, v)
		b.begin(t, append(others(40, 1), web(1, 2, 3), web(2))...)
		if !strings.Contains(b.save(t).ours, "FL-SERVICES") {
			t.Errorf("%s: fairlead has written nothing", v)
		}
		if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	out := b.cleanup(t)
	for _, tool := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		if !strings.Contains(out, tool) {
			t.Errorf("cleanup does not mention %s:\n%s", tool, out)
		}
	}
	check := func(when string) {
		t.Helper()
		for v, want := range before {
			if d := cmp.Diff(b.saveVariant(t, v), want, cmp.AllowUnexported(tables{})); d != "" {
				t.Errorf("%s, %s: the tables are not as they were (-got +want):\n%s", when, v, d)
			}
		}
	}
	check("after the cleanup")
	if out := b.cleanup(t); out != "" {
		t.Errorf("a second cleanup found something to do:\n%s", out)
	}
	check("after a second cleanup")
}

// TestFaultCleanupNothing has cleanup find no table at all, and make none.
func TestFaultCleanupNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	if out := b.cleanup(t); out != "" {
		t.Errorf("found something to do:\n%s", out)
	}
	for _, v := range []string{"nft", "legacy"} {
		if got := b.saveVariant(t, v); strings.Contains(got.foreign, "*") {
			t.Errorf("%s: tables were made:\n%s", v, got.foreign)
		}
	}
}
