package xt

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
)

// Prefix starts the name of every chain this package owns. Save reports only
// such chains, Diff deletes only such chains, and a Ruleset may declare only
// such chains, so nothing that belongs to anybody else is ever touched.
const Prefix = "FL-"

// MaxChainName is the longest chain name the kernel's tools accept
// (XT_FUNCTION_MAXNAMELEN less the terminator; iptables 1.8.9 says "28 chars
// max").
const MaxChainName = 28

// MaxDepth is how many chains a packet may be nested in, the built-in chain
// included. nf_tables refuses deeper rulesets with EMLINK
// (NFT_JUMP_STACK_SIZE) and counts gotos like jumps.
const MaxDepth = 16

// Family is an address family; each has its own tables and its own tools.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// FamilyOf returns the family of a. IPv4-mapped IPv6 addresses count as IPv6,
// because that is how the tools read them.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Table is the name of a kernel table.
type Table string

// The tables this package can write.
const (
	Filter Table = "filter"
	Mangle Table = "mangle"
	NAT    Table = "nat"
)

// ChainRef names a chain. Chains of the same name in two tables are two chains.
type ChainRef struct {
	Table Table
	Name  string
}

func (c ChainRef) String() string { return string(c.Table) + "/" + c.Name }

func (c ChainRef) compare(o ChainRef) int {
	return cmp.Or(cmp.Compare(c.Table, o.Table), cmp.Compare(c.Name, o.Name))
}

// A Rule does Target to the packets that pass every Match. A nil Target only
// has the side effects of its matches, such as [RecentSet]. Comment is for
// people; it is cut to what the kernel stores and made printable.
type Rule struct {
	Match   []Match
	Target  Target
	Comment string
}

// A Hook is an unconditional jump from the head of a built-in chain into one
// of ours. Conditions belong in our own chain, so that a hook never changes
// and one look tells whether it is there. When one built-in chain has several
// hooks, their order in it is not promised.
type Hook struct {
	Table   Table
	Builtin string
	Chain   string
}

func (h Hook) String() string {
	return string(h.Table) + "/" + h.Builtin + " -> " + h.Chain
}

func (h Hook) compare(o Hook) int {
	return cmp.Or(cmp.Compare(h.Table, o.Table), cmp.Compare(h.Builtin, o.Builtin),
		cmp.Compare(h.Chain, o.Chain))
}

// A Ruleset is everything we want in one family: our chains, and the hooks that
// lead into them. It is complete: an own chain that is not in it is unwanted.
type Ruleset struct {
	Family Family
	Chains map[ChainRef][]Rule
	Hooks  []Hook
}

// State is what Save learned about what we own in one family. Chains of others
// are not in it.
type State struct {
	Chains map[ChainRef]ChainState
	Hooks  map[Hook]int // how many times each is present; more than once is a fault
	Strays []Stray      // in file order
}

// ChainState describes one of our chains without its rules.
type ChainState struct {
	Rules int    // number of rules
	Sum   uint64 // hash of the rules as the kernel's tool prints them, without counters
}

// A Stray is a rule in somebody else's chain that jumps into one of ours but
// is no [Hook]: a hook of an older version, or a rule added by hand. It would
// stop us from ever deleting Chain.
type Stray struct {
	Table  Table
	Parent string // the chain the rule is in
	Chain  string // our chain it jumps to
	Rule   string // the rule after its chain name, as the tool printed it
}

// A Restore is one run of iptables-restore. Each table commits on its own, in
// the order given: when a table fails, the earlier ones stay committed.
type Restore struct {
	Family Family
	Tables []TableRestore
}

// A TableRestore is one atomic change of one table.
type TableRestore struct {
	Table Table

	// Write lists chains to create, or flush, and fill. Nothing sees a chain
	// half filled, so the order matters only to the reader.
	Write []Chain

	DelHooks  []Hook // each occurrence removes one
	DelStrays []Stray
	AddHooks  []Hook

	// Delete lists chains to empty and then remove, after everything else. It
	// does not matter whether they exist, but nothing may refer to them.
	Delete []string
}

// A Chain is a chain with all its rules.
type Chain struct {
	Name  string
	Rules []Rule
}

// Empty reports whether r would change nothing at all.
func (r *Restore) Empty() bool {
	for i := range r.Tables {
		if !r.Tables[i].empty() {
			return false
		}
	}
	return true
}

func (t *TableRestore) empty() bool {
	return len(t.Write)+len(t.DelHooks)+len(t.DelStrays)+len(t.AddHooks)+len(t.Delete) == 0
}

// A Runner is the kernel, reached through the iptables tools. Implementations
// are safe for concurrent use, but two Restores at once race like two processes.
type Runner interface {
	// Save reads what we own in f. It costs O(everything in the tables).
	Save(ctx context.Context, f Family) (*State, error)

	// Restore applies r, atomically per table. An empty r does nothing. When
	// the tool or the kernel refuses, the error is a [*RestoreError].
	Restore(ctx context.Context, r *Restore) error

	// Probe is a cheap check for tampering: it reports whether every hook is
	// present exactly once and every chain has the given number of rules. It
	// lists only those chains.
	Probe(ctx context.Context, f Family, hooks []Hook, chains map[ChainRef]int) (bool, error)

	// Fingerprint returns, at next to no cost, something that is another when the
	// tables of f have changed, by whomsoever, and may be another for other
	// reasons. The legacy tables tell by the number and size of their rules, so
	// they may hide a rule that was replaced by one of the same size. Empty means
	// that the kernel cannot tell.
	Fingerprint(f Family) string
}

// A RestoreError says why a Restore was refused. Tables before the one that
// failed may have been committed, so what was remembered of the kernel is void.
type RestoreError struct {
	Family Family
	Line   int    // of the input, from 1; zero if the tool did not say
	Text   string // the offending input line; empty if unknown
	Stderr string // what the tool said, trimmed
	Busy   bool   // a lock or resource was taken by somebody else: trying again can help
	Err    error  // the cause, such as *exec.ExitError or context.Canceled; may be nil
}

// Error names the family, the line and the reason, on one line.
func (e *RestoreError) Error() string {
	s := "restore " + e.Family.String()
	if e.Line > 0 {
		s += fmt.Sprintf(": line %d", e.Line)
	}
	if e.Text != "" {
		s += fmt.Sprintf(" %q", e.Text)
	}
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns e.Err.
func (e *RestoreError) Unwrap() error { return e.Err }
