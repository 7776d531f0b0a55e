package balance

import "sync/atomic"

// A Budget bounds how many requests are tried again at a time, so that retries do not
// bring down what is merely slow. The zero value allows a fifth of the
// requests in flight and 3 in any case. It is safe for concurrent use.
type Budget struct {
	Percent int // of the requests in flight; 0 means 20
	Min     int // allowed in any case; 0 means 3

	active, retries atomic.Int64
}

// Begin notes a request. Every Begin needs one End.
func (b *Budget) Begin() { b.active.Add(1) }

// End notes the end of a request.
func (b *Budget) End() { b.active.Add(-1) }

// Retry reports whether one more request may be tried again. If so, Done must be
// called when that try is over.
func (b *Budget) Retry() bool {
	percent, least := int64(b.Percent), int64(b.Min)
	if percent == 0 {
		percent = 20
	}
	if least == 0 {
		least = 3
	}
	if b.retries.Add(1) > max(least, b.active.Load()*percent/100) {
		b.retries.Add(-1)
		return false
	}
	return true
}

// Done notes the end of a try that Retry allowed.
func (b *Budget) Done() { b.retries.Add(-1) }

// Retries returns how many tries that Retry allowed are under way.
func (b *Budget) Retries() int { return int(b.retries.Load()) }
