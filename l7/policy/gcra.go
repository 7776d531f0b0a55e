package policy

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxRates is how many rates one rule can have.
const maxRates = 4

// limitShards is how many parts a limitTable has, so that cores seldom wait for each other.
const limitShards = 64

// A rate is one limit in the terms of GCRA (ITU-T I.371, as a virtual schedule): every request moves a client's theoretical arrival time by
// gap, and no request passes that comes more than slack before it.
type rate struct {
	gap, slack time.Duration
}

// newRate allows requests in per, and burst more at once.
func newRate(requests int, per time.Duration, burst int) rate {
	const forever = 365 * 24 * time.Hour // far from where durations overflow
	gap := min(max(per/time.Duration(requests), 1), forever)
	return rate{gap: gap, slack: time.Duration(min(int64(burst), int64(forever/gap))) * gap}
}

// A limitKey names a client's account with one rule.
type limitKey struct {
	rule   uint64
	client netip.Addr // the network address for IPv6, see account
}

// A limitTable is the accounts of all clients with all rules of this process. Its size is bounded: of
// the accounts of a shard, the one that was not used for the longest time is forgotten first, and its owner begins anew. It
// is safe for concurrent use.
type limitTable struct {
	seed   maphash.Seed
	start  time.Time
	shards [limitShards]limitShard
}

type limitShard struct {
	mu    sync.Mutex
	rates *simplelru.LRU[limitKey, *[maxRates]time.Duration] // theoretical arrival times since start
	open  map[limitKey]int                                   // concurrent requests; never forgotten
}

func newLimitTable(accounts int) *limitTable {
	t := &limitTable{seed: maphash.MakeSeed(), start: time.Now()}
	for i := range t.shards {
		// The error is for sizes below one alone.
		t.shards[i].rates, _ = simplelru.NewLRU[limitKey, *[maxRates]time.Duration](max(accounts/limitShards, 1), nil)
		t.shards[i].open = map[limitKey]int{}
	}
	return t
}

// rule returns the number by which a rule of that name goes.
func (t *limitTable) rule(name string) uint64 { return maphash.String(t.seed, name) }

func (t *limitTable) shard(k limitKey) *limitShard {
	return &t.shards[maphash.Comparable(t.seed, k)%limitShards]
}

// take counts one request against all rates, or against none if one of them is used up. Then it
// returns how long the client had better wait.
func (t *limitTable) take(k limitKey, rates []rate) (wait time.Duration, ok bool) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(t.start)
	times, known := s.rates.Get(k)
	if !known {
		times = new([maxRates]time.Duration)
		s.rates.Add(k, times)
	}
	for i, r := range rates {
		wait = max(wait, times[i]-now-r.slack)
	}
	if wait > 0 {
		return wait, false
	}
	for i, r := range rates {
		times[i] = max(times[i], now) + r.gap
	}
	return 0, true
}

// enter counts one more concurrent request, unless there are most already.
func (t *limitTable) enter(k limitKey, most int) bool {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[k] >= most {
		return false
	}
	s.open[k]++
	return true
}

// leave takes back what enter counted.
func (t *limitTable) leave(k limitKey) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[k]--; s.open[k] <= 0 {
		delete(s.open, k)
	}
}

// account is what the address of a client is counted under: IPv6 clients have a /64 to themselves at least, so
// that is one client.
func account(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
