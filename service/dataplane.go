package service

import (
	"context"
	"time"
)

// A Dataplane makes the node match a Snapshot.
//
// Sync may be called with any Snapshot after any other, including the same one
// again, and after an error. A nil error means snap is wholly in force except
// as listed in Report.Deviations. On error the caller retries with backoff, and
// the Dataplane must re-read the kernel before trusting what it remembers. Sync
// and Cleanup are never called concurrently with themselves or each other.
type Dataplane interface {
	Sync(ctx context.Context, snap *Snapshot) (Report, error)
	// Audit compares the kernel with what the last Sync left there and repairs
	// what somebody else changed; it does nothing before the first Sync. It is
	// called about once every sync period, between Syncs, and besides when a
	// Report has asked for it or somebody suspects a change. It must not take
	// an extra call for the regular one.
	Audit(ctx context.Context) (Report, error)
	// Cleanup removes everything the Dataplane owns; it is idempotent.
	Cleanup(ctx context.Context) error
}

// A Report says what Sync or Audit did and what it could not do. Counts are of
// kernel objects in the dataplane's own unit (chains for iptables).
type Report struct {
	Resynced                bool // kernel state was read, not remembered
	Repaired                bool // the kernel differed from what we had left there
	Added, Changed, Removed int
	Deviations              []Deviation // all there are, not only new ones

	// Again is when the dataplane wants Audit to be called, if before the end of
	// the sync period; the zero Time leaves that to the caller. The Report of the
	// next call replaces it.
	Again time.Time
}

// A Deviation is a promise of the Snapshot that this Dataplane cannot keep.
type Deviation struct {
	Port   PortID
	Reason string

	// Here says that it is this node's own trouble, such as a port that somebody
	// else has. Every node finds the others as well.
	Here bool
}
