package takeover

import (
	"context"
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/userspace"
)

// kubeServices is the chain of the table nat that kube-proxy has in every mode but
// nftables.
const kubeServices = "KUBE-SERVICES"

// signs returns a chain of each mode by which those that can follow it know it. That of
// ipvs mode may stay in iptables mode, which is known by its own.
func signs() map[Mode]xt.ChainRef {
	return map[Mode]xt.ChainRef{
		IPTables:  {Table: xt.NAT, Name: iptables.MarkChain()},
		IPVS:      {Table: xt.Mangle, Name: ipvs.RouteChain()},
		Userspace: {Table: xt.Mangle, Name: userspace.CatchChains()[0]},
	}
}

// Precedes reports whether rules of kube-proxy are in force, or those of fairlead in a
// mode other than m, or with another variant of iptables. Tools and nft are as in
// [Config]. It changes nothing, and is safe for concurrent use.
func Precedes(ctx context.Context, m Mode, tools []Tool, nft *Tables) (bool, error) {
	if nft != nil {
		if _, tables, err := nft.open(); err != nil || len(tables) > 0 {
			return err == nil, err
		}
	}
	for _, tool := range tools {
		precedes, err := tool.precedes(ctx, m)
		if err != nil || precedes {
			return precedes, err
		}
	}
	return false, nil
}

func (t Tool) precedes(ctx context.Context, m Mode) (bool, error) {
	all, err := t.Run.Chains(ctx, t.Family)
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.Name, err)
	}
	for _, c := range all {
		kube := c.Table == xt.NAT && c.Name == kubeServices
		if kube || !t.InUse && strings.HasPrefix(c.Name, ownPrefix) {
			return true, nil
		}
		for mode, sign := range signs() {
			if mode != m && c == sign {
				return true, nil
			}
		}
	}
	return false, nil
}
