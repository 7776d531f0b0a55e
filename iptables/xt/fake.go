package xt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Fake is a [Runner] with the kernel in memory. It reads the text of a Restore,
// as the tools do, and is strict: it refuses what the kernel refuses. Each
// table commits on its own, so a failed Restore leaves the earlier tables
// changed and the failed one as it was. It is safe for concurrent use.
type Fake struct {
	// Fail is asked before each operation and its error returned in place of
	// doing it. Operations are "save IPv4", "probe IPv4" and, for each table of
	// a Restore, "restore IPv4 nat"; "restored IPv4 nat" comes after the table
	// was committed, for the case that only the answer is lost. Set it before
	// use; it is called with the Fake locked. Optional.
	Fail func(op string) error

	// HasSet reports whether an ipset exists: rules that name one that does not
	// are refused. Set it before use; it is called with the Fake locked.
	// Optional: without it every set exists.
	HasSet func(set string) bool

	mu     sync.Mutex
	kernel map[Family]map[Table]fakeTable
	last   string
	stats  FakeStats
}

// FakeStats counts what a [Fake] was asked to do, successfully or not.
type FakeStats struct {
	Saves, Probes, Restores int
	Tables                  int // committed
	Chains, Rules           int // written, in committed tables; hooks are rules
	Deleted                 int // chains, in committed tables
}

var _ Runner = (*Fake)(nil)

// NewFake returns a kernel with only built-in chains.
func NewFake() *Fake {
	f := &Fake{kernel: map[Family]map[Table]fakeTable{}}
	for _, family := range []Family{IPv4, IPv6} {
		f.kernel[family] = map[Table]fakeTable{}
		for _, t := range []Table{Filter, Mangle, NAT} {
			f.kernel[family][t] = newFakeTable(t)
		}
	}
	return f
}

func (f *Fake) fail(op string) error {
	if f.Fail == nil {
		return nil
	}
	return f.Fail(op)
}

// Save implements [Runner], by way of the text iptables-save would print.
func (f *Fake) Save(ctx context.Context, family Family) (*State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Saves++
	if err := cmp.Or(ctx.Err(), f.fail("save "+family.String())); err != nil {
		return nil, fmt.Errorf("save %v: %w", family, err)
	}
	reader := newSaveReader()
	for _, t := range []Table{NAT, Filter, Mangle} {
		if err := reader.read(strings.NewReader(f.kernel[family][t].save(family, t))); err != nil {
			return nil, err
		}
	}
	return &reader.state, nil
}

// Probe implements [Runner].
func (f *Fake) Probe(ctx context.Context, family Family, hooks []Hook, chains map[ChainRef]int) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Probes++
	if err := cmp.Or(ctx.Err(), f.fail("probe "+family.String())); err != nil {
		return false, fmt.Errorf("probe %v: %w", family, err)
	}
	for _, h := range hooks {
		n := 0
		for _, r := range f.kernel[family][h.Table].chains[h.Builtin] {
			if r.text == h.args() {
				n++
			}
		}
		if n != 1 {
			return false, nil
		}
	}
	for ref, n := range chains {
		rules, ok := f.kernel[family][ref.Table].chains[ref.Name]
		if !ok || len(rules) != n {
			return false, nil
		}
	}
	return true, nil
}

// Fingerprint implements [Runner]: what is in the tables of both families.
func (f *Fake) Fingerprint(Family) string { return f.Dump() }

// Restore implements [Runner].
func (f *Fake) Restore(ctx context.Context, r *Restore) error {
	text, err := r.AppendText(nil)
	if err != nil {
		return &RestoreError{Family: r.Family, Err: err}
	}
	if r.Empty() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Restores++
	f.last = string(text)
	if err := ctx.Err(); err != nil {
		return &RestoreError{Family: r.Family, Err: err}
	}
	return f.apply(r.Family, text)
}

// RestoreText applies the text of a restore file, as a hostile or foreign
// process would: it may touch chains that are not ours. Fail is not asked.
func (f *Fake) RestoreText(family Family, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail, stats := f.Fail, f.stats
	f.Fail = nil
	defer func() { f.Fail, f.stats = fail, stats }()
	return f.apply(family, []byte(text))
}

// apply takes text line by line. What a table changes is done to a copy.
func (f *Fake) apply(family Family, text []byte) error {
	var tx *fakeTx
	n := 0
	for raw := range bytes.Lines(text) {
		n++
		line := strings.TrimSuffix(string(raw), "\n")
		var err error
		switch {
		case line == "" || line[0] == '#':
		case tx == nil:
			tx, err = f.begin(family, line)
		case line == "COMMIT":
			err = f.commit(family, tx)
			tx = nil
		default:
			err = tx.line(line)
		}
		if err != nil {
			return &RestoreError{Family: family, Line: n, Text: line, Err: err}
		}
	}
	if tx != nil {
		return &RestoreError{Family: family, Line: n, Err: fmt.Errorf("table %s has no COMMIT", tx.name)}
	}
	return nil
}

func (f *Fake) begin(family Family, line string) (*fakeTx, error) {
	name, ok := strings.CutPrefix(line, "*")
	if !ok {
		return nil, errors.New("not in a table")
	}
	table, ok := f.kernel[family][Table(name)]
	if !ok {
		return nil, fmt.Errorf("table %q does not exist", name)
	}
	return newFakeTx(Table(name), table, f.HasSet), f.fail(fmt.Sprintf("restore %v %s", family, name))
}

func (f *Fake) commit(family Family, tx *fakeTx) error {
	if err := tx.check(); err != nil {
		return err
	}
	f.kernel[family][tx.name] = tx.table
	f.stats.add(tx.stats)
	return f.fail(fmt.Sprintf("restored %v %s", family, tx.name))
}

func (s *FakeStats) add(tx FakeStats) {
	s.Tables++
	s.Chains += tx.Chains
	s.Rules += tx.Rules
	s.Deleted += tx.Deleted
}

// LastRestore returns the text of the last Restore that was tried.
func (f *Fake) LastRestore() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Stats returns the counts since the Fake was made or ResetStats called.
func (f *Fake) Stats() FakeStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// ResetStats sets all counts to zero and forgets the last Restore.
func (f *Fake) ResetStats() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats, f.last = FakeStats{}, ""
}

// Dump returns everything but empty built-in chains, in canonical order: a
// fresh Fake, and one that was cleaned up, dumps nothing.
func (f *Fake) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, family := range []Family{IPv4, IPv6} {
		for _, t := range slices.Sorted(maps.Keys(f.kernel[family])) {
			f.kernel[family][t].dump(&b, family.String()+" "+string(t)+" ")
		}
	}
	return b.String()
}

// UsesSet reports whether a rule names an ipset, which keeps the kernel from
// destroying it.
func (f *Fake) UsesSet(set string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tables := range f.kernel {
		for _, t := range tables {
			for _, rules := range t.chains {
				if slices.ContainsFunc(rules, func(r fakeRule) bool { return slices.Contains(r.sets, set) }) {
					return true
				}
			}
		}
	}
	return false
}

// Flush empties every chain of a table, as iptables -F does.
func (f *Fake) Flush(family Family, t Table) {
	f.tamper(family, t, func(table *fakeTable) {
		for name := range table.chains {
			table.chains[name] = nil
		}
	})
}

// DeleteChain removes a chain and every rule that refers to it.
func (f *Fake) DeleteChain(family Family, t Table, name string) {
	f.tamper(family, t, func(table *fakeTable) {
		delete(table.chains, name)
		for parent, rules := range table.chains {
			table.chains[parent] = slices.DeleteFunc(slices.Clone(rules), func(r fakeRule) bool { return r.jump == name })
		}
	})
}

// RemoveRule removes the rule at index i of a chain. It panics if there is none.
func (f *Fake) RemoveRule(family Family, t Table, chain string, i int) {
	f.tamper(family, t, func(table *fakeTable) {
		table.chains[chain] = slices.Delete(slices.Clone(table.chains[chain]), i, i+1)
	})
}

// AddForeign adds what somebody else owns: lines as in a restore file, without
// the table and COMMIT.
func (f *Fake) AddForeign(family Family, t Table, lines ...string) error {
	return f.RestoreText(family, "*"+string(t)+"\n"+strings.Join(lines, "\n")+"\nCOMMIT\n")
}

func (f *Fake) tamper(family Family, t Table, change func(*fakeTable)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	table := f.kernel[family][t].clone()
	change(&table)
	table.count()
	f.kernel[family][t] = table
}
