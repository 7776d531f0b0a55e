package nft_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// TestChains compares what the kernel says with what the tool says, which names built-in
// chains that do not exist too.
func TestChains(t *testing.T) {
	eachFamily(t, func(t *testing.T, f xt.Family) {
		byTool := tool(t)
		check := func() {
			t.Helper()
			got, err := nft.Chains(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			want, err := byTool.Chains(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			builtin := func(ref xt.ChainRef) bool {
				return slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, ref.Name)
			}
			got, want = slices.DeleteFunc(got, builtin), slices.DeleteFunc(want, builtin)
			order := func(a, b xt.ChainRef) int {
				return slices.Compare([]string{string(a.Table), a.Name}, []string{string(b.Table), b.Name})
			}
			slices.SortFunc(got, order)
			slices.SortFunc(want, order)
			if d := cmp.Diff(got, want, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("chains (-got +want):\n%s", d)
			}
		}
		check()
		name := map[xt.Family]string{xt.IPv4: "iptables-nft-restore", xt.IPv6: "ip6tables-nft-restore"}[f]
		for _, text := range []string{
			"*nat\n:THEM-IN - [0:0]\n-A PREROUTING -j THEM-IN\nCOMMIT\n", "*raw\n:THEM-RAW - [0:0]\nCOMMIT\n", "*security\n:THEM-SEC - [0:0]\nCOMMIT\n",
		} {
			if err := feed(t.Context(), name, text); err != nil {
				t.Fatal(err)
			}
		}
		r := nft.New(nft.Config{Tool: byTool})
		if err := r.Restore(t.Context(), xt.Diff(nil, pool(f, 500, 1, 80), nil)); err != nil {
			t.Fatal(err)
		}
		check()
	})
}
