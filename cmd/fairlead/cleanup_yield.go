package main

import (
	"context"
	"fmt"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/takeover"
)

// yield leaves kube-proxy in ipvs mode what it has taken over: it takes virtual
// servers and addresses that are there as they are, and relies on the node having
// those addresses as a whole. This comes before anything is removed.
func (c command) yield(ctx context.Context, k kernel.Kernel) (*takeover.Claim, error) {
	local, err := localAddresses()
	if err != nil {
		return nil, err
	}
	claim, err := takeover.ReadClaim(ctx, k, local)
	if err != nil {
		return nil, err
	}
	dev, err := k.Device(ctx, vipDevice)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", vipDevice, err)
	}
	var ops []kernel.Op
	for a, state := range dev.Addrs {
		if claim.Addr(a) && !state.Local {
			ops = append(ops, kernel.AddAddr{Device: vipDevice, Addr: a})
		}
	}
	if len(ops) == 0 {
		return claim, nil
	}
	refused, err := k.Apply(ctx, ops)
	if err == nil && len(refused) > 0 {
		err = refused[0]
	}
	if err != nil {
		return nil, fmt.Errorf("leave addresses to kube-proxy: %w", err)
	}
	fmt.Fprintf(c.out, "left %d addresses to kube-proxy\n", len(ops))
	return claim, nil
}

// A yieldingKernel keeps what kube-proxy has taken over.
type yieldingKernel struct {
	kernel.Kernel
	claim *takeover.Claim
}

// Apply implements [kernel.Kernel].
func (k yieldingKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	kept := false
	var rest []kernel.Op
	for _, op := range ops {
		switch op := op.(type) {
		case kernel.DelServer:
			if k.claim.Names(op.Key) {
				continue
			}
		case kernel.DelAddr:
			if k.claim.Addr(op.Addr) {
				kept = true
				continue
			}
		case kernel.DelDevice:
			if kept {
				continue
			}
		}
		rest = append(rest, op)
	}
	return k.Kernel.Apply(ctx, rest)
}
