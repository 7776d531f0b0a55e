package takeover

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/userspace"
)

// own returns a chain of the table mangle that a mode has, and no other.
func (m Mode) own() string {
	switch m {
	case IPVS:
		return ipvs.RouteChain()
	case Userspace:
		return userspace.CatchChains()[0]
	default:
		return ""
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
	is := func(c xt.ChainRef) bool {
		return strings.HasPrefix(c.Name, ownPrefix) || c.Table == xt.NAT && c.Name == "KUBE-SERVICES"
	}
	l, err := t.Run.Leavings(ctx, t.Family, xt.Owner{Chain: is, Entry: is})
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.Name, err)
	}
	all := slices.Concat(l.Chains, l.Kept)
	if len(all) == 0 || slices.ContainsFunc(all, func(c xt.ChainRef) bool { return c.Name == "KUBE-SERVICES" }) {
		return len(all) > 0, nil
	}
	return !t.InUse || !slices.Contains(all, xt.ChainRef{Table: xt.Mangle, Name: m.own()}), nil
}
