package xt

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A fakeTable is one table of a [Fake]. Slices of rules are shared between
// copies and never written to.
type fakeTable struct {
	chains map[string][]fakeRule
	refs   map[string]int // how many rules jump to a chain
}

type fakeRule struct {
	text string // without -A and the chain
	jump string // the chain it jumps to, or empty
	sets []string
	only []string
	what string // the target that is possible only in the built-in chains of only
}

func newFakeTable(t Table) fakeTable {
	table := fakeTable{chains: map[string][]fakeRule{}, refs: map[string]int{}}
	for _, name := range builtins(t) {
		table.chains[name] = nil
	}
	return table
}

func (t fakeTable) clone() fakeTable {
	return fakeTable{chains: maps.Clone(t.chains), refs: maps.Clone(t.refs)}
}

// count makes refs true again.
func (t fakeTable) count() {
	clear(t.refs)
	for _, rules := range t.chains {
		for _, r := range rules {
			if r.jump != "" {
				t.refs[r.jump]++
			}
		}
	}
}

// save prints t as iptables-save does.
func (t fakeTable) save(f Family, name Table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", name)
	names := slices.Sorted(maps.Keys(t.chains))
	for _, n := range names {
		policy := "-"
		if slices.Contains(builtins(name), n) {
			policy = "ACCEPT"
		}
		fmt.Fprintf(&b, ":%s %s [0:0]\n", n, policy)
	}
	for _, n := range names {
		for _, r := range t.chains[n] {
			fmt.Fprintf(&b, "-A %s %s\n", n, printed(f, r.text))
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// printed returns the text of a rule as the tools print it, who add a default.
func printed(f Family, rule string) string {
	switch {
	case !strings.HasSuffix(rule, "-j REJECT"):
		return rule
	case f == IPv6:
		return rule + " --reject-with icmp6-port-unreachable"
	default:
		return rule + " --reject-with icmp-port-unreachable"
	}
}

func (t fakeTable) dump(b *strings.Builder, prefix string) {
	for _, name := range slices.Sorted(maps.Keys(t.chains)) {
		if !isBuiltin(name) {
			fmt.Fprintf(b, "%s:%s\n", prefix, name)
		}
		for _, r := range t.chains[name] {
			fmt.Fprintf(b, "%s-A %s %s\n", prefix, name, r.text)
		}
	}
}

func isBuiltin(name string) bool { return slices.Contains(builtins(Mangle), name) }

// A fakeTx is one table between its first line and COMMIT.
type fakeTx struct {
	name     Table
	table    fakeTable
	declared map[string]bool
	owned    map[string]bool // chains whose rules nobody else sees
	options  map[string]int
	hasSet   func(string) bool
	stats    FakeStats
}

func newFakeTx(name Table, t fakeTable, hasSet func(string) bool) *fakeTx {
	return &fakeTx{
		name: name, table: t.clone(), options: fakeOptions(), hasSet: hasSet,
		declared: map[string]bool{}, owned: map[string]bool{},
	}
}

func (x *fakeTx) line(line string) error {
	if name, ok := strings.CutPrefix(line, ":"); ok {
		return x.declare(name)
	}
	op, rest, _ := strings.Cut(line, " ")
	chain, rule, _ := strings.Cut(rest, " ")
	switch op {
	case "-N":
		return x.declare(chain + " - [0:0]")
	case "-X":
		return x.delete(chain)
	case "-D":
		return x.remove(chain, rule)
	case "-A", "-I":
		return x.add(op, chain, rule)
	}
	return fmt.Errorf("unknown command %q", op)
}

// add takes the rest of -A, or of -I at the head.
func (x *fakeTx) add(op, chain, rule string) error {
	if _, ok := x.table.chains[chain]; !ok {
		return fmt.Errorf("no chain %s", chain)
	}
	at := len(x.table.chains[chain])
	if op == "-I" {
		at = 0
		rule = strings.TrimPrefix(rule, "1 ")
	}
	if !x.owned[chain] {
		x.owned[chain] = true
		x.table.chains[chain] = slices.Clone(x.table.chains[chain])
	}
	r, err := x.parse(rule)
	if err != nil {
		return err
	}
	if r.jump != "" {
		x.table.refs[r.jump]++
	}
	x.stats.Rules++
	x.table.chains[chain] = slices.Insert(x.table.chains[chain], at, r)
	return nil
}

// declare takes "NAME - [0:0]": it creates or flushes the chain.
func (x *fakeTx) declare(line string) error {
	name, rest, _ := strings.Cut(line, " ")
	switch {
	case isBuiltin(name):
		return fmt.Errorf("%s is built in, and its policy nobody's business", name)
	case len(name) > MaxChainName || name == "":
		return fmt.Errorf("invalid chain name %q (%d chars max)", name, MaxChainName)
	case rest != "- [0:0]":
		return fmt.Errorf("malformed declaration of %q", name)
	case x.declared[name]:
		return fmt.Errorf("chain %s is declared twice", name)
	}
	x.declared[name] = true
	for _, r := range x.table.chains[name] {
		x.unref(r)
	}
	x.table.chains[name] = nil
	x.stats.Chains++
	return nil
}

func (x *fakeTx) unref(r fakeRule) {
	if r.jump != "" {
		x.table.refs[r.jump]--
	}
}

func (x *fakeTx) delete(name string) error {
	rules, ok := x.table.chains[name]
	switch {
	case !ok || isBuiltin(name):
		return fmt.Errorf("no chain %s to delete", name)
	case len(rules) > 0:
		return fmt.Errorf("chain %s is not empty", name)
	case x.table.refs[name] > 0:
		return fmt.Errorf("chain %s is still referred to", name)
	}
	delete(x.table.chains, name)
	x.stats.Chains-- // the declaration that empties it is not a write
	x.stats.Deleted++
	return nil
}

func (x *fakeTx) remove(chain, rule string) error {
	words := splitWords(rule)
	rules := x.table.chains[chain]
	i := slices.IndexFunc(rules, func(r fakeRule) bool { return slices.Equal(splitWords(r.text), words) })
	if i < 0 {
		return errors.New("no such rule")
	}
	x.unref(rules[i])
	x.table.chains[chain] = slices.Delete(slices.Clone(rules), i, i+1)
	return nil
}

// fakeOptions are the options the fake knows, with the number of values each
// takes. "-m" and "-j" are looked at in detail.
func fakeOptions() map[string]int {
	return map[string]int{
		"!": 0, "-s": 1, "-d": 1, "-i": 1, "-o": 1, "-p": 1, "-m": 1, "-j": 1, "-g": 1,
		"--dport": 1, "--ctstate": 1, "--ctdir": 1, "--src-type": 1, "--dst-type": 1, "--mark": 1, "--mode": 1,
		"--probability": 1, "--rcheck": 0, "--update": 0, "--bytecode": 1, "--seconds": 1, "--reap": 0, "--set": 0, "--name": 1,
		"--rsource": 0, "--comment": 1, "--to-destination": 1, "--set-xmark": 1, "--random-fully": 0,
		"--match-set": 2, "--ipvs": 0, "--to": 1, "--tcp-flags": 2, "--reject-with": 1,
		"--transparent": 0, "--on-port": 1, "--on-ip": 1, "--tproxy-mark": 1,
	}
}

func (x *fakeTx) parse(text string) (fakeRule, error) {
	r := fakeRule{text: text}
	seen := map[string]string{}
	words := splitWords(text)
	for i := 0; i < len(words); i++ {
		opt := words[i]
		n, ok := x.options[opt]
		if !ok || i+n >= len(words) {
			return r, fmt.Errorf("unknown option or missing value: %q", opt)
		}
		value := ""
		if n > 0 {
			value = strings.Join(words[i+1:i+1+n], " ")
			i += n
		}
		if err := x.option(&r, opt, value, seen); err != nil {
			return r, err
		}
		seen[opt] = value
	}
	_, mapped := seen["--to"]
	switch {
	case r.what == "DNAT" && seen["-p"] == "" && hasPort(seen["--to-destination"]):
		return r, errors.New("DNAT needs TCP, UDP, SCTP or DCCP with port specification")
	case r.what == "NETMAP" && !mapped:
		return r, errors.New("NETMAP without --to")
	case r.what == "TPROXY" && seen["-p"] != "tcp" && seen["-p"] != "udp":
		return r, errors.New("TPROXY needs TCP or UDP")
	case r.what == "TPROXY" && seen["--on-port"] == "":
		return r, errors.New("TPROXY without --on-port")
	}
	return r, nil
}

func hasPort(destination string) bool {
	_, err := netip.ParseAddr(destination)
	return err != nil
}

func (x *fakeTx) option(r *fakeRule, opt, value string, seen map[string]string) error {
	switch opt {
	case "-s", "-d", "-i", "-o", "-p", "-j", "-g":
		if _, twice := seen[opt]; twice {
			return fmt.Errorf("multiple %s flags not allowed", opt)
		}
	case "-m":
		modules := []string{"tcp", "udp", "sctp", "conntrack", "addrtype", "mark", "statistic", "recent", "bpf", "set", "ipvs", "socket", "connmark", "comment"}
		if !slices.Contains(modules, value) {
			return fmt.Errorf("no match %q", value)
		}
	case "--dport":
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, seen["-p"]) || seen["-m"] != seen["-p"] {
			return errors.New("--dport without -p and -m of a protocol that has ports")
		}
	case "--tcp-flags":
		if seen["-p"] != "tcp" {
			return errors.New("--tcp-flags without -p tcp")
		}
	case "--transparent": // the match is registered for hooks where there are sockets of packets that arrive
		return r.limit(x.name, x.name, "socket", "PREROUTING", "INPUT")
	case "--match-set":
		name, _, _ := strings.Cut(value, " ")
		if x.hasSet != nil && !x.hasSet(name) {
			return fmt.Errorf("set %s doesn't exist", name)
		}
		r.sets = append(r.sets, name)
	case "--comment":
		if len(value) > maxComment {
			return errors.New("comment is too long")
		}
	}
	if opt == "-j" || opt == "-g" {
		return x.target(r, opt, value)
	}
	return nil
}

func (x *fakeTx) target(r *fakeRule, opt, name string) error {
	if opt == "-j" {
		switch name {
		case "ACCEPT", "RETURN", "MARK", "CONNMARK":
			return nil
		case "DROP":
			if x.name == NAT {
				return errors.New("the nat table is not intended for filtering, the use of DROP is therefore inhibited")
			}
			return nil
		case "REJECT":
			return r.limit(x.name, Filter, name, "INPUT", "FORWARD", "OUTPUT")
		case "DNAT":
			return r.limit(x.name, NAT, name, "PREROUTING", "OUTPUT")
		case "NETMAP": // the kernel takes it after routing too, where it is a mistake: see NetMap
			return r.limit(x.name, NAT, name, "PREROUTING", "OUTPUT")
		case "MASQUERADE":
			return r.limit(x.name, NAT, name, "POSTROUTING")
		case "TPROXY":
			return r.limit(x.name, Mangle, name, "PREROUTING")
		}
	}
	if _, ok := x.table.chains[name]; !ok || isBuiltin(name) {
		return fmt.Errorf("no target or chain %q", name)
	}
	r.jump = name
	return nil
}

func (r *fakeRule) limit(got, want Table, target string, chains ...string) error {
	r.what, r.only = target, chains
	return only(want, got, target)
}

// check does what the kernel does at COMMIT: it follows all rules from each
// built-in chain.
func (x *fakeTx) check() error {
	for _, builtin := range builtins(x.name) {
		w := fakeWalk{table: x.table, builtin: builtin, depth: map[string]int{}}
		depth, err := w.visit(builtin)
		if err != nil {
			return err
		}
		if depth > MaxDepth {
			return fmt.Errorf("%s: chains nest %d deep: too many links", builtin, depth)
		}
	}
	return nil
}

type fakeWalk struct {
	table   fakeTable
	builtin string
	depth   map[string]int // -1 while being looked at
}

func (w *fakeWalk) visit(chain string) (int, error) {
	if n, ok := w.depth[chain]; ok {
		if n < 0 {
			return 0, fmt.Errorf("%s: chain %s is in a loop: too many links", w.builtin, chain)
		}
		return n, nil
	}
	w.depth[chain] = -1
	deepest := 0
	for _, r := range w.table.chains[chain] {
		if r.only != nil && !slices.Contains(r.only, w.builtin) {
			return 0, fmt.Errorf("%s in chain %s can be reached from %s: invalid argument", r.what, chain, w.builtin)
		}
		if r.jump == "" {
			continue
		}
		n, err := w.visit(r.jump)
		if err != nil {
			return 0, err
		}
		deepest = max(deepest, n)
	}
	w.depth[chain] = deepest + 1
	return deepest + 1, nil
}
