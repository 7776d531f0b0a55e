package ipvs

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A forgetfulKernel leaves servers out of its listings, as a real one does while
// other network namespaces are at work.
type forgetfulKernel struct {
	*kernel.Fake
	rng  *rand.Rand
	left int // how many it has left out
}

// Servers implements [kernel.Kernel].
func (k *forgetfulKernel) Servers(ctx context.Context) (map[kernel.ServerKey]*kernel.ServerState, error) {
	all, err := k.Fake.Servers(ctx)
	for key := range all {
		if k.rng.IntN(4) == 0 {
			delete(all, key)
			k.left++
		}
	}
	return all, err
}

// TestListingsWithGaps walks with such a kernel: nothing that was left out is taken
// for gone, so nothing is written for it, and nothing stays.
func TestListingsWithGaps(t *testing.T) {
	cfg := testConfig()
	b, fresh := beds(t, cfg, true)
	k := &forgetfulKernel{Fake: b.kernel, rng: rand.New(rand.NewPCG(3, 7))}
	d, err := New(cfg, k, b.tables, nil)
	if err != nil {
		t.Fatal(err)
	}
	servicetest.WalkSeed(t, 5, &patient{Dataplane: d}, b.fault, func() []byte { return b.state(t) }, fresh)
	if k.left == 0 {
		t.Error("no listing had a gap")
	}
}

// TestAuditWithGaps has nothing to do for an audit.
func TestAuditWithGaps(t *testing.T) {
	for c := range servicetest.Corpus() {
		snap := c.Snapshots(t)[0]
		b := newBed()
		k := &forgetfulKernel{Fake: b.kernel, rng: rand.New(rand.NewPCG(3, 8))}
		d, err := New(testConfig(), k, b.tables, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Sync(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		d.Suspect()
		if r, err := d.Audit(t.Context()); err != nil || r.Repaired || r.Added+r.Changed+r.Removed > 0 {
			t.Errorf("%s: an audit: %+v, %v", c.Name, r, err)
		}
	}
}
