package takeover

import (
	"context"
	"errors"
	"syscall"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
)

// counted is the kernel, and counts in r what goes.
func (t *Taker) counted(r *Result) kernel.Kernel { return &countedKernel{t.cfg.Kernel, r} }

type countedKernel struct {
	kernel.Kernel
	r *Result
}

// Apply implements [kernel.Kernel].
func (k *countedKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	refused, err := k.Kernel.Apply(ctx, ops)
	if err != nil {
		return refused, err
	}
	failed := make(map[int]bool, len(refused))
	for _, e := range refused {
		failed[e.Index] = true
	}
	for i, op := range ops {
		if failed[i] {
			continue
		}
		switch op.(type) {
		case kernel.DelServer:
			k.r.Servers++
		case kernel.DelSet:
			k.r.Sets++
		case kernel.DelAddr:
			k.r.Addresses++
		}
	}
	return refused, nil
}

// later takes an error that says that a set is still named by a rule, which nf_tables
// is slow to forget, for something to be done in the next pass.
func (t *Taker) later(err error, r *Result) error {
	if errors.Is(err, syscall.EBUSY) {
		r.Busy++
		return nil
	}
	return err
}
