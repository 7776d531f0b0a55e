package stats

import (
	"crypto/tls"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// maxReasons bounds the values of a label; the rest is "other".
const maxReasons = 128

// Reasons counts by a word. The zero value is ready and safe for concurrent use.
type Reasons struct {
	counts sync.Map // of string to *atomic.Uint64
	mu     sync.Mutex
	n      int
}

// Add counts one of reason. Empty ones are not counted.
func (r *Reasons) Add(reason string) {
	if reason == "" {
		return
	}
	if c, ok := r.counts.Load(reason); ok {
		c.(*atomic.Uint64).Add(1)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.counts.Load(reason); !ok {
		if r.n >= maxReasons {
			reason = "other"
		}
		r.n++
	}
	c, _ := r.counts.LoadOrStore(reason, new(atomic.Uint64))
	c.(*atomic.Uint64).Add(1)
}

// All yields what was counted, by reason in order.
func (r *Reasons) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		var names []string
		r.counts.Range(func(k, _ any) bool {
			names = append(names, k.(string))
			return true
		})
		slices.Sort(names)
		for _, n := range names {
			c, _ := r.counts.Load(n)
			if !yield(n, c.(*atomic.Uint64).Load()) {
				return
			}
		}
	}
}

// Handshakes counts TLS handshakes. The zero value is ready and safe for concurrent use.
type Handshakes struct {
	done   [5][2]atomic.Uint64 // by version, new or resumed
	failed atomic.Uint64
}

// Done counts a handshake that has succeeded.
func (h *Handshakes) Done(state *tls.ConnectionState) {
	resumed := 0
	if state.DidResume {
		resumed = 1
	}
	h.done[versionIndex(state.Version)][resumed].Add(1)
}

// Failed counts a handshake that has not.
func (h *Handshakes) Failed() { h.failed.Add(1) }

func versionIndex(v uint16) int {
	if v >= tls.VersionTLS10 && v <= tls.VersionTLS13 {
		return int(v - tls.VersionTLS10)
	}
	return 4
}

func versionNames() [5]string { return [...]string{"1.0", "1.1", "1.2", "1.3", "other"} }
