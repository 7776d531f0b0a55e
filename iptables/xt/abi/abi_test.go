package abi_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

// child says that the process has a network namespace of its own.
const child = "XT_ABI_CHILD"

// TestAsTheTools has the tools write a rule of each kind, and compares what the kernel
// then has with what is encoded. With FAIRLEAD_E2E_REQUIRE nothing but a module that
// the kernel does not have excuses a kind.
func TestAsTheTools(t *testing.T) {
	if os.Getenv(child) == "" {
		inNamespace(t)
		return
	}
	for _, f := range []xt.Family{xt.IPv4, xt.IPv6} {
		family := map[xt.Family]string{xt.IPv4: "inet", xt.IPv6: "inet6"}[f]
		if out, err := exec.Command("ipset", "create", setName(f), "hash:ip,port,ip", "family", family).CombinedOutput(); err != nil {
			lack(t, "ipset: %v: %s", err, out)
		}
		t.Run(f.String()+" legacy", func(t *testing.T) { compare(t, f, true) })
		t.Run(f.String()+" nft", func(t *testing.T) { compare(t, f, false) })
	}
}

// lack skips a test that cannot be without something, or fails it where that is required.
func lack(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FAIRLEAD_E2E_REQUIRE") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func inNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		lack(t, "not root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1", "XTABLES_LOCKFILE="+t.TempDir()+"/xtables.lock")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		lack(t, "this kernel gives us no network namespace: %v", err)
	case err != nil:
		t.Errorf("in a network namespace: %v\n%s", err, out)
	default:
		t.Logf("%s", out)
	}
}

// tool returns the tools of one variant and family.
func tool(t *testing.T, f xt.Family, legacy bool) *xt.Exec {
	t.Helper()
	name := map[xt.Family]string{xt.IPv4: "iptables", xt.IPv6: "ip6tables"}[f] + map[bool]string{true: "-legacy", false: "-nft"}[legacy]
	paths := xt.Paths{Iptables: name, Save: name + "-save", Restore: name + "-restore"}
	if _, err := exec.LookPath(paths.Restore); err != nil {
		lack(t, "%v", err)
	}
	return xt.NewExec(xt.ExecConfig{IPv4: paths, IPv6: paths, Legacy: legacy})
}

const chain = "FL-SAMPLE"

// load has the tools write one rule.
func load(t *testing.T, run *xt.Exec, f xt.Family, s sample) error {
	return run.Restore(t.Context(), &xt.Restore{Family: f, Tables: []xt.TableRestore{{
		Table: s.table, Write: []xt.Chain{{Name: chain, Rules: []xt.Rule{s.rule}}, {Name: "FL-OTHER"}},
	}}})
}

func compare(t *testing.T, f xt.Family, legacy bool) {
	run := tool(t, f, legacy)
	read := map[string]int{}
	sets := func(name string) (uint16, error) {
		if read[name]++; read[name] == 0 {
			return 0, errors.New("never")
		}
		return setIndex(t, name), nil
	}
	for i, s := range samples(f) {
		t.Run(fmt.Sprint(i, " ", s.name), func(t *testing.T) {
			if err := load(t, run, f, s); err != nil {
				if s.needs != "" {
					t.Skipf("the kernel has no %s: %v", s.needs, err)
				}
				t.Fatal(err)
			}
			want, err := abi.Encode(f, &s.rule, sets)
			if err != nil {
				t.Fatal(err)
			}
			opt := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}
			if !legacy {
				got := nftBlobs(t, f, s.table, chain)
				if d := cmp.Diff(got, [][]abi.Info{compat(want)}, opt); d != "" {
					t.Errorf("the kernel has (-), encoded (+):\n%s", d)
				}
				return
			}
			got := legacyRules(t, f, s.table, chain)
			if d := cmp.Diff(got, []abi.Rule{want}, opt); d != "" {
				t.Errorf("the kernel has (-), encoded (+):\n%s", d)
			}
		})
	}
}

// compat is what of r the nft variant leaves to the modules of iptables.
func compat(r abi.Rule) (out []abi.Info) {
	for _, m := range r.Matches {
		if !strings.Contains("tcp udp mark", m.Name) {
			out = append(out, m)
		}
	}
	if r.Verdict == abi.Call {
		out = append(out, r.Target)
	}
	return out
}

// TestNotEncodable: what is not known is not guessed at.
func TestNotEncodable(t *testing.T) {
	rule := xt.Rule{Match: []xt.Match{xt.InSet{Set: "S", Dirs: "dst"}}}
	if _, err := abi.Encode(xt.IPv4, &rule, nil); !errors.Is(err, abi.ErrNotEncodable) {
		t.Errorf("a set without anybody to ask: got %v, want %v", err, abi.ErrNotEncodable)
	}
	gone := errors.New("gone")
	if _, err := abi.Encode(xt.IPv4, &rule, func(string) (uint16, error) { return 0, gone }); !errors.Is(err, gone) {
		t.Errorf("a set that does not exist: got %v, want %v", err, gone)
	}
	rule = xt.Rule{Match: []xt.Match{xt.SrcType{Type: 7}}}
	if _, err := abi.Encode(xt.IPv4, &rule, nil); !errors.Is(err, abi.ErrNotEncodable) {
		t.Errorf("an address type that nobody knows: got %v, want %v", err, abi.ErrNotEncodable)
	}
}
