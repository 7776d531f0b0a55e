package xt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// inNamespace has the calling test run in a child process with a network
// namespace of its own; in the child it returns true. Without root the child
// gets a user namespace as well.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("XT_TEST_CHILD") != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "XT_TEST_CHILD=1", "XTABLES_LOCKFILE="+t.TempDir()+"/xtables.lock")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS):
		t.Skipf("this kernel gives us no network namespace: %v", err)
	case err != nil:
		t.Errorf("in a network namespace: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("in a network namespace:\n%s", out)
	}
	return false
}

// eachVariant runs f with the tools of both variants, where installed.
func eachVariant(t *testing.T, f func(t *testing.T, e *Exec, variant string)) {
	t.Helper()
	if !inNamespace(t) {
		return
	}
	found := false
	for _, variant := range []string{"nft", "legacy"} {
		cfg := ExecConfig{Legacy: variant == "legacy", Tables: []Table{NAT, Filter, Mangle}}
		ok := true
		for name, p := range map[string]*Paths{"iptables-": &cfg.IPv4, "ip6tables-": &cfg.IPv6} {
			for suffix, path := range map[string]*string{"": &p.Iptables, "-save": &p.Save, "-restore": &p.Restore} {
				full, err := exec.LookPath(name + variant + suffix)
				ok = ok && err == nil
				*path = full
			}
		}
		if !ok {
			t.Logf("the %s tools are not installed", variant)
			continue
		}
		found = true
		t.Run(variant, func(t *testing.T) { f(t, NewExec(cfg), variant) })
	}
	if !found {
		t.Skip("no iptables tools are installed")
	}
}

func mustSave(t *testing.T, r Runner, f Family) *State {
	t.Helper()
	s, err := r.Save(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustRestore(t *testing.T, r Runner, x *Restore) {
	t.Helper()
	if err := r.Restore(t.Context(), x); err != nil {
		t.Fatal(err)
	}
}

func counts(r *Ruleset) map[ChainRef]int {
	n := map[ChainRef]int{}
	for ref, rules := range r.Chains {
		n[ref] = len(rules)
	}
	return n
}

func trustAll(string) bool { return true }

// checkRoundTrip puts want in force, starting from nothing, and takes it away.
func checkRoundTrip(t *testing.T, r Runner, want *Ruleset) {
	t.Helper()
	f := want.Family
	before := r.Fingerprint(f)
	mustRestore(t, r, Diff(nil, want, nil))
	after := r.Fingerprint(f)
	saved := mustSave(t, r, f)
	if again := r.Fingerprint(f); after == before || after != again || after == "" {
		t.Errorf("%v fingerprints: %q before, %q after, %q after a look", f, before, after, again)
	}
	got := map[ChainRef]int{}
	for ref, c := range saved.Chains {
		got[ref] = c.Rules
	}
	if d := cmp.Diff(got, counts(want)); d != "" {
		t.Errorf("%v chains, got-want+:\n%s", f, d)
	}
	hooks := map[Hook]int{}
	for _, h := range want.Hooks {
		hooks[h] = 1
	}
	if d := cmp.Diff(saved.Hooks, hooks); d != "" {
		t.Errorf("%v hooks, got-want+:\n%s", f, d)
	}
	if d := Diff(saved, want, trustAll); !d.Empty() {
		t.Errorf("%v: difference right after a restore: %+v", f, d)
	}
	if ok, err := r.Probe(t.Context(), f, want.Hooks, counts(want)); !ok || err != nil {
		t.Errorf("%v: probe is %v, %v", f, ok, err)
	}
	mustRestore(t, r, Diff(saved, want, nil)) // all chains again
	if d := cmp.Diff(mustSave(t, r, f), saved); d != "" {
		t.Errorf("%v: the same restore changed:\n%s", f, d)
	}
	mustRestore(t, r, Diff(saved, &Ruleset{Family: f}, nil))
	if gone := r.Fingerprint(f); gone == after {
		t.Errorf("%v fingerprint: %q with and without rules", f, gone)
	}
	if d := cmp.Diff(mustSave(t, r, f), &newSaveReader().state); d != "" {
		t.Errorf("%v: left behind:\n%s", f, d)
	}
}

func TestExecRoundTrip(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		for _, f := range []Family{IPv4, IPv6} {
			if err := e.Test(t.Context(), Diff(nil, everything(f), nil)); err != nil {
				t.Errorf("--test: %v", err)
			}
			checkRoundTrip(t, e, everything(f))
		}
	})
}

func TestFakeRoundTrip(t *testing.T) {
	f := NewFake()
	for _, family := range []Family{IPv4, IPv6} {
		checkRoundTrip(t, f, everything(family))
	}
	if d := f.Dump(); d != "" {
		t.Errorf("left behind:\n%s", d)
	}
}

// refusals are restores both the kernel and the fake must refuse, after setup.
// Each is written as text, because a Restore would not even be printed.
func refusals() []struct{ name, setup, text string } {
	nat := func(lines ...string) string { return "*nat\n" + strings.Join(lines, "\n") + "\nCOMMIT\n" }
	filter := func(lines ...string) string { return "*filter\n" + strings.Join(lines, "\n") + "\nCOMMIT\n" }
	deep := []string{}
	for i := range MaxDepth {
		deep = append(deep, fmt.Sprintf(":FL-%d - [0:0]", i))
	}
	for i := range MaxDepth - 1 {
		deep = append(deep, fmt.Sprintf("-A FL-%d -j FL-%d", i, i+1))
	}
	return []struct{ name, setup, text string }{
		{"jump to nowhere", "", nat(":FL-A - [0:0]", "-A FL-A -j FL-NOPE")},
		{"goto nowhere", "", nat(":FL-A - [0:0]", "-A FL-A -g FL-NOPE")},
		{"append to nowhere", "", nat("-A FL-NOPE -j ACCEPT")},
		{"unknown match", "", nat(":FL-A - [0:0]", "-A FL-A -m nosuch -j ACCEPT")},
		{"unknown option", "", nat(":FL-A - [0:0]", "-A FL-A --nosuch -j ACCEPT")},
		{"long name", "", nat(":FL-3456789012345678901234567 - [0:0]", ":FL-345678901234567890123456789 - [0:0]")},
		{"delete what is not there", "", nat("-X FL-NOPE")},
		{"delete what is referred to", "", nat(":FL-A - [0:0]", ":FL-B - [0:0]", "-A FL-A -j FL-B", "-X FL-B")},
		{"delete what was referred to before", nat(":FL-A - [0:0]", ":FL-B - [0:0]", "-A FL-A -j FL-B"), nat(":FL-B - [0:0]", "-X FL-B")},
		{"remove a hook that is not there", nat(":FL-A - [0:0]"), nat("-D OUTPUT -m comment --comment fairlead -j FL-A")},
		{"remove a hook twice", nat(":FL-A - [0:0]", "-I OUTPUT 1 -j FL-A"), nat("-D OUTPUT -j FL-A", "-D OUTPUT -j FL-A")},
		{"drop in nat", "", nat(":FL-A - [0:0]", "-A FL-A -j DROP")},
		{"reject in nat", "", nat(":FL-A - [0:0]", "-A FL-A -j REJECT")},
		{"dnat in filter", "", filter(":FL-A - [0:0]", "-A FL-A -p tcp -j DNAT --to-destination 10.0.0.1:80")},
		{"dnat without protocol", "", nat(":FL-A - [0:0]", "-A FL-A -j DNAT --to-destination 10.0.0.1:80")},
		{"dnat after routing", "", nat(":FL-A - [0:0]", "-A FL-A -p tcp -j DNAT --to-destination 10.0.0.1:80", "-I POSTROUTING 1 -j FL-A")},
		{"masquerade before routing", "", nat(":FL-A - [0:0]", ":FL-B - [0:0]", "-A FL-A -j FL-B", "-A FL-B -j MASQUERADE", "-I PREROUTING 1 -j FL-A")},
		{"set that does not exist", "", nat(":FL-A - [0:0]", "-A FL-A -m set --match-set FL4-NOPE dst,dst -j ACCEPT")},
		{"set without direction", "", nat(":FL-A - [0:0]", "-A FL-A -m set --match-set FL4-NOPE")},
		{"netmap without network", "", nat(":FL-A - [0:0]", "-A FL-A -j NETMAP")},
		{"netmap in mangle", "", "*mangle\n:FL-A - [0:0]\n-A FL-A -j NETMAP --to 240.0.0.0/4\n-I PREROUTING 1 -j FL-A\nCOMMIT\n"},
		{"reject in mangle", "", "*mangle\n:FL-A - [0:0]\n-A FL-A -j REJECT\n-I PREROUTING 1 -j FL-A\nCOMMIT\n"},
		{"masquerade in mangle", "", "*mangle\n:FL-A - [0:0]\n-A FL-A -j MASQUERADE\n-I POSTROUTING 1 -j FL-A\nCOMMIT\n"},
		{"dnat to an address after routing", "", nat(":FL-A - [0:0]", "-A FL-A -j DNAT --to-destination 10.0.0.1", "-I POSTROUTING 1 -j FL-A")},
		{"loop", "", nat(":FL-A - [0:0]", ":FL-B - [0:0]", "-A FL-A -j FL-B", "-A FL-B -g FL-A", "-I OUTPUT 1 -j FL-A")},
		{"port without protocol", "", nat(":FL-A - [0:0]", "-A FL-A --dport 80 -j ACCEPT")},
		{"two sources", "", nat(":FL-A - [0:0]", "-A FL-A -s 10.0.0.1/32 -s 10.0.0.2/32")},
		{"comment without end", "", nat(":FL-A - [0:0]", "-A FL-A -m comment --comment")},
		{"too deep for nft", "", nat(append(deep, "-I OUTPUT 1 -j FL-0")...)},
	}
}

// TestParity holds the fake to the tools: all refuse the same, and the table
// stays as it was.
func TestParity(t *testing.T) {
	for _, c := range refusals() {
		f := NewFake()
		f.HasSet = func(string) bool { return false }
		if err := f.RestoreText(IPv4, c.setup); err != nil {
			t.Errorf("%s: fake refused the setup: %v", c.name, err)
		}
		before := f.Dump()
		if f.RestoreText(IPv4, c.text) == nil {
			t.Errorf("%s: the fake put up with it", c.name)
		}
		if d := cmp.Diff(f.Dump(), before); d != "" {
			t.Errorf("%s: the fake changed:\n%s", c.name, d)
		}
	}
	eachVariant(t, func(t *testing.T, e *Exec, variant string) {
		for _, c := range refusals() {
			if variant == "legacy" && c.name == "too deep for nft" {
				continue
			}
			if stderr, err := e.raw(t.Context(), c.setup); err != nil {
				t.Errorf("%s: setup: %v %s", c.name, err, stderr)
			}
			before := mustSave(t, e, IPv4)
			stderr, err := e.raw(t.Context(), c.text)
			if err == nil {
				t.Errorf("%s: the tool put up with it: %s", c.name, stderr)
			}
			after := mustSave(t, e, IPv4)
			if d := cmp.Diff(after, before); d != "" {
				t.Errorf("%s: changed:\n%s", c.name, d)
			}
			mustRestore(t, e, Diff(after, &Ruleset{}, nil))
		}
	})
}

// raw feeds text to the tool as it is.
func (e *Exec) raw(ctx context.Context, text string) (string, error) {
	c := command{path: e.cfg.IPv4.Restore, args: []string{"-w", "5", "--noflush"}, write: func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}}
	return c.run(ctx)
}

// TestRestoreError checks that the offending line is found and quoted.
func TestRestoreError(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, variant string) {
		chain := func(rules ...Rule) []Chain { return []Chain{{Name: "FL-A", Rules: rules}} }
		for _, c := range []struct {
			name   string
			tables []TableRestore
			line   int
			text   string
			legacy string // text, where it differs
		}{
			{"nowhere", []TableRestore{{Table: NAT, Write: chain(Rule{Target: Return{}}, Rule{Target: Jump{"FL-NOPE"}})}}, 4, "-A FL-A -j FL-NOPE", ""},
			{"second table", []TableRestore{
				{Table: Filter, Write: chain(Rule{Target: Return{}})},
				{Table: NAT, Write: chain(Rule{Target: Goto{"FL-NOPE"}})}}, 7, "-A FL-A -g FL-NOPE", ""},
			{"kernel", []TableRestore{{Table: NAT, Write: chain(Rule{Target: Masquerade{}}), AddHooks: []Hook{{NAT, "OUTPUT", "FL-A"}}}},
				4, "-I OUTPUT 1 -m comment --comment fairlead -j FL-A", "COMMIT of *nat"},
			{"hook", []TableRestore{{Table: NAT, Write: chain(), DelHooks: []Hook{{NAT, "OUTPUT", "FL-A"}}}},
				3, "-D OUTPUT -m comment --comment fairlead -j FL-A", ""},
		} {
			err := e.Restore(t.Context(), &Restore{Tables: c.tables})
			re, ok := errors.AsType[*RestoreError](err)
			if !ok {
				t.Errorf("%s: got %v", c.name, err)
				continue
			}
			if variant == "legacy" && c.legacy != "" {
				c.text, c.line = c.legacy, c.line+1
			}
			if re.Line != c.line || re.Text != c.text || re.Busy || re.Stderr == "" {
				t.Errorf("%s: got %+v\nwant line %d %q", c.name, re, c.line, c.text)
			}
		}
		if s := mustSave(t, e, IPv4); len(s.Chains) != 1 || s.Chains[ChainRef{Filter, "FL-A"}].Rules != 1 {
			t.Errorf("only the first table should be committed: %v", s.Chains)
		}
	})
}

// TestRepair breaks what is in force in many ways and has Diff mend it, for
// the tools and the fake alike.
func TestRepair(t *testing.T) {
	f := NewFake()
	t.Run("fake", func(t *testing.T) {
		checkRepair(t, f, func(text string) error { return f.RestoreText(IPv4, text) })
	})
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		checkRepair(t, e, func(text string) error {
			_, err := e.raw(t.Context(), text)
			return err
		})
	})
}

func checkRepair(t *testing.T, r Runner, raw func(string) error) {
	t.Helper()
	want := natRules()
	mustRestore(t, r, Diff(nil, want, nil))
	healthy := mustSave(t, r, IPv4)
	for _, c := range []struct{ name, text string }{
		{"rule removed", "*nat\n-D FL-E-1 -p tcp -j DNAT --to-destination 10.244.1.1:8080\nCOMMIT\n"},
		{"rule added", "*nat\n-A FL-MARK -j RETURN\nCOMMIT\n"},
		{"hook twice", "*nat\n-I OUTPUT 1 -m comment --comment fairlead -j FL-SERVICES\nCOMMIT\n"},
		{"hook gone", "*filter\n-D FORWARD -m comment --comment fairlead -j FL-FILTER\nCOMMIT\n"},
		{"strange hook", "*nat\n:FL-OLD - [0:0]\n-I PREROUTING 1 -m comment --comment fairlead -j FL-OLD\nCOMMIT\n"},
		{"stray rule", "*nat\n:FL-OLD - [0:0]\n:OTHER - [0:0]\n-A OTHER -s 10.0.0.0/8 -m comment --comment \"not -j \\\"ours\\\"\" -j FL-OLD\n-A OTHER -j ACCEPT\nCOMMIT\n"},
		{"chain unknown", "*filter\n:FL-OLD - [0:0]\n:FL-OLDER - [0:0]\n-A FL-OLD -j FL-OLDER\nCOMMIT\n"},
	} {
		if err := raw(c.text); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		broken := mustSave(t, r, IPv4)
		if cmp.Equal(broken, healthy) {
			t.Errorf("%s: not noticed", c.name)
		}
		if err := r.Restore(t.Context(), Diff(broken, want, trustAll)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(mustSave(t, r, IPv4), healthy); d != "" {
			t.Errorf("%s: not mended, got-want+:\n%s", c.name, d)
		}
		if ok, err := r.Probe(t.Context(), IPv4, want.Hooks, counts(want)); !ok || err != nil {
			t.Errorf("%s: probe after mending: %v, %v", c.name, ok, err)
		}
	}
	checkProbe(t, r, raw)
	mustRestore(t, r, Diff(mustSave(t, r, IPv4), &Ruleset{}, nil))
}

// checkProbe: what Probe is asked about and is not so.
func checkProbe(t *testing.T, r Runner, raw func(string) error) {
	t.Helper()
	ask := func(name string, want bool, hooks []Hook, chains map[ChainRef]int) {
		t.Helper()
		if got, err := r.Probe(t.Context(), IPv4, hooks, chains); got != want || err != nil {
			t.Errorf("probe, %s: got %v, %v", name, got, err)
		}
	}
	hook := Hook{NAT, "OUTPUT", "FL-SERVICES"}
	ask("hook present", true, []Hook{hook}, nil)
	ask("no such chain", false, nil, map[ChainRef]int{{NAT, "FL-NOPE"}: 0})
	ask("wrong count", false, nil, map[ChainRef]int{{NAT, "FL-POOL"}: 4})
	ask("no such hook", false, []Hook{{NAT, "INPUT", "FL-SERVICES"}}, nil)
	if err := raw("*nat\n-I OUTPUT 1 " + hook.args() + "\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	ask("hook twice", false, []Hook{hook}, nil)
}

// TestLockWait holds the xtables lock while a restore is due.
func TestLockWait(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, variant string) {
		var waits []time.Duration
		cfg := e.cfg
		cfg.LockWait = 200 * time.Millisecond
		cfg.OnWait = func(d time.Duration) { waits = append(waits, d) }
		e = NewExec(cfg)
		lock, err := os.OpenFile(lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		change := &Restore{Tables: []TableRestore{{Table: NAT, Write: []Chain{{Name: "FL-A"}}}}}
		err = e.Restore(t.Context(), change)
		if variant == "nft" {
			if err != nil || len(waits) > 0 {
				t.Errorf("the nft variant takes no lock: %v, waited %v", err, waits)
			}
			return
		}
		re, ok := errors.AsType[*RestoreError](err)
		if !ok || !re.Busy || len(waits) != 1 || waits[0] < cfg.LockWait {
			t.Errorf("lock held: got %v after %v", err, waits)
		} else if self := fmt.Sprintf("held by process %d (", os.Getpid()); !strings.Contains(err.Error(), self) {
			t.Errorf("got %v\nwant %q in it", err, self)
		}
		cfg.LockWait = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := NewExec(cfg).Restore(ctx, change); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = lock.Close() })
		waits = nil
		if err := NewExec(cfg).Restore(t.Context(), change); err != nil || len(waits) != 1 || waits[0] < 30*time.Millisecond {
			t.Errorf("lock released: %v after %v", err, waits)
		}
	})
}

// TestCancelKills runs a tool that never ends.
func TestCancelKills(t *testing.T) {
	script := filepath.Join(t.TempDir(), "restore")
	pidFile := script + ".pid"
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho $$ > "+pidFile+".new\nmv "+pidFile+".new "+pidFile+"\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := NewExec(ExecConfig{IPv4: Paths{Restore: script, Save: script}})
	change := &Restore{Tables: []TableRestore{{Table: NAT, Write: []Chain{{Name: "FL-A", Rules: make([]Rule, 100_000)}}}}}
	small := &Restore{Tables: []TableRestore{{Table: NAT, Delete: []string{"FL-A"}}}}
	for name, call := range map[string]func(context.Context) error{
		"restore":       func(ctx context.Context) error { return e.Restore(ctx, change) },
		"small restore": func(ctx context.Context) error { return e.Restore(ctx, small) },
		"save": func(ctx context.Context) error {
			_, err := e.Save(ctx, IPv4)
			return err
		},
	} {
		_ = os.Remove(pidFile)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		var pid []byte
		for len(pid) == 0 {
			pid, _ = os.ReadFile(pidFile)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
			t.Errorf("%s: the process is still there", name)
		}
	}
}
