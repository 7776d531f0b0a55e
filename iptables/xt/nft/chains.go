package nft

import (
	"context"
	"fmt"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// Chains lists the chains, built-in ones too, of every table of f that iptables-nft-save
// would print, in the network namespace of the calling thread. It changes nothing, but
// needs the right to. It fits [xt.ExecConfig].List.
func Chains(ctx context.Context, f xt.Family) (out []xt.ChainRef, err error) {
	c := newConn()
	defer c.close()
	err = steadily(ctx, func() (err error) {
		out, err = c.everyChain(ctx, f, []xt.Table{xt.NAT, xt.Filter, xt.Mangle, "raw", "security"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %v chains of nf_tables: %w", f, err)
	}
	return out, nil
}
