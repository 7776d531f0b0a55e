package policy

import (
	"net/http"
	"runtime"
)

// Sizes of what all rules of a process share, where a SharedConfig says nothing.
const (
	DefaultAccounts  = 64 << 10 // clients times rules that rate limits remember; some 10 MB when full
	DefaultPasswords = 4096     // verified passwords that are remembered, and as many wrong ones
	DefaultVerdicts  = 8192     // answers of external authentication that are remembered
)

// A SharedConfig sizes a Shared. The zero value is good.
type SharedConfig struct {
	Accounts  int // 0: DefaultAccounts
	Passwords int // 0: DefaultPasswords
	Verdicts  int // 0: DefaultVerdicts
	Verifiers int // passwords that are checked at the same time; 0: half the cores, one at least

	// AuthTransport asks the servers of external authentication in the place of the built-in client, which has the guard against
	// asking this machine. It may not follow redirects. Nil: the built-in one.
	AuthTransport http.RoundTripper
}

// Shared is the tables and pools that the rules of a process have in common. It is safe for concurrent use, and
// lives as long as the process.
type Shared struct {
	limits      *limitTable
	verifier    *verifier
	asker       *asker
	compressors *compressors
}

// NewShared makes empty tables.
func NewShared(c SharedConfig) *Shared {
	or := func(n, otherwise int) int {
		if n > 0 {
			return n
		}
		return otherwise
	}
	return &Shared{
		limits:      newLimitTable(or(c.Accounts, DefaultAccounts)),
		verifier:    newVerifier(or(c.Passwords, DefaultPasswords), or(c.Verifiers, max(runtime.GOMAXPROCS(0)/2, 1))),
		asker:       newAsker(c.AuthTransport, or(c.Verdicts, DefaultVerdicts)),
		compressors: newCompressors(),
	}
}

// Close closes the idle connections to servers of external authentication. Requests may still come.
func (s *Shared) Close() { s.asker.close() }
