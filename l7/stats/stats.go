package stats

import (
	"sync"
	"sync/atomic"
)

// MaxRules is how many Rules have labels of their own.
const MaxRules = 10_000

// Stats is the numbers of one L7 server; a prometheus.Collector. It is safe for concurrent use. New makes it.
type Stats struct {
	// Retries counts tries after the first, Panics what was caught of our own mistakes.
	Retries, Panics atomic.Uint64
	// InFlight is the requests that are being served, tunnels included.
	InFlight atomic.Int64
	// Answers counts answers that are fairlead's own by Response.Reason.
	Answers Reasons
	// Handshakes counts those of TLS with clients.
	Handshakes Handshakes

	src    atomic.Pointer[Sources]
	max    int
	lanes  sync.Pool // of *int
	next   atomic.Int64
	defs   *definitions
	mu     sync.Mutex
	rules  map[Key]*Rule
	other  *Rule
	folded map[string]*totals // by class, what dropped rules had; for what is only told by class
}

// New returns Stats without numbers.
func New() *Stats {
	s := &Stats{max: MaxRules, rules: make(map[Key]*Rule), folded: make(map[string]*totals), defs: newDefinitions()}
	s.lanes.New = func() any {
		n := int(s.next.Add(1))
		return &n
	}
	s.other = s.newRule(other())
	s.src.Store(&Sources{})
	return s
}

func (s *Stats) newRule(k Key) *Rule { return &Rule{key: k, lanes: &s.lanes} }

// SetSources says where the numbers are that others count. It replaces what was said before.
func (s *Stats) SetSources(src Sources) { s.src.Store(&src) }

// Rule returns what counts for k: the same for the same Key until it is dropped. Beyond MaxRules it is one for all.
func (s *Stats) Rule(k Key) *Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rules[k]
	if r == nil {
		if len(s.rules) >= s.max {
			return s.other
		}
		r = s.newRule(k)
		s.rules[k] = r
	}
	r.seen.Store(true)
	return r
}

// Drop forgets the Rules for which exists is false, which nobody has asked for since the last Drop, and which have had no request since then.
// It is to be called every few minutes: a Rule must be told to Prometheus once more after its last request.
// What exists must be what is in force, or older. It returns how many Rules remain.
func (s *Stats) Drop(exists func(Key) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.rules {
		t := r.totals()
		n := t.count()
		quiet := n == r.known && !r.seen.Load()
		r.known = n
		r.seen.Store(false)
		if !quiet || exists(k) {
			continue
		}
		delete(s.rules, k)
		f := s.folded[k.Class]
		if f == nil {
			f = new(totals)
			s.folded[k.Class] = f
		}
		f.add(t)
	}
	return len(s.rules)
}

// add adds what is told by class.
func (t *totals) add(o *totals) {
	for i := range o.inSize {
		t.inSize[i] += o.inSize[i]
		t.outSize[i] += o.outSize[i]
	}
	t.in += o.in
	t.out += o.out
}
